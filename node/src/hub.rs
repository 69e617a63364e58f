//! The sessions of one worker thread, by room.
//!
//! A hub lives on its thread and is shared by `Rc` with the sessions there, which join and leave by plain calls.
//! Batches come through one bounded queue; the hub empties it and gives each session one merged delivery.
//!
//! Invariants: the hub owns the only long-lived address of each session and sends with `try_send`, so that the bound
//! of a mailbox holds; what a full mailbox refuses stays here, in order and bounded, and what is dropped beyond that
//! is a hole that the session announces. No borrow is held across an await.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix::dev::SendError;
use actix::{Addr, Message};
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tickmesh_cluster::broker::BrokerError;
use tickmesh_cluster::presence::Attendee;
use tickmesh_protocol::batch::Batch;
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::identity::{Identity, Role};
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::{Presence, Session};
use tokio::sync::{mpsc, oneshot};

use crate::fanout::{FanoutHandle, HubIndex};
use crate::metrics::traffic::Traffic;
use crate::session::{SessionActor, SessionInfo};
use crate::worker::Shared;

/// Requests to a hub that may wait.
const QUEUE: usize = 1_024;
/// Requests taken at a time.
const DRAIN: usize = 256;
/// Batches that may wait here for one session whose mailbox is full. A session takes a whole delivery at a time, so
/// this many mean that its thread has no time for it at all.
const MAX_PENDING: usize = 4_096;

/// Live messages for a session.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Deliver(pub(crate) SmallVec<[Arc<Batch>; 1]>);

/// A notice for a session's user, see [`tickmesh_protocol::session::Session::handle_notice`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Notice(pub(crate) Arc<Batch>);

/// Ends a session.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Close(pub(crate) CloseCode);

/// Asks a session about itself.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "SessionInfo")]
pub(crate) struct Describe;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MemberKey(u64);

/// The sessions of this thread.
pub(crate) struct Hub {
    index: HubIndex,
    fanout: FanoutHandle,
    shared: Arc<Shared>,
    traffic: Arc<Traffic>,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    members: FxHashMap<MemberKey, Member>,
    by_id: FxHashMap<Arc<str>, MemberKey>,
    /// Members that came with a token, by user.
    by_user: FxHashMap<Arc<str>, SmallVec<[MemberKey; 1]>>,
    rooms: FxHashMap<RoomName, Room>,
    next_key: u64,
    /// Counts the calls of `join`, so that the fan-out can tell a late `leave` from a timely one.
    turns: u64,
    /// Members with something pending, each once.
    touched: Vec<MemberKey>,
    /// Messages queued for members since they were counted last.
    deliveries: u64,
}

#[derive(Default)]
struct Room {
    members: Vec<MemberKey>,
    /// Turn of the latest `join`.
    turn: u64,
}

struct Member {
    id: Arc<str>,
    /// None for those without a token.
    user: Option<Arc<str>>,
    /// See [`Identity::credential`].
    credential: Option<Box<str>>,
    /// Its client is at a gateway.
    linked: bool,
    address: Addr<SessionActor>,
    pending: SmallVec<[Arc<Batch>; 1]>,
}

impl Hub {
    /// Takes the seat on the present thread.
    pub(crate) fn start(
        seat: HubSeat,
        fanout: FanoutHandle,
        shared: Arc<Shared>,
        traffic: Arc<Traffic>,
    ) -> Rc<Self> {
        let hub = Rc::new(Self { index: seat.index, fanout, shared, traffic, inner: RefCell::default() });
        actix_rt::spawn(hub.clone().run(seat.requests));
        hub
    }

    async fn run(self: Rc<Self>, mut requests: mpsc::Receiver<Request>) {
        let mut buffer = Vec::with_capacity(DRAIN);
        while requests.recv_many(&mut buffer, DRAIN).await > 0 {
            for request in buffer.drain(..) {
                self.handle(request);
            }
            self.shared.metrics.deliveries.inc_by(self.inner.borrow_mut().flush());
            // Sessions of this thread write what they got before the next drain: what comes meanwhile is merged.
            tokio::task::yield_now().await;
        }
    }

    fn handle(&self, request: Request) {
        let mut inner = self.inner.borrow_mut();
        match request {
            Request::Batch(batch) => inner.queue(&batch),
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
            Member { id, user: None, credential: None, linked, address, pending: SmallVec::new() },
        );
        inner.identify(key, session.identity());
        key
    }

    /// A session that came without a token has one now.
    pub(crate) fn identify(&self, key: MemberKey, who: &Identity) {
        self.inner.borrow_mut().identify(key, who);
    }

