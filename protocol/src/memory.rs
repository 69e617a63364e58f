//! How short memory is: levels with hysteresis, from measured figures.
//!
//! A level rises at once, also by several; it falls one at a time, when the figure has been well below its mark for several
//! looks in a row: what was done to get there must not be undone by the first figure that is better. It must not know what is
//! done at which level.

use serde::Serialize;
use strum::IntoStaticStr;

/// Percent of the limit by which use has to be below a mark before its level is left.
const MARGIN: f64 = 3.0;
/// Looks in a row for which it has to be.
const CALM: u32 = 4;

/// How short memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Level {
    /// There is enough.
    #[default]
    Normal,
    /// Caches are made smaller.
    Moderate,
    /// No more is taken on.
    High,
    /// What is there has to go.
    Critical,
}

impl Level {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Moderate, Self::High, Self::Critical];

    /// A short label.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Estimates how much of what is resident is in use.
///
/// An allocator keeps what it is given back, as a rule: what is resident hardly falls when the load does. But what it keeps
/// it gives out again before it asks the system for much more, so while resident memory rises to where it never was, all of
/// it is in use. Of that some is known: what the process holds for its connections and in its caches. The rest is the base,
/// and later the base and what is held then are in use. What is not known may have fallen too, so the base slowly wears off:
/// if that was wrong, the next new height puts it right.
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    highest: u64,
    base: u64,
}

/// In so many looks about two thirds of the base wear off.
const WEAR: u64 = 1_024;
/// A new height is higher by one part in so many: no two allocations fit into the same holes, so there is always a little more.
const STEP: u64 = 64;

impl Estimate {
    /// Bytes in use, where so many are resident, of which so many are known to be held; that may be too many, since what
    /// several share is counted for each.
    pub fn in_use(&mut self, resident: u64, held: u64) -> u64 {
        if resident > self.highest + self.highest / STEP {
            self.highest = resident;
            self.base = resident.saturating_sub(held);
        } else {
            self.base -= self.base.div_ceil(WEAR);
        }
        let more = resident.saturating_sub(self.highest);
        resident.min(self.base.saturating_add(held).saturating_add(more))
    }
}

/// The level, and what led to it.
#[derive(Debug, Clone, Default)]
pub struct Levels {
    level: Level,
    calm: u32,
}

/// From which percentages each level holds, [`Level::Normal`] included, for one that `high` is given.
fn marks(high: u8) -> [f64; 4] {
    let high = f64::from(high.clamp(1, 99));
    [0.0, high * 0.875, high, high + (100.0 - high) / 2.0]
}

impl Levels {
    /// The level by the last look.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes a look: so many bytes are used of so many, and this percentage is high.
    pub fn look(&mut self, used: u64, limit: u64, high_percent: u8) -> Level {
        let percent = used as f64 * 100.0 / limit.max(1) as f64;
        let marks = marks(high_percent);
        let reached = (0..marks.len()).rev().find(|at| percent >= marks[*at]).unwrap_or(0);
        let now = self.level as usize;
        if reached > now {
            (self.level, self.calm) = (Level::ALL[reached], 0);
        } else if now > 0 && percent < marks[now] - MARGIN {
            self.calm += 1;
            if self.calm >= CALM {
                (self.level, self.calm) = (Level::ALL[now - 1], 0);
            }
        } else {
            self.calm = 0;
        }
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_at_once_and_fall_slowly_one_by_one() {
        let mut levels = Levels::default();
        let mut look = |percent: u64| levels.look(percent, 100, 80);
        assert_eq!([look(0), look(69), look(70)], [Level::Normal, Level::Normal, Level::Moderate]);
        assert_eq!(look(95), Level::Critical, "also by several");
        assert_eq!([look(88), look(86), look(86)], [Level::Critical; 3]);
        assert_eq!(
            [look(89), look(86), look(86), look(86)],
            [Level::Critical; 4],
            "not calm for long enough"
        );
        assert_eq!(look(86), Level::High);
        let fall: Vec<_> = (0..8).map(|_| look(10)).collect();
        assert_eq!(fall[2..4], [Level::High, Level::Moderate]);
        assert_eq!(fall[6..8], [Level::Moderate, Level::Normal]);
    }

    #[test]
    fn a_steady_figure_at_a_mark_makes_no_noise() {
        let mut levels = Levels::default();
        let mut changes = 0;
        for n in 0..1_000 {
            let before = levels.level();
            changes += usize::from(levels.look(799 + n % 3, 1_000, 80) != before);
        }
        assert_eq!(changes, 2, "up to moderate and to high, and there it stays");
    }

    #[test]
    fn what_the_allocator_keeps_is_not_in_use() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.in_use(100, 40), 100);
        assert_eq!(estimate.in_use(200, 140), 200);
        assert!((99..=100).contains(&estimate.in_use(199, 40)), "100 are kept by the allocator");
        assert_eq!(estimate.in_use(70, 40), 70, "never more than is resident");
        assert!(estimate.in_use(199, 400) <= 199);
        assert_eq!(estimate.in_use(250, 40), 250, "a new height is all in use");
        let later = (0..3 * WEAR).map(|_| estimate.in_use(240, 40)).last();
        assert!(later.is_some_and(|bytes| bytes < 60), "what is not known wears off: {later:?}");
        assert_eq!(estimate.in_use(260, 40), 260);
    }

    #[test]
    fn a_little_more_after_the_load_fell_is_no_new_height() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.in_use(10_000, 8_000), 10_000);
        for more in 0..100 {
            let bytes = estimate.in_use(10_000 + more, 0);
            assert!(bytes <= 2_000 + more, "{bytes}");
        }
        assert_eq!(estimate.in_use(10_200, 0), 10_200);
    }

    #[test]
    fn what_is_shared_and_counted_often_does_no_harm() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.in_use(200, 5_000), 200);
        assert_eq!(estimate.in_use(199, 150), 150);
        assert_eq!(estimate.in_use(199, 0), 0);
    }

    #[test]
    fn marks_follow_the_one_that_is_configured() {
        for high in [10, 70, 80, 95] {
            let marks = marks(high);
            assert!(marks.is_sorted() && marks[3] < 100.0, "{marks:?}");
        }
        assert_eq!(marks(80), [0.0, 70.0, 80.0, 90.0]);
    }
}
