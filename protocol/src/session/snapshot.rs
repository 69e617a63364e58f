//! What another node needs to go on with a session where this one stopped.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::encode::Encoding;
use crate::identity::Identity;
use crate::link::SlotPosition;
use crate::message::{Delivery, Fields};
use crate::outbox::Kind;
use crate::position::Position;
use crate::room::RoomName;

use super::socketio::{Face, FaceSnapshot};
use super::subscription::Subscription;
use super::{Now, Policy, Session, Wire};

/// A session at rest. Requests that were not answered are not in it: the client's side sends them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The session's name; it keeps it.
    pub session_id: String,
    /// Who it belongs to.
    pub identity: Identity,
    /// How it is spoken to.
    pub encoding: Encoding,
    /// Arrays of notifications are allowed.
    pub batch: bool,
    /// Bytes a second that its client wants at most; 0 for any.
    #[serde(default, skip_serializing_if = "is_any")]
    pub max_bandwidth: u64,
    /// UTC milliseconds since when it is connected.
    pub connected_at: u64,
    /// What it follows, sorted by room.
    pub subscriptions: Vec<SubscriptionSnapshot>,
    /// Where it stands as a Socket.IO session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socketio: Option<FaceSnapshot>,
}

/// One room that a session follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionSnapshot {
    /// Names the subscription within its session, also over links.
    pub slot: u32,
    /// The room.
    pub room: RoomName,
    /// The last message that was sent, or, for `all`, queued: whoever restores the snapshot sees to it that what
    /// was queued reaches the client, or takes the position that the client really has.
    pub position: Position,
    /// In order, or conflated.
    pub delivery: Delivery,
    /// Milliseconds between two messages of one `(room, event, key)`; 0 for no limit.
    pub min_interval_ms: u64,
    /// Keys of `data` that are sent.
    pub fields: Option<Fields>,
    /// Conflated messages up to `position` that no `conflated` count has told of yet.
    pub carried: u64,
    /// A Socket.IO client's market stream: messages are the event `stream_data`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

fn is_any(bandwidth: &u64) -> bool {
    *bandwidth == 0
}

impl Session {
    /// The session as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut subscriptions: Vec<_> =
            self.subscriptions.iter().filter_map(|(room, held)| held.snapshot(room)).collect();
        subscriptions.sort_by(|a, b| a.room.cmp(&b.room));
        Snapshot {
            session_id: self.id.to_string(),
            identity: self.identity.clone(),
            encoding: self.wire.encoding,
            batch: self.wire.batch,
            max_bandwidth: self.wire.max_bandwidth,
            connected_at: self.connected_utc,
            subscriptions,
            socketio: self.face.as_deref().map(Face::snapshot),
        }
    }

    /// A session that goes on where the snapshot was taken: it greets nobody, and asks for what came after the
    /// positions in it. A room whose log cannot give that is announced by `resync`.
    #[must_use]
    pub fn restore(now: Now, policy: Arc<Policy>, snapshot: Snapshot, linked: bool) -> Self {
        let Snapshot {
            session_id,
            identity,
            encoding,
            batch,
            max_bandwidth,
            connected_at,
            subscriptions,
            socketio,
        } = snapshot;
        let wire = Wire { encoding, batch, max_bandwidth, linked };
        let mut session = Self::silent(now, &session_id, policy, identity, wire);
        session.connected_utc = connected_at;
        if let Some(face) = socketio {
            session.face = Some(Box::new(Face::restored(now, &session.policy, face)));
            // Its client waits for a ping since the last one of the node before.
            session.next_ping = now.mono;
        }
        for held in subscriptions {
            session.follow(held);
        }
        session.restored = true;
        session.arriving = linked;
        session.tell_arrival();
        session
    }

    /// Tells the gateway, once, when all subscriptions go on here. It hears nothing else of a session in which nothing happens,
    /// and could not tell how long that was without a node.
    pub(super) fn tell_arrival(&mut self) {
        if self.arriving && self.ending.is_none() && !self.subscriptions.values().any(|held| held.is_gated())
        {
            self.arriving = false;
            self.push(Bytes::new(), Kind::Answer, None, None);
        }
    }

    /// Goes on with a subscription: asks for what came after its position.
    pub(super) fn follow(&mut self, held: SubscriptionSnapshot) {
        let SlotPosition { slot, .. } = held.slot_position();
        self.next_slot = self.next_slot.max(slot + 1);
        self.resumed(held.slot_position());
        self.subscriptions.insert(held.room.clone(), Box::new(Subscription::restored(&held)));
        self.catch_up_from(held.room, held.position);
    }
}

impl SubscriptionSnapshot {
    /// Where it stands.
    pub(super) fn slot_position(&self) -> SlotPosition {
        SlotPosition { slot: self.slot, seq: self.position.seq, carried: self.carried }
    }
}
