use super::*;
use crate::calendar::{Calendar, ExchangeConfig};

pub(super) const MINUTE: u64 = 60_000;
/// 2024-03-04, a Monday, at 09:00 UTC.
pub(super) const START: u64 = 1_709_542_800_000;
pub(super) const OFF: Rules = Rules { late_ms: 5000, max_jump_percent: 0 };

pub(super) fn exchange(sessions: &[&str]) -> Exchange {
    let config = ExchangeConfig {
        name: String::new(),
        time_zone: "UTC".to_owned(),
        sessions: sessions.iter().map(|text| (*text).to_owned()).collect(),
        days: Vec::new(),
    };
    Calendar::new(&[config]).unwrap().exchange("").clone()
}

fn builder(rules: Rules) -> BarBuilder {
    BarBuilder::new(exchange(&[]), rules)
}

/// What changed of a period.
fn tick(builder: &mut BarBuilder, period: Period, at: u64, price: f64) -> Vec<(Bar, bool)> {
    let mut out = Vec::new();
    builder.handle_tick(at, price, 2.0, &mut out).unwrap();
    out.into_iter()
        .filter(|change| change.period == period)
        .map(|change| (change.bar, change.revised))
        .collect()
}

fn refused(builder: &mut BarBuilder, at: u64, price: f64, volume: f64) -> Option<Rejected> {
    let mut out = Vec::new();
    let result = builder.handle_tick(at, price, volume, &mut out);
    assert_eq!(result.is_err(), out.is_empty());
    result.err()
}

fn ohlc(bar: &Bar) -> [f64; 4] {
    [bar.open, bar.high, bar.low, bar.close]
}

#[test]
fn the_first_tick_of_a_bar_closes_the_one_before() {
    let mut builder = builder(OFF);
    let first = tick(&mut builder, Period::Minute, START, 10.0);
    assert_eq!(first.len(), 1);
    assert!(!first[0].0.closed && !first[0].1);
    tick(&mut builder, Period::Minute, START + 10, 12.0);
    let second = tick(&mut builder, Period::Minute, START + MINUTE, 11.0);
    assert_eq!(second.len(), 2);
    let (closed, opened) = (second[0].0, second[1].0);
    assert_eq!((closed.start, closed.closed, ohlc(&closed)), (START, true, [10.0, 12.0, 10.0, 12.0]));
    assert_eq!((closed.volume, closed.turnover, closed.ticks), (4.0, 44.0, 2));
    assert_eq!((opened.start, opened.closed, ohlc(&opened)), (START + MINUTE, false, [11.0; 4]));
    // Longer bars go on.
    assert_eq!(builder.current(Period::Hour).map(ohlc), Some([10.0, 12.0, 10.0, 11.0]));
}

#[test]
fn a_late_tick_amends_its_bar() {
    let mut builder = builder(OFF);
    tick(&mut builder, Period::Minute, START + 58_000, 10.0);
    tick(&mut builder, Period::Minute, START + MINUTE + 1000, 20.0);
    // Newer than the close of its bar.
    let late = tick(&mut builder, Period::Minute, START + 59_000, 11.0);
    assert_eq!(late.len(), 1);
    assert_eq!((ohlc(&late[0].0), late[0].0.closed, late[0].1), ([10.0, 11.0, 10.0, 11.0], true, true));
    // Older than its open.
    let late = tick(&mut builder, Period::Minute, START + 57_000, 9.0);
    assert_eq!(ohlc(&late[0].0), [9.0, 11.0, 9.0, 11.0]);
    // As old as may be, and older.
    assert_eq!(refused(&mut builder, START + 56_000, 9.5, 1.0), None);
    assert_eq!(refused(&mut builder, START + 55_999, 9.5, 1.0), Some(Rejected::Late));
    // The hour's close is still that of the newest tick.
    assert_eq!(builder.current(Period::Hour).map(ohlc), Some([9.5, 20.0, 9.0, 20.0]));
}

