//! The sequence promise, checked for one subscriber: pure arithmetic on the `seq` of what arrives.

use std::ops::RangeInclusive;

/// How a subscriber asked to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Delivery {
    /// Every message, in order
    All,
    /// The newest value; a message that replaced older ones counts them in "conflated"
    Latest,
}

/// What was wrong, in messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violations {
    /// Never arrived, and no `conflated` accounts for them.
    pub(crate) lost: u64,
    /// Arrived (or were counted as conflated) again.
    pub(crate) duplicated: u64,
    /// Arrived after a later one.
    pub(crate) out_of_order: u64,
}

impl Violations {
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
    }
}

/// Follows the `seq` of one subscription.
#[derive(Debug)]
pub(crate) struct SequenceCheck {
    delivery: Delivery,
    start: u64,
    last: u64,
    /// Sum of `1 + conflated` over what was received.
    weight: u64,
    /// With `all`: what was jumped over and has not come since.
    missing: Vec<RangeInclusive<u64>>,
    duplicated: u64,
    out_of_order: u64,
}

impl SequenceCheck {
    /// A subscription whose response said `seq`: the first message after it is `seq + 1`.
    pub(crate) fn new(delivery: Delivery, seq: u64) -> Self {
        Self {
            delivery,
            start: seq,
            last: seq,
            weight: 0,
            missing: Vec::new(),
            duplicated: 0,
            out_of_order: 0,
        }
    }

    /// Highest `seq` so far.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes note of a message.
    pub(crate) fn observe(&mut self, seq: u64, conflated: u64) {
        self.weight = self.weight.saturating_add(conflated).saturating_add(1);
        if seq == self.last.saturating_add(1) {
            self.last = seq;
        } else if seq > self.last {
            if self.delivery == Delivery::All {
                self.missing.push(self.last + 1..=seq - 1);
            }
            self.last = seq;
        } else {
            self.observe_old(seq);
        }
    }

    /// A `seq` that is not above the last: late if it was missing, otherwise a repetition.
    fn observe_old(&mut self, seq: u64) {
        if self.delivery == Delivery::Latest {
            if seq == self.last {
                self.duplicated += 1;
            } else {
                self.out_of_order += 1;
            }
            return;
        }
        let Some(at) = self.missing.iter().position(|range| range.contains(&seq)) else {
            self.duplicated += 1;
            return;
        };
        self.out_of_order += 1;
        let (low, high) = self.missing.swap_remove(at).into_inner();
        if low < seq {
            self.missing.push(low..=seq - 1);
        }
        if seq < high {
            self.missing.push(seq + 1..=high);
        }
    }

    /// The verdict at the end, when `final_seq` is the last that the room was given.
    pub(crate) fn verdict(&self, final_seq: u64) -> Violations {
        let tail = final_seq.saturating_sub(self.last);
        let mut found =
            Violations { lost: tail, duplicated: self.duplicated, out_of_order: self.out_of_order };
        match self.delivery {
            Delivery::All => {
                found.lost += self.missing.iter().map(|range| range.end() - range.start() + 1).sum::<u64>();
            }
            Delivery::Latest if self.duplicated + self.out_of_order == 0 => {
                let distance = self.last - self.start;
                found.lost += distance.saturating_sub(self.weight);
                found.duplicated += self.weight.saturating_sub(distance);
            }
            // The sums mean nothing once messages came twice.
            Delivery::Latest => {}
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(start: u64, seqs: &[u64], final_seq: u64) -> (u64, u64, u64) {
        let mut check = SequenceCheck::new(Delivery::All, start);
        for seq in seqs {
            check.observe(*seq, 0);
        }
        let found = check.verdict(final_seq);
        (found.lost, found.duplicated, found.out_of_order)
    }

    fn latest(start: u64, items: &[(u64, u64)], final_seq: u64) -> (u64, u64, u64) {
        let mut check = SequenceCheck::new(Delivery::Latest, start);
        for (seq, conflated) in items {
            check.observe(*seq, *conflated);
        }
        let found = check.verdict(final_seq);
        (found.lost, found.duplicated, found.out_of_order)
    }

    #[test]
    fn in_order_is_clean() {
        assert_eq!(all(41, &[42, 43, 44], 44), (0, 0, 0));
        assert_eq!(all(41, &[], 41), (0, 0, 0));
    }

    #[test]
    fn gaps_and_a_missing_end_are_lost() {
        assert_eq!(all(0, &[1, 4, 5], 5), (2, 0, 0));
        assert_eq!(all(0, &[2, 3], 3), (1, 0, 0), "the first after the subscription counts too");
        assert_eq!(all(0, &[1, 2], 7), (5, 0, 0));
    }

    #[test]
    fn repeated_is_duplicated() {
        assert_eq!(all(0, &[1, 2, 2, 1, 3], 3), (0, 2, 0));
        assert_eq!(all(5, &[5, 6], 6), (0, 1, 0), "what the response already covered");
    }

    #[test]
    fn late_is_out_of_order_and_not_lost() {
        assert_eq!(all(0, &[1, 3, 2, 4], 4), (0, 0, 1));
        assert_eq!(all(0, &[5, 3, 3], 5), (3, 1, 1), "1, 2 and 4 are lost, the second 3 is a repetition");
    }

    #[test]
    fn conflated_accounts_for_the_distance() {
        assert_eq!(latest(10, &[(11, 0), (15, 3), (16, 0)], 16), (0, 0, 0));
        assert_eq!(latest(10, &[(11, 0), (15, 2), (16, 0)], 16), (1, 0, 0));
        assert_eq!(latest(10, &[(11, 0), (15, 4)], 15), (0, 1, 0));
        assert_eq!(latest(10, &[(15, 4)], 16), (1, 0, 0), "the last value is always delivered");
    }

    #[test]
    fn latest_only_grows() {
        assert_eq!(latest(0, &[(3, 2), (2, 0), (4, 0)], 4), (0, 0, 1));
        assert_eq!(latest(0, &[(3, 2), (3, 0)], 3), (0, 1, 0));
    }
}
