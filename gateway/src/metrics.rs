//! What a gateway counts, in the Prometheus exposition format.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Label sets of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Cause {
    cause: &'static str,
}

/// The counters of a gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Clients taken.
    pub(crate) connections: Counter,
    refused: Family<Cause, Counter>,
    /// Sessions moved on purpose.
    pub(crate) moves: Counter,
    /// Sessions moved because their node was lost.
    pub(crate) takeovers: Counter,
    /// Links on which a node sent no records.
    pub(crate) bad_links: Counter,
    /// How long a session whose node was lost was without one.
    pub(crate) pauses: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            connections: Counter::default(),
            refused: Family::default(),
            moves: Counter::default(),
            takeovers: Counter::default(),
            bad_links: Counter::default(),
            pauses: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }

    /// Counts a connection that was not taken.
    pub(crate) fn refused(&self, cause: &'static str) {
        self.refused.get_or_create(&Cause { cause }).inc();
    }

    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("tickmesh_gateway");
        registry.register("clients", "Clients taken", self.connections.clone());
        registry.register("connections_refused", "Connections not taken, by cause", self.refused.clone());
        registry.register("moves", "Sessions moved on purpose", self.moves.clone());
        registry.register("takeovers", "Sessions moved because their node was lost", self.takeovers.clone());
        registry.register("bad_links", "Links on which a node sent no records", self.bad_links.clone());
        let text = "How long a session whose node was lost was without one";
        registry.register_with_unit("takeover_pause", text, Unit::Seconds, self.pauses.clone());
        registry
    }
}
