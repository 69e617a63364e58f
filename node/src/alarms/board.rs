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

    /// Reads what is new, and forgets what was over long before `now`, in UTC milliseconds.
    pub(super) async fn refresh(&self, now: u64) -> Result<(), BrokerError> {
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
        // Their places are needed for as long as a `message_id` that names one may be remembered.
        read.alarms.retain(|_, noted| is_told(&noted.alarm, 2 * TOLD_MS, now));
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
        let read = self.read.lock();
        let alarms = read.alarms.values().map(|noted| &noted.alarm);
        alarms.filter(|alarm| is_told(alarm, TOLD_MS, now)).cloned().collect()
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

/// Whether an alarm fires, or was over within so many milliseconds.
fn is_told(alarm: &Alarm, within: u64, now: u64) -> bool {
    alarm.is_firing() || alarm.at.saturating_add(within) > now
}

/// The alarm that a message tells of; none for what another version wrote there.
pub(super) fn alarm_of(message: &Message) -> Option<Alarm> {
    (&*message.event == ALARM_EVENT).then(|| serde_json::from_str(message.data.get()).ok()).flatten()
}

/// The names here are all valid; this only keeps that from being taken on trust.
pub(super) fn room(name: &str) -> Result<RoomName, BrokerError> {
    RoomName::new(name).map_err(|error| BrokerError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde_json::json;
    use serde_json::value::to_raw_value;
    use tickmesh_cluster::broker::inbox;
    use tickmesh_cluster::broker::memory::MemoryCluster;
    use tickmesh_protocol::message::Publish;
    use tickmesh_protocol::room::Classes;

    use super::*;

    #[tokio::test]
    async fn what_was_over_long_ago_is_forgotten_though_nobody_asks() {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let clock = now.clone();
        let cluster = MemoryCluster::new(Classes::default(), Arc::new(move || clock.load(Ordering::Relaxed)));
        let (inbox, _events) = inbox(16);
        let broker: Arc<dyn Broker> = Arc::new(cluster.connect(inbox));
        let board = Board::new(broker.clone());
        for (id, state) in [("over", "resolved"), ("lasts", "firing")] {
            let alarm = json!({"id": id, "rule": "node_lost", "severity": "warning", "subject": "", "state": state,
                "since": 1, "at": 1_000_000, "value": 1, "threshold": 0, "unit": "", "text": ""});
            let publish = Publish {
                room: room(ALERTS_ROOM).unwrap(),
                event: ALARM_EVENT.into(),
                data: to_raw_value(&alarm).unwrap(),
                message_id: None,
                key: None,
                timestamp: None,
                trace: None,
            };
            broker.publish(vec![publish]).await.pop().unwrap().unwrap();
        }
        let held = async |at: u64| {
            now.store(at, Ordering::Relaxed);
            board.refresh(at).await.unwrap();
            ["over", "lasts"].map(|id| board.of(id).is_some())
        };
        assert_eq!(held(1_000_000 + 2 * TOLD_MS - 1).await, [true, true], "its place may be asked for");
        assert_eq!(held(1_000_000 + 2 * TOLD_MS).await, [false, true]);
    }
}
