//! The time-series store of a single process, in memory.
//!
//! It is bounded in bytes, [`Bounds`] for ticks and for bars each: where there are too many, the rooms that hold most lose
//! what was appended first, and the symbols and periods that hold most their oldest bars. The retention of what is evicted
//! has ended: of a room everything from some sequence number on is left. It must not know TDengine.

mod bars;
mod segment;
mod ticks;

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::Mutex;
use tickmesh_market::bars::Bar;
use tickmesh_protocol::market::{Period, Timeframe};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;

use self::bars::Bars;
use self::segment::Packed;
use self::ticks::Ticks;
use super::{BarQuery, KeptBar, RoomRows, Row, Select, TimeSeries};
use crate::StoreError;

/// How many bytes may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of the rows of all rooms together.
    pub ticks: usize,
    /// Of the bars of all symbols and periods together.
    pub bars: usize,
}

/// Clones share it.
#[derive(Debug, Clone)]
pub struct MemorySeries {
    ticks: Arc<Mutex<Ticks>>,
    bars: Arc<Mutex<Bars>>,
}

impl MemorySeries {
    /// Nothing yet, and never more than this.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let Bounds { ticks, bars } = bounds;
        Self { ticks: Arc::new(Mutex::new(Ticks::new(ticks))), bars: Arc::new(Mutex::new(Bars::new(bars))) }
    }

    /// Bytes that ticks take, and that they may.
    #[must_use]
    pub fn tick_bytes(&self) -> (usize, usize) {
        self.ticks.lock().bytes()
    }

    /// Bytes that bars take, and that they may.
    #[must_use]
    pub fn bar_bytes(&self) -> (usize, usize) {
        self.bars.lock().bytes()
    }

    /// Memory is short: throws away the older half of the rows of each room, and of the bars of each symbol.
    pub fn halve(&self) {
        self.ticks.lock().halve();
        self.bars.lock().halve();
    }
}

#[async_trait]
impl TimeSeries for MemorySeries {
    async fn append(&self, rooms: &[RoomRows]) -> Result<(), StoreError> {
        let mut ticks = self.ticks.lock();
        for room in rooms {
            for row in &room.rows {
                ticks.append(&room.room, row);
            }
        }
        Ok(())
    }

    async fn position(&self, room: &RoomName) -> Result<Option<Position>, StoreError> {
        Ok(self.ticks.lock().position(room).cloned())
    }

    async fn rows(&self, room: &RoomName, select: &Select) -> Result<Vec<Row>, StoreError> {
        let found = self.ticks.lock().select(room, select);
        found.into_iter().map(Packed::read).collect()
    }

    async fn put_bars(&self, bars: &[KeptBar]) -> Result<(), StoreError> {
        let mut held = self.bars.lock();
        bars.iter().for_each(|bar| held.put(bar));
        Ok(())
    }

    async fn bars(&self, query: &BarQuery) -> Result<Vec<KeptBar>, StoreError> {
        let BarQuery { symbol, timeframe, span, limit, newest } = query;
        let held = self.bars.lock();
        Ok(match timeframe {
            Timeframe::Kept(period) if *newest => {
                let mut found: Vec<_> = held.range(symbol, *period, span).rev().take(*limit).collect();
                found.reverse();
                found
            }
            Timeframe::Kept(period) => held.range(symbol, *period, span).take(*limit).collect(),
            Timeframe::Minutes(minutes) => {
                let span = whole_windows(span, *minutes);
                let minute_bars: Vec<_> = held.range(symbol, Period::Minute, &span).collect();
                drop(held);
                let mut found = windows(minute_bars.iter(), *minutes);
                if *newest {
                    found.drain(..found.len().saturating_sub(*limit));
                } else {
                    found.truncate(*limit);
                }
                found
            }
        })
    }
}

/// Milliseconds of a window of so many minutes, at least one.
pub(super) fn window_millis(minutes: u32) -> u64 {
    u64::from(minutes.max(1)) * 60_000
}

/// The times of the one-minute bars in the windows that begin in a span.
pub(super) fn whole_windows(span: &Range<u64>, minutes: u32) -> Range<u64> {
    let window = window_millis(minutes);
    let up = |at: u64| at.div_ceil(window).saturating_mul(window);
    up(span.start)..up(span.end)
}

/// Whether a window is over: its newest minute is, and so is its time.
pub(super) fn window_closed(start: u64, minutes: u32, newest_closed: bool) -> bool {
    newest_closed && start.saturating_add(window_millis(minutes)) <= now_millis()
}

/// UTC milliseconds.
pub(super) fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// One-minute bars in order, put together.
fn windows<'a>(bars: impl Iterator<Item = &'a KeptBar>, minutes: u32) -> Vec<KeptBar> {
    let window = window_millis(minutes);
    let mut found: Vec<KeptBar> = Vec::new();
    for kept in bars {
        let start = kept.bar.start - kept.bar.start % window;
        match found.last_mut().filter(|last| last.bar.start == start) {
            Some(last) => {
                let bar = last.bar;
                last.through = kept.through.clone();
                last.bar = Bar {
                    high: bar.high.max(kept.bar.high),
                    low: bar.low.min(kept.bar.low),
                    close: kept.bar.close,
                    volume: bar.volume + kept.bar.volume,
                    turnover: bar.turnover + kept.bar.turnover,
                    ticks: bar.ticks + kept.bar.ticks,
                    closed: kept.bar.closed,
                    ..bar
                };
            }
            None => found.push(KeptBar { bar: Bar { start, ..kept.bar }, ..kept.clone() }),
        }
    }
    for kept in &mut found {
        kept.bar.closed = window_closed(kept.bar.start, minutes, kept.bar.closed);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::suite;

    #[tokio::test]
    async fn memory_passes_the_suite() {
        suite::run(&MemorySeries::new(Bounds { ticks: 16 << 20, bars: 4 << 20 })).await;
    }
}
