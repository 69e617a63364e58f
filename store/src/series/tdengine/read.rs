//! Queries: their SQL, of escaped names and our own integers, and what comes back.

use std::ops::Range;
use std::sync::Arc;

use futures_util::TryStreamExt;
use serde_json::value::RawValue;
use taos::{AsyncFetchable, AsyncQueryable, ColumnView, RawBlock, Taos};
use tickmesh_market::bars::Bar;
use tickmesh_market::tick::Figures;
use tickmesh_protocol::market::{Period, Timeframe};
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::RoomName;

use super::names;
use super::trouble::{Trouble, is_missing_table};
use super::write::LAST_MILLIS;
use crate::StoreError;
use crate::series::memory::{whole_windows, window_closed, window_millis};
use crate::series::{BarQuery, KeptBar, Row, Select};

const TICK_COLUMNS: &str = "ts, seq, epoch, event, msg_key, published, price, volume, bid_price, bid_volume, ask_price, \
                            ask_volume, data";
const BAR_COLUMNS: &str = "ts, open, high, low, close, volume, turnover, ticks, closed, epoch, seq, exchange";
const WINDOW_COLUMNS: &str = "_wstart, FIRST(open), MAX(high), MIN(low), LAST(close), SUM(volume), SUM(turnover), \
                              SUM(ticks), LAST(closed), LAST(epoch), LAST(seq)";

/// An end that the server can read.
fn until(end: u64) -> u64 {
    end.min(LAST_MILLIS + 1)
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} is not of the expected kind"))
}

/// What a query found.
pub(super) struct Found<T> {
    pub(super) rows: Vec<T>,
    /// There was no more.
    pub(super) whole: bool,
}

/// Runs a query and reads its blocks until that is enough; a table that is not there has no rows.
pub(super) async fn select<T>(
    taos: &Taos,
    sql: &str,
    read: impl Fn(&RawBlock, &mut Vec<T>) -> Result<(), StoreError>,
    enough: impl Fn(&[T]) -> bool,
) -> Result<Found<T>, Trouble> {
    let mut rows = Vec::new();
    let mut set = match taos.query(sql).await {
        Err(error) if is_missing_table(&error) => return Ok(Found { rows, whole: true }),
        set => set?,
    };
    let mut blocks = set.blocks();
    while let Some(block) = blocks.try_next().await? {
        read(&block, &mut rows)?;
        if enough(&rows) {
            return Ok(Found { rows, whole: false });
        }
    }
    Ok(Found { rows, whole: true })
}

/// `None` where nothing can be found.
pub(super) fn rows_sql(room: &RoomName, select: &Select) -> Result<Option<String>, StoreError> {
    let table = names::ticks(room.as_str())?;
    let numbered = |seqs: &Range<u64>, from: u64| {
        let (first, end) = (seqs.start, seqs.end.min(i64::MAX.cast_unsigned()));
        (first < end && from <= LAST_MILLIS).then(|| {
            format!(
                "SELECT {TICK_COLUMNS} FROM {table} WHERE ts >= {from} AND seq >= {first} AND seq < {end}"
            )
        })
    };
    Ok(match select {
        Select::Seqs { seqs, from } => numbered(seqs, *from),
        Select::Newest { limit: 0, .. } => None,
        // In the order in which they lie: so the server stops where it has enough.
        Select::Newest { seqs, from, limit, .. } => {
            let limit = (*limit).min(i32::MAX as usize);
            numbered(seqs, *from).map(|sql| format!("{sql} ORDER BY ts DESC, seq DESC LIMIT {limit}"))
        }
        Select::First { span, limit, .. } | Select::Last { span, limit, .. } => {
            let (first, end) = (span.start, until(span.end));
            let order = if matches!(select, Select::First { .. }) { "ASC" } else { "DESC" };
            let limit = (*limit).min(i32::MAX as usize);
            (first < end && limit > 0).then(|| {
                format!(
                    "SELECT {TICK_COLUMNS} FROM {table} WHERE ts >= {first} AND ts < {end} \
                     ORDER BY ts {order}, seq {order} LIMIT {limit}"
                )
            })
        }
    })
}

pub(super) fn position_sql(room: &RoomName) -> Result<String, StoreError> {
    Ok(format!("SELECT LAST_ROW(epoch), LAST_ROW(seq) FROM {}", names::position(room.as_str())?))
}

