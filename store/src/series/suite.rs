//! What every implementation of [`TimeSeries`] must do. It panics where a guarantee is broken.

use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::value::RawValue;
use tickmesh_market::bars::Bar;
use tickmesh_market::tick::Figures;
use tickmesh_protocol::market::{Period, Symbol, Timeframe};
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::RoomName;

use super::memory::now_millis;
use super::{BarQuery, KeptBar, RoomRows, Row, Select, TimeSeries};

const DAY: u64 = 24 * 3_600_000;
const MINUTE: u64 = 60_000;
/// The epoch of rows that name none.
const EPOCH: &str = "e1";

/// Texts that would do harm if they were ever taken for anything but text. Each has a word that nothing else has.
pub const HOSTILE: [&str; 7] = [
    "hostile1'); DROP DATABASE tickmesh; --",
    "hostile2\\', 1, 2) t_x USING tick_data TAGS('\\'",
    "hostile3 \" ` ? $1 {} %s :name \u{0} \u{7f}",
    "hostile4 ünï¢ödé 中文 العربية",
    "hostile5 🚀👩‍👩‍👧‍👦",
    "hostile6\r\n\t/* -- */",
    "hostile7 NULL",
];

/// A row with a price for its sequence number.
#[must_use]
pub fn row(at: u64, seq: u64) -> Row {
    row_of(at, seq, EPOCH, "quote", None, &format!("{{\"price\":{seq}}}"))
}

/// # Panics
/// When the data is no JSON.
fn row_of(at: u64, seq: u64, epoch: &str, event: &str, key: Option<&str>, data: &str) -> Row {
    let message = Message {
        seq,
        timestamp: at.saturating_add(1),
        accepted_at: 0,
        event: event.into(),
        key: key.map(Into::into),
        data: RawValue::from_string(data.to_owned()).expect("JSON"),
        trace: None,
    };
    let figures = Figures { price: Some(seq as f64), ..Figures::default() };
    Row { at, epoch: Epoch::new(epoch), figures, message: Arc::new(message) }
}

/// Rows of a room at these times, with these sequence numbers.
///
/// # Panics
/// When a name is none.
#[must_use]
pub fn room_rows(room: &str, symbol: &str, rows: impl IntoIterator<Item = (u64, u64)>) -> RoomRows {
    RoomRows {
        room: RoomName::new(room).expect("a name"),
        symbol: Symbol::new(symbol).expect("a symbol"),
        exchange: "X".into(),
        rows: rows.into_iter().map(|(at, seq)| row(at, seq)).collect(),
    }
}

/// A bar with numbers that add up exactly.
///
/// # Panics
/// When the symbol is none.
#[must_use]
pub fn bar(symbol: &str, period: Period, start: u64, number: u32) -> KeptBar {
    let price = f64::from(number);
    KeptBar {
        symbol: Symbol::new(symbol).expect("a symbol"),
        exchange: "X".into(),
        period,
        bar: Bar {
            start,
            open: price + 0.25,
            high: price + 1.5,
            low: price - 1.5,
            close: price + 0.5,
            volume: price * 0.25,
            turnover: price * 2.0,
            ticks: u64::from(number) + 1,
            closed: true,
        },
        through: Position { epoch: Epoch::new(EPOCH), seq: u64::from(number) },
    }
}

/// Everything of a row that must come back, as text that differs where anything does.
fn facts(row: &Row) -> String {
    let (figures, message) = (&row.figures, &row.message);
    let bits = [
        figures.price,
        figures.volume,
        figures.bid_price,
        figures.bid_volume,
        figures.ask_price,
        figures.ask_volume,
    ]
    .map(|figure| figure.map(f64::to_bits));
    format!("{} {} {bits:?} {message:?}", row.at, row.epoch)
}

async fn find(series: &dyn TimeSeries, room: &str, select: Select) -> Vec<Row> {
    series.rows(&RoomName::new(room).expect("a name"), &select).await.expect("rows")
}

/// Time and sequence number of what is found.
async fn keys(series: &dyn TimeSeries, room: &str, select: Select) -> Vec<(u64, u64)> {
    find(series, room, select).await.iter().map(|row| (row.at, row.message.seq)).collect()
}

fn first(span: Range<u64>, limit: usize) -> Select {
    Select::First { span, limit, bytes: usize::MAX }
}