#[test]
fn a_late_tick_of_a_gap_makes_a_closed_bar() {
    let mut builder = builder(Rules { late_ms: 3 * MINUTE, ..OFF });
    tick(&mut builder, Period::Minute, START, 10.0);
    tick(&mut builder, Period::Minute, START + 2 * MINUTE, 11.0);
    let gap = tick(&mut builder, Period::Minute, START + MINUTE, 12.0);
    assert_eq!(gap.len(), 1);
    assert_eq!((gap[0].0.start, gap[0].0.closed, gap[0].1), (START + MINUTE, true, false));
    let again = tick(&mut builder, Period::Minute, START + MINUTE + 1, 13.0);
    assert_eq!((again[0].0.ticks, again[0].1), (2, true));
    assert_eq!(builder.current(Period::Minute).map(|bar| bar.start), Some(START + 2 * MINUTE));
}

#[test]
fn of_equal_times_the_first_is_the_open_and_the_last_the_close() {
    let mut builder = builder(OFF);
    for price in [10.0, 12.0, 11.0] {
        tick(&mut builder, Period::Minute, START, price);
    }
    assert_eq!(builder.current(Period::Minute).map(ohlc), Some([10.0, 12.0, 10.0, 11.0]));
}

#[test]
fn ticks_that_cannot_be_are_refused_by_name() {
    let mut builder = BarBuilder::new(exchange(&["09:00-10:00"]), OFF);
    for price in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(&mut builder, START, price, 1.0), Some(Rejected::Price));
    }
    for volume in [-1.0, f64::NAN, f64::INFINITY, f64::MAX] {
        assert_eq!(refused(&mut builder, START, 10.0, volume), Some(Rejected::Volume));
    }
    assert_eq!(refused(&mut builder, START + 90 * MINUTE, 10.0, 1.0), Some(Rejected::Closed));
    assert_eq!(refused(&mut builder, u64::MAX, 10.0, 1.0), Some(Rejected::Future));
    for period in Period::ALL {
        assert_eq!(builder.current(period), None);
    }
    // None of them has moved what is late.
    assert_eq!(refused(&mut builder, START, 10.0, 0.0), None);
    let mut labels = Rejected::ALL.map(Rejected::as_str).to_vec();
    labels.dedup();
    assert_eq!(labels, ["price", "volume", "late", "jump", "closed", "future"]);
}

#[test]
fn a_day_is_known_but_its_break_is_closed() {
    let mut builder = BarBuilder::new(exchange(&["09:00-09:30", "09:45-10:00"]), OFF);
    tick(&mut builder, Period::Minute, START + 29 * MINUTE, 10.0);
    // The last instant of the session is in its last minute.
    let last = tick(&mut builder, Period::Minute, START + 30 * MINUTE, 11.0);
    assert_eq!((last.len(), last[0].0.start, last[0].0.ticks), (1, START + 29 * MINUTE, 2));
    assert_eq!(refused(&mut builder, START + 30 * MINUTE + 1, 10.0, 1.0), Some(Rejected::Closed));
    assert_eq!(refused(&mut builder, START + 45 * MINUTE, 10.0, 1.0), None);
    assert_eq!(builder.current(Period::Hour).map(|bar| bar.ticks), Some(3));
}

#[test]
fn a_late_closing_auction_is_not_of_the_session_after() {
    let sessions = exchange(&["09:00-10:00", "10:15-11:00"]);
    let mut builder = BarBuilder::new(sessions, Rules { late_ms: 30 * MINUTE, ..OFF });
    tick(&mut builder, Period::Hour, START + 59 * MINUTE, 10.0);
    tick(&mut builder, Period::Hour, START + 80 * MINUTE, 12.0);
    let late = tick(&mut builder, Period::Hour, START + 60 * MINUTE, 11.0);
    assert_eq!((late[0].0.start, ohlc(&late[0].0)), (START, [10.0, 11.0, 10.0, 11.0]));
}

#[test]
fn sums_stay_numbers() {
    let mut builder = builder(OFF);
    for _ in 0..4 {
        assert_eq!(refused(&mut builder, START, 1.0, f64::MAX), None);
    }
    let bar = *builder.current(Period::Day).unwrap();
    assert!(bar.is_consistent(), "{bar:?}");
    let mut both = bar;
    both.merge(&bar);
    assert!(both.is_consistent(), "{both:?}");
}

