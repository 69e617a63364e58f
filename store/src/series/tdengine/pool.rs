//! Connections: a WebSocket for queries, and beside it one for bound inserts once there is something to insert.
//!
//! The driver connects at its first query, waits for ever where nobody answers, and keeps a connection that broke: so a
//! connection is asked when it is made and after it was idle, and one whose call did not end well is never used again. It
//! must not know what is asked over them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use taos::{AsyncQueryable, AsyncTBuilder, Dsn, RawError, RawResult, Stmt, Taos, TaosBuilder};
use tokio::sync::watch;
use tokio::time::timeout;

use super::bridge::{Bridge, Broken};
use super::trouble::{CONNECTION, NO_ANSWER, Trouble};

/// After so long without use a connection is asked whether it still is one.
const IDLE: Duration = Duration::from_secs(5);
/// The driver panics where the server does not tell its version within two seconds: give up before.
const CONNECT: Duration = Duration::from_millis(1_900);
/// What proves a connection: the driver's `build` does not connect.
pub(super) const PING: &str = "select server_status()";

/// One connection.
pub(super) struct Connection {
    /// For queries.
    pub(super) taos: Taos,
    stmt: Option<(Stmt, Bridge)>,
    dsn: Dsn,
    broken: Broken,
    used: Instant,
    // Behind what goes over it.
    _bridge: Bridge,
}

fn unreachable_server(error: std::io::Error) -> RawError {
    RawError::new(CONNECTION, error.to_string())
}

impl Connection {
    async fn open(dsn: &Dsn) -> RawResult<Self> {
        let broken = Arc::new(watch::channel(false).0);
        let (bridge, here) = Bridge::to(dsn, &broken).await.map_err(unreachable_server)?;
        let taos = AsyncTBuilder::build(&TaosBuilder::from_dsn(here)?).await?;
        let connection =
            Self { taos, stmt: None, dsn: dsn.clone(), broken, used: Instant::now(), _bridge: bridge };
        or_broken(connection.ended(), connection.taos.exec(PING)).await?;
        Ok(connection)
    }

    /// A statement prepared with this SQL.
    pub(super) async fn prepared(&mut self, sql: &str) -> RawResult<&mut Stmt> {
        let stmt = match self.stmt.take() {
            Some(stmt) => stmt,
            None => {
                let (bridge, here) = Bridge::to(&self.dsn, &self.broken).await.map_err(unreachable_server)?;
                let mut stmt = Stmt::from_dsn(here).await?;
                stmt.stmt_init().await?;
                (stmt, bridge)
            }
        };
        let (stmt, _) = self.stmt.insert(stmt);
        stmt.stmt_prepare(sql).await?;
        Ok(stmt)
    }

    /// Ends when the connection has, by the server or on the way.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut broken = self.broken.subscribe();
        async move {
            let _ = broken.wait_for(|broken| *broken).await;
        }
    }

    /// As far as is known.
    pub(super) fn is_open(&self) -> bool {
        !*self.broken.borrow()
    }
}

/// What a call over a connection answers, or that the connection ended: the driver would wait on.
pub(super) async fn or_broken<T, E: From<RawError>>(
    ended: impl Future<Output = ()>,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        // What was answered counts, also where the connection ended right after.
        biased;
        answer = call => answer,
        () = ended => Err(RawError::new(CONNECTION, "the connection ended").into()),
    }
}

/// Makes connections.
pub(super) struct Connector {
    dsn: Dsn,
    /// Longest wait for a new connection, and for the answer of one that was idle.
    patience: Duration,
}

impl Connector {
    /// Checks nothing but the DSN. `patience` is what a call may take.
    pub(super) fn new(dsn: Dsn, patience: Duration) -> RawResult<Self> {
        TaosBuilder::from_dsn(dsn.clone())?;
        Ok(Self { dsn, patience: patience.min(CONNECT) })
    }

    /// A connection that no pool has.
    pub(super) async fn connect(&self) -> RawResult<Connection> {
        in_time(self.patience, Connection::open(&self.dsn)).await
    }
}

async fn in_time<T>(patience: Duration, call: impl Future<Output = RawResult<T>>) -> RawResult<T> {
    timeout(patience, call).await.unwrap_or_else(|_| Err(RawError::new(NO_ANSWER, "no answer in time")))
}

impl Manager for Connector {
    type Type = Connection;
    type Error = RawError;

    async fn create(&self) -> RawResult<Connection> {
        self.connect().await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<RawError> {
        if !connection.is_open() {
            return Err(RecycleError::message("the connection ended"));
        }
        if connection.used.elapsed() < IDLE {
            return Ok(());
        }
        // A quarter, so that there is time for a new connection.
        let asked = or_broken(connection.ended(), connection.taos.exec(PING));
        in_time(self.patience / 4, asked).await.map(drop).map_err(RecycleError::Backend)
    }
}

/// A connection of the pool. Unless it was [kept](Self::keep) it is closed at the end: also where a call was cancelled, for
/// the driver may panic over an answer that nobody waits for any more.
pub(super) struct Lease(Option<Object<Connector>>);

impl Lease {
    /// Waits for one; without a bound of its own.
    pub(super) async fn of(pool: &Pool<Connector>) -> Result<Self, Trouble> {
        match pool.get().await {
            Ok(object) => Ok(Self(Some(object))),
            Err(PoolError::Backend(error)) => Err(error.into()),
            Err(other) => Err(RawError::new(CONNECTION, other.to_string()).into()),
        }
    }

    /// Back to the pool.
    pub(super) fn keep(mut self) {
        if let Some(mut object) = self.0.take() {
            object.used = Instant::now();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.as_ref().unwrap_or_else(|| unreachable!("taken at the end only"))
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.0.as_mut().unwrap_or_else(|| unreachable!("taken at the end only"))
    }
}
