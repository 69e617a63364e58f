//! Hits of alerts.

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use rustc_hash::{FxHashMap, FxHashSet};
use tickmesh_protocol::position::{Epoch, Position};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::Postgres;
use super::alerts::{LOCK_ACTIVE, States, alert, spec};
use super::calls::{Failed, Parameters, Repeat, Work, bigint, rows, unsigned};
use super::error::damaged;
use crate::StoreError;
use crate::relational::{ACKNOWLEDGED_MS, Alert, AlertState, Hit, Hits, rules};

const INSERT: &str = "INSERT INTO alert_hits (alert_id, user_id, epoch, seq, reached, at) \
    SELECT alert_id, user_id, epoch, seq, reached, at FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::bigint[], \
        $5::double precision[], $6::bigint[]) WITH ORDINALITY AS new (alert_id, user_id, epoch, seq, reached, at, place) \
    ORDER BY place ON CONFLICT (alert_id, epoch, seq) DO NOTHING RETURNING id, alert_id, epoch, seq";
/// The rows are locked, and their alerts were active.
const SETTLE: &str = "UPDATE alerts SET side = new.side, armed = new.armed, epoch = new.epoch, seq = new.seq, \
        active = NOT once \
    FROM UNNEST($1::bigint[], $2::smallint[], $3::boolean[], $4::text[], $5::bigint[]) \
        AS new (id, side, armed, epoch, seq) \
    WHERE alerts.id = new.id";
const PENDING: &str = "SELECT hit.id, alert_id, hit.user_id, symbol, field, op, value, once, reached, hit.epoch, hit.seq, at \
    FROM (SELECT * FROM alert_hits WHERE user_id = $1 AND acknowledged_at IS NULL ORDER BY id DESC LIMIT $2) AS hit \
    JOIN alerts ON alerts.id = alert_id ORDER BY hit.id";
const ACKNOWLEDGE: &str = "WITH forgotten AS \
        (DELETE FROM alert_hits WHERE user_id = $1 AND acknowledged_at <= $4) \
    UPDATE alert_hits SET acknowledged_at = $3 \
    WHERE id = $2 AND user_id = $1 AND acknowledged_at IS NULL RETURNING id";
const UNTOLD: &str = "SELECT hit.id, alert_id, hit.user_id, symbol, field, op, value, once, reached, hit.epoch, hit.seq, at \
    FROM (SELECT * FROM alert_hits WHERE NOT told AND acknowledged_at IS NULL ORDER BY id LIMIT $1) AS hit \
    JOIN alerts ON alerts.id = alert_id ORDER BY hit.id";
const TOLD: &str = "UPDATE alert_hits SET told = TRUE WHERE id = ANY($1)";

/// Keeps hits, and answers with those that are new. It is not repeated where it may have been done: nobody would be answered
/// with the hits then.
struct Fire<'a> {
    hits: &'a [(Hit, AlertState)],
}

impl Work for Fire<'_> {
    type Answer = Vec<Hit>;
    const REPEAT: Repeat = Repeat::No;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<Hit>, Failed> {
        let ids: Vec<_> = self.hits.iter().map(|(hit, _)| bigint(hit.alert_id)).collect();
        // Who fires for the same alerts waits here, and then sees what this one left.
        let mut alerts = FxHashMap::default();
        for row in rows(transaction, LOCK_ACTIVE, &[&ids]).await? {
            let alert = alert(&row)?;
            alerts.insert(alert.id, alert);
        }
        let wanted = self.wanted(&alerts);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let inserted = insert(transaction, &wanted, &alerts).await?;
        let mut new = Vec::new();
        let mut changed = FxHashSet::default();
        for (hit, state) in wanted {
            let Some(hit_id) = inserted.get(&key(hit)) else { continue };
            let Some(alert) = alerts.get_mut(&hit.alert_id) else { continue };
            if rules::replaces(state, &alert.state) {
                alert.state = state.clone();
            }
            new.push(rules::hit_of(alert, hit, *hit_id));
            changed.insert(alert.id);
        }
        let states = changed.iter().filter_map(|id| Some((*id, &alerts.get(id)?.state)));
        rows(transaction, SETTLE, &States::of(states).parameters()).await?;
        Ok(new)
    }
}

impl<'a> Fire<'a> {
    /// Hits of alerts that are there and active, each position once; of an alert with `once` the first.
    fn wanted(&self, alerts: &FxHashMap<u64, Alert>) -> Vec<&'a (Hit, AlertState)> {
        let (mut over, mut seen) = (FxHashSet::default(), FxHashSet::default());
        let wanted = |(hit, _): &&'a (Hit, AlertState)| {
            alerts
                .get(&hit.alert_id)
                .is_some_and(|alert| seen.insert(key(hit)) && (!alert.spec.once || over.insert(alert.id)))
        };
        self.hits.iter().filter(wanted).collect()
    }
}

