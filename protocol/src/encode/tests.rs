use serde_json::{Value, json};

use super::*;

fn message(data: &str) -> Message {
    let data = RawValue::from_string(data.to_owned()).unwrap();
    Message { seq: 7, timestamp: 5, accepted_at: 0, event: "e\"".into(), key: None, data, trace: None }
}

fn room() -> RoomName {
    RoomName::new("market_1").unwrap()
}

#[test]
fn a_notification_is_valid_and_keeps_its_data_to_the_byte() {
    let bytes = notification(&room(), &message(r#"{"p": 1.1200}"#), 9, None);
    assert!(std::str::from_utf8(&bytes).unwrap().contains(r#"{"p": 1.1200}"#));
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    let expected = json!({"type":"notification","room":"market_1","event":"e\"","seq":7,"timestamp":5,
        "server_time":9,"data":{"p":1.12}});
    assert_eq!(value, expected);
}

#[test]
fn fields_keep_only_what_was_asked_for() {
    let fields = Fields::new(vec!["b".into(), "zz".into(), "a\"".into()]);
    let data = |text: &str| {
        let bytes = notification(&room(), &message(text), 9, Some(&fields));
        serde_json::from_slice::<Value>(&bytes).unwrap()["data"].clone()
    };
    assert_eq!(data(r#"{"a":1,"b":{"c":2},"a\"":3}"#), json!({"b":{"c":2},"a\"":3}));
    assert_eq!(data("{}"), json!({}));
    assert_eq!(data("[1,2]"), json!([1, 2]));
}

#[test]
fn both_encodings_say_the_same() {
    let text = notification(&room(), &message(r#"{"p":1.5,"n":null,"a":[1,-2]}"#), 9, None);
    let stamp = Stamp { server_time: 3, request_id: Some("r\n"), trace_id: Some("t") };
    for json in [text, response_raw(stamp, r#"{"a":1}"#), error(stamp, &Failure::parameters("x"))] {
        let packed = frame_json(&json, Encoding::Msgpack);
        assert_eq!(packed[0], 0x82);
        let from_packed: Value = rmp_serde::from_slice(payload_of(&packed)).unwrap();
        assert_eq!(from_packed, serde_json::from_slice::<Value>(&json).unwrap());
    }
}

#[test]
fn conflated_is_added_in_both_encodings() {
    let text = notification(&room(), &message("1"), 9, None);
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let frame = with_conflated(&frame_json(&text, encoding), encoding, 300);
        let value: Value = match encoding {
            Encoding::Json => serde_json::from_slice(payload_of(&frame)).unwrap(),
            _ => rmp_serde::from_slice(payload_of(&frame)).unwrap(),
        };
        assert_eq!((&value["conflated"], &value["seq"]), (&json!(300), &json!(7)));
    }
}

#[test]
fn arrays_hold_their_notifications() {
    let text = notification(&room(), &message("1"), 9, None);
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let frame = frame_json(&text, encoding);
        let array = array_frame([&frame, &frame].into_iter(), encoding);
        let value: Value = match encoding {
            Encoding::Json => serde_json::from_slice(payload_of(&array)).unwrap(),
            _ => rmp_serde::from_slice(payload_of(&array)).unwrap(),
        };
        assert_eq!(value[1]["seq"], 7);
    }
}

#[test]
fn raw_and_typed_responses_are_alike() {
    let stamp = Stamp { server_time: 3, request_id: Some("r\"1"), trace_id: Some("t") };
    let raw: Value = serde_json::from_slice(&response_raw(stamp, r#"{"a":1}"#)).unwrap();
    let typed: Value = serde_json::from_slice(&response(stamp, &json!({"a":1}))).unwrap();
    assert_eq!(raw, typed);
}
