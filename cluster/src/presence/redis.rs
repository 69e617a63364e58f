//! The register in Redis: the sorted set `tm:{room}:presence` holds attendees by the time at which they expire.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisResult, Script};
use tickmesh_protocol::room::RoomName;

use super::{Attendee, Presence};
use crate::broker::BrokerError;
use crate::redis::{Commands, Health, room_key, scripts};

/// The register.
pub struct RedisPresence {
    commands: Commands,
    health: Arc<Health>,
    script: Script,
}

impl RedisPresence {
    pub(crate) fn new(commands: Commands, health: Arc<Health>) -> Self {
        Self { commands, health, script: scripts::presence() }
    }

    async fn run(
        &self,
        room: &RoomName,
        what: &str,
        lease: Duration,
        attendees: &[Attendee],
    ) -> Result<Vec<Attendee>, BrokerError> {
        let mut connection = self.commands.get()?;
        let key = room_key(room.as_str(), ":presence");
        let mut invocation = self.script.key(&key);
        invocation.arg(what).arg(lease.as_millis() as u64);
        for attendee in attendees {
            invocation.arg(serde_json::to_string(attendee).unwrap_or_default());
        }
        let answer: RedisResult<Vec<String>> = invocation.invoke_async(&mut connection).await;
        let texts = answer.map_err(|error| self.commands.failed(&key, &error))?;
        let attendee = |text: &String| match serde_json::from_str(text) {
            Ok(attendee) => Some(attendee),
            Err(error) => {
                self.health.found_garbage(&key, &error.to_string());
                None
            }
        };
        Ok(texts.iter().filter_map(attendee).collect())
    }
}

#[async_trait]
impl Presence for RedisPresence {
    async fn enter(
        &self,
        room: &RoomName,
        attendees: &[Attendee],
        lease: Duration,
    ) -> Result<Vec<Attendee>, BrokerError> {
        self.run(room, "enter", lease, attendees).await
    }

    async fn leave(&self, room: &RoomName, attendees: &[Attendee]) -> Result<Vec<Attendee>, BrokerError> {
        self.run(room, "leave", Duration::ZERO, attendees).await
    }

    async fn expire(&self, room: &RoomName) -> Result<Vec<Attendee>, BrokerError> {
        self.run(room, "expire", Duration::ZERO, &[]).await
    }
}
