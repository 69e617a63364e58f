//! How often each of many may do something: users, keys, addresses.
//!
//! Invariants: nothing is kept of those who rested for as long as it takes to have all of their burst again; the limit may
//! change at any time, and then all begin anew. (What one connection may do is counted by its session, see
//! [`tickmesh_protocol::rate`]: there time is a parameter.)

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tickmesh_protocol::rate::Limit;

/// Questions after which those who rested are forgotten, at least.
const SWEEP: usize = 1_024;

/// Counts by a key.
pub struct Keyed<K: Hash + Eq + Clone> {
    /// None where there is no limit.
    limited: ArcSwapOption<Limited<K>>,
}

struct Limited<K: Hash + Eq + Clone> {
    limit: Limit,
    limiter: DefaultKeyedRateLimiter<K>,
    /// Questions since the last sweep.
    asked: AtomicUsize,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// Everybody may do it so often.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        let keyed = Self { limited: ArcSwapOption::empty() };
        keyed.set(limit);
        keyed
    }

    /// Another limit from now on. The same one changes nothing.
    pub fn set(&self, limit: Limit) {
        let now = self.limited.load();
        if now.as_ref().map_or(Limit::ANY, |limited| limited.limit).per_s == 0 && limit.per_s == 0
            || now.as_ref().is_some_and(|limited| limited.limit == limit)
        {
            return;
        }
        self.limited.store(NonZeroU32::new(limit.per_s).map(|per_s| {
            let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
            let limiter = RateLimiter::keyed(Quota::per_second(per_s).allow_burst(burst));
            Limited { limit, limiter, asked: AtomicUsize::new(0) }.into()
        }));
    }

    /// Counts once for who has the key, which is only made where there is a limit.
    ///
    /// # Errors
    /// With the time after which it may be tried again; then it does not count.
    pub fn take(&self, key: impl FnOnce() -> K) -> Result<(), Duration> {
        let limited = self.limited.load();
        let Some(Limited { limiter, asked, .. }) = limited.as_deref() else { return Ok(()) };
        let taken = limiter.check_key(&key());
        if asked.fetch_add(1, Ordering::Relaxed) >= SWEEP.max(limiter.len() / 2) {
            asked.store(0, Ordering::Relaxed);
            limiter.retain_recent();
        }
        taken.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }

    /// Of how many something is kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.limited.load().as_deref().map_or(0, |limited| limited.limiter.len())
    }

    /// Whether nothing is kept of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for Keyed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").field("kept", &self.len()).finish_non_exhaustive()
    }
}

/// Whole milliseconds, none of them too few.
#[must_use]
pub fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_a_new_limit_counts_at_once() {
        let keyed = Keyed::new(Limit::ANY);
        assert!((0..100).all(|_| keyed.take(|| "a").is_ok()));
        assert!(keyed.is_empty(), "nobody is kept where nothing is limited");
        keyed.set(Limit::new(1, 2));
        let granted = |key| (0..10).filter(|_| keyed.take(|| key).is_ok()).count();
        assert_eq!((granted("a"), granted("b")), (2, 2));
        let wait = keyed.take(|| "a").unwrap_err();
        assert!(wait > Duration::from_millis(900) && wait <= Duration::from_secs(1), "{wait:?}");
        keyed.set(Limit::new(1, 2));
        assert!(keyed.take(|| "a").is_err(), "the same limit is no other");
        keyed.set(Limit::new(1, 3));
        assert_eq!(granted("a"), 3);
        keyed.set(Limit::ANY);
        assert_eq!(granted("a"), 10);
    }

    #[test]
    fn those_who_rested_are_forgotten() {
        let keyed = Keyed::new(Limit::new(1_000_000, 1));
        (0..10 * SWEEP).for_each(|n| assert!(keyed.take(|| n).is_ok()));
        assert!(keyed.len() <= 3 * SWEEP, "{}", keyed.len());
    }

    #[test]
    fn a_wait_is_never_told_too_short() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_micros(2_001)), 3);
        assert_eq!(millis(Duration::ZERO), 1);
    }
}
