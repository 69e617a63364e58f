//! Rate limits by the generic cell rate algorithm (ITU-T I.371): a bucket is one number, the time at which it would be empty.
//!
//! Both the present and the limit are parameters: a limit may change between two calls, and what was used before still
//! counts. It must not know what it limits.

use serde::{Deserialize, Serialize};

const NANOS_PER_MS: u64 = 1_000_000;
const NANOS_PER_S: u64 = 1_000_000_000;

/// How often something may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Times a second in the long run; 0 for any number.
    pub per_s: u32,
    /// Times at once after a rest; 0 counts as 1.
    pub burst: u32,
}

/// What was used of a limit lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds, on the clock of the calls, at which nothing is used any more.
    empty_at: u64,
}

impl Limit {
    /// No limit.
    pub const ANY: Self = Self { per_s: 0, burst: 0 };

    /// So many a second, and after a rest as many at once as in so many seconds.
    #[must_use]
    pub fn new(per_s: u32, burst_s: u32) -> Self {
        Self { per_s, burst: per_s.saturating_mul(burst_s).max(1) }
    }
}

impl Bucket {
    /// Uses the limit once, at a time in milliseconds on a clock that never goes back.
    ///
    /// # Errors
    /// With the milliseconds, at least 1, after which it may be tried again; then nothing was used.
    pub fn take(&mut self, limit: Limit, now_ms: u64) -> Result<(), u64> {
        if limit.per_s == 0 {
            return Ok(());
        }
        let each = NANOS_PER_S / u64::from(limit.per_s);
        let room = each * u64::from(limit.burst.max(1) - 1);
        let now = now_ms.saturating_mul(NANOS_PER_MS);
        let used = self.empty_at.saturating_sub(now);
        if used > room {
            return Err((used - room).div_ceil(NANOS_PER_MS).max(1));
        }
        self.empty_at = now + used + each;
        Ok(())
    }

    /// Whether nothing of the limit is used at a time in milliseconds: then the bucket is as good as a new one.
    #[must_use]
    pub fn is_empty(&self, now_ms: u64) -> bool {
        self.empty_at <= now_ms.saturating_mul(NANOS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let (mut bucket, limit) = (Bucket::default(), Limit::new(10, 1));
        let granted = (0..20).filter(|_| bucket.take(limit, 5_000).is_ok()).count();
        assert_eq!(granted, 10);
        assert_eq!(bucket.take(limit, 5_000), Err(100));
        assert_eq!(bucket.take(limit, 5_099), Err(1));
        assert_eq!(bucket.take(limit, 5_100), Ok(()));
        assert!(bucket.take(limit, 5_100).is_err());
        let rested = (0..20).filter(|_| bucket.take(limit, 60_000).is_ok()).count();
        assert_eq!(rested, 10, "no more than a burst is saved up");
    }

    #[test]
    fn no_limit_and_one_that_changes() {
        let mut bucket = Bucket::default();
        assert!((0..1_000).all(|_| bucket.take(Limit::ANY, 1).is_ok()));
        let slow = Limit { per_s: 1, burst: 1 };
        assert_eq!(bucket.take(slow, 1), Ok(()), "what was free is not counted afterwards");
        assert_eq!(bucket.take(slow, 2), Err(999));
        assert_eq!(bucket.take(Limit { per_s: 1, burst: 2 }, 2), Ok(()));
    }

    proptest! {
        /// In no span are there more than a burst and what the rate gives, and who waits as told is served.
        #[test]
        fn never_more_than_the_limit(
            per_s in 1u32..5_000,
            burst in 1u32..100,
            steps in prop::collection::vec(0u64..50, 1..300),
        ) {
            let (limit, mut bucket) = (Limit { per_s, burst }, Bucket::default());
            let (mut now, mut granted) = (1_000, 0);
            for step in steps {
                now += step;
                match bucket.take(limit, now) {
                    Ok(()) => granted += 1,
                    Err(wait) => {
                        let mut later = bucket;
                        prop_assert!(later.take(limit, now + wait).is_ok());
                        prop_assert!(wait == 1 || bucket.take(limit, now + wait - 2).is_err());
                    }
                }
            }
            let span = now - 1_000;
            prop_assert!(granted <= u64::from(burst) + (span + 1) * u64::from(per_s) / 1_000 + 1);
        }
    }
}
