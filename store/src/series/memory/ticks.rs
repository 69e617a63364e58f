//! The rows of all rooms, in no more than so many bytes.
//!
//! Invariants: what is counted is at most the bound whenever a call has ended; of a room the rows that were appended first go
//! first, so that what is left has no holes in its sequence numbers that were not there; where something has to go, the rooms
//! that hold most give it up, and as long as every room's newest row fits, it stays. A row costs the same however many there
//! are. It must not know what time it is.

use std::collections::{BinaryHeap, VecDeque};
use std::mem::size_of;

use rustc_hash::FxHashMap;
use tickmesh_cluster::fair;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;

use super::super::{Row, Select, within};
use super::segment::{Entry, Packed, Segment};
use tickmesh_cluster::heap::{chunk, hash_entry, shared_text};

/// One in so many bytes goes when there are too many, so that this is seldom looked for.
const SHARE: usize = 8;

/// Segments of a room from which a part of one is evicted; where there are more, one goes as a whole.
const FEW: usize = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ticks {
    rooms: FxHashMap<RoomName, Room>,
    /// What all rooms take.
    bytes: usize,
    most: usize,
    /// Rows that were appended, ever.
    clock: u64,
}

#[derive(Debug)]
struct Room {
    /// In the order in which they were appended; none is empty but where all its rows were appended again.
    segments: VecDeque<Segment>,
    /// What the segments take beside themselves, in bytes.
    heap: usize,
    /// What the room takes beside its segments.
    fixed: usize,
    position: Position,
    /// The greatest sequence number of all.
    highest: u64,
    /// Rows of this life of the log up to here were evicted.
    gone: Option<Position>,
    /// When something was appended last, by the number of rows.
    used: u64,
}

impl Ticks {
    pub(super) fn new(most: usize) -> Self {
        Self { rooms: FxHashMap::default(), bytes: 0, most, clock: 0 }
    }

