//! What leaves a session: frames for the client, and towards a gateway the notes that belong to them.

use std::cmp::Reverse;

use bytes::Bytes;
use serde::Serialize;

use crate::batch::Prepared;
use crate::conflate::Next;
use crate::encode::{self, Stamp};
use crate::error::{ErrorCode, Failure};
use crate::link::{self, Change, Note, SlotPosition};
use crate::outbox::{Kind, Mark};
use crate::room::RoomName;

use super::{Now, Occurrence, Session};

impl Session {
    /// Queues JSON text in the session's encoding.
    pub(super) fn send(&mut self, json: &[u8]) {
        self.send_with(json, None);
    }

    /// The same, with a change of what another node would need to go on.
    pub(super) fn send_with(&mut self, json: &[u8], change: Option<Change>) {
        self.push(encode::frame_json(json, self.wire.encoding), Kind::Answer, None, change);
    }

    /// Queues frames. An answer takes the number of the message that is being handled with it.
    pub(super) fn push(
        &mut self,
        bytes: Bytes,
        kind: Kind,
        position: Option<SlotPosition>,
        change: Option<Change>,
    ) {
        let note = self.wire.linked.then(|| {
            let done = if kind == Kind::Answer { self.number.take() } else { None };
            Box::new(Note { done, position, change })
        });
        if let Some(position) = position {
            self.reached(position);
        }
        if note.is_some() || !bytes.is_empty() {
            self.out.push(bytes, kind, note, self.clock);
        }
    }

    /// The next bytes; of a record its head, while its frames wait in `half`.
    pub(super) fn next_out(&mut self, now: Now) -> Option<Bytes> {
        self.clock = now.mono;
        let (bytes, mark, note) = match self.out.pop() {
            Some((bytes, mark, note, queued)) => {
                if let Some(at) = queued {
                    self.quality.waited(now.mono.saturating_sub(at));
                }
                if let Some(shaper) = &mut self.shaper {
                    shaper.spend(now.mono, bytes.len());
                }
                (bytes, mark, note)
            }
            None if self.shaper.is_some() => self.next_shaped(now.mono)?,
            None => {
                let (bytes, mark, position) = self.next_due(now.mono)?;
                self.reached(position);
                let note = Note { position: Some(position), ..Note::default() };
                (bytes, mark, self.wire.linked.then(|| Box::new(note)))
            }
        };
        self.mark = mark;
        let Some(note) = note else { return Some(bytes) };
        let head = link::data_head(&note, bytes.len());
        self.half = Some(bytes).filter(|bytes| !bytes.is_empty());
        Some(head)
    }

    /// Answers a request with data.
    pub(super) fn respond(&mut self, stamp: Stamp<'_>, data: &impl Serialize) {
        // Types of ours with string keys: serialising them cannot fail.
        let data = serde_json::to_string(data).unwrap_or_default();
        self.respond_raw(stamp, &data, None);
    }

    /// The same with JSON text, which is copied, not parsed.
    pub(super) fn respond_raw(&mut self, stamp: Stamp<'_>, data: &str, change: Option<Change>) {
        if self.face.is_some() {
            self.answer(stamp, data, change);
        } else {
            self.send_with(&encode::response_raw(stamp, data), change);
        }
    }

    /// Answers a request that failed.
    pub(super) fn fail(&mut self, stamp: Stamp<'_>, failure: &Failure) {
        self.tell_error(stamp, failure, None);
    }

    /// The same, with a change.
    pub(super) fn tell_error(&mut self, stamp: Stamp<'_>, failure: &Failure, change: Option<Change>) {
        self.failed(failure.code);
        if self.face.is_some() {
            self.answer_error(stamp, failure, change);
        } else {
            self.send_with(&encode::error(stamp, failure), change);
        }
    }

    /// Counts a request that is answered with an error.
    pub(super) fn failed(&mut self, code: ErrorCode) {
        self.counters.errors += 1;
        self.occurrences.push(Occurrence::Failed(code));
    }

    pub(super) fn pong(&mut self, timestamp: &str, server_time: u64) {
        let pong = encode::pong(timestamp, server_time);
        if self.face.is_some() { self.answer_pong(&pong) } else { self.send(&pong) }
    }

    /// Tells of something that is no message of a room's log.
    pub(super) fn notify(
        &mut self,
        room: &str,
        event: &str,
        seq: u64,
        server_time: u64,
        data: &impl Serialize,
    ) -> Bytes {
        let json = match &self.face {
            Some(_) => encode::socketio_notice(room, event, server_time, data),
            None => encode::notice(room, event, seq, server_time, data),
        };
        encode::frame_json(&json, self.wire.encoding)
    }

    pub(super) fn reject(
        &mut self,
        now: Now,
        request_id: Option<&str>,
        trace_id: Option<&str>,
        failure: &Failure,
    ) {
        self.fail(Stamp { server_time: now.utc, request_id, trace_id }, failure);
    }

    /// The next conflated message that may go out at a time in milliseconds on the monotonic clock.
    pub(super) fn next_due(&mut self, now: u64) -> Option<(Bytes, Mark, SlotPosition)> {
        while let Some(room) = self.due.front() {
            let Some(subscription) = self.subscriptions.get_mut(room) else {
                self.due.pop_front();
                continue;
            };
            match subscription.poll_latest(now) {
                Next::Send { message, conflated, held } => {
                    let room = room.clone();
                    // Rooms take turns.
                    self.due.rotate_left(1);
                    return self.due_frame(&room, &message, conflated, held);
                }
                Next::Wait(until) => {
                    if let Some(room) = self.due.pop_front() {
                        self.held.push(Reverse((until, room)));
                    }
                }
                Next::Empty => {
                    subscription.set_scheduled(false);
                    self.due.pop_front();
                }
            }
        }
        None
    }

    /// A conflated message that goes out now. One that was `held` up because the client wants it so is counted and not timed.
    pub(super) fn due_frame(
        &mut self,
        room: &RoomName,
        message: &Prepared,
        conflated: u64,
        held: bool,
    ) -> Option<(Bytes, Mark, SlotPosition)> {
        let subscription = self.subscriptions.get(room)?;
        let frame = message.frame(subscription.encoding(self.wire), subscription.fields());
        let mark = if held { message.mark().untimed() } else { message.mark() };
        let position = subscription.slot_position();
        if !subscription.is_slow_by_wish() && self.shaper.is_none() {
            self.quality.conflated(conflated);
        }
        Some((self.conflated(frame, conflated), mark, position))
    }

    /// Counts a message of a `latest` subscription, and adds to its frame what it replaced.
    pub(super) fn conflated(&mut self, frame: Bytes, replaced: u64) -> Bytes {
        self.counters.notifications_out += 1;
        self.counters.conflated += replaced;
        // Both forms of Socket.IO take it alike.
        if replaced == 0 { frame } else { encode::with_conflated(&frame, self.wire.encoding, replaced) }
    }

    /// Queues what is pending in the conflation tables, so that a close loses no last value.
    pub(super) fn flush_due(&mut self) {
        self.flush_shaped();
        self.due.extend(self.held.drain().map(|Reverse((_, room))| room));
        while let Some((frame, mark, position)) = self.next_due(u64::MAX) {
            self.push(frame, Kind::Live(mark), Some(position), None);
        }
    }
}
