//! The Socket.IO face of a session: packets in, the protocol's events and acknowledgements out.
//!
//! An event becomes the same message that a native client would have sent, and is handled by the same code; its answer is
//! an event, and the acknowledgement where the client asked for one. Invariants: nothing but entering a namespace is
//! possible before it is entered; a packet that is none closes the connection (Socket.IO protocol, "Sample session").

mod answer;
mod entry;
mod suite;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::close::CloseCode;
use crate::encode::{Encoding, STREAM_PREFIX, Stamp};
use crate::error::{ErrorCode, Failure};
use crate::frame::{self, Opcode};
use crate::identity::Identity;
use crate::link::{Change, Done, SlotPosition};
use crate::message::{ClientMessage, Subscribe, parameters};
use crate::outbox::Kind as Sort;
use crate::room::RoomName;
use crate::socketio::engine::{self, Packet as EnginePacket};
use crate::socketio::packet::{Kind, Packet};

pub(super) use self::entry::Entry;
use self::suite::Later;
use super::recovery::Sent;
use super::{Now, Parked, Policy, Session, Wire};

/// How a Socket.IO client's connection began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// The Engine.IO session, a secret of the client: who knows it may speak for it.
    pub sid: String,
    /// The name under which the session may be come back to, another secret.
    pub pid: String,
    /// It began on long-polling, and may go over to a WebSocket.
    pub upgrades: bool,
}

/// Who answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Application {
    /// This protocol's rooms and requests.
    #[default]
    Tickmesh,
    /// The test server of the Socket.IO protocol document.
    SocketIoSuite,
    /// The test server of the Engine.IO protocol document, which echoes.
    EngineIoSuite,
}

/// Where a session stands as a Socket.IO session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaceSnapshot {
    /// The client has entered.
    pub entered: bool,
    /// The credential that came with the connection, until it has.
    pub credential: Option<String>,
    /// The name under which it may come back.
    pub pid: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Face {
    application: Application,
    credential: Option<String>,
    /// Namespaces that are entered.
    entered: Vec<Box<str>>,
    /// The client's credential is being checked.
    entering: bool,
    /// When a namespace is to be entered, in milliseconds on the monotonic clock.
    enter_by: Option<u64>,
    pid: Option<String>,
    sent: Sent,
    /// An event whose attachments are not all here.
    partial: Option<Box<Partial>>,
    /// It began on long-polling, and nothing was heard of it yet.
    mute: bool,
    /// When a ping was sent that is not answered.
    pinged: Option<u64>,
    later: Vec<Later>,
    parked: Option<Box<Parked>>,
}

#[derive(Debug)]
struct Partial {
    text: String,
    wanted: usize,
    attachments: Vec<Bytes>,
    bytes: usize,
    /// Number of the first of its messages.
    first: Option<Done>,
}

/// How a message is answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    verb: Verb,
    /// Id of the acknowledgement, if one is wanted.
    ack: Option<u64>,
    /// The event's attachments, which an echo sends back.
    attachments: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Verb {
    #[default]
    Other,
    Request,
    Subscribe,
    Unsubscribe,
    SubscribeStream,
    UpdateStream,
    UnsubscribeStream,
}

impl Verb {
    fn of(event: &str) -> Option<Self> {
        Some(match event {
            "ping" => Self::Other,
            "request" => Self::Request,
            "subscribe" => Self::Subscribe,
            "unsubscribe" => Self::Unsubscribe,
            "subscribe_market_stream" => Self::SubscribeStream,
            "stream_filter_update" => Self::UpdateStream,
            "unsubscribe_market_stream" => Self::UnsubscribeStream,
            _ => return None,
        })
    }

    fn is_stream(self) -> bool {
        matches!(self, Self::SubscribeStream | Self::UpdateStream | Self::UnsubscribeStream)
    }
}

#[derive(Deserialize)]
struct StreamPayload {
    symbol: String,
    #[serde(default)]
    fields: Option<Vec<Box<str>>>,
}

impl Face {
    fn new(now: Now, policy: &Policy, application: Application, credential: Option<String>) -> Self {
        let enters = application != Application::EngineIoSuite;
        Self {
            application,
            credential,
            entered: Vec::new(),
            entering: false,
            enter_by: enters.then(|| now.mono + policy.connect_timeout_ms),
            pid: None,
            sent: Sent::default(),
            partial: None,
            mute: false,
            pinged: None,
            later: Vec::new(),
            parked: None,
        }
    }

