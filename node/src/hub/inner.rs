//! Who follows which room on this thread, and what is pending for them.
//!
//! A batch waits once, in its room, until the room's members are given it: so a wait costs nothing per member, and what came
//! meanwhile is put together once for all of them. It must not know when that is.

use std::cmp::Reverse;
use std::sync::Arc;

use actix::dev::SendError;
use actix::{Addr, Handler, Message};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tickmesh_cluster::presence::Attendee;
use tickmesh_protocol::batch::Batch;
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::identity::{Identity, Role};
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::Presence;
use tokio::sync::oneshot;

use super::{Close, Deliver, Describe, MAX_PENDING, MemberKey, WEIGHT_STEP, Weigh, Weight};
use crate::flush::Tally;
use crate::session::{SessionActor, SessionInfo};

#[derive(Default)]
pub(super) struct Inner {
    pub(super) members: FxHashMap<MemberKey, Member>,
    pub(super) by_id: FxHashMap<Arc<str>, MemberKey>,
    /// Members that came with a token, by user.
    pub(super) by_user: FxHashMap<Arc<str>, SmallVec<[MemberKey; 1]>>,
    pub(super) rooms: FxHashMap<RoomName, Room>,
    pub(super) next_key: u64,
    /// Counts the calls of `join`, so that the fan-out can tell a late `leave` from a timely one.
    pub(super) turns: u64,
    /// Rooms with something pending, each once.
    pub(super) touched: Vec<RoomName>,
    /// Bytes that are pending in them.
    pub(super) bytes: usize,
    /// Members with something pending, each once.
    pub(super) waking: Vec<MemberKey>,
    /// Messages queued for members since they were counted last.
    pub(super) deliveries: u64,
    pub(super) tally: Tally,
    /// Counts the decisions on the flush window.
    pub(super) period: u32,
}

#[derive(Default)]
pub(super) struct Room {
    pub(super) members: Vec<MemberKey>,
    /// Turn of the latest `join`.
    pub(super) turn: u64,
    /// What came and was not given to the members yet, with its messages and bytes.
    pub(super) pending: SmallVec<[Arc<Batch>; 1]>,
    pub(super) messages: u64,
    pub(super) bytes: usize,
}

/// What is delivered at once.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Messages and bytes of one room.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Bytes of all rooms.
    pub(super) total: usize,
}

pub(super) struct Member {
    pub(super) id: Arc<str>,
    /// None for those without a token.
    pub(super) user: Option<Arc<str>>,
    /// See [`Identity::credential`].
    pub(super) credential: Option<Box<str>>,
    /// Its client is at a gateway.
    pub(super) linked: bool,
    pub(super) address: Addr<SessionActor>,
    pub(super) pending: SmallVec<[Arc<Batch>; 1]>,
    /// The period in which it was woken last.
    pub(super) period: u32,
    /// The score of its connection, once it was measured.
    pub(super) quality: Option<u8>,
}

impl Inner {
    pub(super) fn by_id(&self, id: &str) -> Option<&Member> {
        self.members.get(self.by_id.get(id)?)
    }

