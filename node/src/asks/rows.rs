//! Rows of the time-series store as the text of an answer.
//!
//! Text is written from the rows as they are: data that was published as JSON is copied and not read again. Invariant: the
//! rows of an answer are bounded in bytes, and it says when some were left out for that. Runs on the thread of
//! [`crate::reads`]. This module must not know who asks.

use serde::Serialize;
use serde_json::value::RawValue;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::market::{DataType, MarketQuery, Period, Timeframe};
use tickmesh_protocol::position::Epoch;
use tickmesh_protocol::room::RoomName;
use tickmesh_store::Stores;
use tickmesh_store::series::{BarQuery, KeptBar, Row, Select};

/// Bytes of the rows of one answer, at most.
const MOST_BYTES: usize = 8 << 20;

/// Answers `get_market_data` with JSON text; `room` is that of the symbol's ticks.
///
/// # Errors
/// When the store is away, or there is none.
pub(super) async fn market_data(
    stores: &Stores,
    room: &RoomName,
    query: &MarketQuery,
) -> Result<String, Failure> {
    let none = || Failure::unavailable("no time-series store is configured");
    let series = stores.series_reads.as_ref().ok_or_else(none)?;
    let MarketQuery { symbol, data_type, start, end, limit } = query;
    let span = start.unwrap_or(0)..end.unwrap_or(u64::MAX);
    // Who names a beginning reads on from there.
    let newest = start.is_none();
    let last = |span, limit| Select::Last { span, limit, bytes: MOST_BYTES };
    match data_type {
        DataType::Tick => {
            let select = if newest {
                last(span, *limit)
            } else {
                Select::First { span, limit: *limit, bytes: MOST_BYTES }
            };
            let rows = series.call(|series| series.rows(room, &select)).await?;
            let Listed { rows, complete } = listed(rows.iter().map(Tick::of), newest, MOST_BYTES)?;
            Ok(format!(r#"{{"symbol":"{symbol}","data_type":"tick","complete":{complete},"rows":[{rows}]}}"#))
        }
        DataType::Kline(timeframe) => {
            let query =
                BarQuery { symbol: symbol.clone(), timeframe: *timeframe, span, limit: *limit, newest };
            let bars = series.call(|series| series.bars(&query)).await?;
            let Listed { rows, complete } = listed(bars.iter().map(Bar::of), newest, MOST_BYTES)?;
            let timeframe = timeframe.name();
            Ok(format!(
                r#"{{"symbol":"{symbol}","data_type":"kline","timeframe":"{timeframe}","complete":{complete},"rows":[{rows}]}}"#
            ))
        }
        DataType::Snapshot => {
            let ever = 0..u64::MAX;
            let select = last(ever.clone(), 1);
            let query = BarQuery {
                symbol: symbol.clone(),
                timeframe: Timeframe::Kept(Period::Day),
                span: ever,
                limit: 1,
                newest: true,
            };
            let rows = series.call(|series| series.rows(room, &select)).await?;
            let bars = series.call(|series| series.bars(&query)).await?;
            let (tick, day) = (text(&rows.last().map(Tick::of))?, text(&bars.last().map(Bar::of))?);
            Ok(format!(r#"{{"symbol":"{symbol}","data_type":"snapshot","tick":{tick},"day":{day}}}"#))
        }
    }
}

fn text<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(ErrorCode::InternalError, error.to_string()))
}

/// Rows as text, with commas between.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    rows: String,
    /// None was left out.
    complete: bool,
}

/// As many rows as fit: of the newest, or of the oldest. Rows are in order of time.
fn listed<T: Serialize>(
    rows: impl DoubleEndedIterator<Item = T>,
    newest: bool,
    most_bytes: usize,
) -> Result<Listed, Failure> {
    let (mut texts, complete) =
        if newest { fitting(rows.rev(), most_bytes)? } else { fitting(rows, most_bytes)? };
    if newest {
        texts.reverse();
    }
    Ok(Listed { rows: texts.join(","), complete })
}

fn fitting<T: Serialize>(
    rows: impl Iterator<Item = T>,
    most_bytes: usize,
) -> Result<(Vec<String>, bool), Failure> {
    let (mut texts, mut left) = (Vec::new(), most_bytes);
    for row in rows {
        let text = text(&row)?;
        let Some(rest) = left.checked_sub(text.len() + 1) else { return Ok((texts, false)) };
        left = rest;
        texts.push(text);
    }
    Ok((texts, true))
}

/// A tick as it is told.
#[derive(Serialize)]
struct Tick<'a> {
    timestamp: u64,
    seq: u64,
    epoch: &'a Epoch,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bid_price: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bid_volume: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ask_price: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ask_volume: Option<f64>,
    data: &'a RawValue,
}

