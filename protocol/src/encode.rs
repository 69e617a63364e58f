//! What servers say: every message as one complete WebSocket frame.
//!
//! JSON is written first, MessagePack is made from it: the two cannot drift apart. A notification is encoded once
//! per (encoding, field set) whatever the number of its subscribers; see [`crate::batch`]. `socketio` has the same as
//! Socket.IO's events.

mod socketio;
#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::close::CloseCode;
use crate::error::Failure;
use crate::frame::{self, Opcode};
use crate::message::{Fields, Message, msgpack_from_json};
use crate::room::RoomName;

pub use socketio::{
    OFFSET_EVENT, STREAM_PREFIX, socketio_batch, socketio_message, socketio_notice, stream_symbol,
};

/// The subprotocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Encoding {
    /// `tickmesh.json.v1`, and connections that offer no subprotocol: text frames.
    Json = 0,
    /// `tickmesh.msgpack.v1`: binary frames.
    Msgpack = 1,
    /// Socket.IO: text frames, each an Engine.IO message. A room's message is an event of its own name.
    SocketIo = 2,
    /// The same for subscriptions to market streams: a room's message is the event `stream_data`.
    SocketIoStream = 3,
}

impl Encoding {
    /// How many there are, for tables with one entry each.
    pub const COUNT: usize = 4;

    /// The encoding that a subprotocol names.
    #[must_use]
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        match name {
            "tickmesh.json.v1" => Some(Self::Json),
            "tickmesh.msgpack.v1" => Some(Self::Msgpack),
            _ => None,
        }
    }

    /// The subprotocol's name; Socket.IO has none.
    #[must_use]
    pub fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Json => Some("tickmesh.json.v1"),
            Self::Msgpack => Some("tickmesh.msgpack.v1"),
            Self::SocketIo | Self::SocketIoStream => None,
        }
    }

    /// A short label, for operators.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Msgpack => "msgpack",
            Self::SocketIo | Self::SocketIoStream => "socketio",
        }
    }

    fn opcode(self) -> Opcode {
        match self {
            Self::Json | Self::SocketIo | Self::SocketIoStream => Opcode::Text,
            Self::Msgpack => Opcode::Binary,
        }
    }
}

/// Frames JSON text in the given encoding. For Socket.IO it is an event's whole packet.
#[must_use]
pub fn frame_json(json: &[u8], encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json | Encoding::SocketIo | Encoding::SocketIoStream => framed(json, encoding),
        Encoding::Msgpack => framed(&msgpack_from_json(json), encoding),
    }
}

fn framed(payload: &[u8], encoding: Encoding) -> Bytes {
    let mut out = BytesMut::with_capacity(frame::header_len(payload.len()) + payload.len());
    frame::put_frame(&mut out, encoding.opcode(), payload);
    out.freeze()
}

/// The payload of a frame that this module made.
#[must_use]
pub fn payload_of(frame: &Bytes) -> &[u8] {
    match frame::decode_header(frame) {
        Ok(Some(header)) => &frame[header.header_len..],
        _ => &[],
    }
}

/// What every message of a server has in common.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// UTC milliseconds of the encoding.
    pub server_time: u64,
    /// The request's id; `None` for an error that answers nothing in particular.
    pub request_id: Option<&'a str>,
    /// The request's trace id.
    pub trace_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Response<'a, D: Serialize> {
    r#type: &'static str,
    request_id: Option<&'a str>,
    success: bool,
    data: D,
    timestamp: u64,
    server_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ErrorMessage<'a> {
    r#type: &'static str,
    request_id: Option<&'a str>,
    error_code: &'static str,
    error_message: &'a str,
    error_details: &'a serde_json::Value,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Notification<'a, D: Serialize> {
    r#type: &'static str,
    room: &'a str,
    event: &'a str,
    seq: u64,
    timestamp: u64,
    server_time: u64,
    data: D,
}

/// Types of ours with string keys: serialising them cannot fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A successful answer.
#[must_use]
pub fn response(stamp: Stamp<'_>, data: &impl Serialize) -> Vec<u8> {
    json(&Response {
        r#type: "response",
        request_id: stamp.request_id,
        success: true,
        data,
        timestamp: stamp.server_time,
        server_time: stamp.server_time,
        trace_id: stamp.trace_id,
    })
}

