//! Connection state recovery: a Socket.IO client that lost its connection comes back with the name of its session and the
//! offset of the last message it got (<https://socket.io/docs/v4/connection-state-recovery>).
//!
//! A session remembers the order in which messages left it, as runs per subscription; not the messages, which are in
//! their rooms' logs. From the offset follows what of every subscription the client has. Invariant: an offset that is not
//! remembered recovers nothing, so that a recovered client lacks and doubles no message.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::link::SlotPosition;
use crate::room::RoomName;

use super::{Snapshot, SubscriptionSnapshot};

/// Runs that are remembered; a session with one room has one.
const MAX_RUNS: usize = 512;

/// Messages of one subscription that left without one of another between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    slot: u32,
    /// Offset after its first write.
    first: u64,
    /// Offset after its last.
    last: u64,
    /// Conflated messages up to `last` that were not told of.
    carried: u64,
    /// The subscription began here: before it the client knew nothing of it.
    begins: bool,
}

/// What left a session, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Sent {
    runs: VecDeque<Run>,
    /// Where subscriptions stood at the end of the runs that are not remembered any more.
    forgotten: Vec<SlotPosition>,
}

/// A Socket.IO session whose client may come back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parked {
    /// The session at its end.
    pub snapshot: Snapshot,
    pub(super) sent: Sent,
}

impl Sent {
    /// Messages up to here leave.
    pub(super) fn reached(&mut self, at: SlotPosition) {
        match self.runs.back_mut() {
            Some(run) if run.slot == at.slot && run.carried == 0 && at.carried == 0 => run.last = at.seq,
            _ => self.push(at, false),
        }
    }

    /// The client is told where a subscription begins.
    pub(super) fn began(&mut self, at: SlotPosition) {
        self.push(at, true);
    }

    /// A subscription goes on whose client has everything up to here.
    pub(super) fn resumed(&mut self, at: SlotPosition) {
        self.forgotten.retain(|old| old.slot != at.slot);
        self.forgotten.push(at);
        self.push(at, false);
    }

    fn push(&mut self, SlotPosition { slot, seq, carried }: SlotPosition, begins: bool) {
        if self.runs.len() >= MAX_RUNS
            && let Some(old) = self.runs.pop_front()
        {
            self.forgotten.retain(|at| at.slot != old.slot);
            self.forgotten.push(SlotPosition { slot: old.slot, seq: old.last, carried: old.carried });
        }
        self.runs.push_back(Run { slot, first: seq, last: seq, carried, begins });
    }

    /// The subscription ended.
    pub(super) fn left(&mut self, slot: u32) {
        self.runs.retain(|run| run.slot != slot);
        self.forgotten.retain(|at| at.slot != slot);
    }

    /// Index of the run with this offset.
    fn find(&self, slot: u32, seq: u64) -> Option<usize> {
        let has = |run: &Run| run.slot == slot && (run.first..=run.last).contains(&seq);
        self.runs.iter().rposition(has)
    }
}

