//! What a process says of itself: its log, and its traces.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::values::optional_path;

/// `[log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// A filter such as `info` or `info,tickmesh_node=debug`.
    pub level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[otlp]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OtlpConfig {
    /// A collector's URL for OTLP over HTTP; empty for none.
    pub endpoint: String,
    /// Part of the requests that are traced where they do not say themselves, 0 to 1.
    pub sample: f64,
    /// A request's own `traceparent` decides.
    pub follow_parent: bool,
    /// Milliseconds after which the collector has failed.
    pub timeout_ms: u64,
    /// Spans that may wait for it.
    pub queue: usize,
    /// Certificates of those who sign the collector's, in PEM; none for the public ones.
    #[serde(with = "optional_path")]
    pub tls_ca: Option<PathBuf>,
}
