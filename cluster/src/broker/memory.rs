//! The broker of a single process: logs in memory, gone with it.
//!
//! Invariants: a message is numbered, kept and offered to all connections under its room's lock, so that every reader
//! sees one order. All logs together, with the ids by which repeated messages are recognised, take no more than so many
//! bytes: where they would, the rooms that hold most lose their oldest messages and ids, and rooms that nobody follows are
//! forgotten. A room that somebody follows keeps its newest message whatever the bound is.

mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tickmesh_protocol::message::{History, Publish, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::{Classes, RoomName};

use self::room::Room;
use super::{Broker, BrokerError, Inbox};
use crate::fair;

/// How long a publisher waits for a reader that is behind.
const PATIENCE: Duration = Duration::from_secs(1);
/// Milliseconds between two sweeps for rooms that nobody uses.
const SWEEP_INTERVAL_MS: u64 = 60_000;

/// Bytes of all logs, where nobody says.
const MOST: usize = 256 << 20;
/// One in so many bytes goes when there are too many, so that this is seldom looked for.
const SHARE: usize = 8;

/// A clock that gives UTC milliseconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The logs, shared by the connections of all nodes in the process.
pub struct MemoryCluster {
    rooms: RwLock<FxHashMap<RoomName, Arc<Mutex<Room>>>>,
    classes: Classes,
    clock: Clock,
    inboxes: RwLock<Vec<(u64, Inbox)>>,
    next_connection: AtomicU64,
    last_sweep: AtomicU64,
    /// Logs are 2 to the power of this times as short as their classes say.
    pressure: AtomicU32,
    /// What all rooms take.
    bytes: AtomicUsize,
    most: usize,
    /// Beyond so many something is evicted: `most`, or more where all that is left is what must stay.
    evict_beyond: AtomicUsize,
    /// One thread at a time evicts.
    evicting: Mutex<()>,
    /// Messages and ids that were evicted though their class would have kept them.
    evicted: [AtomicU64; 2],
}

/// One node's connection to a [`MemoryCluster`].
pub struct MemoryBroker {
    cluster: Arc<MemoryCluster>,
    id: u64,
    inbox: Inbox,
}

impl MemoryCluster {
    /// Empty logs, kept as the classes say, in at most 256 MiB. The clock is used for their time-to-live alone.
    #[must_use]
    pub fn new(classes: Classes, clock: Clock) -> Arc<Self> {
        Self::bounded(classes, clock, MOST)
    }

    /// The same in at most so many bytes.
    #[must_use]
    pub fn bounded(classes: Classes, clock: Clock, most: usize) -> Arc<Self> {
        Arc::new(Self {
            rooms: RwLock::default(),
            classes,
            last_sweep: AtomicU64::new(clock()),
            clock,
            inboxes: RwLock::default(),
            next_connection: AtomicU64::new(0),
            pressure: AtomicU32::new(0),
            bytes: AtomicUsize::new(0),
            most,
            evict_beyond: AtomicUsize::new(most),
            evicting: Mutex::default(),
            evicted: Default::default(),
        })
    }

    /// Memory is short: logs are half as long as their classes say, at 2 a quarter, and so on; at 0 they grow again. What is
    /// beyond is gone: who asks for it is told so, as for anything that a log has no more.
    pub fn set_pressure(&self, pressure: u32) {
        let before = self.pressure.swap(pressure, Ordering::Relaxed);
        if pressure > before {
            let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
            for room in rooms {
                self.with(&room, |room| room.keep_newest(room.class.history_size >> pressure));
            }
        }
    }

    /// How many bytes the logs take, and how many they may.
    #[must_use]
    pub fn bytes(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.most)
    }

    /// How many messages, and ids by which repeated messages are recognised, were evicted because the logs took too many bytes.
    #[must_use]
    pub fn evicted(&self) -> [u64; 2] {
        self.evicted.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Does something with a room, and counts what it takes then.
    fn with<T>(&self, room: &Mutex<Room>, act: impl FnOnce(&mut Room) -> T) -> T {
        let mut room = room.lock();
        let before = room.bytes();
        let done = act(&mut room);
        let after = room.bytes();
        // Under the room's lock, so that it is never taken away what was not added.
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        done
    }

    /// Where all rooms take too much, those that take most lose their oldest messages and ids.
    fn evict(&self) {
        let is_due = || self.bytes.load(Ordering::Relaxed) > self.evict_beyond.load(Ordering::Relaxed);
        if !is_due() {
            return;
        }
        let _alone = self.evicting.lock();
        if !is_due() {
            return;
        }
        let most = self.most - self.most / SHARE;
        let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
        let level = fair::level(rooms.iter().map(|room| room.lock().bytes()).collect(), most);
        for room in rooms {
            let gone = self.with(&room, |room| room.shrink_to(level));
            for (count, gone) in self.evicted.iter().zip(gone) {
                count.fetch_add(gone, Ordering::Relaxed);
            }
        }
        if self.bytes.load(Ordering::Relaxed) > self.most - self.most / SHARE / 2 {
            self.forget_idle(most);
        }
        let left = self.bytes.load(Ordering::Relaxed);
        self.evict_beyond.store(self.most.max(left + left / SHARE / 2), Ordering::Relaxed);
    }

    /// There are too many rooms: forgets those that were not used for longest and that nobody follows.
    fn forget_idle(&self, most: usize) {
        let mut rooms = self.rooms.write();
        let idle = |(name, room): (&RoomName, &Arc<Mutex<Room>>)| {
            let used = Some(room.lock()).filter(|room| room.is_idle()).map(|room| room.last_used)?;
            // Somebody who has the room in hand is about to use it.
            (Arc::strong_count(room) == 1).then(|| (used, name.clone()))
        };
        let mut by_use: Vec<_> = rooms.iter().filter_map(idle).collect();
        by_use.sort_unstable();
        for (_, name) in by_use {
            if self.bytes.load(Ordering::Relaxed) <= most {
                break;
            }
            if let Some(room) = rooms.remove(&name) {
                let room = room.lock();
                self.evicted[0].fetch_add(room.log.len() as u64, Ordering::Relaxed);
                self.bytes.fetch_sub(room.bytes(), Ordering::Relaxed);
            }
        }
        rooms.shrink_to_fit();
    }

    /// Memory is very short: throws away the older half of each log.
    pub fn halve(&self) {
        let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
        for room in rooms {
            self.with(&room, |room| room.keep_newest(room.log.len().div_ceil(2)));
        }
    }

    /// Throws away what is out of date, in rooms that nobody uses as well.
    pub fn sweep_now(&self) {
        let now = (self.clock)();
        let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
        for room in rooms {
            self.with(&room, |room| {
                room.trim(now);
                room.give_back();
            });
        }
        self.last_sweep.store(now, Ordering::Relaxed);
        self.forget(now);
    }

    /// A node's connection; its live messages go to `inbox`.
    #[must_use]
    pub fn connect(self: &Arc<Self>, inbox: Inbox) -> MemoryBroker {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        self.inboxes.write().push((id, inbox.clone()));
        MemoryBroker { cluster: self.clone(), id, inbox }
    }

    fn room(&self, name: &RoomName) -> Arc<Mutex<Room>> {
        if let Some(room) = self.rooms.read().get(name) {
            return room.clone();
        }
        let new = || {
            let class = self.classes.of(name).clone();
            let room = Room::new(name, class, (self.clock)());
            self.bytes.fetch_add(room.bytes(), Ordering::Relaxed);
            Arc::new(Mutex::new(room))
        };
        self.rooms.write().entry(name.clone()).or_insert_with(new).clone()
    }

    /// Forgets rooms that have no subscriber, no message and no id left; one that comes back has a new epoch.
    fn sweep(&self, now: u64) {
        let last = self.last_sweep.load(Ordering::Relaxed);
        let due = now >= last + SWEEP_INTERVAL_MS
            && self.last_sweep.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if due {
            self.forget(now);
        }
    }

    fn forget(&self, now: u64) {
        self.rooms.write().retain(|_, room| {
            // Somebody who has the room in hand is about to use it.
            let stays = Arc::strong_count(room) > 1 || !self.with(room, |room| room.is_forgettable(now));
            if !stays {
                self.bytes.fetch_sub(room.lock().bytes(), Ordering::Relaxed);
            }
            stays
        });
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>> {
        let inboxes: Vec<Inbox> =
            self.cluster.inboxes.read().iter().map(|(_, inbox)| inbox.clone()).collect();
        for inbox in inboxes {
            inbox.relieved(PATIENCE).await;
        }
        let now = (self.cluster.clock)();
        self.cluster.sweep(now);
        let pressure = self.cluster.pressure.load(Ordering::Relaxed);
        messages
            .into_iter()
            .map(|publish| {
                let room = self.cluster.room(&publish.room);
                let position = self.cluster.with(&room, |room| room.publish(publish, now, pressure));
                drop(room);
                self.cluster.evict();
                Ok(position)
            })
            .collect()
    }

    async fn subscribe(&self, room: &RoomName) -> Result<Position, BrokerError> {
        let room = self.cluster.room(room);
        self.cluster.evict();
        let mut room = room.lock();
        if !room.subscribers.iter().any(|(id, _)| *id == self.id) {
            room.subscribers.push((self.id, self.inbox.clone()));
        }
        Ok(room.position())
    }

    async fn unsubscribe(&self, room: &RoomName) {
        let held = self.cluster.rooms.read().get(room).cloned();
        if let Some(room) = held {
            room.lock().subscribers.retain(|(id, _)| *id != self.id);
        }
    }

    async fn history(&self, room: &RoomName, replay: Replay) -> Result<History, BrokerError> {
        let now = (self.cluster.clock)();
        let room = self.cluster.room(room);
        let history = self.cluster.with(&room, |room| room.history(&replay, now));
        drop(room);
        self.cluster.evict();
        Ok(history)
    }

    async fn rooms(&self) -> Result<Vec<(RoomName, Position)>, BrokerError> {
        let rooms: Vec<_> =
            self.cluster.rooms.read().iter().map(|(name, room)| (name.clone(), room.clone())).collect();
        Ok(rooms.into_iter().map(|(name, room)| (name, room.lock().position())).collect())
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.cluster.inboxes.write().retain(|(id, _)| *id != self.id);
        for room in self.cluster.rooms.read().values() {
            room.lock().subscribers.retain(|(id, _)| *id != self.id);
        }
    }
}

#[cfg(test)]
mod tests;
