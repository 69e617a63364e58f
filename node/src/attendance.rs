//! Announces joins and leaves in the rooms whose class asks for it, as messages of the room: `room_member_joined` and
//! `room_member_left`, with the session and its user.
//!
//! What is true here is known at once; a task brings the cluster's register in line with it, again and again until it
//! is, and announces what changed there. Invariants: an announcement is made by the one who changed the register;
//! sessions whose node died are announced by any node that has sessions in the room, when their lease has ended.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::json;
use serde_json::value::to_raw_value;
use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_cluster::presence::{Attendee, Presence};
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::room::RoomName;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;

/// Attendees in one call.
const CHUNK: usize = 500;

/// Who is in such rooms on this node.
#[derive(Default)]
pub(crate) struct Attendance {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// By room and session.
    rooms: FxHashMap<RoomName, FxHashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    attendee: Attendee,
    present: bool,
    /// The register has it so.
    told: bool,
}

impl Attendance {
    /// A session is in the room.
    pub(crate) fn enter(&self, room: &RoomName, attendee: Attendee) {
        let mut state = self.state.lock();
        let held = state.rooms.entry(room.clone()).or_default();
        // Who comes back before its leave was told stays the same to the register.
        let entry =
            held.entry(attendee.session_id.clone()).or_insert(Entry { attendee, present: true, told: false });
        (entry.present, entry.told) = (true, false);
        drop(state);
        self.changed.notify_one();
    }

    /// It is not any more.
    pub(crate) fn leave(&self, room: &RoomName, session_id: &str) {
        if let Some(entry) = self.state.lock().rooms.get_mut(room).and_then(|held| held.get_mut(session_id)) {
            (entry.present, entry.told) = (false, false);
        }
        self.changed.notify_one();
    }

    /// What the register lacks, and what it has too much, of each room; with `all`, everybody who is present.
    fn due(&self, all: bool) -> Vec<(RoomName, Vec<Attendee>, Vec<Attendee>)> {
        let state = self.state.lock();
        let mut due = Vec::new();
        for (room, attendees) in &state.rooms {
            let wanted = |present: bool| {
                let some = |entry: &&Entry| entry.present == present && (!entry.told || (all && present));
                attendees.values().filter(some).map(|entry| entry.attendee.clone()).collect::<Vec<_>>()
            };
            let (entering, leaving) = (wanted(true), wanted(false));
            if all || !entering.is_empty() || !leaving.is_empty() {
                due.push((room.clone(), entering, leaving));
            }
        }
        due
    }

    /// The register has these so.
    fn told(&self, room: &RoomName, attendees: &[Attendee], present: bool) {
        let mut state = self.state.lock();
        let Some(held) = state.rooms.get_mut(room) else { return };
        for attendee in attendees {
            match held.get_mut(&attendee.session_id) {
                // It may have changed its mind meanwhile.
                Some(entry) if entry.present != present => {}
                Some(_) if !present => {
                    held.remove(&attendee.session_id);
                }
                Some(entry) => entry.told = true,
                None => {}
            }
        }
        if held.is_empty() {
            state.rooms.remove(room);
        }
    }
}

/// Starts the task. It ends when the runtime does.
pub(crate) fn start(
    attendance: Arc<Attendance>,
    presence: Arc<dyn Presence>,
    broker: Arc<dyn Broker>,
    lease: Duration,
) {
    let task = Task { attendance, presence, broker, lease };
    tokio::spawn(task.run());
}

struct Task {
    attendance: Arc<Attendance>,
    presence: Arc<dyn Presence>,
    broker: Arc<dyn Broker>,
    lease: Duration,
}

impl Task {
    async fn run(self) {
        let mut renewing = interval(self.lease / 3);
        renewing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let attendance = &*self.attendance;
        loop {
            let all = tokio::select! {
                _ = renewing.tick() => true,
                () = attendance.changed.notified() => false,
            };
            for (room, entering, leaving) in attendance.due(all) {
                if let Err(error) = self.room(attendance, &room, &entering, &leaving, all).await {
                    // What is not told stays so until the next time.
                    tracing::debug!(%room, %error, "the register of a room was not kept");
                }
            }
        }
    }

    async fn room(
        &self,
        attendance: &Attendance,
        room: &RoomName,
        entering: &[Attendee],
        leaving: &[Attendee],
        all: bool,
    ) -> Result<(), BrokerError> {
        for some in leaving.chunks(CHUNK) {
            let left = self.presence.leave(room, some).await?;
            attendance.told(room, some, false);
            self.announce(room, "room_member_left", left).await;
        }
        for some in entering.chunks(CHUNK) {
            let entered = self.presence.enter(room, some, self.lease).await?;
            attendance.told(room, some, true);
            self.announce(room, "room_member_joined", entered).await;
        }
        if all {
            let gone = self.presence.expire(room).await?;
            self.announce(room, "room_member_left", gone).await;
        }
        Ok(())
    }

    async fn announce(&self, room: &RoomName, event: &str, attendees: Vec<Attendee>) {
        let timestamp = clock::now().utc;
        let message = |attendee: Attendee| {
            let data = json!({ "sid": attendee.session_id, "user_id": attendee.user_id });
            Some(Publish {
                room: room.clone(),
                event: event.into(),
                data: to_raw_value(&data).ok()?,
                message_id: None,
                key: Some(attendee.session_id.into()),
                timestamp: Some(timestamp),
                trace: None,
            })
        };
        let messages: Vec<_> = attendees.into_iter().filter_map(message).collect();
        if messages.is_empty() {
            return;
        }
        for error in self.broker.publish(messages).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%room, event, %error, "an announcement was lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_while_it_is_told_is_told_again() {
        let room = RoomName::new("r").unwrap();
        let a = Attendee { session_id: "a".into(), user_id: "u".into() };
        let one = std::slice::from_ref(&a);
        let attendance = Attendance::default();
        attendance.enter(&room, a.clone());
        assert_eq!(attendance.due(false), [(room.clone(), vec![a.clone()], vec![])]);
        attendance.leave(&room, "a");
        attendance.told(&room, one, true);
        assert_eq!(attendance.due(false), [(room.clone(), vec![], vec![a.clone()])]);
        attendance.told(&room, one, false);
        assert!(attendance.due(true).is_empty());
    }
}
