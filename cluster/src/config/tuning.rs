//! What is tuned under load: the sections `rate`, `memory` and `tuning`.

use serde::{Deserialize, Serialize};
use tickmesh_protocol::rate::Limit;
use tickmesh_protocol::session::Rates;

/// `[rate]`; 0 stands for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateConfig {
    /// Messages of one connection each second.
    pub requests_per_s: u32,
    /// Subscriptions of one connection each second.
    pub subscribes_per_s: u32,
    /// Publishes of one connection each second.
    pub publishes_per_s: u32,
    /// Messages that one user or API key publishes over HTTP each second, at one node.
    pub http_publishes_per_s: u32,
    /// Connections from one address each second.
    pub connects_per_s: u32,
    /// How many seconds' worth may come at once.
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
    /// Bytes that the process may use; 0 for what its control groups and the machine allow.
    pub limit_bytes: u64,
    /// Percent of it from which it is high.
    pub high_percent: u8,
    /// Milliseconds between two looks.
    pub interval_ms: u64,
    /// Milliseconds between two sweeps for what is out of date.
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
    /// Values of several keys under one name.
    pub profile: String,
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self { profile: super::profiles::AUTO.into() }
    }
}
