//! `[log]` and `[otlp]`: the log and the traces of a process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::values::optional_path;

/// `[log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogConfig {
    /// Format of the lines.
    pub format: LogFormat,
    /// A filter such as `info` or `info,tickmesh_node=debug`.
    pub level: String,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[otlp]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OtlpConfig {
    /// URL of the collector (OTLP over HTTP); empty for no traces.
    pub endpoint: String,
    /// Part of the requests that are traced, 0 to 1, if the request itself does not decide it.
    pub sample: f64,
    /// The sampled flag in a request's `traceparent` decides.
    pub follow_parent: bool,
    /// Milliseconds after which an export has failed.
    pub timeout_ms: u64,
    /// Maximum number of spans that wait for the collector.
    pub queue: usize,
    /// CA certificates of the collector, in PEM; none for the public CAs.
    #[serde(with = "optional_path")]
    pub tls_ca: Option<PathBuf>,
}
