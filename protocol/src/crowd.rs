//! How many newcomers a second are let in while a crowd of them waits, so that those who are connected hardly notice.
//!
//! What a handshake costs differs tenfold between machines, and with what else they have to do, so no number fits all. What
//! those who are connected would notice is that their thread is late. So that is what is looked at: the rate falls by a
//! part where the thread was late, and rises by a part where it was not.
//!
//! Invariants: never fewer than [`LEAST`] a second, so that whoever waits gets in; after a rest it begins anew. It must not
//! know clocks or threads: what was measured is an argument.

use std::time::Duration;

/// Newcomers a second at first, and the fewest: a core does that beside its other work, and a thread may be late for other
/// reasons than newcomers.
pub const LEAST: u32 = 1_000;
/// The most.
pub const MOST: u32 = 100_000;

/// How late a thread may be: beyond it there are fewer.
const LATE: Duration = Duration::from_millis(5);
/// And below it more.
const ON_TIME: Duration = Duration::from_millis(2);
const FEWER: f64 = 0.7;
const MORE: f64 = 1.05;
/// Milliseconds between two changes, at least: the last one has to show.
const LOOK_MS: u64 = 20;
/// Milliseconds without newcomers that wait after which what was learnt holds no more.
const REST_MS: u64 = 2_000;

/// The rate; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Crowd {
    per_s: f64,
    /// The latest that the thread was since the rate was set.
    latest: Duration,
    changed_ms: u64,
    seen_ms: u64,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { per_s: f64::from(LEAST), latest: Duration::ZERO, changed_ms: 0, seen_ms: 0 }
    }
}

impl Crowd {
    /// Newcomers a second that are let in now.
    #[must_use]
    pub fn per_s(&self) -> u32 {
        self.per_s as u32
    }

    /// The thread was so late, at a time in milliseconds on a clock that never goes back. Called several times in 20 ms while
    /// somebody waits, and not otherwise.
    pub fn saw(&mut self, now_ms: u64, late: Duration) {
        if now_ms.saturating_sub(self.seen_ms) > REST_MS {
            *self = Self { changed_ms: now_ms, ..Self::default() };
        }
        self.seen_ms = now_ms;
        self.latest = self.latest.max(late);
        if now_ms.saturating_sub(self.changed_ms) < LOOK_MS {
            return;
        }
        let factor = match self.latest {
            latest if latest > LATE => FEWER,
            latest if latest < ON_TIME => MORE,
            _ => 1.0,
        };
        self.per_s = (self.per_s * factor).clamp(f64::from(LEAST), f64::from(MOST));
        (self.changed_ms, self.latest) = (now_ms, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets in a crowd on a thread that bears so many a second, and gives how long that took in milliseconds and the rate at
    /// the end.
    fn let_in(crowd: &mut Crowd, count: u32, bears: f64) -> (u64, u32) {
        let (mut now_ms, mut left, mut undone_ms) = (0, f64::from(count), 0.0_f64);
        while left > 0.0 {
            let some = f64::from(crowd.per_s()) * 0.005;
            left -= some;
            now_ms += 5;
            undone_ms = (undone_ms + some / bears * 1_000.0 - 5.0).max(0.0);
            crowd.saw(now_ms, Duration::from_secs_f64(undone_ms / 1_000.0));
        }
        (now_ms, crowd.per_s())
    }

    #[test]
    fn a_machine_with_room_takes_thousands_within_a_second() {
        let (took, _) = let_in(&mut Crowd::default(), 5_000, 1e6);
        assert!(took < 3_000, "{took} ms");
    }

    #[test]
    fn it_stays_near_what_the_thread_bears_and_nobody_waits_for_ever() {
        let (took, at_end) = let_in(&mut Crowd::default(), 50_000, 5_000.0);
        assert!((3_000..7_000).contains(&at_end), "{at_end}");
        assert!(took < 17_000, "{took} ms");
        // A thread that is late whatever is done.
        let mut crowd = Crowd::default();
        (0..1_000).for_each(|n| crowd.saw(n * 20, Duration::from_millis(100)));
        assert_eq!(crowd.per_s(), LEAST);
        // And one that never is.
        (0..1_000).for_each(|n| crowd.saw(20_000 + n * 20, Duration::ZERO));
        assert_eq!(crowd.per_s(), MOST);
    }

    #[test]
    fn after_a_rest_it_begins_anew() {
        let mut crowd = Crowd::default();
        (0..100).for_each(|n| crowd.saw(n * 20, Duration::ZERO));
        assert!(crowd.per_s() > 10 * LEAST);
        let before = crowd.per_s();
        crowd.saw(2_000 + REST_MS / 2, Duration::from_millis(3));
        assert_eq!(crowd.per_s(), before);
        crowd.saw(2_000 + 2 * REST_MS, Duration::ZERO);
        assert_eq!(crowd.per_s(), LEAST);
    }
}
