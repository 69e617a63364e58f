//! What the tests stand on: nodes in this process ([`Sandbox`]), a WebSocket client that checks promise 1 on
//! everything it receives ([`Client`]), a socket for bytes that no client would send ([`RawClient`]), and a wait for
//! a condition ([`eventually`]).
//!
//! The client is built on another WebSocket library than the server, so that a mistake in the frames shows.

mod client;
mod raw;
mod redis_server;
mod sandbox;

use std::time::Duration;

pub use client::{Client, Followed};
pub use raw::RawClient;
pub use redis_server::{RedisServer, free_address};
pub use sandbox::{Answer, Sandbox};

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

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