/// What there is one hit of: alert, epoch and sequence number.
type Key = (u64, Epoch, u64);

fn key(hit: &Hit) -> Key {
    (hit.alert_id, hit.position.epoch.clone(), hit.position.seq)
}

/// Inserts hits; answers with the ids of those that were not there.
async fn insert(
    transaction: &Transaction<'_>,
    hits: &[&(Hit, AlertState)],
    alerts: &FxHashMap<u64, Alert>,
) -> Result<FxHashMap<Key, u64>, Failed> {
    let ids: Vec<_> = hits.iter().map(|(hit, _)| bigint(hit.alert_id)).collect();
    let users: Vec<_> =
        hits.iter().map(|(hit, _)| alerts.get(&hit.alert_id).map(|alert| alert.user_id.as_str())).collect();
    let epochs: Vec<_> = hits.iter().map(|(hit, _)| hit.position.epoch.as_str()).collect();
    let seqs: Vec<_> = hits.iter().map(|(hit, _)| bigint(hit.position.seq)).collect();
    let reached: Vec<_> = hits.iter().map(|(hit, _)| hit.reached).collect();
    let at: Vec<_> = hits.iter().map(|(hit, _)| bigint(hit.at)).collect();
    let parameters: [&(dyn ToSql + Sync); 6] = [&ids, &users, &epochs, &seqs, &reached, &at];
    let inserted = rows(transaction, INSERT, &parameters).await?;
    let named = |row: &Row| {
        let Position { epoch, seq } = position(row, 2)?;
        Ok(((unsigned(row.try_get(1)?), epoch, seq), unsigned(row.try_get(0)?)))
    };
    let ids: Result<_, Error> = inserted.iter().map(named).collect();
    Ok(ids.map_err(|error| damaged(&error))?)
}

#[async_trait]
impl Hits for Postgres {
    async fn fire(&self, hits: &[(Hit, AlertState)]) -> Result<Vec<Hit>, StoreError> {
        for (hit, state) in hits {
            rules::hit(hit)?;
            rules::state(state)?;
        }
        if hits.is_empty() {
            return Ok(Vec::new());
        }
        self.transact(&Fire { hits }).await
    }

    async fn pending(&self, user_id: &str, most: usize) -> Result<Vec<Hit>, StoreError> {
        let rows = self.query(Repeat::Yes, PENDING, &[&user_id, &bigint(most as u64)]).await?;
        rows.iter().map(hit).collect()
    }

    async fn acknowledge(&self, user_id: &str, hit_id: u64, now: u64) -> Result<bool, StoreError> {
        // Of a time before 1970 there is nothing to forget.
        let old = now.checked_sub(ACKNOWLEDGED_MS).map(bigint);
        let parameters: Parameters<'_> = &[&user_id, &bigint(hit_id), &bigint(now), &old];
        let acknowledged = self.query(Repeat::No, ACKNOWLEDGE, parameters).await?;
        Ok(!acknowledged.is_empty())
    }

    async fn untold(&self, most: usize) -> Result<Vec<Hit>, StoreError> {
        let rows = self.query(Repeat::Yes, UNTOLD, &[&bigint(most as u64)]).await?;
        rows.iter().map(hit).collect()
    }

    async fn told(&self, hits: &[u64]) -> Result<(), StoreError> {
        let ids: Vec<_> = hits.iter().map(|id| bigint(*id)).collect();
        self.query(Repeat::Yes, TOLD, &[&ids]).await.map(drop)
    }
}

fn hit(row: &Row) -> Result<Hit, StoreError> {
    let spec = spec(row, 3)?;
    let read = || {
        Ok(Hit {
            hit_id: unsigned(row.try_get(0)?),
            alert_id: unsigned(row.try_get(1)?),
            user_id: row.try_get(2)?,
            spec,
            reached: row.try_get(8)?,
            position: position(row, 9)?,
            at: unsigned(row.try_get(11)?),
        })
    };
    read().map_err(|error| damaged(&error))
}

/// Reads epoch and sequence number, from this column on.
fn position(row: &Row, first: usize) -> Result<Position, Error> {
    let (epoch, seq): (&str, i64) = (row.try_get(first)?, row.try_get(first + 1)?);
    Ok(Position { epoch: Epoch::new(epoch), seq: unsigned(seq) })
}
