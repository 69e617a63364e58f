//! The log of alarms, read: how each stands, and what changed since it was read last.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_protocol::alarm::{ALARM_EVENT, Alarm};
use tickmesh_protocol::message::{Message, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::vitals::ALERTS_ROOM;

/// Messages that are read where nothing is known.
const READ: usize = 5_000;
/// How long an alarm that is over is told of, in milliseconds.
const TOLD_MS: u64 = 3_600_000;

/// An alarm and its place in the log.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    pub(super) seq: u64,
    pub(super) alarm: Alarm,
}

#[derive(Debug, Default)]
struct Read {
    position: Option<Position>,
    alarms: BTreeMap<String, Noted>,
}

/// See the module's documentation.
pub(super) struct Board {
    broker: Arc<dyn Broker>,
    read: Mutex<Read>,
}

impl Board {
    pub(super) fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, read: Mutex::default() }
    }

    /// Reads what is new.
    pub(super) async fn refresh(&self) -> Result<(), BrokerError> {
        let room = room(ALERTS_ROOM)?;
        let from = self.read.lock().position.clone();
        let mut whole = from.is_none();
        let replay = from.map_or(Replay::Last(READ), Replay::After);
        let mut history = self.broker.history(&room, replay).await?;
        if !whole && !history.complete {
            history = self.broker.history(&room, Replay::Last(READ)).await?;
            whole = true;
        }
        let mut read = self.read.lock();
        let held = read.position.as_ref();
        // Somebody else has read further meanwhile.
        if held.is_some_and(|held| held.epoch == history.position.epoch && held.seq > history.position.seq) {
            return Ok(());
        }
        if whole {
            read.alarms.clear();
        }
        for message in &history.messages {
            read.note(message);
        }
        read.position = Some(history.position);
        Ok(())
    }

    /// How an alarm stands in the log.
    pub(super) fn of(&self, id: &str) -> Option<Noted> {
        self.read.lock().alarms.get(id).cloned()
    }

    /// Those that fire, with their places, and the place of the newest message.
    pub(super) fn firing(&self) -> (u64, Vec<Noted>) {
        let read = self.read.lock();
        let newest = read.position.as_ref().map_or(0, |position| position.seq);
        (newest, read.alarms.values().filter(|noted| noted.alarm.is_firing()).cloned().collect())
    }

    /// Those that fire, and those that were over lately.
    pub(super) fn listed(&self, now: u64) -> Vec<Alarm> {
        let mut read = self.read.lock();
        let told = |alarm: &Alarm, within: u64| alarm.is_firing() || alarm.at.saturating_add(within) > now;
        // Their places are needed for as long as a `message_id` that names one may be remembered.
        read.alarms.retain(|_, noted| told(&noted.alarm, 2 * TOLD_MS));
        read.alarms.values().map(|noted| noted.alarm.clone()).filter(|alarm| told(alarm, TOLD_MS)).collect()
    }
}

impl Read {
    fn note(&mut self, message: &Message) {
        let Some(alarm) = alarm_of(message) else { return };
        match self.alarms.get(&alarm.id) {
            Some(known) if known.seq >= message.seq => {}
            _ => {
                self.alarms.insert(alarm.id.clone(), Noted { seq: message.seq, alarm });
            }
        }
    }
}

/// The alarm that a message tells of; none for what another version wrote there.
pub(super) fn alarm_of(message: &Message) -> Option<Alarm> {
    (&*message.event == ALARM_EVENT).then(|| serde_json::from_str(message.data.get()).ok()).flatten()
}

/// The names here are all valid; this only keeps that from being taken on trust.
pub(super) fn room(name: &str) -> Result<RoomName, BrokerError> {
    RoomName::new(name).map_err(|error| BrokerError::Damaged(error.to_string()))
}
