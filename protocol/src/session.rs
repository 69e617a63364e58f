//! The server side of one client connection, without the connection.
//!
//! Four kinds of methods. Inputs (`handle_*`) take what arrived and the present time; application calls
//! (`close`); outputs (`poll_*`) are to be called after every input until they give nothing, in this order:
//! [`poll_command`](Session::poll_command), what others have to do for this session;
//! [`poll_transmit`](Session::poll_transmit), what is to be written;
//! [`poll_timeout`](Session::poll_timeout), when to call [`handle_timeout`](Session::handle_timeout) at the latest;
//! and getters, in `status`.
//!
//! Invariants: an `all` subscriber is sent every message of its room in order, each once, or is told by `resync`
//! or close code 4003 that it was not; nothing is queued without a bound; every request is answered once.
//!
//! It must not know sockets, actors, brokers or clocks.

mod actions;
mod admission;
mod output;
mod rate;
mod recovery;
mod shaped;
mod snapshot;
mod socketio;
mod status;
mod subscription;
#[cfg(test)]
mod tests;
mod types;
mod waiting;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use serde_json::json;

use crate::close::CloseCode;
use crate::encode::{self, Encoding, Stamp};
use crate::error::{ErrorCode, Failure};
use crate::frame::{self, FrameError, Incoming, Opcode};
use crate::identity::Identity;
use crate::link::{Change, Done, ToGateway};
use crate::message::{ClientMessage, json_from_msgpack};
use crate::outbox::{Kind, Mark, Outbox};
use crate::position::Position;
use crate::quality::{self, Quality};
use crate::room::RoomName;
use crate::shape::Shaper;

pub use actions::{history_data, history_replay};
pub use admission::State;
pub use rate::{Rates, too_fast};
pub use recovery::Parked;
use shaped::Held;
pub use snapshot::{Snapshot, SubscriptionSnapshot};
use socketio::{Answer, Face};
pub use socketio::{Application, FaceSnapshot, Handshake};
use subscription::Subscription;
pub use types::{Command, Counters, Now, Occurrence, Policy, Presence, Reply, Stitched, Ticket, Wire};
use waiting::{Purpose, Waiting};

/// The machine; see the module's documentation.
#[derive(Debug)]
pub struct Session {
    id: Arc<str>,
    policy: Arc<Policy>,
    identity: Identity,
    wire: Wire,
    connected_utc: u64,
    /// Boxed, because tables have room for several and most sessions have one.
    subscriptions: FxHashMap<RoomName, Box<Subscription>>,
    waiting: FxHashMap<Ticket, Waiting>,
    next_ticket: u64,
    commands: VecDeque<(Ticket, Command)>,
    out: Outbox,
    /// Rooms with conflated messages that may be due.
    due: VecDeque<RoomName>,
    /// Rooms whose conflated messages are held by a rate limit, by the time that ends it.
    held: BinaryHeap<Reverse<(u64, RoomName)>>,
    /// Of a client that wants no more than so much: its live messages, in place of `due` and of what is live in `out`.
    shaper: Option<Box<Shaper<Held>>>,
    /// The time of the last input, in milliseconds on the monotonic clock.
    clock: u64,
    last_heard: u64,
    /// When a message went over it, heartbeats aside.
    last_used: u64,
    next_ping: u64,
    round_trip_ms: Option<u64>,
    quality: Quality,
    ending: Option<Ending>,
    counters: Counters,
    occurrences: Vec<Occurrence>,
    /// Of the frames that were transmitted last, or wait in `half`.
    mark: Mark,
    next_slot: u32,
    /// What the client used of its rates.
    used: rate::Used,
    /// Number of the client's message that is being handled and has no answer yet; always none without a gateway.
    number: Option<Done>,
    /// How the client's message that is being handled is answered.
    answer: Answer,
    /// Of a Socket.IO session.
    face: Option<Box<Face>>,
    /// Frames whose head was transmitted.
    half: Option<Bytes>,
    /// Rooms that could not be caught up with, by the time of the next attempt.
    retries: Vec<(u64, RoomName, Position)>,
    /// It came from another node, and the gateway does not know yet that all of it goes on here.
    arriving: bool,
    /// It came from another node.
    restored: bool,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The client is told so.
    Closed(CloseCode),
    /// It goes on at another node.
    Moved,
}

impl Session {
    /// A new session, which greets its client with `connected`.
    #[must_use]
    pub fn new(now: Now, id: &str, policy: Arc<Policy>, identity: Identity, wire: Wire) -> Self {
        let mut session = Self::silent(now, id, policy, identity, wire);
        let data = json!({
            "session_id": id,
            "node_id": session.policy.node_id,
            "user_id": session.identity.user_id,
            "ping_interval_ms": session.policy.ping_interval_ms,
            "max_message_bytes": session.policy.max_message_bytes,
        });
        let began = session.wire.linked.then(|| Change::Began(Box::new(session.snapshot())));
        session.send_with(&encode::notice("", "connected", 0, now.utc, &data), began);
        session.ask_missed(now);
        session
    }

