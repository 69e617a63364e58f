//! What the process uses of a core, and of memory.

use std::sync::OnceLock;
use std::time::Instant;

use procfs::process::Process;

/// Looks at it now and then.
#[derive(Debug)]
pub struct Usage {
    /// When it was looked at last, and the CPU seconds until then.
    last: Option<(Instant, f64)>,
}

impl Usage {
    /// The share of a core is known from the second look on.
    #[must_use]
    pub fn new() -> Self {
        Self { last: None }
    }

    /// Percent of one core since the look before, above 100 with several, and bytes of resident memory; 0 for what cannot
    /// be read.
    pub fn look(&mut self) -> (f64, u64) {
        let Ok(stat) = Process::myself().and_then(|process| process.stat()) else { return (0.0, 0) };
        let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let now = Instant::now();
        let percent = self.last.map_or(0.0, |(at, before)| {
            let seconds = now.duration_since(at).as_secs_f64().max(0.001);
            ((cpu - before) / seconds * 1_000.0).round() / 10.0
        });
        self.last = Some((now, cpu));
        (percent.max(0.0), stat.rss * procfs::page_size())
    }
}

/// Names this process of the operating system, at random; as exact in JSON as in here.
#[must_use]
pub fn process() -> u64 {
    static NAME: OnceLock<u64> = OnceLock::new();
    *NAME.get_or_init(|| (rand::random::<u64>() >> 11).max(1))
}

impl Default for Usage {
    fn default() -> Self {
        Self::new()
    }
}
