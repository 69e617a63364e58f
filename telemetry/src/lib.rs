//! What a process tells of itself while it runs: lines of a log, and traces.
//!
//! * [`log`]: on standard error, as text or JSON; the level can be changed at any time
//! * [`trace`]: spans of the few requests that are sampled, handed on with what they cause
//! * `export`: to a collector, by OTLP over HTTP, from a thread of its own · [`metrics`]: what became of them · [`http`]: its client
//!
//! Invariants: a request that is not sampled makes no span; nobody waits for the collector but who stops the process, and
//! that within a bound; no line and no span has a token or what clients publish.
//!
//! Like the subscriber of `tracing`, on which it stands, all of this is one per process. Where [`init`] was not called
//! nothing is traced, and the log is whose the process is.

mod export;
pub mod http;
pub mod log;
pub mod metrics;
pub mod trace;

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tickmesh_cluster::config::Config;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Logs or traces cannot be set up as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is none.
    #[error(transparent)]
    Level(#[from] log::LevelError),
    /// The collector's address or certificates cannot be used.
    #[error("{key}: {problem}")]
    Otlp {
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It was set up before.
    #[error("this process has a subscriber of tracing already")]
    Twice,
}

/// Keeps what is traced; see [`finish`](Self::finish).
#[derive(Debug)]
#[must_use = "traces end with it"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    patience: Duration,
}

/// Sets up logs and traces of this process, a `service` such as `tickmesh-node` with the name `id` in its cluster.
///
/// # Errors
/// When the configuration cannot be used, or this was done before.
pub fn init(config: &Config, service: &'static str, id: &str) -> Result<Telemetry, InitError> {
    let traces = export::provider(&config.otlp, service, id)?;
    let lines = log::layer(&config.log)?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("tickmesh"))
            // Spans are held and never entered: there is no context of a thread to keep.
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_filter(trace::filter())
    });
    tracing_subscriber::registry().with(spans).with(lines).try_init().map_err(|_| InitError::Twice)?;
    if traces.is_some() {
        trace::begin(&config.otlp);
    }
    Ok(Telemetry { traces, patience: Duration::from_millis(config.otlp.timeout_ms) })
}

impl Telemetry {
    /// Sends what waits to the collector, for no longer than `otlp.timeout_ms`. It blocks: call it when everything else
    /// has stopped.
    pub fn finish(self) {
        trace::end();
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown_with_timeout(self.patience)
        {
            tracing::warn!(%error, "the last spans were not taken by the collector");
        }
    }
}
