//! When a tick is due, and under which time it is published: pure functions of its time.

use std::time::Duration;

/// The timing of one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    first_ms: u64,
    /// 0 for everything at once.
    speed: f64,
}

impl Schedule {
    /// The first tick is due at once; the others as much later as they happened later, divided by `speed`.
    pub(super) fn new(first_ms: u64, speed: f64) -> Self {
        Self { first_ms, speed }
    }

    /// Time after the start at which a tick is due. One that is older than the first is due at once.
    pub(super) fn due(&self, ts_ms: u64) -> Duration {
        if self.speed == 0.0 {
            return Duration::ZERO;
        }
        let seconds = ts_ms.saturating_sub(self.first_ms) as f64 / 1_000.0 / self.speed;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Milliseconds between the last tick of a round and the first of the next one, under [`Times::File`].
const BETWEEN_MS: u64 = 1_000;

/// Under which times ticks are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// Those of the file. Further rounds go on behind it: each is later by the file's length and a second.
    File,
    /// As if the first tick of a round happened when it is published.
    Now,
}

impl Times {
    /// Milliseconds to add to the times of a round, counted from 0: of ticks of which the first has the time `first`, and the
    /// others any from `span.0` to `span.1`. All in UTC milliseconds.
    pub(super) fn shift(self, round: u64, first: u64, span: (u64, u64), now: u64) -> i64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        match self {
            Self::File => signed((span.1 - span.0).saturating_add(BETWEEN_MS).saturating_mul(round)),
            Self::Now => signed(now).saturating_sub(signed(first)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_on_in_time() {
        let (span, now) = ((1_000, 31_000), 5_000_000);
        let shift = |times: Times, round| times.shift(round, 2_000, span, now);
        assert_eq!([0, 1, 2].map(|round| shift(Times::File, round)), [0, 31_000, 62_000]);
        assert_eq!(shift(Times::Now, 7), 4_998_000);
        assert_eq!(Times::Now.shift(0, 9_000, (9_000, 9_000), 4_000), -5_000);
        assert_eq!(Times::File.shift(u64::MAX, 0, (0, u64::MAX), 0), i64::MAX);
    }

    #[test]
    fn time_is_scaled() {
        let schedule = Schedule::new(10_000, 4.0);
        assert_eq!(schedule.due(10_000), Duration::ZERO);
        assert_eq!(schedule.due(12_000), Duration::from_millis(500));
        assert_eq!(schedule.due(9_000), Duration::ZERO, "out of order: at once");
        assert_eq!(Schedule::new(10_000, 0.0).due(99_000), Duration::ZERO);
        assert_eq!(Schedule::new(0, 1e-300).due(u64::MAX), Duration::MAX);
    }
}
