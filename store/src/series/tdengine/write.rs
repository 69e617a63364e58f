//! Inserts, all of them by bound parameters.

use std::collections::{BTreeMap, HashSet};

use futures_util::future::BoxFuture;
use rustc_hash::FxHashMap;
use taos::{AsyncBindable, ColumnView, Stmt, Value};
use tickmesh_protocol::market::{Period, Symbol};

use super::names;
use super::pool::Connection;
use super::schema::{DATA_LEN, EXCHANGE_LEN, ID_LEN, NAME_LEN};
use super::trouble::Trouble;
use crate::StoreError;
use crate::series::memory::now_millis;
use crate::series::{KeptBar, RoomRows, Row};

const TICKS: &str = "INSERT INTO ? USING tick_data TAGS(?,?,?) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)";
const POSITIONS: &str = "INSERT INTO ? USING record_position TAGS(?) VALUES(?,?,?)";
const MINUTE_BARS: &str = "INSERT INTO ? USING minute_kline TAGS(?,?,?) VALUES(?,?,?,?,?,?,?,?,?,?,?)";
const DAILY_BARS: &str = "INSERT INTO ? USING daily_kline TAGS(?,?,?) VALUES(?,?,?,?,?,?,?,?,?,?,?)";

/// Rows bound in one turn.
const BIND_ROWS: usize = 4_096;
/// Bytes of data bound in one turn, and at most before they are executed.
const BIND_BYTES: usize = 1 << 20;
/// The last time that TDengine takes, in the year 2970.
pub(super) const LAST_MILLIS: u64 = 31_556_995_200_000;
const HOUR: u64 = 3_600_000;

/// A room's rows, checked.
pub(super) struct Room<'a> {
    table: String,
    position: String,
    rows: &'a RoomRows,
}

/// Bars of one symbol and period, checked.
pub(super) struct Bars<'a> {
    table: String,
    symbol: &'a Symbol,
    exchange: &'a str,
    period: Period,
    /// By their beginnings: of two rows with one key in one bind it is not said which one stays.
    bars: BTreeMap<u64, &'a KeptBar>,
}

/// What is written into tables of its own, some over one connection.
pub(super) trait Write: Sized + Sync {
    fn write<'a>(connection: &'a mut Connection, items: &'a [Self]) -> BoxFuture<'a, Result<(), Trouble>>;
}

impl Write for Room<'_> {
    fn write<'a>(connection: &'a mut Connection, rooms: &'a [Self]) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(write_rooms(connection, rooms))
    }
}

impl Write for Bars<'_> {
    fn write<'a>(connection: &'a mut Connection, tables: &'a [Self]) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(write_bars(connection, tables))
    }
}

fn fits(what: &str, text: &str, most: usize) -> Result<(), StoreError> {
    if text.len() > most {
        let length = text.len();
        return Err(StoreError::Refused(format!("{what} has {length} bytes; kept are at most {most}")));
    }
    Ok(())
}

fn time(at: u64) -> Result<(), StoreError> {
    if at > LAST_MILLIS {
        return Err(StoreError::Refused("a row's time is outside of what is kept".into()));
    }
    Ok(())
}

impl<'a> Room<'a> {
    /// Checks what the server would refuse with all the rest of a call.
    pub(super) fn of(rooms: &'a [RoomRows]) -> Result<Vec<Self>, StoreError> {
        let check = |rows: &'a RoomRows| {
            fits("exchange", &rows.exchange, EXCHANGE_LEN)?;
            for row in &rows.rows {
                time(row.at)?;
                fits("epoch", row.epoch.as_str(), NAME_LEN)?;
                fits("event", &row.message.event, ID_LEN)?;
                fits("key", row.message.key.as_deref().unwrap_or_default(), ID_LEN)?;
                fits("data", row.message.data.get(), DATA_LEN)?;
            }
            let room = rows.room.as_str();
            Ok(Self { table: names::ticks(room)?, position: names::position(room)?, rows })
        };
        rooms.iter().filter(|rows| !rows.rows.is_empty()).map(check).collect()
    }
}

