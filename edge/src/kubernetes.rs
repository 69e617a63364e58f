//! What a process tells Kubernetes of its own pod: the annotation `controller.kubernetes.io/pod-deletion-cost`, by which
//! a Deployment that is scaled in picks the pod with the fewest connections. A pod that drains costs less than any other.
//!
//! Invariants: clients never wait for it, and nothing is worse than without it when the API server is away, slow or refuses;
//! it writes nothing but this annotation of this pod, and only when it has changed by more than a tenth.
//!
//! It goes through the pod's `status` subresource: there the API server takes annotations, but no change of a pod's
//! specification, so that the permission for it does not let a process change what other pods run.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use awc::http::header::CONTENT_TYPE;
use serde_json::json;
use tickmesh_cluster::config::Config;

use crate::limits::Connections;
use crate::tls::{Connector, TlsError};

/// The annotation (an integer of 32 bits; pods with a lower one go first).
pub const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Of a pod that drains: lower than that of one without connections.
const DRAINING: i32 = -1;
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// After failures the next look is so many times later, at most.
const LONGEST_DELAY: u32 = 16;
/// The name that every API server's certificate has. It stands in for an address of IPv6, which the client cannot check.
const NAME: &str = "kubernetes.default.svc";

/// The configuration wants it, but this process is not in a pod as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum NotInPod {
    /// The variables that Kubernetes sets are missing.
    #[error(
        "kubernetes.pod_deletion_cost_ms is set, but KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not: \
             this is no pod"
    )]
    NoServer,
    /// A file of the service account is missing.
    #[error("kubernetes.service_account: {path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Its certificates cannot be used.
    #[error("kubernetes.service_account: {0}")]
    Tls(#[from] TlsError),
}

/// An answer that is none of success.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the token cannot be read: {0}")]
    Token(std::io::Error),
    #[error("the API server cannot be asked: {0}")]
    Request(awc::error::SendRequestError),
    #[error("the API server answers {0}")]
    Status(awc::http::StatusCode),
}

/// This process's pod at the API server.
struct Pod {
    url: String,
    /// Where the server is, if its name in the URL does not say so.
    server: Option<SocketAddr>,
    token: PathBuf,
    client: awc::Client,
}

/// Keeps the annotation of the pod `name` current from now on, if the configuration says so. Needs an actix system.
///
/// # Errors
/// When the configuration says so, but this is no pod with a service account.
pub fn keep_deletion_cost(
    config: &Config,
    name: &str,
    connections: &Arc<Connections>,
) -> Result<(), NotInPod> {
    let every = Duration::from_millis(config.kubernetes.pod_deletion_cost_ms);
    if every.is_zero() {
        return Ok(());
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = variable("KUBERNETES_SERVICE_HOST").ok_or(NotInPod::NoServer)?;
    let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
    let server = (host.as_str(), port.ok_or(NotInPod::NoServer)?);
    let pod = Pod::new(server, &config.kubernetes.service_account, name)?;
    actix_web::rt::spawn(keep(pod, connections.clone(), every));
    Ok(())
}

impl Pod {
    /// With what Kubernetes mounts for a service account: `ca.crt`, `namespace` and `token`, which is replaced now and then.
    fn new((host, port): (&str, u16), account: &Path, name: &str) -> Result<Self, NotInPod> {
        let read = |name: &str| {
            let path = account.join(name);
            std::fs::read_to_string(&path).map_err(|error| NotInPod::File { path, error })
        };
        let namespace = read("namespace")?;
        read("token")?;
        let tls = Connector::new(&account.join("ca.crt"))?;
        let (host, server) = match host.parse() {
            Ok(address @ IpAddr::V6(_)) => (NAME, Some(SocketAddr::new(address, port))),
            _ => (host, None),
        };
        let url = format!("https://{host}:{port}/api/v1/namespaces/{}/pods/{name}/status", namespace.trim());
        let connector = awc::Connector::new().limit(1).timeout(PATIENCE).rustls_0_23(tls.config());
        let client = awc::Client::builder().connector(connector).timeout(PATIENCE).finish();
        Ok(Self { url, server, token: account.join("token"), client })
    }

    /// Writes the annotation.
    async fn write(&self, cost: i32) -> Result<(), Failure> {
        let path = self.token.clone();
        let reading = actix_web::rt::task::spawn_blocking(move || std::fs::read_to_string(path));
        let token = reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let token = token.map_err(Failure::Token)?;
        let mut request = self.client.patch(&self.url).bearer_auth(token.trim());
        if let Some(server) = self.server {
            request = request.address(server);
        }
        let patch = json!({ "metadata": { "annotations": { ANNOTATION: cost.to_string() } } });
        let request = request.insert_header((CONTENT_TYPE, "application/merge-patch+json"));
        let answer = request.send_body(patch.to_string()).await.map_err(Failure::Request)?;
        if answer.status().is_success() { Ok(()) } else { Err(Failure::Status(answer.status())) }
    }
}

fn cost(connections: &Connections) -> i32 {
    if connections.draining() { DRAINING } else { i32::try_from(connections.open()).unwrap_or(i32::MAX) }
}

/// Whether what is written is too far from what is.
fn is_due(written: Option<i32>, now: i32) -> bool {
    written.is_none_or(|written| {
        let apart = now.abs_diff(written);
        (written < 0) != (now < 0) || u64::from(apart) * 10 > u64::from(written.unsigned_abs())
    })
}

async fn keep(pod: Pod, connections: Arc<Connections>, every: Duration) {
    let mut written = None;
    let mut failures = 0u32;
    loop {
        let now = cost(&connections);
        if is_due(written, now) {
            match pod.write(now).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(failures, "the pod's deletion cost is written again");
                    }
                    (written, failures) = (Some(now), 0);
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, url = pod.url, "the pod's deletion cost is not written");
                    }
                    failures = failures.saturating_add(1);
                }
            }
        }
        let later = 1u32.checked_shl(failures).unwrap_or(LONGEST_DELAY).min(LONGEST_DELAY);
        tokio::time::sleep(every * later).await;
    }
}

#[cfg(test)]
mod tests;
