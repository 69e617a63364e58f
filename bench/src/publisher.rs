//! The sending side of `bench fanout`: publishes over the WebSocket without waiting for each answer, either as fast as
//! the slowest subscriber allows or at a rate.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::Write as _;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::client::{Closed, Connection};
use crate::clock::Alarm;
use crate::report::Latency;
use crate::scan::{self, Item};
use crate::subscriber::Shared;

/// When a publisher may send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// While the slowest subscriber of a room lacks fewer messages than this.
    Saturate {
        /// Messages.
        inflight: u64,
    },
    /// At fixed times that never drift: message `k` of the run is due at `start_ns + k * interval_ns`. Publishers and
    /// rooms take turns.
    Rate {
        /// On the run's clock, in nanoseconds.
        start_ns: u64,
        /// Between two messages of the run, in nanoseconds.
        interval_ns: f64,
    },
}

/// State that the run looks at while publishers work.
#[derive(Debug)]
pub(crate) struct Publishing {
    /// Publishers of the run.
    pub(crate) publishers: usize,
    pub(crate) pace: Pace,
    /// Text that fills a message up to its size.
    pub(crate) pad: String,
    /// No more messages are to be sent.
    pub(crate) stop: Cell<bool>,
    /// Publishers that still work.
    pub(crate) alive: Cell<usize>,
    /// How much later than meant messages were sent; part of the latency, and this process's own fault.
    pub(crate) lateness: std::cell::RefCell<Latency>,
}

/// Text that brings the `data` of a message to `bytes`.
pub(crate) fn pad_for(bytes: usize, now_ns: u64) -> String {
    let bare = data(now_ns, "").len();
    "x".repeat(bytes.saturating_sub(bare))
}

