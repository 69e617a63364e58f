//! The actor of one connection: a thin shell round [`tickmesh_protocol::session::Session`].
//!
//! The actor owns its socket. All input and output is in one future that runs after the mailbox was emptied, so that
//! whatever came in at once leaves in one write; a socket that takes nothing stops only the writing, never the actor.
//!
//! Invariants: bytes are taken from the session only when the socket is ready for them, at most `WRITE_AHEAD` (less where
//! the connection is not good) of
//! them, so that the backlog stays where it can be conflated; handlers only queue. It must not know the wire format.

mod effects;
mod io;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tickmesh_protocol::batch::Witness;
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::Role;
use tickmesh_protocol::link::Records;
use tickmesh_protocol::outbox::Mark;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::{Counters, Occurrence, Session, State};
use tickmesh_store::relational::AuditEvent;
use tokio::time::Instant;

use crate::clock;
use crate::hub::{Close, Deliver, Describe, MemberKey, Notice, Weigh};
use crate::worker::Worker;
use tickmesh_edge::limits::{ConnectionGuard, RETRY_SPREAD_MS, SHED_LEAST_MS, SHED_SPREAD_MS, UserGuard};
use tickmesh_edge::metrics::{Transport, Way};
use tickmesh_edge::socket::Socket;

use effects::Effects;
use io::Io;

/// Bytes taken from a session before the socket accepted those before.
const WRITE_AHEAD: usize = 64 * 1024;
/// For how long a socket has to take nothing for its connection to count as broken.
const BLOCKED: Duration = Duration::from_secs(2);
/// The actor.
pub(crate) struct SessionActor {
    session: Session,
    worker: Rc<Worker>,
    key: Option<MemberKey>,
    remote: SocketAddr,
    effects: Effects,
    /// Of what was delivered and not written yet, those who want to know.
    witnesses: Vec<Arc<dyn Witness>>,
    /// What of the session is in the thread's counters.
    counted: Counters,
    /// As what it is counted while it is open.
    way: Way,
    /// Taken by the input and output future when the actor starts.
    connection: Option<Connection>,
    /// In which state it is counted while it is open.
    state: State,
    /// Since when its socket has taken nothing though there was something.
    stalled: Option<Instant>,
    /// Its place among those of its user.
    user: Option<UserGuard>,
    place: Option<ConnectionGuard>,
    /// Its connection is lost, and its turn to be taken down has not come.
    gone: bool,
}

/// An upgraded connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Socket,
    /// What the client sent behind its handshake.
    pub(crate) early: Bytes,
    /// What a gateway sent behind its request for a session; none for a client's own connection.
    pub(crate) records: Option<Records>,
}

/// What operators see of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The session's id.
    pub session_id: Arc<str>,
    /// Whose it is.
    pub user_id: String,
    /// The node that holds it.
    pub node_id: String,
    /// `json` or `msgpack`.
    pub protocol: Cow<'static, str>,
    /// The peer's address.
    pub remote: SocketAddr,
    /// How it does; nodes of older versions do not say.
    #[serde(default)]
    pub state: State,
    /// UTC milliseconds since when it is connected.
    pub connected_at: u64,
    /// Rooms that it follows, sorted.
    pub rooms: Vec<RoomName>,
    /// Messages that the client sent.
    pub messages_in: u64,
    /// Notifications that it was sent.
    pub notifications_out: u64,
    /// Messages that a newer one replaced.
    pub conflated: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
    /// Milliseconds of the last ping.
    pub round_trip_ms: Option<u64>,
    /// 0 to 100, see [`tickmesh_protocol::quality`].
    pub quality: u8,
}

impl SessionActor {
    /// Starts the actor on this thread.
    pub(crate) fn spawn(
        session: Session,
        worker: Rc<Worker>,
        remote: SocketAddr,
        connection: Connection,
        guard: ConnectionGuard,
    ) {
        let (effects, counted) = (Effects::default(), Counters::default());
        let way = way(&session, &connection.stream);
        let connection = Some(connection);
        let witnesses = Vec::new();
        Self {
            session,
            worker,
            key: None,
            remote,
            effects,
            witnesses,
            counted,
            way,
            connection,
            state: State::default(),
            stalled: None,
            user: None,
            place: Some(guard),
            gone: false,
        }
        .start();
    }
}

