//! The bars of one room's symbol: what became of them since the store and the subscribers heard of it.
//!
//! Invariants: every message is looked at once, in order; a change that was not written stays until it is, the last one of
//! a bar in place of those before it; a bar that closed is published at once, an open one now and then.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde_json::json;
use serde_json::value::to_raw_value;
use tickmesh_market::bars::{BarBuilder, Change, Rejected, Rules};
use tickmesh_market::calendar::Calendar;
use tickmesh_market::tick::Tick;
use tickmesh_protocol::market::{Period, Symbol};
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_store::series::KeptBar;

/// Milliseconds by which a tick may be ahead of this node's clock.
const AHEAD_MS: u64 = 60_000;
/// Bars that wait for the store; the oldest go first.
const MOST: usize = 20_000;

/// Milliseconds for which a restored bar that closed is published once more.
const AGAIN_MS: u64 = 30_000;

/// How far the bars of each period go.
fn furthest(throughs: &[(Period, Position)], seq: impl Fn(&Position) -> u64) -> FxHashMap<Period, u64> {
    let mut furthest: FxHashMap<Period, u64> = FxHashMap::default();
    for (period, at) in throughs {
        let known = furthest.entry(*period).or_default();
        *known = seq(at).max(*known);
    }
    furthest
}

fn least(through: &FxHashMap<Period, u64>) -> u64 {
    through.values().copied().min().unwrap_or(0)
}

/// The bars of one symbol.
#[derive(Debug)]
pub(super) struct Bars {
    symbol: Symbol,
    exchange: String,
    builder: Option<BarBuilder>,
    /// What the store has, until the first tick tells the exchange.
    restored: Vec<KeptBar>,
    /// How far each restored bar goes, until it is known which life of the log is the present one.
    throughs: Vec<(Period, Position)>,
    /// Up to which number of the log each period has everything; empty once all have.
    through: FxHashMap<Period, u64>,
    cursor: Position,
    /// Not written yet.
    dirty: BTreeMap<(Period, u64), KeptBar>,
    /// Not published yet.
    closed: Vec<Change>,
    open: BTreeMap<Period, Change>,
    changes: Vec<Change>,
    /// Bars that were not written and had to make room.
    pub(super) dropped: u64,
}

impl Bars {
    /// Goes on with what the store has, in order of time; where it has none, from this position.
    pub(super) fn new(symbol: Symbol, restored: Vec<KeptBar>, stored: &Position, now: u64) -> Self {
        let throughs: Vec<_> = restored.iter().map(|kept| (kept.period, kept.through.clone())).collect();
        let one_life = throughs.windows(2).all(|pair| pair[0].1.epoch == pair[1].1.epoch);
        let cursor = match throughs.first() {
            None => stored.clone(),
            Some((_, through)) if one_life => {
                Position { epoch: through.epoch.clone(), seq: least(&furthest(&throughs, |at| at.seq)) }
            }
            // Which of them is the present one, the log tells.
            Some(_) => super::desk::beginning(),
        };
        // Who kept the room before may have had no time to publish these. Who did: then they count once.
        let just_closed =
            |kept: &&KeptBar| kept.bar.closed && kept.bar.start + kept.period.millis() + AGAIN_MS >= now;
        let change = |kept: &KeptBar| Change { period: kept.period, bar: kept.bar, revised: false };
        let closed = restored.iter().filter(just_closed).map(change).collect();
        Self {
            symbol,
            exchange: String::new(),
            builder: None,
            restored,
            throughs,
            through: FxHashMap::default(),
            cursor,
            dirty: BTreeMap::new(),
            closed,
            open: BTreeMap::new(),
            changes: Vec::new(),
            dropped: 0,
        }
    }

    pub(super) fn cursor(&self) -> &Position {
        &self.cursor
    }

    /// The log's present life, and up to which number it is as it was in the one before: says how far the restored bars go.
    /// A write that was cut short has left some periods behind.
    pub(super) fn resolve(&mut self, epoch: &Epoch, began_at: u64) {
        if self.throughs.is_empty() {
            return;
        }
        let here = |at: &Position| if at.epoch == *epoch { at.seq } else { at.seq.min(began_at) };
        self.through = furthest(&std::mem::take(&mut self.throughs), here);
        self.cursor = Position { epoch: epoch.clone(), seq: least(&self.through) };
    }

