//! A circuit breaker in front of a store: one that fails again and again is left alone for a while, so that who needs it is
//! told at once, and it is not buried under calls when it comes back.
//!
//! A store may have several, for those who are not to suffer from each other: each has a breaker of its own, and may have
//! [turns](Turns), so that its calls take no more than their share of the connections.
//!
//! Invariants: calls go through while the store is prepared and its breaker closed; what a store refuses for good reasons
//! counts as a success. The breaker itself is the crate `failsafe`'s.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use failsafe::failure_policy::{ConsecutiveFailures, consecutive_failures};
use failsafe::{Config, Instrument, StateMachine};
use tickmesh_cluster::config::StoresConfig;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::StoreError;

/// How many times as long as at first a store is left alone at most.
const LONGEST: u32 = 30;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Calls go through.
    Closed,
    /// The next call shows whether they may again.
    HalfOpen,
    /// The store is left alone.
    Open,
}

/// How long a store is left alone: doubled each time, up to the longest.
#[derive(Debug, Clone)]
struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        Some(pause)
    }
}

/// What is known of a store. Shared by all who use it.
#[derive(Debug, Default)]
pub struct Health {
    prepared: AtomicBool,
    breaker: AtomicU8,
    succeeded: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    opened: AtomicU64,
}

impl Health {
    /// Where its breaker stands.
    #[must_use]
    pub fn breaker(&self) -> Breaker {
        match self.breaker.load(Ordering::Relaxed) {
            0 => Breaker::Closed,
            1 => Breaker::HalfOpen,
            _ => Breaker::Open,
        }
    }

    /// It has what it needs, such as its tables, and its breaker is closed.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.prepared.load(Ordering::Relaxed) && self.breaker() == Breaker::Closed
    }

    /// It has what it needs, such as its tables.
    pub fn set_prepared(&self) {
        self.prepared.store(true, Ordering::Relaxed);
    }

    /// Calls that succeeded, that failed, and that were rejected: because the store is left alone, or because too many wait.
    #[must_use]
    pub fn calls(&self) -> [u64; 3] {
        [&self.succeeded, &self.failed, &self.rejected].map(|count| count.load(Ordering::Relaxed))
    }

    /// How often the breaker opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

/// Writes down in a store's health what its breaker does.
#[derive(Debug)]
struct Watch {
    name: &'static str,
    health: Arc<Health>,
}

impl Instrument for Watch {
    fn on_call_rejected(&self) {
        self.health.rejected.fetch_add(1, Ordering::Relaxed);
    }

    fn on_open(&self) {
        if self.health.breaker.swap(2, Ordering::Relaxed) == 0 {
            tracing::warn!(
                store = self.name,
                "the store fails again and again: it is left alone for a while"
            );
        }
        self.health.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn on_half_open(&self) {
        self.health.breaker.store(1, Ordering::Relaxed);
    }

    fn on_closed(&self) {
        if self.health.breaker.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!(store = self.name, "the store is back");
        }
    }
}

/// How many calls may be under way at once.
#[derive(Debug)]
pub struct Turns {
    free: Semaphore,
    patience: Duration,
}

impl Turns {
    /// At most so many, at least one; who gets no turn within `patience` is told [`StoreError::Busy`].
    #[must_use]
    pub fn new(most: usize, patience: Duration) -> Self {
        Self { free: Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)), patience }
    }

    async fn take(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let turn = timeout(self.patience, self.free.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(StoreError::Busy)
    }
}

/// A store behind its breaker.
pub struct Guarded<T> {
    inner: T,
    turns: Option<Turns>,
    breaker: StateMachine<ConsecutiveFailures<Pauses>, Watch>,
    health: Arc<Health>,
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("health", &self.health).finish_non_exhaustive()
    }
}

impl<T> Guarded<T> {
    /// Puts a breaker before a store, which [`Health::set_prepared`] opens for calls.
    #[must_use]
    pub fn new(name: &'static str, inner: T, config: &StoresConfig) -> Self {
        let first = Duration::from_millis(config.breaker_open_ms);
        let pauses = Pauses { next: first, longest: first * LONGEST };
        let policy = consecutive_failures(config.breaker_failures, pauses);
        let health = Arc::new(Health::default());
        let watch = Watch { name, health: health.clone() };
        let breaker = Config::new().failure_policy(policy).instrument(watch).build();
        Self { inner, turns: None, breaker, health }
    }

    /// With a bound on the calls that are under way.
    #[must_use]
    pub fn with_turns(self, turns: Turns) -> Self {
        Self { turns: Some(turns), ..self }
    }

