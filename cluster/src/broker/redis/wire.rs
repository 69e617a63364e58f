//! How messages are written in Redis: JSON in a stream's entry; on a channel, after a line with epoch and first sequence
//! number, each as `<length in bytes>:<the same JSON>`.
//!
//! Whatever is read here may come from anybody who can write to Redis: it is checked like a client's message.

use std::sync::Arc;

use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::Epoch;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::trace::TraceContext;

/// A message without its place in the log.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Body<'a> {
    #[serde(rename = "ts")]
    pub(super) timestamp: u64,
    /// When it was accepted, where that is not `timestamp`.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    pub(super) accepted_at: Option<u64>,
    pub(super) event: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Arc<str>>,
    #[serde(borrow)]
    pub(super) data: &'a RawValue,
    /// A `traceparent`, of those that are sampled.
    #[serde(rename = "tp", default, borrow, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<&'a str>,
}

fn message(seq: u64, json: &[u8]) -> Result<Message, String> {
    // The parser's own text quotes what it could not read.
    let problem =
        |error: serde_json::Error| format!("{:?} error at column {}", error.classify(), error.column());
    let body: Body<'_> = serde_json::from_slice(json).map_err(problem)?;
    Ok(Message {
        seq,
        timestamp: body.timestamp,
        accepted_at: body.accepted_at.unwrap_or(body.timestamp),
        event: body.event,
        key: body.key,
        data: body.data.to_owned(),
        trace: body.trace.and_then(TraceContext::parse).map(Box::new),
    })
}

/// What came on a room's channel.
pub(super) fn decode(channel: &str, payload: &[u8]) -> Result<(RoomName, Epoch, Vec<Message>), String> {
    let room =
        channel.strip_prefix("tm:{").and_then(|rest| rest.strip_suffix('}')).ok_or("not a room's channel")?;
    let room = RoomName::new(room).map_err(|error| error.to_string())?;
    let head = payload.iter().take(96).position(|byte| *byte == b'\n').ok_or("no head")?;
    let (head, mut rest) = (&payload[..head], &payload[head + 1..]);
    let head = std::str::from_utf8(head).map_err(|error| error.to_string())?;
    let (epoch, first) = head.split_once(' ').ok_or("no sequence number")?;
    let mut seq: u64 = first.parse().map_err(|_| "no sequence number")?;
    if epoch.is_empty() || epoch.len() > Epoch::MAX_LEN || seq == 0 {
        return Err("no epoch or sequence number".into());
    }
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let colon = rest.iter().take(11).position(|byte| *byte == b':').ok_or("no length")?;
        let length: usize =
            std::str::from_utf8(&rest[..colon]).ok().and_then(|text| text.parse().ok()).ok_or("no length")?;
        let json = rest.get(colon + 1..colon + 1 + length).ok_or("cut off")?;
        messages.push(message(seq, json)?);
        rest = &rest[colon + 1 + length..];
        seq = seq.checked_add(1).ok_or("the last sequence number")?;
    }
    Ok((room, Epoch::new(epoch), messages))
}

/// An entry of a stream: when it was appended, in UTC milliseconds by Redis' clock, and its message.
pub(super) fn entry(entry: &Value) -> Result<(u64, Message), String> {
    let odd = || "not an entry of a log".to_owned();
    let Value::Array(parts) = entry else { return Err(odd()) };
    let [Value::BulkString(id), Value::Array(fields)] = &parts[..] else { return Err(odd()) };
    let [Value::BulkString(t), Value::BulkString(appended), Value::BulkString(m), Value::BulkString(json)] =
        &fields[..]
    else {
        return Err(odd());
    };
    if t != b"t" || m != b"m" {
        return Err(odd());
    }
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<u64>().ok());
    let seq = id.strip_suffix(b"-0").and_then(number).ok_or_else(odd)?;
    Ok((number(appended).ok_or_else(odd)?, message(seq, json)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_with_its_message_and_is_no_reason_to_refuse_one() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let data = RawValue::from_string("1".into()).unwrap();
        let body = |trace| Body {
            timestamp: 1,
            accepted_at: None,
            event: "e".into(),
            key: None,
            data: &data,
            trace,
        };
        let json = serde_json::to_vec(&body(Some(parent))).unwrap();
        let read = message(1, &json).unwrap();
        assert_eq!(read.trace.map(|trace| trace.to_string()).as_deref(), Some(parent));
        let untraced = serde_json::to_string(&body(None)).unwrap();
        assert_eq!(untraced, r#"{"ts":1,"event":"e","data":1}"#, "it costs others nothing");
        assert!(message(1, br#"{"ts":1,"event":"e","data":1,"tp":"other"}"#).unwrap().trace.is_none());
    }

    #[test]
    fn what_is_not_ours_is_told() {
        let (_, epoch, messages) =
            decode("tm:{r}", b"e1 41\n32:{\"ts\":1,\"event\":\"e\",\"data\":[ 1]}35:{\"ts\":2,\"event\":\"e\",\"data\":[\"\xC3\xBC\"] }").unwrap();
        assert_eq!((epoch.as_str(), messages[0].seq, messages[1].seq), ("e1", 41, 42));
        assert_eq!((messages[0].data.get(), messages[1].timestamp), ("[ 1]", 2));
        for (channel, payload) in [
            ("tm:subs", &b"e 1\n"[..]),
            ("tm:{a b}", b"e 1\n"),
            ("tm:{r}", b""),
            ("tm:{r}", b"hello"),
            ("tm:{r}", b"e x\n"),
            ("tm:{r}", b"e 0\n"),
            ("tm:{r}", b"\xff 1\n"),
            ("tm:{r}", b"e 1\n9999999:{}"),
            ("tm:{r}", b"e 1\n-3:{}"),
            ("tm:{r}", b"e 1\n18446744073709551615:{}"),
            ("tm:{r}", b"e 1\n2:{}"),
            ("tm:{r}", b"e 18446744073709551615\n32:{\"ts\":1,\"event\":\"e\",\"data\":[ 1]}"),
        ] {
            assert!(decode(channel, payload).is_err(), "{channel} {payload:?}");
        }
    }
}
