//! Requests whose answers wait for others.

use super::socketio::{Answer, Entry};
use crate::identity::Identity;
use crate::link::Done;
use crate::room::RoomName;

/// A request whose answer waits for others.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request_id: Box<str>,
    pub(super) trace_id: Option<Box<str>>,
    pub(super) purpose: Purpose,
    pub(super) number: Option<Done>,
    pub(super) answer: Answer,
}

/// What it is about.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A Socket.IO client enters the namespace.
    Connect(Entry),
    /// It does, and was there before.
    Resume(Entry, Box<Identity>),
    /// `respond` is false where the subscription is carried over from another node.
    Subscribe {
        room: RoomName,
        respond: bool,
    },
    Publish,
    History {
        room: RoomName,
    },
    Authenticate,
    Presence,
    Ask,
    /// Of this user.
    Missed(String),
}
