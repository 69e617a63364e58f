//! Leases in Redis: `tm:node:<id>` and `tm:gateway:<id>` hold a run and its report, and expire; the hash `tm:leases` names
//! those that may be there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{RedisResult, Script};
use rustc_hash::FxHashMap;

use super::{Kind, LeaseError, Members, Report};
use crate::broker::BrokerError;
use crate::redis::{Commands, Health, scripts};

/// Names that may have a lease.
const INDEX: &str = "tm:leases";

/// The leases of a cluster.
pub struct RedisMembers {
    commands: Commands,
    health: Arc<Health>,
    lease: Script,
}

fn key(kind: Kind, id: &str) -> String {
    match kind {
        Kind::Node => format!("tm:node:{id}"),
        Kind::Gateway => format!("tm:gateway:{id}"),
    }
}

impl RedisMembers {
    pub(crate) fn new(commands: Commands, health: Arc<Health>) -> Self {
        Self { commands, health, lease: scripts::lease() }
    }

    async fn take(&self, report: &Report, lease: Duration, from_others: bool) -> Result<(), LeaseError> {
        let mut connection = self.commands.get()?;
        let key = key(report.kind, &report.id);
        let text = serde_json::to_string(report).unwrap_or_default();
        let taken: RedisResult<bool> = self
            .lease
            .key(&key)
            .arg(report.run)
            .arg(lease.as_millis() as u64)
            .arg(u8::from(from_others))
            .arg(text)
            .invoke_async(&mut connection)
            .await;
        let failed = |error| self.commands.failed(&key, &error);
        if !taken.map_err(failed)? {
            return Err(LeaseError::Replaced);
        }
        let named = redis::cmd("HSET").arg(INDEX).arg(&key).arg("").exec_async(&mut connection).await;
        Ok(named.map_err(|error| self.commands.failed(INDEX, &error))?)
    }
}

#[async_trait]
impl Members for RedisMembers {
    async fn join(&self, report: &Report, lease: Duration) -> Result<(), LeaseError> {
        if !self.health.is_up() {
            // Who is in the cluster gets sessions at once, and has to hear their rooms.
            return Err(BrokerError::Unavailable("nothing is pushed to this process yet".into()).into());
        }
        self.take(report, lease, true).await
    }

    async fn renew(&self, report: &Report, lease: Duration) -> Result<(), LeaseError> {
        self.take(report, lease, false).await
    }

    async fn leave(&self, id: &str, run: u64) -> Result<(), BrokerError> {
        let mut connection = self.commands.get()?;
        for key in [key(Kind::Node, id), key(Kind::Gateway, id)] {
            // A lease of no length.
            let given_up: RedisResult<bool> =
                self.lease.key(&key).arg(run).arg(0).arg(0).arg("").invoke_async(&mut connection).await;
            given_up.map_err(|error| self.commands.failed(&key, &error))?;
        }
        Ok(())
    }

    async fn snapshot(&self) -> Result<Vec<Report>, BrokerError> {
        let connection = self.commands.get()?;
        let named: RedisResult<FxHashMap<String, String>> =
            redis::cmd("HGETALL").arg(INDEX).query_async(&mut connection.clone()).await;
        let named = named.map_err(|error| self.commands.failed(INDEX, &error))?;
        let asked = named.keys().map(|key| {
            let mut connection = connection.clone();
            async move {
                let mut get = redis::cmd("HGET");
                let held: RedisResult<Option<String>> =
                    get.arg(key).arg("report").query_async(&mut connection).await;
                (key, held)
            }
        });
        let mut reports = Vec::new();
        for (key, held) in join_all(asked).await {
            match held.map_err(|error| self.commands.failed(key, &error)) {
                Ok(Some(text)) => match serde_json::from_str::<Report>(&text) {
                    Ok(report) => reports.push(report),
                    Err(error) => self.health.found_garbage(key, &error.to_string()),
                },
                // The lease has ended. Whoever takes it again names itself again.
                Ok(None) => {
                    let _ = redis::cmd("HDEL").arg(INDEX).arg(key).exec_async(&mut connection.clone()).await;
                }
                Err(BrokerError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        reports.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(reports)
    }
}
