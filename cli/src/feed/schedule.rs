//! When a tick is due: a pure function of its time.

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

#[cfg(test)]
mod tests {
    use super::*;

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
