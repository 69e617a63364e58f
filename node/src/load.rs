//! A node's report of itself to the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tickmesh_cluster::members::{Kind, Report};

use crate::metrics::Metrics;
use tickmesh_edge::limits::Connections;

/// Makes reports; rates are since the report before.
pub(crate) struct Load {
    /// What stays the same.
    pub(crate) base: Report,
    pub(crate) connections: Arc<Connections>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) delay: Arc<QueueDelay>,
    /// When the last was made, with the CPU seconds and deliveries until then.
    pub(crate) last: Option<(Instant, f64, u64)>,
}

/// The longest delay of this time, and of as much before it, is told to those who scrape.
const STRETCH: Duration = Duration::from_secs(10);
/// How often a thread looks at its delay.
const LOOK: Duration = Duration::from_millis(50);

/// The longest time that something was kept waiting by what ran before it on the same thread.
#[derive(Debug, Default)]
pub struct QueueDelay {
    /// Since each of those asked last who ask: the report to the cluster, and the vitals.
    micros: [AtomicU64; 2],
    peaks: Mutex<Peaks>,
}

/// The longest delays of the present stretch of time and the one before it.
#[derive(Debug)]
struct Peaks {
    began: Instant,
    now: Duration,
    before: Duration,
}

impl Default for Peaks {
    fn default() -> Self {
        Self { began: Instant::now(), now: Duration::ZERO, before: Duration::ZERO }
    }
}

impl Peaks {
    fn roll(&mut self) {
        let stretches = self.began.elapsed().as_secs() / STRETCH.as_secs();
        if stretches > 0 {
            let now = std::mem::take(&mut self.now);
            self.before = if stretches == 1 { now } else { Duration::ZERO };
            self.began = Instant::now();
        }
    }
}

impl QueueDelay {
    /// Watches the present thread: what is due now runs only after all that was ready before it.
    pub(crate) fn watch(self: &Arc<Self>) {
        let delay = self.clone();
        actix_rt::spawn(async move {
            loop {
                let due = tokio::time::Instant::now() + LOOK;
                tokio::time::sleep_until(due).await;
                let late = due.elapsed();
                for micros in &delay.micros {
                    micros.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
                }
                let mut peaks = delay.peaks.lock();
                peaks.roll();
                peaks.now = peaks.now.max(late);
            }
        });
    }

    /// The longest within the last 10 to 20 seconds.
    pub(crate) fn lately(&self) -> Duration {
        let mut peaks = self.peaks.lock();
        peaks.roll();
        peaks.now.max(peaks.before)
    }

    /// Milliseconds since this was asked last, for the report.
    fn take(&self) -> f64 {
        self.micros[0].swap(0, Ordering::Relaxed) as f64 / 1_000.0
    }

    /// The same for the vitals.
    pub(crate) fn take_for_vitals(&self) -> f64 {
        self.micros[1].swap(0, Ordering::Relaxed) as f64 / 1_000.0
    }
}

impl Load {
    /// A report without figures.
    pub(crate) fn base(id: &str, run: u64, address: String, zone: String, started_at: u64) -> Report {
        Report {
            id: id.to_owned(),
            kind: Kind::Node,
            run,
            address,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
            draining: false,
            connections: 0,
            cpu_percent: 0.0,
            memory_bytes: 0,
            messages_per_s: 0.0,
            zone,
            queue_delay_ms: 0.0,
            quality: 100.0,
        }
    }

    /// How the node does now.
    pub(crate) fn report(&mut self) -> Report {
        let stat = procfs::process::Process::myself().and_then(|process| process.stat()).ok();
        let cpu = stat
            .as_ref()
            .map_or(0.0, |stat| (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64);
        let memory_bytes = stat.map_or(0, |stat| stat.rss * procfs::page_size());
        let rounded = |value: f64| (value * 10.0).round() / 10.0;
        let (now, deliveries) = (Instant::now(), self.metrics.deliveries.get());
        let (mut cpu_percent, mut messages_per_s) = (0.0, 0.0);
        if let Some((at, cpu_then, deliveries_then)) = self.last {
            let seconds = now.duration_since(at).as_secs_f64();
            // Two reports in one breath would divide by nothing.
            if seconds < 0.1 {
                return self.now(self.base.cpu_percent, memory_bytes, self.base.messages_per_s);
            }
            cpu_percent = rounded((cpu - cpu_then) / seconds * 100.0);
            messages_per_s = rounded((deliveries - deliveries_then) as f64 / seconds);
        }
        self.last = Some((now, cpu, deliveries));
        self.base.cpu_percent = cpu_percent;
        self.base.messages_per_s = messages_per_s;
        self.base.queue_delay_ms = rounded(self.delay.take());
        self.base.quality = rounded(self.metrics.quality().unwrap_or(100.0));
        self.now(cpu_percent, memory_bytes, messages_per_s)
    }

    fn now(&self, cpu_percent: f64, memory_bytes: u64, messages_per_s: f64) -> Report {
        Report {
            draining: self.connections.draining(),
            connections: self.connections.open() as u64,
            cpu_percent,
            memory_bytes,
            messages_per_s,
            ..self.base.clone()
        }
    }
}
