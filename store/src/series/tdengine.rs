//! The time-series store on TDengine, over taosAdapter's WebSocket.
//!
//! | super table | rows | child table |
//! |---|---|---|
//! | `tick_data` | messages of recorded rooms; primary key `(ts, seq)` | one for each room |
//! | `minute_kline`, `daily_kline` | bars of less than a day, of a day | one for each symbol and period |
//! | `record_position` | up to where a room is written | one for each room |
//!
//! # Invariants
//!
//! * **Bound.** What came from outside travels as bound parameters; of it only names of tables are part of SQL, and those
//!   are made of `[a-z0-9_]`. Of our own, only integers are.
//! * **Rows first.** A room's position is written after the rows it tells of. It is kept under the present hour, so that few
//!   rows of it pile up; a clock that is behind can only make it older.
//! * **In time.** Every wait ends after `timeout_ms`. The driver may wait for ever, and may panic: both end as errors, and
//!   such a connection is closed.
//! * **Secret.** No error and no log has the DSN's password or token.
//!
//! Connections go through a bridge in this process, which makes up for what the driver's sockets lack. The driver
//! binds by the protocol's first kind of statement (`stmt`): that of a table takes four turns, so tables are
//! written over several connections at once. Its queries take no parameters.
//!
//! An exchange is a tag: a table keeps the one that its first row named.
//!
//! This module must not know who records, and why.

mod bridge;
mod names;
mod pool;
mod read;
mod schema;
mod trouble;
mod write;

use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool::managed::Pool;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use taos::{AsyncQueryable, Dsn};
use tickmesh_cluster::config::TdengineConfig;
use tickmesh_protocol::market::Timeframe;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tokio::time::timeout;

use self::pool::{Connector, Lease, PING, or_broken};
use self::schema::Days;
use self::trouble::{Trouble, told};
use self::write::Write;
use super::{BarQuery, KeptBar, RoomRows, Row, Select, TimeSeries, within};
use crate::StoreError;
use crate::open::PoolStatus;

/// The database where the DSN names none.
const DATABASE: &str = "tickmesh";
/// Tables that one connection writes before it is worth to use another one.
const TABLES_PER_LANE: usize = 8;
/// Connections that one call writes over, at most; and never more than half of the pool.
const MOST_LANES: usize = 4;

/// What is wrong with the configuration. The DSN itself is a secret and never part of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdengineSetupError {
    /// It cannot be read.
    #[error("tdengine.dsn cannot be read: expected is taos+ws://user:password@host:port/database")]
    Dsn,
    /// The driver is built for WebSockets without TLS only.
    #[error("tdengine.dsn: only taos+ws:// is supported, without tls")]
    Scheme,
    /// The name of the database.
    #[error(
        "tdengine.dsn: the database's name has 1 to 32 characters of a-z 0-9 _ and does not begin with a digit"
    )]
    Database,
    /// A number.
    #[error("tdengine.pool_max is at least 1")]
    Pool,
}

/// TDengine. Clones share the connections.
#[derive(Clone)]
pub struct Tdengine {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool<Connector>,
    /// Without a database, for creating it.
    setup: Connector,
    database: String,
    days: Days,
    timeout: Duration,
    lanes: usize,
    /// What no text may name.
    secrets: Vec<String>,
}

