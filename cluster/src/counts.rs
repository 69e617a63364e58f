//! How many subscribers each room has, and on which nodes, as every process knows it.
//!
//! Each node tells what changed with it, under a version that grows by 1. Now and then it tells its version and total
//! alone. Who finds that it lacks something asks for all of it.
//!
//! Invariant: what is known of a node is what it had at some version, never a mixture. The table has no clock and no
//! connection: notices go in and out as values.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use tickmesh_protocol::room::RoomName;

/// Rooms in one notice.
const CHUNK: usize = 1_000;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The node.
    pub node: String,
    /// Names one run of the node.
    pub run: u64,
    /// How many changes there were up to and with this one.
    pub version: u64,
    /// What it tells.
    pub told: Told,
}

/// The contents of a [`Notice`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The present counts of rooms that changed with this version; 0 for none.
    Changed(Vec<(RoomName, u64)>),
    /// All rooms at this version, in parts that follow each other.
    All {
        /// 0 for the first, which begins anew.
        part: usize,
        /// How many parts there are.
        of: usize,
        /// Rooms and their counts.
        rooms: Vec<(RoomName, u64)>,
    },
    /// The sum of all counts at this version.
    Total(u64),
}

/// What one process knows.
#[derive(Debug)]
pub struct Counts {
    me: String,
    run: u64,
    version: u64,
    changed: FxHashSet<RoomName>,
    nodes: FxHashMap<String, Node>,
}

#[derive(Debug, Default)]
struct Node {
    run: u64,
    version: u64,
    rooms: FxHashMap<RoomName, u64>,
    total: u64,
    coming: Option<Coming>,
}

/// A whole of which some parts came.
#[derive(Debug)]
struct Coming {
    version: u64,
    parts: usize,
    rooms: Vec<(RoomName, u64)>,
}

impl Node {
    fn set(&mut self, room: RoomName, count: u64) {
        let before = match count {
            0 => self.rooms.remove(&room),
            _ => self.rooms.insert(room, count),
        };
        self.total = self.total + count - before.unwrap_or(0);
    }
}

impl Counts {
    /// A table for the process with this id; `run` tells it from earlier ones of the same id.
    #[must_use]
    pub fn new(me: &str, run: u64) -> Self {
        let nodes = [(me.to_owned(), Node { run, ..Node::default() })].into_iter().collect();
        Self { me: me.to_owned(), run, version: 0, changed: FxHashSet::default(), nodes }
    }

    /// One subscriber more here.
    pub fn joined(&mut self, room: &RoomName) {
        let count = self.here(room) + 1;
        self.set_here(room, count);
    }

    /// One subscriber less here.
    pub fn left(&mut self, room: &RoomName) {
        let count = self.here(room).saturating_sub(1);
        self.set_here(room, count);
    }

    /// Subscribers of a room here.
    #[must_use]
    pub fn here(&self, room: &RoomName) -> u64 {
        self.nodes.get(&self.me).and_then(|node| node.rooms.get(room)).copied().unwrap_or(0)
    }

    fn set_here(&mut self, room: &RoomName, count: u64) {
        if let Some(node) = self.nodes.get_mut(&self.me) {
            node.set(room.clone(), count);
            self.changed.insert(room.clone());
        }
    }

    /// What changed here since the last time; a few rooms at a time, so ask until there is none.
    pub fn poll_changed(&mut self) -> Option<Notice> {
        let rooms: Vec<_> = self.changed.iter().take(CHUNK).cloned().collect();
        if rooms.is_empty() {
            return None;
        }
        let told = rooms
            .into_iter()
            .map(|room| {
                self.changed.remove(&room);
                let count = self.here(&room);
                (room, count)
            })
            .collect();
        self.version += 1;
        Some(self.notice(Told::Changed(told)))
    }

    /// The sum, for those who lack something to notice.
    #[must_use]
    pub fn digest(&self) -> Option<Notice> {
        let total = self.nodes.get(&self.me)?.total;
        // What was not told yet would look like a loss.
        self.changed.is_empty().then(|| self.notice(Told::Total(total)))
    }

    /// Everything of this process. Ask for [`poll_changed`](Self::poll_changed) first: it is told at its version.
    #[must_use]
    pub fn all(&self) -> Vec<Notice> {
        let Some(node) = self.nodes.get(&self.me) else { return Vec::new() };
        let rooms: Vec<_> = node.rooms.iter().map(|(room, count)| (room.clone(), *count)).collect();
        let of = rooms.len().div_ceil(CHUNK).max(1);
        let part = |part: usize| {
            let rooms = rooms.iter().skip(part * CHUNK).take(CHUNK).cloned().collect();
            self.notice(Told::All { part, of, rooms })
        };
        (0..of).map(part).collect()
    }

