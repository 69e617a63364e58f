//! Rows of a tick file, and the messages made of them.
//!
//! Numbers keep the digits they were written with: `1.121200` is not `1.1212` to somebody who trades.

use std::fmt;
use std::io::Read;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strum::IntoStaticStr;
use tickmesh_protocol::room::RoomName;

/// The columns, which the file's first line has to name.
const COLUMNS: [&str; 10] = [
    "ts_ms",
    "symbol",
    "exchange",
    "event",
    "price",
    "volume",
    "bid_price",
    "bid_volume",
    "ask_price",
    "ask_volume",
];

/// One row.
#[derive(Debug)]
pub(super) struct Tick {
    /// Line of the file, from 1.
    pub(super) line: u64,
    /// UTC milliseconds.
    pub(super) ts_ms: u64,
    market: RoomName,
    stream: RoomName,
    event: Event,
    /// The data but its last key, which is the time.
    data: String,
}

/// A message to be published.
#[derive(Debug, Serialize)]
pub(super) struct Message<'a> {
    pub(super) room: &'a RoomName,
    pub(super) event: Event,
    pub(super) data: Box<RawValue>,
    pub(super) message_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub(super) enum Event {
    Quote,
    Trade,
}

impl Event {
    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

/// A row that cannot be used.
#[derive(Debug)]
pub(super) struct BadRow {
    line: u64,
    reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    ts_ms: u64,
    symbol: &'a str,
    exchange: &'a str,
    event: &'a str,
    price: &'a str,
    volume: &'a str,
    bid_price: &'a str,
    bid_volume: &'a str,
    ask_price: &'a str,
    ask_volume: &'a str,
}

impl Tick {
    /// The tick for those who follow the market, and for those who follow the stream, as if it happened at a time in UTC
    /// milliseconds.
    pub(super) fn messages(&self, id: &str, ts_ms: u64) -> serde_json::Result<[Message<'_>; 2]> {
        let data = RawValue::from_string(format!("{}{ts_ms}}}", self.data))?;
        Ok([&self.market, &self.stream].map(|room| Message {
            room,
            event: self.event,
            data: data.clone(),
            message_id: id.to_owned(),
        }))
    }
}

/// The rows of a file, in its order.
///
/// # Errors
/// When its first line does not name the columns.
pub(super) fn parse(input: impl Read) -> anyhow::Result<impl Iterator<Item = Result<Tick, BadRow>>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let headers = reader.headers()?.clone();
    if let Some(missing) = COLUMNS.iter().find(|column| !headers.iter().any(|header| header == **column)) {
        anyhow::bail!("column {missing} is missing; the columns are {}", COLUMNS.join(","));
    }
    Ok(reader.into_records().enumerate().map(move |(n, record)| {
        let record = record.map_err(|error| BadRow {
            line: error.position().map_or(n as u64 + 2, csv::Position::line),
            reason: error.to_string(),
        })?;
        let line = record.position().map_or(n as u64 + 2, csv::Position::line);
        if record.len() != headers.len() {
            let reason = format!("{} columns, expected {}", record.len(), headers.len());
            return Err(BadRow { line, reason });
        }
        let row: Row<'_> = record.deserialize(Some(&headers)).map_err(|error| {
            let reason = match error.kind() {
                csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
                _ => error.to_string(),
            };
            BadRow { line, reason }
        })?;
        tick(line, &row).map_err(|reason| BadRow { line, reason })
    }))
}

