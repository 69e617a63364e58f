//! Alarms on the cluster itself: one node looks, for all.
//!
//! Which one is decided as for recorded rooms ([`keeper`](tickmesh_protocol::placement::keeper)); when it goes another goes on
//! from the log of `system_alerts`, in which every alarm stands as it was told last. The rules and when they fire are in
//! [`tickmesh_protocol::alarm`].
//!
//! * [`evaluator`]: the task · [`board`]: the log of alarms as every node reads it · [`heard`]: what was heard of the processes
//! * [`webhooks`]: who is told outside, [`courier`]: the thread that does it
//!
//! Invariants: who does not have its lease, or stood still, does not look; a change is told once, because its `message_id` names
//! what it follows on; an alarm is posted until a receiver took it, and each try has the same delivery id.

mod board;
mod courier;
mod evaluator;
mod heard;
mod webhooks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_cluster::config::Live;
use tickmesh_cluster::members::{Kind, Report};
use tickmesh_cluster::redis::Health;
use tickmesh_market::calendar::Calendar;
use tickmesh_protocol::alarm::{Alarm, Severity};
use tickmesh_protocol::placement::keeper;
use tokio::sync::{mpsc, oneshot};

use crate::peers::Peers;
use board::Board;

pub(crate) use webhooks::Receivers;

/// Acknowledgements that wait for the evaluator.
const ASKED: usize = 64;
/// By which its node is chosen.
const KEY: &str = "alarms";

/// What the evaluator says to an acknowledgement.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Acknowledged {
    /// This node does not look.
    Elsewhere,
    /// No such alarm fires.
    Unknown,
    /// So it is told.
    Done(Box<Alarm>),
}

struct Ask {
    id: String,
    user: String,
    reply: oneshot::Sender<Acknowledged>,
}

/// What became of deliveries to webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    Retried,
    GivenUp,
    Dropped,
}

impl Outcome {
    const NAMES: [&str; 4] = ["delivered", "retried", "given up", "dropped"];
}

/// What operators see of it.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    firing: [AtomicU64; 2],
    evaluates: AtomicU64,
    outcomes: [AtomicU64; 4],
    waiting: AtomicU64,
}

impl Gauges {
    /// Alarms that fire, by severity; 0 at nodes that do not look.
    pub(crate) fn firing(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Severity::ALL
            .map(|severity| (severity.name(), self.firing[severity as usize].load(Ordering::Relaxed)))
            .into_iter()
    }

    /// Whether this node looks.
    pub(crate) fn evaluates(&self) -> u64 {
        self.evaluates.load(Ordering::Relaxed)
    }

    /// What became of deliveries.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::NAMES.into_iter().zip(self.outcomes.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Deliveries that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn set<'a>(&self, evaluates: bool, firing: impl Iterator<Item = &'a Alarm>) {
        let mut counts = [0; 2];
        firing.for_each(|alarm| counts[alarm.severity as usize] += 1);
        for (gauge, count) in self.firing.iter().zip(counts) {
            gauge.store(count, Ordering::Relaxed);
        }
        self.evaluates.store(u64::from(evaluates), Ordering::Relaxed);
    }
}

/// What the evaluator works with.
pub(crate) struct Means {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) redis: Option<Arc<Health>>,
    pub(crate) live: Arc<Live>,
    /// None where no exchange is configured, and markets are open around the clock.
    pub(crate) calendar: Option<Calendar>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) webhooks: Receivers,
}

/// How the rest of the node reaches it. Clones share it.
#[derive(Clone)]
pub(crate) struct Alarms {
    asks: mpsc::Sender<Ask>,
    board: Arc<Board>,
    /// What the evaluator knows, where that is this node.
    here: Arc<Mutex<Option<Vec<Alarm>>>>,
}

/// The receiving end.
pub(crate) struct Inbox {
    asks: mpsc::Receiver<Ask>,
    board: Arc<Board>,
    here: Arc<Mutex<Option<Vec<Alarm>>>>,
}

/// The handle, before there is a task.
pub(crate) fn handle(broker: Arc<dyn Broker>) -> (Alarms, Inbox) {
    let (sender, asks) = mpsc::channel(ASKED);
    let (board, here) = (Arc::new(Board::new(broker)), Arc::default());
    (Alarms { asks: sender, board: Arc::clone(&board), here: Arc::clone(&here) }, Inbox { asks, board, here })
}

/// Starts the task, on the present runtime.
pub(crate) fn start(means: Means, inbox: Inbox) {
    tokio::spawn(evaluator::run(means, inbox));
}

impl Alarms {
    /// All that fire, and those that were over within the last hour before `now`, in UTC milliseconds; sorted by id.
    ///
    /// # Errors
    /// When the broker is unavailable and this node is not the one that looks.
    pub(crate) async fn list(&self, now: u64) -> Result<Vec<Alarm>, BrokerError> {
        match self.board.refresh(now).await {
            Ok(()) => Ok(self.board.listed(now)),
            Err(error) => self.here.lock().clone().ok_or(error),
        }
    }

    /// A user has seen an alarm: asks the evaluator, if that is here.
    pub(crate) async fn acknowledge(&self, id: String, user: String) -> Acknowledged {
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send(Ask { id, user, reply }).is_err() {
            return Acknowledged::Elsewhere;
        }
        answer.await.unwrap_or(Acknowledged::Elsewhere)
    }
}

/// The node that looks, as these see it: of those that do not drain one, or of all where all do.
pub(crate) fn evaluator_of(members: &[Report]) -> Option<&str> {
    let nodes = |also_draining: bool| {
        let takes_part = move |one: &&Report| one.kind == Kind::Node && (also_draining || !one.draining);
        members.iter().filter(takes_part).map(|one| one.id.as_str())
    };
    keeper(KEY, nodes(false)).or_else(|| keeper(KEY, nodes(true)))
}
