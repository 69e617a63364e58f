//! The time-series store of a single process, in memory.
//!
//! It is bounded: of a room and of a symbol's period the newest rows stay, and where all of them together are too many, the
//! one that holds most gives up its oldest. It must not know TDengine.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tickmesh_market::bars::Bar;
use tickmesh_protocol::market::{Period, Symbol, Timeframe};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;

use super::{BarQuery, KeptBar, RoomRows, Row, Select, TimeSeries, within};
use crate::StoreError;

/// Rows of one room.
const ROOM_ROWS: usize = 100_000;
/// Rows of all rooms: some 200 MB of messages of the usual size.
const ALL_ROWS: usize = 400_000;
/// Bars of one symbol and period.
const SYMBOL_BARS: usize = 10_000;
/// Bars of all symbols and periods.
const ALL_BARS: usize = 1_000_000;
/// One in so many goes when all together are too many, so that this is seldom looked for.
const SHARE: usize = 8;

/// Clones share it.
#[derive(Clone, Default)]
pub struct MemorySeries {
    data: Arc<Mutex<Data>>,
}

#[derive(Default)]
struct Data {
    rooms: FxHashMap<RoomName, Room>,
    /// In all rooms.
    rows: usize,
    bars: FxHashMap<(Symbol, Period), BTreeMap<u64, KeptBar>>,
    /// Of all symbols.
    bar_count: usize,
}

#[derive(Default)]
struct Room {
    /// By time and sequence number.
    rows: BTreeMap<(u64, u64), Row>,
    /// The same rows by sequence number and time.
    seqs: BTreeSet<(u64, u64)>,
    position: Option<Position>,
}

impl MemorySeries {
    /// Memory is short: throws away the older half of the rows of each room, and of the bars of each symbol.
    pub fn halve(&self) {
        let mut data = self.data.lock();
        let Data { rooms, rows, bars, bar_count } = &mut *data;
        for room in rooms.values_mut() {
            for _ in 0..room.rows.len() / 2 {
                room.drop_oldest();
                *rows -= 1;
            }
        }
        for bars in bars.values_mut() {
            for _ in 0..bars.len() / 2 {
                bars.pop_first();
                *bar_count -= 1;
            }
        }
    }
}

impl Room {
    fn drop_oldest(&mut self) {
        if let Some(((at, seq), _)) = self.rows.pop_first() {
            self.seqs.remove(&(seq, at));
        }
    }
}

/// The key of what is largest.
fn largest<K: Clone + Eq + Hash, V>(map: &FxHashMap<K, V>, size: impl Fn(&V) -> usize) -> Option<K> {
    map.iter().max_by_key(|(_, value)| size(value)).map(|(key, _)| key.clone())
}

impl Data {
    fn append(&mut self, name: &RoomName, row: &Row) {
        let room = self.rooms.entry(name.clone()).or_default();
        let (at, seq) = (row.at, row.message.seq);
        room.position = Some(Position { epoch: row.epoch.clone(), seq });
        if room.rows.insert((at, seq), row.clone()).is_some() {
            return;
        }
        room.seqs.insert((seq, at));
        self.rows += 1;
        if room.rows.len() > ROOM_ROWS {
            room.drop_oldest();
            self.rows -= 1;
        }
        if self.rows > ALL_ROWS
            && let Some(name) = largest(&self.rooms, |room| room.rows.len())
            && let Some(room) = self.rooms.get_mut(&name)
        {
            for _ in 0..room.rows.len().div_ceil(SHARE) {
                room.drop_oldest();
                self.rows -= 1;
            }
        }
    }

    fn put(&mut self, bar: &KeptBar) {
        let bars = match self.bars.entry((bar.symbol.clone(), bar.period)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(BTreeMap::new()),
        };
        if bars.insert(bar.bar.start, bar.clone()).is_some() {
            return;
        }
        self.bar_count += 1;
        if bars.len() > SYMBOL_BARS {
            bars.pop_first();
            self.bar_count -= 1;
        }
        if self.bar_count > ALL_BARS
            && let Some(key) = largest(&self.bars, BTreeMap::len)
            && let Some(bars) = self.bars.get_mut(&key)
        {
            for _ in 0..bars.len().div_ceil(SHARE) {
                bars.pop_first();
                self.bar_count -= 1;
            }
        }
    }
}

#[async_trait]
impl TimeSeries for MemorySeries {
    async fn append(&self, rooms: &[RoomRows]) -> Result<(), StoreError> {
        let mut data = self.data.lock();
        for room in rooms {
            for row in &room.rows {
                data.append(&room.room, row);
            }
        }
        Ok(())
    }

    async fn position(&self, room: &RoomName) -> Result<Option<Position>, StoreError> {
        Ok(self.data.lock().rooms.get(room).and_then(|room| room.position.clone()))
    }

