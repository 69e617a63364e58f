//! Messages of one room on their way to its subscribers, encoded once for all of them.
//!
//! Invariants: the messages of a batch follow each other without a gap; an encoding is made at most once per
//! (message, encoding, field set), by whichever subscriber asks first, and shared as counted bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

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
    bytes: usize,
    urgent: bool,
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

/// Bytes of a notification beyond its data, roughly.
const OVERHEAD: usize = 150;

/// Bytes above which messages do not go on together: what a session is given as one leaves its queue as one, and it is
/// the queue that is bounded.
const LARGEST: usize = 64 * 1024;

fn size(message: &Message) -> usize {
    message.data.get().len() + OVERHEAD
}

/// Messages in parts that are not too large to be a batch each; no messages are one part.
#[must_use]
pub fn parts(messages: Vec<Arc<Message>>) -> Vec<Vec<Arc<Message>>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for message in messages {
        let more = size(&message);
        if bytes > 0 && bytes + more > LARGEST {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(part) = parts.last_mut() {
            part.push(message);
        }
    }
    parts
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
        let bytes = messages.iter().map(|message| size(message)).sum();
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
        Self { room, start, messages, handed_at, bytes, urgent: false, joined, arrays, witness: None }
    }

    /// The same, not to be kept waiting for others.
    #[must_use]
    pub fn urgent(self, urgent: bool) -> Self {
        Self { urgent, ..self }
    }

    /// Whether it is not to be kept waiting for others.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Puts batches of one room together where they follow each other: those that go on together are encoded and written
    /// as one, unless that is too large. What somebody watches stays by itself, and so does what only tells a position.
    #[must_use]
    pub fn merged(batches: &[Arc<Self>]) -> SmallVec<[Arc<Self>; 1]> {
        let alone = |batch: &Arc<Self>| batch.witness.is_some() || batch.is_empty();
        let mut runs = SmallVec::new();
        let mut rest = batches;
        while let [first, ..] = rest {
            let (mut count, mut bytes) = (1, first.bytes);
            while let Some([last, next]) = rest.get(count - 1..=count) {
                let follows = last.start.epoch == next.start.epoch && last.end().seq == next.start.seq;
                bytes += next.bytes;
                if alone(last) || alone(next) || !follows || bytes > LARGEST {
                    break;
                }
                count += 1;
            }
            let (run, after) = rest.split_at(count);
            runs.push(if let [only] = run { only.clone() } else { Arc::new(Self::joining(run)) });
            rest = after;
        }
        runs
    }

    /// Of a run that is not empty.
    fn joining(run: &[Arc<Self>]) -> Self {
        let (joined, arrays) = Default::default();
        Self {
            room: run[0].room.clone(),
            start: run[0].start.clone(),
            messages: run.iter().flat_map(|batch| batch.messages.iter().cloned()).collect(),
            handed_at: run[0].handed_at,
            bytes: run.iter().map(|batch| batch.bytes).sum(),
            urgent: false,
            joined,
            arrays,
            witness: None,
        }
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

    /// About how many bytes a subscriber is sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
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
        let join = || match encoding {
            Encoding::SocketIo => encode::socketio_batch(&self.room, &self.messages),
            // Events of market streams stand by themselves.
            Encoding::SocketIoStream => self.joined(encoding),
            Encoding::Json | Encoding::Msgpack => encode::array_frame(self.frames(encoding).iter(), encoding),
        };
        self.arrays[encoding as usize].get_or_init(join).clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::encode::payload_of;
    use crate::position::Epoch;

    fn message(seq: u64) -> Arc<Message> {
        Arc::new(Message {
            seq,
            timestamp: seq,
            accepted_at: 0,
            event: "e".into(),
            key: None,
            data: RawValue::from_string(seq.to_string()).unwrap(),
            trace: None,
        })
    }

    fn batch(epoch: &str, seqs: std::ops::Range<u64>) -> Arc<Batch> {
        let start = Position { epoch: Epoch::new(epoch), seq: seqs.start - 1 };
        Arc::new(Batch::new(RoomName::new("r").unwrap(), start, seqs.map(message).collect(), 1))
    }

    #[test]
    fn only_what_follows_is_put_together() {
        let batches =
            [batch("a", 1..3), batch("a", 3..4), batch("a", 6..7), batch("b", 7..9), batch("b", 9..9)];
        let merged: Vec<_> = Batch::merged(&batches).iter().map(|one| (one.start().seq, one.len())).collect();
        assert_eq!(merged, [(0, 3), (5, 1), (6, 2), (8, 0)]);
    }

    #[test]
    fn what_is_large_goes_in_parts() {
        let large = |seq| {
            let data = RawValue::from_string(format!(r#""{}""#, "x".repeat(20_000))).unwrap();
            Arc::new(Message { data, ..(*message(seq)).clone() })
        };
        let parts = parts((1..=8).map(large).collect());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2]);
        let huge = RawValue::from_string(format!(r#""{}""#, "x".repeat(200_000))).unwrap();
        let huge = Arc::new(Message { data: huge, ..(*message(1)).clone() });
        assert_eq!(super::parts(vec![huge, message(2)]).len(), 2);
        assert_eq!(super::parts(Vec::new()).len(), 1, "a position alone goes on as well");

        let one = |seq| {
            let start = Position { epoch: Epoch::new("a"), seq: seq - 1 };
            Arc::new(Batch::new(RoomName::new("r").unwrap(), start, vec![large(seq)], 1))
        };
        let batches: Vec<_> = (1..=8).map(one).collect();
        let merged: Vec<_> = Batch::merged(&batches).iter().map(|one| one.len()).collect();
        assert_eq!(merged, [3, 3, 2]);
    }

    proptest! {
        /// However a stream was cut into batches, what is written is the same.
        #[test]
        fn merging_changes_no_byte(cuts in prop::collection::vec(1u64..5, 1..10)) {
            let mut next = 1;
            let batches: Vec<_> = cuts.iter().map(|count| {
                let one = batch("a", next..next + count);
                next += count;
                one
            }).collect();
            let merged = Batch::merged(&batches);
            prop_assert_eq!(merged.len(), 1);
            prop_assert_eq!(merged[0].bytes(), batches.iter().map(|one| one.bytes()).sum::<usize>());
            for encoding in [Encoding::Json, Encoding::Msgpack] {
                let parts: Vec<u8> = batches.iter().flat_map(|one| one.joined(encoding)).collect();
                prop_assert_eq!(&parts[..], &merged[0].joined(encoding)[..]);
            }
            let array: Value = serde_json::from_slice(payload_of(&merged[0].array(Encoding::Json))).unwrap();
            if next > 2 {
                let seqs: Vec<u64> = array.as_array().unwrap().iter().map(|one| one["seq"].as_u64().unwrap()).collect();
                prop_assert_eq!(seqs, (1..next).collect::<Vec<_>>());
            }
        }
    }
}
