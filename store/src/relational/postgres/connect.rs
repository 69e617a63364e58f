//! New connections: their options, and TLS.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Connect;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, crypto};
use tickmesh_cluster::config::PostgresConfig;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresSetupError;

/// How soon a connection on which nothing is said is asked whether it still is one, and how often until it is given up.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Makes connections; clones share the certificates.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    /// What the URL says of the server's parameters (`options`), before ours.
    options: String,
    tls: Option<MakeRustlsConnect>,
}

/// A client, and the task that serves its connection: it ends with the client.
pub(super) type Connected = (Client, JoinHandle<()>);

impl Connector {
    pub(super) fn new(settings: &PostgresConfig, node_name: &str) -> Result<Self, PostgresSetupError> {
        // The parser's own text may quote a piece of the password, where it was not encoded.
        let parsed = settings.url.expose().parse::<Config>().map_err(|_| PostgresSetupError::Url)?;
        if parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty() {
            return Err(PostgresSetupError::Url);
        }
        let options = parsed.get_options().unwrap_or_default().to_owned();
        let tls = match (parsed.get_ssl_mode(), &settings.tls_ca) {
            (SslMode::Disable, _) => None,
            (SslMode::Require, ca) => Some(tls(ca.as_deref())?),
            (_, Some(ca)) => Some(tls(Some(ca))?),
            _ => None,
        };
        let timeout = Duration::from_millis(settings.timeout_ms);
        let mut config = parsed;
        if tls.is_some() {
            config.ssl_mode(SslMode::Require);
        }
        config
            .application_name(format!("tickmesh/{node_name}"))
            .connect_timeout(timeout)
            .tcp_user_timeout(timeout)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        // A node that vanished in the middle of a transaction must not keep its locks for longer than its calls last.
        let (statement, idle) = (settings.statement_timeout_ms, settings.timeout_ms);
        let ours = format!("-c statement_timeout={statement} -c idle_in_transaction_session_timeout={idle}");
        config.options(format!("{options} {ours}"));
        Ok(Self { config, options, tls })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// A connection whose statements may wait for locks and run for so long.
    pub(super) async fn connect_patient(&self, patience: Duration) -> Result<Connected, Error> {
        let mut config = self.config.clone();
        let millis = patience.as_millis();
        let ours = format!("-c statement_timeout={millis} -c lock_timeout={millis}");
        config.options(format!("{} {ours}", self.options));
        self.connect(&config).await
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send + '_>> {
        let config = config.clone();
        match self.tls.clone() {
            Some(tls) => Box::pin(connect(config, tls)),
            None => Box::pin(connect(config, NoTls)),
        }
    }
}

async fn connect<T>(config: Config, tls: T) -> Result<Connected, Error>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as tokio_postgres::tls::TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            let error = super::error::store_error(&error);
            tracing::warn!(%error, "a connection to postgres broke");
        }
    });
    Ok((client, task))
}

fn tls(ca: Option<&Path>) -> Result<MakeRustlsConnect, PostgresSetupError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => read_ca(path, &mut roots)
            .map_err(|problem| PostgresSetupError::Ca { path: path.to_owned(), problem })?,
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| PostgresSetupError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn read_ca(path: &Path, roots: &mut RootCertStore) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it has no certificate".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use tickmesh_cluster::config::Secret;

    use super::super::Postgres;
    use super::*;

    fn settings(url: &str, ca: Option<&str>) -> PostgresConfig {
        PostgresConfig {
            url: Secret::new(url),
            pool_max: 2,
            timeout_ms: 1_000,
            statement_timeout_ms: 900,
            tls_ca: ca.map(Into::into),
            audit_days: 1,
            required: false,
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_told_without_the_password() {
        let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (url, ca) in [
            ("", None),
            ("hunter2", None),
            ("http://hunter2@host", None),
            ("postgres://u:hunter2@/db?sslmode=verify", None),
            ("postgres://u@host/db?hunter2=b", None),
            ("postgres://u:hunter2@host:port/db", None),
            ("postgres://u:hunter2@host/db?sslmode=require", Some("/does/not/exist")),
            ("postgres://u:hunter2@host/db", Some(ca)),
        ] {
            let Err(error) = Postgres::new(&settings(url, ca), "n") else { panic!("{url} is refused") };
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[tokio::test]
    async fn connections_get_their_options() {
        let url = "postgres://u:p@host/db?options=-c%20geqo%3Doff&sslmode=require";
        let connector = Connector::new(&settings(url, None), "n1").unwrap();
        assert!(connector.tls.is_some());
        let config = connector.config();
        let options = "-c geqo=off -c statement_timeout=900 -c idle_in_transaction_session_timeout=1000";
        assert_eq!(config.get_options(), Some(options));
        assert_eq!(config.get_application_name(), Some("tickmesh/n1"));
        assert!(Connector::new(&settings("postgres://u:p@host/db", None), "n").unwrap().tls.is_none());
    }
}
