//! One recorded room that is kept here.
//!
//! Three things are done with its messages: they become rows, bars, and alerts are held against them. Each has its own place
//! in the log, because each waits for something else: a store that is away holds up what it is needed for and nothing else.
//! Invariants: each of them takes every message once, in order; what the log has no more is counted, and for bars taken
//! from the store if that has it. It must not know who waits for what.

use std::sync::Arc;

use tickmesh_market::tick::Tick;
use tickmesh_protocol::batch::Batch;
use tickmesh_protocol::market::Symbol;
use tickmesh_protocol::message::{History, Message};
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::RoomName;
use tickmesh_store::relational::Alert;
use tickmesh_store::series::{KeptBar, Row};
use tokio::time::Instant;

use super::Settings;
use super::bars::Bars;
use super::rows::Rows;
use super::watches::Watches;
use crate::clock;
use crate::metrics::MarketMetrics;

/// What is done in one room.
pub(super) struct Desk {
    /// Tells it from those that were there for the room before.
    pub(super) key: DeskKey,
    pub(super) symbol: Symbol,
    /// Where it is traded, as the last message said that named it.
    exchange: String,
    /// Bars are made of it and alerts look at it.
    pub(super) is_market: bool,
    pub(super) rows: Option<Rows>,
    pub(super) bars: Option<Bars>,
    pub(super) watches: Option<Watches>,
    /// Where the log stood when it was heard of last.
    end: Option<Position>,
    /// The log is being read.
    reading: Option<Parts>,
    /// What is being read may be less than what is there by now.
    doubted: bool,
    /// The last live message came.
    pub(super) heard: Instant,
    /// It is kept elsewhere from now on: what waits is still written.
    pub(super) leaving: Option<Instant>,
}

/// Names a desk: a room, and how many times this node has taken a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeskKey {
    pub(super) room: RoomName,
    pub(super) turn: u64,
}

/// Which of the three are meant.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    rows: bool,
    bars: bool,
    watches: bool,
}

/// A place before everything.
pub(super) fn beginning() -> Position {
    Position { epoch: Epoch::new(""), seq: 0 }
}

/// A part of a log, and rows of the store that come before it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) history: History,
    /// For the bars alone.
    pub(super) fill: Vec<Row>,
}

impl Desk {
    pub(super) fn new(key: DeskKey, symbol: Symbol, is_market: bool) -> Self {
        Self {
            key,
            symbol,
            exchange: String::new(),
            is_market,
            rows: None,
            bars: None,
            watches: None,
            end: None,
            reading: None,
            doubted: false,
            heard: Instant::now(),
            leaving: None,
        }
    }

    pub(super) fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The time-series store told where it stands.
    pub(super) fn opened(&mut self, stored: Option<Position>, bars: Vec<KeptBar>, settings: &Settings) {
        let stored = stored.unwrap_or_else(beginning);
        if self.is_market {
            self.bars = Some(Bars::new(self.symbol.clone(), bars, &stored, clock::now().utc));
        }
        self.rows = Some(Rows::new(stored, settings.buffer));
    }

    /// The room's alerts.
    pub(super) fn set_alerts(&mut self, alerts: Vec<Alert>, hysteresis_bp: u64) {
        let watches = self.watches.get_or_insert_with(|| Watches::new(hysteresis_bp));
        if watches.set(alerts)
            && let Some(reading) = &mut self.reading
        {
            // What is being read begins after what they lack now.
            reading.watches = false;
        }
    }

    /// Something waits for a store.
    pub(super) fn waits(&self) -> bool {
        self.rows.as_ref().is_some_and(|rows| rows.waiting() > 0)
            || self.bars.as_ref().is_some_and(Bars::is_dirty)
    }

    /// The log is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// The places of rows, bars and watches. Rows are read again when there is room for many.
    fn cursors(&self) -> [Option<&Position>; 3] {
        let rows = self.rows.as_ref().filter(|rows| 2 * rows.waiting() <= rows.free()).map(Rows::cursor);
        let bars = self.bars.as_ref().map(Bars::cursor);
        [rows, bars, self.watches.as_ref().and_then(Watches::cursor)]
    }

    fn is_behind(&self, cursor: &Position) -> bool {
        self.end.as_ref().is_none_or(|end| cursor.epoch != end.epoch || cursor.seq < end.seq)
    }

    /// Something that is done here lacks something of the log.
    pub(super) fn lacks(&self) -> bool {
        self.cursors().into_iter().flatten().any(|cursor| self.is_behind(cursor))
    }

