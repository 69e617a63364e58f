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
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    kind: Kind,
    note: Option<Box<Note>>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An answer or a control frame.
    Answer,
    /// Live messages.
    Live,
}

impl Outbox {
    /// Queues frames.
    pub fn push(&mut self, bytes: Bytes, kind: Kind, note: Option<Box<Note>>) {
        match kind {
            Kind::Answer => self.answer_bytes += bytes.len(),
            Kind::Live => self.live_bytes += bytes.len(),
        }
        self.queue.push_back(Entry { bytes, kind, note });
    }

    /// Takes what is to be written next.
    pub fn pop(&mut self) -> Option<(Bytes, Option<Box<Note>>)> {
        let Entry { bytes, kind, note } = self.queue.pop_front()?;
        match kind {
            Kind::Answer => self.answer_bytes -= bytes.len(),
            Kind::Live => self.live_bytes -= bytes.len(),
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue.shrink_to(0);
        }
        Some((bytes, note))
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

    /// Bytes of live messages that wait.
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }
}
