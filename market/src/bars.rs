//! Ticks become bars.
//!
//! A [`BarBuilder`] keeps the bars of one symbol, of all [periods](Period::ALL), from its ticks.
//!
//! Invariants:
//! * The bars do not depend on the order in which ticks come, as long as none is later than [`Rules::late_ms`] and none is
//!   a jump; among ticks of one time, the order of arrival counts.
//! * A tick that is refused changes nothing but the count of ticks that jump alike.
//! * Of each period at most the newest bar is open, and those put back open; a bar is closed once, and never opened again.
//! * What could still change is remembered, and what is not remembered is never made anew from a part of its ticks.
//!
//! It must not know the present time, but as an argument, nor where bars are kept or sent.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tickmesh_protocol::market::Period;

use crate::calendar::Exchange;

/// Most of [`Rules::late_ms`], in milliseconds: one day. It bounds the bars that are remembered.
pub const MAX_LATE_MS: u64 = 24 * 60 * 60 * 1000;
/// So many ticks in a row that jump to one level make it the level.
const AGREEING_JUMPS: usize = 3;

/// Open, high, low, close of a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// UTC milliseconds of its beginning.
    pub start: u64,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Sum of the volumes of its ticks.
    pub volume: f64,
    /// Sum of price times volume.
    pub turnover: f64,
    /// How many ticks it is made of.
    pub ticks: u64,
    /// Its time is over. A late tick may still change it.
    pub closed: bool,
}

impl Bar {
    /// Its prices are finite, above 0, and between low and high; volume and turnover are finite and at least 0.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let price = |price: f64| price.is_finite() && price > 0.0 && self.low <= price && price <= self.high;
        let sum = |sum: f64| sum.is_finite() && sum >= 0.0;
        [self.open, self.high, self.low, self.close].into_iter().all(price)
            && sum(self.volume)
            && sum(self.turnover)
    }

    /// Takes in a bar of another span of time, earlier or later, so that this one is of both. It is closed when both are.
    pub fn merge(&mut self, other: &Self) {
        if other.start < self.start {
            (self.start, self.open) = (other.start, other.open);
        } else {
            self.close = other.close;
        }
        self.high = self.high.max(other.high);
        self.low = self.low.min(other.low);
        self.volume = sum(self.volume, other.volume);
        self.turnover = sum(self.turnover, other.turnover);
        self.ticks = self.ticks.saturating_add(other.ticks);
        self.closed &= other.closed;
    }
}

/// A sum that stays a number: infinity has no form in JSON.
fn sum(a: f64, b: f64) -> f64 {
    (a + b).min(f64::MAX)
}

/// Which ticks count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A tick may be older than the newest by so many milliseconds; more than [`MAX_LATE_MS`] counts as that.
    pub late_ms: u64,
    /// A price may be away from the last one by so many percent of it; 0 for any.
    pub max_jump_percent: u64,
}

/// Why a tick does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// The price is not finite and above 0.
    #[error("price is not finite and above 0")]
    Price,
    /// The volume is not finite and at least 0, or its price is beyond all numbers.
    #[error("volume is not finite and at least 0")]
    Volume,
    /// It is older than the newest by more than [`Rules::late_ms`], or than what was restored.
    #[error("tick is too late")]
    Late,
    /// The price is too far from the last one.
    #[error("price jumps too far")]
    Jump,
    /// The exchange does not trade at that time.
    #[error("tick is outside the sessions of its exchange")]
    Closed,
    /// Its time is past the calendar, the year 9999. The caller, who has a clock, refuses nearer futures under this name.
    #[error("tick is in the future")]
    Future,
}

impl Rejected {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Price, Self::Volume, Self::Late, Self::Jump, Self::Closed, Self::Future];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Price => "price",
            Self::Volume => "volume",
            Self::Late => "late",
            Self::Jump => "jump",
            Self::Closed => "closed",
            Self::Future => "future",
        }
    }
}

