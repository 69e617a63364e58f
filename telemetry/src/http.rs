//! HTTP requests to servers outside the cluster: collectors of traces, receivers of webhooks.
//!
//! Invariants: no redirect is followed; a server by TLS is trusted by the configured authorities alone. It must not know what
//! is sent.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Whom requests trust and how long they take. It may go from thread to thread; a client may not.
#[derive(Clone)]
pub struct Outgoing {
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// A request may take as long as `timeout`, the connection included. Servers by TLS have to have a certificate of one of
    /// the authorities in the file `ca`, in PEM, or else of a public one.
    ///
    /// # Errors
    /// When the file cannot be read or has no certificate.
    pub fn new(timeout: Duration, ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let bad = |problem: String| format!("{}: {problem}", path.display());
                let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect)
                    .map_err(|error| bad(error.to_string()))?;
                if certificates.is_empty() {
                    return Err(bad("no certificate in PEM".into()));
                }
                for certificate in certificates {
                    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(config), timeout })
    }

    /// A client for the present thread, which must have an actix runtime.
    #[must_use]
    pub fn client(&self) -> awc::Client {
        let connector = awc::Connector::new().rustls_0_23(self.tls.clone()).timeout(self.timeout);
        awc::Client::builder()
            .connector(connector)
            .timeout(self.timeout)
            .disable_redirects()
            .add_default_header(("User-Agent", concat!("tickmesh/", env!("CARGO_PKG_VERSION"))))
            .finish()
    }
}