fn last(span: Range<u64>, limit: usize) -> Select {
    Select::Last { span, limit, bytes: usize::MAX }
}

const EVER: Range<u64> = 0..u64::MAX;

/// Runs every check, in a store that nobody else uses.
///
/// # Panics
/// When a guarantee is broken.
pub async fn run(series: &dyn TimeSeries) {
    // Some days ago, so that it is within any retention.
    let base = now_millis() / DAY * DAY - 3 * DAY;
    once(series, base).await;
    spans(series, base).await;
    bytes(series, base).await;
    epochs(series, base).await;
    hostile(series, base).await;
    figures(series, base).await;
    many(series, base).await;
    bars(series, base).await;
    windows(series, base).await;
    open_windows(series).await;
}

async fn once(series: &dyn TimeSeries, base: u64) {
    let room = RoomName::new("once").expect("a name");
    assert_eq!(series.position(&room).await.expect("asked"), None, "nothing was appended");
    assert!(find(series, "once", first(EVER, 10)).await.is_empty());
    series.append(&[]).await.expect("nothing to do");

    let position = |seq| Some(Position { epoch: Epoch::new(EPOCH), seq });
    let rows = |seqs: Range<u64>| [room_rows("once", "S", seqs.map(|seq| (base + seq, seq)))];
    for _ in 0..2 {
        series.append(&rows(1..11)).await.expect("appended");
        assert_eq!(series.position(&room).await.expect("asked"), position(10));
    }
    series.append(&rows(6..16)).await.expect("overlapping");
    assert_eq!(series.position(&room).await.expect("asked"), position(15));
    let all: Vec<_> = (1..16).map(|seq| (base + seq, seq)).collect();
    assert_eq!(keys(series, "once", first(EVER, 100)).await, all, "each once");
    // Position and rows of one room are not those of another, whatever the case of its name.
    assert_eq!(series.position(&RoomName::new("ONCE").expect("a name")).await.expect("asked"), None);
    series.append(&[room_rows("ONCE", "s", [(base, 77)])]).await.expect("appended");
    assert_eq!(keys(series, "once", first(EVER, 100)).await, all);
    assert_eq!(keys(series, "ONCE", first(EVER, 100)).await, [(base, 77)]);
    // The same room twice in one call.
    let twice = [room_rows("twice", "S", [(base, 1)]), room_rows("twice", "S", [(base, 1), (base, 2)])];
    series.append(&twice).await.expect("appended");
    assert_eq!(keys(series, "twice", first(EVER, 100)).await, [(base, 1), (base, 2)]);
    // Append goes by the log, and its last row is the position, however its times lie.
    series.append(&[room_rows("back", "S", [(base + 9, 1), (base, 2)])]).await.expect("appended");
    let back = series.position(&RoomName::new("back").expect("a name")).await.expect("asked");
    assert_eq!(back, position(2));
}

async fn spans(series: &dyn TimeSeries, base: u64) {
    // Three of one millisecond, one whose time is before those of lower numbers.
    let ticks =
        [(base + 10, 1), (base + 20, 2), (base + 20, 3), (base + 20, 4), (base + 5, 5), (base + 30, 6)];
    series.append(&[room_rows("spans", "S", ticks)]).await.expect("appended");
    let find = async |select| keys(series, "spans", select).await;
    let by_time = [ticks[4], ticks[0], ticks[1], ticks[2], ticks[3], ticks[5]];
    assert_eq!(find(first(EVER, 100)).await, by_time);
    assert_eq!(find(last(EVER, 100)).await, by_time);
    assert_eq!(find(first(EVER, 3)).await, by_time[..3], "also within a millisecond");
    assert_eq!(find(last(EVER, 3)).await, by_time[3..]);
    assert_eq!(find(first(base + 10..base + 20, 100)).await, [ticks[0]], "the end is not in it");
    assert_eq!(find(last(base + 20..base + 30, 2)).await, [ticks[2], ticks[3]]);
    assert_eq!(find(first(base + 31..u64::MAX, 1)).await, []);
    assert_eq!(find(first(base + 20..base + 20, 9)).await, []);
    assert_eq!(find(last(base + 30..base + 10, 9)).await, []);
    assert_eq!(find(last(EVER, 0)).await, []);
    let seqs = |seqs, from| Select::Seqs { seqs, from };
    assert_eq!(find(seqs(0..u64::MAX, 0)).await, ticks, "in order of number");
    assert_eq!(find(seqs(2..5, 0)).await, ticks[1..4]);
    assert_eq!(find(seqs(2..7, base + 20)).await, [ticks[1], ticks[2], ticks[3], ticks[5]]);
    assert_eq!(find(seqs(5..5, 0)).await, []);
    assert_eq!(find(seqs(7..9, 0)).await, []);
    let newest = |seqs, from, limit| Select::Newest { seqs, from, limit, bytes: usize::MAX };
    assert_eq!(find(newest(0..u64::MAX, 0, 100)).await, ticks, "in order of number");
    assert_eq!(find(newest(1..6, 0, 3)).await, ticks[1..4], "the newest by time");
    assert_eq!(find(newest(2..7, base + 20, 100)).await, [ticks[1], ticks[2], ticks[3], ticks[5]]);
    assert_eq!(find(newest(5..5, 0, 9)).await, []);
    assert_eq!(find(newest(1..7, 0, 0)).await, []);
}

