use super::*;

#[test]
fn timeframes_are_minutes_up_to_a_day() {
    assert_eq!(Timeframe::parse("1h"), Ok(Timeframe::Kept(Period::Hour)));
    assert_eq!(Timeframe::parse("60m"), Ok(Timeframe::Kept(Period::Hour)));
    assert_eq!(Timeframe::parse("30m"), Ok(Timeframe::Minutes(30)));
    assert_eq!(Timeframe::parse("4h"), Ok(Timeframe::Minutes(240)));
    for (text, name) in [("4h", "4h"), ("240m", "4h"), ("24h", "24h"), ("90m", "90m"), ("60m", "1h")] {
        assert_eq!(Timeframe::parse(text).map(Timeframe::name).as_deref(), Ok(name));
    }
    for bad in ["", "m", "0m", "01m", "-1m", "1.5h", "25h", "99999m", "1w", "1m; drop table x", "٣m"] {
        assert!(Timeframe::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_wrong_is_told_by_its_code() {
    let code = |action: &str, payload: &str| match Ask::parse(action, payload) {
        Some(Err(failure)) => failure.code,
        other => panic!("{action} {payload}: {other:?}"),
    };
    let injection = r#"{"symbol":"X'; DROP TABLE tick_data; --"}"#;
    for action in ["watchlist.add", "watchlist.remove"] {
        assert_eq!(code(action, injection), ErrorCode::InvalidSymbol);
        assert_eq!(
            code(action, &format!(r#"{{"symbol":"{}"}}"#, "A".repeat(10_000))),
            ErrorCode::InvalidSymbol
        );
        assert_eq!(code(action, "{}"), ErrorCode::InvalidParameters);
    }
    for payload in [
        r#"{"symbol":"A","data_type":"tick","limit":0}"#,
        r#"{"symbol":"A","data_type":"tick","limit":10001}"#,
        r#"{"symbol":"A","data_type":"ticks"}"#,
        r#"{"symbol":"A"}"#,
        r#"{"symbol":"A","data_type":"kline","timeframe":"1x"}"#,
        r#"{"symbol":"A","data_type":"tick","start":5,"end":5}"#,
        r#"{"symbol":"A","data_type":"tick","start":-1}"#,
        r#"{"symbol":"A","data_type":"tick","start":"2020"}"#,
    ] {
        assert_eq!(code("get_market_data", payload), ErrorCode::InvalidParameters, "{payload}");
    }
    for payload in [
        r#"{"symbol":"A","field":"price","op":"=","value":1}"#,
        r#"{"symbol":"A","field":"price","op":">","value":NaN}"#,
        r#"{"symbol":"A","field":"price","op":">","value":1e999}"#,
        r#"{"symbol":"A","field":"","op":">","value":1}"#,
        r#"{"symbol":"A","field":"a b","op":">","value":1}"#,
        r#"{"symbol":"A","field":"price","op":">"}"#,
        r#"[]"#,
    ] {
        assert_eq!(code("alert.create", payload), ErrorCode::InvalidParameters, "{payload}");
    }
    assert_eq!(code("alert.delete", r#"{"id":-1}"#), ErrorCode::InvalidParameters);
    assert_eq!(Ask::parse("echo", "{}"), None);
}

#[test]
fn bars_have_rooms() {
    let symbol = Symbol::new(&"S".repeat(MAX_SYMBOL_LEN)).unwrap();
    for period in Period::ALL {
        assert!(period.room(&symbol).as_str().ends_with(period.as_str()));
    }
    let room = RoomName::new("market_600519").unwrap();
    assert_eq!(Symbol::of_room("market_", &room), Some(Symbol::new("600519").unwrap()));
    assert_eq!(Symbol::of_room("stream_", &room), None);
}
