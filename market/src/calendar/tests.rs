use proptest::prelude::*;

use super::*;

fn config(name: &str, zone: &str, sessions: &[&str], days: &[&str]) -> ExchangeConfig {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    ExchangeConfig {
        name: name.to_owned(),
        time_zone: zone.to_owned(),
        sessions: texts(sessions),
        days: texts(days),
    }
}

fn exchange(zone: &str, sessions: &[&str], days: &[&str]) -> Exchange {
    Calendar::new(&[config("X", zone, sessions, days)]).unwrap().exchange("X").clone()
}

fn shanghai() -> Exchange {
    exchange("Asia/Shanghai", &["09:30-11:30", "13:00-15:00"], &DAYS[..5])
}

/// UTC milliseconds of RFC 3339 text.
fn ms(text: &str) -> u64 {
    text.parse::<Timestamp>().unwrap().as_millisecond() as u64
}

fn span(from: &str, to: &str) -> Option<Range<u64>> {
    Some(ms(from)..ms(to))
}

#[test]
fn bars_are_not_cut_by_sessions() {
    let exchange = shanghai();
    let bucket = |at: &str, period| exchange.bucket(ms(at), period);
    let open = "2024-03-04T09:30:00+08:00";
    assert_eq!(bucket(open, Period::Minute), span(open, "2024-03-04T09:31:00+08:00"));
    assert_eq!(bucket(open, Period::Hour), span("2024-03-04T09:00:00+08:00", "2024-03-04T10:00:00+08:00"));
    assert_eq!(bucket(open, Period::Day), span("2024-03-04T00:00:00+08:00", "2024-03-05T00:00:00+08:00"));
    for closed in [
        "2024-03-04T09:29:59.999+08:00",
        "2024-03-04T11:30:00.001+08:00",
        "2024-03-04T12:59:59.999+08:00",
        "2024-03-04T15:00:00.001+08:00",
        // A Sunday.
        "2024-03-03T10:00:00+08:00",
    ] {
        for period in Period::ALL {
            assert_eq!(bucket(closed, period), None, "{closed} {period}");
        }
    }
}

#[test]
fn the_last_instant_of_a_session_is_in_the_bar_before() {
    let exchange = shanghai();
    let bucket = |at: &str, period| exchange.bucket(ms(at), period);
    let noon = "2024-03-04T11:30:00+08:00";
    for (period, from) in
        [(Period::Minute, "11:29"), (Period::FiveMinutes, "11:25"), (Period::Quarter, "11:15")]
    {
        assert_eq!(bucket(noon, period), span(&format!("2024-03-04T{from}:00+08:00"), noon));
    }
    let close = "2024-03-04T15:00:00+08:00";
    assert_eq!(bucket(close, Period::Hour), span("2024-03-04T14:00:00+08:00", close));
    assert_eq!(bucket(noon, Period::Hour), span("2024-03-04T11:00:00+08:00", "2024-03-04T12:00:00+08:00"));

    // Midnight ends Friday's session, and begins no other.
    let late = self::exchange("UTC", &["20:00-24:00"], &["fri"]);
    let saturday = ms("2024-03-09T00:00:00Z");
    assert_eq!(late.bucket(saturday, Period::Day), span("2024-03-08T00:00:00Z", "2024-03-09T00:00:00Z"));
    assert_eq!(late.bucket(saturday + 1, Period::Day), None);

    // Where the next session begins, it is the first of that.
    let night = self::exchange("UTC", &["00:00-02:00", "21:00-24:00"], &[]);
    assert_eq!(night.bucket(saturday, Period::Minute), span("2024-03-09T00:00:00Z", "2024-03-09T00:01:00Z"));
}

#[test]
fn hours_begin_on_the_local_hour() {
    let kolkata = exchange("Asia/Kolkata", &[], &[]);
    let at = ms("2024-03-04T09:15:00+05:30");
    assert_eq!(
        kolkata.bucket(at, Period::Hour),
        span("2024-03-04T09:00:00+05:30", "2024-03-04T10:00:00+05:30")
    );
    assert_eq!(
        kolkata.bucket(at, Period::Quarter),
        span("2024-03-04T09:15:00+05:30", "2024-03-04T09:30:00+05:30")
    );
}

#[test]
fn days_have_23_24_or_25_hours() {
    let new_york = exchange("America/New_York", &["09:30-16:00"], &[]);
    let hours = |at: &str| {
        let day = new_york.bucket(ms(at), Period::Day).unwrap();
        (day.end - day.start) / 3_600_000
    };
    assert_eq!(hours("2024-03-10T12:00:00-04:00"), 23);
    assert_eq!(hours("2024-03-11T12:00:00-04:00"), 24);
    assert_eq!(hours("2024-11-03T12:00:00-05:00"), 25);
    // The session keeps to the clock on the wall.
    assert_eq!(new_york.bucket(ms("2024-03-08T13:30:00Z"), Period::Minute), None);
    assert!(new_york.bucket(ms("2024-03-11T13:30:00Z"), Period::Minute).is_some());
}

