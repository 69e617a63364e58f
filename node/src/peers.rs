//! What a node tells the others of its cluster, and asks them.
//!
//! It holds the lease, the table of who follows what, and the questions that wait for answers. One task takes letters in
//! and tells what changed. Invariants: a question ends when all who have a lease have answered, or in time, and then it
//! says who is missing; nothing here is needed for the delivery of messages.

mod questions;
mod task;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tickmesh_cluster::bus::{Bus, To};
use tickmesh_cluster::counts::Counts;
use tickmesh_cluster::letter::{Body, Letter};
use tickmesh_cluster::members::{Kind, LeaseState, Report, Roster};
use tickmesh_protocol::market::Symbol;
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::Epoch;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::Parked;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::parking::Parking;

pub(crate) use questions::{Local, Question, Sessions, merged};
pub(crate) use task::{Told, start};

/// Longest wait for the others' answers.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How often a parked session is looked for: who comes back quickly may be here before its old connection has ended.
const UNPARKINGS: usize = 3;
const UNPARKING_PAUSE: Duration = Duration::from_millis(100);

/// The others, as this node sees them.
pub(crate) struct Peers {
    id: String,
    bus: Arc<dyn Bus>,
    roster: Roster,
    counts: Mutex<Counts>,
    waiting: Mutex<FxHashMap<u64, Asker>>,
    parking: Parking<Parked>,
}

/// Takes answers, each with the node that it is from.
type Asker = mpsc::Sender<(String, Box<RawValue>)>;

/// What came of a question.
pub(crate) struct Asked<T> {
    /// The answers of other nodes.
    pub(crate) answers: Vec<T>,
    /// Nodes that gave none in time, sorted.
    pub(crate) silent: Vec<String>,
}

impl Peers {
    pub(crate) fn new(id: &str, run: u64, bus: Arc<dyn Bus>, roster: Roster) -> Arc<Self> {
        let counts = Mutex::new(Counts::new(id, run));
        Arc::new(Self {
            id: id.to_owned(),
            bus,
            roster,
            counts,
            waiting: Mutex::default(),
            parking: Parking::default(),
        })
    }

    /// A session here follows the room.
    pub(crate) fn joined(&self, room: &RoomName) {
        self.counts.lock().joined(room);
    }

    /// A session here follows it no more.
    pub(crate) fn left(&self, room: &RoomName) {
        self.counts.lock().left(room);
    }

    /// Subscribers of a room over the cluster.
    pub(crate) fn subscribers(&self, room: &RoomName) -> u64 {
        self.counts.lock().subscribers(room)
    }