    pub(super) fn restored(now: Now, policy: &Policy, snapshot: FaceSnapshot) -> Self {
        let mut face = Self::new(now, policy, Application::Tickmesh, snapshot.credential);
        if snapshot.entered {
            face.entered.push("/".into());
            face.enter_by = None;
        }
        face.pid = snapshot.pid;
        face
    }

    pub(super) fn snapshot(&self) -> FaceSnapshot {
        FaceSnapshot {
            entered: self.has_entered("/"),
            credential: self.credential.clone(),
            pid: self.pid.clone(),
        }
    }

    fn has_entered(&self, namespace: &str) -> bool {
        self.entered.iter().any(|entered| **entered == *namespace)
    }

    fn knows(&self, namespace: &str) -> bool {
        namespace == "/" || (self.application == Application::SocketIoSuite && namespace == "/custom")
    }
}

impl Session {
    /// A new session of a Socket.IO client, which greets it with Engine.IO's `open`. Who it belongs to turns out when it
    /// enters the namespace, by the token in its packet or else by `credential`, which came with its connection.
    #[must_use]
    pub fn socketio(
        now: Now,
        id: &str,
        policy: std::sync::Arc<Policy>,
        handshake: &Handshake,
        credential: Option<String>,
        application: Application,
        wire: Wire,
    ) -> Self {
        let (wire, linked) = (Wire { encoding: Encoding::SocketIo, ..wire }, wire.linked);
        let mut session = Self::silent(now, id, policy, Identity::anonymous(), wire);
        let mut face = Face::new(now, &session.policy, application, credential);
        face.pid = Some(handshake.pid.clone());
        face.mute = handshake.upgrades;
        session.face = Some(Box::new(face));
        let (interval, timeout) = (session.policy.ping_interval_ms, session.policy.ping_timeout_ms);
        // Clients count from a ping to the end of both, this server from the last sign of life.
        let timeout = timeout.saturating_sub(interval).max(1);
        let Handshake { sid, upgrades, .. } = handshake;
        let open = engine::open(sid, *upgrades, interval, timeout, session.policy.max_message_bytes);
        let began = linked.then(|| Change::Began(Box::new(session.snapshot())));
        session.send_with(open.as_bytes(), began);
        session
    }

    // ---- inputs ----

    pub(super) fn handle_packet(&mut self, now: Now, text: &str) {
        if let Some(face) = &mut self.face {
            face.mute = false;
        }
        match EnginePacket::parse(text) {
            Ok(EnginePacket::Pong(_)) => {
                let pinged = self.face.as_mut().and_then(|face| face.pinged.take());
                if let Some(at) = pinged {
                    self.answered(now, at);
                }
            }
            Ok(EnginePacket::Message(message)) => self.handle_socketio(now, message),
            Ok(EnginePacket::Close) => self.close(CloseCode::Normal),
            Ok(EnginePacket::Noop) => {}
            // Heartbeats come from here, upgrades are over.
            Ok(EnginePacket::Ping(_) | EnginePacket::Upgrade) | Err(_) => {
                self.close(CloseCode::ProtocolError);
            }
        }
    }

    fn handle_socketio(&mut self, now: Now, text: &str) {
        self.counters.messages_in += 1;
        self.last_used = now.mono;
        let Some(face) = &mut self.face else { return };
        if face.application == Application::EngineIoSuite {
            return self.send(format!("4{text}").as_bytes());
        }
        let packet = match Packet::parse(text) {
            Ok(packet) if face.partial.is_none() => packet,
            _ => return self.close(CloseCode::ProtocolError),
        };
        if packet.attachments > 0 {
            face.partial = Some(Box::new(Partial {
                text: text.to_owned(),
                wanted: packet.attachments,
                attachments: Vec::new(),
                bytes: text.len(),
                // Done with its last attachment.
                first: self.number.take(),
            }));
            return;
        }
        self.handle_whole(now, &packet, Vec::new());
    }