impl Parked {
    /// The subscriptions as the client has them that reached this offset; none where the offset is not remembered.
    pub(super) fn reached(self, offset: &str) -> Option<Vec<SubscriptionSnapshot>> {
        let (seq, room) = offset.split_once(':')?;
        let (seq, room) = (seq.parse::<u64>().ok()?, RoomName::new(room).ok()?);
        let Self { snapshot, sent } = self;
        let slot = snapshot.subscriptions.iter().find(|held| held.room == room)?.slot;
        let at = sent.find(slot, seq)?;
        let mut kept = Vec::with_capacity(snapshot.subscriptions.len());
        for mut held in snapshot.subscriptions {
            let later = sent.runs.iter().skip(at + 1).find(|run| run.slot == held.slot);
            let earlier = sent.runs.iter().take(at + 1).rfind(|run| run.slot == held.slot);
            if held.slot == slot {
                // Where it stands at the end of a run is known with what was conflated, within a run there is none.
                let carried = earlier.filter(|run| run.last == seq).map_or(0, |run| run.carried);
                (held.position.seq, held.carried) = (seq, carried);
            } else if let Some(run) = earlier {
                (held.position.seq, held.carried) = (run.last, run.carried);
            } else if later.is_some_and(|run| run.begins) {
                // Its beginning did not reach the client.
                continue;
            } else if let Some(at) = sent.forgotten.iter().find(|at| at.slot == held.slot) {
                (held.position.seq, held.carried) = (at.seq, at.carried);
            }
            kept.push(held);
        }
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::encode::Encoding;
    use crate::identity::Identity;
    use crate::message::Delivery;
    use crate::position::{Epoch, Position};

    fn parked(sent: Sent, slots: &[u32]) -> Parked {
        let held = |slot: &u32| SubscriptionSnapshot {
            slot: *slot,
            room: RoomName::new(&format!("r{slot}")).unwrap(),
            position: Position { epoch: Epoch::new("e"), seq: 999 },
            delivery: Delivery::All,
            min_interval_ms: 0,
            fields: None,
            carried: 0,
            stream: false,
        };
        let snapshot = Snapshot {
            session_id: "s".into(),
            identity: Identity::anonymous(),
            encoding: Encoding::SocketIo,
            batch: false,
            max_bandwidth: 0,
            connected_at: 0,
            subscriptions: slots.iter().map(held).collect(),
            socketio: None,
        };
        Parked { snapshot, sent }
    }

    proptest! {
        /// However messages of rooms were mixed, every offset recovers what had left by then.
        #[test]
        fn an_offset_tells_what_of_every_room_the_client_has(steps in prop::collection::vec((0u32..4, 1u64..3), 1..300)) {
            let (mut sent, mut seqs) = (Sent::default(), HashMap::<u32, u64>::new());
            let mut after = Vec::new();
            for (slot, count) in steps {
                match seqs.get_mut(&slot) {
                    None => {
                        seqs.insert(slot, 10);
                        sent.began(SlotPosition { slot, seq: 10, carried: 0 });
                    }
                    Some(seq) => {
                        *seq += count;
                        sent.reached(SlotPosition { slot, seq: *seq, carried: 0 });
                        after.push((format!("{seq}:r{slot}"), seqs.clone()));
                    }
                }
            }
            let slots: Vec<u32> = seqs.keys().copied().collect();
            for (offset, expected) in after {
                let kept = parked(sent.clone(), &slots).reached(&offset).expect("remembered");
                let kept: HashMap<u32, u64> = kept.iter().map(|held| (held.slot, held.position.seq)).collect();
                prop_assert_eq!(kept, expected);
            }
        }
    }

    #[test]
    fn a_session_that_moved_remembers_where_it_went_on() {
        let mut sent = Sent::default();
        for slot in [1, 2, 3] {
            sent.resumed(SlotPosition { slot, seq: 10 * u64::from(slot), carried: 0 });
        }
        sent.reached(SlotPosition { slot: 2, seq: 21, carried: 0 });
        for (offset, expected) in [("10:r1", [10, 20, 30]), ("30:r3", [10, 20, 30]), ("21:r2", [10, 21, 30])]
        {
            let kept = parked(sent.clone(), &[1, 2, 3]).reached(offset).unwrap();
            let seqs: Vec<u64> = kept.iter().map(|held| held.position.seq).collect();
            assert_eq!(seqs, expected, "{offset}");
        }
    }

    #[test]
    fn what_is_not_remembered_recovers_nothing() {
        let mut sent = Sent::default();
        for slot in [1, 2] {
            sent.began(SlotPosition { slot, seq: 0, carried: 0 });
        }
        for n in 1..=MAX_RUNS as u64 {
            sent.reached(SlotPosition { slot: 1, seq: n, carried: 0 });
            sent.reached(SlotPosition { slot: 2, seq: n, carried: 0 });
        }
        let reached = |offset: &str| parked(sent.clone(), &[1, 2]).reached(offset);
        for offset in ["1:r1", "0:r1", "9999:r1", "1:r3", "x:r1", "", "5"] {
            assert!(reached(offset).is_none(), "{offset}");
        }
        let kept = reached(&format!("{MAX_RUNS}:r1")).unwrap();
        assert_eq!((kept[0].position.seq, kept[1].position.seq), (MAX_RUNS as u64, MAX_RUNS as u64 - 1));
    }
}
