//! What a node counts, in the Prometheus exposition format.
//!
//! Names follow the Prometheus conventions: prefix `tickmesh_`, base units, and label sets that are bounded by enums or by
//! the configuration. All of them stand in `docs/metrics.md`, which a test holds against what is exported. What every
//! message or write touches is counted per thread ([`traffic`]); a series whose labels are known is there from the start.

mod alarms;
mod market;
mod stores;
mod totals;
pub mod traffic;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use tickmesh_cluster::broker::BrokerError;
use tickmesh_cluster::broker::memory::MemoryCluster;
use tickmesh_cluster::redis::Health;
use tickmesh_edge::guard::{Gauge, Shown};
use tickmesh_edge::limits::{Connections, Refusal};
use tickmesh_edge::metrics::{self, BATCH, Count, Distribution, Figures, LATENCY, Requests};
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::message::Message;
use tickmesh_protocol::room::{Classes, RoomName};
use tickmesh_protocol::session::Session;
use tickmesh_store::Stores;
use tickmesh_telemetry::metrics::Traces;

use crate::alarms::Gauges;
use crate::load::QueueDelay;
use traffic::{AllTraffic, Traffic};

pub use market::MarketMetrics;
pub(crate) use totals::Totals;

/// How a session ends that nobody ended.
const LOST: &str = "connection lost";
/// Causes of refusal, beside those of [`Refusal`].
const REFUSALS: [&str; 6] = ["path", "handshake", "origin", "authentication", "full user", "link"];
/// Causes for which a message is not published.
const PUBLISH_ERRORS: [&str; 4] = ["refused", "unavailable", "timeout", "damaged"];

/// Label sets of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// A short name.
    pub cause: &'static str,
}

/// The counters of a node.
#[derive(Debug)]
pub struct Metrics {
    classes: Classes,
    workers: Workers,
    /// HTTP requests.
    pub requests: Arc<Requests>,
    /// Sessions ended, by close reason.
    ended: Family<Cause, Counter>,
    /// Connections not taken, by cause, and all together.
    refused: Family<Cause, Counter>,
    all_refused: Counter,
    /// Messages accepted from publishers, by class of rooms.
    published: Vec<Counter>,
    /// Messages refused to publishers, by cause.
    publish_errors: [Counter; PUBLISH_ERRORS.len()],
    /// What the fan-out counts.
    pub fanout: FanoutMetrics,
    /// Messages handed to sessions, once for each.
    pub deliveries: Counter,
    /// Times that the queue from the broker overflowed.
    pub missed: Counter,
    /// Holes for which a log had something.
    pub repairs: Counter,
    /// Holes that a log could not fill; sessions announce them by `resync`.
    pub unrepaired: Counter,
    /// Letters from other processes that could not be read.
    pub bad_letters: Counter,
    /// Recorded rooms and stores.
    pub market: Arc<MarketMetrics>,
}

/// What the task counts that takes messages from the broker to the worker threads.
#[derive(Debug)]
pub struct FanoutMetrics {
    /// Messages that went to hubs.
    pub messages: Count,
    /// Rooms that are followed.
    pub rooms: Count,
    batches: Distribution,
    lag: Distribution,
    /// When the newest message was accepted, in UTC milliseconds, by class of rooms.
    newest: Vec<Count>,
    /// Rooms in which something came within the last second, and how much.
    pub(crate) busy: Mutex<Busy>,
}

/// What came in which rooms within some time.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    pub(crate) within: Duration,
    pub(crate) rooms: Vec<(RoomName, u64)>,
}

/// The counters of all worker threads.
#[derive(Debug, Clone, Default)]
pub struct Workers(Arc<Mutex<Vec<Arc<Traffic>>>>);

impl Workers {
    fn all(&self) -> Vec<Arc<Traffic>> {
        self.0.lock().clone()
    }
}

/// What is asked for when somebody scrapes.
pub struct Sources {
    /// The listener's connections.
    pub connections: Arc<Connections>,
    /// The connections to Redis.
    pub redis: Option<Arc<Health>>,
    /// The stores.
    pub stores: Stores,
    /// The rooms' logs, where they are in this process's memory.
    pub logs: Option<Arc<MemoryCluster>>,
    /// How long worker threads keep things waiting.
    pub delay: Arc<QueueDelay>,
    /// How short memory is.
    pub memory: Arc<Gauge>,
    /// Alarms on the cluster.
    pub(crate) alarms: Arc<Gauges>,
}