#[test]
fn a_jump_is_refused_until_three_agree() {
    let rules = Rules { late_ms: 0, max_jump_percent: 10 };
    let mut builder = builder(rules);
    let mut at = START;
    let mut step = |price: f64| {
        at += 1;
        refused(&mut builder, at, price, 1.0)
    };
    let jump = Some(Rejected::Jump);
    assert_eq!(step(1000.0), None, "the first has nothing to be compared with");
    assert_eq!(step(110.0), jump);
    assert_eq!(step(1100.0), None);
    assert_eq!(step(1211.0), jump);
    // Not in a row: a tick that counted lies between.
    assert_eq!(step(2000.0), jump);
    assert_eq!(step(2000.0), jump);
    assert_eq!(step(1100.0), None);
    assert_eq!(step(2000.0), jump);
    // Three that do not agree, but the last three do.
    assert_eq!(step(100.0), jump);
    assert_eq!(step(104.0), jump);
    assert_eq!(step(108.0), None);
    assert_eq!(step(100.0), None, "the new level");
    assert_eq!(step(1000.0), jump);
    // Each near the one before, but not all near each other.
    for price in [1090.0, 1190.0, 1300.0, 1420.0, 1550.0] {
        assert_eq!(step(price), jump);
    }
}

#[test]
fn ticks_that_are_refused_do_not_count_as_agreeing() {
    let mut builder = BarBuilder::new(exchange(&["09:00-10:00"]), Rules { late_ms: 0, max_jump_percent: 10 });
    assert_eq!(refused(&mut builder, START + 10, 100.0, 1.0), None);
    assert_eq!(refused(&mut builder, START + 11, 200.0, 1.0), Some(Rejected::Jump));
    for _ in 0..5 {
        assert_eq!(refused(&mut builder, START + 9, 200.0, 1.0), Some(Rejected::Late));
        assert_eq!(refused(&mut builder, START + 90 * MINUTE, 200.0, 1.0), Some(Rejected::Closed));
    }
    assert_eq!(refused(&mut builder, START + 12, 200.0, 1.0), Some(Rejected::Jump));
    assert_eq!(refused(&mut builder, START + 13, 200.0, 1.0), None);
}

#[test]
fn a_late_tick_is_no_measure_of_jumps() {
    let mut builder = builder(Rules { late_ms: 1000, max_jump_percent: 10 });
    assert_eq!(refused(&mut builder, START + 1000, 100.0, 1.0), None);
    assert_eq!(refused(&mut builder, START + 500, 91.0, 1.0), None);
    assert_eq!(refused(&mut builder, START + 1001, 109.0, 1.0), None, "compared with 100");
}

#[test]
fn time_closes_bars_once() {
    let mut builder = builder(OFF);
    let mut out = Vec::new();
    tick(&mut builder, Period::Minute, START, 10.0);
    builder.handle_time(START + MINUTE + 4999, &mut out);
    assert_eq!(out, []);
    builder.handle_time(START + MINUTE + 5000, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].period, out[0].bar.closed, out[0].revised), (Period::Minute, true, false));
    out.clear();
    builder.handle_time(START + MINUTE + 6000, &mut out);
    assert_eq!(out, [], "not twice");
    let late = tick(&mut builder, Period::Minute, START + 1, 11.0);
    assert_eq!((late.len(), late[0].0.closed, late[0].0.ticks, late[0].1), (1, true, 2, true));
    let next = tick(&mut builder, Period::Minute, START + MINUTE, 12.0);
    assert_eq!((next.len(), next[0].0.start), (1, START + MINUTE), "not closed again");
    builder.handle_time(u64::MAX, &mut out);
    assert_eq!(out.len(), 5);
}