    /// A session for a client that is not let in: tells it why, and closes.
    #[must_use]
    pub fn refused(
        now: Now,
        id: &str,
        policy: Arc<Policy>,
        wire: Wire,
        failure: &Failure,
        code: CloseCode,
    ) -> Self {
        let mut session = Self::silent(now, id, policy, Identity::anonymous(), wire);
        session.reject(now, None, None, failure);
        session.close(code);
        session
    }

    fn silent(now: Now, id: &str, policy: Arc<Policy>, identity: Identity, wire: Wire) -> Self {
        Self {
            id: id.into(),
            identity,
            wire,
            connected_utc: now.utc,
            subscriptions: FxHashMap::default(),
            waiting: FxHashMap::default(),
            next_ticket: 0,
            commands: VecDeque::new(),
            out: Outbox::default(),
            due: VecDeque::new(),
            held: BinaryHeap::new(),
            shaper: (wire.max_bandwidth > 0).then(|| Box::new(Shaper::new(wire.max_bandwidth, now.mono))),
            clock: now.mono,
            last_heard: now.mono,
            last_used: now.mono,
            next_ping: now.mono
                + quality::ping_interval(None, policy.ping_interval_ms, policy.min_ping_interval_ms),
            round_trip_ms: None,
            quality: Quality::default(),
            ending: None,
            counters: Counters::default(),
            occurrences: Vec::new(),
            mark: Mark::default(),
            next_slot: 0,
            used: rate::Used::default(),
            number: None,
            answer: Answer::default(),
            face: None,
            half: None,
            retries: Vec::new(),
            arriving: false,
            restored: false,
            policy,
        }
    }

    // ---- inputs ----

    /// Takes one message that a gateway numbered. It is done with when its answer is, or at once if it has none.
    pub fn handle_numbered(&mut self, now: Now, number: u64, incoming: &Incoming<'_>) {
        if self.ending.is_some() {
            return;
        }
        self.number = Some(Done::one(number));
        self.handle_incoming(now, incoming);
        if self.number.is_some() {
            self.push(Bytes::new(), Kind::Answer, None, None);
        }
    }

    /// Takes one message of the client.
    pub fn handle_incoming(&mut self, now: Now, incoming: &Incoming<'_>) {
        if self.ending.is_some() {
            return;
        }
        (self.clock, self.last_heard) = (now.mono, now.mono);
        match (incoming, self.wire.encoding) {
            (Incoming::Text(text), Encoding::SocketIo) => self.handle_packet(now, text),
            (Incoming::Binary(bytes), Encoding::SocketIo) => self.handle_attachment(now, bytes),
            (Incoming::Text(text), Encoding::Json) => self.handle_json(now, text),
            (Incoming::Binary(bytes), Encoding::Msgpack) => match json_from_msgpack(bytes) {
                Ok(text) => self.handle_json(now, &text),
                Err(failure) => self.reject(now, None, None, &failure),
            },
            (Incoming::Text(_) | Incoming::Binary(_), _) => self.close(CloseCode::WrongFrameType),
            (Incoming::Ping(payload), _) => {
                let mut frame = BytesMut::with_capacity(2 + payload.len());
                frame::put_frame(&mut frame, Opcode::Pong, payload);
                self.push(frame.freeze(), Kind::Answer, None, None);
            }
            (Incoming::Pong(payload), _) => {
                if let Ok(sent) = <[u8; 8]>::try_from(*payload) {
                    self.answered(now, u64::from_be_bytes(sent));
                }
            }
            (Incoming::Close(_), _) => self.close(CloseCode::Normal),
        }
    }

    /// The client broke the WebSocket protocol.
    pub fn handle_frame_error(&mut self, error: FrameError) {
        self.close(error.close_code());
    }