#[test]
fn a_midnight_that_is_skipped_or_comes_twice_begins_one_day() {
    // 00:00 became 01:00.
    let sao_paulo = exchange("America/Sao_Paulo", &[], &[]);
    let at = ms("2018-11-04T12:00:00-02:00");
    assert_eq!(
        sao_paulo.bucket(at, Period::Day),
        span("2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00")
    );
    // 00:01 became 23:01 of the day before.
    let st_johns = exchange("America/St_Johns", &[], &[]);
    let again = ms("2010-11-06T23:30:00-03:30");
    assert_eq!(
        st_johns.bucket(again, Period::Day),
        span("2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30")
    );
    // A date that never was.
    let apia = exchange("Pacific/Apia", &[], &[]);
    let last = ms("2011-12-29T12:00:00-10:00");
    assert_eq!(
        apia.bucket(last, Period::Day),
        span("2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00")
    );
}

#[test]
fn an_hour_that_comes_twice_is_two_bars() {
    let berlin = exchange("Europe/Berlin", &[], &[]);
    let (summer, winter) = (ms("2024-10-27T02:30:00+02:00"), ms("2024-10-27T02:30:00+01:00"));
    let (first, second) = (berlin.bucket(summer, Period::Hour), berlin.bucket(winter, Period::Hour));
    assert_eq!(first, span("2024-10-27T02:00:00+02:00", "2024-10-27T03:00:00+02:00"));
    assert_eq!(second, span("2024-10-27T02:00:00+01:00", "2024-10-27T03:00:00+01:00"));
    // Half an hour forward: the bar that has no first half is short.
    let lord_howe = exchange("Australia/Lord_Howe", &[], &[]);
    let at = ms("2024-10-06T02:45:00+11:00");
    assert_eq!(
        lord_howe.bucket(at, Period::Hour),
        span("2024-10-06T02:30:00+11:00", "2024-10-06T03:00:00+11:00")
    );
}

#[test]
fn times_at_the_ends_of_the_calendar_are_no_trouble() {
    for exchange in
        [exchange("Asia/Shanghai", &[], &[]), shanghai(), Calendar::default().exchange("").clone()]
    {
        for period in Period::ALL {
            for at in [u64::MAX, i64::MAX as u64, i64::MAX as u64 + 1, 253_402_300_800_000] {
                assert_eq!(exchange.bucket(at, period), None);
            }
            let _ = exchange.bucket(0, period);
        }
    }
    let first = exchange("Asia/Shanghai", &[], &[]).bucket(0, Period::Day);
    assert_eq!(first, Some(0..16 * 3_600_000), "cut at the epoch");
}

#[test]
fn names_are_exact_and_the_empty_one_is_the_default() {
    let configs = [config("SSE", "Asia/Shanghai", &[], &[]), config("", "America/New_York", &[], &[])];
    let calendar = Calendar::new(&configs).unwrap();
    let start = |calendar: &Calendar, name: &str| {
        calendar.exchange(name).bucket(ms("2024-03-04T12:00:00Z"), Period::Day).unwrap().start
    };
    assert_eq!(start(&calendar, "SSE"), ms("2024-03-04T00:00:00+08:00"));
    for other in ["", "sse", "NYSE"] {
        assert_eq!(start(&calendar, other), ms("2024-03-04T00:00:00-05:00"), "{other}");
    }
    let calendar = Calendar::new(&configs[..1]).unwrap();
    assert_eq!(start(&calendar, "NYSE"), ms("2024-03-04T00:00:00Z"));
    assert_eq!(start(&Calendar::default(), "SSE"), ms("2024-03-04T00:00:00Z"));
}