#[test]
fn a_restored_bar_goes_on() {
    let bar = Bar {
        start: START,
        open: 10.0,
        high: 12.0,
        low: 9.0,
        close: 11.0,
        volume: 5.0,
        turnover: 50.0,
        ticks: 7,
        closed: false,
    };
    let mut builder = builder(Rules { late_ms: 5000, max_jump_percent: 50 });
    for period in Period::ALL {
        // All but the minute and the day begin at 09:00 too; the day's start is not a bar's of it.
        assert_eq!(builder.restore(period, bar), period != Period::Day);
    }
    let day = Bar { start: START - 9 * 60 * MINUTE, close: 10.5, ..bar };
    assert!(builder.restore(Period::Day, day));
    assert_eq!(refused(&mut builder, START - 1, 11.0, 1.0), Some(Rejected::Late), "that minute is not known");
    assert_eq!(refused(&mut builder, START, 17.0, 1.0), Some(Rejected::Jump), "compared with the newest bar");
    let next = tick(&mut builder, Period::Minute, START, 16.0);
    assert_eq!((ohlc(&next[0].0), next[0].0.ticks), ([10.0, 16.0, 9.0, 16.0], 8));
    assert_eq!(builder.current(Period::Day).map(|bar| bar.ticks), Some(8));
}

#[test]
fn a_late_tick_does_not_replace_a_restored_close() {
    let bar = Bar {
        start: START,
        open: 10.0,
        high: 12.0,
        low: 9.0,
        close: 11.0,
        volume: 5.0,
        turnover: 50.0,
        ticks: 7,
        closed: true,
    };
    let mut builder = builder(OFF);
    assert!(builder.restore(Period::Minute, Bar { start: START + MINUTE, closed: false, ..bar }));
    assert!(builder.restore(Period::Minute, bar));
    let late = tick(&mut builder, Period::Minute, START + 59_000, 8.0);
    assert_eq!((ohlc(&late[0].0), late[0].1), ([10.0, 12.0, 8.0, 11.0], true));
    assert_eq!(builder.current(Period::Minute).map(|bar| bar.ticks), Some(7));
}

#[test]
fn a_bar_that_was_left_open_is_closed() {
    let bar = Bar {
        start: START,
        open: 10.0,
        high: 10.0,
        low: 10.0,
        close: 10.0,
        volume: 0.0,
        turnover: 0.0,
        ticks: 1,
        closed: false,
    };
    let now = START + 60 * MINUTE;
    let restored = || {
        let mut builder = builder(OFF);
        assert!(builder.restore(Period::Minute, Bar { start: now, ..bar }));
        assert!(builder.restore(Period::Minute, bar));
        builder
    };
    let starts = |bars: Vec<(Bar, bool)>| -> Vec<(u64, bool)> {
        bars.into_iter().map(|(bar, _)| (bar.start, bar.closed)).collect()
    };
    let next = tick(&mut restored(), Period::Minute, now + MINUTE, 10.0);
    assert_eq!(starts(next), [(START, true), (now, true), (now + MINUTE, false)]);
    let mut out = Vec::new();
    restored().handle_time(now, &mut out);
    assert_eq!(out, [Change { period: Period::Minute, bar: Bar { closed: true, ..bar }, revised: false }]);
}

#[test]
fn bars_that_cannot_be_are_not_restored() {
    let mut builder = BarBuilder::new(exchange(&["09:30-10:00"]), OFF);
    let bar = Bar {
        start: START,
        open: 10.0,
        high: 10.0,
        low: 10.0,
        close: 10.0,
        volume: 0.0,
        turnover: 0.0,
        ticks: 1,
        closed: false,
    };
    assert!(builder.restore(Period::Hour, bar), "an hour may begin before the session");
    for (period, bar) in [
        (Period::Minute, bar),
        (Period::Hour, Bar { start: START + 1, ..bar }),
        (Period::Hour, Bar { start: u64::MAX, ..bar }),
        (Period::Hour, Bar { close: f64::NAN, ..bar }),
        (Period::Hour, Bar { close: 11.0, ..bar }),
        (Period::Hour, Bar { turnover: -1.0, ..bar }),
    ] {
        assert!(!builder.restore(period, bar), "{period} {bar:?}");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    for late_ms in [0, 5000, 10 * MINUTE] {
        let mut builder = builder(Rules { late_ms, ..OFF });
        for minute in 0..2000 {
            assert_eq!(refused(&mut builder, START + minute * MINUTE, 10.0, 1.0), None);
        }
        let remembered = builder.series[0].slots.len() as u64;
        assert!(remembered <= late_ms / MINUTE + 3, "{remembered}");
    }
}