/// A successful answer whose data is JSON text already: it is copied, not parsed.
#[must_use]
pub fn response_raw(stamp: Stamp<'_>, data: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 160);
    out.extend_from_slice(br#"{"type":"response","request_id":"#);
    out.extend_from_slice(&json(&stamp.request_id));
    out.extend_from_slice(br#","success":true,"data":"#);
    out.extend_from_slice(data.as_bytes());
    out.extend_from_slice(br#","timestamp":"#);
    put_number(&mut out, stamp.server_time);
    out.extend_from_slice(br#","server_time":"#);
    put_number(&mut out, stamp.server_time);
    if let Some(trace_id) = stamp.trace_id {
        out.extend_from_slice(br#","trace_id":"#);
        out.extend_from_slice(&json(&trace_id));
    }
    out.push(b'}');
    out
}

/// An `error` message.
#[must_use]
pub fn error(stamp: Stamp<'_>, failure: &Failure) -> Vec<u8> {
    let none = serde_json::Value::Object(serde_json::Map::new());
    json(&ErrorMessage {
        r#type: "error",
        request_id: stamp.request_id,
        error_code: failure.code.as_str(),
        error_message: &failure.message,
        error_details: failure.details.as_ref().unwrap_or(&none),
        timestamp: stamp.server_time,
        trace_id: stamp.trace_id,
    })
}

/// A `pong`; the timestamp is JSON text, echoed as it came.
#[must_use]
pub fn pong(timestamp: &str, server_time: u64) -> Vec<u8> {
    format!(r#"{{"type":"pong","timestamp":{timestamp},"server_time":{server_time}}}"#).into_bytes()
}

/// A notification of the server's own, such as `connected` or `resync`.
#[must_use]
pub fn notice(room: &str, event: &str, seq: u64, server_time: u64, data: &impl Serialize) -> Vec<u8> {
    json(&Notification {
        r#type: "notification",
        room,
        event,
        seq,
        timestamp: server_time,
        server_time,
        data,
    })
}

/// Tells a client that its connection is about to be closed, and after how many milliseconds it should come back: each
/// client is told another time, so that not all come at once.
#[must_use]
pub fn going_away(encoding: Encoding, retry_after_ms: u64, server_time: u64) -> Vec<u8> {
    let data = serde_json::json!({ "retry_after_ms": retry_after_ms });
    match encoding {
        Encoding::Json | Encoding::Msgpack => notice("", "going_away", 0, server_time, &data),
        Encoding::SocketIo | Encoding::SocketIoStream => {
            socketio_notice("", "going_away", server_time, &data)
        }
    }
}

/// What a client that is not let in gets: the error, and the close frame.
#[must_use]
pub fn refusal(encoding: Encoding, failure: &Failure, code: CloseCode, server_time: u64) -> Bytes {
    let stamp = Stamp { server_time, request_id: None, trace_id: None };
    let mut out = BytesMut::from(&frame_json(&error(stamp, failure), encoding)[..]);
    frame::put_close(&mut out, code.code(), code.reason());
    out.freeze()
}

/// A room's message as a notification.
#[must_use]
pub fn notification(
    room: &RoomName,
    message: &Message,
    server_time: u64,
    fields: Option<&Fields>,
) -> Vec<u8> {
    let filtered = fields.and_then(|fields| filter(&message.data, fields));
    let data: &RawValue = filtered.as_deref().unwrap_or(&message.data);
    let mut out = Vec::with_capacity(data.get().len() + message.event.len() + room.as_str().len() + 120);
    // A room's name has no character that JSON escapes.
    out.extend_from_slice(br#"{"type":"notification","room":""#);
    out.extend_from_slice(room.as_str().as_bytes());
    out.extend_from_slice(br#"","event":"#);
    out.extend_from_slice(&json(&message.event));
    out.extend_from_slice(br#","seq":"#);
    put_number(&mut out, message.seq);
    out.extend_from_slice(br#","timestamp":"#);
    put_number(&mut out, message.timestamp);
    out.extend_from_slice(br#","server_time":"#);
    put_number(&mut out, server_time);
    out.extend_from_slice(br#","data":"#);
    out.extend_from_slice(data.get().as_bytes());
    out.push(b'}');
    out
}

/// A room's message as the frames that its subscribers get: for Socket.IO a second one follows, with its offset.
#[must_use]
pub fn frames(
    room: &RoomName,
    message: &Message,
    server_time: u64,
    fields: Option<&Fields>,
    encoding: Encoding,
) -> Bytes {
    let stream = match encoding {
        Encoding::Json | Encoding::Msgpack => {
            return frame_json(&notification(room, message, server_time, fields), encoding);
        }
        Encoding::SocketIo => false,
        Encoding::SocketIoStream => true,
    };
    let event = socketio::event(room, message, fields, stream);
    let offset = socketio::offset(room, message.seq);
    let mut out = BytesMut::with_capacity(event.len() + offset.len() + 14);
    frame::put_frame(&mut out, Opcode::Text, &event);
    frame::put_frame(&mut out, Opcode::Text, &offset);
    out.freeze()
}

/// The first of the frames that [`frames`] made for a message, and the others.
pub(crate) fn split_first(frames: &Bytes) -> (Bytes, Bytes) {
    let length = match frame::decode_header(frames) {
        Ok(Some(header)) => header.header_len + header.payload_len as usize,
        _ => frames.len(),
    };
    let length = length.min(frames.len());
    (frames.slice(..length), frames.slice(length..))
}

/// A copy of a notification's frames with `"conflated": count` added.
#[must_use]
pub fn with_conflated(frames: &Bytes, encoding: Encoding, count: u64) -> Bytes {
    let (frame, rest) = split_first(frames);
    let payload = payload_of(&frame);
    let mut out = Vec::with_capacity(payload.len() + 32);
    match (encoding, payload) {
        (Encoding::Json, [head @ .., b'}']) => {
            out.extend_from_slice(head);
            out.extend_from_slice(br#","conflated":"#);
            put_number(&mut out, count);
            out.push(b'}');
        }
        (Encoding::SocketIo | Encoding::SocketIoStream, [head @ .., b'}', b']']) => {
            out.extend_from_slice(head);
            out.extend_from_slice(br#","conflated":"#);
            put_number(&mut out, count);
            out.extend_from_slice(b"}]");
        }
        // A map of n < 15 pairs is one byte, 0x80 | n (MessagePack specification, "map format family").
        (Encoding::Msgpack, [first @ 0x80..=0x8E, rest @ ..]) => {
            out.push(first + 1);
            out.extend_from_slice(rest);
            out.extend_from_slice(&rmp_serde::to_vec("conflated").unwrap_or_default());
            out.extend_from_slice(&rmp_serde::to_vec(&count).unwrap_or_default());
        }
        _ => unreachable!("notifications are maps of seven pairs"),
    }
    let frame = framed(&out, encoding);
    if rest.is_empty() { frame } else { joined_frames([&frame, &rest].into_iter()) }
}

/// Several notifications as one frame that holds an array, for connections that asked for `batch=1`.
#[must_use]
pub fn array_frame<'a>(
    frames: impl ExactSizeIterator<Item = &'a Bytes> + Clone,
    encoding: Encoding,
) -> Bytes {
    let size = frames.clone().map(Bytes::len).sum::<usize>();
    let mut payload = Vec::with_capacity(size + 8);
    match encoding {
        // It has no arrays of notifications; see `socketio_batch`.
        Encoding::SocketIo | Encoding::SocketIoStream => return joined_frames(frames),
        Encoding::Json => {
            payload.push(b'[');
            for (n, frame) in frames.enumerate() {
                if n > 0 {
                    payload.push(b',');
                }
                payload.extend_from_slice(payload_of(frame));
            }
            payload.push(b']');
        }
        Encoding::Msgpack => {
            let _ = rmp::encode::write_array_len(&mut payload, frames.len() as u32);
            for frame in frames {
                payload.extend_from_slice(payload_of(frame));
            }
        }
    }
    framed(&payload, encoding)
}

/// The messages of a batch one after the other, for a single write: of Socket.IO's offsets the last is enough.
#[must_use]
pub fn joined_messages(frames: &[Bytes], encoding: Encoding) -> Bytes {
    match (encoding, frames) {
        (Encoding::SocketIo | Encoding::SocketIoStream, [first @ .., last]) => {
            let first: Vec<_> = first.iter().map(|frames| split_first(frames).0).collect();
            joined_frames(first.iter().chain([last]))
        }
        _ => joined_frames(frames.iter()),
    }
}

/// Several frames one after the other, for a single write.
#[must_use]
pub fn joined_frames<'a>(frames: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut out = BytesMut::with_capacity(frames.clone().map(Bytes::len).sum());
    for frame in frames {
        out.put_slice(frame);
    }
    out.freeze()
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, &number);
}

/// The object without the keys that were not asked for; `None` if `data` is no object.
fn filter(data: &RawValue, fields: &Fields) -> Option<Box<RawValue>> {
    struct Keep<'f>(&'f Fields);
    impl<'de> Visitor<'de> for Keep<'_> {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let mut out = String::from("{");
            while let Some(key) = map.next_key::<String>()? {
                if !self.0.contains(&key) {
                    map.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
                let value = map.next_value::<&RawValue>()?;
                if out.len() > 1 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(&key).map_err(serde::de::Error::custom)?);
                out.push(':');
                out.push_str(value.get());
            }
            out.push('}');
            Ok(out)
        }
    }
    let kept = serde_json::Deserializer::from_str(data.get()).deserialize_map(Keep(fields)).ok()?;
    RawValue::from_string(kept).ok()
}
