//! What can be asked of a session.

use std::sync::Arc;

use crate::encode::Encoding;
use crate::identity::Identity;
use crate::message::Delivery;
use crate::quality::{self, Grade};
use crate::room::RoomName;

use super::{Counters, Ending, Now, Occurrence, Session};

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
        let tables: usize = self.subscriptions.values().map(|held| held.table_bytes()).sum();
        let shaped = self.shaper.as_ref().map_or(0, |shaper| shaper.bytes());
        self.out.answer_bytes() + self.out.live_bytes() + shaped + tables
    }

    /// Whether it follows rooms, and all of them as `latest`: what its client does not read stays small.
    #[must_use]
    pub fn only_latest(&self) -> bool {
        let mut follows = self.subscriptions.values().map(|held| held.delivery());
        !self.subscriptions.is_empty() && follows.all(|delivery| delivery == Delivery::Latest)
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

    /// The smoothed round trip and its variation, in milliseconds; none before the first ping was answered.
    #[must_use]
    pub fn smoothed_round_trip_ms(&self) -> Option<(u64, u64)> {
        self.quality.smoothed()
    }

    /// The score of the connection, see [`quality`](mod@crate::quality).
    #[must_use]
    pub fn quality(&self, now: Now) -> u8 {
        // What waits because the client wants so little a second says nothing of its connection.
        let oldest = self.out.oldest_live().map_or(0, |at| now.mono.saturating_sub(at));
        self.quality.score(now.mono, oldest)
    }

    /// Bytes that may be taken from the session before its socket took those before; `most` of a good connection.
    #[must_use]
    pub fn write_ahead(&self, now: Now, most: usize) -> usize {
        quality::write_ahead(Grade::of(self.quality(now)), most)
    }

    /// When the oldest live message was queued that waits; what waits in a table of newest values is as young as its newest.
    pub(super) fn oldest_live(&self) -> Option<u64> {
        let shaped = self.shaper.as_ref().and_then(|shaper| shaper.oldest());
        [self.out.oldest_live(), shaped].into_iter().flatten().min()
    }

    /// When the oldest live message will have waited for too long.
    pub(super) fn stale_at(&self) -> Option<u64> {
        let limit = self.policy.max_queue_age_ms;
        self.oldest_live().filter(|_| limit > 0).map(|at| at + limit)
    }

    /// Milliseconds until the next ping.
    pub(super) fn ping_interval(&self, now: Now) -> u64 {
        let grade = self.quality.smoothed().map(|_| Grade::of(self.quality(now)));
        quality::ping_interval(grade, self.policy.ping_interval_ms, self.policy.min_ping_interval_ms)
    }

    /// A ping that was sent at this time is answered.
    pub(super) fn answered(&mut self, now: Now, sent: u64) {
        let Some(ms) = now.mono.checked_sub(sent) else { return };
        self.round_trip_ms = Some(ms);
        self.quality.round_trip(ms);
        // When to ask again follows from what was just learned.
        self.next_ping = (sent + self.ping_interval(now)).max(now.mono);
        self.occurrences.push(Occurrence::Rated(self.quality(now)));
    }
}