    pub(super) fn handle_attachment(&mut self, now: Now, bytes: &[u8]) {
        self.last_used = now.mono;
        let limit = self.policy.max_message_bytes;
        let Some(face) = &mut self.face else { return };
        if face.application == Application::EngineIoSuite {
            return self.push_frames(Opcode::Binary, bytes);
        }
        let Some(mut partial) = face.partial.take() else { return self.close(CloseCode::ProtocolError) };
        partial.bytes += bytes.len();
        if partial.bytes > limit {
            return self.close(CloseCode::TooBig);
        }
        partial.attachments.push(Bytes::copy_from_slice(bytes));
        if partial.attachments.len() < partial.wanted {
            self.number = None;
            face.partial = Some(partial);
            return;
        }
        if let (Some(first), Some(done)) = (partial.first, &mut self.number) {
            done.first = first.first;
        }
        match Packet::parse(&partial.text) {
            Ok(packet) => self.handle_whole(now, &packet, partial.attachments),
            Err(_) => self.close(CloseCode::ProtocolError),
        }
    }

    fn push_frames(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut out = BytesMut::with_capacity(payload.len() + 10);
        frame::put_frame(&mut out, opcode, payload);
        self.push(out.freeze(), Sort::Answer, None, None);
    }

    fn handle_whole(&mut self, now: Now, packet: &Packet<'_>, attachments: Vec<Bytes>) {
        let Some(face) = &mut self.face else { return };
        let namespace = packet.namespace;
        if packet.kind == Kind::Connect {
            return self.handle_connect(now, packet);
        }
        if !face.has_entered(namespace) {
            return self.close(CloseCode::ProtocolError);
        }
        match packet.kind {
            Kind::Disconnect => self.handle_disconnect(now, namespace),
            Kind::Event | Kind::BinaryEvent => match packet.event() {
                Ok(event) if face.application == Application::Tickmesh => {
                    let argument = event.arguments.first().copied().unwrap_or("{}");
                    self.handle_event(now, &event.name, argument, packet.id, attachments);
                }
                Ok(event) => self.answer_suite(&event.name, &event.arguments, packet, attachments),
                Err(_) => self.close(CloseCode::ProtocolError),
            },
            // Nothing is ever asked of clients.
            Kind::Ack | Kind::BinaryAck | Kind::Connect | Kind::ConnectError => {}
        }
    }

    fn handle_event(
        &mut self,
        now: Now,
        name: &str,
        argument: &str,
        ack: Option<u64>,
        attachments: Vec<Bytes>,
    ) {
        let verb = Verb::of(name);
        let has_attachments = !attachments.is_empty();
        self.answer = Answer { verb: verb.unwrap_or_default(), ack, attachments };
        let stamp = Stamp { server_time: now.utc, request_id: None, trace_id: None };
        let counted = self.count_request(now);
        let failure = match verb {
            None => {
                let name: String = name.chars().take(64).collect();
                let unknown =
                    || Failure::new(ErrorCode::InvalidAction, format!("there is no event `{name}`"));
                Some(counted.err().unwrap_or_else(unknown))
            }
            Some(verb) if verb.is_stream() => {
                counted.and_then(|()| self.handle_stream(now, stamp, verb, argument)).err()
            }
            Some(_) => match ClientMessage::parse_event(name, argument) {
                Ok(message) if !has_attachments || message.is_echo() => {
                    self.handle_counted(now, message, counted);
                    None
                }
                Ok(_) => Some(Failure::parameters("attachments are for echo: rooms carry JSON")),
                Err(rejected) => {
                    let (id, trace) = (rejected.request_id.as_deref(), rejected.trace_id.as_deref());
                    self.reject(now, id, trace, &counted.err().unwrap_or(rejected.failure));
                    None
                }
            },
        };
        if let Some(failure) = failure {
            self.fail(stamp, &failure);
        }
        self.answer = Answer::default();
    }

