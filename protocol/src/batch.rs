//! Messages of one room on their way to its subscribers, encoded once for all of them.
//!
//! Invariants: the messages of a batch follow each other without a gap; an encoding is made at most once per
//! (message, encoding, field set), by whichever subscriber asks first, and shared as counted bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::encode::{self, Encoding};
use crate::message::{Fields, Message};
use crate::outbox::Mark;
use crate::position::Position;
use crate::room::RoomName;

/// Who wants to know when messages are written to clients.
pub trait Witness: std::fmt::Debug + Send + Sync {
    /// A session has written what it was given of a batch; `whole` is false where its socket did not take everything.
    fn written(&self, whole: bool);
}

/// Messages of a room, in order and without a gap. Without any it only says where the room's log stands, to those who
/// are elsewhere.
#[derive(Debug)]
pub struct Batch {
    room: RoomName,
    start: Position,
    messages: Box<[Arc<Prepared>]>,
    /// See [`Batch::handed_at`].
    handed_at: u64,
    /// All frames one after the other.
    joined: [OnceLock<Bytes>; Encoding::COUNT],
    /// All notifications as one array.
    arrays: [OnceLock<Bytes>; Encoding::COUNT],
    /// Of the few batches that are watched.
    witness: Option<Arc<dyn Witness>>,
}

/// One message and its encodings.
#[derive(Debug)]
pub struct Prepared {
    room: RoomName,
    message: Arc<Message>,
    /// UTC milliseconds of the encoding.
    server_time: u64,
    /// Of its batch.
    handed_at: u64,
    whole: [OnceLock<Bytes>; Encoding::COUNT],
    /// Boxed and empty for most: few rooms have subscribers with field sets.
    filtered: OnceLock<Box<Mutex<FilteredFrames>>>,
}

type FilteredFrames = FxHashMap<(Fields, Encoding), Bytes>;

impl Prepared {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message, shared.
    #[must_use]
    pub fn shared(&self) -> &Arc<Message> {
        &self.message
    }

    /// What is measured of it when it is written.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { messages: 1, accepted_at: self.message.accepted_at, handed_at: self.handed_at }
    }

    /// The message as a notification's frame; for Socket.IO two, see [`encode::frames`].
    #[must_use]
    pub fn frame(&self, encoding: Encoding, fields: Option<&Fields>) -> Bytes {
        let encode = || encode::frames(&self.room, &self.message, self.server_time, fields, encoding);
        let Some(fields) = fields else {
            return self.whole[encoding as usize].get_or_init(encode).clone();
        };
        let mut filtered = self.filtered.get_or_init(Box::default).lock();
        filtered.entry((fields.clone(), encoding)).or_insert_with(encode).clone()
    }
}

impl Batch {
    /// Takes the messages that follow the position `start`. `server_time` is in UTC milliseconds.
    #[must_use]
    pub fn new(room: RoomName, start: Position, messages: Vec<Arc<Message>>, server_time: u64) -> Self {
        Self::handed(room, start, messages, server_time, 0)
    }

    /// The same, for messages whose way is measured: `handed_at` is when it begins, in microseconds on the clock of whoever
    /// measures.
    #[must_use]
    pub fn handed(
        room: RoomName,
        start: Position,
        messages: Vec<Arc<Message>>,
        server_time: u64,
        handed_at: u64,
    ) -> Self {
        debug_assert!(messages.iter().zip(start.seq + 1..).all(|(message, seq)| message.seq == seq));
        let messages = messages
            .into_iter()
            .map(|message| Prepared {
                room: room.clone(),
                message,
                server_time,
                handed_at,
                whole: Default::default(),
                filtered: OnceLock::new(),
            })
            .map(Arc::new)
            .collect();
        let (joined, arrays) = Default::default();
        Self { room, start, messages, handed_at, joined, arrays, witness: None }
    }

    /// The same, watched by somebody.
    #[must_use]
    pub fn witnessed(mut self, witness: Arc<dyn Witness>) -> Self {
        self.witness = Some(witness);
        self
    }

    /// Who is to be told when the messages are written.
    #[must_use]
    pub fn witness(&self) -> Option<&Arc<dyn Witness>> {
        self.witness.as_ref()
    }

    /// The room of all the messages.
    #[must_use]
    pub fn room(&self) -> &RoomName {
        &self.room
    }

    /// What is measured of the messages from this index on when they are written: the oldest counts for all.
    #[must_use]
    pub fn mark(&self, from: usize) -> Mark {
        let oldest = self.messages.get(from).map_or(0, |message| message.message.accepted_at);
        let messages = self.len().saturating_sub(from) as u32;
        Mark { messages, accepted_at: oldest, handed_at: self.handed_at }
    }

    /// Where the log stood before the first message.
    #[must_use]
    pub fn start(&self) -> &Position {
        &self.start
    }

    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it tells no more than a position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Position of the last message.
    #[must_use]
    pub fn end(&self) -> Position {
        Position { epoch: self.start.epoch.clone(), seq: self.start.seq + self.len() as u64 }
    }

    /// The messages in order.
    #[must_use]
    pub fn messages(&self) -> &[Arc<Prepared>] {
        &self.messages
    }

    fn frames(&self, encoding: Encoding) -> Vec<Bytes> {
        self.messages.iter().map(|message| message.frame(encoding, None)).collect()
    }

    /// All messages as frames one after the other.
    #[must_use]
    pub fn joined(&self, encoding: Encoding) -> Bytes {
        if let [only] = &*self.messages {
            return only.frame(encoding, None);
        }
        let join = || encode::joined_messages(&self.frames(encoding), encoding);
        self.joined[encoding as usize].get_or_init(join).clone()
    }

    /// All messages as one frame: an array, or the message itself where it is the only one.
    #[must_use]
    pub fn array(&self, encoding: Encoding) -> Bytes {
        if let [only] = &*self.messages {
            return only.frame(encoding, None);
        }
        let join = || encode::array_frame(self.frames(encoding).iter(), encoding);
        self.arrays[encoding as usize].get_or_init(join).clone()
    }
}
