//! What leaves a session: frames for the client, and towards a gateway the notes that belong to them.

use std::cmp::Reverse;

use bytes::Bytes;

use crate::conflate::Next;
use crate::encode::{self, Stamp};
use crate::error::Failure;
use crate::link::{self, Change, Note, SlotPosition};
use crate::outbox::Kind;

use super::{Now, Session};

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
        self.out.push(bytes, kind, note);
    }

    /// The next bytes; of a record its head, while its frames wait in `half`.
    pub(super) fn next_out(&mut self, now: Now) -> Option<Bytes> {
        let (bytes, note) = match self.out.pop() {
            Some(next) => next,
            None => {
                let (bytes, position) = self.next_due(now.mono)?;
                let note = Note { position: Some(position), ..Note::default() };
                (bytes, self.wire.linked.then(|| Box::new(note)))
            }
        };
        let Some(note) = note else { return Some(bytes) };
        let head = link::data_head(&note, bytes.len());
        self.half = Some(bytes).filter(|bytes| !bytes.is_empty());
        Some(head)
    }

    pub(super) fn fail(&mut self, stamp: Stamp<'_>, failure: &Failure) {
        self.counters.errors += 1;
        self.send(&encode::error(stamp, failure));
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
    pub(super) fn next_due(&mut self, now: u64) -> Option<(Bytes, SlotPosition)> {
        while let Some(room) = self.due.front() {
            let Some(subscription) = self.subscriptions.get_mut(room) else {
                self.due.pop_front();
                continue;
            };
            match subscription.poll_latest(now) {
                Next::Send(message, conflated) => {
                    let frame = message.frame(self.wire.encoding, subscription.fields());
                    let position = subscription.slot_position();
                    // Rooms take turns.
                    self.due.rotate_left(1);
                    return Some((self.conflated(frame, conflated), position));
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

    /// Counts a message of a `latest` subscription, and adds to its frame what it replaced.
    pub(super) fn conflated(&mut self, frame: Bytes, replaced: u64) -> Bytes {
        self.counters.notifications_out += 1;
        self.counters.conflated += replaced;
        if replaced == 0 { frame } else { encode::with_conflated(&frame, self.wire.encoding, replaced) }
    }

    /// Queues what is pending in the conflation tables, so that a close loses no last value.
    pub(super) fn flush_due(&mut self) {
        self.due.extend(self.held.drain().map(|Reverse((_, room))| room));
        while let Some((frame, position)) = self.next_due(u64::MAX) {
            self.push(frame, Kind::Live, Some(position), None);
        }
    }
}
