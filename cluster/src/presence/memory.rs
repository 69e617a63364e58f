//! The register of a single process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tickmesh_protocol::room::RoomName;
use tokio::time::Instant;

use super::{Attendee, Presence};
use crate::broker::BrokerError;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryPresence {
    rooms: Arc<Mutex<FxHashMap<RoomName, FxHashMap<Attendee, Instant>>>>,
}

#[async_trait]
impl Presence for MemoryPresence {
    async fn enter(
        &self,
        room: &RoomName,
        attendees: &[Attendee],
        lease: Duration,
    ) -> Result<Vec<Attendee>, BrokerError> {
        let mut rooms = self.rooms.lock();
        let room = rooms.entry(room.clone()).or_default();
        let until = Instant::now() + lease;
        let enter = |attendee: &&Attendee| room.insert((*attendee).clone(), until).is_none();
        Ok(attendees.iter().filter(enter).cloned().collect())
    }

    async fn leave(&self, room: &RoomName, attendees: &[Attendee]) -> Result<Vec<Attendee>, BrokerError> {
        let mut rooms = self.rooms.lock();
        let Some(held) = rooms.get_mut(room) else { return Ok(Vec::new()) };
        let left = attendees.iter().filter(|attendee| held.remove(attendee).is_some()).cloned().collect();
        if held.is_empty() {
            rooms.remove(room);
        }
        Ok(left)
    }

    async fn expire(&self, room: &RoomName) -> Result<Vec<Attendee>, BrokerError> {
        let now = Instant::now();
        let mut rooms = self.rooms.lock();
        let Some(held) = rooms.get_mut(room) else { return Ok(Vec::new()) };
        Ok(held.extract_if(|_, until| *until <= now).map(|(attendee, _)| attendee).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::suite;

    #[tokio::test]
    async fn conformance() {
        suite::run(&MemoryPresence::default()).await;
    }
}
