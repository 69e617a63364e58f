//! Frames that wait to be written to one connection, in order and bounded.
//!
//! Answers and live messages share one queue, so that they keep their order, but are counted apart: too many bytes
//! of live messages make a slow consumer, too many bytes of answers only stop the reading of further requests.

use std::collections::VecDeque;

use bytes::Bytes;

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<(Bytes, Kind)>,
    answer_bytes: usize,
    live_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Live,
}

impl Outbox {
    /// Queues an answer or a control frame.
    pub fn push_answer(&mut self, frame: Bytes) {
        self.answer_bytes += frame.len();
        self.queue.push_back((frame, Kind::Answer));
    }

    /// Queues live messages.
    pub fn push_live(&mut self, frames: Bytes) {
        self.live_bytes += frames.len();
        self.queue.push_back((frames, Kind::Live));
    }

    /// Takes what is to be written next.
    pub fn pop(&mut self) -> Option<Bytes> {
        let (bytes, kind) = self.queue.pop_front()?;
        match kind {
            Kind::Answer => self.answer_bytes -= bytes.len(),
            Kind::Live => self.live_bytes -= bytes.len(),
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue.shrink_to(0);
        }
        Some(bytes)
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