    fn notice(&self, told: Told) -> Notice {
        Notice { node: self.me.clone(), run: self.run, version: self.version, told }
    }

    /// Takes what another process told; false if something of it is missing here, so that all of it is needed.
    #[must_use]
    pub fn handle(&mut self, notice: Notice) -> bool {
        let Notice { node, run, version, told } = notice;
        if node == self.me {
            return true;
        }
        let known = self.nodes.entry(node).or_default();
        match told {
            Told::Changed(rooms) => {
                if known.run != run || known.version + 1 != version {
                    // Older than a whole that came meanwhile is no loss.
                    return known.run == run && version <= known.version;
                }
                known.version = version;
                for (room, count) in rooms {
                    known.set(room, count);
                }
                true
            }
            Told::Total(total) => known.run == run && known.version == version && known.total == total,
            Told::All { part, of, rooms } => {
                let mut coming = match known.coming.take() {
                    Some(coming) if part > 0 && (coming.version, coming.parts) == (version, part) => coming,
                    _ if part == 0 => Coming { version, parts: 0, rooms: Vec::new() },
                    _ => return false,
                };
                coming.parts += 1;
                coming.rooms.extend(rooms);
                if coming.parts < of {
                    known.coming = Some(coming);
                    return true;
                }
                *known = Node { run, version, ..Node::default() };
                for (room, count) in coming.rooms {
                    known.set(room, count);
                }
                true
            }
        }
    }

    /// A process is gone.
    pub fn forget(&mut self, node: &str) {
        if node != self.me {
            self.nodes.remove(node);
        }
    }

    /// Processes that are known, but for this one.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str).filter(|node| *node != self.me)
    }

    /// Subscribers of a room over the cluster.
    #[must_use]
    pub fn subscribers(&self, room: &RoomName) -> u64 {
        self.nodes.values().filter_map(|node| node.rooms.get(room)).sum()
    }

    /// The nodes that have subscribers of a room, sorted, and how many.
    #[must_use]
    pub fn by_node(&self, room: &RoomName) -> Vec<(String, u64)> {
        let count = |(name, node): (&String, &Node)| Some((name.clone(), *node.rooms.get(room)?));
        let mut counts: Vec<_> = self.nodes.iter().filter_map(count).collect();
        counts.sort_unstable();
        counts
    }

    /// All rooms that have subscribers.
    #[must_use]
    pub fn rooms(&self) -> FxHashMap<RoomName, u64> {
        let mut rooms = FxHashMap::default();
        for (room, count) in self.nodes.values().flat_map(|node| &node.rooms) {
            *rooms.entry(room.clone()).or_default() += count;
        }
        rooms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn room(n: u64) -> RoomName {
        RoomName::new(&format!("r{n}")).unwrap()
    }

    #[test]
    fn whatever_is_lost_the_tables_agree_after_a_digest() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..200 {
            let mut told = Counts::new("a", random.random_range(1..3));
            let mut teller = Counts::new("b", random.random());
            for _ in 0..random.random_range(0..60) {
                let name = room(random.random_range(0..2_500));
                if random.random_bool(0.7) {
                    teller.joined(&name);
                } else {
                    teller.left(&name);
                }
                while random.random_bool(0.5)
                    && let Some(notice) = teller.poll_changed()
                {
                    if random.random_bool(0.8) {
                        let _ = told.handle(notice);
                    }
                }
            }
            while let Some(notice) = teller.poll_changed() {
                let _ = told.handle(notice);
            }
            // Part of a whole may be lost as well.
            let parts = teller.all();
            let sent = random.random_range(0..=parts.len());
            for part in parts.into_iter().take(sent) {
                let _ = told.handle(part);
            }
            if !told.handle(teller.digest().unwrap()) {
                for part in teller.all() {
                    assert!(told.handle(part));
                }
            }
            assert!(told.handle(teller.digest().unwrap()));
            assert_eq!(told.rooms(), teller.rooms());
        }
    }

    #[test]
    fn a_node_that_is_gone_counts_no_more() {
        let (mut a, mut b) = (Counts::new("a", 1), Counts::new("b", 2));
        a.joined(&room(1));
        b.joined(&room(1));
        b.joined(&room(1));
        let notice = b.poll_changed().unwrap();
        assert!(!a.handle(Notice { version: 5, ..notice }), "what came before is missing");
        assert!(b.all().into_iter().all(|part| a.handle(part)));
        assert_eq!(a.subscribers(&room(1)), 3);
        assert_eq!(a.by_node(&room(1)), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        a.forget("b");
        assert_eq!(a.by_node(&room(1)), [("a".to_owned(), 1)]);
        b.left(&room(1));
        assert!(!a.handle(b.poll_changed().unwrap()), "of a node that came back everything is needed");
    }
}