fn named(causes: impl IntoIterator<Item = &'static str>) -> Family<Cause, Counter> {
    let family = Family::default();
    for cause in causes {
        let _: &Counter = &family.get_or_create(&Cause { cause });
    }
    family
}

impl Metrics {
    /// All at 0.
    #[must_use]
    pub fn new(classes: Classes) -> Self {
        let count = classes.iter().count();
        Self {
            workers: Workers::default(),
            requests: Arc::default(),
            ended: named(CloseCode::ALL.map(CloseCode::reason).into_iter().chain([Session::MOVED, LOST])),
            refused: named(REFUSALS.into_iter().chain(Refusal::CAUSES)),
            all_refused: Counter::default(),
            published: (0..count).map(|_| Counter::default()).collect(),
            publish_errors: Default::default(),
            fanout: FanoutMetrics {
                messages: Count::default(),
                rooms: Count::default(),
                batches: Distribution::new(&BATCH),
                lag: Distribution::new(&LATENCY),
                newest: (0..count).map(|_| Count::default()).collect(),
                busy: Mutex::default(),
            },
            deliveries: Counter::default(),
            missed: Counter::default(),
            repairs: Counter::default(),
            unrepaired: Counter::default(),
            bad_letters: Counter::default(),
            market: Arc::default(),
            classes,
        }
    }

    /// The counters of one more thread.
    #[must_use]
    pub fn worker(&self) -> Arc<Traffic> {
        let traffic = Arc::<Traffic>::default();
        self.workers.0.lock().push(traffic.clone());
        traffic
    }

    /// Notifications that sessions were sent.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.sum(|one| one.delivered())
    }

    /// Sums what all threads counted.
    fn sum(&self, of: impl Fn(&Traffic) -> u64) -> u64 {
        self.workers.all().iter().map(|one| of(one)).sum()
    }

    /// Bytes written to clients and gateways.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sum(|one| one.sent_bytes.get())
    }

    /// Average quality of the connections that are open and were measured.
    pub(crate) fn quality(&self) -> Option<f64> {
        let rated = self.sum(|one| one.rated.get());
        (rated > 0).then(|| self.sum(|one| one.quality.get()) as f64 / rated as f64)
    }

    /// Sessions begun.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sum(|one| one.sessions.total())
    }

    /// Messages accepted from publishers.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.iter().map(Counter::get).sum()
    }

    /// Messages refused to publishers.
    #[must_use]
    pub fn publish_errors(&self) -> u64 {
        self.publish_errors.iter().map(Counter::get).sum()
    }

    /// Counts a session that ended; without a reason, its connection was lost.
    pub fn session_ended(&self, reason: Option<&'static str>) {
        self.ended.get_or_create(&Cause { cause: reason.unwrap_or(LOST) }).inc();
    }

    /// Counts a connection that was not taken.
    pub fn refused(&self, cause: &'static str) {
        self.refused.get_or_create(&Cause { cause }).inc();
        self.all_refused.inc();
    }

    /// The place of a room's class.
    pub(crate) fn class_of(&self, room: &RoomName) -> usize {
        self.classes.index_of(room)
    }

    /// Counts a message that the broker was asked to keep, in a room of the class.
    pub(crate) fn asked_to_publish(&self, class: usize, answer: Result<(), &BrokerError>) {
        let count = match answer {
            Ok(()) => &self.published[class],
            Err(BrokerError::Unavailable(_)) => &self.publish_errors[1],
            Err(BrokerError::Timeout) => &self.publish_errors[2],
            Err(BrokerError::Damaged(_)) => &self.publish_errors[3],
        };
        count.inc();
    }

    /// Counts a message that the broker was not asked to keep, because it is not right.
    pub(crate) fn refused_to_publish(&self) {
        self.publish_errors[0].inc();
    }

    /// Counts messages of a room that came from the broker together; `now` in UTC milliseconds.
    pub(crate) fn arrived(&self, oldest: &Message, messages: usize, now: u64) {
        if oldest.accepted_at > 0 {
            self.fanout.lag.observe(now.saturating_sub(oldest.accepted_at) * 1_000, messages as u64);
        }
    }

    /// Counts messages of a room that go on to worker threads together.
    pub(crate) fn fanned_out(&self, room: &RoomName, messages: &[Arc<Message>]) {
        let Some(newest) = messages.last() else { return };
        self.fanout.messages.add(messages.len() as u64);
        self.fanout.batches.observe(messages.len() as u64, 1);
        let seen = &self.fanout.newest[self.class_of(room)];
        seen.set(seen.get().max(newest.accepted_at));
    }

    /// Whether some of the messages are not to be kept waiting, by the room's class.
    pub(crate) fn has_critical(&self, room: &RoomName, messages: &[Arc<Message>]) -> bool {
        let class = self.classes.of(room);
        messages.iter().any(|message| class.is_critical(&message.event))
    }

    /// A registry with all of them, and the figures of the process.
    #[must_use]
    pub fn registry(self: &Arc<Self>, sources: Sources) -> Registry {
        let Sources { connections, redis, stores, logs, delay, memory, alarms } = sources;
        metrics::registry("node", redis, self.requests.clone(), |r| {
            r.register_collector(Box::new(Traces));
            let text = "Sessions ended, by close reason or lost connection";
            r.register("sessions_ended", text, self.ended.clone());
            let text = "Connections not taken, and sessions whose credential was refused, by cause";
            r.register("connections_refused", text, self.refused.clone());
            r.register("deliveries", "Messages handed to sessions, once for each", self.deliveries.clone());
            let text = "Times the queue from the broker overflowed or its connection was made anew";
            r.register("broker_queue_overflows", text, self.missed.clone());
            let text = "Gaps for which a log was read and had something";
            r.register("log_repairs", text, self.repairs.clone());
            let text = "Gaps that a log could not fill, so that subscribers are told by resync";
            r.register("log_repairs_failed", text, self.unrepaired.clone());
            let text = "Letters from other processes that could not be read";
            r.register("bad_letters", text, self.bad_letters.clone());
            self.market.register(r);
            r.register_collector(Box::new(stores::StoresCollector { stores, logs }));
            r.register_collector(Box::new(alarms::AlarmsCollector(alarms)));
            r.register_collector(Box::new(AllTraffic(self.workers.clone())));
            r.register_collector(Box::new(Shown(memory)));
            r.register_collector(Box::new(Whole { metrics: self.clone(), connections, delay }));
        })
    }
}

