//! Which processes live, by what was seen to be new in the log of vitals.
//!
//! Invariant: no sender's clock matters. A message has the time of its sender, so one whose clock is ahead would make all others
//! old, and one whose clock is behind would always be. What counts is when a look found something newer of a process.
//! It knows no clock.

use std::collections::BTreeMap;

use super::{Heard, Key, Vitals};

/// In milliseconds: vitals come once a second.
pub(super) const SILENCE: u64 = 3_000;
/// The same in messages of each process. Those that are further behind the newest of the log were not told within that time.
const BEHIND: u64 = 3;
/// In milliseconds: a log whose newest message was that old when the first look found it is one that nobody writes to. The
/// process that answers writes to it by the clock that it answers by.
const LEFT: u64 = 10_000;

/// What was seen in all looks.
#[derive(Debug, Default)]
pub(in crate::top) struct Liveness {
    epoch: String,
    seen: BTreeMap<Key, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Of the newest message.
    seq: u64,
    /// When a look found it, in milliseconds; none where it was old already.
    at: Option<u64>,
}

impl Liveness {
    /// Takes in what a look found: the newest of each process, and the members. `now` is in milliseconds, of one clock for all
    /// looks.
    pub(super) fn look(
        &mut self,
        epoch: &str,
        heard: &BTreeMap<Key, Heard>,
        members: &BTreeMap<Key, Vitals>,
        now: u64,
    ) {
        if self.epoch != epoch {
            // Another log, with numbers of its own.
            epoch.clone_into(&mut self.epoch);
            self.seen.clear();
        }
        let newest = |value: fn(&Heard) -> u64| heard.values().map(value).max().unwrap_or(0);
        let left = self.seen.is_empty()
            && newest(|heard| heard.at).saturating_add(LEFT) < newest(|heard| heard.server_time);
        let reach = BEHIND * heard.len().max(members.len()) as u64;
        let end = newest(|heard| heard.seq);
        for (key, Heard { seq, .. }) in heard {
            if self.seen.get(key).is_some_and(|seen| seen.seq >= *seq) {
                continue;
            }
            let at = (!left && end - seq < reach).then_some(now);
            self.seen.insert(key.clone(), Seen { seq: *seq, at });
        }
        self.seen.retain(|key, _| heard.contains_key(key) || members.contains_key(key));
    }

    /// Whether something of it was new within [`SILENCE`].
    pub(super) fn fresh(&self, key: &Key, now: u64) -> bool {
        let at = self.seen.get(key).and_then(|seen| seen.at);
        at.is_some_and(|at| at.saturating_add(SILENCE) > now)
    }

    /// Whether it was heard of, but not within [`SILENCE`].
    pub(super) fn silent(&self, key: &Key, now: u64) -> bool {
        self.seen.contains_key(key) && !self.fresh(key, now)
    }
}