/// How its client comes.
fn way(session: &Session, stream: &Socket) -> Way {
    let transport = match session.is_linked() {
        true => Transport::Link,
        false if stream.is_polling() => Transport::Polling,
        false => Transport::WebSocket,
    };
    Way { socketio: session.is_socketio(), transport }
}

impl SessionActor {
    /// Takes into the thread's counters what the session did.
    fn count(&mut self, stream: &Socket) {
        let (traffic, now) = (&self.worker.traffic, self.session.counters());
        if now != self.counted {
            traffic.did(std::mem::replace(&mut self.counted, now), now);
        }
        while let Some(occurrence) = self.session.poll_occurrence() {
            traffic.happened(self.way.socketio, occurrence);
            if let (Occurrence::Rated(score), Some(key)) = (occurrence, self.key) {
                self.worker.hub.rated(key, score);
            }
        }
        let blocked = self.stalled.is_some_and(|since| since.elapsed() >= BLOCKED);
        let state = self.session.state(clock::now(), blocked);
        if state != self.state {
            traffic.states[self.state as usize].take(1);
            self.state = state;
            traffic.states[state as usize].add(1);
        }
        // From long-polling to a WebSocket.
        if self.way.transport == Transport::Polling && !stream.is_polling() {
            traffic.open.of(self.way).take(1);
            self.way.transport = Transport::WebSocket;
            traffic.open.of(self.way).add(1);
        }
    }

    /// Tells the audit.
    fn note(&self, event: &str, reason: &str) {
        let session = &self.session;
        self.worker.auditor.note(|| AuditEvent {
            at: clock::now().utc,
            event: event.to_owned(),
            session_id: session.id().to_string(),
            user_id: session.identity().user_id.clone(),
            node_id: self.worker.policy.node_id.clone(),
            remote: self.remote.to_string(),
            reason: reason.to_owned(),
        });
    }

    /// Takes the session's place among those of its user, once it is known whose it is; closes it (1008) where there is none.
    fn claim(&mut self) {
        let identity = self.session.identity();
        if self.user.is_some() || identity.role == Role::Anonymous {
            return;
        }
        match self.worker.connections.admit_user(&identity.user_id, self.session.is_restored()) {
            Ok(guard) => self.user = Some(guard),
            Err(max) => {
                self.worker.metrics.refused("full user");
                let text = "no more connections of this user are taken: as many are open as may be";
                let failure = Failure::new(ErrorCode::RateLimitExceeded, text)
                    .with_details(json!({ "max_connections_per_user": max }));
                self.session.refuse(clock::now(), &failure, CloseCode::Policy);
            }
        }
    }

    /// The connection is lost: its place is free, and its client can come back to the session, from now on.
    fn lose(&mut self) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        (self.user, self.place) = (None, None);
        if let Some((name, parked)) = self.session.take_parked() {
            self.worker.peers.park(name, parked);
        }
    }

    /// The node wants the session to go: to another node by its gateway, or else its client to connect again.
    fn leave(&mut self) {
        if self.session.is_linked() {
            self.session.freeze();
        } else {
            let retry_after = rand::random_range(0..=RETRY_SPREAD_MS);
            self.session.go_away(clock::now(), retry_after);
        }
    }
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.worker.traffic.sessions.of(self.way).add(1);
        self.worker.traffic.open.of(self.way).add(1);
        self.worker.traffic.states[self.state as usize].add(1);
        self.note("connected", "");
        self.claim();
        self.key = Some(self.worker.hub.enter(&self.session, ctx.address()));
        if self.worker.connections.draining() {
            // Let in just before the node began to drain, and not there when the others were told.
            self.leave();
        }
        match self.connection.take() {
            Some(connection) => {
                let limit = self.worker.policy.max_message_bytes;
                ctx.spawn(Io::new(connection, limit, self.worker.patience, self.session.only_latest()));
            }
            None => ctx.stop(),
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(key) = self.key.take() {
            self.worker.hub.exit(key, self.effects.rooms());
        }
        self.lose();
        self.worker.traffic.open.of(self.way).take(1);
        self.worker.traffic.states[self.state as usize].take(1);
        let reason = self.session.reason();
        self.note("disconnected", reason.unwrap_or("connection lost"));
        self.worker.metrics.session_ended(reason);
        tracing::debug!(session = %self.session.id(), user = %self.session.identity().user_id, ?reason, "ended");
    }
}

