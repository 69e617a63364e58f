//! What clients ask of market data and of what is kept for users: symbols, periods, queries, price alerts.
//!
//! Everything a client names is bounded and checked here, once, whether it came over a WebSocket, as a Socket.IO event or by
//! HTTP. This module must not know where anything is kept.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, Failure};
use crate::identity::{Identity, Role};
use crate::message::{MAX_HISTORY, parameters};
use crate::room::{Classes, RoomName};

/// Longest symbol in bytes: with the longest prefix and period it still fits a room's name.
pub const MAX_SYMBOL_LEN: usize = 64;
/// Most rows in one answer.
pub const MAX_ROWS: usize = 10_000;
/// Rows where a client names no limit.
const DEFAULT_ROWS: u64 = 100;
/// Longest name of a field in an alert, in bytes.
const MAX_FIELD_LEN: usize = 64;

/// The name of something that is traded: `[A-Za-z0-9_.:-]{1,64}`. Cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidSymbol`] when the name does not match the rule.
    pub fn new(name: &str) -> Result<Self, Failure> {
        let valid = (1..=MAX_SYMBOL_LEN).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b));
        if valid {
            Ok(Self(name.into()))
        } else {
            let text = "a symbol has 1 to 64 characters of A-Z a-z 0-9 _ . : -";
            Err(Failure::new(ErrorCode::InvalidSymbol, text))
        }
    }

    /// The symbol whose ticks are in this room: what follows the prefix.
    #[must_use]
    pub fn of_room(prefix: &str, room: &RoomName) -> Option<Self> {
        Self::new(room.as_str().strip_prefix(prefix)?).ok()
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Symbol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Symbol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&name).map_err(|failure| serde::de::Error::custom(failure.message))
    }
}

/// How long a bar is that is made of ticks and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Period {
    /// One minute.
    #[serde(rename = "1m")]
    Minute,
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// A quarter of an hour.
    #[serde(rename = "15m")]
    Quarter,
    /// One hour.
    #[serde(rename = "1h")]
    Hour,
    /// One trading day of its exchange.
    #[serde(rename = "1d")]
    Day,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 5] = [Self::Minute, Self::FiveMinutes, Self::Quarter, Self::Hour, Self::Day];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::Quarter => "15m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    /// Milliseconds; of a day, those of most.
    #[must_use]
    pub fn millis(self) -> u64 {
        60_000
            * match self {
                Self::Minute => 1,
                Self::FiveMinutes => 5,
                Self::Quarter => 15,
                Self::Hour => 60,
                Self::Day => 24 * 60,
            }
    }

    /// The room in which a symbol's bars of this period are published.
    #[must_use]
    pub fn room(self, symbol: &Symbol) -> RoomName {
        // 6 + 64 + 1 + 3 bytes of the same alphabet.
        RoomName::new(&format!("kline_{symbol}_{}", self.as_str()))
            .unwrap_or_else(|_| unreachable!("symbols fit into room names"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long the bars of an answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeframe {
    /// As they are kept.
    Kept(Period),
    /// Made of one-minute bars when they are asked for: so many minutes, counted from the Unix epoch.
    Minutes(u32),
}

impl Timeframe {
    /// Reads `1m`, `5m`, `15m`, `1h`, `1d`, or any other number of minutes or hours up to a day, such as `3m`, `30m`, `4h`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameters`] when it is none.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(period) = Period::ALL.into_iter().find(|period| period.as_str() == text) {
            return Ok(Self::Kept(period));
        }
        let minutes = text
            .strip_suffix('m')
            .map(|count| (count, 1))
            .or_else(|| text.strip_suffix('h').map(|count| (count, 60)))
            .filter(|(count, _)| (1..=4).contains(&count.len()) && !count.starts_with('0'))
            .and_then(|(count, unit)| Some(count.parse::<u32>().ok()? * unit))
            .filter(|minutes| (1..=24 * 60).contains(minutes));
        let allowed = "timeframe is 1d, or minutes or hours up to a day such as 1m, 30m, 4h";
        match minutes.ok_or_else(|| Failure::parameters(allowed))? {
            60 => Ok(Self::Kept(Period::Hour)),
            minutes => Ok(Self::Minutes(minutes)),
        }
    }

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Kept(period) => period.as_str().to_owned(),
            Self::Minutes(minutes) if minutes % 60 == 0 => format!("{}h", minutes / 60),
            Self::Minutes(minutes) => format!("{minutes}m"),
        }
    }
}

