//! What a node counts, in the Prometheus exposition format.
//!
//! Names follow the Prometheus conventions: prefix `tickmesh_`, base units, and label sets that are bounded by enums.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use tickmesh_cluster::redis::Health;

use tickmesh_edge::limits::Connections;
use tickmesh_store::{PoolStatus, Stores};

/// Label sets of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// A short name.
    pub cause: &'static str,
}

/// What is counted of recorded rooms and of the stores.
#[derive(Debug, Default)]
pub struct MarketMetrics {
    /// Recorded rooms that are kept here.
    pub rooms: Gauge,
    /// Messages that wait for the time-series store.
    pub waiting: Gauge,
    /// Messages written to it.
    pub recorded: Counter,
    /// Messages that it could not take.
    pub refused: Counter,
    /// Messages that were gone from the log before they were written.
    pub lost: Counter,
    /// Messages that were gone from the log and the store before they were looked at for bars.
    pub bar_ticks_lost: Counter,
    /// Messages that were gone from the log before alerts were held against them.
    pub alert_ticks_lost: Counter,
    /// Ticks that are not in bars, by cause.
    rejected: Family<Cause, Counter>,
    /// Bars written.
    pub bars: Counter,
    /// Bars that were not written because too many waited.
    pub bars_dropped: Counter,
    /// Closed bars that were not published because too many waited.
    pub bars_unpublished: Counter,
    /// Alerts that fired.
    pub hits: Counter,
    /// Alerts that fired and could not be kept because too many waited.
    pub hits_lost: Counter,
    /// Events of sessions that are not in the audit.
    pub audit_dropped: Counter,
}

impl MarketMetrics {
    /// Counts a tick that is not in bars.
    pub fn rejected(&self, cause: &'static str) {
        self.rejected.get_or_create(&Cause { cause }).inc();
    }

    fn register(&self, r: &mut Registry) {
        r.register("recorder_rooms", "Recorded rooms that are kept here", self.rooms.clone());
        let text = "Messages that wait for the time-series store";
        r.register("recorder_waiting", text, self.waiting.clone());
        r.register("recorded_messages", "Messages written to the time-series store", self.recorded.clone());
        let text = "Messages that the time-series store could not take";
        r.register("recorder_refused", text, self.refused.clone());
        let text = "Messages that were gone from the log before they were written to the time-series store";
        r.register("recorder_lost", text, self.lost.clone());
        let text = "Messages that were gone before they were looked at for bars";
        r.register("bar_ticks_lost", text, self.bar_ticks_lost.clone());
        let text = "Messages that were gone before alerts were held against them";
        r.register("alert_ticks_lost", text, self.alert_ticks_lost.clone());
        r.register("bar_ticks_rejected", "Ticks that are not in bars, by cause", self.rejected.clone());
        r.register("bars_written", "Bars written to the time-series store", self.bars.clone());
        let text = "Bars that were not written because too many waited";
        r.register("bars_dropped", text, self.bars_dropped.clone());
        let text = "Closed bars that were not published because too many waited";
        r.register("bars_unpublished", text, self.bars_unpublished.clone());
        r.register("alert_hits", "Price alerts that fired", self.hits.clone());
        let text = "Price alerts that fired and could not be kept because too many waited";
        r.register("alert_hits_lost", text, self.hits_lost.clone());
        let text = "Beginnings and ends of sessions that are not in the audit";
        r.register("audit_dropped", text, self.audit_dropped.clone());
    }
}

/// The counters of a node.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sessions begun.
    pub sessions: Counter,
    /// Sessions ended, by close reason.
    ended: Family<Cause, Counter>,
    /// Connections not taken, by cause.
    refused: Family<Cause, Counter>,
    /// Messages accepted from publishers.
    pub published: Counter,
    /// Messages refused to publishers.
    pub publish_errors: Counter,
    /// Messages that came from the broker and went to hubs.
    pub fanout_messages: Counter,
    /// Messages handed to sessions, once for each.
    pub deliveries: Counter,
    /// Bytes written to clients.
    pub bytes_out: Counter,
    /// Times that the queue from the broker overflowed.
    pub missed: Counter,
    /// Holes that were filled from a log.
    pub repairs: Counter,
    /// Holes that a log could not fill; sessions announce them by `resync`.
    pub unrepaired: Counter,
    /// Letters from other processes that could not be read.
    pub bad_letters: Counter,
    /// 1 while the node drains.
    pub draining: Gauge,
    /// Recorded rooms and stores.
    pub market: Arc<MarketMetrics>,
}

impl Metrics {
    /// Counts a session that ended; without a reason, its connection was lost.
    pub fn session_ended(&self, reason: Option<&'static str>) {
        let cause = reason.unwrap_or("connection lost");
        self.ended.get_or_create(&Cause { cause }).inc();
    }

    /// Counts a connection that was not taken.
    pub fn refused(&self, cause: &'static str) {
        self.refused.get_or_create(&Cause { cause }).inc();
    }