#[test]
fn what_is_wrong_is_named() {
    let error = |name: &str, zone: &str, sessions: &[&str], days: &[&str]| {
        Calendar::new(&[config(name, zone, sessions, days)]).unwrap_err().to_string()
    };
    for zone in ["Asia/Shanghia", "", "Etc/Unknown", "../etc/passwd"] {
        let text = error("SSE", zone, &[], &[]);
        assert!(
            text.starts_with(&format!("exchange \"SSE\": time zone {zone:?} is unknown; allowed")),
            "{text}"
        );
    }
    for bad in [
        "",
        "-",
        "9:30-11:30",
        "09:30",
        "09:30-",
        "09:30–11:30",
        "09:30-24:01",
        "09:60-10:00",
        "11:30-09:30",
        "09:30-09:30",
        "24:00-24:00",
        "09:30 - 11:30",
        "09:30-11:30-12:00",
        "+9:30-11:30",
        "09:3٣-11:30",
    ] {
        let text = error("SSE", "UTC", &["00:00-01:00", bad], &[]);
        assert!(text.starts_with(&format!("exchange \"SSE\": session {bad:?} is not HH:MM-HH:MM")), "{text}");
    }
    for wrong in [["13:00-15:00", "09:30-11:30"], ["09:30-11:30", "11:29-15:00"]] {
        let text = error("SSE", "UTC", &wrong, &[]);
        assert!(text.contains(wrong[0]) && text.contains(wrong[1]) && text.contains("in order"), "{text}");
    }
    for day in ["Mon", "monday", "", "1"] {
        let text = error("SSE", "UTC", &[], &["mon", day]);
        assert!(text.contains(&format!("day {day:?} is unknown; allowed are mon tue")), "{text}");
    }
    for name in ["a b", "é", &"x".repeat(33)] {
        assert_eq!(
            Calendar::new(&[config(name, "UTC", &[], &[])]).unwrap_err(),
            CalendarError::Name(name.to_owned())
        );
    }
    let twice = [config("A", "UTC", &[], &[]), config("A", "UTC", &[], &[])];
    let text = Calendar::new(&twice).unwrap_err().to_string();
    assert_eq!(text, "exchange \"A\": it is there twice; each name is allowed once");
    let name = "x".repeat(32);
    let good = config(&name, "UTC", &["00:00-11:30", "11:30-24:00"], &["sun", "mon"]);
    assert!(Calendar::new(&[good]).is_ok(), "sessions may touch");
}

/// Walks over the buckets from `from` on and checks that they tile: nothing between them, nothing twice.
fn assert_tiles(exchange: &Exchange, period: Period, from: u64, count: usize) {
    let mut bucket = exchange.bucket(from, period).unwrap();
    assert!(bucket.contains(&from));
    for _ in 0..count {
        assert!(bucket.start < bucket.end && bucket.end - bucket.start <= 49 * 3_600_000);
        for inside in [bucket.start, bucket.start.midpoint(bucket.end), bucket.end - 1] {
            assert_eq!(exchange.bucket(inside, period).as_ref(), Some(&bucket), "{period} at {inside}");
        }
        let next = exchange.bucket(bucket.end, period).unwrap();
        assert_eq!(next.start, bucket.end, "{period}");
        bucket = next;
    }
}

#[test]
fn buckets_tile_around_every_clock_change_there_is() {
    let mut changes = 0;
    for zone in TimeZoneDatabase::bundled().available() {
        if zone.as_str() == "Etc/Unknown" {
            continue;
        }
        let exchange = exchange(zone.as_str(), &[], &[]);
        // From 1971 on; rules without an end are followed for some years.
        for change in exchange.0.zone.following(Timestamp::from_second(365 * 86_400).unwrap()).take(80) {
            let at = change.timestamp().as_millisecond() as u64;
            if at > ms("2030-01-01T00:00:00Z") {
                break;
            }
            changes += 1;
            for period in Period::ALL {
                let width = period.millis();
                assert_tiles(&exchange, period, at - 2 * width, 4);
            }
        }
    }
    assert!(changes > 10_000, "{changes}");
}

proptest! {
    #[test]
    fn every_instant_is_in_one_bucket(
        zone in prop::sample::select(vec![
            "UTC", "Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Europe/London",
            "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "Pacific/Chatham", "Pacific/Apia",
        ]),
        at in 200_000_000_000u64..4_000_000_000_000,
    ) {
        let exchange = exchange(zone, &[], &[]);
        for period in Period::ALL {
            assert_tiles(&exchange, period, at, 3);
        }
        // Shorter bars lie in longer ones.
        for pair in Period::ALL.windows(2) {
            let (short, long) = (exchange.bucket(at, pair[0]).unwrap(), exchange.bucket(at, pair[1]).unwrap());
            prop_assert!(long.start <= short.start && short.end <= long.end);
        }
    }

    #[test]
    fn sessions_choose_among_the_buckets_of_around_the_clock(minute in 0u64..7 * 24 * 60, ms_of in 0u64..60_000) {
        let monday = ms("2024-03-04T00:00:00+08:00");
        let at = monday + minute * 60_000 + ms_of;
        let (with, around) = (shanghai(), exchange("Asia/Shanghai", &[], &[]));
        let of_day = minute % (24 * 60) * 60_000 + ms_of;
        let inside = |from: u64, to: u64| (from * 60_000..=to * 60_000).contains(&of_day);
        let open = minute < 5 * 24 * 60 && (inside(570, 690) || inside(780, 900));
        for period in Period::ALL {
            let bucket = with.bucket(at, period);
            prop_assert_eq!(bucket.is_some(), open);
            if ms_of > 0 && open {
                prop_assert_eq!(bucket, around.bucket(at, period));
            }
        }
    }
}
