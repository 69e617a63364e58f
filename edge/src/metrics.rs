//! What nodes and gateways have in common of their metrics: counters without locks, figures of the process and of its
//! connections to Redis, and the answer to whoever scrapes.
//!
//! Invariant: one thread at a time adds to a [`Count`] or [`Distribution`]; any may read them. So adding costs a plain
//! load and store, and figures that every message touches exist once per thread and are summed when they are read.

mod distribution;
pub mod memory;
mod text;
mod usage;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tickmesh_cluster::members::{Kind, LeaseState, Roster};
use tickmesh_cluster::redis::Health;

pub use distribution::{BATCH, DELAY, Distribution, LATENCY, SCORE, Scale};
pub use text::answer;
pub use usage::{Usage, process};

/// A number that one thread counts.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Takes from it; for what is counted while it lasts.
    pub fn take(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }

    /// Replaces it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// It speaks Socket.IO.
    pub socketio: bool,
    /// Over what.
    pub transport: Transport,
}

/// What a client's bytes come over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket of its own.
    WebSocket,
    /// HTTP requests.
    Polling,
    /// A gateway.
    Link,
}

/// Values of the label `protocol`.
pub const PROTOCOLS: [&str; 2] = ["native", "socketio"];
const TRANSPORTS: [&str; 3] = ["websocket", "polling", "link"];

/// A count for each way.
#[derive(Debug, Default)]
pub struct ByWay([[Count; 3]; 2]);

impl ByWay {
    /// That of a way.
    #[must_use]
    pub fn of(&self, way: Way) -> &Count {
        &self.0[usize::from(way.socketio)][way.transport as usize]
    }

    /// All ways together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().map(Count::get).sum()
    }

    /// The labels `protocol` and `transport` with what several threads counted; a process to which no links come has none.
    pub fn series<'a>(
        all: impl Iterator<Item = &'a Self> + Clone,
        links: bool,
    ) -> impl Iterator<Item = ([(&'static str, &'static str); 2], u64)> {
        let ways = move |protocol| {
            let possible = move |transport: &usize| match transport {
                // Native clients do not poll.
                1 => protocol == 1,
                2 => links,
                _ => true,
            };
            (0..TRANSPORTS.len()).filter(possible).map(move |transport| (protocol, transport))
        };
        (0..PROTOCOLS.len()).flat_map(ways).map(move |(protocol, transport)| {
            let labels = [("protocol", PROTOCOLS[protocol]), ("transport", TRANSPORTS[transport])];
            (labels, all.clone().map(|one| one.0[protocol][transport].get()).fold(0, u64::wrapping_add))
        })
    }
}

/// Writes figures that are read when they are asked for.
#[derive(Debug)]
pub struct Figures<'a, 'e>(pub &'a mut DescriptorEncoder<'e>);

impl Figures<'_, '_> {
    /// A counter.
    ///
    /// # Errors
    /// When the writer fails, as all others here.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    /// A counter of several series, each with its labels.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A gauge.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    /// A gauge of several series, each with its labels.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A gauge in seconds of several series.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn seconds_of<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A gauge in seconds.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?)
    }

    /// A gauge that is a part of a whole, 0 to 1.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn ratio(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let unit = Unit::Other("ratio".to_owned());
        let unit = Some(&unit);
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?)
    }

    /// A counter of bytes.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let unit = Some(&Unit::Bytes);
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, unit, MetricType::Counter)?)
    }

    /// A histogram that several threads filled.
    ///
    /// # Errors
    /// See [`counter`](Self::counter).
    pub fn histogram<'d>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        all: impl Iterator<Item = &'d Distribution>,
        scale: &Scale,
    ) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        Distribution::encode(scale, all, encoder)
    }
}

/// What a process knows of its place in the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// `/readyz` says so.
    pub ready: bool,
    /// No more connections are taken.
    pub draining: bool,
    /// It has its lease.
    pub lease: bool,
    /// Nodes and gateways with a lease.
    pub members: [u64; 2],
    /// Nodes and gateways that were lost.
    pub lost: [u64; 2],
}

impl Standing {
    /// As the process itself says, and its roster.
    #[must_use]
    pub fn new(ready: bool, draining: bool, roster: &Roster) -> Self {
        let members = roster.members();
        let kinds = [Kind::Node, Kind::Gateway];
        Self {
            ready,
            draining,
            lease: roster.lease() == LeaseState::Held,
            members: kinds.map(|kind| members.iter().filter(|member| member.kind == kind).count() as u64),
            lost: kinds.map(|kind| roster.lost(kind)),
        }
    }
}

/// A registry with what all processes export. Metrics are registered with the one under the prefix `tickmesh`.
pub fn registry(
    role: &'static str,
    redis: Option<Arc<Health>>,
    requests: Arc<Requests>,
    fill: impl FnOnce(&mut Registry),
) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let ours = registry.sub_registry_with_prefix("tickmesh");
    ours.register_collector(Box::new(Common { role, redis, requests }));
    fill(ours);
    registry
}

/// HTTP requests by the class of their status, 2xx to 5xx.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; 4]);

