//! The gateway's side of one client: it holds the connection while the node behind it changes.
//!
//! The relay cuts what the client sends into messages, numbers them, and keeps each until the node is done with it. Of
//! what the node sends it keeps what has changed of the session. So at any moment it can tell another node how to go
//! on: where the session stands for what the client has, and which messages have no answer yet. It makes no
//! difference whether the old node was asked to let go or died.
//!
//! Invariants: what came from a node counts when its whole record is here, and then it reaches the client; a message
//! of the client is sent again until it is done with; nothing from a node that was left reaches the client. The relay
//! must not know sockets or clocks, and parses no payload.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::frame::{FrameError, decode_header};
use crate::link::{self, Attach, Change, Done, Note, Open, ToGateway, ToNode};
use crate::message::Delivery;
use crate::session::Snapshot;

/// Bytes of messages without an answer beyond which the client is not read.
const MAX_UNDONE_BYTES: usize = 1024 * 1024;
/// Their number beyond which it is not.
const MAX_UNDONE: usize = 1_024;

/// The machine; see the module's documentation.
#[derive(Debug)]
pub struct Relay {
    open: Open,
    messages: Messages,
    /// The session, once it began.
    held: Option<Snapshot>,
    /// Number of the client's last message.
    last: u64,
    undone: VecDeque<(u64, Bytes)>,
    undone_bytes: usize,
    phase: Phase,
    only_latest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No node has the session.
    Detached,
    /// A node has it.
    Live,
    /// It was asked to let go.
    Freezing,
    /// The session has ended.
    Over,
}

/// What follows from a record of the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Continue,
    /// The node has let go: [`attach`](Relay::attach) elsewhere.
    Frozen,
    /// The session is over: close the client's connection when it has everything.
    Ended,
    /// The node does not take the session: [`attach`](Relay::attach) elsewhere.
    Refused(String),
}

fn only_latest(session: &Snapshot) -> bool {
    let mut follows = session.subscriptions.iter().map(|one| one.delivery);
    !session.subscriptions.is_empty() && follows.all(|delivery| delivery == Delivery::Latest)
}

impl Relay {
    /// A client that wants a session. Messages of more than `max_message` bytes are refused.
    #[must_use]
    pub fn new(open: Open, max_message: usize) -> Self {
        Self {
            open,
            messages: Messages { max_message, partial: BytesMut::new(), fragments: BytesMut::new() },
            held: None,
            last: 0,
            undone: VecDeque::new(),
            undone_bytes: 0,
            phase: Phase::Detached,
            only_latest: false,
        }
    }

    /// What a node is told first, so that it begins the session or goes on with it: records for it.
    pub fn attach(&mut self, out: &mut BytesMut) {
        let first = match &self.held {
            None => ToNode::Open(self.open.clone()),
            Some(snapshot) => ToNode::Attach(Box::new(Attach {
                version: link::VERSION,
                snapshot: snapshot.clone(),
                remote: self.open.remote.clone(),
            })),
        };
        out.extend_from_slice(&first.encode());
        for (number, frames) in &self.undone {
            out.extend_from_slice(&link::up(*number, frames));
        }
        self.phase = Phase::Live;
    }

    /// The node is asked to let the session go.
    pub fn freeze(&mut self, out: &mut BytesMut) {
        if self.phase == Phase::Live {
            out.extend_from_slice(&ToNode::Freeze.encode());
            self.phase = Phase::Freezing;
        }
    }

    /// The link is lost, or is not listened to any more.
    pub fn detach(&mut self) {
        if self.phase != Phase::Over {
            self.phase = Phase::Detached;
        }
    }

    /// Takes bytes of the client; appends records for the node.
    ///
    /// # Errors
    /// When the client breaks the WebSocket protocol: close its connection with the error's code.
    pub fn handle_client(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
        let Self { messages, last, undone, undone_bytes, phase, .. } = self;
        messages.feed(input, |frames| {
            *last += 1;
            *undone_bytes += frames.len();
            if *phase == Phase::Live {
                out.extend_from_slice(&link::up(*last, &frames));
            }
            undone.push_back((*last, frames));
        })
    }

