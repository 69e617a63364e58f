//! Messages on their way to the time-series store.
//!
//! Invariants: rows are appended in the order of the log; what waits is bounded, and what finds no room is read from the log
//! again when there is; nothing is let go of before the store has it, but what the store can never take.

use std::collections::VecDeque;
use std::sync::Arc;

use tickmesh_market::tick::Tick;
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_store::series::Row;

/// The rows of one room.
#[derive(Debug)]
pub(super) struct Rows {
    /// Up to here messages were taken.
    cursor: Position,
    waiting: VecDeque<Row>,
    room: usize,
    /// Most rows of the next write: fewer after the store refused some, to find the one that it cannot take.
    next: usize,
}

impl Rows {
    /// Goes on after what the store has; room for so many rows.
    pub(super) fn new(stored: Position, room: usize) -> Self {
        Self { cursor: stored, waiting: VecDeque::new(), room, next: usize::MAX }
    }

    pub(super) fn cursor(&self) -> &Position {
        &self.cursor
    }

    /// How many more fit.
    pub(super) fn free(&self) -> usize {
        self.room.saturating_sub(self.waiting.len())
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the message after the cursor, if it fits.
    pub(super) fn take(&mut self, epoch: &Epoch, message: &Arc<Message>, tick: &Tick) -> bool {
        if self.free() == 0 {
            return false;
        }
        self.waiting.push_back(Row {
            at: tick.at,
            epoch: epoch.clone(),
            figures: tick.figures,
            message: message.clone(),
        });
        self.cursor = Position { epoch: epoch.clone(), seq: message.seq };
        true
    }

    /// There is nothing before this position that could be taken.
    pub(super) fn skip(&mut self, to: Position) {
        self.cursor = to;
    }

    /// The rows that are to be written next, at most so many.
    pub(super) fn chunk(&self, most: usize) -> Vec<Row> {
        self.waiting.iter().take(most.min(self.next)).cloned().collect()
    }

    /// Some of the first so many are refused, with others of other rooms.
    pub(super) fn be_wary(&mut self, count: usize) {
        self.next = self.next.min(count);
    }

    /// Whether they are tried a few at a time.
    pub(super) fn is_wary(&self) -> bool {
        self.next != usize::MAX
    }

    /// The store has the first so many.
    pub(super) fn written(&mut self, count: usize) {
        self.waiting.drain(..count.min(self.waiting.len()));
        if self.is_wary() {
            self.next = if self.next >= self.room { usize::MAX } else { self.next.saturating_mul(2) };
        }
    }

    /// The store refuses the first so many: tries fewer, and lets go of a single one. Answers how many were let go of.
    pub(super) fn refused(&mut self, count: usize) -> usize {
        if count > 1 {
            self.next = count / 2;
            return 0;
        }
        self.waiting.pop_front();
        self.next = 1;
        1
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn message(seq: u64) -> Arc<Message> {
        let data = RawValue::from_string(format!(r#"{{"price":{seq}}}"#)).unwrap();
        Arc::new(Message {
            seq,
            timestamp: seq,
            accepted_at: 0,
            event: "q".into(),
            key: None,
            data,
            trace: None,
        })
    }

    #[test]
    fn only_what_the_store_refuses_is_let_go_of() {
        let epoch = Epoch::new("e");
        let mut rows = Rows::new(Position { epoch: epoch.clone(), seq: 0 }, 100);
        for seq in 1..=150 {
            let message = message(seq);
            assert_eq!(rows.take(&epoch, &message, &Tick::read(&message)), seq <= 100);
        }
        assert_eq!(rows.cursor().seq, 100);
        // A store that cannot take 37.
        let (mut kept, mut lost) = (Vec::new(), 0);
        while rows.waiting() > 0 {
            let chunk: Vec<u64> = rows.chunk(60).iter().map(|row| row.message.seq).collect();
            if chunk.contains(&37) {
                lost += rows.refused(chunk.len());
            } else {
                rows.written(chunk.len());
                kept.extend(chunk);
            }
        }
        assert_eq!(lost, 1);
        assert_eq!(kept, (1..=100).filter(|seq| *seq != 37).collect::<Vec<_>>());
        assert_eq!(rows.free(), 100);
    }
}
