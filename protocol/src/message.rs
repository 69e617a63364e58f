//! What clients say, and the messages of a room.
//!
//! Everything a client sends is bounded and checked here, once. MessagePack is turned into JSON text at the door,
//! so that one parser and one set of rules serve both encodings.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{ErrorCode, Failure};
use crate::market::{Backfill, BackfillFields};
use crate::position::Position;
use crate::room::RoomName;
use crate::trace::TraceContext;

/// Longest `request_id`, `event`, `key` and `message_id` in bytes.
pub const MAX_ID_LEN: usize = 128;
/// Longest `trace_id` in bytes.
pub const MAX_TRACE_LEN: usize = 256;
/// Most names in a `fields` option.
pub const MAX_FIELDS: usize = 64;
/// Most messages that `history` may ask for.
pub const MAX_HISTORY: usize = 10_000;
/// Deepest nesting of a message: what passes here can be turned into any encoding, and be parsed by any client.
pub const MAX_DEPTH: usize = 64;
/// Highest `max_rate`, in messages per second; above it a limit has no meaning.
pub const MAX_RATE: f64 = 1_000.0;

/// A message of a room, as its log keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Place in the room's log; the first message has 1.
    pub seq: u64,
    /// UTC milliseconds: the publisher's time, or the accepting node's where it gave none.
    pub timestamp: u64,
    /// UTC milliseconds by the accepting node's clock; 0 where that is not known. Clients are not told.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub accepted_at: u64,
    /// What happened, such as `quote`; 1 to 128 bytes.
    pub event: Arc<str>,
    /// With `event`, what a newer message replaces for `latest` subscribers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// Any JSON value, byte for byte as it was published.
    pub data: Box<RawValue>,
    /// Of which trace it is a part; none for all but the few that are sampled.
    #[serde(skip)]
    pub trace: Option<Box<TraceContext>>,
}

fn is_unknown(time: &u64) -> bool {
    *time == 0
}

/// A message on its way into a room's log.
#[derive(Debug, Clone, Deserialize)]
pub struct Publish {
    /// Where it goes.
    pub room: RoomName,
    /// See [`Message::event`].
    pub event: Arc<str>,
    /// See [`Message::data`].
    pub data: Box<RawValue>,
    /// Makes the publish idempotent within the class's window; 1 to 128 bytes.
    #[serde(default)]
    pub message_id: Option<Box<str>>,
    /// See [`Message::key`].
    #[serde(default)]
    pub key: Option<Arc<str>>,
    /// UTC milliseconds.
    #[serde(default)]
    pub timestamp: Option<u64>,
    /// See [`Message::trace`]. It comes with the request, not from the message's text.
    #[serde(skip)]
    pub trace: Option<Box<TraceContext>>,
}

impl Publish {
    /// Reads and checks one publish from JSON text.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameters`] with the field that is wrong.
    pub fn parse(json: &str) -> Result<Self, Failure> {
        check_depth(json).map_err(Failure::parameters)?;
        let publish: Self = serde_json::from_str(json).map_err(parameters)?;
        check_id("event", Some(&publish.event))?;
        check_id("message_id", publish.message_id.as_deref())?;
        check_id("key", publish.key.as_deref())?;
        Ok(publish)
    }
}

/// Messages of a room's log, and where it stood when they were read.
#[derive(Debug, Clone)]
pub struct History {
    /// The newest message of the room at that moment.
    pub position: Position,
    /// In order; the last one is at `position`, unless a limit cut them.
    pub messages: Vec<Arc<Message>>,
    /// Nothing between what was asked for and `position` is missing.
    pub complete: bool,
    /// Where the present epoch began: messages up to this sequence number were kept from the epoch before.
    pub began_at: u64,
}

impl History {
    /// Without the messages that a reader at this position has already, also where its epoch has ended: up to
    /// `began_at` the numbers of both epochs name the same messages.
    #[must_use]
    pub fn unseen_by(mut self, reader: Option<&Position>) -> Self {
        if let Some(reader) = reader {
            let same = reader.epoch == self.position.epoch;
            let seen = if same { reader.seq } else { reader.seq.min(self.began_at) };
            self.messages.retain(|message| message.seq > seen);
        }
        self
    }

    /// The position before the first message.
    #[must_use]
    pub fn start(&self) -> Position {
        let seq = self.messages.first().map_or(self.position.seq, |first| first.seq - 1);
        Position { epoch: self.position.epoch.clone(), seq }
    }
}

/// Which part of a room's log is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// None of it, only the position.
    Nothing,
    /// The newest so many.
    Last(usize),
    /// Everything after this position.
    After(Position),
    /// At most so many after this sequence number, in the log's present life.
    Since {
        /// Sequence number before the first that is wanted.
        seq: u64,
        /// Most messages, oldest first.
        limit: usize,
    },
}

/// How a subscriber is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Every message, in order.
    #[default]
    All,
    /// The newest value per `(room, event, key)`.
    Latest,
}