/// What of the market data is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// Ticks as they were published.
    Tick,
    /// Bars.
    Kline(Timeframe),
    /// The newest tick and the bar of the day.
    Snapshot,
}

/// `get_market_data`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarketQuery {
    /// Of what.
    pub symbol: Symbol,
    /// Ticks or bars.
    pub data_type: DataType,
    /// UTC milliseconds of the first row; none for the newest rows.
    pub start: Option<u64>,
    /// UTC milliseconds after the last row.
    pub end: Option<u64>,
    /// Most rows; 1 to [`MAX_ROWS`].
    pub limit: usize,
}

/// The fields as they come, of a payload or of a query string.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MarketFields {
    /// See [`MarketQuery::symbol`].
    pub symbol: Option<String>,
    /// `tick`, `kline` or `snapshot`.
    pub data_type: Option<String>,
    /// See [`Timeframe::parse`].
    pub timeframe: Option<String>,
    /// See [`MarketQuery::start`].
    pub start: Option<u64>,
    /// See [`MarketQuery::end`].
    pub end: Option<u64>,
    /// See [`MarketQuery::limit`].
    pub limit: Option<u64>,
}

impl MarketFields {
    /// Checks them.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidSymbol`] and [`ErrorCode::InvalidParameters`] with the field that is wrong.
    pub fn checked(&self) -> Result<MarketQuery, Failure> {
        let symbol = self.symbol.as_deref().ok_or_else(|| Failure::parameters("symbol is missing"))?;
        let symbol = Symbol::new(symbol)?;
        let timeframe = self.timeframe.as_deref().unwrap_or("1m");
        let data_type = match self.data_type.as_deref() {
            Some("tick") => DataType::Tick,
            Some("kline") => DataType::Kline(Timeframe::parse(timeframe)?),
            Some("snapshot") => DataType::Snapshot,
            _ => return Err(Failure::parameters("data_type is tick, kline or snapshot")),
        };
        if let (Some(start), Some(end)) = (self.start, self.end)
            && start >= end
        {
            return Err(Failure::parameters("end is not after start"));
        }
        let limit = bounded("limit", self.limit.unwrap_or(DEFAULT_ROWS), MAX_ROWS)?;
        Ok(MarketQuery { symbol, data_type, start: self.start, end: self.end, limit })
    }
}

/// The subscribe option `backfill`, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// UTC milliseconds: no row is older.
    pub start: u64,
    /// Most rows; 1 to [`MAX_HISTORY`].
    pub limit: usize,
}

/// The option as it comes.
#[derive(Debug, Deserialize)]
pub(crate) struct BackfillFields {
    start: u64,
    limit: Option<u64>,
}

impl BackfillFields {
    pub(crate) fn checked(&self) -> Result<Backfill, Failure> {
        let limit = bounded("backfill.limit", self.limit.unwrap_or(MAX_HISTORY as u64), MAX_HISTORY)?;
        Ok(Backfill { start: self.start, limit })
    }
}

fn bounded(name: &str, value: u64, most: usize) -> Result<usize, Failure> {
    if (1..=most as u64).contains(&value) {
        Ok(value as usize)
    } else {
        Err(Failure::parameters(format!("{name} is {value}; allowed is 1 to {most}")))
    }
}

/// When an alert fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// The field rises above the value.
    #[serde(rename = ">")]
    Above,
    /// It falls below it.
    #[serde(rename = "<")]
    Below,
    /// It reaches the value from below, or is above it.
    #[serde(rename = ">=")]
    AtLeast,
    /// It reaches it from above, or is below it.
    #[serde(rename = "<=")]
    AtMost,
    /// It was on one side of the value and is on the other.
    #[serde(rename = "crosses")]
    Crosses,
}

impl Op {
    /// The text on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::Below => "<",
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Crosses => "crosses",
        }
    }

    /// The one with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Above, Self::Below, Self::AtLeast, Self::AtMost, Self::Crosses]
            .into_iter()
            .find(|op| op.as_str() == text)
    }
}

/// What a user wants to be told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertSpec {
    /// Of what.
    pub symbol: Symbol,
    /// Which number of its ticks: `price`, `bid_price`, `volume`, or any other top-level key of their data.
    pub field: String,
    /// How it is compared.
    pub op: Op,
    /// With what; finite.
    pub value: f64,
    /// It fires once and is over.
    pub once: bool,
}

