//! What a gateway and a node say to each other over a link, which carries one client's session.
//!
//! A record is a length (4 bytes, little endian, of what follows), a kind (1 byte) and a body. Towards the node: how the
//! session begins or goes on, and the client's messages as whole WebSocket frames, numbered. Towards the gateway: frames
//! for the client, each with what a gateway has to know to continue the session elsewhere once these frames are with it:
//! see [`Note`]. Nobody parses a payload on the way.
//!
//! Invariants: a record has a bounded size; what is not a record is an error that ends the link, never a panic.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::encode::Encoding;
use crate::identity::Identity;
use crate::session::{Handshake, Snapshot, SubscriptionSnapshot};

/// Version of this protocol; both ends must have the same.
pub const VERSION: u32 = 2;
/// Largest record, in bytes.
pub const MAX_RECORD: usize = 64 * 1024 * 1024;

/// Bytes before a body.
const HEAD: usize = 5;

const OPEN: u8 = 1;
const ATTACH: u8 = 2;
const UP: u8 = 3;
const FREEZE: u8 = 4;
const PING: u8 = 5;
const DATA: u8 = 16;
const FROZEN: u8 = 17;
const ENDED: u8 = 18;
const REFUSED: u8 = 19;
const PONG: u8 = 20;

const HAS_DONE: u8 = 1;
const HAS_POSITION: u8 = 2;
const HAS_CHANGE: u8 = 4;

/// The bytes are not records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A record larger than [`MAX_RECORD`], or an empty one.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// A kind that this end does not take.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    /// A body that is cut off or does not parse.
    #[error("a broken record: {0}")]
    Body(String),
}

/// A client that a gateway took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// [`VERSION`].
    pub version: u32,
    /// The session's id, made by the gateway: publishes that are asked again are known by it, also when the first node
    /// died before it had answered anything.
    pub session_id: String,
    /// How it wants to be spoken to.
    pub encoding: Encoding,
    /// Arrays of notifications are allowed.
    pub batch: bool,
    /// Bytes a second that it wants at most; 0 for any.
    #[serde(default)]
    pub max_bandwidth: u64,
    /// Its credential, if it has one.
    pub token: Option<String>,
    /// Its address, for operators.
    pub remote: String,
    /// A Socket.IO client's, with `encoding` [`Encoding::SocketIo`].
    #[serde(default)]
    pub socketio: Option<Handshake>,
}

/// A session that goes on here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// [`VERSION`].
    pub version: u32,
    /// Where it stands.
    pub snapshot: Snapshot,
    /// The client's address, for operators.
    pub remote: String,
}

/// A record for a node.
#[derive(Debug)]
pub enum ToNode<'a> {
    /// A new session.
    Open(Open),
    /// One that is continued.
    Attach(Box<Attach>),
    /// One message of the client, numbered from 1: all its frames, masked as they came.
    Up(u64, &'a mut [u8]),
    /// Write what is queued, then [`ToGateway::Frozen`], and forget the session: it goes on elsewhere.
    Freeze,
    /// Answer with [`ToGateway::Pong`].
    Ping,
}

/// A record for a gateway.
#[derive(Debug, PartialEq, Eq)]
pub enum ToGateway<'a> {
    /// Frames for the client, perhaps none, and what changed with them.
    Data(Note, &'a [u8]),
    /// Everything that was queued is written, and nothing more will be done for the session.
    Frozen,
    /// The session is over; the client was told why.
    Ended,
    /// The session is not taken, for the reason given; another node may take it.
    Refused(String),
    /// The answer to a ping.
    Pong,
}

/// What is true once some frames are with the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// The client's messages with these numbers are done with, their answer among these frames.
    pub done: Option<Done>,
    /// Where a subscription stands.
    pub position: Option<SlotPosition>,
    /// What else changed of the session.
    pub change: Option<Change>,
}

/// Numbers of a client's messages that have one answer: several where attachments belong to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The first.
    pub first: u64,
    /// The last; the same mostly.
    pub last: u64,
}

impl Done {
    /// One message.
    #[must_use]
    pub fn one(number: u64) -> Self {
        Self { first: number, last: number }
    }
}

/// Where a subscription stands, within its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPosition {
    /// The subscription, see [`SubscriptionSnapshot::slot`].
    pub slot: u32,
    /// Sequence number of the last message that was sent.
    pub seq: u64,
    /// See [`SubscriptionSnapshot::carried`].
    pub carried: u64,
}

