//! What a gateway counts, in the Prometheus exposition format.
//!
//! All names stand in `docs/metrics.md`, which a test holds against what is exported. What every write touches is counted
//! per thread ([`Traffic`]); a series whose labels are known is there from the start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tickmesh_cluster::redis::Health;
use tickmesh_edge::guard::{Gauge, Shown};
use tickmesh_edge::limits::{Connections, Refusal};
use tickmesh_edge::metrics::{self, ByWay, Count, Figures, Requests};
use tickmesh_telemetry::metrics::Traces;

use crate::nodes::{Nodes, State};

/// Causes of refusal, beside those of [`Refusal`].
const REFUSALS: [&str; 5] = ["path", "handshake", "origin", "authentication", "no node"];

/// Label sets of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    cause: &'static str,
}

/// Why a session went to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// On purpose.
    Move,
    /// Its node was lost.
    Takeover,
}

impl Cause {
    fn labels(self) -> Labels {
        Labels { cause: if self == Self::Move { "move" } else { "takeover" } }
    }
}

/// Why a link is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkFailure {
    /// It was not made.
    Connect,
    /// The node did not take the session.
    Refused,
}

/// What one worker thread counts.
#[derive(Debug, Default)]
// Two threads' counters never share a cache line, nor a pair that is fetched together.
#[repr(align(128))]
pub(crate) struct Traffic {
    /// Clients taken.
    pub(crate) clients: ByWay,
    /// Clients that are held.
    pub(crate) open: ByWay,
    /// Bytes read from clients.
    pub(crate) received_bytes: Count,
    /// Bytes written to clients.
    pub(crate) sent_bytes: Count,
    /// Clients let go because they took nothing.
    pub(crate) slow: Count,
    /// Times that something was written to a client that was not new.
    pub(crate) writes: Count,
    /// Links that wait for a client.
    pub(crate) idle_links: Count,
    /// Bytes that are held because they wait for a client or a node.
    pub(crate) waiting_bytes: Count,
}

/// The counters of a gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    workers: Workers,
    /// HTTP requests.
    pub(crate) requests: Arc<Requests>,
    refused: Family<Labels, Counter>,
    link_failures: [Counter; 2],
    /// Links on which a node sent no records.
    pub(crate) bad_links: Counter,
    /// How long sessions were without a node.
    pauses: Family<Labels, Histogram>,
    /// The same one by one, since they were taken last.
    recent: Mutex<Recent>,
}

/// A session that went to another node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pause {
    pub(crate) cause: Cause,
    /// For so many milliseconds it had none.
    pub(crate) ms: f32,
}

#[derive(Debug, Default)]
struct Recent {
    moves: u64,
    takeovers: u64,
    pauses: Vec<Pause>,
}

/// Pauses that are kept one by one; beyond that they are only counted.
const RECENT: usize = 16_384;

type Workers = Arc<Mutex<Vec<Arc<Traffic>>>>;

