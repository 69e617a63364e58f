//! What is refused at the door, and with which code.

use super::*;

fn failure(text: &str) -> (Option<String>, ErrorCode) {
    let rejected = ClientMessage::parse(text).unwrap_err();
    (rejected.request_id, rejected.failure.code)
}

#[test]
fn wrong_messages_get_their_code_and_keep_their_id() {
    use ErrorCode::{InvalidMessageFormat as Format, InvalidParameters as Parameters};
    let long = format!(r#"{{"type":"request","request_id":"{}","action":"echo"}}"#, "x".repeat(129));
    let cases = [
        ("", None, Format),
        ("[]", None, Format),
        ("{", None, Format),
        ("{}", None, Format),
        (r#"{"type":"request","action":"echo"}"#, None, Format),
        (r#"{"type":"request","request_id":"","action":"echo"}"#, None, Format),
        (long.as_str(), None, Format),
        (r#"{"type":"request","request_id":"a"}"#, Some("a"), Format),
        (r#"{"type":"request","request_id":"a","action":7}"#, Some("a"), Format),
        (r#"{"type":"nope","request_id":"a"}"#, Some("a"), Format),
        (r#"{"type":"ping","timestamp":"x"}"#, None, Parameters),
        (r#"{"type":"subscribe","request_id":"a"}"#, Some("a"), Parameters),
        (r#"{"type":"subscribe","request_id":"a","room":""}"#, Some("a"), Parameters),
        (r#"{"type":"subscribe","request_id":"a","room":"r","history":-1}"#, Some("a"), Parameters),
        (r#"{"type":"subscribe","request_id":"a","room":"r","history":10001}"#, Some("a"), Parameters),
        (r#"{"type":"subscribe","request_id":"a","room":"r","fields":[]}"#, Some("a"), Parameters),
        (r#"{"type":"subscribe","request_id":"a","room":"r","delivery":"some"}"#, Some("a"), Parameters),
        (r#"{"type":"subscribe","request_id":"a","room":"r","max_rate":1}"#, Some("a"), Parameters),
        (
            r#"{"type":"subscribe","request_id":"a","room":"r","delivery":"latest","max_rate":-1}"#,
            Some("a"),
            Parameters,
        ),
        (r#"{"type":"unsubscribe","request_id":"a","room":"a b"}"#, Some("a"), Parameters),
    ];
    for (text, id, code) in cases {
        assert_eq!(failure(text), (id.map(str::to_owned), code), "{text}");
    }
}

#[test]
fn payload_keeps_its_bytes_and_unknown_fields_are_ignored() {
    let text = r#"{"type":"request","request_id":"a","x":1,"action":"echo","payload":{"p": 1.1200}}"#;
    let Body::Request { payload, .. } = ClientMessage::parse(text).unwrap().body else { panic!() };
    assert_eq!(payload, r#"{"p": 1.1200}"#);
}

#[test]
fn escaped_ids_are_understood() {
    let text = r#"{"type":"request","request_id":"\u0061\"","action":"e\u0063ho"}"#;
    let message = ClientMessage::parse(text).unwrap();
    assert_eq!(message.request_id, "a\"");
}

#[test]
fn msgpack_that_json_cannot_say_is_refused() {
    let good = rmp_serde::to_vec(&serde_json::json!({"type":"ping","timestamp":1})).unwrap();
    assert_eq!(json_from_msgpack(&good).unwrap(), r#"{"timestamp":1,"type":"ping"}"#);
    let mut trailing = good.clone();
    trailing.push(0);
    let cases: [&[u8]; 6] = [
        &trailing,
        &good[..good.len() - 1],
        &[0x81, 0xA1, b'a', 0xC4, 1, 0], // {"a": bin}
        &[0x81, 1, 2],                   // {1: 2}
        &[0xC1],                         // reserved
        &[0x91; 200],                    // arrays in arrays
    ];
    for bytes in cases {
        assert!(json_from_msgpack(bytes).is_err(), "{bytes:x?}");
    }
}

#[test]
fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
    let echo = |payload: &str| {
        let text = format!(r#"{{"type":"request","request_id":"a","action":"echo","payload":{payload}}}"#);
        ClientMessage::parse(&text).map(|_| ()).map_err(|rejected| rejected.failure.code)
    };
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(echo(&nested(MAX_DEPTH - 1)), Ok(()));
    assert_eq!(echo(&nested(MAX_DEPTH)), Err(ErrorCode::InvalidMessageFormat));
    assert_eq!(echo(&nested(20_000)), Err(ErrorCode::InvalidMessageFormat));
    assert_eq!(echo(&format!(r#""\\\"{}""#, "[".repeat(500))), Ok(()));
    assert_eq!(echo(&format!("[{}]", "[],".repeat(500) + "1")), Ok(()));
    let deep = format!(r#"{{"room":"r","event":"e","data":{}}}"#, nested(MAX_DEPTH));
    assert_eq!(Publish::parse(&deep).unwrap_err().code, ErrorCode::InvalidParameters);
}

#[test]
fn publishes_are_checked() {
    let good = r#"{"room":"r","event":"e","data":[1, 2],"message_id":"m","key":"k","timestamp":5}"#;
    assert_eq!(Publish::parse(good).unwrap().data.get(), "[1, 2]");
    for bad in [
        r#"{"room":"r","event":"e"}"#,
        r#"{"room":"r","data":1}"#,
        r#"{"room":"r","event":"","data":1}"#,
        r#"{"room":"r","event":"e","data":1,"message_id":""}"#,
        r#"{"room":"r","event":"e","data":1,"timestamp":-1}"#,
        r#"{"room":"r!","event":"e","data":1}"#,
    ] {
        assert_eq!(Publish::parse(bad).unwrap_err().code, ErrorCode::InvalidParameters, "{bad}");
    }
}