/// `data` of a message: when it was meant to be sent, and what fills it up.
pub(crate) fn data(sent_ns: u64, pad: &str) -> String {
    format!(r#"{{"sent_ns":{sent_ns},"pad":"{pad}"}}"#)
}

/// One publishing connection.
pub(crate) struct Publisher {
    index: usize,
    shared: Rc<Shared>,
    publishing: Rc<Publishing>,
    alarm: Alarm,
    /// Number of this publisher's next message in the run.
    next: u64,
    unanswered: u64,
    text: Vec<u8>,
}

impl Publisher {
    pub(crate) fn new(index: usize, shared: Rc<Shared>, publishing: Rc<Publishing>) -> std::io::Result<Self> {
        let alarm = Alarm::new(shared.clock)?;
        Ok(Self { index, shared, publishing, alarm, next: index as u64, unanswered: 0, text: Vec::new() })
    }

    /// Publishes until it is told to stop and everything is answered.
    pub(crate) async fn run(mut self, mut connection: Connection) {
        let closed = poll_fn(|cx| self.poll(cx, &mut connection)).await;
        if let Some(closed) = closed {
            self.shared.fail(&format!("publisher lost: {closed}"));
        }
        self.publishing.alive.set(self.publishing.alive.get() - 1);
    }

    fn poll(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Poll<Option<Closed>> {
        self.register(cx);
        loop {
            // Answers first: they make room; then what they and this task queued is written.
            if let Poll::Ready(closed) = connection.poll_io(cx, |text, _, _| self.answer(text)) {
                return Poll::Ready(Some(closed));
            }
            if self.publishing.stop.get() {
                return if self.unanswered == 0 { Poll::Ready(None) } else { Poll::Pending };
            }
            let sent = match self.publishing.pace {
                Pace::Saturate { inflight } => self.fill(inflight, connection),
                Pace::Rate { start_ns, interval_ns } => {
                    match self.send_due(cx, start_ns, interval_ns, connection) {
                        Ok(sent) => sent,
                        Err(error) => return Poll::Ready(Some(Closed::Io(error.kind()))),
                    }
                }
            };
            if !sent {
                return Poll::Pending;
            }
        }
    }

    /// Subscribers wake this task when the slowest has moved, the run when it is over.
    fn register(&self, cx: &Context<'_>) {
        let mut wakers = self.shared.publishers.borrow_mut();
        match wakers.get_mut(self.index) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => wakers.resize(self.index + 1, cx.waker().clone()),
        }
    }

    /// Fills this publisher's share of every room's window. True if anything was queued.
    fn fill(&mut self, inflight: u64, connection: &mut Connection) -> bool {
        let shared = self.shared.clone();
        let mut sent = false;
        for (number, room) in shared.rooms.iter().enumerate() {
            let open = inflight.saturating_sub(room.undelivered());
            for _ in 0..open.div_ceil(self.publishing.publishers as u64) {
                self.publish(number, shared.clock.now_ns(), connection);
                sent = true;
            }
        }
        sent
    }

    /// Sends what is due, late or not, and sets the alarm for the next. True if anything was queued.
    fn send_due(
        &mut self,
        cx: &mut Context<'_>,
        start_ns: u64,
        interval_ns: f64,
        connection: &mut Connection,
    ) -> std::io::Result<bool> {
        let mut sent = false;
        loop {
            let due_ns = start_ns + (self.next as f64 * interval_ns) as u64;
            if self.alarm.poll_until(cx, due_ns)?.is_pending() {
                return Ok(sent);
            }
            if due_ns >= self.shared.measure_from_ns.get() {
                self.publishing.lateness.borrow_mut().record_ns(self.shared.clock.now_ns() - due_ns);
            }
            let room = (self.next % self.shared.rooms.len() as u64) as usize;
            self.publish(room, due_ns, connection);
            self.next += self.publishing.publishers as u64;
            sent = true;
        }
    }

    fn publish(&mut self, room: usize, sent_ns: u64, connection: &mut Connection) {
        let target = &self.shared.rooms[room];
        let number = target.sent.get() + 1;
        self.text.clear();
        // Writing to a vector cannot fail.
        let _ = write!(
            self.text,
            r#"{{"type":"request","request_id":"{room}-{number}","action":"publish","payload":{{"room":"{}","event":"tick","data":{}}}}}"#,
            target.name,
            data(sent_ns, &self.publishing.pad),
        );
        connection.out().text(&self.text);
        target.sent.set(number);
        self.unanswered += 1;
    }

    fn answer(&mut self, text: &[u8]) {
        let shared = self.shared.clone();
        if let Some(room) = shared.scanner.success_id(text).and_then(room_of)
            && let Some(seq) = shared.scanner.response_seq(text)
        {
            self.accepted(room, seq);
            return;
        }
        let parsed = scan::parse(text, |item| {
            let Item::Other(envelope) = item else { return };
            let room = envelope.request_id.as_deref().and_then(|id| room_of(id.as_bytes()));
            match (&*envelope.kind, room, envelope.data().seq) {
                ("response", Some(room), Some(seq)) => self.accepted(room, seq),
                ("response", ..) => shared.fail("publish answered without a seq"),
                ("error", room, _) => {
                    shared.fail(envelope.error_code.as_deref().unwrap_or("error without a code"));
                    if let Some(room) = room.and_then(|room| shared.rooms.get(room)) {
                        self.unanswered = self.unanswered.saturating_sub(1);
                        room.refused.set(room.refused.get() + 1);
                    }
                }
                _ => {}
            }
        });
        if parsed.is_err() {
            shared.fail("message is not JSON");
        }
    }

    fn accepted(&mut self, room: usize, seq: u64) {
        let Some(room) = self.shared.rooms.get(room) else {
            return self.shared.fail("answer without a request");
        };
        self.unanswered = self.unanswered.saturating_sub(1);
        room.accepted.set(room.accepted.get() + 1);
        room.last_seq.set(room.last_seq.get().max(seq));
    }
}

/// The room's number in the id of a publish, `room-number`.
fn room_of(request_id: &[u8]) -> Option<usize> {
    std::str::from_utf8(request_id).ok()?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_the_size_that_was_asked_for() {
        let now = 1_000_000_000_123;
        assert_eq!(data(now, &pad_for(150, now)).len(), 150);
        assert_eq!(pad_for(3, now), "");
    }

    #[test]
    fn a_publish_id_names_its_room() {
        assert_eq!(room_of(b"12-345"), Some(12));
        assert_eq!(room_of(b"s"), None);
        assert_eq!(room_of(b""), None);
    }
}