/// Options of `subscribe`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    /// The room to follow.
    pub room: RoomName,
    /// What to send first.
    pub replay: Replay,
    /// In order, or conflated.
    pub delivery: Delivery,
    /// Milliseconds between two messages of one `(room, event, key)`; 0 for no limit.
    pub min_interval_ms: u64,
    /// Keys of `data` that are sent; all of them without it.
    pub fields: Option<Fields>,
    /// What of the time-series store is wanted before the room's log.
    pub backfill: Option<Backfill>,
}

/// A set of top-level keys of `data`, sorted. Cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fields(Arc<[Box<str>]>);

impl Fields {
    /// Takes names in any order.
    #[must_use]
    pub fn new(mut names: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    /// Whether the key is sent.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|have| (**have).cmp(name)).is_ok()
    }
}

/// A client's message.
#[derive(Debug)]
pub struct ClientMessage<'a> {
    /// Echoed in the answer; empty for `ping`.
    pub request_id: Cow<'a, str>,
    /// Echoed in the answer.
    pub trace_id: Option<Cow<'a, str>>,
    /// What is wanted.
    pub body: Body<'a>,
}

/// What a client's message wants.
#[derive(Debug)]
pub enum Body<'a> {
    /// `request`: the action, and its payload as JSON text.
    Request {
        /// Name of the action.
        action: Cow<'a, str>,
        /// JSON text; `{}` where the client sent none.
        payload: &'a str,
    },
    /// `subscribe`.
    Subscribe(Subscribe),
    /// `unsubscribe`.
    Unsubscribe(RoomName),
    /// `ping`, with the number to be echoed.
    Ping {
        /// JSON text of a number, or `null`.
        timestamp: &'a str,
    },
}

/// A message that cannot be served, with the id to answer under where it could be made out.
#[derive(Debug)]
pub struct Rejected {
    /// The client's `request_id`.
    pub request_id: Option<String>,
    /// The client's `trace_id`.
    pub trace_id: Option<String>,
    /// What is wrong.
    pub failure: Failure,
}

/// serde borrows into a `Cow` field, but not into an `Option<Cow>`; this makes it borrow there too.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    request_id: Option<Text<'a>>,
    #[serde(borrow)]
    action: Option<Text<'a>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    trace_id: Option<Text<'a>>,
}

/// Only the id, for answering a message whose other fields are of the wrong type.
#[derive(Deserialize)]
struct IdOnly {
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct SubscribeFields {
    room: RoomName,
    recover: Option<Position>,
    history: Option<u64>,
    delivery: Option<Delivery>,
    max_rate: Option<f64>,
    fields: Option<Vec<Box<str>>>,
    backfill: Option<BackfillFields>,
}

#[derive(Deserialize)]
struct RoomOnly {
    room: RoomName,
}

impl<'a> ClientMessage<'a> {
    /// Reads and checks one message from JSON text.
    ///
    /// # Errors
    /// With the error code that the contract gives for what is wrong.
    pub fn parse(text: &'a str) -> Result<Self, Rejected> {
        let mut envelope = Self::envelope(text)?;
        let kind = envelope.kind.take();
        Self::checked(kind.as_ref().map(|kind| &*kind.0), text, envelope, true)
    }

    fn envelope(text: &'a str) -> Result<Envelope<'a>, Rejected> {
        let envelope: Envelope<'a> = serde_json::from_str(text).map_err(|error| {
            let request_id = serde_json::from_str::<IdOnly>(text).ok().and_then(|only| only.request_id);
            let request_id = request_id.filter(|id| (1..=MAX_ID_LEN).contains(&id.len()));
            Rejected { request_id, trace_id: None, failure: malformed(error.to_string()) }
        })?;
        check_depth(text).map_err(|error| Rejected {
            request_id: None,
            trace_id: None,
            failure: malformed(error),
        })?;
        Ok(envelope)
    }

    /// The same for a Socket.IO event and its argument; `request_id` may be missing, and comes out empty.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn parse_event(name: &str, argument: &'a str) -> Result<Self, Rejected> {
        let argument = if argument == "null" { "{}" } else { argument };
        Self::checked(Some(name), argument, Self::envelope(argument)?, false)
    }

    /// Whether it is a request to be sent its payload.
    #[must_use]
    pub fn is_echo(&self) -> bool {
        matches!(&self.body, Body::Request { action, .. } if action == "echo")
    }

    fn checked(
        kind: Option<&str>,
        text: &'a str,
        envelope: Envelope<'a>,
        needs_id: bool,
    ) -> Result<Self, Rejected> {
        let Envelope { request_id, action, payload, timestamp, trace_id, .. } = envelope;
        let trace_id = trace_id.map(|id| id.0).filter(|id| id.len() <= MAX_TRACE_LEN);
        let given = request_id.is_some();
        let request_id = request_id.map(|id| id.0).filter(|id| (1..=MAX_ID_LEN).contains(&id.len()));
        let body = match kind {
            Some("request") => request(action, payload),
            Some("subscribe") => Subscribe::parse(text).map(Body::Subscribe),
            Some("unsubscribe") => serde_json::from_str::<RoomOnly>(text)
                .map(|only| Body::Unsubscribe(only.room))
                .map_err(parameters),
            Some("ping") => ping(timestamp),
            Some(other) => {
                let other: String = other.chars().take(32).collect();
                Err(malformed(format!("unknown type `{other}`: request, subscribe, unsubscribe or ping")))
            }
            None => Err(malformed("type is missing")),
        };
        match (body, request_id) {
            (Ok(body @ Body::Ping { .. }), _) => Ok(Self { request_id: Cow::Borrowed(""), trace_id, body }),
            (Ok(body), Some(request_id)) => Ok(Self { request_id, trace_id, body }),
            (Ok(body), None) if !needs_id && !given => {
                Ok(Self { request_id: Cow::Borrowed(""), trace_id, body })
            }
            (body, request_id) => {
                let missing = if given { "request_id has 1 to 128 bytes" } else { "request_id is missing" };
                Err(Rejected {
                    request_id: request_id.map(Cow::into_owned),
                    trace_id: trace_id.map(Cow::into_owned),
                    failure: body.err().unwrap_or_else(|| malformed(missing)),
                })
            }
        }
    }
}