    /// Forgets a session and the rooms that it follows.
    pub(crate) fn exit<'r>(self: &Rc<Self>, key: MemberKey, rooms: impl Iterator<Item = &'r RoomName>) {
        for room in rooms {
            self.leave(key, room);
        }
        self.inner.borrow_mut().remove(key);
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
            inner.rooms.remove(room);
            let (hub, room) = (self.clone(), room.clone());
            actix_rt::spawn(async move { hub.fanout.leave(room, hub.index, turn).await });
        }
        if gone && let Some(member) = inner.members.get(&key) {
            self.shared.attendance.leave(room, &member.id);
        }
    }
}

impl Inner {
    fn by_id(&self, id: &str) -> Option<&Member> {
        self.members.get(self.by_id.get(id)?)
    }

    fn identify(&mut self, key: MemberKey, who: &Identity) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.credential = who.credential.as_deref().map(Into::into);
        if who.role != Role::Anonymous && member.user.is_none() {
            let user: Arc<str> = match self.by_user.get_key_value(who.user_id.as_str()) {
                Some((user, _)) => user.clone(),
                None => who.user_id.as_str().into(),
            };
            member.user = Some(user.clone());
            self.by_user.entry(user).or_default().push(key);
        }
    }

    fn remove(&mut self, key: MemberKey) {
        let Some(member) = self.members.remove(&key) else { return };
        self.by_id.remove(&member.id);
        if let Some(user) = member.user
            && let Some(keys) = self.by_user.get_mut(&user)
        {
            keys.retain(|held| *held != key);
            if keys.is_empty() {
                self.by_user.remove(&user);
            }
        }
    }

    fn attendee(&self, key: MemberKey) -> Option<Attendee> {
        let member = self.members.get(&key)?;
        let user_id = member.user.as_deref().unwrap_or("anonymous").to_owned();
        Some(Attendee { session_id: member.id.to_string(), user_id })
    }

    fn presence(&self, room: &RoomName, most: usize) -> Presence {
        let Some(room) = self.rooms.get(room) else { return Presence { count: 0, users: Vec::new() } };
        let members = room.members.iter().filter_map(|key| self.members.get(key));
        let mut users: Vec<&str> =
            members.map(|member| member.user.as_deref().unwrap_or("anonymous")).collect();
        users.sort_unstable();
        users.dedup();
        let users = users.into_iter().take(most).map(str::to_owned).collect();
        Presence { count: room.members.len() as u64, users }
    }

    fn join(&mut self, key: MemberKey, room: &RoomName) -> (u64, bool) {
        self.turns += 1;
        let held = self.rooms.entry(room.clone()).or_default();
        held.turn = self.turns;
        let new = !held.members.contains(&key);
        if new {
            held.members.push(key);
        }
        (self.turns, new)
    }

    fn queue(&mut self, batch: &Arc<Batch>) {
        let Some(room) = self.rooms.get(batch.room()) else { return };
        self.deliveries += (room.members.len() * batch.len()) as u64;
        for key in &room.members {
            let Some(member) = self.members.get_mut(key) else { continue };
            if member.pending.is_empty() {
                self.touched.push(*key);
            }
            member.pending.push(batch.clone());
        }
    }

    /// Gives every session what is pending for it, and says how many messages were queued since the last time.
    fn flush(&mut self) -> u64 {
        let members = &mut self.members;
        let mut gone = Vec::new();
        self.touched.retain(|key| {
            let Some(member) = members.get_mut(key) else { return false };
            match member.address.try_send(Deliver(std::mem::take(&mut member.pending))) {
                Ok(()) => false,
                // The actor is gone without having said so: it panicked.
                Err(SendError::Closed(_)) => {
                    gone.push(*key);
                    false
                }
                Err(SendError::Full(Deliver(pending))) => {
                    // The session sees a hole in what follows, and tells its client by `resync`.
                    if pending.len() <= MAX_PENDING {
                        member.pending = pending;
                    }
                    !member.pending.is_empty()
                }
            }
        });
        for key in gone {
            self.remove(key);
        }
        std::mem::take(&mut self.deliveries)
    }
}

impl Member {
    fn describe(&self) -> impl Future<Output = Option<SessionInfo>> + use<> {
        let request = self.address.send(Describe);
        async move { request.await.ok() }
    }

    fn close(&self, code: CloseCode) {
        // A mailbox that is full belongs to a session that is behind; it hears of the end by its heartbeat.
        if let Err(error) = self.address.try_send(Close(code)) {
            tracing::warn!(session = %self.id, %error, "cannot tell a session to close");
        }
    }
}
