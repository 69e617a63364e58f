//! The audit of sessions.

use async_trait::async_trait;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::Postgres;
use super::calls::{Repeat, bigint, unsigned};
use super::error::damaged;
use crate::StoreError;
use crate::relational::{Audit, AuditEvent, rules};

const RECORD: &str = "INSERT INTO session_events (at, event, session_id, user_id, node_id, remote, reason) \
    SELECT at, event, session_id, user_id, node_id, remote, reason FROM UNNEST($1::bigint[], $2::text[], $3::text[], \
        $4::text[], $5::text[], $6::text[], $7::text[]) WITH ORDINALITY \
        AS new (at, event, session_id, user_id, node_id, remote, reason, place) ORDER BY place";
const LIST: &str = "SELECT at, event, session_id, user_id, node_id, remote, reason FROM session_events \
    ORDER BY at DESC, id DESC LIMIT $1";
const LIST_OF: &str = "SELECT at, event, session_id, user_id, node_id, remote, reason FROM session_events \
    WHERE user_id = $2 ORDER BY at DESC, id DESC LIMIT $1";
/// Nodes that prune at the same time take different events.
const PRUNE: &str = "WITH gone AS (DELETE FROM session_events WHERE id = ANY(ARRAY(SELECT id FROM session_events \
        WHERE at < $1 ORDER BY at, id LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1) \
    SELECT count(*) FROM gone";

#[async_trait]
impl Audit for Postgres {
    async fn record(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let events: Vec<_> = events.iter().map(rules::audit_event).collect();
        let column = |text: fn(&AuditEvent) -> &str| events.iter().map(text).collect::<Vec<_>>();
        let at: Vec<_> = events.iter().map(|event| bigint(event.at)).collect();
        let names = column(|event| &event.event);
        let sessions = column(|event| &event.session_id);
        let users = column(|event| &event.user_id);
        let nodes = column(|event| &event.node_id);
        let remotes = column(|event| &event.remote);
        let reasons = column(|event| &event.reason);
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&at, &names, &sessions, &users, &nodes, &remotes, &reasons];
        // Twice would be two events.
        self.query(Repeat::No, RECORD, &parameters).await.map(drop)
    }

    async fn list(&self, user_id: Option<&str>, limit: usize) -> Result<Vec<AuditEvent>, StoreError> {
        let limit = bigint(limit as u64);
        let rows = match user_id.map(rules::audit_text) {
            Some(user_id) => self.query(Repeat::Yes, LIST_OF, &[&limit, &user_id]).await?,
            None => self.query(Repeat::Yes, LIST, &[&limit]).await?,
        };
        rows.iter().map(event).collect::<Result<_, _>>().map_err(|error| damaged(&error))
    }

    async fn prune(&self, before: u64, most: usize) -> Result<u64, StoreError> {
        let rows = self.query(Repeat::Yes, PRUNE, &[&bigint(before), &bigint(most as u64)]).await?;
        let count = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(|error| damaged(&error))?;
        Ok(unsigned(count))
    }
}

fn event(row: &Row) -> Result<AuditEvent, Error> {
    Ok(AuditEvent {
        at: unsigned(row.try_get(0)?),
        event: row.try_get(1)?,
        session_id: row.try_get(2)?,
        user_id: row.try_get(3)?,
        node_id: row.try_get(4)?,
        remote: row.try_get(5)?,
        reason: row.try_get(6)?,
    })
}
