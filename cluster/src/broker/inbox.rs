//! The bounded queue between a broker and the node that reads from it.
//!
//! Invariant: whoever fills it never waits. What does not fit is dropped and told by [`Event::Missed`], after
//! everything that was queued before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::Epoch;
use tickmesh_protocol::room::RoomName;
use tokio::sync::mpsc;

/// What comes from a broker.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message was appended to a room's log.
    Message {
        /// The room.
        room: RoomName,
        /// The life of its log.
        epoch: Epoch,
        /// The message.
        message: Arc<Message>,
    },
    /// Messages of any rooms may be missing before this point.
    Missed,
}

/// The broker's end of the queue.
#[derive(Debug, Clone)]
pub struct Inbox {
    events: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

/// The node's end of the queue.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
    told: u64,
}

/// A queue of at most `capacity` events.
#[must_use]
pub fn inbox(capacity: usize) -> (Inbox, Events) {
    let (sender, receiver) = mpsc::channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    (Inbox { events: sender, dropped: dropped.clone() }, Events { events: receiver, dropped, told: 0 })
}

impl Inbox {
    /// Queues an event, or drops it where there is no room.
    pub fn offer(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until at least half of the queue is free, but no longer than `patience`: publishers that share a process
    /// with the reader slow down before anything is dropped.
    pub async fn relieved(&self, patience: Duration) {
        let half = self.events.max_capacity().div_ceil(2);
        if self.events.capacity() < half {
            let _ = tokio::time::timeout(patience, self.events.reserve_many(half)).await;
        }
    }
}

impl Events {
    /// Waits for events, and appends up to `limit` of them to `buffer`; false after the broker's end is gone.
    pub async fn receive(&mut self, buffer: &mut Vec<Event>, limit: usize) -> bool {
        let open = self.events.recv_many(buffer, limit).await > 0;
        self.tell_dropped(buffer);
        open
    }

    /// Appends the events that are there, without waiting.
    pub fn take_ready(&mut self, buffer: &mut Vec<Event>) {
        while let Ok(event) = self.events.try_recv() {
            buffer.push(event);
        }
        self.tell_dropped(buffer);
    }

    fn tell_dropped(&mut self, buffer: &mut Vec<Event>) {
        let dropped = self.dropped.load(Ordering::Acquire);
        if dropped != self.told {
            self.told = dropped;
            buffer.push(Event::Missed);
        }
    }

    /// How many events were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