    /// Makes a call, if the store is not left alone just now, when it is its turn.
    ///
    /// # Errors
    /// Those of the call, [`StoreError::Unavailable`] while the store is left alone or not prepared, and
    /// [`StoreError::Busy`] where others go on for too long.
    pub async fn call<'a, R, F>(&'a self, call: impl FnOnce(&'a T) -> F) -> Result<R, StoreError>
    where
        F: Future<Output = Result<R, StoreError>>,
    {
        if !self.health.prepared.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it is not prepared yet".into()));
        }
        let turn = match &self.turns {
            Some(turns) => Some(turns.take().await.inspect_err(|_| {
                // That others wait is no fault of the store: the breaker does not hear of it.
                self.health.rejected.fetch_add(1, Ordering::Relaxed);
            })?),
            None => None,
        };
        if !self.breaker.is_call_permitted() {
            return Err(StoreError::Unavailable(
                "it failed again and again and is left alone for a while".into(),
            ));
        }
        let result = call(&self.inner).await;
        drop(turn);
        match &result {
            Ok(_) | Err(StoreError::Refused(_) | StoreError::Busy) => {
                self.health.succeeded.fetch_add(1, Ordering::Relaxed);
                self.breaker.on_success();
            }
            Err(error) => {
                tracing::debug!(%error, "a call to a store failed");
                self.health.failed.fetch_add(1, Ordering::Relaxed);
                self.breaker.on_error();
            }
        }
        result
    }

    /// What is known of the store.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(config: &StoresConfig) -> Guarded<()> {
        let guarded = Guarded::new("test", (), config);
        guarded.health().set_prepared();
        guarded
    }

    async fn fail(guarded: &Guarded<()>) -> StoreError {
        let failed = guarded.call(|()| async { Err::<(), _>(StoreError::Timeout) }).await;
        failed.expect_err("it fails")
    }

    #[tokio::test]
    async fn a_store_that_fails_is_left_alone_and_tried_again() {
        let failing = async |breaker_open_ms| {
            let guarded =
                guarded(&StoresConfig { breaker_failures: 3, breaker_open_ms, ..StoresConfig::default() });
            for _ in 0..3 {
                assert_eq!(fail(&guarded).await, StoreError::Timeout);
            }
            guarded
        };
        let guarded = failing(3_600_000).await;
        assert_eq!(guarded.health().breaker(), Breaker::Open);
        assert!(matches!(fail(&guarded).await, StoreError::Unavailable(_)));
        assert_eq!(guarded.health().calls(), [0, 3, 1]);
        let guarded = failing(50).await;
        let again = async {
            while guarded.call(|()| async { Ok(()) }).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), again).await.expect("it is tried again");
        assert_eq!(guarded.health().breaker(), Breaker::Closed);
        assert!(guarded.health().is_up());
    }

    #[tokio::test]
    async fn refusals_are_no_failures() {
        let config = StoresConfig { breaker_failures: 1, breaker_open_ms: 10_000, ..StoresConfig::default() };
        let guarded = guarded(&config);
        for _ in 0..3 {
            let refused = guarded.call(|()| async { Err::<(), _>(StoreError::Refused("no".into())) }).await;
            assert_eq!(refused, Err(StoreError::Refused("no".into())));
        }
        assert_eq!(guarded.health().breaker(), Breaker::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_turn_is_told_so_and_the_breaker_is_not() {
        let config = StoresConfig { breaker_failures: 1, breaker_open_ms: 10_000, ..StoresConfig::default() };
        let guarded = guarded(&config).with_turns(Turns::new(2, Duration::from_secs(3)));
        let slow = || {
            guarded.call(|()| async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(())
            })
        };
        let (a, b, c) = tokio::join!(slow(), slow(), slow());
        assert_eq!((a, b, c), (Ok(()), Ok(()), Err(StoreError::Busy)));
        assert_eq!(guarded.health().calls(), [2, 0, 1]);
        assert_eq!(guarded.health().breaker(), Breaker::Closed);
        // Turns come back, also of calls that were given up.
        for _ in 0..4 {
            assert!(timeout(Duration::from_secs(1), slow()).await.is_err());
        }
        assert_eq!(guarded.call(|()| async { Ok(()) }).await, Ok(()));
    }

    #[tokio::test]
    async fn nothing_is_asked_before_it_is_prepared() {
        let config = StoresConfig { breaker_failures: 1, breaker_open_ms: 10, ..StoresConfig::default() };
        let guarded = Guarded::new("test", (), &config);
        let asked = guarded.call(|()| async { Ok(()) }).await;
        assert!(matches!(asked, Err(StoreError::Unavailable(_))));
        assert!(!guarded.health().is_up());
    }
}
