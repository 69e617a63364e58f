//! Price alerts.

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use rustc_hash::FxHashMap;
use tickmesh_protocol::market::{AlertSpec, Op, Symbol};
use tickmesh_protocol::position::{Epoch, Position};
use tokio_postgres::{Error, Row};

use super::Postgres;
use super::calls::{Failed, Parameters, Repeat, Work, bigint, rows, unsigned};
use super::error::damaged;
use super::watchlists::symbol;
use crate::StoreError;
use crate::relational::{Alert, AlertState, Alerts, rules};

/// The columns of an alert, in the order that [`alert`] reads.
macro_rules! columns {
    () => {
        "id, user_id, symbol, field, op, value, once, created_at, active, side, armed, epoch, seq"
    };
}

/// New alerts of one user take turns, as those who add to a watchlist do.
const LOCK: &str = "SELECT pg_advisory_xact_lock(2, hashtext($1))";
const CREATE: &str = concat!(
    "INSERT INTO alerts (user_id, symbol, field, op, value, once, created_at, side, armed, epoch, seq) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $9, $10, $11, $12 \
     WHERE (SELECT count(*) FROM alerts WHERE user_id = $1) < $8 RETURNING ",
    columns!()
);
const DELETE: &str = "DELETE FROM alerts WHERE id = $2 AND user_id = $1 RETURNING id";
const OF_USER: &str = concat!("SELECT ", columns!(), " FROM alerts WHERE user_id = $1 ORDER BY id");
const OF_SYMBOL: &str =
    concat!("SELECT ", columns!(), " FROM alerts WHERE symbol = $1 AND active ORDER BY id");
/// The rows are locked in order of their ids, as by all who lock several: so that no two wait for each other. What was kept
/// while it waited is seen, as PostgreSQL then looks at the new row again. Compare [`rules::replaces`].
const KEEP: &str = "WITH locked AS MATERIALIZED \
        (SELECT id FROM alerts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE) \
    UPDATE alerts SET side = new.side, armed = new.armed, epoch = new.epoch, seq = new.seq \
    FROM UNNEST($1::bigint[], $2::smallint[], $3::boolean[], $4::text[], $5::bigint[]) \
        AS new (id, side, armed, epoch, seq), locked \
    WHERE alerts.id = new.id AND locked.id = new.id \
        AND (alerts.epoch IS NULL OR alerts.epoch <> new.epoch OR alerts.seq <= new.seq)";
pub(super) const LOCK_ACTIVE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM alerts WHERE id = ANY($1) AND active ORDER BY id FOR NO KEY UPDATE"
);

struct Create<'a> {
    user_id: &'a str,
    spec: &'a AlertSpec,
    state: &'a AlertState,
    now: i64,
    most: i64,
}

impl Work for Create<'_> {
    type Answer = Option<Alert>;
    const REPEAT: Repeat = Repeat::No;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Option<Alert>, Failed> {
        rows(transaction, LOCK, &[&self.user_id]).await?;
        let AlertSpec { symbol, field, op, value, once } = self.spec;
        let (symbol, op) = (symbol.as_str(), op.as_str());
        let AlertState { side, armed, at } = self.state;
        let side = i16::from(*side);
        let (epoch, seq) = (at.as_ref().map(|at| at.epoch.as_str()), at.as_ref().map(|at| bigint(at.seq)));
        #[rustfmt::skip]
        let parameters: Parameters<'_> = &[
            &self.user_id, &symbol, field, &op, value, once, &self.now, &self.most, &side, armed, &epoch, &seq,
        ];
        let created = rows(transaction, CREATE, parameters).await?;
        Ok(created.first().map(alert).transpose()?)
    }
}

#[async_trait]
impl Alerts for Postgres {
    async fn create(
        &self,
        user_id: &str,
        spec: &AlertSpec,
        state: &AlertState,
        now: u64,
        most: usize,
    ) -> Result<Option<Alert>, StoreError> {
        rules::user(user_id)?;
        rules::spec(spec)?;
        rules::state(state)?;
        let (now, most) = (bigint(now), bigint(most as u64));
        self.transact(&Create { user_id, spec, state, now, most }).await
    }

