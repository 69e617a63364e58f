//! What goes into a session and comes out of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::encode::Encoding;
use crate::error::{ErrorCode, Failure};
use crate::identity::Identity;
use crate::market::{Ask, Backfill};
use crate::message::{History, Message, Publish, Replay};
use crate::position::Position;
use crate::room::{Classes, RoomName};

use super::{Parked, Rates};

/// The present, as an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back; only differences count.
    pub mono: u64,
    /// UTC milliseconds since the epoch.
    pub utc: u64,
}

/// How a session is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// JSON or MessagePack.
    pub encoding: Encoding,
    /// Arrays of notifications are allowed.
    pub batch: bool,
    /// Bytes a second that the client wants at most; 0 for any.
    pub max_bandwidth: u64,
    /// The client's connection is held by a gateway: what is transmitted are records of [`link`](crate::link), and the
    /// client's messages are numbered.
    pub linked: bool,
}

impl Wire {
    /// One message a frame, straight to the client.
    #[must_use]
    pub fn direct(encoding: Encoding) -> Self {
        Self { encoding, batch: false, max_bandwidth: 0, linked: false }
    }

    /// A Socket.IO client's.
    #[must_use]
    pub fn socketio() -> Self {
        Self::direct(Encoding::SocketIo)
    }
}

/// What is the same for all sessions of a node.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Name of the node, told to clients.
    pub node_id: String,
    /// Who may do what in which rooms.
    pub classes: Classes,
    /// Largest message that is accepted, in bytes.
    pub max_message_bytes: usize,
    /// Bytes of live messages that may wait for one connection; beyond it the client is a slow consumer.
    pub max_queue_bytes: usize,
    /// Milliseconds that the oldest live message may wait for one connection; beyond it the client is a slow consumer. 0 for any
    /// time.
    pub max_queue_age_ms: u64,
    /// Rooms that one session may follow.
    pub max_subscriptions: usize,
    /// Requests that may wait for others; beyond it the client is not read.
    pub max_in_flight: usize,
    /// Live messages held back per subscription while its history is read.
    pub max_gate_messages: usize,
    /// How often one client may ask.
    pub rates: Rates,
    /// Milliseconds after which a client is let go that follows no room and does nothing; 0 for never.
    pub stale_ms: u64,
    /// Milliseconds between two pings, as clients are told; those with a connection that is not good are asked more often.
    pub ping_interval_ms: u64,
    /// But no more often than this, in milliseconds.
    pub min_ping_interval_ms: u64,
    /// Milliseconds without a sign of life after which the client is gone.
    pub ping_timeout_ms: u64,
    /// Milliseconds in which a Socket.IO client has to enter a namespace.
    pub connect_timeout_ms: u64,
    /// What rooms are called that carry the ticks of a symbol, before the symbol.
    pub market_prefix: String,
    /// Something is kept for users, so who comes may have missed something.
    pub keeps_users: bool,
}

/// Names a command until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) u64);

/// What others have to do for a session.
#[derive(Debug)]
pub enum Command {
    /// First see to it that every later message of the room comes to [`Session::handle_batch`](super::Session::handle_batch), then read the
    /// position and the history. Answer with [`Reply::History`].
    Subscribe {
        /// The room.
        room: RoomName,
        /// What of its log is wanted.
        replay: Replay,
        /// What of the time-series store is wanted before that: then answer with [`Reply::Stitched`].
        backfill: Option<Backfill>,
    },
    /// Messages of the room are not wanted any more. Not answered.
    Unsubscribe(RoomName),
    /// Answer with [`Reply::Published`]; publishes of a session keep their order.
    Publish(Publish),
    /// Answer with [`Reply::History`].
    History {
        /// The room.
        room: RoomName,
        /// What of its log is wanted.
        replay: Replay,
    },
    /// Check a token. Answer with [`Reply::Identity`].
    Authenticate(String),
    /// Check the credential of a client that enters, if it has one. Answer with [`Reply::Identity`].
    Identify(Option<String>),
    /// Look for the session that was parked under this name, on any node, and take it from there. Answer with
    /// [`Reply::Parked`].
    Unpark(String),
    /// Find out who is in a room over the whole cluster. Answer with [`Reply::Presence`].
    Presence(RoomName),
    /// Do what is asked of market data and of what is kept for users. Answer with [`Reply::Data`].
    Ask {
        /// Who asks.
        user_id: String,
        /// What.
        ask: Ask,
    },
    /// Look for what happened to a user's alerts and was not acknowledged. Answer with [`Reply::Missed`].
    Missed(String),
}

/// Who is in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Sessions that follow it.
    pub count: u64,
    /// Their users, sorted, each once; not all where there are very many.
    pub users: Vec<String>,
}

/// The answer to a command.
#[derive(Debug)]
pub enum Reply {
    /// To [`Command::Subscribe`] and [`Command::History`].
    History(Result<History, Failure>),
    /// To [`Command::Subscribe`] with `backfill`.
    Stitched(Result<Stitched, Failure>),
    /// To [`Command::Ask`]: JSON text.
    Data(Result<String, Failure>),
    /// To [`Command::Missed`]: hits as JSON text, the oldest first.
    Missed(Vec<String>),
    /// To [`Command::Publish`].
    Published(Result<Position, Failure>),
    /// To [`Command::Authenticate`] and [`Command::Identify`].
    Identity(Result<Identity, Failure>),
    /// To [`Command::Presence`].
    Presence(Result<Presence, Failure>),
    /// To [`Command::Unpark`].
    Parked(Option<Box<Parked>>),
}

/// A room's log, and what the time-series store has before it.
#[derive(Debug, Clone)]
pub struct Stitched {
    /// Messages that end where `history` begins, in order and without a gap.
    pub older: Vec<Arc<Message>>,
    /// There is nothing in the store that was asked for and is not here.
    pub complete: bool,
    /// Of the log.
    pub history: History,
}

/// Something that operators count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrence {
    /// A request was answered with an error.
    Failed(ErrorCode),
    /// A client came back and asked for what it missed.
    Recovered {
        /// It got all of it.
        complete: bool,
    },
    /// A subscription was told by `resync` that messages are lost to it.
    Resync,
    /// The connection was measured by a ping, and has this score.
    Rated(u8),
}

/// What a session did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages from the client.
    pub messages_in: u64,
    /// Notifications queued or written.
    pub notifications_out: u64,
    /// Bytes handed to the connection.
    pub bytes_out: u64,
    /// Messages that a newer one replaced.
    pub conflated: u64,
    /// Requests answered with an error.
    pub errors: u64,
}
