//! The stores that a configuration names.
//!
//! Opening connects to nothing: a store that is away when a process starts is prepared when it comes. The preparation (the
//! tables) goes on until it has succeeded once. After that a store of which nobody asks anything is asked now and then, so
//! that its health is known all the same.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_cluster::config::Config;
use tokio::time::{Instant, sleep};

use crate::StoreError;
#[cfg(feature = "tdengine")]
use crate::guard::Turns;
use crate::guard::{Breaker, Guarded, Health};
use crate::relational::Relational;
use crate::relational::memory::MemoryRelational;
use crate::relational::postgres::{Postgres, PostgresSetupError};
use crate::series::TimeSeries;
use crate::series::memory::{Bounds, MemorySeries};
#[cfg(feature = "tdengine")]
use crate::series::tdengine::{Tdengine, TdengineSetupError};

/// Wait before a store that could not be prepared is prepared again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a store that failed is asked whether it is there, though nobody asks for it.
const LOOK: Duration = Duration::from_secs(1);
/// After so long without a call a store is asked whether it is there.
const IDLE: Duration = Duration::from_secs(5);

/// Connections of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections that there are.
    pub size: usize,
    /// Those that are idle.
    pub available: usize,
    /// Calls that wait for one.
    pub waiting: usize,
    /// Most connections.
    pub max: usize,
}

/// Tells how a store's connections are.
pub type PoolGauge = Arc<dyn Fn() -> PoolStatus + Send + Sync>;

/// A store cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// `[postgres]`
    #[error(transparent)]
    Postgres(#[from] PostgresSetupError),
    /// `[tdengine]`
    #[cfg(feature = "tdengine")]
    #[error(transparent)]
    Tdengine(#[from] TdengineSetupError),
    /// `tdengine.dsn` is set, but the driver is not built in.
    #[cfg(not(feature = "tdengine"))]
    #[error(
        "tdengine.dsn is set, but this program was built without the feature tdengine: build one that has it with \
         `cargo build --profile dist --features tdengine`"
    )]
    NoTdengine,
}

/// Tells how many bytes are held in memory, and how many may be.
pub type BytesGauge = Arc<dyn Fn() -> (usize, usize) + Send + Sync>;

/// Ticks and bars behind a breaker.
type GuardedSeries = Arc<Guarded<Arc<dyn TimeSeries>>>;