/// What there is once in a node.
#[derive(Debug)]
struct Whole {
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    delay: Arc<QueueDelay>,
}

impl Collector for Whole {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Metrics { classes, fanout, published, publish_errors, .. } = &*self.metrics;
        let figures = &mut Figures(&mut encoder);
        let text = "Connections that are open, those of gateways for their clients included";
        figures.gauge("connections", text, self.connections.open() as u64)?;
        let text = "Connections that wait for their turn to be taken";
        figures.gauge("connections_waiting", text, self.connections.waiting() as u64)?;
        let text = "The longest time that something ready waited for its worker thread lately";
        figures.seconds("worker_delay", text, self.delay.lately().as_secs_f64())?;
        // An empty label would be none.
        let name = |prefix: &'_ str| if prefix.is_empty() { "*".to_owned() } else { prefix.to_owned() };
        let names = || classes.iter().map(|class| [("class", name(&class.prefix))]);
        let text = "Messages accepted from publishers, by class of rooms";
        figures.counters("published_messages", text, names().zip(published.iter().map(Counter::get)))?;
        let causes = PUBLISH_ERRORS.map(|cause| [("cause", cause)]);
        let errors = causes.into_iter().zip(publish_errors.iter().map(Counter::get));
        figures.counters("publish_errors", "Messages refused to publishers, by cause", errors)?;
        let text = "Messages that came from the broker and went to worker threads";
        figures.counter("fanout_messages", text, fanout.messages.get())?;
        let text = "Messages of one room that went on together";
        let batches = std::iter::once(&fanout.batches);
        figures.histogram("fanout_batch_messages", text, None, batches, &BATCH)?;
        let text = "From a message's acceptance to its arrival at this node";
        let lag = std::iter::once(&fanout.lag);
        figures.histogram("broker_lag", text, Some(&Unit::Seconds), lag, &LATENCY)?;
        figures.gauge("rooms", "Rooms that this node follows at the broker", fanout.rooms.get())?;
        let text = "When the newest message seen in rooms of the class was accepted, since 1970";
        let newest = fanout.newest.iter().map(|time| time.get() as f64 / 1_000.0);
        figures.seconds_of("newest_message_timestamp", text, names().zip(newest))
    }
}
