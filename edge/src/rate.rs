//! How often each of many may do something: users, keys, addresses.
//!
//! Invariants: nothing is kept of those who rested for as long as it takes to have all of their burst again; the limit may
//! change at any time, and then all begin anew. The count of one key is a [`Bucket`], as that of one connection is.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tickmesh_protocol::rate::{Bucket, Limit};

/// Questions after which those who rested are forgotten, at least.
const SWEEP: usize = 1_024;

/// Counts by a key.
pub struct Keyed<K> {
    /// Zero of the clock that the buckets go by.
    began: Instant,
    counts: Mutex<Counts<K>>,
}

struct Counts<K> {
    limit: Limit,
    used: HashMap<K, Bucket>,
    /// Questions since the last sweep.
    asked: usize,
}

impl<K: Hash + Eq> Keyed<K> {
    /// Everybody may do it so often.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        let counts = Counts { limit, used: HashMap::new(), asked: 0 };
        Self { began: Instant::now(), counts: Mutex::new(counts) }
    }

    /// Another limit from now on. The same one changes nothing.
    pub fn set(&self, limit: Limit) {
        let mut counts = self.counts.lock();
        if counts.limit != limit {
            *counts = Counts { limit, used: HashMap::new(), asked: 0 };
        }
    }

    /// Counts once for who has the key, which is only made where there is a limit.
    ///
    /// # Errors
    /// With the time after which it may be tried again; then it does not count.
    pub fn take(&self, key: impl FnOnce() -> K) -> Result<(), Duration> {
        self.take_at(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), key)
    }

    /// The same at a time in milliseconds.
    fn take_at(&self, now: u64, key: impl FnOnce() -> K) -> Result<(), Duration> {
        let mut counts = self.counts.lock();
        let Counts { limit, used, asked } = &mut *counts;
        if limit.per_s == 0 {
            return Ok(());
        }
        let taken = used.entry(key()).or_default().take(*limit, now);
        *asked += 1;
        if *asked > SWEEP.max(used.len() / 2) {
            *asked = 0;
            used.retain(|_, bucket| !bucket.is_empty(now));
        }
        taken.map_err(Duration::from_millis)
    }

    /// Of how many something is kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.lock().used.len()
    }

    /// Whether nothing is kept of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq> fmt::Debug for Keyed<K> {
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
        let granted = |key| (0..10).filter(|_| keyed.take_at(5, || key).is_ok()).count();
        assert_eq!((granted("a"), granted("b")), (2, 2));
        assert_eq!(keyed.take_at(5, || "a"), Err(Duration::from_secs(1)));
        keyed.set(Limit::new(1, 2));
        assert!(keyed.take_at(5, || "a").is_err(), "the same limit is no other");
        keyed.set(Limit::new(1, 3));
        assert_eq!(granted("a"), 3);
        keyed.set(Limit::ANY);
        assert_eq!(granted("a"), 10);
    }

    #[test]
    fn those_who_rested_are_forgotten() {
        let keyed = Keyed::new(Limit::new(1_000, 1));
        // A key each millisecond, after which it has rested.
        (0..10 * SWEEP).for_each(|n| assert!(keyed.take_at(n as u64, || n).is_ok()));
        assert!(keyed.len() <= SWEEP + 1, "{}", keyed.len());
    }

    #[test]
    fn a_wait_is_never_told_too_short() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_micros(2_001)), 3);
        assert_eq!(millis(Duration::ZERO), 1);
    }
}
