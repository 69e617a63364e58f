//! The bars of all symbols, in no more than so many bytes.
//!
//! Invariants: what is counted is at most the bound whenever a call has ended; of a symbol and period the oldest bars go first;
//! where something has to go, the symbols and periods that hold most give it up, which are those of the shortest period: so
//! bars of longer ones stay for longer. As long as everybody's newest bar fits, it stays.

use std::collections::VecDeque;
use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tickmesh_cluster::fair;
use tickmesh_market::bars::Bar;
use tickmesh_protocol::market::{Period, Symbol};
use tickmesh_protocol::position::Position;

use super::super::KeptBar;
use tickmesh_cluster::heap::{chunk, hash_entry, shared_text};

/// One in so many bytes goes when there are too many, so that this is seldom looked for.
const SHARE: usize = 8;

type Key = (Symbol, Period);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Bars {
    lines: FxHashMap<Key, Line>,
    /// What all lines take.
    bytes: usize,
    most: usize,
    /// Bars that were put, ever.
    clock: u64,
}

/// The bars of one symbol and period.
#[derive(Debug)]
struct Line {
    /// In order of time.
    slots: VecDeque<Slot>,
    /// What their texts take.
    texts: usize,
    /// What the line takes beside its slots.
    fixed: usize,
    /// When something was put last, by the number of bars.
    used: u64,
}

#[derive(Debug)]
struct Slot {
    bar: Bar,
    exchange: Arc<str>,
    through: Position,
}

impl Slot {
    fn texts(&self) -> usize {
        shared_text(self.exchange.len()) + shared_text(self.through.epoch.as_str().len())
    }
}

impl Bars {
    pub(super) fn new(most: usize) -> Self {
        Self { lines: FxHashMap::default(), bytes: 0, most, clock: 0 }
    }