impl<'a> Bars<'a> {
    /// Checks them, and puts those of one table together; of one time the last one counts.
    pub(super) fn of(bars: &'a [KeptBar]) -> Result<Vec<Self>, StoreError> {
        let mut tables: Vec<Self> = Vec::new();
        let mut places: FxHashMap<(&Symbol, Period), usize> = FxHashMap::default();
        for kept in bars {
            time(kept.bar.start)?;
            fits("exchange", &kept.exchange, EXCHANGE_LEN)?;
            fits("epoch", kept.through.epoch.as_str(), NAME_LEN)?;
            let key = (&kept.symbol, kept.period);
            let place = match places.get(&key) {
                Some(place) => *place,
                None => {
                    places.insert(key, tables.len());
                    tables.push(Self {
                        table: names::bars(kept.symbol.as_str(), kept.period.as_str())?,
                        symbol: &kept.symbol,
                        exchange: &kept.exchange,
                        period: kept.period,
                        bars: BTreeMap::new(),
                    });
                    tables.len() - 1
                }
            };
            tables[place].bars.insert(kept.bar.start, kept);
        }
        Ok(tables)
    }
}

/// What was bound since the last execution.
#[derive(Default)]
struct Bound {
    tables: HashSet<String>,
    bytes: usize,
}

impl Bound {
    /// Binds rows of one table; executes what was bound before where that is much, or has rows of this table.
    async fn add(
        &mut self,
        stmt: &mut Stmt,
        table: &str,
        tags: &[Value],
        columns: &[ColumnView],
        bytes: usize,
    ) -> Result<(), Trouble> {
        if self.bytes + bytes > BIND_BYTES || self.tables.contains(table) {
            self.execute(stmt).await?;
        }
        stmt.set_tbname(table).await?;
        stmt.set_tags(tags).await?;
        stmt.bind(columns).await?;
        stmt.add_batch().await?;
        self.tables.insert(table.to_owned());
        self.bytes += bytes;
        Ok(())
    }

    async fn execute(&mut self, stmt: &mut Stmt) -> Result<(), Trouble> {
        if !self.tables.is_empty() {
            stmt.execute().await?;
            *self = Self::default();
        }
        Ok(())
    }
}

fn text(text: &str) -> Value {
    Value::VarChar(text.to_owned())
}

