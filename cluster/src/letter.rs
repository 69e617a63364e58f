//! What processes of a cluster tell each other, see [`Bus`](crate::bus::Bus): JSON, tagged by kind.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tickmesh_protocol::market::Symbol;
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::Epoch;
use tickmesh_protocol::room::RoomName;

use crate::counts;

/// One letter.
#[derive(Debug, Serialize, Deserialize)]
pub struct Letter {
    /// Who sent it: the id of a member.
    pub from: String,
    /// What it says.
    pub body: Body,
}

/// What a letter says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The members changed: look at once.
    Members,
    /// A node is to take no more sessions, or to take them again.
    Drain {
        /// Which.
        node: String,
        /// Whether it drains.
        draining: bool,
    },
    /// Subscription counts, see [`counts`].
    Counts(counts::Notice),
    /// Whoever is meant sends all its counts again.
    CountsWanted {
        /// Id of a member.
        of: String,
    },
    /// A notice for the sessions of a user; those that follow the room have it already.
    User {
        /// Whose sessions.
        user_id: String,
        /// The room in whose log it stands.
        room: RoomName,
        /// The life of that log.
        epoch: Epoch,
        /// The message.
        message: Message,
    },
    /// Somebody published into a room that is recorded: its keeper has to know it.
    Recorded(RoomName),
    /// The alerts of a symbol are others now.
    Alerts(Symbol),
    /// API keys or revoked tokens are others now.
    Credentials,
    /// A question to every node.
    Question {
        /// Comes back with the answer.
        id: u64,
        /// Nodes know what.
        question: Box<RawValue>,
    },
    /// The answer.
    Answer {
        /// The question's.
        id: u64,
        /// What was asked for.
        answer: Box<RawValue>,
    },
}
