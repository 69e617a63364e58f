//! Sessions that begin and end, on their way into the audit: in batches, and never in anybody's way.
//!
//! Invariants: what waits is bounded; what finds no room, or waits too long for a store that is away, is counted and left
//! out. One node at a time forgets what is too old.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_protocol::placement::keeper;
use tickmesh_store::guard::Guarded;
use tickmesh_store::relational::{AuditEvent, Relational};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock;
use crate::metrics::MarketMetrics;
use crate::peers::Peers;

/// Events that wait.
const WAITING: usize = 20_000;
/// Events in one write.
const BATCH: usize = 500;
/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(500);
/// How often what is too old is forgotten, and how many events at a time.
const PRUNE: Duration = Duration::from_secs(600);
const PRUNED: usize = 10_000;

/// Takes events.
#[derive(Debug, Clone)]
pub(crate) struct Auditor {
    events: Option<mpsc::Sender<AuditEvent>>,
    metrics: Arc<MarketMetrics>,
}

impl Auditor {
    /// Something happened to a session.
    pub(crate) fn note(&self, event: impl FnOnce() -> AuditEvent) {
        if let Some(events) = &self.events
            && events.try_send(event()).is_err()
        {
            self.metrics.audit_dropped.inc();
        }
    }
}

/// Starts the task; without a store nothing is taken.
pub(crate) fn start(
    users: Option<Arc<Guarded<Relational>>>,
    peers: Arc<Peers>,
    metrics: Arc<MarketMetrics>,
    days: u64,
) -> Auditor {
    let Some(users) = users else { return Auditor { events: None, metrics } };
    let (sender, events) = mpsc::channel(WAITING);
    let task = Task { users, peers, days, pruned: None };
    tokio::spawn(task.run(events));
    Auditor { events: Some(sender), metrics }
}

struct Task {
    users: Arc<Guarded<Relational>>,
    peers: Arc<Peers>,
    days: u64,
    pruned: Option<Instant>,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<AuditEvent>) {
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut open = true;
        while open || !batch.is_empty() {
            pause.tick().await;
            loop {
                while batch.len() < BATCH {
                    match events.try_recv() {
                        Ok(event) => batch.push(event),
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => {
                            open = false;
                            break;
                        }
                    }
                }
                if batch.is_empty() || self.users.call(|users| users.audit.record(&batch)).await.is_err() {
                    break;
                }
                batch.clear();
            }
            if !open {
                return;
            }
            self.prune().await;
        }
    }

    async fn prune(&mut self) {
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE) {
            return;
        }
        let members = self.peers.members();
        let first = keeper("audit", members.iter().map(|member| member.id.as_str()));
        if first != Some(self.peers.id()) {
            return;
        }
        let before = clock::now().utc.saturating_sub(self.days * 86_400_000);
        match self.users.call(|users| users.audit.prune(before, PRUNED)).await {
            // There is more.
            Ok(count) if count >= PRUNED as u64 => {}
            Ok(_) | Err(_) => self.pruned = Some(Instant::now()),
        }
    }
}
