//! The HTTP client of threads that may block.

use std::path::Path;
use std::time::Duration;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// A client that follows no redirect and takes any status for an answer. Servers by TLS have to have a certificate of one of
/// those in the file `ca`, in PEM, or else of the public ones.
///
/// # Errors
/// When the file has no certificate.
pub fn agent(timeout: Duration, ca: Option<&Path>) -> Result<ureq::Agent, String> {
    let roots = match ca {
        None => RootCerts::WebPki,
        Some(path) => {
            let bad = |problem: String| format!("{}: {problem}", path.display());
            let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
            let items: Result<Vec<_>, _> = parse_pem(&pem).collect();
            let items = items.map_err(|error| bad(error.to_string()))?;
            let certificates: Vec<_> = items
                .into_iter()
                .filter_map(|item| match item {
                    PemItem::Certificate(certificate) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(bad("no certificate in PEM".into()));
            }
            RootCerts::new_with_certs(&certificates)
        }
    };
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("tickmesh/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build();
    Ok(config.new_agent())
}