    /// Takes a record of the node; appends frames for the client.
    pub fn handle_node(&mut self, record: ToGateway<'_>, out: &mut BytesMut) -> Step {
        match record {
            ToGateway::Data(note, frames) => {
                self.note(note);
                out.extend_from_slice(frames);
                Step::Continue
            }
            ToGateway::Frozen => {
                self.detach();
                Step::Frozen
            }
            ToGateway::Ended => {
                self.phase = Phase::Over;
                Step::Ended
            }
            ToGateway::Refused(reason) => {
                self.detach();
                Step::Refused(reason)
            }
            ToGateway::Pong => Step::Continue,
        }
    }

    fn note(&mut self, note: Note) {
        if let Some(Done { first, last }) = note.done {
            let at = self.undone.partition_point(|(undone, _)| *undone < first);
            while self.undone.get(at).is_some_and(|(undone, _)| *undone <= last)
                && let Some((_, frames)) = self.undone.remove(at)
            {
                self.undone_bytes -= frames.len();
            }
        }
        if let Some(Change::Began(snapshot)) = note.change {
            self.only_latest = only_latest(&snapshot);
            self.held = Some(*snapshot);
            return;
        }
        let Some(held) = &mut self.held else { return };
        let find =
            |held: &Snapshot, slot: u32| held.subscriptions.binary_search_by_key(&slot, |one| one.slot);
        if let Some(position) = note.position
            && let Ok(at) = find(held, position.slot)
        {
            let subscription = &mut held.subscriptions[at];
            subscription.position.seq = position.seq;
            subscription.carried = position.carried;
        }
        let follows_others = matches!(note.change, Some(Change::Subscribed(_) | Change::Left(_)));
        match note.change {
            Some(Change::Subscribed(subscription)) => match find(held, subscription.slot) {
                Ok(at) => held.subscriptions[at] = *subscription,
                Err(at) => held.subscriptions.insert(at, *subscription),
            },
            Some(Change::Left(slot)) => held.subscriptions.retain(|one| one.slot != slot),
            Some(Change::Identity(identity)) => held.identity = *identity,
            Some(Change::Began(_)) | None => {}
        }
        if follows_others {
            self.only_latest = only_latest(held);
        }
    }

    /// Whether the session follows rooms, and all of them as `latest`: the client may read as slowly as it likes.
    #[must_use]
    pub fn only_latest(&self) -> bool {
        self.only_latest
    }

    /// False while the client is to be held back: too much of what it said has no answer yet.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.undone_bytes < MAX_UNDONE_BYTES && self.undone.len() < MAX_UNDONE
    }

    /// The session's id, once it began.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.held.as_ref().map(|held| held.session_id.as_str())
    }
}

/// Cuts a client's bytes into messages, by the heads of frames alone.
#[derive(Debug)]
struct Messages {
    max_message: usize,
    partial: BytesMut,
    /// Frames of a message whose last is still to come.
    fragments: BytesMut,
}

impl Messages {
    fn feed(&mut self, input: &[u8], mut sink: impl FnMut(Bytes)) -> Result<(), FrameError> {
        self.partial.extend_from_slice(input);
        while let Some(header) = decode_header(&self.partial)? {
            let too_big = FrameError::TooBig { limit: self.max_message };
            if header.mask.is_none() {
                return Err(FrameError::Unmasked);
            }
            if header.payload_len > self.max_message as u64 {
                return Err(too_big);
            }
            let length = header.header_len + header.payload_len as usize;
            if self.partial.len() < length {
                break;
            }
            let frame = self.partial.split_to(length);
            if header.opcode.is_control() || (header.fin && self.fragments.is_empty()) {
                sink(frame.freeze());
            } else {
                // Heads count as well: a message of countless empty fragments has an end, too.
                if self.fragments.len() + length > 2 * self.max_message {
                    return Err(too_big);
                }
                self.fragments.extend_from_slice(&frame);
                if header.fin {
                    sink(self.fragments.split().freeze());
                }
            }
        }
        if self.partial.is_empty() && self.fragments.is_empty() {
            (self.partial, self.fragments) = Default::default();
        }
        Ok(())
    }
}