    async fn delete(&self, user_id: &str, id: u64) -> Result<bool, StoreError> {
        let deleted = self.query(Repeat::No, DELETE, &[&user_id, &bigint(id)]).await?;
        Ok(!deleted.is_empty())
    }

    async fn of_user(&self, user_id: &str) -> Result<Vec<Alert>, StoreError> {
        self.query(Repeat::Yes, OF_USER, &[&user_id]).await?.iter().map(alert).collect()
    }

    async fn of_symbol(&self, symbol: &Symbol) -> Result<Vec<Alert>, StoreError> {
        self.query(Repeat::Yes, OF_SYMBOL, &[&symbol.as_str()]).await?.iter().map(alert).collect()
    }

    async fn keep(&self, states: &[(u64, AlertState)]) -> Result<(), StoreError> {
        // One row cannot be changed twice by one statement: the newest of each alert counts.
        let mut newest: FxHashMap<u64, &AlertState> = FxHashMap::default();
        for (id, state) in states {
            rules::state(state)?;
            let kept = newest.entry(*id).or_insert(state);
            if rules::replaces(state, kept) {
                *kept = state;
            }
        }
        if newest.is_empty() {
            return Ok(());
        }
        let columns = States::of(newest.into_iter());
        self.query(Repeat::Yes, KEEP, &columns.parameters()).await.map(drop)
    }
}

/// States as columns, for `UNNEST`.
pub(super) struct States<'a> {
    ids: Vec<i64>,
    sides: Vec<i16>,
    armed: Vec<bool>,
    epochs: Vec<Option<&'a str>>,
    seqs: Vec<Option<i64>>,
}

impl<'a> States<'a> {
    pub(super) fn of(states: impl Iterator<Item = (u64, &'a AlertState)>) -> Self {
        let (ids, sides, armed, epochs, seqs) = Default::default();
        let mut columns = Self { ids, sides, armed, epochs, seqs };
        for (id, state) in states {
            columns.ids.push(bigint(id));
            columns.sides.push(i16::from(state.side));
            columns.armed.push(state.armed);
            columns.epochs.push(state.at.as_ref().map(|at| at.epoch.as_str()));
            columns.seqs.push(state.at.as_ref().map(|at| bigint(at.seq)));
        }
        columns
    }

    pub(super) fn parameters(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 5] {
        [&self.ids, &self.sides, &self.armed, &self.epochs, &self.seqs]
    }
}

/// Reads the columns of an alert.
pub(super) fn alert(row: &Row) -> Result<Alert, StoreError> {
    let spec = spec(row, 2)?;
    read(row, spec).map_err(|error| damaged(&error))
}

fn read(row: &Row, spec: AlertSpec) -> Result<Alert, Error> {
    let side: i16 = row.try_get(9)?;
    let (epoch, seq): (Option<&str>, Option<i64>) = (row.try_get(11)?, row.try_get(12)?);
    let at = epoch.zip(seq).map(|(epoch, seq)| Position { epoch: Epoch::new(epoch), seq: unsigned(seq) });
    Ok(Alert {
        id: unsigned(row.try_get(0)?),
        user_id: row.try_get(1)?,
        spec,
        created_at: unsigned(row.try_get(7)?),
        active: row.try_get(8)?,
        state: AlertState { side: side.signum() as i8, armed: row.try_get(10)?, at },
    })
}

/// Reads symbol, field, op, value and once, from this column on.
pub(super) fn spec(row: &Row, first: usize) -> Result<AlertSpec, StoreError> {
    let read = || Ok((row.try_get(first)?, row.try_get(first + 2)?));
    let (name, op): (&str, &str) = read().map_err(|error| damaged(&error))?;
    let symbol = symbol(name)?;
    let op = Op::parse(op).ok_or_else(|| StoreError::Damaged("the op of an alert".into()))?;
    let rest = || {
        let (field, value, once) =
            (row.try_get(first + 1)?, row.try_get(first + 3)?, row.try_get(first + 4)?);
        Ok(AlertSpec { symbol, field, op, value, once })
    };
    rest().map_err(|error| damaged(&error))
}
