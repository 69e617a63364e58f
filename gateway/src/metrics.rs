//! What a gateway counts, in the Prometheus exposition format.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tickmesh_edge::limits::Connections;

use crate::nodes::Nodes;

/// Why a connection was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    cause: &'static str,
}

/// Why a session went to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Cause {
    /// On purpose.
    Move,
    /// Its node was lost.
    Takeover,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pause {
    cause: Cause,
}

/// The counters of a gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Clients taken.
    pub(crate) connections: Counter,
    refused: Family<Refusal, Counter>,
    /// Links on which a node sent no records.
    pub(crate) bad_links: Counter,
    /// How long sessions were without a node.
    pauses: Family<Pause, Histogram>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            connections: Counter::default(),
            refused: Family::default(),
            bad_links: Counter::default(),
            pauses: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14))),
        }
    }

    /// Counts a connection that was not taken.
    pub(crate) fn refused(&self, cause: &'static str) {
        self.refused.get_or_create(&Refusal { cause }).inc();
    }

    /// Counts a session that went to another node, and for how long it had none.
    pub(crate) fn paused(&self, cause: Cause, pause: Duration) {
        self.pauses.get_or_create(&Pause { cause }).observe(pause.as_secs_f64());
    }

    pub(crate) fn registry(&self, nodes: Arc<Nodes>, connections: Arc<Connections>) -> Registry {
        let mut registry = Registry::with_prefix("tickmesh_gateway");
        registry.register("clients", "Clients taken", self.connections.clone());
        registry.register("connections_refused", "Connections not taken, by cause", self.refused.clone());
        registry.register("bad_links", "Links on which a node sent no records", self.bad_links.clone());
        let text = "How long sessions that moved or were taken over were without a node";
        registry.register_with_unit("pause", text, Unit::Seconds, self.pauses.clone());
        registry.register_collector(Box::new(Now { nodes, connections }));
        registry
    }
}

/// Figures that are read when they are asked for.
#[derive(Debug)]
struct Now {
    nodes: Arc<Nodes>,
    connections: Arc<Connections>,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in [
            ("nodes", "Nodes on which sessions may be placed", self.nodes.placeable().len()),
            ("connections", "Connections that are held", self.connections.open()),
        ] {
            let gauge = ConstGauge::new(value as u64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