/// A change of a session's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The session began.
    Began(Box<Snapshot>),
    /// A subscription is new, or stands elsewhere.
    Subscribed(Box<SubscriptionSnapshot>),
    /// The subscription with this slot ended.
    Left(u32),
    /// The session has another identity.
    Identity(Box<Identity>),
}

fn record(kind: u8, parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(HEAD + length);
    put_head(&mut out, kind, length);
    for part in parts {
        out.put_slice(part);
    }
    out.freeze()
}

fn put_head(out: &mut BytesMut, kind: u8, body: usize) {
    out.put_u32_le(u32::try_from(body + 1).unwrap_or(u32::MAX));
    out.put_u8(kind);
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl ToNode<'_> {
    /// A record's bytes. Messages of the client are written by [`up`] without a copy of this type.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Open(open) => record(OPEN, &[&json(open)]),
            Self::Attach(attach) => record(ATTACH, &[&json(attach)]),
            Self::Up(number, frames) => up(*number, frames),
            Self::Freeze => record(FREEZE, &[]),
            Self::Ping => record(PING, &[]),
        }
    }

    fn decode(kind: u8, body: &mut [u8]) -> Result<ToNode<'_>, LinkError> {
        Ok(match kind {
            OPEN => ToNode::Open(parse(body)?),
            ATTACH => ToNode::Attach(Box::new(parse(body)?)),
            UP => {
                let Some((number, frames)) = body.split_first_chunk_mut::<8>() else { return Err(cut()) };
                ToNode::Up(u64::from_le_bytes(*number), frames)
            }
            FREEZE => ToNode::Freeze,
            PING => ToNode::Ping,
            other => return Err(LinkError::Kind(other)),
        })
    }
}

/// One message of the client, for the node.
#[must_use]
pub fn up(number: u64, frames: &[u8]) -> Bytes {
    record(UP, &[&number.to_le_bytes(), frames])
}

impl ToGateway<'_> {
    /// A record's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Data(note, frames) => {
                let head = data_head(note, frames.len());
                let mut out = BytesMut::from(&head[..]);
                out.put_slice(frames);
                out.freeze()
            }
            Self::Frozen => record(FROZEN, &[]),
            Self::Ended => record(ENDED, &[]),
            Self::Refused(reason) => record(REFUSED, &[reason.as_bytes()]),
            Self::Pong => record(PONG, &[]),
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Result<ToGateway<'_>, LinkError> {
        Ok(match kind {
            DATA => {
                let (note, frames) = Note::decode(body)?;
                ToGateway::Data(note, frames)
            }
            FROZEN => ToGateway::Frozen,
            ENDED => ToGateway::Ended,
            REFUSED => ToGateway::Refused(String::from_utf8_lossy(body).into_owned()),
            PONG => ToGateway::Pong,
            other => return Err(LinkError::Kind(other)),
        })
    }
}

