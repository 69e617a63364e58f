//! What a `latest` subscriber is owed next: the newest value per `(event, key)` of one room.
//!
//! Invariants:
//! * What goes out has rising sequence numbers. So the pending value with the lowest number goes first, and a value
//!   whose rate limit has run out waits for an older one whose limit has not: at most one interval.
//! * Every message that is taken in is accounted for exactly once, as itself or in the `conflated` count of a later
//!   message: when nothing is pending, the sum of `1 + conflated` over what went out equals the distance that `seq`
//!   travelled.
//! * The newest value of every `(event, key)` goes out in the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::batch::Prepared;

/// Bytes of a message beyond its data, for the byte bound.
const OVERHEAD: usize = 200;

/// Event and key of the messages that replace each other.
type Slot = (Arc<str>, Option<Arc<str>>);

#[derive(Debug)]
struct SlotState {
    pending: Option<Arc<Prepared>>,
    /// Messages that the pending one replaced.
    replaced: u64,
    /// The pending one came while a rate limit was in force.
    waits: bool,
    /// Milliseconds on the monotonic clock before which nothing may go out.
    not_before: u64,
}

/// The table of newest values of one subscription.
#[derive(Debug)]
pub struct Latest {
    min_interval_ms: u64,
    slots: FxHashMap<Slot, SlotState>,
    /// Pending sequence numbers, and whose they are.
    order: BTreeMap<u64, Slot>,
    /// Until when, in milliseconds on the monotonic clock, a rate limit holds up something that is or was pending, and so all
    /// that comes after it.
    held_until: u64,
    bytes: usize,
    /// Sequence number of what went out last, or of the start.
    sent_seq: u64,
    /// The start, plus the sum of `1 + conflated` over what went out.
    accounted: u64,
    /// Messages before `sent_seq` that were replaced under another session, to be counted with the next that goes out.
    carried: u64,
}

/// What [`Latest::poll`] found.
#[derive(Debug)]
pub enum Next {
    /// To be sent now.
    Send {
        /// The newest value.
        message: Arc<Prepared>,
        /// How many older ones it replaced.
        conflated: u64,
        /// A rate limit held it up: the time that it waited is what the subscriber asked for.
        held: bool,
    },
    /// Nothing before this time, in milliseconds on the monotonic clock.
    Wait(u64),
    /// Nothing is pending.
    Empty,
}

impl Latest {
    /// A table that starts after `seq`. `carried` is what [`carried`](Self::carried) gave in the session that this
    /// one continues, otherwise 0.
    #[must_use]
    pub fn new(min_interval_ms: u64, seq: u64, carried: u64) -> Self {
        Self {
            min_interval_ms,
            slots: FxHashMap::default(),
            order: BTreeMap::new(),
            held_until: 0,
            bytes: 0,
            sent_seq: seq,
            accounted: seq - carried.min(seq),
            carried: carried.min(seq),
        }
    }

    /// Takes in the next message of the room, at `now` in milliseconds on the monotonic clock.
    pub fn push(&mut self, message: &Arc<Prepared>, now: u64) {
        let inner = message.message();
        let slot: Slot = (inner.event.clone(), inner.key.clone());
        self.bytes += inner.data.get().len() + OVERHEAD;
        self.order.insert(inner.seq, slot.clone());
        let new = SlotState { pending: None, replaced: 0, waits: false, not_before: 0 };
        let state = self.slots.entry(slot).or_insert(new);
        self.held_until = self.held_until.max(state.not_before);
        state.waits = self.held_until > now;
        if let Some(old) = state.pending.replace(message.clone()) {
            state.replaced += 1;
            self.order.remove(&old.message().seq);
            self.bytes -= old.message().data.get().len() + OVERHEAD;
        }
    }

    /// What is to be sent at `now`, in milliseconds on the monotonic clock.
    pub fn poll(&mut self, now: u64) -> Next {
        let Some(first) = self.order.first_entry() else { return Next::Empty };
        let Some(state) = self.slots.get_mut(first.get()) else {
            unreachable!("what is in `order` has a slot");
        };
        if state.not_before > now {
            return Next::Wait(state.not_before);
        }
        let slot = first.remove();
        let Some(message) = state.pending.take() else {
            unreachable!("what is in `order` is pending");
        };
        let conflated = std::mem::take(&mut state.replaced) + std::mem::take(&mut self.carried);
        let held = state.waits;
        state.not_before = now.saturating_add(self.min_interval_ms);
        if self.min_interval_ms == 0 {
            self.slots.remove(&slot);
        } else if self.slots.len() > 64 && self.slots.len() > 4 * self.order.len() {
            self.slots.retain(|_, state| state.pending.is_some() || state.not_before > now);
        }
        self.bytes -= message.message().data.get().len() + OVERHEAD;
        self.sent_seq = message.message().seq;
        self.accounted += 1 + conflated;
        Next::Send { message, conflated, held }
    }

    /// All that is pending, in order, whatever the rate limit says.
    pub fn drain(mut self) -> impl Iterator<Item = (Arc<Prepared>, u64)> {
        std::iter::from_fn(move || match self.poll(u64::MAX) {
            Next::Send { message, conflated, .. } => Some((message, conflated)),
            Next::Wait(_) | Next::Empty => None,
        })
    }

    /// Bytes that the pending messages stand for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sequence number of what went out last; a session that continues this one starts after it.
    #[must_use]
    pub fn sent_seq(&self) -> u64 {
        self.sent_seq
    }