/// What is read ends after the row with which it is more than so many bytes.
async fn bytes(series: &dyn TimeSeries, base: u64) {
    let mut rows = room_rows("bytes", "S", []);
    let data = format!("\"{}\"", "x".repeat(98));
    rows.rows = (1..10).map(|seq| row_of(base + seq, seq, EPOCH, "quote", None, &data)).collect();
    series.append(std::slice::from_ref(&rows)).await.expect("appended");
    for (bytes, count) in [(0, 1), (99, 1), (100, 2), (250, 3), (10_000, 9)] {
        let seqs = |range: Range<u64>| range.map(|seq| (base + seq, seq)).collect::<Vec<_>>();
        let find = async |select| keys(series, "bytes", select).await;
        assert_eq!(
            find(Select::First { span: EVER, limit: 100, bytes }).await,
            seqs(1..count + 1),
            "{bytes}"
        );
        assert_eq!(
            find(Select::Last { span: EVER, limit: 100, bytes }).await,
            seqs(10 - count..10),
            "{bytes}"
        );
        let newest = Select::Newest { seqs: 1..9, from: 0, limit: 100, bytes };
        assert_eq!(find(newest).await, seqs(9 - count.min(8)..9), "{bytes}");
    }
}

async fn epochs(series: &dyn TimeSeries, base: u64) {
    let mut rows = room_rows("epochs", "S", []);
    rows.rows =
        vec![row_of(base, 1, "first", "quote", None, "1"), row_of(base + 1, 2, "first", "quote", None, "2")];
    series.append(std::slice::from_ref(&rows)).await.expect("appended");
    rows.rows = vec![row_of(base + 9, 1, "second", "quote", None, "3")];
    series.append(std::slice::from_ref(&rows)).await.expect("appended");
    let found = find(series, "epochs", Select::Seqs { seqs: 1..3, from: 0 }).await;
    let found: Vec<_> = found.iter().map(|row| (row.message.seq, row.epoch.as_str().to_owned())).collect();
    let named = |seq: u64, epoch: &str| (seq, epoch.to_owned());
    assert_eq!(found, [named(1, "first"), named(1, "second"), named(2, "first")], "of every life of the log");
    let position = series.position(&rows.room).await.expect("asked").expect("one");
    assert_eq!((position.epoch.as_str(), position.seq), ("second", 1), "of the last row");
}

async fn hostile(series: &dyn TimeSeries, base: u64) {
    let mut rows = room_rows("h.o:s-T_", "A.b:C-d_", []);
    for (seq, text) in (1..).zip(HOSTILE) {
        let data = serde_json::to_string(&[text]).expect("JSON");
        rows.rows.push(row_of(base + seq, seq, EPOCH, text, Some(text), &data));
    }
    // The longest of everything; characters of four bytes must not be cut.
    let long = format!("\"{}{}\"", "x".repeat(2), "🚀".repeat(7_999));
    assert_eq!(long.len(), 32_000);
    rows.rows.push(row_of(base + 50, 50, &"e".repeat(64), &"ü".repeat(64), Some(&"🚀".repeat(32)), &long));
    rows.rows.push(row_of(base + 51, 51, EPOCH, "e", Some(""), " {\"a\" : 1.0e5,\n\"a\":2} "));
    rows.rows.push(row_of(base + 52, 52, EPOCH, "e", None, "null"));
    series.append(std::slice::from_ref(&rows)).await.expect("appended");
    let found = find(series, "h.o:s-T_", first(EVER, 100)).await;
    assert_eq!(found.len(), rows.rows.len());
    for (found, row) in found.iter().zip(&rows.rows) {
        assert_eq!(facts(found), facts(row), "byte for byte");
    }
    let room = format!("{}A.:-_Z", "Aa".repeat(61));
    assert_eq!(room.len(), 128);
    series.append(&[room_rows(&room, &"S".repeat(64), [(base, 1)])]).await.expect("the longest names");
    assert_eq!(keys(series, &room, first(EVER, 9)).await, [(base, 1)]);
}