/// The stores of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Stores {
    /// Ticks and bars, for those who write them; none where a cluster has no store for them.
    pub series: Option<GuardedSeries>,
    /// The same store, for those who ask for users what is in it: however slow their questions are, writing goes on. There
    /// where `series` is.
    pub series_reads: Option<GuardedSeries>,
    /// Users' data; none where a cluster has no store for it.
    pub users: Option<Arc<Guarded<Relational>>>,
    /// Connection pools, by the name that `health` gives their store.
    pub pools: Vec<(&'static str, PoolGauge)>,
    /// Ticks and bars, where they are in this process's memory.
    pub in_memory: Option<MemorySeries>,
    /// What is in this process's memory: `ticks`, `bars`, `users`.
    pub memory: Vec<(&'static str, BytesGauge)>,
}

impl Stores {
    /// In this process, and gone with it.
    #[must_use]
    pub fn memory(config: &Config) -> Self {
        let mut stores = Self::default();
        stores.open_memory_series(config);
        stores.open_memory_users(config);
        stores
    }

    /// What the configuration names: a store that it does not name is in memory where the broker is too, and there is none
    /// where it is not, since then no process has everything. Called on a runtime.
    ///
    /// # Errors
    /// When what it names cannot be used.
    pub fn open(config: &Config, name: &str) -> Result<Self, StoresError> {
        let embedded = config.broker.url.redis().is_none();
        let (url, dsn) = (config.postgres.url.expose(), config.tdengine.dsn.expose());
        let mut stores = Self::default();
        if !url.is_empty() {
            let postgres = Arc::new(Postgres::new(&config.postgres, name)?);
            let users = Arc::new(Guarded::new("postgres", postgres.relational(), &config.stores));
            let pool = postgres.clone();
            stores.pools.push(("users", Arc::new(move || pool.pool_status())));
            let guarded = users.clone();
            tokio::spawn(async move {
                prepare("postgres", || postgres.migrate()).await;
                guarded.health().set_prepared();
                let mut lookout = Lookout::new(guarded.health());
                loop {
                    lookout.due().await;
                    // Any query shows whether it is there.
                    let answer = guarded.call(|users| users.watchlists.list("")).await;
                    lookout.asked(answer.is_ok());
                }
            });
            stores.users = Some(users);
        } else if embedded {
            stores.open_memory_users(config);
        }
        if !dsn.is_empty() {
            stores.open_tdengine(config)?;
        } else if embedded {
            stores.open_memory_series(config);
        }
        Ok(stores)
    }

    /// What is known of each, by what it is for.
    #[must_use]
    pub fn health(&self) -> Vec<(&'static str, Arc<Health>)> {
        let series = self.series.as_ref().map(|series| ("series", series.health().clone()));
        let reads = self.series_reads.as_ref().map(|reads| ("series_reads", reads.health().clone()));
        let users = self.users.as_ref().map(|users| ("users", users.health().clone()));
        series.into_iter().chain(reads).chain(users).collect()
    }

    fn open_memory_users(&mut self, config: &Config) {
        let most = config.stores.memory_user_bytes;
        let memory = MemoryRelational::new(most);
        let users = Guarded::new("memory", memory.relational(), &config.stores);
        users.health().set_prepared();
        self.users = Some(Arc::new(users));
        self.memory.push(("users", Arc::new(move || memory.bytes())));
        tracing::info!(most, "users' data is kept in memory, in at most so many bytes");
    }

    /// For those who write, those who read, and who makes it smaller.
    fn open_memory_series(&mut self, config: &Config) {
        let bounds = Bounds { ticks: config.stores.memory_tick_bytes, bars: config.stores.memory_bar_bytes };
        let kept = MemorySeries::new(bounds);
        let guarded = || {
            let series: Arc<dyn TimeSeries> = Arc::new(kept.clone());
            let series = Guarded::new("memory", series, &config.stores);
            series.health().set_prepared();
            Arc::new(series)
        };
        (self.series, self.series_reads) = (Some(guarded()), Some(guarded()));
        let (ticks, bars) = (kept.clone(), kept.clone());
        self.memory.push(("ticks", Arc::new(move || ticks.tick_bytes())));
        self.memory.push(("bars", Arc::new(move || bars.bar_bytes())));
        self.in_memory = Some(kept);
        let Bounds { ticks, bars } = bounds;
        tracing::info!(ticks, bars, "ticks and bars are kept in memory, in at most so many bytes each");
    }

    #[cfg(feature = "tdengine")]
    fn open_tdengine(&mut self, config: &Config) -> Result<(), StoresError> {
        let tdengine = Arc::new(Tdengine::new(&config.tdengine)?);
        let series = Arc::new(Guarded::new("tdengine", tdengine.series(), &config.stores));
        let pool = tdengine.clone();
        self.pools.push(("series", Arc::new(move || pool.pool_status())));
        // Half of the connections stay with those who write.
        let patience = Duration::from_millis(config.tdengine.timeout_ms);
        let turns = Turns::new(config.tdengine.pool_max / 2, patience);
        let reads = Guarded::new("tdengine, for reading", tdengine.series(), &config.stores);
        let reads = Arc::new(reads.with_turns(turns));
        (self.series, self.series_reads) = (Some(series.clone()), Some(reads.clone()));
        tokio::spawn(async move {
            prepare("tdengine", || tdengine.prepare()).await;
            for guarded in [series, reads] {
                guarded.health().set_prepared();
                let tdengine = tdengine.clone();
                tokio::spawn(async move {
                    let mut lookout = Lookout::new(guarded.health());
                    loop {
                        lookout.due().await;
                        lookout.asked(guarded.call(|_| tdengine.ping()).await.is_ok());
                    }
                });
            }
        });
        Ok(())
    }

    #[cfg(not(feature = "tdengine"))]
    fn open_tdengine(&mut self, _: &Config) -> Result<(), StoresError> {
        Err(StoresError::NoTdengine)
    }
}

/// Prepares a store until it has succeeded.
async fn prepare<F: Future<Output = Result<(), StoreError>>>(name: &str, prepare: impl Fn() -> F) {
    let mut told = None;
    while let Err(error) = prepare().await {
        if told.as_ref() != Some(&error) {
            tracing::warn!(store = name, %error, "the store cannot be prepared, trying again");
            told = Some(error);
        }
        sleep(RETRY).await;
    }
    tracing::info!(store = name, "the store is prepared");
}

/// Says when a store is to be asked whether it is there: when it was not asked anything for a while, and every second while it
/// is left alone or gave no answer.
struct Lookout {
    health: Arc<Health>,
    /// Calls that ended, and when there were fewer.
    ended: u64,
    since: Instant,
    doubt: bool,
}

impl Lookout {
    fn new(health: &Arc<Health>) -> Self {
        let mut new = Self { health: health.clone(), ended: 0, since: Instant::now(), doubt: false };
        new.asked(true);
        new
    }

    fn ended(&self) -> u64 {
        let [succeeded, failed, _] = self.health.calls();
        succeeded + failed
    }

    /// Waits until it is.
    async fn due(&mut self) {
        loop {
            sleep(LOOK).await;
            if self.ended() != self.ended {
                // Somebody else knows more.
                self.asked(true);
            }
            if self.doubt || self.health.breaker() != Breaker::Closed || self.since.elapsed() >= IDLE {
                return;
            }
        }
    }

    /// It was, and did or did not answer.
    fn asked(&mut self, answered: bool) {
        (self.ended, self.since, self.doubt) = (self.ended(), Instant::now(), !answered);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use tickmesh_cluster::config::StoresConfig;
    use tokio::time::timeout;

    use super::*;

    #[cfg(not(feature = "tdengine"))]
    #[test]
    fn without_the_driver_it_is_said_how_to_build_it_in() {
        let mut config = Config::node_defaults();
        config.tdengine.dsn = tickmesh_cluster::config::Secret::new("taos+ws://root:hunter2@host:6041/db");
        let error = crate::check(&config).map_err(|error| error.to_string()).expect_err("no driver");
        assert!(error.contains("`cargo build --profile dist --features tdengine`"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the breaker goes by real time, which does not pause")]
    async fn that_a_store_died_is_noticed_though_nobody_asks() {
        let config = StoresConfig { breaker_failures: 5, breaker_open_ms: 1, ..StoresConfig::default() };
        let store = Guarded::new("test", (), &config);
        store.health().set_prepared();
        let (dead, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        let watching = async {
            let mut lookout = Lookout::new(store.health());
            loop {
                lookout.due().await;
                asked.fetch_add(1, Ordering::Relaxed);
                let is_dead = dead.load(Ordering::Relaxed);
                let answer = async { if is_dead { Err(StoreError::Timeout) } else { Ok(()) } };
                lookout.asked(store.call(|()| answer).await.is_ok());
            }
        };
        let story = async {
            sleep(Duration::from_secs(60)).await;
            let pings = asked.load(Ordering::Relaxed);
            assert!((9..=12).contains(&pings), "{pings} in a minute of quiet");
            // Who uses it sees for himself.
            for _ in 0..30 {
                let _ = store.call(|()| async { Ok(()) }).await;
                sleep(Duration::from_secs(1)).await;
            }
            assert!(asked.load(Ordering::Relaxed) <= pings + 1);
            dead.store(true, Ordering::Relaxed);
            timeout(Duration::from_secs(15), async {
                while store.health().is_up() {
                    sleep(Duration::from_millis(100)).await;
                }
            })
            .await
            .expect("it is known to be away");
            dead.store(false, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(60));
            timeout(Duration::from_secs(5), async {
                while !store.health().is_up() {
                    sleep(Duration::from_millis(100)).await;
                }
            })
            .await
            .expect("it is known to be back");
        };
        tokio::select! {
            never = watching => never,
            () = story => {}
        }
    }
}