    /// From where the log has to be read, if anything that is done here lacks something of it and it is not being read.
    /// It counts as being read until [`catch_up`](Self::catch_up) or [`give_up`](Self::give_up).
    pub(super) fn begin_reading(&mut self) -> Option<Position> {
        if self.reading.is_some() {
            return None;
        }
        let [rows, bars, watches] = self.cursors();
        let end = self.end.as_ref();
        let behind = [rows, bars, watches].into_iter().flatten().filter(|cursor| self.is_behind(cursor));
        // What is in another life of the log has to read all of this one.
        let order = |cursor: &&Position| (end.is_some_and(|end| cursor.epoch == end.epoch), cursor.seq);
        let from = behind.min_by_key(order)?.clone();
        let parts = Parts { rows: rows.is_some(), bars: bars.is_some(), watches: watches.is_some() };
        self.doubted = false;
        // Who has more takes what is new to it.
        self.reading = Some(parts);
        Some(from)
    }

    /// The log may have more than was heard of: it is to be read once more.
    pub(super) fn doubt(&mut self) {
        self.end = None;
        self.doubted = self.is_reading();
    }

    /// The log could not be read.
    pub(super) fn give_up(&mut self) {
        self.reading = None;
    }

    /// Live messages came.
    pub(super) fn offer(&mut self, batch: &Batch, settings: &Settings, metrics: &MarketMetrics) {
        self.heard = Instant::now();
        let (start, end) = (batch.start(), batch.end());
        let follows = |cursor: &Position| cursor.epoch == start.epoch && cursor.seq >= start.seq;
        let who = Parts {
            rows: self.rows.as_ref().is_some_and(|rows| follows(rows.cursor())),
            bars: self.bars.as_ref().is_some_and(|bars| follows(bars.cursor())),
            watches: self.watches.as_ref().and_then(Watches::cursor).is_some_and(follows),
        };
        for message in batch.messages() {
            self.one(&end.epoch, message.shared(), who, settings, metrics);
        }
        self.end = Some(end);
    }

    /// A part of the log was read; `all` if it goes up to where the log stood.
    pub(super) fn catch_up(&mut self, read: &Read, all: bool, settings: &Settings, metrics: &MarketMetrics) {
        let Read { history, fill } = read;
        let end = &history.position;
        let who = self.reading.take().unwrap_or_default();
        let doubted = std::mem::take(&mut self.doubted);
        let now = clock::now().utc;
        if let Some(bars) = self.bars.as_mut().filter(|_| who.bars) {
            bars.resolve(&end.epoch, history.began_at);
            for row in fill {
                let at = Position { epoch: row.epoch.clone(), seq: row.message.seq };
                if at.epoch == bars.cursor().epoch && at.seq == bars.cursor().seq + 1 {
                    note(
                        bars.take(at, &Tick::read(&row.message), &settings.calendar, &settings.rules, now),
                        metrics,
                    );
                }
            }
        }
        // In the present life of the log: up to `began_at` the numbers of the one before are the same.
        let seen = |cursor: &Position| {
            if cursor.epoch == end.epoch { cursor.seq } else { cursor.seq.min(history.began_at) }
        };
        let first = history.messages.first().map_or(end.seq + 1, |first| first.seq);
        let step =
            |cursor: &Position| Position { epoch: end.epoch.clone(), seq: seen(cursor).max(first - 1) };
        let lost = |cursor: &Position| step(cursor).seq - seen(cursor);
        if let Some(rows) = self.rows.as_mut().filter(|_| who.rows) {
            metrics.lost.inc_by(lost(rows.cursor()));
            rows.skip(step(rows.cursor()));
        }
        if let Some(bars) = self.bars.as_mut().filter(|_| who.bars) {
            metrics.bar_ticks_lost.inc_by(lost(bars.cursor()));
            bars.skip(step(bars.cursor()));
        }
        if let Some(watches) = self.watches.as_mut().filter(|_| who.watches)
            && let Some(to) = watches.cursor().map(step)
        {
            let began = watches.cursor().is_some_and(|cursor| !cursor.epoch.as_str().is_empty());
            metrics.alert_ticks_lost.inc_by(watches.cursor().filter(|_| began).map_or(0, lost));
            watches.skip(to, history.began_at);
        }
        for message in &history.messages {
            self.one(&end.epoch, message, who, settings, metrics);
        }
        if all && !doubted {
            self.end = match self.end.take() {
                // Live messages came while the log was read: it did not have them yet.
                Some(heard) if heard.epoch == end.epoch && heard.seq > end.seq => Some(heard),
                // Which of the two logs is the present one the next read tells.
                Some(heard) if heard.epoch != end.epoch => None,
                _ => Some(end.clone()),
            };
        }
    }