    /// Takes the message after the cursor.
    pub(super) fn take(
        &mut self,
        at: Position,
        tick: &Tick,
        calendar: &Calendar,
        rules: &Rules,
        now: u64,
    ) -> Result<(), Rejected> {
        self.cursor = at;
        let Some(price) = tick.figures.mark() else { return Ok(()) };
        if tick.at > now + AHEAD_MS {
            // It would make all that come after it late.
            return Err(Rejected::Future);
        }
        let builder = self.builder.get_or_insert_with(|| {
            let known = self.restored.last().map(|kept| kept.exchange.clone()).unwrap_or_default();
            self.exchange = if tick.exchange.is_empty() { known } else { tick.exchange.clone() };
            let exchange = calendar.exchange(&self.exchange).clone();
            let mut builder = BarBuilder::new(exchange, *rules);
            for kept in self.restored.drain(..) {
                builder.restore(kept.period, kept.bar);
            }
            builder
        });
        let seq = self.cursor.seq;
        self.through.retain(|_, through| *through >= seq);
        let lacks = |period: Period| !self.through.contains_key(&period);
        let volume = tick.figures.volume.unwrap_or(0.0);
        let result = builder.handle_tick_of(tick.at, price, volume, lacks, &mut self.changes);
        self.note();
        result
    }

    /// There is nothing before this position that could be taken.
    pub(super) fn skip(&mut self, to: Position) {
        self.cursor = to;
    }

    /// Closes bars whose time is over, where no tick has come for a while; answers whether there were any.
    pub(super) fn handle_time(&mut self, now: u64) -> bool {
        let Some(builder) = &mut self.builder else { return false };
        builder.handle_time(now, &mut self.changes);
        let closed = !self.changes.is_empty();
        self.note();
        closed
    }

    fn note(&mut self) {
        for change in self.changes.drain(..) {
            let kept = KeptBar {
                symbol: self.symbol.clone(),
                exchange: self.exchange.clone(),
                period: change.period,
                bar: change.bar,
                through: self.cursor.clone(),
            };
            self.dirty.insert((change.period, change.bar.start), kept);
            if self.dirty.len() > MOST {
                self.dirty.pop_first();
                self.dropped += 1;
            }
            if change.bar.closed {
                self.open
                    .retain(|period, open| *period != change.period || open.bar.start != change.bar.start);
                self.closed.push(change);
            } else {
                self.open.insert(change.period, change);
            }
        }
    }

    /// Something is to be written.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What is to be written. Every bar of it is up to date with everything that was taken.
    pub(super) fn unwritten(&self) -> Vec<KeptBar> {
        let through = |kept: &KeptBar| KeptBar { through: self.cursor.clone(), ..kept.clone() };
        self.dirty.values().map(through).collect()
    }

    /// The store has these.
    pub(super) fn written(&mut self, bars: &[KeptBar]) {
        for written in bars {
            let key = (written.period, written.bar.start);
            if self.dirty.get(&key).is_some_and(|now| now.bar == written.bar) {
                self.dirty.remove(&key);
            }
        }
    }

    /// Bars that closed since this was asked last, as messages of their rooms.
    pub(super) fn poll_closed(&mut self, now: u64) -> Vec<Publish> {
        let closed = std::mem::take(&mut self.closed);
        closed.iter().filter_map(|change| self.message("bar_close", change, now)).collect()
    }

    /// The newest state of the open bars that changed, as messages of those rooms that `wanted` says somebody follows.
    pub(super) fn poll_open(&mut self, now: u64, wanted: impl Fn(Period) -> bool) -> Vec<Publish> {
        let open = std::mem::take(&mut self.open);
        let wanted = open.values().filter(|change| wanted(change.period));
        wanted.filter_map(|change| self.message("bar_update", change, now)).collect()
    }

    fn message(&self, event: &str, change: &Change, now: u64) -> Option<Publish> {
        let Change { period, bar, revised } = change;
        let mut data = serde_json::to_value(bar).ok()?;
        data["symbol"] = self.symbol.as_str().into();
        data["period"] = period.as_str().into();
        if *revised {
            data["revised"] = json!(true);
        }
        // Two nodes that both think they keep the room say the same, and it counts once.
        let id = format!("{event}:{}:{}:{}:{}", bar.start, bar.ticks, bar.close, bar.closed);
        Some(Publish {
            room: period.room(&self.symbol),
            event: event.into(),
            data: to_raw_value(&data).ok()?,
            message_id: Some(id.into()),
            key: None,
            timestamp: Some(now),
            trace: None,
        })
    }
}
