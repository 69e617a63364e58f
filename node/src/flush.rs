//! The flush window of a worker thread: what is configured, what is measured, and who decides.
//!
//! The rule itself is [`tickmesh_protocol::pace`]; here are the clocks. Everything of `[batch]` is read here, so a change while
//! the node runs is one call of [`FlushSettings::set`].

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tickmesh_cluster::config::{BatchConfig, FlushWindow};
use tickmesh_protocol::pace::{Pacer, Reason, Sample, Setting};

/// How long the thread is measured before a decision.
pub(crate) const PERIOD: Duration = Duration::from_millis(300);
/// How often its delay is looked at in that time.
pub(crate) const LOOKS: u32 = 6;
/// Stands for `auto`.
const AUTO: u64 = u64::MAX;

/// What is configured; the same for all threads of a node. It may change at any time.
#[derive(Debug)]
pub(crate) struct FlushSettings {
    max_messages: AtomicU64,
    max_bytes: AtomicU64,
    /// Microseconds, or [`AUTO`].
    window: AtomicU64,
    target_ms: AtomicU64,
}

impl FlushSettings {
    pub(crate) fn new(config: &BatchConfig) -> Self {
        let settings = Self {
            max_messages: AtomicU64::new(0),
            max_bytes: AtomicU64::new(0),
            window: AtomicU64::new(0),
            target_ms: AtomicU64::new(0),
        };
        settings.set(config);
        settings
    }

    /// Takes another configuration; each thread goes by it within [`PERIOD`].
    pub(crate) fn set(&self, config: &BatchConfig) {
        let window = match config.window {
            FlushWindow::Auto => AUTO,
            FlushWindow::Fixed(window) => window.as_micros() as u64,
        };
        self.max_messages.store(config.max_messages as u64, Ordering::Relaxed);
        self.max_bytes.store(config.max_bytes as u64, Ordering::Relaxed);
        self.window.store(window, Ordering::Relaxed);
        self.target_ms.store(config.target_latency_ms, Ordering::Relaxed);
    }

    /// Messages and bytes of one room that leave at once.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.max_messages.load(Ordering::Relaxed), self.max_bytes.load(Ordering::Relaxed))
    }

    fn setting(&self) -> Setting {
        match self.window.load(Ordering::Relaxed) {
            AUTO => Setting::Auto(Duration::from_millis(self.target_ms.load(Ordering::Relaxed))),
            window => Setting::Fixed(Duration::from_micros(window)),
        }
    }
}

/// What a hub counts for the controller.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// See [`Sample`].
    pub(crate) messages: u64,
    pub(crate) offered: u64,
    pub(crate) wakes: u64,
    pub(crate) reached: u64,
}

/// The controller of the present thread, with its clocks.
#[derive(Debug)]
pub(crate) struct Flusher {
    window: Cell<Duration>,
    inner: RefCell<(Pacer, Clocks)>,
}

impl Flusher {
    /// For the present thread.
    pub(crate) fn new(settings: &FlushSettings) -> Self {
        let pacer = Pacer::new(settings.setting());
        Self { window: Cell::new(pacer.window()), inner: RefCell::new((pacer, Clocks::new())) }
    }

    /// How long to wait for more.
    pub(crate) fn window(&self) -> Duration {
        self.window.get()
    }

    /// Decides anew, by what was counted since the last time and how late things came to run meanwhile. Gives the load, 0 to 1,
    /// and why the window was changed, if it was.
    pub(crate) fn decide(
        &self,
        settings: &FlushSettings,
        tally: Tally,
        delay: Duration,
    ) -> (f64, Option<Reason>) {
        let (pacer, clocks) = &mut *self.inner.borrow_mut();
        let configured = pacer.configure(settings.setting());
        let sample = clocks.sample(tally, delay);
        // What was measured was under another setting.
        let reason = if configured.is_some() { configured } else { pacer.observe(&sample) };
        self.window.set(pacer.window());
        (pacer.load(), reason)
    }
}

/// What tells how busy the present thread and its process are.
#[derive(Debug)]
struct Clocks {
    at: Instant,
    /// How long the thread ran and how long it waited for a core, in nanoseconds, as the scheduler counts it; `None` where it does
    /// not.
    schedstat: Option<File>,
    demand: Duration,
    process: Duration,
    /// CPUs that the process may use.
    cores: f64,
}

impl Clocks {
    fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let mut clocks =
            Self { at: Instant::now(), schedstat, demand: Duration::ZERO, process: Duration::ZERO, cores };
        clocks.sample(Tally::default(), Duration::ZERO);
        clocks
    }

    fn sample(&mut self, tally: Tally, delay: Duration) -> Sample {
        let (at, process, demand) = (Instant::now(), used(ClockId::ProcessCPUTime), self.demand());
        let elapsed = at.duration_since(self.at);
        let part = |now: Duration, before: Duration| {
            now.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64().max(1e-6)
        };
        let sample = Sample {
            elapsed,
            demand: part(demand, self.demand).min(1.0),
            process: (part(process, self.process) / self.cores).min(1.0),
            delay,
            messages: tally.messages,
            offered: tally.offered,
            wakes: tally.wakes,
            reached: tally.reached,
        };
        (self.at, self.process, self.demand) = (at, process, demand);
        sample
    }

    /// How long the thread ran or wanted to.
    fn demand(&self) -> Duration {
        let read = || {
            let mut text = [0; 96];
            let length = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
            let mut numbers = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace();
            let mut next = || numbers.next()?.parse::<u64>().ok();
            Some(Duration::from_nanos(next()? + next()?))
        };
        read().unwrap_or_else(|| used(ClockId::ThreadCPUTime))
    }
}

fn used(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_thread_is_seen_as_busy() {
        let mut clocks = Clocks::new();
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            std::hint::black_box(0);
        }
        // It ran, or others kept it from running.
        let busy = clocks.sample(Tally::default(), Duration::ZERO);
        assert!(busy.demand > 0.8, "{busy:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let idle = clocks.sample(Tally::default(), Duration::ZERO);
        assert!(idle.demand < 0.5, "{idle:?}");
    }

    #[test]
    fn another_configuration_counts_from_the_next_decision() {
        let settings = FlushSettings::new(&BatchConfig::default());
        let flusher = Flusher::new(&settings);
        assert!(flusher.window().is_zero());
        let window = Duration::from_millis(7);
        settings.set(&BatchConfig { window: FlushWindow::Fixed(window), ..BatchConfig::default() });
        let (_, reason) = flusher.decide(&settings, Tally::default(), Duration::ZERO);
        assert_eq!((flusher.window(), reason), (window, Some(Reason::Configured)));
    }
}
