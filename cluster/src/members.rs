//! Who is in the cluster: each process holds a lease that it renews with a report of its load.

pub mod memory;
pub mod redis;
mod roster;
#[cfg(any(test, feature = "conformance"))]
pub mod suite;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::broker::BrokerError;

pub use roster::{Change, LeaseState, Roster, diff};
pub use tickmesh_protocol::vitals::Kind;

/// A process and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub id: String,
    /// What it does.
    pub kind: Kind,
    /// Names one run of it.
    pub run: u64,
    /// Where it listens, `host:port`.
    pub address: String,
    /// Its software.
    pub version: String,
    /// UTC milliseconds.
    pub started_at: u64,
    /// It takes no more clients and is about to stop.
    pub draining: bool,
    /// Connections that are open.
    pub connections: u64,
    /// Share of one core that was used since the report before, in percent; above 100 with several cores.
    pub cpu_percent: f64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Messages handed to sessions each second since the report before.
    pub messages_per_s: f64,
    /// Where it is; empty if it was not told.
    #[serde(default)]
    pub zone: String,
    /// How long what is ready to run has waited for its turn since the report before, in milliseconds: the longest wait
    /// that was seen.
    #[serde(default)]
    pub queue_delay_ms: f64,
    /// Average quality of its clients' connections, 0 to 100; 100 where nothing is known of any.
    #[serde(default = "best")]
    pub quality: f64,
}

fn best() -> f64 {
    100.0
}

/// Why a lease was not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Another run with the same id has it.
    #[error("another process joined under this id")]
    Replaced,
    /// It could not be asked for.
    #[error(transparent)]
    Unavailable(#[from] BrokerError),
}

/// The leases of a cluster.
///
/// # Guarantees
///
/// * **Lease.** A process that joined is in the [`snapshot`](Self::snapshot) until it leaves or its lease was not renewed
///   for as long as it said, and no longer.
/// * **One of a name.** The run that joined last under an id has it; earlier ones are told [`LeaseError::Replaced`].
/// * **Report.** The snapshot has the newest report of each.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// Takes the lease, from an earlier run too.
    async fn join(&self, report: &Report, lease: Duration) -> Result<(), LeaseError>;

    /// Renews it; takes it again if it had ended and nobody else has it.
    async fn renew(&self, report: &Report, lease: Duration) -> Result<(), LeaseError>;

    /// Gives it up, if this run still has it.
    async fn leave(&self, id: &str, run: u64) -> Result<(), BrokerError>;

    /// Everybody who has a lease, sorted by id.
    async fn snapshot(&self) -> Result<Vec<Report>, BrokerError>;
}
