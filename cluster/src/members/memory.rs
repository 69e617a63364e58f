//! The leases of a single process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{LeaseError, Members, Report};
use crate::broker::BrokerError;

/// Clones share the leases.
#[derive(Debug, Clone, Default)]
pub struct MemoryMembers {
    leases: Arc<Mutex<BTreeMap<String, (Instant, Report)>>>,
}

impl MemoryMembers {
    fn take(&self, report: &Report, lease: Duration, from_others: bool) -> Result<(), LeaseError> {
        let now = Instant::now();
        let mut leases = self.leases.lock();
        match leases.get(&report.id) {
            Some((until, held)) if *until > now && held.run != report.run && !from_others => {
                Err(LeaseError::Replaced)
            }
            _ => {
                leases.insert(report.id.clone(), (now + lease, report.clone()));
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Members for MemoryMembers {
    async fn join(&self, report: &Report, lease: Duration) -> Result<(), LeaseError> {
        self.take(report, lease, true)
    }

    async fn renew(&self, report: &Report, lease: Duration) -> Result<(), LeaseError> {
        self.take(report, lease, false)
    }

    async fn leave(&self, id: &str, run: u64) -> Result<(), BrokerError> {
        self.leases.lock().retain(|held, (_, report)| held != id || report.run != run);
        Ok(())
    }

    async fn snapshot(&self) -> Result<Vec<Report>, BrokerError> {
        let now = Instant::now();
        let mut leases = self.leases.lock();
        leases.retain(|_, (until, _)| *until > now);
        Ok(leases.values().map(|(_, report)| report.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::suite;

    #[tokio::test]
    async fn conformance() {
        suite::run(&MemoryMembers::default()).await;
    }
}
