//! How far the slowest subscriber of a room is: what a saturating publisher goes by.

use std::collections::VecDeque;

/// A subscriber further ahead than this of the slowest is not followed: such a `seq` cannot come from a publisher that
/// observes any window, and the memory is bounded by it.
const MAX_SPREAD: u64 = 1 << 20;

/// Counts of subscribers by position; the slowest is found in constant time.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Position of the first entry of `counts`: the slowest subscriber's, unless there is none.
    base: u64,
    counts: VecDeque<u32>,
}

impl Progress {
    /// Position of the slowest subscriber; `None` if there is none.
    pub(crate) fn slowest(&self) -> Option<u64> {
        (!self.counts.is_empty()).then_some(self.base)
    }

    /// Adds a subscriber.
    pub(crate) fn join(&mut self, position: u64) {
        if self.counts.is_empty() {
            self.base = position;
        }
        while position < self.base && self.base - position <= MAX_SPREAD {
            self.counts.push_front(0);
            self.base -= 1;
        }
        let at = self.index(position);
        self.counts[at] += 1;
    }

    /// Moves a subscriber forward; true if the slowest has moved with it.
    pub(crate) fn advance(&mut self, from: u64, to: u64) -> bool {
        // Enter first: a lone subscriber's old position must not leave the room empty between the two.
        let at = self.index(to);
        self.counts[at] += 1;
        self.leave(from)
    }

    /// Removes a subscriber; true if the slowest is another one now.
    pub(crate) fn leave(&mut self, position: u64) -> bool {
        let at = self.index(position);
        self.counts[at] = self.counts[at].saturating_sub(1);
        let mut moved = false;
        while self.counts.front() == Some(&0) {
            self.counts.pop_front();
            self.base += 1;
            moved = true;
        }
        moved
    }

    fn index(&mut self, position: u64) -> usize {
        let at = position.saturating_sub(self.base).min(MAX_SPREAD) as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_decides() {
        let mut progress = Progress::default();
        assert_eq!(progress.slowest(), None);
        progress.join(10);
        progress.join(10);
        assert!(!progress.advance(10, 13));
        assert_eq!(progress.slowest(), Some(10));
        assert!(progress.advance(10, 12));
        assert_eq!(progress.slowest(), Some(12));
        assert!(progress.leave(12));
        assert_eq!(progress.slowest(), Some(13));
        assert!(progress.advance(13, 20));
        assert_eq!(progress.slowest(), Some(20));
        progress.leave(20);
        assert_eq!(progress.slowest(), None);
    }

    #[test]
    fn a_subscriber_may_join_behind() {
        let mut progress = Progress::default();
        progress.join(10);
        progress.join(8);
        assert_eq!(progress.slowest(), Some(8));
        assert!(progress.advance(8, 11));
        assert_eq!(progress.slowest(), Some(10));
    }

    #[test]
    fn a_wild_position_takes_bounded_memory() {
        let mut progress = Progress::default();
        progress.join(0);
        progress.join(0);
        progress.advance(0, u64::MAX);
        assert!(progress.counts.len() as u64 <= MAX_SPREAD + 1);
        assert_eq!(progress.slowest(), Some(0));
        assert!(progress.leave(0));
    }
}
