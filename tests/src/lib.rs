//! What the tests stand on: nodes in this process ([`Sandbox`]), a WebSocket client that checks promise 1 on
//! everything it receives ([`Client`]), real nodes, a real redis-server and PostgreSQL that may be killed ([`NodeProcess`],
//! [`RedisServer`], [`PostgresServer`]) under a load that keeps account ([`Load`]), a collector
//! of traces ([`Collector`]), what a kubelet does to a pod
//! ([`Manifest`]), a page in a browser ([`Browser`]) and who serves it ([`PageCluster`], [`Dev`]), a Prometheus that watches them ([`PrometheusServer`]), a socket for bytes
//! that no client would send ([`RawClient`]), a terminal ([`Terminal`]), and a wait for a condition ([`eventually`]).
//!
//! The client is built on another WebSocket library than the server, so that a mistake in the frames shows.

mod browser;
mod client;
mod kubelet;
mod load;
mod otlp;
mod postgres_server;
mod process;
mod prometheus_server;
mod raw;
mod redis_server;
mod sandbox;
pub mod taos_stub;
mod terminal;
mod tls;
mod webhook;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use tickmesh_edge::jwt::encode;

pub use browser::{Browser, Dev, PageCluster, publish};
pub use client::{Client, Followed};
pub use kubelet::{Hook, Manifest, Termination};
pub use load::{Account, Load, size};
pub use otlp::{Collector, Manner, Received, attribute};
pub use postgres_server::PostgresServer;
pub use process::{NodeProcess, binary};
pub use prometheus_server::{PrometheusServer, hurried};
pub use raw::RawClient;
pub use redis_server::{RedisCluster, RedisServer, Sentinel, free_address};
pub use sandbox::{Answer, Sandbox};
pub use terminal::Terminal;
pub use tls::Authority;
pub use webhook::{Delivery, Webhook};

/// Secret of the tokens that real nodes take.
pub const SECRET: &str = "a secret that only tests know";

/// A token for a real node, valid for an hour.
///
/// # Panics
/// When it cannot be signed.
#[must_use]
pub fn token(user: &str, role: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let claims = serde_json::json!({"sub": user, "role": role, "exp": now + 3_600});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap_or_else(|error| panic!("{error}"))
}

/// Longest wait for anything: long enough for a machine that is busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
///
/// # Panics
/// When it does not within [`DEADLINE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