    pub(super) fn identify(&mut self, key: MemberKey, who: &Identity) {
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

    /// Forgets a member; gives its score, if it had one.
    pub(super) fn remove(&mut self, key: MemberKey) -> Option<u8> {
        let member = self.members.remove(&key)?;
        self.by_id.remove(&member.id);
        if let Some(user) = member.user
            && let Some(keys) = self.by_user.get_mut(&user)
        {
            keys.retain(|held| *held != key);
            if keys.is_empty() {
                self.by_user.remove(&user);
            }
        }
        member.quality
    }

    pub(super) fn attendee(&self, key: MemberKey) -> Option<Attendee> {
        let member = self.members.get(&key)?;
        let user_id = member.user.as_deref().unwrap_or("anonymous").to_owned();
        Some(Attendee { session_id: member.id.to_string(), user_id })
    }

    pub(super) fn presence(&self, room: &RoomName, most: usize) -> Presence {
        let Some(room) = self.rooms.get(room) else { return Presence { count: 0, users: Vec::new() } };
        let members = room.members.iter().filter_map(|key| self.members.get(key));
        let mut users: Vec<&str> =
            members.map(|member| member.user.as_deref().unwrap_or("anonymous")).collect();
        users.sort_unstable();
        users.dedup();
        let users = users.into_iter().take(most).map(str::to_owned).collect();
        Presence { count: room.members.len() as u64, users }
    }

    pub(super) fn join(&mut self, key: MemberKey, room: &RoomName) -> (u64, bool) {
        self.turns += 1;
        let held = self.rooms.entry(room.clone()).or_default();
        held.turn = self.turns;
        let new = !held.members.contains(&key);
        if new {
            held.members.push(key);
        }
        (self.turns, new)
    }

    pub(super) fn queue(&mut self, batch: &Arc<Batch>, bounds: Option<Bounds>) {
        let Some(room) = self.rooms.get_mut(batch.room()) else { return };
        let members = room.members.len() as u64;
        self.deliveries += members * batch.len() as u64;
        self.tally.messages += members * batch.len() as u64;
        self.tally.offered += members;
        if room.pending.is_empty() {
            self.touched.push(batch.room().clone());
        }
        room.pending.push(batch.clone());
        room.messages += batch.len() as u64;
        room.bytes += batch.bytes();
        self.bytes += batch.bytes();
        let Some(bounds) = bounds else { return };
        if self.bytes >= bounds.total {
            self.spread_all();
            self.wake();
        } else if batch.is_urgent() || room.messages >= bounds.messages || room.bytes as u64 >= bounds.bytes {
            if let Some(at) = self.touched.iter().rposition(|name| name == batch.room()) {
                self.touched.swap_remove(at);
            }
            self.spread(batch.room());
            self.wake();
        }
    }

    /// Whether something waits.
    pub(super) fn is_pending(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Gives every session what is pending for it, and says how many messages were queued since the last time.
    pub(super) fn flush(&mut self) -> u64 {
        self.spread_all();
        self.wake();
        std::mem::take(&mut self.deliveries)
    }

    pub(super) fn spread_all(&mut self) {
        for room in std::mem::take(&mut self.touched) {
            self.spread(&room);
        }
        self.bytes = 0;
    }

    /// Forgets a room that nobody follows any more, and what is pending in it.
    pub(super) fn close_room(&mut self, room: &RoomName) {
        if let Some(room) = self.rooms.remove(room) {
            self.bytes = self.bytes.saturating_sub(room.bytes);
        }
    }

    /// Makes what is pending in a room pending for its members.
    pub(super) fn spread(&mut self, room: &RoomName) {
        let Some(room) = self.rooms.get_mut(room).filter(|room| !room.pending.is_empty()) else { return };
        let batches = Batch::merged(&std::mem::take(&mut room.pending));
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut room.bytes));
        room.messages = 0;
        for key in &room.members {
            let Some(member) = self.members.get_mut(key) else { continue };
            if member.pending.is_empty() {
                self.waking.push(*key);
            }
            member.pending.extend(batches.iter().cloned());
        }
    }

    /// Gives members what is pending for them.
    pub(super) fn wake(&mut self) {
        let Self { members, waking, tally, period, .. } = self;
        let mut gone = Vec::new();
        waking.retain(|key| {
            let Some(member) = members.get_mut(key) else { return false };
            match member.address.try_send(Deliver(std::mem::take(&mut member.pending))) {
                Ok(()) => {
                    tally.wakes += 1;
                    tally.reached += u64::from(member.period != *period);
                    member.period = *period;
                    false
                }
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
    }

    /// What was counted since the last call.
    pub(super) fn next_period(&mut self) -> Tally {
        self.period = self.period.wrapping_add(1).max(1);
        std::mem::take(&mut self.tally)
    }
}

impl Member {
    /// Asks the session; one whose mailbox is full is not asked. (The future of `Addr::send` that has found a full mailbox is
    /// never woken again.)
    fn ask<M, T, Q>(&self, question: Q) -> impl Future<Output = Option<T>> + use<M, T, Q>
    where
        M: Message<Result = ()> + Send + 'static,
        Q: FnOnce(oneshot::Sender<T>) -> M,
        SessionActor: Handler<M>,
    {
        let (reply, answer) = oneshot::channel();
        // Where it is not asked, the reply is gone and the answer is none.
        let _ = self.address.try_send(question(reply));
        async move { answer.await.ok() }
    }

    pub(super) fn describe(&self) -> impl Future<Output = Option<SessionInfo>> + use<> {
        self.ask(Describe)
    }

    pub(super) fn weigh(&self, key: MemberKey) -> impl Future<Output = Option<Weight>> + use<> {
        let answer = self.ask(Weigh);
        async move {
            let (queued, quality) = answer.await?;
            Some(Weight { queued: Reverse(queued / WEIGHT_STEP), quality, key })
        }
    }

    pub(super) fn close(&self, code: CloseCode) {
        // A mailbox that is full belongs to a session that is behind; it hears of the end by its heartbeat.
        if let Err(error) = self.address.try_send(Close(code)) {
            tracing::warn!(session = %self.id, %error, "cannot tell a session to close");
        }
    }
}