impl Tdengine {
    /// Reads the configuration; does not connect.
    ///
    /// # Errors
    /// When the DSN cannot be used.
    pub fn new(config: &TdengineConfig) -> Result<Self, TdengineSetupError> {
        let mut dsn = Dsn::from_str(config.dsn.expose()).map_err(|_| TdengineSetupError::Dsn)?;
        match (dsn.driver.as_str(), dsn.protocol.as_deref()) {
            ("ws" | "http", None) | ("taos" | "taosws", None | Some("ws" | "http")) => {}
            _ => return Err(TdengineSetupError::Scheme),
        }
        let database =
            dsn.subject.take().filter(|name| !name.is_empty()).unwrap_or_else(|| DATABASE.to_owned());
        if !names::is_database(&database) {
            return Err(TdengineSetupError::Database);
        }
        let token = dsn.params.get("token");
        let secrets = dsn.password.iter().chain(token).filter(|text| !text.is_empty()).cloned().collect();
        let patience = Duration::from_millis(config.timeout_ms.max(1));
        let setup = Connector::new(dsn.clone(), patience).map_err(|_| TdengineSetupError::Dsn)?;
        dsn.subject = Some(database.clone());
        let connector = Connector::new(dsn, patience).map_err(|_| TdengineSetupError::Dsn)?;
        if config.pool_max == 0 {
            return Err(TdengineSetupError::Pool);
        }
        let pool = Pool::builder(connector)
            .max_size(config.pool_max)
            .build()
            .map_err(|_| TdengineSetupError::Pool)?;
        let shared = Shared {
            pool,
            setup,
            database,
            days: Days::of(config),
            timeout: patience,
            lanes: (config.pool_max / 2).clamp(1, MOST_LANES),
            secrets,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The store. Until [`prepare`](Self::prepare) succeeded once in the life of the database, calls fail.
    #[must_use]
    pub fn series(&self) -> Arc<dyn TimeSeries> {
        self.shared.clone()
    }

    /// Creates the database and its tables where they are not there. Each step has the configured time for itself.
    ///
    /// # Errors
    /// As every call; it may be done again.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        let connection = shared.call(async { Ok(shared.setup.connect().await?) }.boxed()).await?;
        let taos = &connection.taos;
        let create = schema::database(taos, &shared.database, shared.days).boxed();
        shared.call(or_broken(connection.ended(), create).boxed()).await?;
        for table in schema::tables(shared.days) {
            let create = schema::table(taos, &shared.database, &table, shared.days).boxed();
            shared.call(or_broken(connection.ended(), create).boxed()).await?;
        }
        Ok(())
    }

    /// Asks the server whether it is there.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        let ask = async {
            let lease = Lease::of(&shared.pool).await?;
            or_broken(lease.ended(), lease.taos.exec(PING)).await?;
            lease.keep();
            Ok(())
        };
        shared.call(ask.boxed()).await
    }

    /// Connections.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        let status = self.shared.pool.status();
        PoolStatus {
            size: status.size,
            available: status.available,
            waiting: status.waiting,
            max: status.max_size,
        }
    }
}

impl Shared {
    /// Runs a call for as long as it may take, and turns whatever becomes of it into a result.
    async fn call<T>(&self, work: BoxFuture<'_, Result<T, Trouble>>) -> Result<T, StoreError> {
        // The driver unwraps what servers answer.
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = match timeout(self.timeout, work).await {
            Err(_) => Err(StoreError::Timeout),
            Ok(Err(_)) => Err(StoreError::Unavailable("the driver gave up on the server's answer".into())),
            Ok(Ok(result)) => result.map_err(|trouble| told(trouble, &self.secrets)),
        };
        if let Err(StoreError::Timeout | StoreError::Unavailable(_)) = &result {
            // What waits in the pool is as old as what got no answer: likely it gets none either, and would cost a call each.
            let timed_out = result.as_ref().is_err_and(|error| *error == StoreError::Timeout);
            drop(self.pool.retain(|connection, _| !timed_out && connection.is_open()));
        }
        result
    }

    /// Writes items over one connection for each few of them.
    async fn spread<T: Write>(&self, items: &[T]) -> Result<(), StoreError> {
        let lanes = items.len().div_ceil(TABLES_PER_LANE).clamp(1, self.lanes);
        let mut work = Vec::with_capacity(lanes);
        for items in items.chunks(items.len().div_ceil(lanes).max(1)) {
            work.push(self.lane(items));
        }
        // All of them end, so that one that fails takes no other's rows with it.
        self.call(async { join_all(work).await.into_iter().collect() }.boxed()).await
    }