fn malformed(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidMessageFormat, message)
}

fn request<'a>(action: Option<Text<'a>>, payload: Option<&'a RawValue>) -> Result<Body<'a>, Failure> {
    let action = action.ok_or_else(|| malformed("action is missing"))?.0;
    Ok(Body::Request { action, payload: payload.map_or("{}", RawValue::get) })
}

fn ping(timestamp: Option<&RawValue>) -> Result<Body<'_>, Failure> {
    let timestamp = timestamp.map_or("null", RawValue::get);
    match serde_json::from_str::<Option<f64>>(timestamp) {
        Ok(_) => Ok(Body::Ping { timestamp }),
        Err(_) => Err(Failure::parameters("timestamp is not a number")),
    }
}

impl Subscribe {
    /// Reads and checks the options from the JSON text of the whole message.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameters`] with the option that is wrong.
    pub fn parse(json: &str) -> Result<Self, Failure> {
        let raw: SubscribeFields = serde_json::from_str(json).map_err(parameters)?;
        let delivery = raw.delivery.unwrap_or_default();
        let min_interval_ms = match raw.max_rate {
            None => 0,
            Some(_) if delivery == Delivery::All => {
                return Err(Failure::parameters("max_rate needs delivery `latest`"));
            }
            Some(rate) if rate > 0.0 && rate <= MAX_RATE => (1_000.0 / rate).ceil() as u64,
            Some(rate) => {
                return Err(Failure::parameters(format!(
                    "max_rate is {rate}; allowed is above 0 and at most {MAX_RATE}"
                )));
            }
        };
        let replay = match (raw.recover, raw.history) {
            // Who knows a position wants what came after it, however much history a newcomer would get.
            (Some(position), _) => Replay::After(position),
            (None, Some(count)) if count > MAX_HISTORY as u64 => {
                return Err(Failure::parameters(format!("history is {count}; at most {MAX_HISTORY}")));
            }
            (None, Some(count)) => Replay::Last(count as usize),
            (None, None) => Replay::Nothing,
        };
        let fields = match raw.fields {
            Some(names) if names.is_empty() || names.len() > MAX_FIELDS => {
                return Err(Failure::parameters(format!("fields has 1 to {MAX_FIELDS} names")));
            }
            names => names.map(Fields::new),
        };
        let backfill = raw.backfill.map(|fields| fields.checked()).transpose()?;
        Ok(Self { room: raw.room, replay, delivery, min_interval_ms, fields, backfill })
    }
}

/// Turns a MessagePack message into JSON text.
///
/// # Errors
/// When it is not one complete MessagePack value, nests deeper than 128, or holds what JSON has no word for:
/// binary and extension values, map keys that are not strings.
pub fn json_from_msgpack(bytes: &[u8]) -> Result<String, Failure> {
    let mut rest = bytes;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(128);
    let value = serde_json::Value::deserialize(&mut reader).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("bytes after the end of the message"));
    }
    serde_json::to_string(&value).map_err(|error| malformed(error.to_string()))
}

/// Turns JSON text of our own making into MessagePack.
#[must_use]
pub fn msgpack_from_json(json: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    rmp_serde::to_vec_named(&value).unwrap_or_default()
}

/// Raw values are skipped over, not parsed: their depth is checked here.
fn check_depth(json: &str) -> Result<(), String> {
    let opening = |byte: &u8| matches!(byte, b'[' | b'{');
    if json.as_bytes().iter().filter(|byte| opening(byte)).count() <= MAX_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
    }
    Ok(())
}

fn check_id(name: &str, value: Option<&str>) -> Result<(), Failure> {
    match value {
        Some(text) if !(1..=MAX_ID_LEN).contains(&text.len()) => {
            Err(Failure::parameters(format!("{name} has 1 to {MAX_ID_LEN} bytes")))
        }
        _ => Ok(()),
    }
}

/// A serde error as [`ErrorCode::InvalidParameters`]: its text names the field and what was expected.
#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn parameters(error: serde_json::Error) -> Failure {
    Failure::parameters(error.to_string())
}
