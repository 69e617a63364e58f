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

/// Label sets of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// A short name.
    pub cause: &'static str,
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
    pub fn registry(&self, connections: Arc<Connections>, redis: Option<Arc<Health>>) -> Registry {
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
        r.register_collector(Box::new(Process { connections }));
        if let Some(health) = redis {
            r.register_collector(Box::new(Redis { health }));
        }
        registry
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
