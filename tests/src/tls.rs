//! A certificate authority for tests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, crypto};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority, and a directory with what it made.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, with `ca.pem`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let made = || {
            let directory = tempfile::tempdir()?;
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().map_err(std::io::Error::other)?;
            let issuer = CertifiedIssuer::self_signed(params, key).map_err(std::io::Error::other)?;
            std::fs::write(directory.path().join("ca.pem"), issuer.pem())?;
            std::io::Result::Ok(Self { directory, issuer })
        };
        made().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The path of a file of it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same, for an environment variable.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes `NAME.pem` and `NAME.key` of a server on this machine.
    ///
    /// # Panics
    /// When it cannot.
    pub fn issue(&self, name: &str) {
        let issue = || {
            let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) = issue().unwrap_or_else(|error: rcgen::Error| panic!("{error}"));
        replace(&self.path(&format!("{name}.pem")), &certificate);
        replace(&self.path(&format!("{name}.key")), &key);
    }

    /// A client's configuration that trusts it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn trust(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let added = roots.add(self.issuer.der().clone());
        added.unwrap_or_else(|error| panic!("{error}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap_or_else(|error| panic!("{error}"));
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// `GET` by TLS: the answer, and the certificate that the server showed.
    ///
    /// # Errors
    /// When the server is not trusted or gone.
    pub async fn get(&self, address: SocketAddr, path: &str) -> std::io::Result<(String, Vec<u8>)> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::from(address.ip());
        let mut stream = TlsConnector::from(self.trust()).connect(name, stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let shown = certificates.and_then(|all| all.first()).map(|one| one.to_vec()).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok((String::from_utf8_lossy(&answer).into_owned(), shown))
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a file whole: a reader sees the old one or the new one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