async fn figures(series: &dyn TimeSeries, base: u64) {
    let numbers = [
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        0.1 + 0.2,
        1.0 + f64::EPSILON,
        16_777_217.0,
        9_007_199_254_740_993.0,
        0.0,
        123_456_789.123_456_79,
        1e-300,
    ];
    let mut rows = room_rows("figures", "S", []);
    for (seq, number) in (1..).zip(numbers) {
        let mut row = row(base + seq, seq);
        let other = numbers[(seq as usize * 3) % numbers.len()];
        row.figures = Figures {
            price: Some(number),
            volume: None,
            bid_price: Some(other),
            bid_volume: Some(number),
            ask_price: None,
            ask_volume: Some(other),
        };
        rows.rows.push(row);
    }
    let mut none = row(base + 99, u64::MAX >> 1);
    none.figures = Figures::default();
    rows.rows.push(none);
    series.append(std::slice::from_ref(&rows)).await.expect("appended");
    let found = find(series, "figures", first(EVER, 100)).await;
    assert_eq!(found.iter().map(facts).collect::<Vec<_>>(), rows.rows.iter().map(facts).collect::<Vec<_>>());
}

async fn many(series: &dyn TimeSeries, base: u64) {
    let count = 5_000;
    series
        .append(&[room_rows("many", "S", (1..=count).map(|seq| (base + seq / 3, seq)))])
        .await
        .expect("appended");
    let found = keys(series, "many", first(EVER, usize::MAX)).await;
    assert_eq!(found, (1..=count).map(|seq| (base + seq / 3, seq)).collect::<Vec<_>>());
    // Many rooms in one call.
    let rooms: Vec<_> = (0..40).map(|room| room_rows(&format!("m{room}"), "S", [(base, room + 1)])).collect();
    series.append(&rooms).await.expect("appended");
    for room in 0..40 {
        assert_eq!(keys(series, &format!("m{room}"), first(EVER, 9)).await, [(base, room + 1)]);
    }
}

fn query(symbol: &str, timeframe: Timeframe, span: Range<u64>, limit: usize, newest: bool) -> BarQuery {
    BarQuery { symbol: Symbol::new(symbol).expect("a symbol"), timeframe, span, limit, newest }
}

async fn bars(series: &dyn TimeSeries, base: u64) {
    let find = async |symbol: &str, period, span, limit, newest| {
        series.bars(&query(symbol, Timeframe::Kept(period), span, limit, newest)).await.expect("bars")
    };
    assert!(find("B", Period::Minute, EVER, 9, true).await.is_empty(), "nothing was put");
    series.put_bars(&[]).await.expect("nothing to do");
    let mut all = Vec::new();
    for period in Period::ALL {
        all.extend(
            (0..10).map(|number| bar("B", period, base + u64::from(number) * period.millis() / 8, number)),
        );
    }
    series.put_bars(&all).await.expect("put");
    series.put_bars(&all[3..20]).await.expect("put again");
    for (period, bars) in Period::ALL.into_iter().zip(all.chunks(10)) {
        assert_eq!(find("B", period, EVER, 100, true).await, bars);
        assert_eq!(find("B", period, EVER, 3, true).await, bars[7..], "the newest, in order of time");
        assert_eq!(find("B", period, EVER, 3, false).await, bars[..3], "the oldest");
        let span = bars[2].bar.start..bars[5].bar.start;
        assert_eq!(find("B", period, span.clone(), 100, false).await, bars[2..5]);
        assert_eq!(find("B", period, span, 1, true).await, bars[4..5]);
        assert!(find("b", period, EVER, 100, true).await.is_empty(), "case matters");
    }
    // The last one counts, also within one call.
    let mut changed = bar("B", Period::Hour, base, 500);
    changed.bar.closed = false;
    changed.bar.ticks = 0;
    changed.through = Position { epoch: Epoch::new("e2"), seq: 1 };
    let before = bar("B", Period::Hour, base, 400);
    series.put_bars(&[before.clone(), before, changed.clone()]).await.expect("put");
    assert_eq!(find("B", Period::Hour, EVER, 1, false).await, [changed]);
    // Numbers come back as they went.
    let mut exact = bar("exact", Period::Day, base, 1);
    (exact.bar.open, exact.bar.high, exact.bar.low) = (0.1 + 0.2, f64::MAX, 5e-324);
    exact.through.seq = u64::MAX >> 1;
    series.put_bars(std::slice::from_ref(&exact)).await.expect("put");
    assert_eq!(find("exact", Period::Day, EVER, 1, true).await, [exact]);
}

