//! What can be asked of a session.

use std::sync::Arc;

use crate::encode::Encoding;
use crate::identity::Identity;
use crate::room::RoomName;

use super::{Counters, Ending, Session, Subscription};

impl Session {
    /// The [`reason`](Self::reason) of one that goes on at another node.
    pub const MOVED: &str = "moved to another node";

    /// The connection is to be closed, once everything from [`poll_transmit`](Self::poll_transmit) is written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending.is_some()
    }

    /// Why it is over, in a short label; `None` while it is not.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self.ending? {
            Ending::Closed(code) => Some(code.reason()),
            Ending::Moved => Some(Self::MOVED),
        }
    }

    /// The client's connection is held by a gateway.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.wire.linked
    }

    /// The client speaks Socket.IO.
    #[must_use]
    pub fn is_socketio(&self) -> bool {
        self.face.is_some()
    }

    /// False while the client is to be held back: too many of its requests wait, or it does not take its answers.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.ending.is_none()
            && self.waiting.len() < self.policy.max_in_flight
            && self.out.answer_bytes() < self.policy.max_queue_bytes / 4
    }

    /// The session's name, unique in the cluster.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// How it is spoken to.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.wire.encoding
    }

    /// Who it belongs to.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// UTC milliseconds since when it is connected.
    #[must_use]
    pub fn connected_at(&self) -> u64 {
        self.connected_utc
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        let tables: usize = self.subscriptions.values().map(Subscription::table_bytes).sum();
        self.out.answer_bytes() + self.out.live_bytes() + tables
    }

    /// Milliseconds between the last ping and its pong.
    #[must_use]
    pub fn round_trip_ms(&self) -> Option<u64> {
        self.round_trip_ms
    }

    /// The rooms it follows, with the newest sequence number queued for each.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomName, u64)> {
        self.subscriptions.iter().map(|(room, subscription)| (room, subscription.seq()))
    }

    /// A score from 100 (as good as local) to 0: minus 1 per 10 ms of round trip, at most 50, and minus up to 50 in
    /// proportion to how full the queue is.
    #[must_use]
    pub fn quality(&self) -> u8 {
        let round_trip = self.round_trip_ms.unwrap_or(0) / 10;
        let queue = self.queued_bytes() * 50 / self.policy.max_queue_bytes.max(1);
        100 - round_trip.min(50) as u8 - queue.min(50) as u8
    }
}