impl Handler<Deliver> for SessionActor {
    type Result = ();

    fn handle(&mut self, Deliver(batches): Deliver, _: &mut Self::Context) {
        if self.gone {
            return;
        }
        let now = clock::now();
        self.worker.policies.apply(&mut self.session);
        for batch in &batches {
            self.session.handle_batch(now, batch);
            if let Some(witness) = batch.witness() {
                self.witnesses.push(witness.clone());
            }
        }
    }
}

impl Handler<Notice> for SessionActor {
    type Result = ();

    fn handle(&mut self, Notice(batch): Notice, _: &mut Self::Context) {
        self.session.handle_notice(clock::now(), &batch);
    }
}

impl Handler<Close> for SessionActor {
    type Result = ();

    fn handle(&mut self, Close(code): Close, _: &mut Self::Context) {
        match code {
            CloseCode::GoingAway => self.leave(),
            CloseCode::Overloaded => {
                let retry_after = SHED_LEAST_MS + rand::random_range(0..=SHED_SPREAD_MS);
                self.session.shed(clock::now(), retry_after);
            }
            code => self.session.close(code),
        }
    }
}

impl Handler<Weigh> for SessionActor {
    type Result = ();

    fn handle(&mut self, Weigh(reply): Weigh, _: &mut Self::Context) {
        // Where the socket takes nothing, as much as it may was taken from the session.
        let ahead = if self.stalled.is_some() { WRITE_AHEAD } else { 0 };
        let _ = reply.send((self.session.queued_bytes() + ahead, self.session.quality(clock::now())));
    }
}

impl Handler<Describe> for SessionActor {
    type Result = ();

    fn handle(&mut self, Describe(reply): Describe, _: &mut Self::Context) {
        let mut rooms: Vec<_> = self.session.rooms().map(|(room, _)| room.clone()).collect();
        rooms.sort_unstable();
        let counters = self.session.counters();
        let _ = reply.send(SessionInfo {
            session_id: self.session.id().clone(),
            user_id: self.session.identity().user_id.clone(),
            node_id: self.worker.policy.node_id.clone(),
            protocol: self.session.encoding().name().into(),
            remote: self.remote,
            state: self
                .session
                .state(clock::now(), self.stalled.is_some_and(|since| since.elapsed() >= BLOCKED)),
            connected_at: self.session.connected_at(),
            rooms,
            messages_in: counters.messages_in,
            notifications_out: counters.notifications_out,
            conflated: counters.conflated,
            queued_bytes: self.session.queued_bytes(),
            round_trip_ms: self.session.round_trip_ms(),
            quality: self.session.quality(clock::now()),
        });
    }
}

/// Bytes that were taken from a session and not yet by the socket.
#[derive(Debug, Default)]
struct WriteQueue {
    chunks: VecDeque<(Bytes, Mark)>,
    bytes: usize,
}

impl WriteQueue {
    fn push(&mut self, chunk: Bytes, mark: Mark) {
        self.bytes += chunk.len();
        self.chunks.push_back((chunk, mark));
    }

    /// Forgets the bytes that the socket took, and tells what was written whole.
    fn advance(&mut self, mut taken: usize, mut written: impl FnMut(Mark)) {
        self.bytes -= taken;
        while let Some((front, mark)) = self.chunks.front_mut() {
            if front.len() > taken {
                bytes::Buf::advance(front, taken);
                return;
            }
            taken -= front.len();
            if mark.messages > 0 {
                written(*mark);
            }
            self.chunks.pop_front();
        }
        // An idle connection holds no queue.
        self.chunks = VecDeque::new();
    }
}
