//! Sessions whose client wants no more than so many bytes a second: their live messages wait by room, and take turns.
//!
//! Answers do not wait, but are paid for. What is queued for a room leaves before what is in its table of newest values, which
//! is asked when it is the room's turn, so that it conflates meanwhile.

use bytes::Bytes;

use crate::conflate::Next;
use crate::link::{Change, Note, SlotPosition};
use crate::outbox::{Kind, Mark};
use crate::room::RoomName;
use crate::shape::{Shaper, Turn};

use super::Session;

/// A live message that waits for its room's turn.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Bytes,
    mark: Mark,
    position: Option<SlotPosition>,
    change: Option<Change>,
}

impl Session {
    /// Queues live messages of a room.
    pub(super) fn push_live(
        &mut self,
        room: &RoomName,
        bytes: Bytes,
        mark: Mark,
        position: Option<SlotPosition>,
        change: Option<Change>,
    ) {
        match &mut self.shaper {
            None => self.push(bytes, Kind::Live(mark), position, change),
            Some(shaper) => {
                let (size, at) = (bytes.len(), self.clock);
                // They wait because the client wants it so.
                let mark = mark.untimed();
                shaper.push(room, Held { bytes, mark, position, change }, size, at);
            }
        }
    }

    /// A room has something in its table of newest values that may be due.
    pub(super) fn schedule(&mut self, room: RoomName) {
        match &mut self.shaper {
            None => self.due.push_back(room),
            Some(shaper) => shaper.ask(&room),
        }
    }

    /// The next live message that the bandwidth allows.
    pub(super) fn next_shaped(&mut self, now: u64) -> Option<(Bytes, Mark, Option<Box<Note>>)> {
        loop {
            match self.shaper.as_mut()?.next(now) {
                Turn::Wait(_) | Turn::Idle => return None,
                Turn::Send(held) => {
                    if let Some(position) = held.position {
                        self.reached(position);
                    }
                    let Held { bytes, mark, position, change } = held;
                    let note = Note { done: None, position, change };
                    let note = self.wire.linked.then(|| Box::new(note));
                    // A message that is not for this client only moves its position.
                    if note.is_some() || !bytes.is_empty() {
                        return Some((bytes, mark, note));
                    }
                }
                Turn::Ask(room) => {
                    if let Some((bytes, mark, position)) = self.ask_table(&room, now) {
                        if let Some(shaper) = &mut self.shaper {
                            shaper.sent(&room, bytes.len());
                        }
                        self.reached(position);
                        let note = Note { position: Some(position), ..Note::default() };
                        return Some((bytes, mark.untimed(), self.wire.linked.then(|| Box::new(note))));
                    }
                    if let Some(shaper) = &mut self.shaper {
                        shaper.idle(&room);
                    }
                }
            }
        }
    }

    /// What waits for a room leaves at once, because what comes next changes what its numbers mean.
    pub(super) fn release(&mut self, room: &RoomName) {
        let held = self.shaper.as_mut().map(|shaper| shaper.take(room)).unwrap_or_default();
        for Held { bytes, mark, position, change } in held {
            self.push(bytes, Kind::Live(mark), position, change);
        }
    }

    /// Limits what the session sends from now on.
    pub(super) fn limit_bandwidth(&mut self, rate: u64) {
        self.wire.max_bandwidth = rate;
        self.shaper = (rate > 0).then(|| Box::new(Shaper::new(rate, self.clock)));
    }

    fn ask_table(&mut self, room: &RoomName, now: u64) -> Option<(Bytes, Mark, SlotPosition)> {
        let subscription = self.subscriptions.get_mut(room)?;
        match subscription.poll_latest(now) {
            Next::Send { message, conflated, held } => self.due_frame(room, &message, conflated, held),
            Next::Wait(until) => {
                self.held.push(std::cmp::Reverse((until, room.clone())));
                None
            }
            Next::Empty => {
                subscription.set_scheduled(false);
                None
            }
        }
    }

    /// Queues all that waits here, whatever the bandwidth, so that a close loses nothing.
    pub(super) fn flush_shaped(&mut self) {
        let Some(mut shaper) = self.shaper.take() else { return };
        for Held { bytes, mark, position, change } in shaper.drain() {
            self.push(bytes, Kind::Live(mark), position, change);
        }
        // What is in tables goes out by the usual way.
        let tables = self.subscriptions.iter().filter(|(_, held)| held.table_bytes() > 0);
        let rooms: Vec<RoomName> = tables.map(|(room, _)| room.clone()).collect();
        self.held.clear();
        self.due.extend(rooms);
    }
}