    /// Bytes that are held, and that may be.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.most)
    }

    pub(super) fn put(&mut self, kept: &KeptBar) {
        self.clock += 1;
        let key = (kept.symbol.clone(), kept.period);
        let line = match self.lines.get_mut(&key) {
            Some(line) => line,
            None => {
                let line = Line::new(&key);
                self.bytes += line.bytes();
                self.lines.entry(key).or_insert(line)
            }
        };
        let before = line.bytes();
        line.put(kept);
        line.used = self.clock;
        self.bytes = self.bytes - before + line.bytes();
        if self.bytes > self.most {
            self.evict();
        }
    }

    /// Bars that begin in a span, in order of time, from either end.
    pub(super) fn range(
        &self,
        symbol: &Symbol,
        period: Period,
        span: &Range<u64>,
    ) -> impl DoubleEndedIterator<Item = KeptBar> {
        let key = (symbol.clone(), period);
        let slots = self.lines.get(&key).map(|line| line.range(span)).into_iter().flatten();
        slots.map(move |slot| KeptBar {
            symbol: key.0.clone(),
            exchange: slot.exchange.to_string(),
            period,
            bar: slot.bar,
            through: slot.through.clone(),
        })
    }

    /// Throws away the older half of each line.
    pub(super) fn halve(&mut self) {
        for line in self.lines.values_mut() {
            let before = line.bytes();
            line.shrink_to(before / 2);
            self.bytes = self.bytes - before + line.bytes();
        }
    }

    fn evict(&mut self) {
        let most = self.most - self.most / SHARE;
        let level = fair::level(self.lines.values().map(Line::bytes).collect(), most);
        let mut bytes = 0;
        for line in self.lines.values_mut() {
            line.shrink_to(level);
            bytes += line.bytes();
        }
        self.bytes = bytes;
        if bytes <= self.most - self.most / SHARE / 2 {
            return;
        }
        // Even everybody's newest bar is too much: those go into which nothing came for longest.
        let mut by_use: Vec<_> = self.lines.iter().map(|(key, line)| (line.used, key.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        for (_, key) in by_use {
            if self.bytes <= most {
                break;
            }
            self.bytes -= self.lines.remove(&key).map_or(0, |line| line.bytes());
        }
        self.lines.shrink_to_fit();
    }
}

impl Line {
    fn new((symbol, _): &Key) -> Self {
        let fixed = hash_entry::<(Key, Self)>() + shared_text(symbol.as_str().len());
        Self { slots: VecDeque::new(), texts: 0, fixed, used: 0 }
    }

    fn bytes(&self) -> usize {
        self.fixed + self.texts + chunk(self.slots.capacity() * size_of::<Slot>())
    }

    fn put(&mut self, kept: &KeptBar) {
        let known = self.slots.back().filter(|last| *last.exchange == *kept.exchange);
        let exchange = known.map_or_else(|| kept.exchange.as_str().into(), |last| last.exchange.clone());
        let slot = Slot { bar: kept.bar, exchange, through: kept.through.clone() };
        self.texts += slot.texts();
        let start = kept.bar.start;
        let place = match self.slots.back() {
            Some(last) if last.bar.start >= start => {
                self.slots.partition_point(|slot| slot.bar.start < start)
            }
            _ => self.slots.len(),
        };
        if let Some(held) = self.slots.get_mut(place).filter(|held| held.bar.start == start) {
            self.texts -= held.texts();
            *held = slot;
            return;
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(1 + self.slots.len() / 4);
        }
        self.slots.insert(place, slot);
    }

    fn range(&self, span: &Range<u64>) -> impl DoubleEndedIterator<Item = &Slot> {
        let at = |time: u64| self.slots.partition_point(|slot| slot.bar.start < time);
        let start = at(span.start);
        self.slots.range(start..at(span.end).max(start))
    }

    /// Throws away the oldest until it takes no more than so many bytes, or there is one.
    fn shrink_to(&mut self, most: usize) {
        if self.bytes() <= most {
            return;
        }
        let bytes = |line: &Self| line.fixed + line.texts + chunk(line.slots.len() * size_of::<Slot>());
        while bytes(self) > most
            && self.slots.len() > 1
            && let Some(first) = self.slots.pop_front()
        {
            self.texts -= first.texts();
        }
        self.slots.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::suite;
    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    #[test]
    fn weeks_of_many_symbols_stay_within_the_bound_and_longer_periods_stay_longer() {
        const MOST: usize = 1 << 20;
        let mut bars = Bars::new(MOST);
        let symbols: Vec<_> = (0..20).map(|n| format!("S{n}")).collect();
        let minutes = 14 * DAY / 60_000;
        for minute in 0..minutes {
            for symbol in &symbols {
                for period in Period::ALL {
                    let start = minute * 60_000 / period.millis() * period.millis();
                    bars.put(&suite::bar(symbol, period, start, 1 + minute as u32));
                    assert!(bars.bytes <= MOST, "{}", bars.bytes);
                }
            }
        }
        assert_eq!(bars.bytes, bars.lines.values().map(Line::bytes).sum::<usize>());
        assert!(bars.bytes > MOST / 4 * 3, "the bound is made use of: {}", bars.bytes);
        for symbol in &symbols {
            let symbol = Symbol::new(symbol).unwrap();
            let first = |period| bars.range(&symbol, period, &(0..u64::MAX)).next().unwrap().bar.start;
            let firsts = Period::ALL.map(first);
            assert_eq!(firsts[4], 0, "all days");
            assert!(firsts.is_sorted_by(|shorter, longer| shorter >= longer), "{firsts:?}");
            for period in Period::ALL {
                let newest = bars.range(&symbol, period, &(0..u64::MAX)).next_back().unwrap();
                assert_eq!(newest.bar.start, (minutes - 1) * 60_000 / period.millis() * period.millis());
                assert_eq!(newest.through.seq, minutes, "as it was put last");
            }
        }
    }

    #[test]
    fn more_symbols_than_fit_leave_those_that_were_used_last() {
        const MOST: usize = 256 << 10;
        let mut bars = Bars::new(MOST);
        for n in 0..5_000 {
            bars.put(&suite::bar(&format!("S{n}"), Period::Minute, 0, 1));
            assert!(bars.bytes <= MOST);
        }
        let has = |n: u32| bars.lines.contains_key(&(Symbol::new(&format!("S{n}")).unwrap(), Period::Minute));
        assert!(has(4_999) && has(4_500) && !has(0));
    }
}
