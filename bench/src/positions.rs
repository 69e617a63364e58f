//! The promise to publishers, checked on the positions that a server answered: no `seq` of a room is given twice, and
//! those of one publisher rise. Both hold within an epoch of the room's log.

use std::collections::BTreeMap;

/// What was answered for one room, to all publishers.
#[derive(Debug, Default)]
pub(crate) struct RoomPositions {
    epochs: Vec<(String, Ranges)>,
}

impl RoomPositions {
    /// Takes note of an answer. Returns the number of its epoch, and whether the `seq` is new in it.
    pub(crate) fn insert(&mut self, epoch: &str, seq: u64) -> (usize, bool) {
        // The newest is last, and nearly always the one.
        let known = self.epochs.iter().rposition(|(name, _)| name == epoch);
        let number = known.unwrap_or_else(|| {
            self.epochs.push((epoch.to_owned(), Ranges::default()));
            self.epochs.len() - 1
        });
        (number, self.epochs[number].1.insert(seq))
    }

    /// How often the log was begun anew.
    pub(crate) fn restarts(&self) -> u64 {
        self.epochs.len().saturating_sub(1) as u64
    }
}

/// What one publisher was answered for one room, in the order of its messages: the last `seq` of every epoch.
#[derive(Debug, Default, Clone)]
pub(crate) struct OwnOrder {
    last: Vec<u64>,
}

impl OwnOrder {
    /// True if `seq` is above all earlier ones of its epoch.
    pub(crate) fn rises(&mut self, epoch: usize, seq: u64) -> bool {
        if epoch >= self.last.len() {
            self.last.resize(epoch + 1, 0);
        }
        let rises = seq > self.last[epoch];
        self.last[epoch] = self.last[epoch].max(seq);
        rises
    }
}

/// A set of numbers as ranges that do not touch, first to last. A room's numbers are dense, so there are few: millions
/// of them take no memory.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// True if the number was not there.
    fn insert(&mut self, number: u64) -> bool {
        let before = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((_, last)) if last >= number => return false,
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let after = number.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, after.unwrap_or(number));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut ranges = Ranges::default();
        for number in [5, 3, 4, 1, u64::MAX, u64::MAX - 1, 0] {
            assert!(ranges.insert(number), "{number}");
        }
        for number in [0, 1, 3, 4, 5, u64::MAX - 1, u64::MAX] {
            assert!(!ranges.insert(number), "{number}");
        }
        assert_eq!(Vec::from_iter(ranges.0), [(0, 1), (3, 5), (u64::MAX - 1, u64::MAX)]);
    }

    #[test]
    fn an_epoch_has_numbers_of_its_own() {
        let mut room = RoomPositions::default();
        assert_eq!(room.restarts(), 0);
        assert_eq!(room.insert("a", 1), (0, true));
        assert_eq!(room.insert("b", 1), (1, true));
        assert_eq!(room.insert("a", 1), (0, false));
        assert_eq!(room.restarts(), 1);
    }

    #[test]
    fn a_publisher_sees_its_numbers_rise() {
        let mut order = OwnOrder::default();
        assert!(order.rises(0, 5));
        assert!(order.rises(1, 2));
        assert!(order.rises(0, 9));
        assert!(!order.rises(0, 9));
        assert!(!order.rises(0, 7));
        assert!(order.rises(0, 10));
    }
}
