//! TLS 1.2 and 1.3: certificates for clients, and the certificates by which a gateway knows nodes. The files are read again
//! when they change, so that a renewed certificate needs no restart; connections keep what they began with.
//!
//! Invariant: files that cannot be used never replace those that could; they are reported, and tried again.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme, crypto};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::socket::Socket;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two is set, the other is not.
    #[error("server.tls_certificate and server.tls_key go together: one of them is not set")]
    Half,
    /// A file cannot be read, or holds no such thing.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not known.
    #[error("{certificate} and {key}: {error}", certificate = certificate.display(), key = key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        error: rustls::Error,
    },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |problem: String| TlsError::File { path: path.into(), problem };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file(format!("no certificates in PEM: {error}")))?;
    if found.is_empty() { Err(file("no certificate in PEM".into())) } else { Ok(found) }
}

/// What came of files, and what they are; read again when they change.
struct Files<T> {
    paths: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, TlsError>,
    now: RwLock<T>,
}

/// By what a change is noticed: modification time and length of each file.
type Looks = Vec<Option<(SystemTime, u64)>>;

impl<T: Clone + Send + Sync + 'static> Files<T> {
    /// Reads the files, and watches them on the present runtime as long as somebody uses what is in them.
    fn watched(
        paths: Vec<PathBuf>,
        read: fn(&[PathBuf]) -> Result<T, TlsError>,
    ) -> Result<Arc<Self>, TlsError> {
        // Looked at first: what changes while it is read is read again.
        let seen = looks(&paths);
        let now = RwLock::new(read(&paths)?);
        let files = Arc::new(Self { paths, read, now });
        tokio::spawn(watch(Arc::downgrade(&files), seen));
        Ok(files)
    }

    fn get(&self) -> T {
        self.now.read().clone()
    }
}

/// A link that points elsewhere counts (Kubernetes replaces files so).
fn looks(paths: &[PathBuf]) -> Looks {
    let look = |path: &PathBuf| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    paths.iter().map(look).collect()
}

async fn watch<T: Clone + Send + Sync + 'static>(files: Weak<Files<T>>, mut seen: Looks) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(files) = files.upgrade() else { return };
        let looked = tokio::task::spawn_blocking(move || {
            let looks = looks(&files.paths);
            if looks == seen {
                return seen;
            }
            let names: Vec<_> = files.paths.iter().map(|path| path.display().to_string()).collect();
            match (files.read)(&files.paths) {
                Ok(new) => {
                    *files.now.write() = new;
                    tracing::info!(files = names.join(", "), "certificates were read again");
                    looks
                }
                Err(error) => {
                    // Perhaps one of two files is new already. As it is not noted, it is tried again.
                    tracing::error!(%error, "changed certificates cannot be used, the old ones stay");
                    seen
                }
            }
        });
        match looked.await {
            Ok(looks) => seen = looks,
            Err(_) => return,
        }
    }
}

/// The server's side.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

struct Certificate(Arc<Files<Arc<CertifiedKey>>>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.0.paths).finish()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

impl Acceptor {
    /// With a certificate chain and its key, both in PEM, which are read again when they change; `None` where neither is
    /// named. Needs a runtime.
    ///
    /// # Errors
    /// When they cannot be read, do not belong together, or one of them is missing.
    pub fn new(certificate: Option<&Path>, key: Option<&Path>) -> Result<Option<Self>, TlsError> {
        let (certificate, key) = match (certificate, key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            _ => return Err(TlsError::Half),
        };
        let files = Files::watched(vec![certificate.into(), key.into()], read_pair)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Pair { certificate: certificate.into(), key: key.into(), error })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Certificate(files)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Self(TlsAcceptor::from(Arc::new(config)))))
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When it does not speak TLS, or is gone.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Socket> {
        Ok(Socket::Tls(Box::new(TlsStream::Server(self.0.accept(stream).await?))))
    }
}

fn read_pair(paths: &[PathBuf]) -> Result<Arc<CertifiedKey>, TlsError> {
    let [certificate, key] = paths else { return Err(TlsError::Half) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::File { path: key.clone(), problem: format!("no key in PEM: {error}") })?;
    let pair = CertifiedKey::from_der(chain, private, &provider());
    pair.map(Arc::new).map_err(|error| TlsError::Pair {
        certificate: certificate.clone(),
        key: key.clone(),
        error,
    })
}

/// The side of those who connect: gateways to nodes, and what looks after a process to that.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Trusts certificates that are signed by one of those in a PEM file, for the name or address under which their owner
    /// is reached. The file is read again when it changes. Needs a runtime.
    ///
    /// # Errors
    /// When it cannot be read or holds no certificate.
    pub fn new(authorities: &Path) -> Result<Self, TlsError> {
        let files = Files::watched(vec![authorities.into()], read_authorities)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::File { path: authorities.into(), problem: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Authorities(files)))
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Trusts the first certificate of a PEM file alone, whatever name it is for: that of a process on this machine, which is
    /// reached by an address that no certificate is for.
    ///
    /// # Errors
    /// When it cannot be read or holds no certificate.
    pub fn only(certificate: &Path) -> Result<Self, TlsError> {
        let file = |problem: String| TlsError::File { path: certificate.into(), problem };
        let only = certificates(certificate)?.swap_remove(0);
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| file(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Only { certificate: only, provider: provider() }))
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Trusts the authorities that browsers trust.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn web() -> Result<Self, rustls::Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// For clients that connect by themselves.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }

    /// Shakes hands with the server that `address`, `host:port`, leads to.
    ///
    /// # Errors
    /// When its certificate is not trusted for that name, or it is gone.
    pub async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<Socket> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(self.0.clone()).connect(name, stream).await?;
        Ok(Socket::Tls(Box::new(TlsStream::Client(stream))))
    }
}

fn read_authorities(paths: &[PathBuf]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let [path] = paths else { return Err(TlsError::Half) };
    let file = |problem: String| TlsError::File { path: path.clone(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| file(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| file(error.to_string()))
}

/// The usual check of a certificate, by the authorities that the file has now.
struct Authorities(Arc<Files<Arc<WebPkiServerVerifier>>>);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorities").field(&self.0.paths).finish()
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.get().verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.get().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.get().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.get().supported_verify_schemes()
    }
}

/// One certificate, and proof of its key.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *certificate == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