    /// Bytes that are held, and that may be.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.most)
    }

    pub(super) fn append(&mut self, name: &RoomName, row: &Row) {
        self.clock += 1;
        let room = match self.rooms.get_mut(name) {
            Some(room) => room,
            None => {
                let room = Room::new(name, row);
                self.bytes += room.bytes();
                self.rooms.entry(name.clone()).or_insert(room)
            }
        };
        let before = room.bytes();
        room.append(row);
        room.used = self.clock;
        self.bytes = self.bytes - before + room.bytes();
        if self.bytes > self.most {
            self.evict();
        }
    }

    pub(super) fn position(&self, room: &RoomName) -> Option<&Position> {
        self.rooms.get(room).map(|room| &room.position)
    }

    /// Copies of the rows that are wanted, in the order in which they are wanted.
    pub(super) fn select(&self, room: &RoomName, select: &Select) -> Vec<Packed> {
        self.rooms.get(room).map(|room| room.select(select)).unwrap_or_default()
    }

    /// Throws away the older half of each room.
    pub(super) fn halve(&mut self) {
        for room in self.rooms.values_mut() {
            let before = room.bytes();
            room.shrink_to(before / 2);
            self.bytes = self.bytes - before + room.bytes();
        }
    }

    fn evict(&mut self) {
        let most = self.most - self.most / SHARE;
        let level = fair::level(self.rooms.values().map(Room::bytes).collect(), most);
        let mut bytes = 0;
        for room in self.rooms.values_mut() {
            room.shrink_to(level);
            bytes += room.bytes();
        }
        self.bytes = bytes;
        if bytes <= self.most - self.most / SHARE / 2 {
            return;
        }
        // Even the newest rows of all rooms are too many: those of rooms into which nothing came for longest go.
        let mut by_use: Vec<_> = self.rooms.iter().map(|(name, room)| (room.used, name.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        for (_, name) in by_use {
            if self.bytes <= most {
                break;
            }
            self.bytes -= self.rooms.remove(&name).map_or(0, |room| room.bytes());
        }
        self.rooms.shrink_to_fit();
    }
}

impl Room {
    fn new(name: &RoomName, row: &Row) -> Self {
        // Its position, and that of what has gone.
        let names = shared_text(name.as_str().len()) + 2 * shared_text(row.epoch.as_str().len());
        Self {
            segments: VecDeque::new(),
            heap: 0,
            fixed: hash_entry::<(RoomName, Self)>() + names,
            position: Position { epoch: row.epoch.clone(), seq: 0 },
            highest: 0,
            gone: None,
            used: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.fixed + self.heap + chunk(self.segments.capacity() * size_of::<Segment>())
    }

    fn append(&mut self, row: &Row) {
        let seq = row.message.seq;
        self.position = Position { epoch: row.epoch.clone(), seq };
        if self.gone.as_ref().is_some_and(|gone| gone.epoch == row.epoch && seq <= gone.seq) {
            // It was evicted already.
            return;
        }
        if let Some((segment, index)) = self.find(seq, row.at) {
            let segment = &mut self.segments[segment];
            if *segment.epoch() == row.epoch {
                return;
            }
            segment.forget(index);
        }
        self.highest = self.highest.max(seq);
        let mut next = None;
        if let Some(last) = self.segments.back_mut().filter(|last| *last.epoch() == row.epoch) {
            let before = last.heap();
            let fits = last.put(row);
            self.heap = self.heap - before + last.heap();
            if fits {
                return;
            }
            next = Some(last.next(row.epoch.clone()));
        }
        let mut next = next.unwrap_or_else(|| Segment::new(row.epoch.clone()));
        if next.put(row) {
            if self.segments.len() == self.segments.capacity() {
                self.segments.reserve_exact(1 + self.segments.len() / 4);
            }
            self.heap += next.heap();
            self.segments.push_back(next);
        }
    }

    /// Where a row is: the segment, and the place there.
    fn find(&self, seq: u64, at: u64) -> Option<(usize, usize)> {
        if seq > self.highest {
            return None;
        }
        let may_have = self.segments.iter().enumerate().rev().filter(|(_, one)| one.may_have(seq, seq));
        may_have.filter_map(|(segment, one)| Some((segment, one.find(seq, at)?))).next()
    }

    /// Throws away what was appended first until it takes no more than so many bytes, or there is one row.
    fn shrink_to(&mut self, most: usize) {
        loop {
            let over = self.bytes().saturating_sub(most);
            let (more, few) = (self.segments.len() > 1, self.segments.len() <= FEW);
            let Some(first) = self.segments.front_mut().filter(|_| over > 0) else { return };
            let before = first.heap();
            // A whole block is a small part of what has many.
            if !more || few && over < before {
                let gone = first.keep_newest(before.saturating_sub(over));
                let (epoch, after) = (first.epoch().clone(), first.heap());
                self.gone = gone.map(|seq| Position { epoch, seq }).or(self.gone.take());
                self.heap = self.heap - before + after;
                if after < before {
                    continue;
                }
            }
            let Some(first) = self.segments.pop_front_if(|_| more) else { return };
            self.heap -= first.heap();
            self.gone = first.end().or(self.gone.take());
            if self.segments.capacity() > 2 * self.segments.len() {
                self.segments.shrink_to_fit();
            }
        }
    }

    fn select(&self, select: &Select) -> Vec<Packed> {
        let empty = match select {
            Select::Seqs { seqs, .. } | Select::Newest { seqs, .. } => seqs.is_empty(),
            Select::First { span, .. } | Select::Last { span, .. } => span.is_empty(),
        };
        if empty {
            return Vec::new();
        }
        let oldest = |entry: &Entry| (entry.at, entry.seq);
        let newest = |entry: &Entry| (!entry.at, !entry.seq);
        let found = match select {
            Select::Seqs { seqs, from } => {
                let wanted = |entry: &Entry| seqs.contains(&entry.seq) && entry.at >= *from;
                let segments = self.segments.iter().enumerate();
                let may_have = segments.filter(|(_, one)| one.may_have(seqs.start, seqs.end - 1));
                let mut found: Vec<_> = may_have
                    .flat_map(|(segment, one)| {
                        one.entries().iter().enumerate().map(move |(n, entry)| (segment, n, entry))
                    })
                    .filter(|(.., entry)| wanted(entry))
                    .collect();
                found.sort_unstable_by_key(|(.., entry)| (entry.seq, entry.at));
                found.into_iter().map(|(segment, index, _)| (segment, index)).collect()
            }
            Select::Newest { seqs, from, limit, bytes } => {
                let wanted = |entry: &Entry| seqs.contains(&entry.seq) && entry.at >= *from;
                let within = |one: &Segment| one.may_have(seqs.start, seqs.end - 1) && one.ats.1 >= *from;
                let mut found = self.nearest(within, wanted, *limit, newest, |one| !one.ats.1);
                self.cut(&mut found, *bytes);
                found.sort_unstable_by_key(|place| {
                    let entry = self.entry(*place);
                    (entry.seq, entry.at)
                });
                found
            }
            Select::First { span, limit, bytes } => {
                let wanted = |entry: &Entry| span.contains(&entry.at);
                let within = |one: &Segment| one.ats.0 < span.end && span.start <= one.ats.1;
                let mut found = self.nearest(within, wanted, *limit, oldest, |one| one.ats.0);
                self.cut(&mut found, *bytes);
                found
            }
            Select::Last { span, limit, bytes } => {
                let wanted = |entry: &Entry| span.contains(&entry.at);
                let within = |one: &Segment| one.ats.0 < span.end && span.start <= one.ats.1;
                let mut found = self.nearest(within, wanted, *limit, newest, |one| !one.ats.1);
                self.cut(&mut found, *bytes);
                found.reverse();
                found
            }
        };
        found.into_iter().map(|(segment, index)| self.segments[segment].copy(index)).collect()
    }

    fn entry(&self, (segment, index): (usize, usize)) -> &Entry {
        &self.segments[segment].entries()[index]
    }

    /// Leaves the first of these that are read for so many bytes.
    fn cut(&self, found: &mut Vec<(usize, usize)>, bytes: usize) {
        found.truncate(within(found.iter().map(|place| self.entry(*place).data_len as usize), bytes));
    }

    /// The first rows in an order, no more than the limit. `edge` is at most what the order's first number is of any row of a
    /// segment: so segments that have nothing nearer than what was found are not looked at.
    fn nearest(
        &self,
        within: impl Fn(&Segment) -> bool,
        wanted: impl Fn(&Entry) -> bool,
        limit: usize,
        order: impl Fn(&Entry) -> (u64, u64),
        edge: impl Fn(&Segment) -> u64,
    ) -> Vec<(usize, usize)> {
        let segments = self.segments.iter().enumerate().filter(|(_, one)| within(one));
        let mut segments: Vec<_> = segments.map(|(place, one)| (edge(one), place, one)).collect();
        segments.sort_unstable_by_key(|(edge, place, _)| (*edge, *place));
        let mut found: BinaryHeap<((u64, u64), usize, usize)> = BinaryHeap::new();
        for (edge, segment, one) in segments {
            if found.len() >= limit && found.peek().is_none_or(|((furthest, _), ..)| *furthest < edge) {
                break;
            }
            for (index, entry) in one.entries().iter().enumerate().filter(|(_, entry)| wanted(entry)) {
                found.push((order(entry), segment, index));
                if found.len() > limit {
                    found.pop();
                }
            }
        }
        found.into_sorted_vec().into_iter().map(|(_, segment, index)| (segment, index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use tickmesh_protocol::message::Message;

    use super::super::super::suite;
    use super::*;

    fn name(room: u64) -> RoomName {
        RoomName::new(&format!("market_{room}")).unwrap()
    }

    fn all() -> Select {
        Select::First { span: 0..u64::MAX, limit: usize::MAX, bytes: usize::MAX }
    }

    impl Ticks {
        /// What is held, added up anew.
        fn recount(&self) -> usize {
            self.rooms
                .values()
                .map(|room| {
                    assert_eq!(room.heap, room.segments.iter().map(Segment::heap).sum::<usize>());
                    room.bytes()
                })
                .sum()
        }

        fn seqs(&self, room: u64) -> Vec<u64> {
            self.select(&name(room), &all()).into_iter().map(|row| row.read().unwrap().message.seq).collect()
        }
    }

    #[test]
    fn a_million_ticks_stay_within_the_bound_and_the_newest_of_every_symbol_are_there() {
        const MOST: usize = 4 << 20;
        let mut ticks = Ticks::new(MOST);
        let names: Vec<_> = (0..300).map(name).collect();
        let sample = suite::row(0, 1);
        let mut seqs = [0; 300];
        let mut peak = 0;
        for n in 0..1_000_000_u64 {
            // Half of them are of one symbol, and the last hundred symbols have one in ten thousand together.
            let room = match n % 10_000 {
                0 => 200 + n / 10_000 % 100,
                few if few % 2 == 0 => 0,
                few => 1 + few / 2 % 199,
            };
            let seq = &mut seqs[room as usize];
            *seq += 1;
            let message = Arc::new(Message { seq: *seq, ..(*sample.message).clone() });
            ticks.append(&names[room as usize], &Row { at: 1_000_000 + n, message, ..sample.clone() });
            assert!(ticks.bytes <= MOST, "{} bytes after {n}", ticks.bytes);
            peak = peak.max(ticks.bytes);
        }
        assert!(peak > MOST / 8 * 7, "the bound is made use of: {peak}");
        assert_eq!(ticks.bytes, ticks.recount());
        let mut kept = BTreeMap::new();
        for (room, newest) in (0..).zip(seqs) {
            let rows = ticks.seqs(room);
            assert_eq!(rows.last(), Some(&newest), "symbol {room}");
            assert!(rows.windows(2).all(|pair| pair[0] + 1 == pair[1]), "symbol {room} without holes");
            kept.insert(room, rows.len());
            assert_eq!(ticks.position(&name(room)).unwrap().seq, newest);
        }
        // Who has few has them all.
        assert!((200..300).all(|room| kept[&room] as u64 == seqs[room as usize]), "{kept:?}");
        // The others have their share: a three hundredth of the bytes, of some 100 for each row, or nearly so.
        assert!((0..200).all(|room| kept[&room] > MOST / 300 / 100 / 4 * 3), "{kept:?}");
    }

    #[test]
    fn more_symbols_than_fit_leave_those_that_were_used_last() {
        const MOST: usize = 1 << 20;
        let mut ticks = Ticks::new(MOST);
        for room in 0..20_000 {
            ticks.append(&name(room), &suite::row(room, 1));
            assert!(ticks.bytes <= MOST);
        }
        assert_eq!(ticks.bytes, ticks.recount());
        let held = ticks.rooms.len() as u64;
        assert!(held > 1_000, "{held}");
        assert!((20_000 - held..20_000).all(|room| ticks.seqs(room) == [1]));
        assert_eq!(ticks.position(&name(0)), None);
    }

    #[test]
    fn what_was_evicted_does_not_come_back_as_new() {
        let mut ticks = Ticks::new(64 << 10);
        for seq in 1..=5_000 {
            ticks.append(&name(1), &suite::row(seq, seq));
        }
        let kept = ticks.seqs(1);
        assert!(kept[0] > 1_000 && kept.ends_with(&[4_999, 5_000]), "{kept:?}");
        for seq in 1..=5_000 {
            ticks.append(&name(1), &suite::row(seq, seq));
        }
        assert_eq!(ticks.seqs(1), kept);
    }

    #[test]
    fn a_tick_of_tomorrow_goes_as_others_do() {
        let mut ticks = Ticks::new(64 << 10);
        ticks.append(&name(1), &suite::row(u64::MAX >> 2, 1));
        ticks.append(&name(1), &suite::row(0, 2));
        for seq in 3..=5_000 {
            ticks.append(&name(1), &suite::row(seq, seq));
        }
        let kept = ticks.seqs(1);
        assert!(kept[0] > 2 && kept.len() > 100 && kept.ends_with(&[5_000]), "{kept:?}");
    }

    #[test]
    fn halving_leaves_the_newer_half() {
        let mut ticks = Ticks::new(16 << 20);
        for seq in 1..=10_000 {
            ticks.append(&name(1), &suite::row(seq, seq));
        }
        let before = ticks.bytes;
        ticks.halve();
        assert!(ticks.bytes <= before / 2 && ticks.bytes > before / 3, "{} of {before}", ticks.bytes);
        assert_eq!(ticks.bytes, ticks.recount());
        assert_eq!(ticks.seqs(1).last(), Some(&10_000));
        for _ in 0..20 {
            ticks.halve();
        }
        assert_eq!(ticks.seqs(1), [10_000]);
    }
}