    async fn rows(&self, room: &RoomName, select: &Select) -> Result<Vec<Row>, StoreError> {
        let data = self.data.lock();
        let Some(room) = data.rooms.get(room) else { return Ok(Vec::new()) };
        Ok(match select {
            Select::Seqs { seqs, .. } if seqs.is_empty() => Vec::new(),
            Select::Seqs { seqs, from } => room
                .seqs
                .range((seqs.start, 0)..(seqs.end, 0))
                .filter(|(_, at)| at >= from)
                .filter_map(|(seq, at)| room.rows.get(&(*at, *seq)).cloned())
                .collect(),
            Select::Newest { seqs, .. } if seqs.is_empty() => Vec::new(),
            Select::Newest { seqs, from, limit, bytes } => {
                let keys = room.seqs.range((seqs.start, 0)..(seqs.end, 0)).filter(|(_, at)| at >= from);
                let mut keys: Vec<(u64, u64)> = keys.map(|(seq, at)| (*at, *seq)).collect();
                keys.sort_unstable_by(|a, b| b.cmp(a));
                keys.truncate(*limit);
                let mut rows: Vec<Row> = keys.iter().filter_map(|key| room.rows.get(key)).cloned().collect();
                rows.truncate(within(rows.iter(), *bytes));
                rows.sort_by_key(|row| (row.message.seq, row.at));
                rows
            }
            Select::First { span, .. } | Select::Last { span, .. } if span.is_empty() => Vec::new(),
            Select::First { span, limit, bytes } => {
                let rows = room.rows.range((span.start, 0)..(span.end, 0)).take(*limit).map(|(_, row)| row);
                rows.clone().take(within(rows, *bytes)).cloned().collect()
            }
            Select::Last { span, limit, bytes } => {
                let rows = room.rows.range((span.start, 0)..(span.end, 0)).rev().take(*limit);
                let rows = rows.map(|(_, row)| row);
                let mut rows: Vec<Row> = rows.clone().take(within(rows, *bytes)).cloned().collect();
                rows.reverse();
                rows
            }
        })
    }

    async fn put_bars(&self, bars: &[KeptBar]) -> Result<(), StoreError> {
        let mut data = self.data.lock();
        bars.iter().for_each(|bar| data.put(bar));
        Ok(())
    }

    async fn bars(&self, query: &BarQuery) -> Result<Vec<KeptBar>, StoreError> {
        let data = self.data.lock();
        let (period, span) = match query.timeframe {
            Timeframe::Kept(period) => (period, query.span.clone()),
            Timeframe::Minutes(minutes) => (Period::Minute, whole_windows(&query.span, minutes)),
        };
        let Some(bars) = data.bars.get(&(query.symbol.clone(), period)) else { return Ok(Vec::new()) };
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Vec<KeptBar> = match query.timeframe {
            Timeframe::Kept(_) if query.newest => {
                let mut found: Vec<_> = bars.range(span).rev().take(query.limit).collect();
                found.reverse();
                found.into_iter().map(|(_, bar)| bar.clone()).collect()
            }
            Timeframe::Kept(_) => bars.range(span).take(query.limit).map(|(_, bar)| bar.clone()).collect(),
            Timeframe::Minutes(minutes) => windows(bars.range(span).map(|(_, bar)| bar), minutes),
        };
        if found.len() > query.limit {
            if query.newest {
                found.drain(..found.len() - query.limit);
            } else {
                found.truncate(query.limit);
            }
        }
        Ok(found)
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
        suite::run(&MemorySeries::default()).await;
    }

    #[tokio::test]
    async fn the_oldest_rows_of_a_room_make_place() {
        let series = MemorySeries::default();
        let room = RoomName::new("r").unwrap();
        let all = ROOM_ROWS as u64 + 10;
        series.append(&[suite::room_rows("r", "S", (1..=all).map(|seq| (seq, seq)))]).await.unwrap();
        let select = Select::First { span: 0..u64::MAX, limit: usize::MAX, bytes: usize::MAX };
        let rows = series.rows(&room, &select).await.unwrap();
        assert_eq!(rows.len(), ROOM_ROWS);
        assert_eq!(rows[0].message.seq, 11);
        let seqs = Select::Seqs { seqs: 0..13, from: 0 };
        assert_eq!(series.rows(&room, &seqs).await.unwrap().len(), 2, "the index forgot them too");
        assert_eq!(series.position(&room).await.unwrap().unwrap().seq, all);
    }

    #[tokio::test]
    async fn all_rooms_together_are_bounded() {
        let series = MemorySeries::default();
        let per_room = ROOM_ROWS as u64;
        for room in 0..5 {
            let rows = (1..=per_room).map(|seq| (seq, seq));
            series.append(&[suite::room_rows(&format!("r{room}"), "S", rows)]).await.unwrap();
        }
        let data = series.data.lock();
        assert!(data.rows <= ALL_ROWS);
        assert_eq!(data.rows, data.rooms.values().map(|room| room.rows.len()).sum::<usize>());
        assert!(data.rooms.values().all(|room| room.rows.len() == room.seqs.len()));
    }
}