/// A bar that is not what it was; [`Bar::closed`] tells an update from the close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// How long it is.
    pub period: Period,
    /// All of it, as it is now.
    pub bar: Bar,
    /// It had been closed before.
    pub revised: bool,
}

/// A bar and what is known of it beyond what is kept of it.
#[derive(Debug)]
struct Slot {
    bar: Bar,
    /// UTC milliseconds of its end.
    end: u64,
    /// Time of the tick that is its open. Of a restored bar its start: no tick is earlier.
    open_at: u64,
    /// Time of the tick that is its close; none in a restored bar, where it may be anything up to the newest tick.
    close_at: Option<u64>,
}

impl Slot {
    fn add(&mut self, tick: &Tick, watermark: u64) {
        let bar = &mut self.bar;
        // Of two at one time, the one that came first is the open, and the other the close.
        if tick.at < self.open_at {
            (self.open_at, bar.open) = (tick.at, tick.price);
        }
        if tick.at >= self.close_at.unwrap_or(watermark) {
            (self.close_at, bar.close) = (Some(tick.at), tick.price);
        }
        bar.high = bar.high.max(tick.price);
        bar.low = bar.low.min(tick.price);
        bar.volume = sum(bar.volume, tick.volume);
        bar.turnover = sum(bar.turnover, tick.price * tick.volume);
        bar.ticks = bar.ticks.saturating_add(1);
    }

    fn close(&mut self, period: Period, out: &mut Vec<Change>) {
        if !self.bar.closed {
            self.bar.closed = true;
            out.push(Change { period, bar: self.bar, revised: false });
        }
    }
}

#[derive(Debug)]
struct Tick {
    at: u64,
    price: f64,
    volume: f64,
}

/// Where in a series a tick belongs.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// To this bar.
    At(usize),
    /// To a new one at this index, from start to end.
    New(usize, u64, u64),
}

/// The bars of one period that may still change, by their start.
#[derive(Debug, Default)]
struct Series {
    slots: VecDeque<Slot>,
    /// Least start of what was restored. Before it there may be bars that this builder does not know.
    restored_from: Option<u64>,
}

impl Series {
    /// This is the hot path: nearly always the newest bar is the one, and the calendar need not be asked.
    fn place(&self, exchange: &Exchange, period: Period, at: u64) -> Result<Place, Rejected> {
        let after = self.slots.partition_point(|slot| slot.bar.start < at);
        // Strictly inside a minute either all trades or nothing does. Its first instant may be the last of a session, and so
        // belong to the bar before.
        if after > 0 && at < self.slots[after - 1].end {
            return Ok(Place::At(after - 1));
        }
        let Some(bucket) = exchange.bucket(at, period) else {
            let past_calendar = exchange.span(at, period).is_none();
            return Err(if past_calendar { Rejected::Future } else { Rejected::Closed });
        };
        let index = self.slots.partition_point(|slot| slot.bar.start < bucket.start);
        if self.slots.get(index).is_some_and(|slot| slot.bar.start == bucket.start) {
            Ok(Place::At(index))
        } else if self.restored_from.is_some_and(|from| bucket.start < from) {
            Err(Rejected::Late)
        } else {
            Ok(Place::New(index, bucket.start, bucket.end))
        }
    }

    fn add(&mut self, period: Period, place: Place, tick: &Tick, watermark: u64, out: &mut Vec<Change>) {
        match place {
            Place::At(index) => {
                let slot = &mut self.slots[index];
                let revised = slot.bar.closed;
                slot.add(tick, watermark);
                out.push(Change { period, bar: slot.bar, revised });
            }
            Place::New(index, start, end) => {
                let newest = index == self.slots.len();
                if newest {
                    self.slots.iter_mut().for_each(|slot| slot.close(period, out));
                }
                let &Tick { at, price, volume } = tick;
                let bar = Bar {
                    start,
                    open: price,
                    high: price,
                    low: price,
                    close: price,
                    volume,
                    turnover: price * volume,
                    ticks: 1,
                    closed: !newest,
                };
                self.slots.insert(index, Slot { bar, end, open_at: at, close_at: Some(at) });
                out.push(Change { period, bar, revised: false });
            }
        }
    }

