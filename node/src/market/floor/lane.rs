//! Rooms that wait for something of which only so much is under way at a time.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;
use tickmesh_protocol::room::RoomName;

/// Each room waits once; the first that came is served first.
#[derive(Debug)]
pub(super) struct Lane {
    waiting: VecDeque<RoomName>,
    known: FxHashSet<RoomName>,
    under_way: usize,
    most: usize,
}

impl Lane {
    /// Room for so many at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), known: FxHashSet::default(), under_way: 0, most }
    }

    /// A room waits, if it does not yet.
    pub(super) fn push(&mut self, room: &RoomName) {
        if self.known.insert(room.clone()) {
            self.waiting.push_back(room.clone());
        }
    }

    /// The next room, if there is one and may be one more. It counts as under way if [`begun`](Self::begun) is called.
    pub(super) fn next(&mut self) -> Option<RoomName> {
        if self.under_way >= self.most {
            return None;
        }
        let room = self.waiting.pop_front()?;
        self.known.remove(&room);
        Some(room)
    }

    /// Something for a room is under way.
    pub(super) fn begun(&mut self) {
        self.under_way += 1;
    }

    /// It is over.
    pub(super) fn over(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_room_waits_once_and_few_are_served_at_a_time() {
        let room = |n: u32| RoomName::new(&format!("market_{n}")).unwrap();
        let mut lane = Lane::new(2);
        for n in [1, 2, 1, 3] {
            lane.push(&room(n));
        }
        for expected in [1, 2] {
            assert_eq!(lane.next(), Some(room(expected)));
            lane.begun();
        }
        assert_eq!(lane.next(), None, "two are under way");
        lane.push(&room(1));
        lane.over();
        assert_eq!(lane.next(), Some(room(3)));
        lane.begun();
        lane.over();
        assert_eq!(lane.next(), Some(room(1)), "it may wait again");
        assert_eq!(lane.next(), None);
    }
}
