//! The broker of a single process: logs in memory, gone with it.
//!
//! Invariant: a message is numbered, kept and offered to all connections under its room's lock, so that every reader
//! sees one order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tickmesh_protocol::message::{History, Message, Publish, Replay};
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::{Class, Classes, RoomName};

use super::{Broker, BrokerError, Event, Inbox};

/// How long a publisher waits for a reader that is behind.
const PATIENCE: Duration = Duration::from_secs(1);
/// Milliseconds between two sweeps for rooms that nobody uses.
const SWEEP_INTERVAL_MS: u64 = 60_000;

/// What a message in a log takes beside its data, in bytes.
const OVERHEAD: usize = 150;

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
}

/// One node's connection to a [`MemoryCluster`].
pub struct MemoryBroker {
    cluster: Arc<MemoryCluster>,
    id: u64,
    inbox: Inbox,
}

struct Room {
    class: Arc<Class>,
    epoch: Epoch,
    seq: u64,
    /// With the time in UTC milliseconds at which each was appended.
    log: VecDeque<(u64, Arc<Message>)>,
    /// Ids within the window, and what they were answered with.
    accepted: FxHashMap<Box<str>, u64>,
    /// The same ids, oldest first, with the time at which they are forgotten.
    accepted_until: VecDeque<(u64, Box<str>)>,
    subscribers: Vec<(u64, Inbox)>,
    last_used: u64,
}

impl MemoryCluster {
    /// Empty logs, kept as the classes say. The clock is used for their time-to-live alone.
    #[must_use]
    pub fn new(classes: Classes, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            rooms: RwLock::default(),
            classes,
            last_sweep: AtomicU64::new(clock()),
            clock,
            inboxes: RwLock::default(),
            next_connection: AtomicU64::new(0),
            pressure: AtomicU32::new(0),
        })
    }

    /// Memory is short: logs are half as long as their classes say, at 2 a quarter, and so on; at 0 they grow again. What is
    /// beyond is gone: who asks for it is told so, as for anything that a log has no more.
    pub fn set_pressure(&self, pressure: u32) {
        let before = self.pressure.swap(pressure, Ordering::Relaxed);
        if pressure > before {
            let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
            for room in rooms {
                let mut room = room.lock();
                let most = room.class.history_size >> pressure;
                if room.log.len() > most {
                    let beyond = room.log.len() - most;
                    room.log.drain(..beyond);
                }
                room.log.shrink_to_fit();
            }
        }
    }

    /// About how many bytes the logs hold.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
        let size = |message: &Arc<Message>| (message.data.get().len() + OVERHEAD) as u64;
        rooms.iter().map(|room| room.lock().log.iter().map(|(_, message)| size(message)).sum::<u64>()).sum()
    }

    /// Memory is very short: throws away the older half of each log.
    pub fn halve(&self) {
        let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
        for room in rooms {
            let mut room = room.lock();
            let half = room.log.len() / 2;
            room.log.drain(..half);
            room.log.shrink_to_fit();
        }
    }

    /// Throws away what is out of date, in rooms that nobody uses as well.
    pub fn sweep_now(&self) {
        let now = (self.clock)();
        let rooms: Vec<_> = self.rooms.read().values().cloned().collect();
        rooms.into_iter().for_each(|room| room.lock().trim(now));
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
            Arc::new(Mutex::new(Room::new(class, (self.clock)())))
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
            Arc::strong_count(room) > 1 || !room.lock().is_forgettable(now)
        });
    }
}

impl Room {
    fn new(class: Arc<Class>, now: u64) -> Self {
        Self {
            class,
            epoch: Epoch::new(&format!("{:016x}", rand::random::<u64>())),
            seq: 0,
            log: VecDeque::new(),
            accepted: FxHashMap::default(),
            accepted_until: VecDeque::new(),
            subscribers: Vec::new(),
            last_used: now,
        }
    }

    fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), seq: self.seq }
    }

    fn publish(&mut self, publish: Publish, now: u64, pressure: u32) -> Position {
        self.last_used = now;
        self.trim(now);
        if let Some(seq) = publish.message_id.as_ref().and_then(|id| self.accepted.get(id)) {
            return Position { epoch: self.epoch.clone(), seq: *seq };
        }
        self.seq += 1;
        if let Some(id) = publish.message_id {
            let until = now + self.class.idempotency_window_s * 1_000;
            self.accepted_until.push_back((until, id.clone()));
            self.accepted.insert(id, self.seq);
        }
        let message = Arc::new(Message {
            seq: self.seq,
            timestamp: publish.timestamp.unwrap_or(now),
            accepted_at: now,
            event: publish.event,
            key: publish.key,
            data: publish.data,
            trace: publish.trace,
        });
        let most = self.class.history_size >> pressure;
        if most > 0 {
            if self.log.len() >= most {
                self.log.pop_front();
            }
            self.log.push_back((now, message.clone()));
        }
        for (_, inbox) in &self.subscribers {
            let (room, epoch) = (publish.room.clone(), self.epoch.clone());
            inbox.offer(Event::Message { room, epoch, message: message.clone() });
        }
        self.position()
    }

    fn trim(&mut self, now: u64) {
        let oldest = now.saturating_sub(self.class.history_ttl_s * 1_000);
        while self.log.front().is_some_and(|(appended, _)| *appended < oldest) {
            self.log.pop_front();
        }
        while self.accepted_until.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, id)) = self.accepted_until.pop_front() {
                self.accepted.remove(&id);
            }
        }
    }

    fn is_forgettable(&mut self, now: u64) -> bool {
        self.trim(now);
        self.subscribers.is_empty()
            && self.log.is_empty()
            && self.accepted.is_empty()
            && now >= self.last_used + self.class.history_ttl_s * 1_000
    }

    fn history(&mut self, replay: &Replay, now: u64) -> History {
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
            .map(|publish| Ok(self.cluster.room(&publish.room).lock().publish(publish, now, pressure)))
            .collect()
    }

    async fn subscribe(&self, room: &RoomName) -> Result<Position, BrokerError> {
        let room = self.cluster.room(room);
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
        Ok(self.cluster.room(room).lock().history(&replay, now))
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
mod tests {
    use super::*;
    use crate::broker::{inbox, suite};

    struct Factory {
        cluster: Arc<MemoryCluster>,
    }

    #[async_trait]
    impl suite::Nodes for Factory {
        async fn node(&self, capacity: usize) -> (Arc<dyn Broker>, crate::broker::Events) {
            let (inbox, events) = inbox(capacity);
            (Arc::new(self.cluster.connect(inbox)), events)
        }
    }

    #[tokio::test]
    async fn conformance() {
        let clock = Arc::new(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap());
        let cluster = MemoryCluster::new(suite::classes(), clock);
        suite::run(&Factory { cluster }).await;
    }

    #[tokio::test]
    async fn logs_are_shorter_while_memory_is_short_and_say_so() {
        let cluster = MemoryCluster::new(Classes::default(), Arc::new(|| 1_000_000));
        let (tx, _events) = inbox(10_000);
        let broker = cluster.connect(tx);
        let room = RoomName::new("a").unwrap();
        let publish = async |count| {
            let messages = (0..count).map(|_| suite::publish("a", "1", None)).collect();
            broker.publish(messages).await.pop().unwrap().unwrap()
        };
        let first = publish(1).await;
        publish(999).await;
        let held = async || broker.history(&room, Replay::Last(2_000)).await.unwrap().messages.len();
        assert_eq!(held().await, 1_000);
        cluster.set_pressure(2);
        assert_eq!(held().await, 250);
        publish(10).await;
        assert_eq!(held().await, 250);
        let missed = broker.history(&room, Replay::After(first)).await.unwrap();
        assert!(!missed.complete && missed.messages.len() == 250);
        cluster.set_pressure(0);
        publish(10).await;
        assert_eq!(held().await, 260);
        let before = cluster.bytes();
        cluster.halve();
        assert_eq!((held().await, cluster.bytes()), (130, before / 2));
    }

    #[tokio::test]
    async fn what_is_out_of_date_goes_when_asked_for() {
        let time = Arc::new(AtomicU64::new(1_000_000));
        let seen = time.clone();
        let cluster = MemoryCluster::new(Classes::default(), Arc::new(move || seen.load(Ordering::Relaxed)));
        let (tx, _events) = inbox(10);
        let broker = cluster.connect(tx);
        broker.publish(vec![suite::publish("a", "1", None)]).await;
        broker.subscribe(&RoomName::new("a").unwrap()).await.unwrap();
        time.fetch_add(4_000_000, Ordering::Relaxed);
        cluster.sweep_now();
        let room = cluster.room(&RoomName::new("a").unwrap());
        assert!(room.lock().log.is_empty(), "though the room is followed");
    }

    #[tokio::test]
    async fn rooms_that_nobody_uses_are_forgotten_and_come_back_with_a_new_epoch() {
        let time = Arc::new(AtomicU64::new(1_000_000));
        let clock = {
            let time = time.clone();
            Arc::new(move || time.load(Ordering::Relaxed))
        };
        let cluster = MemoryCluster::new(Classes::default(), clock);
        let (tx, _events) = inbox(10);
        let broker = cluster.connect(tx);
        let publish = |room: &str| suite::publish(room, "1", None);
        let before = broker.publish(vec![publish("a")]).await.remove(0).unwrap();
        let followed = RoomName::new("b").unwrap();
        broker.subscribe(&followed).await.unwrap();
        time.fetch_add(4_000_000, Ordering::Relaxed);
        broker.publish(vec![publish("c")]).await.remove(0).unwrap();
        let mut names: Vec<_> =
            broker.rooms().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["b", "c"]);
        let after = broker.publish(vec![publish("a")]).await.remove(0).unwrap();
        assert_ne!(before.epoch, after.epoch);
        assert_eq!(after.seq, 1);
    }
}