    /// Takes the answer to a command.
    pub fn handle_reply(&mut self, now: Now, ticket: Ticket, reply: Reply) {
        self.clock = now.mono;
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        if self.waiting.is_empty() {
            self.waiting = FxHashMap::default();
        }
        if self.ending.is_some() {
            return;
        }
        self.number = waiting.number;
        self.answer = waiting.answer;
        let stamp = Stamp {
            server_time: now.utc,
            // What the session itself asked for answers no request.
            request_id: Some(&*waiting.request_id).filter(|id| !id.is_empty()),
            trace_id: waiting.trace_id.as_deref(),
        };
        match (waiting.purpose, reply) {
            (Purpose::Subscribe { room, respond }, Reply::History(result)) => {
                let result = result.map(|history| Stitched { older: Vec::new(), complete: true, history });
                self.subscribed(now, stamp, ticket, &room, result, respond);
            }
            (Purpose::Subscribe { room, respond }, Reply::Stitched(result)) => {
                self.subscribed(now, stamp, ticket, &room, result, respond);
            }
            (Purpose::Ask, Reply::Data(Ok(data))) => self.respond_raw(stamp, &data, None),
            (Purpose::Missed(user_id), Reply::Missed(hits)) => self.missed(now, &user_id, &hits),
            (Purpose::Publish, Reply::Published(Ok(position))) => {
                self.respond(stamp, &position);
            }
            (Purpose::History { room }, Reply::History(Ok(history))) => {
                let data = actions::history_data(&room, &history, now.utc, None, None);
                self.respond_raw(stamp, &data, None);
            }
            (Purpose::Connect(entry), Reply::Identity(result)) => self.identified(now, stamp, entry, result),
            (Purpose::Resume(entry, identity), Reply::Parked(parked)) => {
                self.enter(now, &entry, *identity, parked.map(|parked| *parked));
            }
            (Purpose::Authenticate, Reply::Identity(Ok(identity))) => {
                self.renewed(now, stamp, identity);
            }
            (Purpose::Presence, Reply::Presence(Ok(presence))) => {
                self.respond(stamp, &presence);
            }
            (
                _,
                Reply::Published(Err(failure))
                | Reply::Data(Err(failure))
                | Reply::History(Err(failure))
                | Reply::Identity(Err(failure))
                | Reply::Presence(Err(failure)),
            ) => {
                self.fail(stamp, &failure);
            }
            (purpose, reply) => {
                let message = format!("{reply:?} does not answer {purpose:?}");
                self.fail(stamp, &Failure::new(ErrorCode::InternalError, message));
            }
        }
        self.number = None;
        self.answer = Answer::default();
        self.tell_arrival();
    }