impl Requests {
    /// Has the application answer, and counts the answer.
    pub fn count<S, B>(
        self: &Arc<Self>,
        request: ServiceRequest,
        app: &S,
    ) -> impl Future<Output = Result<ServiceResponse<B>, actix_web::Error>> + use<S, B>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
    {
        let counts = !matches!(request.path(), "/healthz" | "/readyz" | "/metrics");
        let (requests, answer) = (self.clone(), app.call(request));
        async move {
            let answer = answer.await;
            let status = match &answer {
                Ok(answer) => answer.status(),
                Err(error) => error.as_response_error().status_code(),
            };
            if counts {
                requests.answered(status.as_u16());
            }
            answer
        }
    }

    /// Requests that failed here, and not because of what was asked.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.0[3].load(Ordering::Relaxed)
    }

    fn answered(&self, status: u16) {
        if let Some(count) = (status / 100).checked_sub(2).and_then(|at| self.0.get(usize::from(at))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Common {
    role: &'static str,
    redis: Option<Arc<Health>>,
    requests: Arc<Requests>,
}

impl Collector for Common {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut figures = Figures(&mut encoder);
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("role", self.role)];
        figures.gauges("build_info", "1; the labels say what runs", [(labels, 1)])?;
        let statuses = ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(&self.requests.0);
        let statuses = statuses.map(|(status, count)| ([("status", status)], count.load(Ordering::Relaxed)));
        let text = "HTTP requests answered, but WebSockets, health checks and metrics";
        figures.counters("http_requests", text, statuses)?;
        if let Some(limit) = memory::limit() {
            let text =
                "Memory that the process may use: the least of its control groups' limits and the machine's";
            figures.gauge("memory_limit_bytes", text, limit)?;
        }
        let Some(redis) = &self.redis else { return Ok(()) };
        figures.gauge("redis_up", "1 while both connections to Redis work", u64::from(redis.is_up()))?;
        let text = "How long the process's last message to itself took by way of Redis";
        figures.seconds("redis_echo", text, redis.echo_us() as f64 / 1e6)?;
        let text = "Times that a connection to Redis was made anew";
        figures.counter("redis_reconnects", text, redis.reconnects())?;
        figures.counter("redis_garbage", "Things in Redis that could not be made out", redis.garbage())
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = &mut Figures(&mut encoder);
        figures.gauge("ready", "1 while clients are welcome", u64::from(self.ready))?;
        figures.gauge("draining", "1 while no more connections are taken", u64::from(self.draining))?;
        let text = "1 while this process has its lease in the cluster";
        figures.gauge("lease_held", text, u64::from(self.lease))?;
        let kinds =
            |[nodes, gateways]: [u64; 2]| [([("kind", "node")], nodes), ([("kind", "gateway")], gateways)];
        figures.gauges("members", "Members of the cluster that have a lease", kinds(self.members))?;
        let text = "Members of the cluster whose lease ended though they had not said that they would go";
        figures.counters("members_lost", text, kinds(self.lost))
    }
}

/// Figures of the process, under the names that all Prometheus clients use.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let figures = &mut Figures(&mut encoder);
        if let Ok(fds) = process.fd_count() {
            figures.gauge("process_open_fds", "Open file descriptors", fds as u64)?;
        }
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            figures.gauge("process_max_fds", "The most file descriptors that may be open", most)?;
        }
        let Ok(stat) = process.stat() else { return Ok(()) };
        let resident = stat.rss * procfs::page_size();
        figures.gauge("process_resident_memory_bytes", "Resident memory", resident)?;
        figures.gauge("process_virtual_memory_bytes", "Virtual memory", stat.vsize)?;
        figures.gauge("process_threads", "Threads", u64::try_from(stat.num_threads).unwrap_or(0))?;
        let hertz = procfs::ticks_per_second() as f64;
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = boot as f64 + stat.starttime as f64 / hertz;
            figures.seconds("process_start_time", "When the process began, since 1970", start)?;
        }
        let cpu = ConstCounter::new((stat.utime + stat.stime) as f64 / hertz);
        let (text, unit) = ("User and system time", Some(&Unit::Seconds));
        cpu.encode(figures.0.encode_descriptor("process_cpu", text, unit, MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SCALE: Scale = Scale { bounds: &[1_000, 10_000], per_unit: 1_000_000 };

    struct Both([Distribution; 2]);

    impl fmt::Debug for Both {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Both")
        }
    }

    impl Collector for Both {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            Figures(&mut encoder).histogram("d", "Delay", Some(&Unit::Seconds), self.0.iter(), &SCALE)
        }
    }

    #[test]
    fn what_threads_counted_is_one_histogram_with_inclusive_bounds() {
        let both = Both([Distribution::new(&SCALE), Distribution::new(&SCALE)]);
        both.0[0].observe(1_000, 3);
        both.0[1].observe(1_001, 1);
        both.0[1].observe(20_000, 2);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(both));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "d_seconds_bucket{le=\"0.001\"} 3",
            "d_seconds_bucket{le=\"0.01\"} 4",
            "d_seconds_bucket{le=\"+Inf\"} 6",
            "d_seconds_count 6",
            "d_seconds_sum 0.044001",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}: {text}");
        }
    }
}