impl Metrics {
    pub(crate) fn new() -> Self {
        let refused = Family::default();
        for cause in REFUSALS.into_iter().chain(Refusal::CAUSES) {
            let _: &Counter = &refused.get_or_create(&Labels { cause });
        }
        let pauses: Family<Labels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14)));
        for cause in [Cause::Move, Cause::Takeover] {
            let _: &Histogram = &pauses.get_or_create(&cause.labels());
        }
        Self {
            workers: Workers::default(),
            requests: Arc::default(),
            refused,
            link_failures: Default::default(),
            bad_links: Counter::default(),
            pauses,
            recent: Mutex::default(),
        }
    }

    /// The counters of one more thread.
    pub(crate) fn worker(&self) -> Arc<Traffic> {
        let traffic = Arc::<Traffic>::default();
        self.workers.lock().push(traffic.clone());
        traffic
    }

    /// What counts the times that something was written to clients that were not new.
    pub(crate) fn writes(&self) -> impl Fn() -> u64 + Send + 'static {
        let workers = self.workers.clone();
        move || workers.lock().iter().map(|one| one.writes.get()).sum()
    }

    /// Bytes that wait for clients and nodes.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.workers.lock().iter().map(|one| one.waiting_bytes.get()).sum()
    }

    /// Counts a connection that was not taken.
    pub(crate) fn refused(&self, cause: &'static str) {
        self.refused.get_or_create(&Labels { cause }).inc();
    }

    pub(crate) fn link_failed(&self, why: LinkFailure) {
        self.link_failures[why as usize].inc();
    }

    /// Counts a session that went to another node, and for how long it had none.
    pub(crate) fn paused(&self, cause: Cause, pause: Duration) {
        self.pauses.get_or_create(&cause.labels()).observe(pause.as_secs_f64());
        let mut recent = self.recent.lock();
        match cause {
            Cause::Move => recent.moves += 1,
            Cause::Takeover => recent.takeovers += 1,
        }
        if recent.pauses.len() < RECENT {
            let ms = (pause.as_secs_f32() * 10_000.0).round() / 10.0;
            recent.pauses.push(Pause { cause, ms });
        }
    }

    /// Sessions that moved and that were taken over since this was asked last, and their pauses.
    pub(crate) fn take_pauses(&self) -> (u64, u64, Vec<Pause>) {
        let Recent { moves, takeovers, pauses } = std::mem::take(&mut *self.recent.lock());
        (moves, takeovers, pauses)
    }

    pub(crate) fn registry(
        &self,
        nodes: Arc<Nodes>,
        connections: Arc<Connections>,
        memory: Arc<Gauge>,
        redis: Option<Arc<Health>>,
    ) -> Registry {
        metrics::registry("gateway", redis, self.requests.clone(), |r| {
            r.register_collector(Box::new(Traces));
            r.register_collector(Box::new(Shown(memory)));
            let r = r.sub_registry_with_prefix("gateway");
            let text = "Connections not taken, and clients without a node, by cause";
            r.register("connections_refused", text, self.refused.clone());
            r.register("bad_links", "Links on which a node sent no records", self.bad_links.clone());
            let text = "How long sessions that moved or were taken over were without a node";
            r.register_with_unit("pause", text, Unit::Seconds, self.pauses.clone());
            let (workers, link_failures) = (self.workers.clone(), self.link_failures.clone());
            r.register_collector(Box::new(Now { nodes, connections, workers, link_failures }));
        })
    }
}

/// Figures that are read when they are asked for.
#[derive(Debug)]
struct Now {
    nodes: Arc<Nodes>,
    connections: Arc<Connections>,
    workers: Workers,
    link_failures: [Counter; 2],
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.workers.lock().clone();
        let sum = |of: fn(&Traffic) -> &Count| all.iter().map(|one| of(one).get()).sum::<u64>();
        let figures = &mut Figures(&mut encoder);
        figures.gauge("connections", "Connections that are held", self.connections.open() as u64)?;
        let text = "Connections that wait for their turn to be taken";
        figures.gauge("connections_waiting", text, self.connections.waiting() as u64)?;
        let open = ByWay::series(all.iter().map(|one| &one.open), false);
        figures.gauges("clients_open", "Clients that are held", open)?;
        let taken = ByWay::series(all.iter().map(|one| &one.clients), false);
        figures.counters("clients", "Clients taken", taken)?;
        figures.bytes("received", "Bytes read from clients", sum(|one| &one.received_bytes))?;
        figures.bytes("sent", "Bytes written to clients", sum(|one| &one.sent_bytes))?;
        let text = "Bytes that wait for clients and nodes";
        figures.gauge("waiting_bytes", text, sum(|one| &one.waiting_bytes))?;
        let text = "Clients let go because they took nothing";
        figures.counter("slow_clients", text, sum(|one| &one.slow))?;
        let placeable = self.nodes.placeable().len() as u64;
        figures.gauge("nodes", "Nodes on which sessions may be placed", placeable)?;
        let states = [("alive", State::Alive), ("draining", State::Draining), ("dead", State::Dead)];
        let known = states.map(|(name, state)| ([("state", name)], self.nodes.count(state)));
        figures.gauges("nodes_known", "Nodes in the cluster, by how they do", known)?;
        let text = "Times that a node was found dead that had not said that it would go";
        figures.counter("nodes_lost", text, self.nodes.lost())?;
        let links =
            [([("state", "idle")], sum(|one| &one.idle_links)), ([("state", "used")], self.nodes.links())];
        figures.gauges("links", "Links to nodes", links)?;
        let failures = ["connect", "refused"].into_iter().zip(&self.link_failures);
        let failures = failures.map(|(cause, count)| ([("cause", cause)], count.get()));
        let text = "Links that were not made, and sessions that a node did not take";
        figures.counters("link_failures", text, failures)
    }
}
