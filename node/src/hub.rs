//! The sessions of one worker thread, by room.
//!
//! A hub lives on its thread and is shared by `Rc` with the sessions there, which join and leave by plain calls.
//! Batches come through one bounded queue; the hub empties it, waits for more as long as the flush window says
//! (`flush`), puts what came of each room together, and gives each session one delivery. A batch that is
//! urgent, or a room in which much waits, is delivered at once, behind what waited in that room and not overtaking it.
//!
//! Invariants: the hub owns the only long-lived address of each session and sends with `try_send`, so that the bound
//! of a mailbox holds; what a full mailbox refuses stays here, in order and bounded, and what is dropped beyond that
//! is a hole that the session announces. No borrow is held across an await.

mod inner;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Message};
use futures_util::future::join_all;
use smallvec::SmallVec;
use tickmesh_cluster::broker::BrokerError;
use tickmesh_protocol::batch::Batch;
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::identity::Identity;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::{Presence, Session};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::fanout::{FanoutHandle, HubIndex};
use crate::flush::{Flusher, LOOKS, PERIOD};
use crate::metrics::traffic::Traffic;
use crate::session::{SessionActor, SessionInfo};
use crate::worker::Shared;

use inner::{Bounds, Inner, Member};

/// Requests to a hub that may wait.
const QUEUE: usize = 1_024;
/// Requests taken at a time.
const DRAIN: usize = 256;
/// Part of what may wait for one connection that may wait here for all of them together. A window is for many small
/// messages; where much comes there is nothing to wait for.
const SHARE: usize = 4;
/// Batches that may wait here for one session whose mailbox is full. A session takes a whole delivery at a time, so
/// this many mean that its thread has no time for it at all.
const MAX_PENDING: usize = 4_096;

/// Bytes that wait for a session, by which it weighs more.
const WEIGHT_STEP: usize = 4 * 1024;

/// Live messages for a session.
#[derive(Debug)]
pub(crate) struct Deliver(pub(crate) SmallVec<[Arc<Batch>; 1]>);

impl Message for Deliver {
    type Result = ();
}

/// A notice for a session's user, see [`tickmesh_protocol::session::Session::handle_notice`].
#[derive(Debug)]
pub(crate) struct Notice(pub(crate) Arc<Batch>);

impl Message for Notice {
    type Result = ();
}

/// Ends a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Close(pub(crate) CloseCode);

impl Message for Close {
    type Result = ();
}

/// Asks a session about itself.
#[derive(Debug)]
pub(crate) struct Describe(pub(crate) oneshot::Sender<SessionInfo>);

impl Message for Describe {
    type Result = ();
}

/// Asks a session for the bytes that wait for it, and its quality.
#[derive(Debug)]
pub(crate) struct Weigh(pub(crate) oneshot::Sender<(usize, u8)>);

impl Message for Weigh {
    type Result = ();
}

/// What a session weighs; the first in order is the one that is let go first where memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weight {
    /// Bytes that wait for it, in steps that make a difference.
    queued: Reverse<usize>,
    quality: u8,
    pub(crate) key: MemberKey,
}

impl Weight {
    /// About how many bytes wait for it.
    pub(crate) fn queued(self) -> usize {
        self.queued.0 * WEIGHT_STEP
    }
}

/// What others ask of a hub.
#[derive(Debug)]
pub(crate) enum Request {
    /// Messages of a room.
    Batch(Arc<Batch>),
    /// A notice for all sessions of a user.
    User { user_id: String, batch: Arc<Batch> },
    /// Who follows a room; at most so many users.
    Presence { room: RoomName, most: usize, reply: oneshot::Sender<Presence> },
    /// How many sessions there are, and at most so many of them.
    Sessions(usize, oneshot::Sender<(usize, Vec<SessionInfo>)>),
    /// One session by its id.
    Session(String, oneshot::Sender<Option<SessionInfo>>),
    /// Ends one session; answers whether there is one.
    Disconnect(String, oneshot::Sender<bool>),
    /// Ends the sessions whose credential is void now, whatever it was when this was asked.
    Revoked,
    /// What each session weighs.
    Weigh(oneshot::Sender<Vec<Weight>>),
    /// Ends these because memory is short.
    Shed(Vec<MemberKey>),
    /// Ends all sessions but those whose client is at a gateway, which moves them.
    CloseDirect(CloseCode),
}

/// Where a hub is asked.
#[derive(Debug, Clone)]
pub struct HubSender {
    requests: mpsc::Sender<Request>,
}

impl HubSender {
    pub(crate) async fn batch(&self, batch: Arc<Batch>) {
        self.send(Request::Batch(batch)).await;
    }

    pub(crate) async fn send(&self, request: Request) {
        // A hub that is gone has no session that could miss it.
        let _ = self.requests.send(request).await;
    }

    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await;
        answer.await.ok()
    }
}

