//! What nodes ask each other, and how a node answers of itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::Presence;

use crate::hub::{HubSender, Request};
use crate::session::SessionInfo;

/// Most users that one node names of a room.
const MAX_USERS: usize = 10_000;

/// A question to every node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// At most so many sessions: [`Sessions`].
    Sessions(usize),
    /// The session with this id: `SessionInfo` or null.
    Session(String),
    /// End the session with this id: true if it was there.
    Disconnect(String),
    /// Who is in a room: [`Presence`].
    Presence(RoomName),
    /// The session that was parked under this name, which then is there no more: `Parked` or null.
    Unpark(String),
    /// A user has seen the alarm of this id: [`Acknowledged`](crate::alarms::Acknowledged).
    Acknowledge {
        /// Id of the alarm.
        alarm: String,
        /// Who has seen it.
        user: String,
    },
}

/// Sessions of a node.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sessions {
    /// How many there are.
    pub(crate) total: usize,
    /// Some of them.
    pub(crate) sessions: Vec<SessionInfo>,
}

/// This node's own sessions.
#[derive(Clone, Copy)]
pub(crate) struct Local<'a>(pub(crate) &'a [HubSender]);

impl Local<'_> {
    /// Answers a question.
    pub(crate) async fn answer(self, question: Question) -> Option<Box<RawValue>> {
        let answer = match question {
            Question::Sessions(limit) => to_raw_value(&self.sessions(limit).await),
            Question::Session(id) => to_raw_value(&self.session(&id).await),
            Question::Disconnect(id) => to_raw_value(&self.disconnect(&id).await),
            Question::Presence(room) => to_raw_value(&self.presence(&room).await),
            // Nothing that sessions know.
            Question::Unpark(_) | Question::Acknowledge { .. } => return None,
        };
        answer.ok()
    }

    pub(crate) async fn sessions(self, limit: usize) -> Sessions {
        let mut found = Sessions::default();
        for hub in self.0 {
            let left = limit - found.sessions.len();
            let (total, sessions) = hub.ask(|reply| Request::Sessions(left, reply)).await.unwrap_or_default();
            found.total += total;
            found.sessions.extend(sessions);
        }
        found.sessions.truncate(limit);
        found
    }

    pub(crate) async fn session(self, id: &str) -> Option<SessionInfo> {
        for hub in self.0 {
            if let Some(Some(session)) = hub.ask(|reply| Request::Session(id.to_owned(), reply)).await {
                return Some(session);
            }
        }
        None
    }

    pub(crate) async fn disconnect(self, id: &str) -> bool {
        for hub in self.0 {
            if hub.ask(|reply| Request::Disconnect(id.to_owned(), reply)).await == Some(true) {
                return true;
            }
        }
        false
    }

    pub(crate) async fn presence(self, room: &RoomName) -> Presence {
        let mut found = Vec::new();
        for hub in self.0 {
            let (room, most) = (room.clone(), MAX_USERS);
            found.extend(hub.ask(|reply| Request::Presence { room, most, reply }).await);
        }
        merged(found)
    }
}

/// Several nodes' or threads' answers as one.
pub(crate) fn merged(parts: impl IntoIterator<Item = Presence>) -> Presence {
    let (mut count, mut users) = (0, BTreeSet::new());
    for part in parts {
        count += part.count;
        users.extend(part.users);
    }
    Presence { count, users: users.into_iter().take(MAX_USERS).collect() }
}