    /// Forgets closed bars that ended before `oldest`, the time of the oldest tick that would still be taken.
    fn forget(&mut self, oldest: u64) {
        while self.slots.len() > 1
            && self.slots.front().is_some_and(|slot| slot.end < oldest && slot.bar.closed)
        {
            self.slots.pop_front();
        }
    }
}

/// The bars of one symbol.
///
/// Inputs are [`handle_tick`](Self::handle_tick) and [`handle_time`](Self::handle_time), which append what changed to `out`;
/// it is theirs to append only, and the caller's to clear. Before the first tick, [`restore`](Self::restore) continues what
/// another process began.
#[derive(Debug)]
pub struct BarBuilder {
    exchange: Exchange,
    rules: Rules,
    /// In the order of [`Period::ALL`].
    series: [Series; Period::ALL.len()],
    /// Time of the newest tick that was taken, or of the newest bar that was restored.
    watermark: u64,
    /// Price of the newest tick that was taken.
    last: Option<f64>,
    /// Prices that were refused as jumps since the last tick that was taken, the newest last; at most two.
    jumps: [Option<f64>; AGREEING_JUMPS - 1],
}

impl BarBuilder {
    /// Without any bars.
    #[must_use]
    pub fn new(exchange: Exchange, rules: Rules) -> Self {
        let rules = Rules { late_ms: rules.late_ms.min(MAX_LATE_MS), ..rules };
        Self {
            exchange,
            rules,
            series: Default::default(),
            watermark: 0,
            last: None,
            jumps: [None; AGREEING_JUMPS - 1],
        }
    }

    /// Takes in a tick of `at`, in UTC milliseconds; a volume that is not known is 0.
    ///
    /// It changes the bar of each period that it belongs to. The first of a newer bar closes the bar before, which comes
    /// first in `out`. One that is older than the newest tick, but not by more than [`Rules::late_ms`], amends its bar, closed
    /// or not; if there was none, it makes one that is closed from the beginning.
    ///
    /// The newest time sets what is late, so one tick from a wrong future makes all others late. The caller has to refuse
    /// ticks that are ahead of its clock.
    ///
    /// # Errors
    /// Why the tick does not count; then nothing is appended. A price is compared with that of the newest tick. The third in
    /// a row that jumps counts if the three agree with each other: it is where the market has gone.
    pub fn handle_tick(
        &mut self,
        at: u64,
        price: f64,
        volume: f64,
        out: &mut Vec<Change>,
    ) -> Result<(), Rejected> {
        self.handle_tick_of(at, price, volume, |_| true, out)
    }

    /// The same for the periods alone that `lacks` names: of the others the tick is in what was restored.
    ///
    /// # Errors
    /// As [`handle_tick`](Self::handle_tick).
    pub fn handle_tick_of(
        &mut self,
        at: u64,
        price: f64,
        volume: f64,
        lacks: impl Fn(Period) -> bool,
        out: &mut Vec<Change>,
    ) -> Result<(), Rejected> {
        if !(price.is_finite() && price > 0.0) {
            return Err(Rejected::Price);
        }
        if !(volume >= 0.0 && volume.is_finite() && (price * volume).is_finite()) {
            return Err(Rejected::Volume);
        }
        if at < self.oldest() {
            return Err(Rejected::Late);
        }
        // All are found before any is changed.
        let mut places = [Place::At(0); Period::ALL.len()];
        for ((place, series), period) in places.iter_mut().zip(&self.series).zip(Period::ALL) {
            *place = series.place(&self.exchange, period, at)?;
        }
        self.check_jump(price)?;
        let tick = Tick { at, price, volume };
        let watermark = self.watermark;
        if at >= watermark {
            (self.watermark, self.last) = (at, Some(price));
        }
        let oldest = self.oldest();
        for ((place, series), period) in places.into_iter().zip(&mut self.series).zip(Period::ALL) {
            if !lacks(period) {
                continue;
            }
            series.add(period, place, &tick, watermark, out);
            if matches!(place, Place::New(..)) {
                series.forget(oldest);
            }
        }
        Ok(())
    }