/// The receiving end of a hub that no thread runs yet.
#[derive(Debug)]
pub struct HubSeat {
    index: HubIndex,
    requests: mpsc::Receiver<Request>,
}

/// The queue of the hub with this index.
#[must_use]
pub fn seat(index: HubIndex) -> (HubSender, HubSeat) {
    let (sender, requests) = mpsc::channel(QUEUE);
    (HubSender { requests: sender }, HubSeat { index, requests })
}

/// Names a session within its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberKey(u64);

/// The sessions of this thread.
pub(crate) struct Hub {
    index: HubIndex,
    fanout: FanoutHandle,
    shared: Arc<Shared>,
    traffic: Arc<Traffic>,
    flusher: Flusher,
    inner: RefCell<Inner>,
}

impl Hub {
    /// Takes the seat on the present thread.
    pub(crate) fn start(
        seat: HubSeat,
        fanout: FanoutHandle,
        shared: Arc<Shared>,
        traffic: Arc<Traffic>,
    ) -> Rc<Self> {
        let flusher = Flusher::new(&shared.flush);
        let inner = RefCell::new(Inner { period: 1, ..Inner::default() });
        let hub = Rc::new(Self { index: seat.index, fanout, shared, traffic, flusher, inner });
        actix_rt::spawn(hub.clone().run(seat.requests));
        actix_rt::spawn(hub.clone().pace());
        hub
    }

    /// Has the flush window decided on, again and again.
    async fn pace(self: Rc<Self>) {
        let look = PERIOD / LOOKS;
        loop {
            let mut late = Duration::ZERO;
            for _ in 0..LOOKS {
                let due = Instant::now() + look;
                sleep_until(due).await;
                late += due.elapsed();
            }
            let tally = self.inner.borrow_mut().next_period();
            // Timers are as late as a millisecond by themselves.
            let late = (late / LOOKS).saturating_sub(Duration::from_millis(1));
            let (load, reason) = self.flusher.decide(&self.shared.flush, tally, late);
            let window = self.flusher.window();
            self.traffic.paced(window, load, reason);
            if let Some(reason) = reason {
                let (hub, reason) = (self.index, reason.name());
                tracing::debug!(hub, ?window, load, reason, "the flush window changed");
            }
        }
    }

    async fn run(self: Rc<Self>, mut requests: mpsc::Receiver<Request>) {
        let mut buffer = Vec::with_capacity(DRAIN);
        while requests.recv_many(&mut buffer, DRAIN).await > 0 {
            self.take(&mut buffer);
            let window = self.flusher.window();
            if !window.is_zero() && self.inner.borrow().is_pending() {
                self.gather(&mut requests, &mut buffer, window).await;
            }
            self.flush();
            // Sessions of this thread write what they got before the next drain: what comes meanwhile is merged.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for more, until the window is over or nothing waits any more.
    async fn gather(
        &self,
        requests: &mut mpsc::Receiver<Request>,
        buffer: &mut Vec<Request>,
        window: Duration,
    ) {
        let end = sleep(window);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                count = requests.recv_many(buffer, DRAIN) => {
                    self.take(buffer);
                    if count == 0 || !self.inner.borrow().is_pending() {
                        return;
                    }
                }
            }
        }
    }

    fn take(&self, buffer: &mut Vec<Request>) {
        // Without a window nothing waits, and what is here is delivered next.
        let bounds = (!self.flusher.window().is_zero()).then(|| {
            let (messages, bytes) = self.shared.flush.bounds();
            Bounds { messages, bytes, total: self.shared.policy.max_queue_bytes / SHARE }
        });
        for request in buffer.drain(..) {
            self.handle(request, bounds);
        }
    }

    fn flush(&self) {
        self.shared.metrics.deliveries.inc_by(self.inner.borrow_mut().flush());
    }

