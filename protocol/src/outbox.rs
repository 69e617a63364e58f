//! Frames that wait to be written to one connection, in order and bounded.
//!
//! Answers and live messages share one queue, so that they keep their order, but are counted apart: too many bytes
//! of live messages make a slow consumer, too many bytes of answers only stop the reading of further requests.
//!
//! Towards a gateway each entry has a note, which leaves before it in one piece with it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::link::Note;

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Entry>,
    answer_bytes: usize,
    live_bytes: usize,
    /// When the oldest of the live messages was queued.
    oldest_live: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    kind: Kind,
    note: Option<Box<Note>>,
    /// When it was queued.
    at: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An answer or a control frame.
    Answer,
    /// Live messages.
    Live(Mark),
}

/// Live messages on their way: what is measured of them when they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// How many.
    pub messages: u32,
    /// When the oldest was accepted from its publisher, in UTC milliseconds; 0 where its way is not measured.
    pub accepted_at: u64,
    /// When they were handed over for delivery, see [`Batch::handed`](crate::batch::Batch::handed); 0 where that is not
    /// measured.
    pub handed_at: u64,
}

impl Mark {
    /// Of messages that wait on purpose: counted, not timed.
    #[must_use]
    pub fn untimed(self) -> Self {
        Self { accepted_at: 0, handed_at: 0, ..self }
    }
}

/// What leaves the queue: bytes, what is measured of them, the note before them, and of live messages when they were queued.
pub(crate) type Popped = (Bytes, Mark, Option<Box<Note>>, Option<u64>);

impl Outbox {
    /// Queues frames, at a time in milliseconds on the monotonic clock.
    pub fn push(&mut self, bytes: Bytes, kind: Kind, note: Option<Box<Note>>, at: u64) {
        match kind {
            Kind::Answer => self.answer_bytes += bytes.len(),
            Kind::Live(_) => {
                self.live_bytes += bytes.len();
                self.oldest_live.get_or_insert(at);
            }
        }
        self.queue.push_back(Entry { bytes, kind, note, at });
    }

    /// Takes what is to be written next.
    pub(crate) fn pop(&mut self) -> Option<Popped> {
        let Entry { bytes, kind, note, at } = self.queue.pop_front()?;
        let (mark, queued) = match kind {
            Kind::Answer => {
                self.answer_bytes -= bytes.len();
                (Mark::default(), None)
            }
            Kind::Live(mark) => {
                self.live_bytes -= bytes.len();
                let next = self.queue.iter().find(|entry| matches!(entry.kind, Kind::Live(_)));
                self.oldest_live = next.map(|entry| entry.at);
                (mark, Some(at))
            }
        };
        if self.queue.is_empty() {
            // An idle connection holds no queue.
            self.queue = VecDeque::new();
        }
        Some((bytes, mark, note, queued))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes of answers that wait.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// When the oldest of the live messages that wait was queued.
    #[must_use]
    pub fn oldest_live(&self) -> Option<u64> {
        self.oldest_live
    }

    /// Bytes of live messages that wait.
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }
}
