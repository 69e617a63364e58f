//! Notifications as the packets of Socket.IO events.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{filter, json, put_number};
use crate::batch::Prepared;
use crate::frame::{self, Opcode};
use crate::message::{Fields, Message};
use crate::room::RoomName;

/// The same as a Socket.IO event: the data's keys and the room's are its own.
#[must_use]
pub fn socketio_notice(room: &str, event: &str, server_time: u64, data: &impl Serialize) -> Vec<u8> {
    let mut value = serde_json::to_value(data).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        if !room.is_empty() {
            object.insert("room".into(), room.into());
        }
        object.insert("timestamp".into(), server_time.into());
    }
    let mut out = b"42".to_vec();
    out.extend_from_slice(&json(&(event, value)));
    out
}

/// What is no message of a log, in the shape of one: the data stands beside the room. Without a room `room` is empty.
#[must_use]
pub fn socketio_message(room: &str, event: &str, seq: u64, timestamp: u64, data: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a, T> {
        room: &'a str,
        seq: u64,
        timestamp: u64,
        data: &'a T,
    }
    let mut out = b"42".to_vec();
    out.extend_from_slice(&json(&(event, Body { room, seq, timestamp, data })));
    out
}

/// The event behind a room's messages whose one argument, a string, is what Socket.IO clients of version 4.6 and later
/// come back with as the `offset` that they reached. It is an event of its own because a second argument of the message's
/// event would be one more than the handlers of other clients take.
pub const OFFSET_EVENT: &str = "_offset";

/// Messages of a room as one event `batch`, whose argument is an array of what would be single events, for connections that
/// asked for it; a second frame has the offset of the last.
#[must_use]
pub fn socketio_batch(room: &RoomName, messages: &[Arc<Prepared>]) -> Bytes {
    let size = messages.iter().map(|message| message.message().data.get().len() + 150).sum::<usize>();
    let mut event = Vec::with_capacity(size);
    event.extend_from_slice(br#"42["batch",["#);
    for (n, message) in messages.iter().enumerate() {
        let message = message.message();
        if n > 0 {
            event.push(b',');
        }
        event.extend_from_slice(br#"{"event":"#);
        event.extend_from_slice(&json(&message.event));
        event.extend_from_slice(br#","room":""#);
        event.extend_from_slice(room.as_str().as_bytes());
        put_body(&mut event, message, &message.data);
    }
    event.extend_from_slice(b"]]");
    let last = messages.last().map_or(0, |last| last.message().seq);
    let mut out = BytesMut::with_capacity(event.len() + room.as_str().len() + 60);
    frame::put_frame(&mut out, Opcode::Text, &event);
    frame::put_frame(&mut out, Opcode::Text, &offset(room, last));
    out.freeze()
}

/// The packet that tells how far the client has come in a room.
pub(super) fn offset(room: &RoomName, seq: u64) -> Vec<u8> {
    format!(r#"42["{OFFSET_EVENT}","{seq}:{room}"]"#).into_bytes()
}

/// A room's message as a Socket.IO event's packet.
pub(super) fn event(room: &RoomName, message: &Message, fields: Option<&Fields>, stream: bool) -> Vec<u8> {
    let filtered = fields.and_then(|fields| filter(&message.data, fields));
    let data: &RawValue = filtered.as_deref().unwrap_or(&message.data);
    let mut out = Vec::with_capacity(data.get().len() + message.event.len() + room.as_str().len() + 80);
    out.extend_from_slice(b"42[");
    if stream {
        out.extend_from_slice(br#""stream_data",{"symbol":""#);
        out.extend_from_slice(stream_symbol(room).as_bytes());
    } else {
        out.extend_from_slice(&json(&message.event));
        out.extend_from_slice(br#",{"room":""#);
        out.extend_from_slice(room.as_str().as_bytes());
    }
    put_body(&mut out, message, data);
    out.extend_from_slice(b"]");
    out
}

/// What follows the name of a room or symbol, to the end of the object.
fn put_body(out: &mut Vec<u8>, message: &Message, data: &RawValue) {
    out.extend_from_slice(br#"","seq":"#);
    put_number(out, message.seq);
    out.extend_from_slice(br#","timestamp":"#);
    put_number(out, message.timestamp);
    // Who came or went is told beside the room.
    if message.event.starts_with("room_member_")
        && let Ok(Member { sid, user_id }) = serde_json::from_str(message.data.get())
    {
        out.extend_from_slice(br#","sid":"#);
        out.extend_from_slice(&json(&sid));
        out.extend_from_slice(br#","user_id":"#);
        out.extend_from_slice(&json(&user_id));
    }
    out.extend_from_slice(br#","data":"#);
    out.extend_from_slice(data.get().as_bytes());
    out.push(b'}');
}

#[derive(serde::Deserialize)]
struct Member {
    sid: String,
    user_id: String,
}

/// What a market stream's room is called, before the symbol.
pub const STREAM_PREFIX: &str = "stream_";

/// The symbol of a market stream's room.
#[must_use]
pub fn stream_symbol(room: &RoomName) -> &str {
    room.as_str().strip_prefix(STREAM_PREFIX).unwrap_or(room.as_str())
}