/// Writes rows, and then up to where they go.
async fn write_rooms(connection: &mut Connection, rooms: &[Room<'_>]) -> Result<(), Trouble> {
    let stmt = connection.prepared(TICKS).await?;
    let mut bound = Bound::default();
    for room in rooms {
        let tags =
            [text(room.rows.symbol.as_str()), text(&room.rows.exchange), text(room.rows.room.as_str())];
        let mut rest = room.rows.rows.as_slice();
        while !rest.is_empty() {
            let (count, bytes) = turn(rest);
            let (rows, later) = rest.split_at(count);
            bound.add(stmt, &room.table, &tags, &tick_columns(rows), bytes).await?;
            rest = later;
        }
    }
    bound.execute(stmt).await?;

    let hour = (now_millis() / HOUR * HOUR).min(LAST_MILLIS).cast_signed();
    let stmt = connection.prepared(POSITIONS).await?;
    for room in rooms {
        let Some(last) = room.rows.rows.last() else { continue };
        let columns = [
            ColumnView::from_millis_timestamp(vec![hour]),
            ColumnView::from_varchar::<&str, _, _, _>(vec![last.epoch.as_str()]),
            ColumnView::from_big_ints(vec![last.message.seq.cast_signed()]),
        ];
        bound.add(stmt, &room.position, &[text(room.rows.room.as_str())], &columns, 0).await?;
    }
    bound.execute(stmt).await
}

/// How many rows to bind at once, and their bytes.
fn turn(rows: &[Row]) -> (usize, usize) {
    let mut bytes = 0;
    for (count, row) in rows.iter().enumerate() {
        let more = row.message.data.get().len() + row.message.event.len() + 128;
        if count == BIND_ROWS || (count > 0 && bytes + more > BIND_BYTES) {
            return (count, bytes);
        }
        bytes += more;
    }
    (rows.len(), bytes)
}

fn tick_columns(rows: &[Row]) -> Vec<ColumnView> {
    let figure = |of: fn(&Row) -> Option<f64>| ColumnView::from_doubles(rows.iter().map(of).collect());
    let integer = |of: fn(&Row) -> u64| {
        ColumnView::from_big_ints(rows.iter().map(|row| of(row).cast_signed()).collect::<Vec<i64>>())
    };
    vec![
        ColumnView::from_millis_timestamp(rows.iter().map(|row| row.at.cast_signed()).collect::<Vec<i64>>()),
        integer(|row| row.message.seq),
        ColumnView::from_varchar::<&str, _, _, _>(
            rows.iter().map(|row| row.epoch.as_str()).collect::<Vec<_>>(),
        ),
        ColumnView::from_varchar::<&str, _, _, _>(
            rows.iter().map(|row| &*row.message.event).collect::<Vec<_>>(),
        ),
        ColumnView::from_varchar::<&str, _, _, _>(
            rows.iter().map(|row| row.message.key.as_deref()).collect::<Vec<Option<&str>>>(),
        ),
        // Any number comes back as it went.
        integer(|row| row.message.timestamp),
        figure(|row| row.figures.price),
        figure(|row| row.figures.volume),
        figure(|row| row.figures.bid_price),
        figure(|row| row.figures.bid_volume),
        figure(|row| row.figures.ask_price),
        figure(|row| row.figures.ask_volume),
        ColumnView::from_varchar::<&str, _, _, _>(
            rows.iter().map(|row| row.message.data.get()).collect::<Vec<_>>(),
        ),
    ]
}

/// Writes bars.
async fn write_bars(connection: &mut Connection, tables: &[Bars<'_>]) -> Result<(), Trouble> {
    for (sql, daily) in [(MINUTE_BARS, false), (DAILY_BARS, true)] {
        let mut of_kind = Vec::new();
        for table in tables {
            if (table.period == Period::Day) == daily {
                of_kind.push(table);
            }
        }
        if of_kind.is_empty() {
            continue;
        }
        let stmt = connection.prepared(sql).await?;
        let mut bound = Bound::default();
        for table in of_kind {
            let tags = [text(table.symbol.as_str()), text(table.exchange), text(table.period.as_str())];
            let bars: Vec<&KeptBar> = table.bars.values().copied().collect();
            for bars in bars.chunks(BIND_ROWS) {
                bound.add(stmt, &table.table, &tags, &bar_columns(bars), bars.len() * 128).await?;
            }
        }
        bound.execute(stmt).await?;
    }
    Ok(())
}

fn bar_columns(bars: &[&KeptBar]) -> Vec<ColumnView> {
    let figure = |of: fn(&KeptBar) -> f64| {
        ColumnView::from_doubles(bars.iter().map(|kept| of(kept)).collect::<Vec<f64>>())
    };
    let integer = |of: fn(&KeptBar) -> u64| {
        ColumnView::from_big_ints(bars.iter().map(|kept| of(kept).cast_signed()).collect::<Vec<i64>>())
    };
    let starts: Vec<i64> = bars.iter().map(|kept| kept.bar.start.cast_signed()).collect();
    vec![
        ColumnView::from_millis_timestamp(starts),
        figure(|kept| kept.bar.open),
        figure(|kept| kept.bar.high),
        figure(|kept| kept.bar.low),
        figure(|kept| kept.bar.close),
        figure(|kept| kept.bar.volume),
        figure(|kept| kept.bar.turnover),
        integer(|kept| kept.bar.ticks),
        ColumnView::from_bools(bars.iter().map(|kept| kept.bar.closed).collect::<Vec<bool>>()),
        ColumnView::from_varchar::<&str, _, _, _>(
            bars.iter().map(|kept| kept.through.epoch.as_str()).collect::<Vec<_>>(),
        ),
        integer(|kept| kept.through.seq),
    ]
}