    fn handle(&self, request: Request, bounds: Option<Bounds>) {
        let mut inner = self.inner.borrow_mut();
        match request {
            Request::Batch(batch) => inner.queue(&batch, bounds),
            Request::User { user_id, batch } => {
                for key in inner.by_user.get(user_id.as_str()).into_iter().flatten() {
                    if let Some(member) = inner.members.get(key)
                        && let Err(error) = member.address.try_send(Notice(batch.clone()))
                    {
                        tracing::debug!(session = %member.id, %error, "a notice is lost on a busy session");
                    }
                }
            }
            Request::Presence { room, most, reply } => {
                let _ = reply.send(inner.presence(&room, most));
            }
            Request::Sessions(limit, reply) => {
                let total = inner.members.len();
                let asked: Vec<_> = inner.members.values().take(limit).map(Member::describe).collect();
                actix_rt::spawn(async move {
                    let _ = reply.send((total, join_all(asked).await.into_iter().flatten().collect()));
                });
            }
            Request::Session(id, reply) => {
                let asked = inner.by_id(&id).map(Member::describe);
                actix_rt::spawn(async move {
                    let _ = reply.send(match asked {
                        Some(asked) => asked.await,
                        None => None,
                    });
                });
            }
            Request::Disconnect(id, reply) => {
                // What came before goes out before.
                self.shared.metrics.deliveries.inc_by(inner.flush());
                let found = inner.by_id(&id).map(|member| member.close(CloseCode::Disconnected));
                let _ = reply.send(found.is_some());
            }
            Request::Revoked => {
                let kept = self.shared.auth.kept();
                let void = |member: &&Member| {
                    member.credential.as_deref().is_some_and(|credential| kept.is_void(credential))
                };
                inner.members.values().filter(void).for_each(|member| member.close(CloseCode::AuthFailed));
            }
            Request::Weigh(reply) => {
                let asked: Vec<_> = inner.members.iter().map(|(key, member)| member.weigh(*key)).collect();
                actix_rt::spawn(async move {
                    let _ = reply.send(join_all(asked).await.into_iter().flatten().collect());
                });
            }
            Request::Shed(keys) => {
                let held = keys.iter().filter_map(|key| inner.members.get(key));
                held.for_each(|member| member.close(CloseCode::Overloaded));
            }
            Request::CloseDirect(code) => {
                // What came before goes out before.
                self.shared.metrics.deliveries.inc_by(inner.flush());
                inner.members.values().filter(|member| !member.linked).for_each(|member| member.close(code));
            }
        }
    }

    /// Takes in a session.
    pub(crate) fn enter(&self, session: &Session, address: Addr<SessionActor>) -> MemberKey {
        let (id, linked) = (session.id().clone(), session.is_linked());
        let mut inner = self.inner.borrow_mut();
        let key = MemberKey(inner.next_key);
        inner.next_key += 1;
        inner.by_id.insert(id.clone(), key);
        inner.members.insert(
            key,
            Member {
                id,
                user: None,
                credential: None,
                linked,
                address,
                pending: SmallVec::new(),
                period: 0,
                quality: None,
            },
        );
        inner.identify(key, session.identity());
        key
    }

    /// A session that came without a token has one now.
    pub(crate) fn identify(&self, key: MemberKey, who: &Identity) {
        self.inner.borrow_mut().identify(key, who);
    }

    /// A session's connection was measured.
    pub(crate) fn rated(&self, key: MemberKey, score: u8) {
        let mut inner = self.inner.borrow_mut();
        let Some(member) = inner.members.get_mut(&key) else { return };
        match member.quality.replace(score) {
            Some(before) => self.traffic.quality.take(before.into()),
            None => self.traffic.rated.add(1),
        }
        self.traffic.quality.add(score.into());
    }

    /// Forgets a session and the rooms that it follows.
    pub(crate) fn exit<'r>(self: &Rc<Self>, key: MemberKey, rooms: impl Iterator<Item = &'r RoomName>) {
        for room in rooms {
            self.leave(key, room);
        }
        if let Some(score) = self.inner.borrow_mut().remove(key) {
            self.traffic.rated.take(1);
            self.traffic.quality.take(score.into());
        }
    }

    /// From the answer on, every later message of the room is delivered to the session. The session is in the room
    /// when this returns, so that a later [`leave`](Self::leave) finds it, whenever the future is polled.
    pub(crate) fn join(
        &self,
        key: MemberKey,
        room: &RoomName,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        let (turn, new) = self.inner.borrow_mut().join(key, room);
        if new {
            self.traffic.subscriptions.add(1);
            self.shared.peers.joined(room);
            if self.shared.policy.classes.of(room).join_events
                && let Some(attendee) = self.inner.borrow().attendee(key)
            {
                self.shared.attendance.enter(room, attendee);
            }
        }
        let (fanout, room, index) = (self.fanout.clone(), room.clone(), self.index);
        async move { fanout.join(room, index, turn).await }
    }

    /// The session wants no more of the room.
    pub(crate) fn leave(self: &Rc<Self>, key: MemberKey, room: &RoomName) {
        let mut inner = self.inner.borrow_mut();
        let mut gone = false;
        let Some(held) = inner.rooms.get_mut(room) else { return };
        if let Some(at) = held.members.iter().position(|member| *member == key) {
            held.members.swap_remove(at);
            self.traffic.subscriptions.take(1);
            self.shared.peers.left(room);
            gone = self.shared.policy.classes.of(room).join_events;
        }
        if held.members.is_empty() {
            let turn = held.turn;
            inner.close_room(room);
            let (hub, room) = (self.clone(), room.clone());
            actix_rt::spawn(async move { hub.fanout.leave(room, hub.index, turn).await });
        }
        if gone && let Some(member) = inner.members.get(&key) {
            self.shared.attendance.leave(room, &member.id);
        }
    }
}
