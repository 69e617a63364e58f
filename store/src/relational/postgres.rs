//! Users' data on PostgreSQL.
//!
//! * Every call ends within `timeout_ms`, waiting for a connection included; the server ends statements by itself after
//!   `statement_timeout_ms`.
//! * Calls never share a connection, and one whose call was given up is closed: the next call never waits for its answer.
//! * What was surely not done is tried again, once where the connection broke and some times after a deadlock. What may have
//!   been done is tried again only where twice is as good as once, the answer included.
//! * Times are kept as BIGINT: one beyond 2^63 milliseconds is kept as 2^63 - 1, which is as far away.
//!
//! The tables are made by the files in `store/migrations`. This module must not know what the data is for.

mod alerts;
mod audit;
mod calls;
mod connect;
mod credentials;
mod error;
mod hits;
mod migrate;
mod watchlists;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tickmesh_cluster::config::PostgresConfig;

use self::calls::Repeat;
use self::connect::Connector;
use super::Relational;
use crate::{PoolStatus, StoreError};

/// Why [`Postgres::new`] cannot use its configuration. The texts never contain the URL, which has the password.
#[derive(Debug, thiserror::Error)]
pub enum PostgresSetupError {
    /// The URL is not understood.
    #[error(
        "postgres.url cannot be used: it has the form postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require, with \
         reserved characters percent-encoded; sslmode is disable, prefer or require"
    )]
    Url,
    /// The file of certificates cannot be used.
    #[error("postgres.tls_ca {path} cannot be used: {problem}")]
    Ca {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// TLS cannot be set up.
    #[error("tls for postgres cannot be set up: {0}")]
    Tls(String),
    /// The pool of connections cannot be made.
    #[error("the pool of connections to postgres cannot be made: {0}")]
    Pool(String),
}

/// A database; clones share its connections.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    connector: Connector,
    /// Of whole calls.
    timeout: Duration,
}

impl Postgres {
    /// Prepares for the database of this configuration. It does not connect yet. It has to be called within a tokio runtime.
    ///
    /// With `sslmode=require` in the URL, or with `tls_ca`, connections are encrypted and the server's certificate and name
    /// are checked; otherwise they are plain.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: &PostgresConfig, node_name: &str) -> Result<Self, PostgresSetupError> {
        let connector = Connector::new(config, node_name)?;
        let timeout = Duration::from_millis(config.timeout_ms);
        // A connection to a server that is silent is given up early, so that the same call can still try a new one.
        let timeouts = Timeouts { wait: Some(timeout), create: Some(timeout), recycle: Some(timeout / 4) };
        // A question before each call costs a round trip, and finds the connections that a restart or a failover broke.
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Verified };
        let manager = Manager::from_connect(connector.config().clone(), connector.clone(), manager);
        let pool = Pool::builder(manager)
            .max_size(config.pool_max.max(1))
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| PostgresSetupError::Pool(error.to_string()))?;
        Ok(Self { pool, connector, timeout })
    }

    /// Its ports.
    #[must_use]
    pub fn relational(&self) -> Relational {
        let this = Arc::new(self.clone());
        Relational {
            credentials: this.clone(),
            watchlists: this.clone(),
            alerts: this.clone(),
            hits: this.clone(),
            audit: this,
        }
    }

    /// How the pool of connections is.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            size: status.size,
            available: status.available,
            waiting: status.waiting,
            max: status.max_size,
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.query(Repeat::Yes, "SELECT 1", &[]).await.map(drop)
    }
}