fn bar_table(query: &BarQuery) -> Result<String, StoreError> {
    let period = match query.timeframe {
        Timeframe::Kept(period) => period,
        Timeframe::Minutes(_) => Period::Minute,
    };
    names::bars(query.symbol.as_str(), period.as_str())
}

/// `None` where nothing can be found.
pub(super) fn bars_sql(query: &BarQuery) -> Result<Option<String>, StoreError> {
    let table = bar_table(query)?;
    let limit = query.limit.min(i32::MAX as usize);
    let order = if query.newest { "DESC" } else { "ASC" };
    let (columns, span, window, by) = match query.timeframe {
        Timeframe::Kept(_) => (BAR_COLUMNS, query.span.clone(), String::new(), "ts"),
        // Windows of minutes begin at multiples of their length from the Unix epoch, whatever the server's time zone.
        // Whole windows only, so that none is cut.
        Timeframe::Minutes(minutes) => {
            let span = whole_windows(&query.span, minutes);
            (WINDOW_COLUMNS, span, format!(" INTERVAL({}m)", minutes.max(1)), "_wstart")
        }
    };
    let (first, end) = (span.start, until(span.end));
    Ok((first < end && limit > 0).then(|| {
        format!(
            "SELECT {columns} FROM {table} WHERE ts >= {first} AND ts < {end}{window} ORDER BY {by} {order} LIMIT {limit}"
        )
    }))
}

/// The exchange of what [`bars_sql`] finds.
pub(super) fn exchange_sql(query: &BarQuery) -> Result<String, StoreError> {
    Ok(format!("SELECT ts, exchange FROM {} LIMIT 1", bar_table(query)?))
}

/// A block's columns.
struct Columns<'a> {
    views: &'a [ColumnView],
}

impl<'a> Columns<'a> {
    fn of(block: &'a RawBlock, count: usize) -> Result<Self, StoreError> {
        let views = block.column_views();
        let whole = views.len() == count && views.iter().all(|view| view.len() == block.nrows());
        if whole { Ok(Self { views }) } else { Err(damaged("a block")) }
    }

    fn doubles(&self, column: usize) -> Result<Vec<Option<f64>>, StoreError> {
        match &self.views[column] {
            ColumnView::Double(view) => Ok(view.to_vec()),
            _ => Err(damaged("a figure")),
        }
    }

    fn double(&self, column: usize) -> Result<Vec<f64>, StoreError> {
        self.doubles(column)?.into_iter().map(|value| value.ok_or_else(|| damaged("a figure"))).collect()
    }

    fn integers(&self, column: usize) -> Result<Vec<u64>, StoreError> {
        let values = match &self.views[column] {
            ColumnView::BigInt(view) => view.to_vec(),
            _ => return Err(damaged("an integer")),
        };
        values
            .into_iter()
            .map(|value| Ok(value.ok_or_else(|| damaged("an integer"))?.cast_unsigned()))
            .collect()
    }

    fn bools(&self, column: usize) -> Result<Vec<bool>, StoreError> {
        match &self.views[column] {
            ColumnView::Bool(view) => {
                view.to_vec().into_iter().map(|value| value.ok_or_else(|| damaged("a bool"))).collect()
            }
            _ => Err(damaged("a bool")),
        }
    }

    fn times(&self, column: usize) -> Result<Vec<u64>, StoreError> {
        let ColumnView::Timestamp(view) = &self.views[column] else { return Err(damaged("a time")) };
        let millis = |row| {
            let at = view.get(row).flatten().and_then(|at| u64::try_from(at.as_raw_i64()).ok());
            at.ok_or_else(|| damaged("a time"))
        };
        (0..view.len()).map(millis).collect()
    }

    fn texts(&self, column: usize) -> Result<Vec<Option<&'a str>>, StoreError> {
        let ColumnView::VarChar(view) = &self.views[column] else { return Err(damaged("a text")) };
        let text = |bytes: Option<&'a [u8]>| {
            bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| damaged("a text"))).transpose()
        };
        view.iter_as_bytes().map(text).collect()
    }
}

fn epoch(text: Option<&str>, last: Option<&Epoch>) -> Result<Epoch, StoreError> {
    let text = text.ok_or_else(|| damaged("an epoch"))?;
    Ok(last.filter(|epoch| epoch.as_str() == text).cloned().unwrap_or_else(|| Epoch::new(text)))
}

