//! The server side of one client connection, without the connection.
//!
//! Four kinds of methods. Inputs (`handle_*`) take what arrived and the present time; application calls
//! (`close`); outputs (`poll_*`) are to be called after every input until they give nothing, in this order:
//! [`poll_command`](Session::poll_command), what others have to do for this session;
//! [`poll_transmit`](Session::poll_transmit), what is to be written;
//! [`poll_timeout`](Session::poll_timeout), when to call [`handle_timeout`](Session::handle_timeout) at the latest;
//! and getters.
//!
//! Invariants: an `all` subscriber is sent every message of its room in order, each once, or is told by `resync`
//! or close code 4003 that it was not; nothing is queued without a bound; every request is answered once.
//!
//! It must not know sockets, actors, brokers or clocks.

mod actions;
mod snapshot;
mod subscription;
#[cfg(test)]
mod tests;
mod types;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use serde_json::json;

use crate::close::CloseCode;
use crate::conflate::Next;
use crate::encode::{self, Encoding, Stamp};
use crate::error::{ErrorCode, Failure};
use crate::frame::{self, FrameError, Incoming, Opcode};
use crate::identity::Identity;
use crate::message::{ClientMessage, json_from_msgpack};
use crate::outbox::Outbox;
use crate::room::RoomName;

pub use actions::{history_data, history_replay};
pub use snapshot::{Snapshot, SubscriptionSnapshot};
use subscription::Subscription;
pub use types::{Command, Counters, Now, Policy, Presence, Reply, Ticket};

/// A request whose answer waits for others.
#[derive(Debug)]
struct Waiting {
    request_id: Box<str>,
    trace_id: Option<Box<str>>,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// `respond` is false where the subscription is carried over from another node.
    Subscribe {
        room: RoomName,
        respond: bool,
    },
    Publish,
    History {
        room: RoomName,
    },
    Authenticate,
    Presence,
}

/// The machine; see the module's documentation.
#[derive(Debug)]
pub struct Session {
    id: Arc<str>,
    policy: Arc<Policy>,
    identity: Identity,
    encoding: Encoding,
    batch: bool,
    connected_utc: u64,
    subscriptions: FxHashMap<RoomName, Subscription>,
    waiting: FxHashMap<Ticket, Waiting>,
    next_ticket: u64,
    commands: VecDeque<(Ticket, Command)>,
    out: Outbox,
    /// Rooms with conflated messages that may be due.
    due: VecDeque<RoomName>,
    /// Rooms whose conflated messages are held by a rate limit, by the time that ends it.
    held: BinaryHeap<Reverse<(u64, RoomName)>>,
    last_heard: u64,
    next_ping: u64,
    round_trip_ms: Option<u64>,
    closing: Option<CloseCode>,
    counters: Counters,
}

impl Session {
    /// A new session, which greets its client with `connected`. `batch` allows arrays of notifications.
    #[must_use]
    pub fn new(
        now: Now,
        id: &str,
        policy: Arc<Policy>,
        identity: Identity,
        encoding: Encoding,
        batch: bool,
    ) -> Self {
        let mut session = Self::silent(now, id, policy, identity, encoding, batch);
        let data = json!({
            "session_id": id,
            "node_id": session.policy.node_id,
            "user_id": session.identity.user_id,
            "ping_interval_ms": session.policy.ping_interval_ms,
            "max_message_bytes": session.policy.max_message_bytes,
        });
        session.send(&encode::notice("", "connected", 0, now.utc, &data));
        session
    }

    /// A session for a client that is not let in: tells it why, and closes.
    #[must_use]
    pub fn refused(
        now: Now,
        id: &str,
        policy: Arc<Policy>,
        encoding: Encoding,
        failure: &Failure,
        code: CloseCode,
    ) -> Self {
        let mut session = Self::silent(now, id, policy, Identity::anonymous(), encoding, false);
        session.reject(now, None, None, failure);
        session.close(code);
        session
    }

    fn silent(
        now: Now,
        id: &str,
        policy: Arc<Policy>,
        identity: Identity,
        encoding: Encoding,
        batch: bool,
    ) -> Self {
        Self {
            id: id.into(),
            identity,
            encoding,
            batch,
            connected_utc: now.utc,
            subscriptions: FxHashMap::default(),
            waiting: FxHashMap::default(),
            next_ticket: 0,
            commands: VecDeque::new(),
            out: Outbox::default(),
            due: VecDeque::new(),
            held: BinaryHeap::new(),
            last_heard: now.mono,
            next_ping: now.mono + policy.ping_interval_ms,
            round_trip_ms: None,
            closing: None,
            counters: Counters::default(),
            policy,
        }
    }

    // ---- inputs ----