    /// A registry with all of them, and the figures of the process.
    #[must_use]
    pub fn registry(
        &self,
        connections: Arc<Connections>,
        redis: Option<Arc<Health>>,
        stores: Stores,
    ) -> Registry {
        let mut registry = Registry::with_prefix("tickmesh");
        let r = &mut registry;
        r.register("sessions", "Sessions begun", self.sessions.clone());
        r.register(
            "sessions_ended",
            "Sessions ended, by close reason or lost connection",
            self.ended.clone(),
        );
        r.register("connections_refused", "Connections not taken, by cause", self.refused.clone());
        r.register("published_messages", "Messages accepted from publishers", self.published.clone());
        r.register("publish_errors", "Messages refused to publishers", self.publish_errors.clone());
        let text = "Messages that came from the broker and went to hubs";
        r.register("fanout_messages", text, self.fanout_messages.clone());
        r.register("deliveries", "Messages handed to sessions, once for each", self.deliveries.clone());
        r.register_with_unit("sent", "Bytes written to clients", Unit::Bytes, self.bytes_out.clone());
        r.register(
            "broker_queue_overflows",
            "Times the queue from the broker overflowed",
            self.missed.clone(),
        );
        r.register("log_repairs", "Times that a log had what was missed", self.repairs.clone());
        let text = "Times that a log had lost what was missed, so that subscribers were told by resync";
        r.register("log_repairs_failed", text, self.unrepaired.clone());
        let text = "Letters from other processes that could not be read";
        r.register("bad_letters", text, self.bad_letters.clone());
        r.register("draining", "1 while the node takes no more connections", self.draining.clone());
        self.market.register(r);
        r.register_collector(Box::new(StoresCollector { stores }));
        r.register_collector(Box::new(Process { connections }));
        if let Some(health) = redis {
            r.register_collector(Box::new(Redis { health }));
        }
        registry
    }
}

/// The stores: whether they serve, how often they did, and their connections.
struct StoresCollector {
    stores: Stores,
}

impl fmt::Debug for StoresCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoresCollector")
    }
}

impl Collector for StoresCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stores = self.stores.health();
        let gauges = |encoder: &mut DescriptorEncoder<'_>,
                      name: &str,
                      help: &str,
                      values: Vec<(Vec<(&'static str, &'static str)>, u64)>| {
            let kind = ConstGauge::new(0u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in values {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        let up = stores.iter().map(|(name, health)| (vec![("store", *name)], u64::from(health.is_up())));
        gauges(&mut encoder, "store_up", "1 while the store is prepared and not left alone", up.collect())?;
        let pools: Vec<_> = self
            .stores
            .pools
            .iter()
            .flat_map(|(name, pool)| {
                let PoolStatus { size, available, waiting, max } = pool();
                [("open", size), ("idle", available), ("waiting", waiting), ("max", max)]
                    .map(|(state, count)| (vec![("store", *name), ("state", state)], count as u64))
            })
            .collect();
        let text =
            "Connections of a store's pool: open, idle, the most there may be, and calls that wait for one";
        gauges(&mut encoder, "store_connections", text, pools)?;
        let kind = ConstCounter::new(0u64).metric_type();
        let text = "Calls to a store, by outcome";
        let mut family = encoder.encode_descriptor("store_calls", text, None, kind)?;
        for (name, health) in &stores {
            for (outcome, count) in ["ok", "failed", "rejected"].into_iter().zip(health.calls()) {
                let labels = [("store", *name), ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let text = "Times that a store's breaker opened";
        let mut family = encoder.encode_descriptor("store_breaker_opened", text, None, kind)?;
        for (name, health) in &stores {
            ConstCounter::new(health.opened()).encode(family.encode_family(&[("store", *name)])?)?;
        }
        Ok(())
    }
}

/// The connections to Redis.
#[derive(Debug)]
struct Redis {
    health: Arc<Health>,
}

impl Collector for Redis {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let up = ConstGauge::new(u64::from(self.health.is_up()));
        let text = "1 while both connections to Redis work";
        up.encode(encoder.encode_descriptor("redis_up", text, None, up.metric_type())?)?;
        let echo = ConstGauge::new(self.health.echo_us() as f64 / 1e6);
        let text = "How long the process's last message to itself took by way of Redis";
        echo.encode(encoder.encode_descriptor(
            "redis_echo",
            text,
            Some(&Unit::Seconds),
            echo.metric_type(),
        )?)?;
        for (name, help, value) in [
            ("redis_reconnects", "Times that a connection to Redis was made anew", self.health.reconnects()),
            ("redis_garbage", "Things in Redis that could not be made out", self.health.garbage()),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

/// Figures that are read when they are asked for.
#[derive(Debug)]
struct Process {
    connections: Arc<Connections>,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge("connections", "WebSocket connections that are open", None, self.connections.open() as u64)?;
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(fds) = process.fd_count() {
            gauge("process_open_fds", "Open file descriptors", None, fds as u64)?;
        }
        let Ok(stat) = process.stat() else { return Ok(()) };
        let resident = stat.rss * procfs::page_size();
        gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident)?;
        let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let cpu = ConstCounter::new(ticks);
        let text = "User and system time";
        cpu.encode(encoder.encode_descriptor("process_cpu", text, Some(&Unit::Seconds), cpu.metric_type())?)
    }
}
