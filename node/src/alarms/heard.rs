//! What was heard of the processes: their newest vitals, and who was lost, from the cluster's own rooms.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_protocol::alarm::{Engine, Rule, Sample};
use tickmesh_protocol::message::{Message, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::vitals::{CLUSTER_ROOM, EVENTS_ROOM, EventData, Kind, VITALS_EVENT, Vitals};

use super::board::room;

/// Messages of the past that are read where nothing is known.
const READ: usize = 5_000;
/// Messages that are made out at a time.
const TURN: usize = 64;
/// Vitals older than this say nothing of now, in milliseconds.
const FRESH_MS: u64 = 5_000;
/// Those who were lost longer ago are forgotten.
const FORGET_MS: u64 = 20 * 60_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Heard {
    cluster: Option<Position>,
    events: Option<Position>,
    /// With the time at which each was heard, in UTC milliseconds by this process's clock.
    told: BTreeMap<String, u64>,
    vitals: BTreeMap<String, Vitals>,
    lost: BTreeMap<String, (Kind, u64)>,
    /// What was heard before this node began to look, until it is remembered.
    past: VecDeque<(u64, Vitals)>,
}

impl Heard {
    /// Reads what is new; the first time also what was told within so many milliseconds before `now`, in UTC milliseconds.
    pub(super) async fn listen(
        &mut self,
        broker: &dyn Broker,
        now: u64,
        reach_ms: u64,
    ) -> Result<(), BrokerError> {
        let (events, _) = read(broker, EVENTS_ROOM, &mut self.events).await?;
        for message in events {
            self.event(&message);
        }
        let (messages, first) = read(broker, CLUSTER_ROOM, &mut self.cluster).await?;
        let tells = |message: &&Arc<Message>| {
            let old = first && message.timestamp.saturating_add(reach_ms) < now;
            !old && &*message.event == VITALS_EVENT
        };
        for (count, message) in messages.iter().filter(tells).enumerate() {
            if count % TURN == TURN - 1 {
                // Others on this thread do not wait for an hour's worth of it.
                tokio::task::yield_now().await;
            }
            let Ok(vitals) = serde_json::from_str::<Vitals>(message.data.get()) else { continue };
            // What was before, by the clock of who wrote it: of the past, that is near enough.
            let heard = if first { message.timestamp.min(now) } else { now };
            if now.saturating_sub(heard) < FRESH_MS {
                self.told.insert(vitals.id.clone(), heard);
                self.vitals.insert(vitals.id.clone(), vitals.clone());
            }
            if first {
                self.past.push_back((heard, vitals));
            }
        }
        self.forget(now);
        Ok(())
    }

    fn event(&mut self, message: &Message) {
        let Ok(data) = serde_json::from_str::<EventData>(message.data.get()) else { return };
        match &*message.event {
            "node_lost" => {
                self.lost.insert(data.id, (Kind::Node, data.at));
            }
            "gateway_lost" => {
                self.lost.insert(data.id, (Kind::Gateway, data.at));
            }
            "node_joined" | "gateway_joined" => {
                self.lost.remove(&data.id);
            }
            _ => {}
        }
    }

    fn forget(&mut self, now: u64) {
        self.told.retain(|_, at| now.saturating_sub(*at) < FRESH_MS);
        self.vitals.retain(|id, _| self.told.contains_key(id));
        self.lost.retain(|_, (_, at)| now.saturating_sub(*at) < FORGET_MS);
    }

    /// What is known now.
    pub(super) fn sample(&self, now: u64, market_open_since: Option<u64>) -> Sample<'_> {
        Sample { at: now, vitals: &self.vitals, lost: &self.lost, cut_off: None, market_open_since }
    }

    /// Has the engine remember what was heard before, second by second.
    pub(super) fn recall(&mut self, engine: &mut Engine, rules: &[Rule]) {
        let (mut told, mut vitals) = <(BTreeMap<String, u64>, BTreeMap<String, Vitals>)>::default();
        let lost = BTreeMap::new();
        let mut looked = 0;
        for (at, one) in std::mem::take(&mut self.past) {
            told.insert(one.id.clone(), at);
            vitals.insert(one.id.clone(), one);
            if at >= looked + 1_000 {
                looked = at;
                told.retain(|_, heard| at.saturating_sub(*heard) < FRESH_MS);
                vitals.retain(|id, _| told.contains_key(id));
                let sample =
                    Sample { at, vitals: &vitals, lost: &lost, cut_off: None, market_open_since: None };
                engine.remember(rules, &sample);
            }
        }
    }
}

/// What is new in a room, and whether it was read for the first time.
async fn read(
    broker: &dyn Broker,
    name: &str,
    position: &mut Option<Position>,
) -> Result<(Vec<Arc<Message>>, bool), BrokerError> {
    let first = position.is_none();
    let replay = position.clone().map_or(Replay::Last(READ), Replay::After);
    let history = broker.history(&room(name)?, replay).await?.unseen_by(position.as_ref());
    *position = Some(history.position);
    Ok((history.messages, first))
}