    /// Subscribers of each of these rooms at this node.
    pub(crate) fn subscribers_here<'a>(&self, rooms: impl Iterator<Item = &'a RoomName>) -> Vec<u64> {
        let counts = self.counts.lock();
        rooms.map(|room| counts.here(room)).collect()
    }

    /// The nodes that have subscribers of a room, and how many.
    pub(crate) fn subscribers_by_node(&self, room: &RoomName) -> Vec<(String, u64)> {
        self.counts.lock().by_node(room)
    }

    /// All rooms that have subscribers.
    pub(crate) fn followed(&self) -> FxHashMap<RoomName, u64> {
        self.counts.lock().rooms()
    }

    /// Who is in the cluster.
    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Everybody with a lease.
    pub(crate) fn members(&self) -> Arc<Vec<Report>> {
        self.roster.members()
    }

    /// Has another node drained, or take sessions again.
    pub(crate) async fn drain(&self, node: &str, draining: bool) {
        self.send(To::Member(node), Body::Drain { node: node.to_owned(), draining }).await;
    }

    /// This node's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Waits until this node has its lease, but no longer than `patience`.
    pub(crate) async fn in_cluster(&self, patience: Duration) {
        self.roster.joined(patience).await;
    }

    /// Keeps a session for its client to come back to.
    pub(crate) fn park(&self, name: String, parked: Parked) {
        self.parking.park(Instant::now(), name, parked);
    }

    /// Throws away parked sessions that nobody came back to in time.
    pub(crate) fn sweep_parked(&self) {
        self.parking.sweep(Instant::now());
    }

    /// Throws away the half of the parked sessions that has waited longest.
    pub(crate) fn halve_parked(&self) {
        self.parking.halve();
    }

    /// How many sessions are parked here.
    pub(crate) fn parked(&self) -> usize {
        self.parking.len()
    }

    /// A session that was parked here or on any other node.
    pub(crate) async fn unpark(&self, name: &str) -> Option<Parked> {
        for attempt in 0..UNPARKINGS {
            if attempt > 0 {
                sleep(UNPARKING_PAUSE).await;
            }
            if let Some(parked) = self.parking.take(Instant::now(), name) {
                return Some(parked);
            }
            let asked = self.ask(&Question::Unpark(name.to_owned()), Option::<Parked>::is_some).await;
            if let Some(parked) = asked.answers.into_iter().flatten().next() {
                return Some(parked);
            }
        }
        None
    }

    /// How this node's own lease stands.
    pub(crate) fn lease(&self) -> LeaseState {
        self.roster.lease()
    }

    /// Tells the others at once that something of this node's report changed.
    pub(crate) async fn report_now(&self) {
        self.roster.renew();
        self.send(To::Members, Body::Members).await;
    }

    /// Tells the others to look at who is there.
    pub(crate) async fn left_cluster(&self) {
        self.send(To::Members, Body::Members).await;
    }

    /// Has all sessions of a user, on every node, told of a message in their room's log.
    pub(crate) async fn notify(&self, user_id: &str, room: RoomName, epoch: Epoch, message: Message) {
        let user_id = user_id.to_owned();
        self.send(To::Everybody, Body::User { user_id, room, epoch, message }).await;
    }

    /// Tells the others of a room that is recorded.
    pub(crate) async fn recorded(&self, room: RoomName) {
        self.send(To::Everybody, Body::Recorded(room)).await;
    }

    /// Tells everybody that the alerts of a symbol are others now.
    pub(crate) async fn alerts_changed(&self, symbol: Symbol) {
        self.send(To::Everybody, Body::Alerts(symbol)).await;
    }

    /// Tells everybody that API keys or revoked tokens are others now.
    pub(crate) async fn credentials_changed(&self) {
        self.send(To::Everybody, Body::Credentials).await;
    }

    /// Asks all other nodes, until one answer is enough or there are no more.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        question: &Question,
        enough: impl Fn(&T) -> bool,
    ) -> Asked<T> {
        let others = |member: &&Report| member.kind == Kind::Node && member.id != self.id;
        let mut silent: HashSet<String> =
            self.members().iter().filter(others).map(|member| member.id.clone()).collect();
        let mut answers = Vec::new();
        if !silent.is_empty()
            && let Ok(question) = serde_json::value::to_raw_value(question)
        {
            let id = rand::random();
            let (sender, mut receiver) = mpsc::channel(silent.len());
            self.waiting.lock().insert(id, sender);
            self.send(To::Everybody, Body::Question { id, question }).await;
            let deadline = Instant::now() + PATIENCE;
            while !silent.is_empty()
                && let Ok(Some((from, answer))) = timeout_at(deadline, receiver.recv()).await
            {
                silent.remove(&from);
                match serde_json::from_str(answer.get()) {
                    Ok(answer) => answers.push(answer),
                    Err(error) => tracing::warn!(from, %error, "a node answered oddly"),
                }
                if answers.last().is_some_and(&enough) {
                    silent.clear();
                }
            }
            self.waiting.lock().remove(&id);
        }
        let mut silent: Vec<_> = silent.into_iter().collect();
        silent.sort_unstable();
        Asked { answers, silent }
    }

    async fn send(&self, to: To<'_>, body: Body) {
        let letter = Letter { from: self.id.clone(), body };
        let Ok(text) = serde_json::to_string(&letter) else { return };
        if let Err(error) = self.bus.send(to, &text).await {
            tracing::debug!(?to, %error, "a letter was not sent");
        }
    }
}