    /// Does what time alone calls for: pings, and the ends of dead and expired connections.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.ending.is_some() {
            return;
        }
        self.clock = now.mono;
        if let Some(shaper) = &mut self.shaper {
            shaper.wake(now.mono);
        }
        if self.identity.expires_at.is_some_and(|at| at <= now.utc) {
            let failure = Failure::new(ErrorCode::AuthTokenExpired, "the token expired");
            self.reject(now, None, None, &failure);
            self.close(CloseCode::TokenExpired);
        } else if now.mono >= self.silent_until() || self.unused_until().is_some_and(|at| at <= now.mono) {
            self.close(CloseCode::Idle);
        } else if self.stale_at().is_some_and(|at| at <= now.mono) {
            self.close(CloseCode::SlowConsumer);
        } else if self.entry_deadline().is_some_and(|at| at <= now.mono) {
            self.close(CloseCode::Policy);
        } else if now.mono >= self.next_ping && self.face.is_some() {
            self.next_ping = now.mono + self.ping_interval(now);
            self.ping_packet(now);
        } else if now.mono >= self.next_ping {
            self.next_ping = now.mono + self.ping_interval(now);
            let mut frame = BytesMut::with_capacity(10);
            frame::put_frame(&mut frame, Opcode::Ping, &now.mono.to_be_bytes());
            self.push(frame.freeze(), Kind::Answer, None, None);
        }
        self.send_later(now.mono);
        let due: Vec<_> = self.retries.extract_if(.., |(at, ..)| *at <= now.mono).collect();
        for (_, room, from) in due {
            self.catch_up_from(room, from);
        }
        while self.held.peek().is_some_and(|Reverse((at, _))| *at <= now.mono) {
            if let Some(Reverse((_, room))) = self.held.pop() {
                self.schedule(room);
            }
        }
    }

    /// The client has taken something after a while in which it took nothing: it lives, though its answers to pings are
    /// behind what it has not read.
    pub fn handle_progress(&mut self, now: Now) {
        self.last_heard = self.last_heard.max(now.mono);
    }

    // ---- application calls ----

    /// Sends the client elsewhere, where it should come after so many milliseconds.
    pub fn go_away(&mut self, now: Now, retry_after_ms: u64) {
        if self.ending.is_none() {
            self.flush_due();
            self.send(&encode::going_away(self.wire.encoding, retry_after_ms, now.utc));
            self.close(CloseCode::GoingAway);
        }
    }

    /// Ends the connection: what is queued goes out first, then the close frame.
    pub fn close(&mut self, code: CloseCode) {
        if self.ending.is_some() {
            return;
        }
        if code == CloseCode::SlowConsumer {
            self.out.clear();
            self.shaper = None;
        } else {
            self.flush_due();
        }
        self.park_before(code);
        let mut frame = BytesMut::with_capacity(32);
        self.put_disconnect(code, &mut frame);
        frame::put_close(&mut frame, code.code(), code.reason());
        self.push(frame.freeze(), Kind::Answer, None, None);
        if self.wire.linked {
            self.out.push(ToGateway::Ended.encode(), Kind::Answer, None, self.clock);
        }
        self.end(Ending::Closed(code));
    }

    /// The session goes on at another node: writes what is queued and does nothing more. Requests without an answer are
    /// asked again there; conflated messages that wait are read again.
    pub fn freeze(&mut self) {
        if self.ending.is_none() {
            self.out.push(ToGateway::Frozen.encode(), Kind::Answer, None, self.clock);
            self.end(Ending::Moved);
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.commands.clear();
        self.waiting.clear();
        self.subscriptions.clear();
        self.due.clear();
        self.held.clear();
        self.retries.clear();
        self.shaper = None;
    }

    // ---- outputs ----

    /// What others have to do; the ticket goes back with the reply.
    pub fn poll_command(&mut self) -> Option<(Ticket, Command)> {
        let next = self.commands.pop_front();
        if self.commands.is_empty() && self.commands.capacity() > 0 {
            // A session that has nothing to do holds nothing for it, here and in other places.
            self.commands = VecDeque::new();
        }
        next
    }

    /// Bytes to be written next: one or more whole frames. What was taken cannot be conflated any more, so take
    /// no more than the connection is ready for.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Bytes> {
        let bytes = match self.half.take() {
            Some(bytes) => bytes,
            None => self.next_out(now)?,
        };
        self.counters.bytes_out += bytes.len() as u64;
        Some(bytes)
    }

    /// What is to be measured of the bytes that [`poll_transmit`](Self::poll_transmit) gave last, when they are written.
    pub fn transmitted(&mut self) -> Mark {
        // The head of a record: its frames come next.
        if self.half.is_some() { Mark::default() } else { std::mem::take(&mut self.mark) }
    }

    /// Something that happened since this was asked last, in no particular order.
    pub fn poll_occurrence(&mut self) -> Option<Occurrence> {
        self.occurrences.pop()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, in milliseconds on the monotonic clock.
    #[must_use]
    pub fn poll_timeout(&self, now: Now) -> Option<u64> {
        if self.ending.is_some() {
            return None;
        }
        let alive = self.next_ping.min(self.silent_until());
        let expiry = self.identity.expires_at.map(|at| now.mono + at.saturating_sub(now.utc));
        let held = self.held.peek().map(|Reverse((at, _))| *at);
        let retry = self.retries.iter().map(|(at, ..)| *at).min();
        let shaped = self.shaper.as_ref().and_then(|shaper| shaper.waits_until());
        let (entry, suite) = (self.entry_deadline(), self.suite_deadline());
        [Some(alive), expiry, held, retry, entry, suite, shaped, self.stale_at(), self.unused_until()]
            .into_iter()
            .flatten()
            .min()
    }

    // ---- inside ----

    fn handle_json(&mut self, now: Now, text: &str) {
        self.counters.messages_in += 1;
        self.last_used = now.mono;
        let counted = self.count_request(now);
        match ClientMessage::parse(text) {
            Ok(message) => self.handle_counted(now, message, counted),
            Err(rejected) => {
                let (id, trace) = (rejected.request_id.as_deref(), rejected.trace_id.as_deref());
                self.reject(now, id, trace, &counted.err().unwrap_or(rejected.failure));
            }
        }
    }

    /// Does what the message wants, unless the client is too fast.
    fn handle_counted(&mut self, now: Now, message: ClientMessage<'_>, counted: Result<(), Failure>) {
        match counted {
            Ok(()) => self.handle_message(now, message),
            Err(failure) => {
                let id = Some(&*message.request_id).filter(|id| !id.is_empty());
                self.reject(now, id, message.trace_id.as_deref(), &failure);
            }
        }
    }

    /// When the client counts as gone, unless something comes from it.
    fn silent_until(&self) -> u64 {
        let early = self.face.as_ref().map_or(0, |face| face.early_ms());
        self.last_heard + self.policy.ping_timeout_ms.saturating_sub(early)
    }

    fn command(&mut self, mut waiting: Waiting, command: Command) -> Ticket {
        waiting.number = self.number.take();
        waiting.answer = std::mem::take(&mut self.answer);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.insert(ticket, waiting);
        self.commands.push_back((ticket, command));
        ticket
    }

    fn forget(&mut self, room: RoomName) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.commands.push_back((ticket, Command::Unsubscribe(room)));
    }
}
