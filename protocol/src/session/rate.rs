//! How often a client may ask: buckets of the session, limits of the policy.
//!
//! What is refused is answered, once, and not done: a publish that is refused is in no log.

use serde_json::json;

use crate::error::{ErrorCode, Failure};
use crate::rate::{Bucket, Limit};

use super::{Now, Session};

/// Limits of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages of any kind.
    pub requests: Limit,
    /// Subscriptions among them.
    pub subscribes: Limit,
    /// Publishes among them.
    pub publishes: Limit,
}

/// What a session used of them.
#[derive(Debug, Default)]
pub(super) struct Used {
    requests: Bucket,
    subscribes: Bucket,
    publishes: Bucket,
}

/// The failure of who is too fast, and may try again after so many milliseconds.
#[must_use]
pub fn too_fast(what: &str, retry_after_ms: u64) -> Failure {
    let text = format!("too many {what}; try again after {retry_after_ms} ms");
    Failure::new(ErrorCode::RateLimitExceeded, text)
        .with_details(json!({ "limit": what, "retry_after_ms": retry_after_ms }))
}

impl Session {
    /// Counts a message of the client.
    pub(super) fn count_request(&mut self, now: Now) -> Result<(), Failure> {
        let limit = self.policy.rates.requests;
        self.used.requests.take(limit, now.mono).map_err(|wait| too_fast("requests", wait))
    }

    /// Counts a subscription that is otherwise in order.
    pub(super) fn count_subscribe(&mut self, now: Now) -> Result<(), Failure> {
        let limit = self.policy.rates.subscribes;
        self.used.subscribes.take(limit, now.mono).map_err(|wait| too_fast("subscribes", wait))
    }

    /// Counts a publish that is otherwise in order.
    pub(super) fn count_publish(&mut self, now: Now) -> Result<(), Failure> {
        let limit = self.policy.rates.publishes;
        self.used.publishes.take(limit, now.mono).map_err(|wait| too_fast("publishes", wait))
    }
}