    /// Takes one message of the client.
    pub fn handle_incoming(&mut self, now: Now, incoming: &Incoming<'_>) {
        if self.closing.is_some() {
            return;
        }
        self.last_heard = now.mono;
        match (incoming, self.encoding) {
            (Incoming::Text(text), Encoding::Json) => self.handle_json(now, text),
            (Incoming::Binary(bytes), Encoding::Msgpack) => match json_from_msgpack(bytes) {
                Ok(text) => self.handle_json(now, &text),
                Err(failure) => self.reject(now, None, None, &failure),
            },
            (Incoming::Text(_) | Incoming::Binary(_), _) => self.close(CloseCode::WrongFrameType),
            (Incoming::Ping(payload), _) => {
                let mut frame = BytesMut::with_capacity(2 + payload.len());
                frame::put_frame(&mut frame, Opcode::Pong, payload);
                self.out.push_answer(frame.freeze());
            }
            (Incoming::Pong(payload), _) => {
                if let Ok(sent) = <[u8; 8]>::try_from(*payload) {
                    self.round_trip_ms = now.mono.checked_sub(u64::from_be_bytes(sent));
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
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        if self.closing.is_some() {
            return;
        }
        let stamp = Stamp {
            server_time: now.utc,
            // What the session itself asked for answers no request.
            request_id: Some(&*waiting.request_id).filter(|id| !id.is_empty()),
            trace_id: waiting.trace_id.as_deref(),
        };
        match (waiting.purpose, reply) {
            (Purpose::Subscribe { room, respond }, Reply::History(result)) => {
                self.subscribed(now, stamp, ticket, &room, result, respond);
            }
            (Purpose::Publish, Reply::Published(Ok(position))) => {
                self.send(&encode::response(stamp, &position));
            }
            (Purpose::History { room }, Reply::History(Ok(history))) => {
                let data = actions::history_data(&room, &history, now.utc, None, None);
                self.send(&encode::response_raw(stamp, &data));
            }
            (Purpose::Authenticate, Reply::Identity(Ok(identity))) => {
                self.renewed(now, stamp, identity);
            }
            (Purpose::Presence, Reply::Presence(Ok(presence))) => {
                self.send(&encode::response(stamp, &presence));
            }
            (
                _,
                Reply::Published(Err(failure))
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
    }

    /// Does what time alone calls for: pings, and the ends of dead and expired connections.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.closing.is_some() {
            return;
        }
        if self.identity.expires_at.is_some_and(|at| at <= now.utc) {
            let failure = Failure::new(ErrorCode::AuthTokenExpired, "the token expired");
            self.reject(now, None, None, &failure);
            self.close(CloseCode::TokenExpired);
        } else if now.mono >= self.last_heard + self.policy.ping_timeout_ms {
            self.close(CloseCode::Idle);
        } else if now.mono >= self.next_ping {
            self.next_ping = now.mono + self.policy.ping_interval_ms;
            let mut frame = BytesMut::with_capacity(10);
            frame::put_frame(&mut frame, Opcode::Ping, &now.mono.to_be_bytes());
            self.out.push_answer(frame.freeze());
        }
        while self.held.peek().is_some_and(|Reverse((at, _))| *at <= now.mono) {
            if let Some(Reverse((_, room))) = self.held.pop() {
                self.due.push_back(room);
            }
        }
    }

    // ---- application calls ----

    /// Ends the connection: what is queued goes out first, then the close frame.
    pub fn close(&mut self, code: CloseCode) {
        if self.closing.is_some() {
            return;
        }
        if code == CloseCode::SlowConsumer {
            self.out.clear();
        } else {
            self.flush_due();
        }
        let mut frame = BytesMut::with_capacity(32);
        frame::put_close(&mut frame, code.code(), code.reason());
        self.out.push_answer(frame.freeze());
        self.closing = Some(code);
        self.commands.clear();
        self.waiting.clear();
        self.subscriptions.clear();
        self.due.clear();
        self.held.clear();
    }

    // ---- outputs ----

    /// What others have to do; the ticket goes back with the reply.
    pub fn poll_command(&mut self) -> Option<(Ticket, Command)> {
        self.commands.pop_front()
    }

    /// Bytes to be written next: one or more whole frames. What was taken cannot be conflated any more, so take
    /// no more than the connection is ready for.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Bytes> {
        let bytes = match self.out.pop() {
            Some(bytes) => bytes,
            None => self.next_due(now.mono)?,
        };
        self.counters.bytes_out += bytes.len() as u64;
        Some(bytes)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, in milliseconds on the monotonic clock.
    #[must_use]
    pub fn poll_timeout(&self, now: Now) -> Option<u64> {
        if self.closing.is_some() {
            return None;
        }
        let alive = self.next_ping.min(self.last_heard + self.policy.ping_timeout_ms);
        let expiry = self.identity.expires_at.map(|at| now.mono + at.saturating_sub(now.utc));
        let held = self.held.peek().map(|Reverse((at, _))| *at);
        [Some(alive), expiry, held].into_iter().flatten().min()
    }

    // ---- getters ----

    /// Why the connection is to be closed, once everything from [`poll_transmit`](Self::poll_transmit) is written.
    #[must_use]
    pub fn closing(&self) -> Option<CloseCode> {
        self.closing
    }

    /// False while the client is to be held back: too many of its requests wait, or it does not take its answers.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.closing.is_none()
            && self.waiting.len() < self.policy.max_in_flight
            && self.out.answer_bytes() < self.policy.max_queue_bytes / 4
    }

    /// The session's name, unique in the cluster.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// How it is spoken to.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Who it belongs to.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// UTC milliseconds since when it is connected.
    #[must_use]
    pub fn connected_at(&self) -> u64 {
        self.connected_utc
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        let tables: usize = self.subscriptions.values().map(Subscription::table_bytes).sum();
        self.out.answer_bytes() + self.out.live_bytes() + tables
    }

    /// Milliseconds between the last ping and its pong.
    #[must_use]
    pub fn round_trip_ms(&self) -> Option<u64> {
        self.round_trip_ms
    }

    /// The rooms it follows, with the newest sequence number queued for each.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomName, u64)> {
        self.subscriptions.iter().map(|(room, subscription)| (room, subscription.seq()))
    }

    /// A score from 100 (as good as local) to 0: minus 1 per 10 ms of round trip, at most 50, and minus up to 50 in
    /// proportion to how full the queue is.
    #[must_use]
    pub fn quality(&self) -> u8 {
        let round_trip = self.round_trip_ms.unwrap_or(0) / 10;
        let queue = self.queued_bytes() * 50 / self.policy.max_queue_bytes.max(1);
        100 - round_trip.min(50) as u8 - queue.min(50) as u8
    }

    // ---- inside ----

    fn handle_json(&mut self, now: Now, text: &str) {
        self.counters.messages_in += 1;
        match ClientMessage::parse(text) {
            Ok(message) => self.handle_message(now, message),
            Err(rejected) => {
                let (id, trace) = (rejected.request_id.as_deref(), rejected.trace_id.as_deref());
                self.reject(now, id, trace, &rejected.failure);
            }
        }
    }

    /// Queues JSON text in the session's encoding.
    fn send(&mut self, json: &[u8]) {
        self.out.push_answer(encode::frame_json(json, self.encoding));
    }

    fn fail(&mut self, stamp: Stamp<'_>, failure: &Failure) {
        self.counters.errors += 1;
        self.send(&encode::error(stamp, failure));
    }

    fn reject(&mut self, now: Now, request_id: Option<&str>, trace_id: Option<&str>, failure: &Failure) {
        self.fail(Stamp { server_time: now.utc, request_id, trace_id }, failure);
    }

    fn command(&mut self, waiting: Waiting, command: Command) -> Ticket {
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

    /// The next conflated message that may go out at a time in milliseconds on the monotonic clock.
    fn next_due(&mut self, now: u64) -> Option<Bytes> {
        while let Some(room) = self.due.front() {
            let Some(subscription) = self.subscriptions.get_mut(room) else {
                self.due.pop_front();
                continue;
            };
            match subscription.poll_latest(now) {
                Next::Send(message, conflated) => {
                    let frame = message.frame(self.encoding, subscription.fields());
                    // Rooms take turns.
                    self.due.rotate_left(1);
                    return Some(self.conflated(frame, conflated));
                }
                Next::Wait(until) => {
                    if let Some(room) = self.due.pop_front() {
                        self.held.push(Reverse((until, room)));
                    }
                }
                Next::Empty => {
                    subscription.set_scheduled(false);
                    self.due.pop_front();
                }
            }
        }
        None
    }

    /// Counts a message of a `latest` subscription, and adds to its frame what it replaced.
    fn conflated(&mut self, frame: Bytes, replaced: u64) -> Bytes {
        self.counters.notifications_out += 1;
        self.counters.conflated += replaced;
        if replaced == 0 { frame } else { encode::with_conflated(&frame, self.encoding, replaced) }
    }

    /// Queues what is pending in the conflation tables, so that a close loses no last value.
    fn flush_due(&mut self) {
        self.due.extend(self.held.drain().map(|Reverse((_, room))| room));
        while let Some(frame) = self.next_due(u64::MAX) {
            self.out.push_live(frame);
        }
    }
}