impl<'a> Tick<'a> {
    fn of(row: &'a Row) -> Self {
        let (figures, message) = (&row.figures, &row.message);
        Self {
            timestamp: row.at,
            seq: message.seq,
            epoch: &row.epoch,
            event: &message.event,
            price: figures.mark(),
            volume: figures.volume,
            bid_price: figures.bid_price,
            bid_volume: figures.bid_volume,
            ask_price: figures.ask_price,
            ask_volume: figures.ask_volume,
            data: &message.data,
        }
    }
}

/// A bar as it is told.
#[derive(Serialize)]
struct Bar<'a> {
    timestamp: u64,
    /// The same once more, by its name in the rooms of bars.
    #[serde(flatten)]
    bar: &'a tickmesh_market::bars::Bar,
}

impl<'a> Bar<'a> {
    fn of(kept: &'a KeptBar) -> Self {
        Self { timestamp: kept.bar.start, bar: &kept.bar }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tickmesh_cluster::config::Config;
    use tickmesh_market::tick::Figures;
    use tickmesh_protocol::market::Symbol;
    use tickmesh_protocol::message::Message;
    use tickmesh_store::series::RoomRows;

    use super::*;

    #[test]
    fn rows_beyond_the_bytes_are_left_out_on_the_far_side() {
        let of = |newest, most| {
            let Listed { rows, complete } = listed(10..15u64, newest, most).unwrap();
            (rows, complete)
        };
        for newest in [true, false] {
            assert_eq!(of(newest, 15), ("10,11,12,13,14".into(), true));
            assert_eq!(of(newest, 2), (String::new(), false));
        }
        assert_eq!(of(true, 14), ("11,12,13,14".into(), false));
        assert_eq!(of(false, 14), ("10,11,12,13".into(), false));
    }

    #[tokio::test]
    async fn an_answer_of_large_rows_is_bounded_and_says_so() {
        let mut config = Config::node_defaults();
        // The store keeps all of them: what is bounded is the answer.
        config.stores.memory_tick_bytes = 64 << 20;
        let stores = Stores::memory(&config);
        let room = RoomName::new("market_L").unwrap();
        let symbol = Symbol::new("L").unwrap();
        // As it is published: spaces, digits and repeated keys stay.
        let data = format!(r#"{{"p": 1.10, "p":2,"t":"{}"}}"#, "x".repeat(30_000));
        let row = |seq| Row {
            at: 1_000 + seq,
            epoch: Epoch::new("e\"1"),
            figures: Figures { price: Some(1.5), ..Figures::default() },
            message: Arc::new(Message {
                seq,
                timestamp: 1,
                accepted_at: 0,
                event: "q\"\\".into(),
                key: None,
                data: RawValue::from_string(data.clone()).unwrap(),
                trace: None,
            }),
        };
        let rows = (1..=400).map(row).collect();
        let rows = [RoomRows { room: room.clone(), symbol: symbol.clone(), exchange: String::new(), rows }];
        let writer = stores.series.as_ref().unwrap();
        writer.call(|series| series.append(&rows)).await.unwrap();
        for (start, limit, complete) in
            [(None, 10_000, false), (Some(1_001), 10_000, false), (None, 50, true), (Some(1_390), 500, true)]
        {
            let query =
                MarketQuery { symbol: symbol.clone(), data_type: DataType::Tick, start, end: None, limit };
            let answer = market_data(&stores, &room, &query).await.unwrap();
            assert!(answer.len() < MOST_BYTES + 1_000);
            assert!(answer.contains(&data));
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["complete"], complete, "{start:?} {limit}");
            let rows = answer["rows"].as_array().unwrap();
            let seqs: Vec<u64> = rows.iter().map(|row| row["seq"].as_u64().unwrap()).collect();
            assert!(seqs.is_sorted_by(|a, b| a + 1 == *b));
            if complete {
                assert_eq!(seqs.len(), limit.min(11 + 39 * usize::from(start.is_none())));
            } else {
                assert!((270..280).contains(&seqs.len()), "{}", seqs.len());
            }
            match start {
                None => assert_eq!(seqs.last(), Some(&400), "the newest"),
                Some(start) => assert_eq!(rows[0]["timestamp"], start, "on from there"),
            }
            let expected = json!(["e\"1", "q\"\\", 1.5, null]);
            assert_eq!(
                json!([rows[0]["epoch"], rows[0]["event"], rows[0]["price"], rows[0]["volume"]]),
                expected
            );
        }
    }
}