fn tick(line: u64, row: &Row<'_>) -> Result<Tick, String> {
    let room = |prefix: &str| {
        let bad = |_| format!("symbol `{}` cannot be part of a room's name", row.symbol);
        if row.symbol.is_empty() {
            Err("symbol is empty".into())
        } else {
            RoomName::new(&format!("{prefix}{}", row.symbol)).map_err(bad)
        }
    };
    let event = match row.event {
        "quote" => Event::Quote,
        "trade" => Event::Trade,
        other => return Err(format!("event `{other}` is neither quote nor trade")),
    };
    let text = |text: &str| serde_json::to_string(text).map_err(|error| error.to_string());
    let mut data = format!(r#"{{"symbol":{},"exchange":{}"#, text(row.symbol)?, text(row.exchange)?);
    let mut numbers = 0;
    for (name, value) in [
        ("price", row.price),
        ("volume", row.volume),
        ("bid_price", row.bid_price),
        ("bid_volume", row.bid_volume),
        ("ask_price", row.ask_price),
        ("ask_volume", row.ask_volume),
    ] {
        if value.is_empty() {
            continue;
        }
        match serde_json::from_str::<f64>(value) {
            Ok(number) if number.is_finite() && number >= 0.0 => {}
            _ => return Err(format!("{name} `{value}` is not a number from 0")),
        }
        numbers += 1;
        data.push_str(&format!(r#","{name}":{value}"#));
    }
    if numbers == 0 {
        return Err("neither prices nor volumes".into());
    }
    data.push_str(r#","ts":"#);
    Ok(Tick { line, ts_ms: row.ts_ms, market: room("market_")?, stream: room("stream_")?, event, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume\n";

    fn rows(text: &str) -> Vec<Result<Tick, String>> {
        let text = format!("{HEADER}{text}");
        parse(text.as_bytes()).unwrap().map(|row| row.map_err(|bad| bad.to_string())).collect()
    }

    #[test]
    fn a_row_becomes_two_messages_and_keeps_its_digits() {
        let rows = rows("1577916000065,EURUSD,FX,quote,,,1.121200,,1.121720,\n");
        let tick = rows[0].as_ref().unwrap();
        let [market, stream] = tick.messages("id", tick.ts_ms).unwrap();
        assert_eq!((market.room.as_str(), stream.room.as_str()), ("market_EURUSD", "stream_EURUSD"));
        let json = serde_json::to_string(&market).unwrap();
        assert_eq!(
            json,
            r#"{"room":"market_EURUSD","event":"quote","data":{"symbol":"EURUSD","exchange":"FX","bid_price":1.121200,"ask_price":1.121720,"ts":1577916000065},"message_id":"id"}"#
        );
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_line() {
        let cases = [
            ("x,A,X,quote,1,,,,,", "line 3: "),
            ("1,A,X,rumour,1,,,,,", "line 3: event `rumour`"),
            ("1,A,X,quote,NaN,,,,,", "line 3: price `NaN`"),
            ("1,A,X,quote,-1,,,,,", "line 3: price `-1`"),
            ("1,A,X,quote,1e999,,,,,", "line 3: price `1e999`"),
            ("1,A,X,quote,,,,,,", "line 3: neither prices nor volumes"),
            ("1,A B,X,quote,1,,,,,", "line 3: symbol `A B`"),
            ("1,,X,quote,1,,,,,", "line 3: symbol is empty"),
            ("1,A,X,quote,1", "line 3: 5 columns, expected 10"),
        ];
        for (bad, expected) in cases {
            let rows = rows(&format!("1,A,X,trade,1,,,,,\n{bad}\n2,A,X,trade,1,,,,,\n"));
            assert!(rows[0].is_ok() && rows[2].is_ok(), "the others are used: {bad}");
            let reason = rows[1].as_ref().unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
    }

    #[test]
    fn a_file_without_the_columns_is_refused() {
        let error = parse("a,b\n1,2\n".as_bytes()).err().unwrap().to_string();
        assert!(error.starts_with("column ts_ms is missing"), "{error}");
    }

    #[test]
    fn the_demo_feed_has_no_bad_row() {
        let rows: Vec<_> = parse(crate::feed::DEMO.as_bytes()).unwrap().collect();
        assert!(rows.len() > 100);
        assert!(rows.iter().all(Result::is_ok));
    }
}
