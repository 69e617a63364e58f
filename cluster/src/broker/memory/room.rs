//! The log of one room.
//!
//! Invariants: numbers are given out without a gap; what it takes is known without looking at its messages. It must not know
//! of other rooms.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use siphasher::sip128::{Hash128, SipHasher13};
use tickmesh_protocol::message::{History, Message, Publish, Replay};
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::{Class, RoomName};

use super::super::{Event, Inbox};
use crate::heap::{chunk, hash_entry, hash_table, shared_text};

/// Bytes of an entry of the log, and of the queue of ids.
const LOG_ENTRY: usize = size_of::<(u64, Arc<Message>)>();
const ID_ENTRY: usize = size_of::<(u64, Id)>();

/// What is remembered of a `message_id`: its hash under a random key of the room, so that nothing is allocated for each. Of ten
/// million ids in a room two have the same hash with a probability below 2^-80.
type Id = [u64; 2];

/// See the module's documentation.
pub(super) struct Room {
    pub(super) class: Arc<Class>,
    epoch: Epoch,
    seq: u64,
    /// With the time in UTC milliseconds at which each was appended.
    pub(super) log: VecDeque<(u64, Arc<Message>)>,
    /// What the messages of the log take.
    message_bytes: usize,
    /// Ids within the window, and what they were answered with.
    accepted: FxHashMap<Id, u64>,
    /// The same ids, oldest first, with the time at which they are forgotten.
    accepted_until: VecDeque<(u64, Id)>,
    /// Makes the hashes.
    ids: SipHasher13,
    pub(super) subscribers: Vec<(u64, Inbox)>,
    pub(super) last_used: u64,
    /// What it takes beside log and ids.
    fixed: usize,
}