    fn handle_stream(
        &mut self,
        now: Now,
        stamp: Stamp<'_>,
        verb: Verb,
        argument: &str,
    ) -> Result<(), Failure> {
        let StreamPayload { symbol, fields } = serde_json::from_str(argument).map_err(parameters)?;
        let room = RoomName::new(&format!("{STREAM_PREFIX}{symbol}")).map_err(|error| {
            let text = format!("symbol: {error}");
            Failure::new(ErrorCode::InvalidSymbol, text).with_details(json!({ "symbol": symbol }))
        })?;
        // No fields mean all of them.
        let fields = fields.filter(|names| !names.is_empty());
        let options = Subscribe::parse(&json!({ "room": room, "fields": fields }).to_string())?;
        match verb {
            Verb::SubscribeStream => self.subscribe(now, stamp, &options),
            Verb::UnsubscribeStream => self.unsubscribe(stamp, room),
            _ => {
                let fields = options.fields;
                let Some(held) = self.subscriptions.get_mut(&room).filter(|held| held.is_stream()) else {
                    let failure = Failure::new(ErrorCode::RoomNotFound, "the stream is not subscribed to");
                    return Err(failure.with_details(json!({ "symbol": symbol })));
                };
                held.set_fields(fields.clone());
                let change = self.subscribed_change(&room);
                let data = json!({ "room": room, "fields": fields }).to_string();
                self.respond_raw(stamp, &data, change);
                Ok(())
            }
        }
    }

    // ---- time, end and recovery ----

    pub(super) fn ping_packet(&mut self, now: Now) {
        // Another one behind an unanswered one would tell nothing, and polls would have to carry both.
        if let Some(face) = &mut self.face
            && face.pinged.is_none()
        {
            face.pinged = Some(now.mono);
            self.send(b"2");
        }
    }

    /// When the client has to have entered a namespace.
    pub(super) fn entry_deadline(&self) -> Option<u64> {
        self.face.as_ref()?.enter_by
    }

    /// A Socket.IO client that has not entered hears of nothing.
    pub(super) fn is_outside(&self) -> bool {
        self.face.as_ref().is_some_and(|face| face.entered.is_empty())
    }

    /// Clients come back by themselves unless they are told to leave the namespace.
    pub(super) fn put_disconnect(&self, code: CloseCode, out: &mut BytesMut) {
        let final_ = matches!(code, CloseCode::Disconnected | CloseCode::TokenExpired);
        if final_ && self.face.as_ref().is_some_and(|face| face.has_entered("/")) {
            frame::put_frame(out, Opcode::Text, b"41");
        }
    }

    pub(super) fn began(&mut self, at: SlotPosition) {
        if let Some(face) = &mut self.face {
            face.sent.began(at);
        }
    }

    pub(super) fn resumed(&mut self, at: SlotPosition) {
        if let Some(face) = &mut self.face {
            face.sent.resumed(at);
        }
    }

    /// A room's log is another: offsets from before are not recovered from.
    pub(super) fn restarted(&mut self, at: SlotPosition) {
        let Some(face) = &mut self.face else { return };
        face.sent = Sent::default();
        for held in self.subscriptions.values().map(|held| held.slot_position()) {
            face.sent.resumed(if held.slot == at.slot { at } else { held });
        }
    }

    pub(super) fn reached(&mut self, at: SlotPosition) {
        if let Some(face) = &mut self.face {
            face.sent.reached(at);
        }
    }

    pub(super) fn stopped(&mut self, slot: u32) {
        if let Some(face) = &mut self.face {
            face.sent.left(slot);
        }
    }

    /// The session ends; keeps what its client may come back to. Clients that leave for good leave the namespace first.
    pub(super) fn park_before(&mut self, code: CloseCode) {
        if !matches!(code, CloseCode::Disconnected | CloseCode::TokenExpired)
            && let Some(parked) = self.parked()
            && let Some(face) = &mut self.face
        {
            face.parked = Some(Box::new(parked));
        }
    }

    fn parked(&self) -> Option<Parked> {
        let face = self.face.as_deref().filter(|face| face.pid.is_some() && face.has_entered("/"))?;
        Some(Parked { snapshot: self.snapshot(), sent: face.sent.clone() })
    }

    /// What a client may come back to whose connection is gone, and under which name.
    pub fn take_parked(&mut self) -> Option<(String, Parked)> {
        let parked = match self.face.as_mut()?.parked.take() {
            Some(parked) => *parked,
            None if self.ending.is_none() => self.parked()?,
            None => return None,
        };
        Some((self.face.as_ref()?.pid.clone()?, parked))
    }
}