    async fn lane<T: Write>(&self, items: &[T]) -> Result<(), Trouble> {
        let mut lease = Lease::of(&self.pool).await?;
        or_broken(lease.ended(), T::write(&mut lease, items)).await?;
        lease.keep();
        Ok(())
    }

    /// What a query finds; nothing where its table is not there.
    async fn query<T: Send + Sync>(
        &self,
        sql: &str,
        read: impl Fn(&taos::RawBlock, &mut Vec<T>) -> Result<(), StoreError> + Send,
    ) -> Result<Vec<T>, StoreError> {
        self.query_until(sql, read, |_| false).await
    }

    /// What it finds until that is enough.
    async fn query_until<T: Send + Sync>(
        &self,
        sql: &str,
        read: impl Fn(&taos::RawBlock, &mut Vec<T>) -> Result<(), StoreError> + Send,
        enough: impl Fn(&[T]) -> bool + Send,
    ) -> Result<Vec<T>, StoreError> {
        let ask = async {
            let lease = Lease::of(&self.pool).await?;
            let found = or_broken(lease.ended(), read::select(&lease.taos, sql, read, enough)).await?;
            // The rest of an answer that was not read to its end ends with its connection.
            if found.whole {
                lease.keep();
            }
            Ok(found.rows)
        };
        self.call(ask.boxed()).await
    }
}

#[async_trait]
impl TimeSeries for Shared {
    async fn append(&self, rooms: &[RoomRows]) -> Result<(), StoreError> {
        if rooms.iter().all(|room| room.rows.is_empty()) {
            return Ok(());
        }
        let rooms = write::Room::of(rooms)?;
        self.spread(&rooms).await
    }

    async fn position(&self, room: &RoomName) -> Result<Option<Position>, StoreError> {
        let found = self.query(&read::position_sql(room)?, read::positions).await?;
        Ok(found.into_iter().next())
    }

    async fn rows(&self, room: &RoomName, select: &Select) -> Result<Vec<Row>, StoreError> {
        let Some(sql) = read::rows_sql(room, select)? else { return Ok(Vec::new()) };
        let bytes = select.bytes();
        let count = |rows: &[Row]| within(rows.iter().map(|row| row.message.data.get().len()), bytes);
        let enough = |rows: &[Row]| count(rows) < rows.len();
        let mut rows = self.query_until(&sql, read::rows, enough).await?;
        rows.truncate(count(&rows));
        match select {
            Select::Seqs { .. } | Select::Newest { .. } => rows.sort_by_key(|row| (row.message.seq, row.at)),
            Select::First { .. } => {}
            Select::Last { .. } => rows.reverse(),
        }
        Ok(rows)
    }

    async fn put_bars(&self, bars: &[KeptBar]) -> Result<(), StoreError> {
        if bars.is_empty() {
            return Ok(());
        }
        let tables = write::Bars::of(bars)?;
        self.spread(&tables).await
    }

    async fn bars(&self, query: &BarQuery) -> Result<Vec<KeptBar>, StoreError> {
        let Some(sql) = read::bars_sql(query)? else { return Ok(Vec::new()) };
        let mut bars = match query.timeframe {
            Timeframe::Kept(period) => {
                self.query(&sql, |block, found| read::bars(block, found, query, period)).await?
            }
            Timeframe::Minutes(minutes) => {
                let mut bars =
                    self.query(&sql, |block, found| read::windows(block, found, query, minutes)).await?;
                if !bars.is_empty() {
                    let exchange = self.query(&read::exchange_sql(query)?, read::exchanges).await?;
                    let exchange = exchange.into_iter().next().unwrap_or_default();
                    bars.iter_mut().for_each(|kept| kept.exchange.clone_from(&exchange));
                }
                bars
            }
        };
        if query.newest {
            bars.reverse();
        }
        Ok(bars)
    }
}

#[cfg(test)]
mod tests;