    /// Messages up to [`sent_seq`](Self::sent_seq) that were replaced by pending ones and are in no count yet.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.sent_seq - self.accounted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::batch::Batch;
    use crate::message::Message;
    use crate::position::{Epoch, Position};
    use crate::room::RoomName;

    fn before(seq: u64) -> Position {
        Position { epoch: Epoch::new("x"), seq: seq - 1 }
    }

    fn message(seq: u64, key: u8) -> Arc<Prepared> {
        let message = Message {
            seq,
            timestamp: 0,
            accepted_at: 0,
            event: "e".into(),
            key: Some(key.to_string().into()),
            data: RawValue::from_string(seq.to_string()).unwrap(),
            trace: None,
        };
        let room = RoomName::new("r").unwrap();
        Batch::new(room, before(message.seq), vec![Arc::new(message)], 0).messages()[0].clone()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Poll,
        Pass(u64),
        Migrate,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..4).prop_map(Step::Push),
            3 => Just(Step::Poll),
            2 => (1u64..40).prop_map(Step::Pass),
            1 => Just(Step::Migrate),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// What a subscriber saw, judged by the rules of the protocol alone.
    #[derive(Default)]
    struct Reader {
        last_seq: u64,
        sum: u64,
        newest: FxHashMap<String, u64>,
        times: FxHashMap<String, u64>,
    }

    impl Reader {
        fn read(&mut self, now: u64, interval: u64, message: &Prepared, conflated: u64) {
            let message = message.message();
            assert!(message.seq > self.last_seq, "seq only grows");
            self.last_seq = message.seq;
            self.sum += 1 + conflated;
            let key = message.key.as_deref().unwrap().to_owned();
            if let Some(before) = self.times.insert(key.clone(), now) {
                assert!(now >= before + interval, "max_rate");
            }
            self.newest.insert(key, message.seq);
        }
    }

    proptest! {
        #[test]
        fn order_rate_sum_and_last_value_hold(interval in prop_oneof![Just(0u64), 1u64..50], steps in steps()) {
            let (mut now, mut seq) = (0u64, 0u64);
            let mut log: Vec<Arc<Prepared>> = Vec::new();
            let mut newest: FxHashMap<String, u64> = FxHashMap::default();
            let mut table = Latest::new(interval, 0, 0);
            let mut reader = Reader::default();
            for step in steps {
                match step {
                    Step::Push(key) => {
                        seq += 1;
                        newest.insert(key.to_string(), seq);
                        log.push(message(seq, key));
                        table.push(&log[log.len() - 1], now);
                    }
                    Step::Poll => if let Next::Send { message, conflated, .. } = table.poll(now) {
                        reader.read(now, interval, &message, conflated);
                    },
                    Step::Pass(ms) => now += ms,
                    Step::Migrate => {
                        // Another node continues from the last message sent, with the log.
                        let sent = table.sent_seq();
                        table = Latest::new(interval, sent, table.carried());
                        for message in &log[sent as usize..] {
                            table.push(message, now);
                        }
                        reader.times.clear();
                    }
                }
                prop_assert!(table.bytes() <= 4 * (OVERHEAD + 4), "bounded by the number of keys");
            }
            loop {
                match table.poll(now) {
                    Next::Send { message, conflated, .. } => reader.read(now, interval, &message, conflated),
                    Next::Wait(until) => { prop_assert!(until > now); now = until; }
                    Next::Empty => break,
                }
            }
            prop_assert_eq!(reader.sum, seq);
            prop_assert_eq!(reader.newest, newest);
            prop_assert_eq!(table.bytes(), 0);
        }
    }

    #[test]
    fn what_a_rate_limit_held_up_is_told_from_what_went_at_once() {
        let mut table = Latest::new(100, 0, 0);
        let sent = |table: &mut Latest, now| match table.poll(now) {
            Next::Send { message, held, .. } => Some((message.message().seq, held)),
            Next::Wait(_) | Next::Empty => None,
        };
        table.push(&message(1, 0), 1_000);
        assert_eq!(sent(&mut table, 1_000), Some((1, false)));
        // Too early for its key; and what comes behind it waits as well, though its own key is free.
        table.push(&message(2, 0), 1_040);
        table.push(&message(3, 1), 1_050);
        assert_eq!(sent(&mut table, 1_060), None);
        assert_eq!(sent(&mut table, 1_100), Some((2, true)));
        assert_eq!(sent(&mut table, 1_100), Some((3, true)));
        // No limit is in force: however late it goes out, nobody wanted that.
        table.push(&message(4, 0), 1_250);
        assert_eq!(sent(&mut table, 9_000), Some((4, false)));
    }

    #[test]
    fn forgotten_keys_leave_no_trace() {
        let mut table = Latest::new(10, 0, 0);
        for seq in 1..=10_000u64 {
            let mut data = message(seq, 0);
            let inner = Message { key: Some(seq.to_string().into()), ..data.message().clone() };
            let room = RoomName::new("r").unwrap();
            data = Batch::new(room, before(inner.seq), vec![Arc::new(inner)], 0).messages()[0].clone();
            table.push(&data, seq * 20);
            assert!(matches!(table.poll(seq * 20), Next::Send { .. }));
        }
        assert!(table.slots.len() < 100, "{}", table.slots.len());
    }
}
