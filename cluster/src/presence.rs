//! Who is in the rooms whose class announces joins and leaves, so that also the leaves of sessions whose node died are
//! announced, once.
//!
//! It is a register for those announcements alone; who is in a room now is asked of the nodes themselves.

pub mod memory;
pub mod redis;
#[cfg(any(test, feature = "conformance"))]
pub mod suite;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tickmesh_protocol::room::RoomName;

use crate::broker::BrokerError;

/// A session in a room.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attendee {
    /// Its id.
    pub session_id: String,
    /// Whose it is.
    pub user_id: String,
}

/// The register.
///
/// # Guarantees
///
/// * **Once.** Of all who enter, leave or expire the same attendee, exactly one is told so.
/// * **Lease.** An attendee that was not entered again for as long as was said when it was expires, and not before.
#[async_trait]
pub trait Presence: Send + Sync + 'static {
    /// Enters attendees, or renews them; answers with those who were not there.
    async fn enter(
        &self,
        room: &RoomName,
        attendees: &[Attendee],
        lease: Duration,
    ) -> Result<Vec<Attendee>, BrokerError>;

    /// Removes attendees; answers with those who were there.
    async fn leave(&self, room: &RoomName, attendees: &[Attendee]) -> Result<Vec<Attendee>, BrokerError>;

    /// Removes those who expired, and answers with them.
    async fn expire(&self, room: &RoomName) -> Result<Vec<Attendee>, BrokerError>;
}
