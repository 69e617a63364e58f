//! The broker: one log per room, shared by all nodes, and the live stream of what is appended to it.
//!
//! A [`Broker`] is one node's connection to it. What other nodes and this one publish comes back through the
//! [`Events`] that belong to the connection. Implementations must not know sessions or encodings.

mod inbox;
pub mod memory;
pub mod redis;
#[cfg(any(test, feature = "conformance"))]
pub mod suite;

use async_trait::async_trait;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::message::{History, Publish, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;

pub use inbox::{Event, Events, Inbox, inbox};

/// Why the broker did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker cannot be reached, or refuses. Whether a publish was kept is not known: with a `message_id` it
    /// can be sent again safely.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// No answer came in time; as for `Unavailable`, a publish may have been kept.
    #[error("the broker did not answer in time")]
    Timeout,
    /// What the broker holds under the room's name is not a log; an operator has to look at it.
    #[error("the broker holds something else where the log should be: {0}")]
    Damaged(String),
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        // To a client they are one: not now, try again. Details of the inside are for the log.
        let text = match &error {
            BrokerError::Unavailable(_) => "the broker is unavailable",
            BrokerError::Timeout => {
                "the broker did not answer in time; whether the message was kept is not known"
            }
            BrokerError::Damaged(_) => "the broker cannot serve this room",
        };
        Self::new(ErrorCode::ServiceUnavailable, text)
    }
}

/// One node's connection to the logs of all rooms.
///
/// # Guarantees
///
/// * **Sequence.** The messages of a room are numbered from 1 without a gap, whichever node they came through.
/// * **Kept.** A publish answered with a position is in the log, and stays there as long as the room's class says:
///   its newest `history_size` messages, none older than `history_ttl_s`.
/// * **Idempotent.** A `message_id` seen in the room within the class's window is not appended again: the answer is
///   the position it got first.
/// * **Epoch.** A position's epoch changes if messages of the log may have been lost, and never otherwise but for caution.
///   What was kept keeps its numbers, up to [`History::began_at`]; the numbers after it are given out anew.
/// * **Live.** After [`subscribe`](Self::subscribe) answered with position *P*, every message after *P* is offered to
///   the connection's [`Events`], in order. What does not fit into their bounded queue is dropped, and
///   [`Event::Missed`] says so: the reader then asks [`history`](Self::history) for what it lacks.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Appends messages, in order, and answers for each at the same index.
    async fn publish(&self, messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>>;

    /// Asks for the live messages of a room, and tells its position at that moment. Asking again is harmless.
    async fn subscribe(&self, room: &RoomName) -> Result<Position, BrokerError>;

    /// Ends what [`subscribe`](Self::subscribe) began; some messages may still come.
    async fn unsubscribe(&self, room: &RoomName);

    /// Reads a part of a room's log, with the position at that moment. `complete` is false if something between what
    /// was asked for and that position is gone, or the epoch asked for is another; then the messages are what there is.
    async fn history(&self, room: &RoomName, replay: Replay) -> Result<History, BrokerError>;

    /// The rooms that have a log, with their positions, in no particular order.
    async fn rooms(&self) -> Result<Vec<(RoomName, Position)>, BrokerError>;
}