/// Reads ticks.
pub(super) fn rows(block: &RawBlock, found: &mut Vec<Row>) -> Result<(), StoreError> {
    let columns = Columns::of(block, 13)?;
    let (ats, seqs, published) = (columns.times(0)?, columns.integers(1)?, columns.integers(5)?);
    let (epochs, events, keys) = (columns.texts(2)?, columns.texts(3)?, columns.texts(4)?);
    let figures: Vec<Vec<Option<f64>>> =
        (6..12).map(|column| columns.doubles(column)).collect::<Result<_, _>>()?;
    let data = columns.texts(12)?;
    found.reserve(block.nrows());
    for row in 0..block.nrows() {
        let last = found.last();
        let event = events[row].ok_or_else(|| damaged("an event"))?;
        let json = data[row].ok_or_else(|| damaged("data"))?;
        let json = RawValue::from_string(json.to_owned()).map_err(|_| damaged("data"))?;
        let message = Message {
            seq: seqs[row],
            timestamp: published[row],
            accepted_at: 0,
            event: last
                .map(|last| &last.message.event)
                .filter(|last| ***last == *event)
                .cloned()
                .unwrap_or_else(|| event.into()),
            key: keys[row].map(Into::into),
            data: json,
            trace: None,
        };
        let figures = Figures {
            price: figures[0][row],
            volume: figures[1][row],
            bid_price: figures[2][row],
            bid_volume: figures[3][row],
            ask_price: figures[4][row],
            ask_volume: figures[5][row],
        };
        let epoch = epoch(epochs[row], last.map(|last| &last.epoch))?;
        found.push(Row { at: ats[row], epoch, figures, message: Arc::new(message) });
    }
    Ok(())
}

/// Reads positions.
pub(super) fn positions(block: &RawBlock, found: &mut Vec<Position>) -> Result<(), StoreError> {
    let columns = Columns::of(block, 2)?;
    for (text, seq) in columns.texts(0)?.into_iter().zip(columns.integers(1)?) {
        found.push(Position { epoch: epoch(text, None)?, seq });
    }
    Ok(())
}

/// Reads exchanges.
pub(super) fn exchanges(block: &RawBlock, found: &mut Vec<String>) -> Result<(), StoreError> {
    let columns = Columns::of(block, 2)?;
    found.extend(columns.texts(1)?.into_iter().map(|text| text.unwrap_or_default().to_owned()));
    Ok(())
}

/// What bars and windows have in common.
fn kept(
    columns: &Columns<'_>,
    found: &mut Vec<KeptBar>,
    query: &BarQuery,
    period: Period,
) -> Result<(), StoreError> {
    let starts = columns.times(0)?;
    let prices: Vec<Vec<f64>> = (1..7).map(|column| columns.double(column)).collect::<Result<_, _>>()?;
    let (ticks, closed, epochs, seqs) =
        (columns.integers(7)?, columns.bools(8)?, columns.texts(9)?, columns.integers(10)?);
    for (row, start) in starts.into_iter().enumerate() {
        let epoch = epoch(epochs[row], found.last().map(|last| &last.through.epoch))?;
        found.push(KeptBar {
            symbol: query.symbol.clone(),
            exchange: String::new(),
            period,
            bar: Bar {
                start,
                open: prices[0][row],
                high: prices[1][row],
                low: prices[2][row],
                close: prices[3][row],
                volume: prices[4][row],
                turnover: prices[5][row],
                ticks: ticks[row],
                closed: closed[row],
            },
            through: Position { epoch, seq: seqs[row] },
        });
    }
    Ok(())
}

/// Reads bars as they are kept.
pub(super) fn bars(
    block: &RawBlock,
    found: &mut Vec<KeptBar>,
    query: &BarQuery,
    period: Period,
) -> Result<(), StoreError> {
    let columns = Columns::of(block, 12)?;
    let before = found.len();
    kept(&columns, found, query, period)?;
    for (kept, exchange) in found[before..].iter_mut().zip(columns.texts(11)?) {
        exchange.unwrap_or_default().clone_into(&mut kept.exchange);
    }
    Ok(())
}

/// Reads windows of minutes.
pub(super) fn windows(
    block: &RawBlock,
    found: &mut Vec<KeptBar>,
    query: &BarQuery,
    minutes: u32,
) -> Result<(), StoreError> {
    let columns = Columns::of(block, 11)?;
    let before = found.len();
    kept(&columns, found, query, Period::Minute)?;
    for kept in &mut found[before..] {
        if kept.bar.start % window_millis(minutes) != 0 {
            return Err(damaged("a window"));
        }
        kept.bar.closed = window_closed(kept.bar.start, minutes, kept.bar.closed);
    }
    Ok(())
}