    /// Closes bars whose end is [`Rules::late_ms`] or more before `now`, in UTC milliseconds.
    ///
    /// A later tick in such a bar is an amendment. So call it only when no tick has come for a while: otherwise a replay of
    /// old ticks would find each of its bars closed already.
    pub fn handle_time(&mut self, now: u64, out: &mut Vec<Change>) {
        for (series, period) in self.series.iter_mut().zip(Period::ALL) {
            for slot in &mut series.slots {
                if slot.end.saturating_add(self.rules.late_ms) <= now {
                    slot.close(period, out);
                }
            }
        }
    }

    /// Puts back a bar that was kept: the newest of a period as the one that ticks continue, older ones as remembered. One
    /// that is put back not closed is closed with the next bar of its period, or by [`handle_time`](Self::handle_time).
    ///
    /// A bar does not tell the times of its open and close. The open is taken to be of its first instant, the close of the
    /// newest tick: the next tick in order replaces it, late ones do not. A tick is too late if in any period it belongs
    /// before the oldest bar that was put back: the bar it would amend may be kept, but is not known here, and would lose
    /// what it had. So put back the bars of all periods, and of each those that late ticks can reach.
    ///
    /// Returns whether the bar was taken: not if it is [inconsistent](Bar::is_consistent), or does not begin where the
    /// exchange has a bar begin, as after a change of its configuration.
    pub fn restore(&mut self, period: Period, bar: Bar) -> bool {
        let Some(span) = self.exchange.span(bar.start, period) else { return false };
        // A minute that is known lets ticks in without a look at the sessions.
        let trades =
            period != Period::Minute || self.exchange.bucket(bar.start, period).is_some_and(|b| b == span);
        if span.start != bar.start || !bar.is_consistent() || !trades {
            return false;
        }
        if self.last.is_none() || bar.start >= self.watermark {
            (self.last, self.watermark) = (Some(bar.close), self.watermark.max(bar.start));
        }
        let oldest = self.oldest();
        let series = &mut self.series[period as usize];
        let slot = Slot { bar, end: span.end, open_at: bar.start, close_at: None };
        let index = series.slots.partition_point(|slot| slot.bar.start < bar.start);
        match series.slots.get_mut(index).filter(|there| there.bar.start == bar.start) {
            Some(there) => *there = slot,
            None => series.slots.insert(index, slot),
        }
        series.restored_from = Some(series.restored_from.map_or(bar.start, |from| from.min(bar.start)));
        series.forget(oldest);
        true
    }

    /// The newest bar of a period, closed or not.
    #[must_use]
    pub fn current(&self, period: Period) -> Option<&Bar> {
        self.series[period as usize].slots.back().map(|slot| &slot.bar)
    }

    /// Time of the oldest tick that is not too late.
    fn oldest(&self) -> u64 {
        self.watermark.saturating_sub(self.rules.late_ms)
    }

    fn check_jump(&mut self, price: f64) -> Result<(), Rejected> {
        let most = self.rules.max_jump_percent as f64;
        let Some(last) = self.last.filter(|_| self.rules.max_jump_percent > 0) else { return Ok(()) };
        // No quotients: 10 percent above 1000 is exactly 1100, but 1100 / 1000 - 1 is more than 0.1.
        if (price - last).abs() * 100.0 > most * last {
            let agree = |a: f64, b: f64| (a - b).abs() * 100.0 <= most * a.min(b);
            let [older, newer] = self.jumps;
            let agrees =
                older.zip(newer).is_some_and(|(a, b)| agree(a, b) && agree(b, price) && agree(a, price));
            if !agrees {
                self.jumps = [newer, Some(price)];
                return Err(Rejected::Jump);
            }
            // Also where this one is late: the next is compared with the new level.
            self.last = Some(price);
        }
        self.jumps = [None; AGREEING_JUMPS - 1];
        Ok(())
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