/// What a request of this kind asks for; who asks is known to the session.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// `get_market_data`
    MarketData(MarketQuery),
    /// `watchlist.list`
    Watchlist,
    /// `watchlist.add`
    Watch(Symbol),
    /// `watchlist.remove`
    Unwatch(Symbol),
    /// `alert.list`: alerts, and hits that are not acknowledged.
    Alerts,
    /// `alert.create`
    CreateAlert(AlertSpec),
    /// `alert.delete`
    DeleteAlert(u64),
    /// `alert.ack`
    AcknowledgeHit(u64),
}

#[derive(Deserialize)]
struct SymbolOnly {
    symbol: String,
}

#[derive(Deserialize)]
struct AlertFields {
    symbol: String,
    field: String,
    op: String,
    value: f64,
    #[serde(default)]
    once: bool,
}

#[derive(Deserialize)]
struct AlertId {
    id: u64,
}

#[derive(Deserialize)]
struct HitId {
    hit_id: u64,
}

impl Ask {
    /// Reads and checks the payload of an action; `None` if the action is no such.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidSymbol`] and [`ErrorCode::InvalidParameters`] with the field that is wrong.
    pub fn parse(action: &str, payload: &str) -> Option<Result<Self, Failure>> {
        Some(match action {
            "get_market_data" => {
                read::<MarketFields>(payload).and_then(|fields| fields.checked()).map(Self::MarketData)
            }
            "watchlist.list" => Ok(Self::Watchlist),
            "watchlist.add" => symbol(payload).map(Self::Watch),
            "watchlist.remove" => symbol(payload).map(Self::Unwatch),
            "alert.list" => Ok(Self::Alerts),
            "alert.create" => AlertSpec::parse(payload).map(Self::CreateAlert),
            "alert.delete" => read::<AlertId>(payload).map(|only| Self::DeleteAlert(only.id)),
            "alert.ack" => read::<HitId>(payload).map(|only| Self::AcknowledgeHit(only.hit_id)),
            _ => return None,
        })
    }

    /// Whether this identity may ask for it. What is kept for users needs one, and a symbol's ticks and alerts on them need
    /// the right to follow its room, `<prefix><symbol>`.
    ///
    /// # Errors
    /// [`ErrorCode::AuthRequired`] and [`ErrorCode::PermissionDenied`].
    pub fn check(&self, who: &Identity, classes: &Classes, prefix: &str) -> Result<(), Failure> {
        if !matches!(self, Self::MarketData(_)) && who.role == Role::Anonymous {
            return Err(Failure::new(ErrorCode::AuthRequired, "this is kept for users: a token is required"));
        }
        let symbol = match self {
            Self::MarketData(query) => &query.symbol,
            Self::CreateAlert(spec) => &spec.symbol,
            _ => return Ok(()),
        };
        let room = room_of(prefix, symbol)?;
        if classes.may_subscribe(who, &room) {
            return Ok(());
        }
        let details = serde_json::json!({ "room": room });
        Err(Failure::new(ErrorCode::PermissionDenied, "may not see this symbol").with_details(details))
    }
}

/// The room that carries the ticks of a symbol.
///
/// # Errors
/// [`ErrorCode::InvalidSymbol`] where the two together are too long for a room's name.
pub fn room_of(prefix: &str, symbol: &Symbol) -> Result<RoomName, Failure> {
    RoomName::new(&format!("{prefix}{symbol}"))
        .map_err(|error| Failure::new(ErrorCode::InvalidSymbol, error.to_string()))
}

impl AlertSpec {
    /// Reads and checks one from JSON text.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidSymbol`] and [`ErrorCode::InvalidParameters`] with the field that is wrong.
    pub fn parse(json: &str) -> Result<Self, Failure> {
        let AlertFields { symbol, field, op, value, once } = read(json)?;
        let symbol = Symbol::new(&symbol)?;
        let named = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !(1..=MAX_FIELD_LEN).contains(&field.len()) || !field.bytes().all(named) {
            return Err(Failure::parameters("field has 1 to 64 characters of A-Z a-z 0-9 _"));
        }
        let op = Op::parse(&op).ok_or_else(|| Failure::parameters("op is one of > < >= <= crosses"))?;
        if !value.is_finite() {
            return Err(Failure::parameters("value is not finite"));
        }
        Ok(Self { symbol, field, op, value, once })
    }
}

fn symbol(payload: &str) -> Result<Symbol, Failure> {
    read::<SymbolOnly>(payload).and_then(|only| Symbol::new(&only.symbol))
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(parameters)
}
