//! The stores that a configuration names.
//!
//! Opening connects to nothing: a store that is away when a process starts is prepared when it comes. The preparation (the
//! tables) goes on until it has succeeded once.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_cluster::config::Config;
use tokio::time::sleep;

use crate::StoreError;
use crate::guard::{Breaker, Guarded, Health};
use crate::relational::Relational;
use crate::relational::memory::MemoryRelational;
use crate::relational::postgres::{Postgres, PostgresSetupError};
use crate::series::TimeSeries;
use crate::series::memory::MemorySeries;
#[cfg(feature = "tdengine")]
use crate::series::tdengine::{Tdengine, TdengineSetupError};

/// Wait before a store that could not be prepared is prepared again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a store that is left alone is looked at though nobody asks for it.
const LOOK: Duration = Duration::from_secs(1);

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
    #[error("tdengine.dsn is set, but this program was built without the feature tdengine")]
    NoTdengine,
}

/// The stores of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Stores {
    /// Ticks and bars; none where a cluster has no store for them.
    pub series: Option<Arc<Guarded<Arc<dyn TimeSeries>>>>,
    /// Users' data; none where a cluster has no store for it.
    pub users: Option<Arc<Guarded<Relational>>>,
    /// Connection pools, by the name that `health` gives their store.
    pub pools: Vec<(&'static str, PoolGauge)>,
}

impl Stores {
    /// In this process, and gone with it.
    #[must_use]
    pub fn memory(config: &Config) -> Self {
        Self { series: Some(memory_series(config)), users: Some(memory_users(config)), pools: Vec::new() }
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
                loop {
                    left_alone(guarded.health()).await;
                    // Any query shows whether it is back.
                    let _ = guarded.call(|users| users.watchlists.list("")).await;
                }
            });
            stores.users = Some(users);
        } else if embedded {
            stores.users = Some(memory_users(config));
        }
        if !dsn.is_empty() {
            stores.open_tdengine(config)?;
        } else if embedded {
            stores.series = Some(memory_series(config));
        }
        Ok(stores)
    }

    /// What is known of each, by what it is for.
    #[must_use]
    pub fn health(&self) -> Vec<(&'static str, Arc<Health>)> {
        let series = self.series.as_ref().map(|series| ("series", series.health().clone()));
        let users = self.users.as_ref().map(|users| ("users", users.health().clone()));
        series.into_iter().chain(users).collect()
    }

    #[cfg(feature = "tdengine")]
    fn open_tdengine(&mut self, config: &Config) -> Result<(), StoresError> {
        let tdengine = Arc::new(Tdengine::new(&config.tdengine)?);
        let series = Arc::new(Guarded::new("tdengine", tdengine.series(), &config.stores));
        let pool = tdengine.clone();
        self.pools.push(("series", Arc::new(move || pool.pool_status())));
        let guarded = series.clone();
        tokio::spawn(async move {
            prepare("tdengine", || tdengine.prepare()).await;
            guarded.health().set_prepared();
            loop {
                left_alone(guarded.health()).await;
                let _ = guarded.call(|_| tdengine.ping()).await;
            }
        });
        self.series = Some(series);
        Ok(())
    }

    #[cfg(not(feature = "tdengine"))]
    fn open_tdengine(&mut self, _: &Config) -> Result<(), StoresError> {
        Err(StoresError::NoTdengine)
    }
}

fn memory_users(config: &Config) -> Arc<Guarded<Relational>> {
    let users = Guarded::new("memory", MemoryRelational::default().relational(), &config.stores);
    users.health().set_prepared();
    Arc::new(users)
}

fn memory_series(config: &Config) -> Arc<Guarded<Arc<dyn TimeSeries>>> {
    let series: Arc<dyn TimeSeries> = Arc::new(MemorySeries::default());
    let series = Guarded::new("memory", series, &config.stores);
    series.health().set_prepared();
    Arc::new(series)
}

/// Prepares a store until it has succeeded.
async fn prepare<F: Future<Output = Result<(), StoreError>>>(name: &str, prepare: impl Fn() -> F) {
    let mut told = None;
    while let Err(error) = prepare().await {
        if told.as_ref() != Some(&error) {
            tracing::warn!(store = name, %error, "the store cannot be prepared, will try again");
            told = Some(error);
        }
        sleep(RETRY).await;
    }
    tracing::info!(store = name, "the store is prepared");
}

/// Waits until a store is left alone, so that somebody asks it whether it is back.
async fn left_alone(health: &Health) {
    loop {
        sleep(LOOK).await;
        if health.breaker() != Breaker::Closed {
            return;
        }
    }
}
