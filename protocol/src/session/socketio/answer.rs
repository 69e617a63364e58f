//! Answers of a Socket.IO session: events, and the acknowledgements that carry the same.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

use crate::encode::{self, Stamp};
use crate::error::Failure;
use crate::frame::{self, Opcode};
use crate::link::Change;
use crate::outbox::Kind as Sort;
use crate::room::RoomName;
use crate::socketio::packet::{self, Kind};

use super::super::Session;
use super::{Answer, Verb};

impl Session {
    /// The message that is being handled is about a market stream.
    pub(in crate::session) fn answers_stream(&self) -> bool {
        self.answer.verb.is_stream()
    }

    /// Answers the event that is being handled.
    pub(in crate::session) fn answer(&mut self, stamp: Stamp<'_>, data: &str, change: Option<Change>) {
        let now = stamp.server_time;
        let (event, body) = match self.answer.verb {
            Verb::Other | Verb::Request => ("response", text(encode::response_raw(stamp, data))),
            Verb::Subscribe => ("subscribed", with_status(data, "subscribed")),
            Verb::Unsubscribe => ("unsubscribed", data.to_owned()),
            Verb::SubscribeStream => ("stream_subscribed", stream_answer(data, Some("subscribed"), now)),
            Verb::UpdateStream => ("stream_filter_updated", stream_answer(data, None, now)),
            Verb::UnsubscribeStream => {
                ("stream_unsubscribed", stream_answer(data, Some("unsubscribed"), now))
            }
        };
        self.emit(event, &body, change);
    }

    /// Tells the client what is wrong, in answer to its event if there is one.
    pub(in crate::session) fn answer_error(
        &mut self,
        stamp: Stamp<'_>,
        failure: &Failure,
        change: Option<Change>,
    ) {
        let verb = self.answer.verb;
        if verb == Verb::Request {
            let body = text(encode::error(stamp, failure));
            return self.emit("response", &body, change);
        }
        let mut body = json!({
            "error_code": failure.code, "message": failure.message, "timestamp": stamp.server_time,
        });
        if let Some(details) = &failure.details {
            body["details"] = details.clone();
        }
        if let Some(request_id) = stamp.request_id {
            body["request_id"] = request_id.into();
        }
        let event = if verb.is_stream() { "stream_error" } else { "error" };
        self.emit(event, &body.to_string(), change);
    }

    pub(in crate::session) fn answer_pong(&mut self, pong: &[u8]) {
        self.emit("pong", &String::from_utf8_lossy(pong), None);
    }

    /// Sends an event with one argument, JSON text, and the acknowledgement with the same where it is wanted.
    fn emit(&mut self, event: &str, body: &str, change: Option<Change>) {
        let Answer { ack, attachments, .. } = &self.answer;
        let mut out = BytesMut::with_capacity(2 * body.len() + 64);
        put_packet(&mut out, Kind::Event, "/", None, &format!(r#"["{event}",{body}]"#), attachments);
        if ack.is_some() {
            put_packet(&mut out, Kind::Ack, "/", *ack, &format!("[{body}]"), attachments);
        }
        self.push(out.freeze(), Sort::Answer, None, change);
    }
}

pub(super) fn put_packet(
    out: &mut BytesMut,
    kind: Kind,
    namespace: &str,
    id: Option<u64>,
    data: &str,
    attachments: &[Bytes],
) {
    let kind = match kind {
        Kind::Event if !attachments.is_empty() => Kind::BinaryEvent,
        Kind::Ack if !attachments.is_empty() => Kind::BinaryAck,
        kind => kind,
    };
    let text = packet::message(kind, attachments.len(), namespace, id, data);
    frame::put_frame(out, Opcode::Text, text.as_bytes());
    for attachment in attachments {
        frame::put_frame(out, Opcode::Binary, attachment);
    }
}

/// JSON of our own making.
fn text(json: Vec<u8>) -> String {
    String::from_utf8(json).unwrap_or_default()
}

/// An object's text with a status put first.
fn with_status(data: &str, status: &str) -> String {
    match data.strip_prefix('{') {
        Some("}") => format!(r#"{{"status":"{status}"}}"#),
        Some(rest) => format!(r#"{{"status":"{status}",{rest}"#),
        None => data.to_owned(),
    }
}

/// What is told of a stream, from what is told of its room.
fn stream_answer(data: &str, status: Option<&str>, now: u64) -> String {
    #[derive(Deserialize)]
    struct Told {
        room: RoomName,
        seq: Option<u64>,
        fields: Option<serde_json::Value>,
    }
    let Ok(Told { room, seq, fields }) = serde_json::from_str(data) else { return data.to_owned() };
    let mut answer = json!({ "symbol": encode::stream_symbol(&room), "timestamp": now });
    if let Some(status) = status {
        answer["status"] = status.into();
    } else {
        answer["fields"] = fields.unwrap_or_default();
    }
    if let Some(seq) = seq {
        answer["seq"] = seq.into();
    }
    answer.to_string()
}