/// What stands before `frames` bytes of frames, so that these need no copy.
#[must_use]
pub fn data_head(note: &Note, frames: usize) -> Bytes {
    let change = note.change.as_ref().map(json).unwrap_or_default();
    let flags = [
        (note.done.is_some(), HAS_DONE),
        (note.position.is_some(), HAS_POSITION),
        (note.change.is_some(), HAS_CHANGE),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    let mut out = BytesMut::with_capacity(HEAD + 48 + change.len());
    put_head(&mut out, DATA, 0);
    out.put_u8(flags);
    if let Some(Done { first, last }) = note.done {
        out.put_u64_le(first);
        out.put_u64_le(last);
    }
    if let Some(SlotPosition { slot, seq, carried }) = note.position {
        out.put_u32_le(slot);
        out.put_u64_le(seq);
        out.put_u64_le(carried);
    }
    if note.change.is_some() {
        out.put_u32_le(change.len() as u32);
        out.put_slice(&change);
    }
    let length = u32::try_from(out.len() - 4 + frames).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out.freeze()
}

impl Note {
    fn decode(body: &[u8]) -> Result<(Self, &[u8]), LinkError> {
        let mut rest = body;
        let [flags] = *take::<1>(&mut rest)?;
        let mut note = Self::default();
        if flags & HAS_DONE != 0 {
            let first = u64::from_le_bytes(*take(&mut rest)?);
            let last = u64::from_le_bytes(*take(&mut rest)?);
            note.done = Some(Done { first, last });
        }
        if flags & HAS_POSITION != 0 {
            let slot = u32::from_le_bytes(*take(&mut rest)?);
            let seq = u64::from_le_bytes(*take(&mut rest)?);
            let carried = u64::from_le_bytes(*take(&mut rest)?);
            note.position = Some(SlotPosition { slot, seq, carried });
        }
        if flags & HAS_CHANGE != 0 {
            let length = u32::from_le_bytes(*take(&mut rest)?) as usize;
            let change = rest.split_at_checked(length);
            let (change, frames) = change.ok_or_else(cut)?;
            note.change = Some(parse(change)?);
            rest = frames;
        }
        Ok((note, rest))
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], LinkError> {
    let (first, later) = rest.split_first_chunk::<N>().ok_or_else(cut)?;
    *rest = later;
    Ok(first)
}

fn cut() -> LinkError {
    LinkError::Body("cut off".into())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, LinkError> {
    serde_json::from_slice(body).map_err(|error| LinkError::Body(error.to_string()))
}

/// Puts records together from the bytes of one direction of a link.
#[derive(Debug, Default)]
pub struct Records {
    partial: BytesMut,
}

impl Records {
    /// Consumes bytes that came at a node, and calls `sink` for every complete record. It returns false to stop early;
    /// the rest is then kept for the next call.
    ///
    /// # Errors
    /// At the first byte that is not of a record; the link is to be closed.
    pub fn feed_node(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(ToNode<'_>) -> bool,
    ) -> Result<(), LinkError> {
        self.feed(input, |kind, body| Ok(sink(ToNode::decode(kind, body)?)))
    }

    /// The same for bytes that came at a gateway.
    ///
    /// # Errors
    /// As for [`feed_node`](Self::feed_node).
    pub fn feed_gateway(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(ToGateway<'_>) -> bool,
    ) -> Result<(), LinkError> {
        self.feed(input, |kind, body| Ok(sink(ToGateway::decode(kind, body)?)))
    }

    fn feed(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(u8, &mut [u8]) -> Result<bool, LinkError>,
    ) -> Result<(), LinkError> {
        self.partial.extend_from_slice(input);
        let mut at = 0;
        while let Some(head) = self.partial.get(at..at + HEAD) {
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = head[4];
            if length == 0 || length > MAX_RECORD {
                return Err(LinkError::Length(length));
            }
            let Some(body) = self.partial.get_mut(at + HEAD..at + 4 + length) else { break };
            at += 4 + length;
            if !sink(kind, body)? {
                break;
            }
        }
        bytes::Buf::advance(&mut self.partial, at);
        if self.partial.is_empty() && self.partial.capacity() > 4_096 {
            self.partial = BytesMut::new();
        }
        Ok(())
    }

    /// True while bytes wait that were not handed over.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        !self.partial.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_come_out_as_they_went_in_however_they_are_cut() {
        let note = Note {
            done: Some(Done { first: 7, last: 8 }),
            position: Some(SlotPosition { slot: 3, seq: 9, carried: 2 }),
            change: Some(Change::Left(4)),
        };
        let all = [
            ToGateway::Data(note, b"frames"),
            ToGateway::Data(Note::default(), b""),
            ToGateway::Frozen,
            ToGateway::Ended,
            ToGateway::Refused("full".into()),
            ToGateway::Pong,
        ];
        let bytes: Vec<u8> = all.iter().flat_map(|record| record.encode()).collect();
        for size in [1, 2, 7, bytes.len()] {
            let mut records = Records::default();
            let mut seen = 0;
            for part in bytes.chunks(size) {
                let sink = |record: ToGateway<'_>| {
                    assert_eq!(record, all[seen]);
                    seen += 1;
                    true
                };
                records.feed_gateway(part, sink).unwrap();
            }
            assert_eq!((seen, records.has_rest()), (all.len(), false));
        }
    }

    proptest! {
        #[test]
        fn anything_is_a_record_or_an_error(bytes: Vec<u8>) {
            let _ = Records::default().feed_gateway(&bytes, |_| true);
            let _ = Records::default().feed_node(&bytes, |_| true);
        }
    }
}