/// One-minute bars put together, the simple way.
fn together(bars: &[KeptBar], minutes: u64) -> Vec<KeptBar> {
    let window = |kept: &KeptBar| kept.bar.start / (minutes * MINUTE);
    bars.chunk_by(|a, b| window(a) == window(b))
        .map(|group| {
            let (head, tail) = (&group[0], &group[group.len() - 1]);
            let sum = |of: fn(&Bar) -> f64| group.iter().map(|kept| of(&kept.bar)).sum::<f64>();
            let bar = Bar {
                start: window(head) * minutes * MINUTE,
                open: head.bar.open,
                high: group.iter().map(|kept| kept.bar.high).fold(f64::MIN, f64::max),
                low: group.iter().map(|kept| kept.bar.low).fold(f64::MAX, f64::min),
                close: tail.bar.close,
                volume: sum(|bar| bar.volume),
                turnover: sum(|bar| bar.turnover),
                ticks: group.iter().map(|kept| kept.bar.ticks).sum(),
                closed: true,
            };
            KeptBar { bar, through: tail.through.clone(), ..head.clone() }
        })
        .collect()
}

async fn windows(series: &dyn TimeSeries, base: u64) {
    let seed = rand::random::<u64>();
    println!("seed of the windows: {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // A day with gaps; not before today, so that every window of a day is over.
    let bars: Vec<KeptBar> = (0..1_440)
        .filter_map(|minute| {
            let number = random.random_range(2..1_000);
            random.random_bool(0.7).then(|| bar("W", Period::Minute, base + minute * MINUTE, number))
        })
        .collect();
    series.put_bars(&bars).await.expect("put");
    for minutes in [1, 2, 3, 7, 30, 45, 120, 240, 720, 1_440] {
        let all = together(&bars, u64::from(minutes));
        let find = async |span, limit, newest| {
            series.bars(&query("W", Timeframe::Minutes(minutes), span, limit, newest)).await.expect("bars")
        };
        assert_eq!(find(EVER, 2_000, true).await, all, "{minutes}m");
        assert_eq!(find(EVER, 2, true).await, all[all.len().saturating_sub(2)..], "{minutes}m");
        assert_eq!(find(EVER, 2, false).await, all[..all.len().min(2)], "{minutes}m");
        // Those that begin in the span, whole.
        let span = base + 1..base + 300 * MINUTE + 1;
        let within: Vec<_> = all.iter().filter(|kept| span.contains(&kept.bar.start)).cloned().collect();
        assert_eq!(find(span, 2_000, false).await, within, "{minutes}m");
        assert!(find(base + 1..base + 2, 9, true).await.is_empty());
    }
}

async fn open_windows(series: &dyn TimeSeries) {
    // Ahead of the present time: no window there is over, though its minute says so.
    let start = (now_millis() / DAY + 1) * DAY;
    let past = start - 4 * DAY;
    let mut open = bar("open", Period::Minute, past, 7);
    open.bar.closed = false;
    series.put_bars(&[open, bar("open", Period::Minute, start, 8)]).await.expect("put");
    let found = series.bars(&query("open", Timeframe::Minutes(30), EVER, 9, true)).await.expect("bars");
    let closed: Vec<_> = found.iter().map(|kept| (kept.bar.start, kept.bar.closed)).collect();
    assert_eq!(closed, [(past, false), (start, false)]);
}
