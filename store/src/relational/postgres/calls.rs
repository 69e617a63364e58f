//! How calls are made: a connection for each, a time limit around all of it, and what is tried again.

use deadpool_postgres::{Object, Pool, Transaction};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::Postgres;
use super::error::{Trouble, pool_error, store_error};
use crate::StoreError;

/// Most tries where transactions meet; the time limit holds for all of them.
const CONFLICT_TRIES: u32 = 5;
/// Most tries where a connection breaks.
const BROKEN_TRIES: u32 = 2;

/// Values bound to a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Whether something may be tried again that may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Done twice, it has the same effect and the same answer.
    Yes,
    /// It does not, or its answer tells who did it.
    No,
}

/// What is done in one transaction.
pub(super) trait Work: Sync {
    /// What it answers.
    type Answer: Send;
    /// See [`Repeat`].
    const REPEAT: Repeat;

    /// Does it, without the commit. It may be called again after it was rolled back.
    fn run(&self, transaction: &Transaction<'_>)
    -> impl Future<Output = Result<Self::Answer, Failed>> + Send;
}

/// Why a try failed.
pub(super) enum Failed {
    /// By the database, surely without effect.
    Undone(Error),
    /// By the database, perhaps after it was done.
    Unknown(Error),
    /// For another reason; trying again does not help.
    Final(StoreError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Undone(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

/// A connection in use. One on which a call was given up is closed, as the next call would wait for its answer.
struct Lease {
    /// None only while it is dropped.
    object: Option<Object>,
    settled: bool,
}

impl Lease {
    fn object(&mut self) -> &mut Object {
        self.object.as_mut().unwrap_or_else(|| unreachable!("taken by drop alone"))
    }

    /// Gives the connection back.
    fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
    }
}

/// The tries of one call.
struct Tries<'a> {
    pool: &'a Pool,
    repeat: Repeat,
    made: u32,
}

impl Tries<'_> {
    /// After a try that failed: whether there is to be another one.
    fn again(&mut self, failed: Failed, lease: Lease) -> Result<(), StoreError> {
        self.made += 1;
        let (error, unknown) = match failed {
            Failed::Undone(error) => (error, false),
            Failed::Unknown(error) => (error, true),
            Failed::Final(error) => {
                lease.settle();
                return Err(error);
            }
        };
        let trouble = Trouble::of(&error);
        if matches!(trouble, Trouble::Conflict | Trouble::Other) {
            lease.settle();
        } else {
            drop(lease);
        }
        if trouble == Trouble::Stale {
            // The idle ones are as old.
            self.pool.retain(|_, _| false);
        }
        let another = match trouble {
            Trouble::Gone => self.made < BROKEN_TRIES && (!unknown || self.repeat == Repeat::Yes),
            Trouble::Stale => self.made < BROKEN_TRIES,
            Trouble::Conflict => self.made < CONFLICT_TRIES,
            Trouble::Other => false,
        };
        if !another {
            return Err(store_error(&error));
        }
        tracing::debug!(?trouble, error = %store_error(&error), "trying again");
        Ok(())
    }
}

impl Postgres {
    /// One statement, which is a transaction of its own.
    pub(super) async fn query(
        &self,
        repeat: Repeat,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.in_time(async {
            let mut tries = Tries { pool: &self.pool, repeat, made: 0 };
            loop {
                let mut lease = self.lease().await?;
                match statement(lease.object(), sql, parameters).await {
                    Ok(rows) => {
                        lease.settle();
                        return Ok(rows);
                    }
                    Err(failed) => tries.again(failed, lease)?,
                }
            }
        })
        .await
    }

    /// A transaction.
    pub(super) async fn transact<W: Work>(&self, work: &W) -> Result<W::Answer, StoreError> {
        self.in_time(async {
            let mut tries = Tries { pool: &self.pool, repeat: W::REPEAT, made: 0 };
            loop {
                let mut lease = self.lease().await?;
                match transaction(lease.object(), work).await {
                    Ok(answer) => {
                        lease.settle();
                        return Ok(answer);
                    }
                    Err(failed) => tries.again(failed, lease)?,
                }
            }
        })
        .await
    }

    async fn lease(&self) -> Result<Lease, StoreError> {
        let object = self.pool.get().await.map_err(pool_error)?;
        Ok(Lease { object: Some(object), settled: false })
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        timeout(self.timeout, call).await.unwrap_or(Err(StoreError::Timeout))
    }
}

async fn statement(object: &Object, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failed> {
    let statement = object.prepare_cached(sql).await?;
    object.query(&statement, parameters).await.map_err(Failed::Unknown)
}

async fn transaction<W: Work>(object: &mut Object, work: &W) -> Result<W::Answer, Failed> {
    let transaction = object.transaction().await?;
    // Where it fails, dropping the transaction rolls it back.
    let answer = work.run(&transaction).await?;
    transaction.commit().await.map_err(Failed::Unknown)?;
    Ok(answer)
}

/// A statement within a transaction.
pub(super) async fn rows(
    transaction: &Transaction<'_>,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>, Failed> {
    let statement = transaction.prepare_cached(sql).await?;
    Ok(transaction.query(&statement, parameters).await?)
}

/// A number as BIGINT: a time or an amount that is beyond it is cut.
pub(super) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number from BIGINT; the constraints of the tables keep it from being negative.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