    /// One message, for whoever has everything before it and not yet it.
    fn one(
        &mut self,
        epoch: &Epoch,
        message: &Arc<Message>,
        who: Parts,
        settings: &Settings,
        metrics: &MarketMetrics,
    ) {
        let seq = message.seq;
        let next = |cursor: &Position| cursor.epoch == *epoch && cursor.seq + 1 == seq;
        let rows = self.rows.as_mut().filter(|part| who.rows && next(part.cursor()));
        let bars = self.bars.as_mut().filter(|part| who.bars && next(part.cursor()));
        let watches = self.watches.as_mut().filter(|part| who.watches && part.cursor().is_some_and(next));
        if rows.is_none() && bars.is_none() && watches.is_none() {
            return;
        }
        let tick = Tick::read(message);
        let at = Position { epoch: epoch.clone(), seq };
        if let Some(rows) = rows {
            // What finds no room stays in the log, and is read from there.
            rows.take(epoch, message, &tick);
        }
        if let Some(bars) = bars {
            let now = clock::now().utc;
            note(bars.take(at.clone(), &tick, &settings.calendar, &settings.rules, now), metrics);
        }
        if let Some(watches) = watches {
            watches.take(&at, message, &tick);
        }
        if !tick.exchange.is_empty() && tick.exchange != self.exchange {
            self.exchange = tick.exchange;
        }
    }
}

fn note(result: Result<(), tickmesh_market::bars::Rejected>, metrics: &MarketMetrics) {
    if let Err(rejected) = result {
        metrics.rejected(rejected.as_str());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use tickmesh_cluster::config::Config;

    use super::*;

    fn at(epoch: &str, seq: u64) -> Position {
        Position { epoch: Epoch::new(epoch), seq }
    }

    fn message(seq: u64) -> Arc<Message> {
        let data = RawValue::from_string(format!(r#"{{"price":{seq}}}"#)).unwrap();
        Arc::new(Message {
            seq,
            timestamp: seq,
            accepted_at: 0,
            event: "q".into(),
            key: None,
            data,
            trace: None,
        })
    }

    fn read(epoch: &str, through: u64) -> Read {
        let messages = (1..=through).map(message).collect();
        let history = History { position: at(epoch, through), messages, complete: true, began_at: 0 };
        Read { history, fill: Vec::new() }
    }

    #[test]
    fn what_was_published_between_a_read_and_the_join_is_read_then() {
        let settings = Settings::new(&Config::node_defaults()).unwrap();
        let metrics = Arc::<MarketMetrics>::default();
        for still_reads in [true, false] {
            let key = DeskKey { room: RoomName::new("market_A").unwrap(), turn: 1 };
            let mut desk = Desk::new(key, Symbol::new("A").unwrap(), true);
            desk.opened(None, Vec::new(), &settings);
            assert_eq!(desk.begin_reading(), Some(beginning()));
            if still_reads {
                desk.doubt();
            }
            desk.catch_up(&read("e", 1), true, &settings, &metrics);
            if !still_reads {
                assert_eq!(desk.begin_reading(), None);
                desk.doubt();
            }
            assert_eq!(desk.begin_reading(), Some(at("e", 1)));
            desk.catch_up(&read("e", 2), true, &settings, &metrics);
            assert_eq!(desk.begin_reading(), None);
        }
    }

    #[test]
    fn what_came_while_the_log_was_read_is_read_next() {
        let settings = Settings::new(&Config::node_defaults()).unwrap();
        let metrics = Arc::<MarketMetrics>::default();
        for heard in ["e", "f"] {
            let room = RoomName::new("market_A").unwrap();
            let key = DeskKey { room: room.clone(), turn: 1 };
            let mut desk = Desk::new(key, Symbol::new("A").unwrap(), true);
            desk.opened(None, Vec::new(), &settings);
            assert_eq!(desk.begin_reading(), Some(beginning()));
            desk.offer(&Batch::new(room, at(heard, 1), vec![message(2)], 0), &settings, &metrics);
            assert_eq!(desk.begin_reading(), None, "one read at a time");
            desk.catch_up(&read("e", 1), true, &settings, &metrics);
            assert_eq!(desk.begin_reading(), Some(at("e", 1)));
            desk.catch_up(&read(heard, 2), true, &settings, &metrics);
            assert_eq!(desk.begin_reading(), None, "it has all");
            assert_eq!(desk.rows.as_ref().map(Rows::cursor), Some(&at(heard, 2)));
        }
    }
}