impl Room {
    pub(super) fn new(name: &RoomName, class: Arc<Class>, now: u64) -> Self {
        let epoch = Epoch::new(&format!("{:016x}", rand::random::<u64>()));
        let fixed = hash_entry::<(RoomName, Arc<Self>)>()
            + chunk(size_of::<Self>() + 4 * size_of::<usize>())
            + shared_text(name.as_str().len())
            + shared_text(epoch.as_str().len());
        Self {
            class,
            epoch,
            seq: 0,
            log: VecDeque::new(),
            message_bytes: 0,
            accepted: FxHashMap::default(),
            accepted_until: VecDeque::new(),
            ids: SipHasher13::new_with_keys(rand::random(), rand::random()),
            subscribers: Vec::new(),
            last_used: now,
            fixed,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), seq: self.seq }
    }

    pub(super) fn publish(&mut self, publish: Publish, now: u64, pressure: u32) -> Position {
        self.last_used = now;
        self.trim(now);
        let id = publish.message_id.as_ref().map(|id| {
            let Hash128 { h1, h2 } = self.ids.hash(id.as_bytes());
            [h1, h2]
        });
        if let Some(seq) = id.and_then(|id| self.accepted.get(&id)) {
            return Position { epoch: self.epoch.clone(), seq: *seq };
        }
        self.seq += 1;
        if let Some(id) = id {
            let until = now + self.class.idempotency_window_s * 1_000;
            self.accepted_until.push_back((until, id));
            self.accepted.insert(id, self.seq);
        }
        // Most messages of a room are of one kind: they share its name.
        let newest = self.log.back().map(|(_, newest)| &newest.event);
        let event = newest.filter(|newest| **newest == publish.event).cloned().unwrap_or(publish.event);
        let message = Arc::new(Message {
            seq: self.seq,
            timestamp: publish.timestamp.unwrap_or(now),
            accepted_at: now,
            event,
            key: publish.key,
            data: publish.data,
            trace: publish.trace,
        });
        let most = self.class.history_size >> pressure;
        if most > 0 {
            if self.log.len() >= most {
                self.drop_oldest();
            }
            self.message_bytes += weight(&message);
            self.log.push_back((now, message.clone()));
        }
        for (_, inbox) in &self.subscribers {
            let (room, epoch) = (publish.room.clone(), self.epoch.clone());
            inbox.offer(Event::Message { room, epoch, message: message.clone() });
        }
        self.position()
    }

    pub(super) fn trim(&mut self, now: u64) {
        let oldest = now.saturating_sub(self.class.history_ttl_s * 1_000);
        while self.log.front().is_some_and(|(appended, _)| *appended < oldest) {
            self.drop_oldest();
        }
        while self.accepted_until.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest_id();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, message)) = self.log.pop_front() {
            self.message_bytes -= weight(&message);
        }
    }

    fn forget_oldest_id(&mut self) {
        if let Some((_, id)) = self.accepted_until.pop_front() {
            self.accepted.remove(&id);
        }
    }

    /// Leaves the newest so many messages, and gives back the memory of what went.
    pub(super) fn keep_newest(&mut self, most: usize) {
        while self.log.len() > most {
            self.drop_oldest();
        }
        self.give_back();
    }

    /// Gives back memory that was needed for more than there is.
    pub(super) fn give_back(&mut self) {
        if self.log.capacity() > 2 * self.log.len() {
            self.log.shrink_to_fit();
        }
        if self.accepted_until.capacity() > 4 * self.accepted_until.len() {
            self.accepted_until.shrink_to_fit();
            self.accepted.shrink_to_fit();
        }
    }

    fn log_bytes(&self) -> usize {
        self.message_bytes + chunk(self.log.capacity() * LOG_ENTRY)
    }

    fn ids_bytes(&self) -> usize {
        hash_table::<(Id, u64)>(self.accepted.capacity()) + chunk(self.accepted_until.capacity() * ID_ENTRY)
    }

    /// What it takes.
    pub(super) fn bytes(&self) -> usize {
        self.fixed + self.log_bytes() + self.ids_bytes()
    }

    /// Throws away the oldest messages and ids, of what takes more, until it takes no more than so many bytes, or there is one
    /// message. Answers how many messages and ids went.
    pub(super) fn shrink_to(&mut self, most: usize) -> [u64; 2] {
        let before = [self.log.len(), self.accepted.len()];
        if self.bytes() <= most {
            return [0; 2];
        }
        // What the two take with room for a few more: without that, the next one would need twice the capacity, and so the next
        // eviction.
        let log = |room: &Self| room.message_bytes + chunk(with_spare(room.log.len()) * LOG_ENTRY);
        let ids = |room: &Self| {
            let table = hash_table::<(Id, u64)>(with_spare(room.accepted.len()));
            table + chunk(with_spare(room.accepted_until.len()) * ID_ENTRY)
        };
        while self.fixed + log(self) + ids(self) > most {
            if self.log.len() > 1 && log(self) >= ids(self) {
                self.drop_oldest();
            } else if !self.accepted_until.is_empty() {
                self.forget_oldest_id();
            } else if self.log.len() > 1 {
                self.drop_oldest();
            } else {
                break;
            }
        }
        self.log.shrink_to(with_spare(self.log.len()));
        self.accepted_until.shrink_to(with_spare(self.accepted_until.len()));
        self.accepted.shrink_to(with_spare(self.accepted.len()));
        [(before[0] - self.log.len()) as u64, (before[1] - self.accepted.len()) as u64]
    }

    /// Nobody follows it.
    pub(super) fn is_idle(&self) -> bool {
        self.subscribers.is_empty()
    }

    pub(super) fn is_forgettable(&mut self, now: u64) -> bool {
        self.trim(now);
        self.subscribers.is_empty()
            && self.log.is_empty()
            && self.accepted.is_empty()
            && now >= self.last_used + self.class.history_ttl_s * 1_000
    }

    pub(super) fn history(&mut self, replay: &Replay, now: u64) -> History {
        self.last_used = now;
        self.trim(now);
        let first = self.seq + 1 - self.log.len() as u64;
        let (after, limit, epoch_holds) = match replay {
            Replay::Nothing => (self.seq, 0, true),
            Replay::Last(count) => (self.seq.saturating_sub(*count as u64), *count, true),
            Replay::Since { seq, limit } => (*seq, *limit, true),
            Replay::After(position) => {
                let same = position.epoch == self.epoch && position.seq <= self.seq;
                (if same { position.seq } else { 0 }, usize::MAX, same)
            }
        };
        let skip = (after + 1).saturating_sub(first).min(self.log.len() as u64) as usize;
        let messages = self.log.iter().skip(skip).take(limit).map(|(_, message)| message.clone()).collect();
        let complete = epoch_holds && (after >= self.seq || after + 1 >= first);
        History { position: self.position(), messages, complete, began_at: 0 }
    }
}

/// The capacity that is left to what has so many entries.
fn with_spare(len: usize) -> usize {
    len + len / 4
}

/// What a message of a log takes.
fn weight(message: &Message) -> usize {
    let Message { data, event, key, trace, .. } = message;
    chunk(size_of::<Message>() + 2 * size_of::<usize>())
        + chunk(data.get().len())
        + shared_text(event.len())
        + key.as_ref().map_or(0, |key| shared_text(key.len()))
        + trace.as_ref().map_or(0, |trace| chunk(size_of_val(&**trace)))
}
