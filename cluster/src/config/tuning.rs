//! Settings for behaviour under load: the sections `rate`, `memory` and `tuning`.

use serde::{Deserialize, Serialize};
use tickmesh_protocol::rate::Limit;
use tickmesh_protocol::session::Rates;

/// `[rate]`. A rate of 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateConfig {
    /// Messages of one connection per second.
    pub requests_per_s: u32,
    /// Subscriptions of one connection per second.
    pub subscribes_per_s: u32,
    /// Publishes of one connection per second.
    pub publishes_per_s: u32,
    /// Messages that one user or API key publishes over HTTP per second, at one node.
    pub http_publishes_per_s: u32,
    /// New connections from one address per second.
    pub connects_per_s: u32,
    /// Seconds' worth of each rate that may come at once after a pause.
    pub burst_s: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            requests_per_s: 0,
            subscribes_per_s: 0,
            publishes_per_s: 0,
            http_publishes_per_s: 0,
            connects_per_s: 0,
            burst_s: 5,
        }
    }
}

impl RateConfig {
    /// The limits of one connection.
    #[must_use]
    pub fn session(&self) -> Rates {
        Rates {
            requests: self.limit(self.requests_per_s),
            subscribes: self.limit(self.subscribes_per_s),
            publishes: self.limit(self.publishes_per_s),
        }
    }

    /// The limit of one user's publishes over HTTP.
    #[must_use]
    pub fn http_publishes(&self) -> Limit {
        self.limit(self.http_publishes_per_s)
    }

    /// The limit of connections from one address.
    #[must_use]
    pub fn connects(&self) -> Limit {
        self.limit(self.connects_per_s)
    }

    fn limit(&self, per_s: u32) -> Limit {
        Limit::new(per_s, self.burst_s)
    }
}

/// `[memory]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// Bytes that the process may use; 0 for the smallest of its control groups' limits and the machine's memory.
    pub limit_bytes: u64,
    /// Percent of the limit at which memory is high.
    pub high_percent: u8,
    /// Milliseconds between two measurements.
    pub interval_ms: u64,
    /// Milliseconds between two clean-ups of outdated data.
    pub cleanup_ms: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit_bytes: 0, high_percent: 80, interval_ms: 250, cleanup_ms: 60_000 }
    }
}

/// `[tuning]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuningConfig {
    /// The profile, which sets several keys at once.
    pub profile: String,
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self { profile: super::profiles::AUTO.into() }
    }
}
