//! What was heard of the processes: their newest vitals, and who was lost, from the cluster's own rooms.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_protocol::alarm::{Engine, Rule, Sample};
use tickmesh_protocol::message::{Message, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::vitals::{CLUSTER_ROOM, EVENTS_ROOM, EventData, Kind, VITALS_EVENT, Vitals};
use tokio::time::{Instant, timeout_at};

use super::board::room;

/// Messages that are read at a time: what the broker has to put into one answer, and this thread to take out of it.
const PAGE: usize = 500;
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
    /// Which run of those was, where that was told.
    lost_runs: BTreeMap<String, u64>,
    /// What was heard before this node began to look, until it is remembered.
    past: VecDeque<(u64, Vitals)>,
}

impl Heard {
    /// Reads what was told within so many milliseconds before `now`, in UTC milliseconds, the newest first. What cannot be
    /// read until `end` stays unknown.
    ///
    /// # Errors
    /// When not even the newest could be read.
    pub(super) async fn look_back(
        &mut self,
        broker: &dyn Broker,
        now: u64,
        reach_ms: u64,
        end: Instant,
    ) -> Result<(), BrokerError> {
        let (position, events) = back(broker, EVENTS_ROOM, now.saturating_sub(FORGET_MS), end).await?;
        self.events = Some(position);
        events.iter().for_each(|message| self.event(message));
        let since = now.saturating_sub(reach_ms);
        let (position, messages) = back(broker, CLUSTER_ROOM, since, end).await?;
        self.cluster = Some(position);
        for (count, message) in messages.iter().filter(|message| message.timestamp >= since).enumerate() {
            if count % TURN == TURN - 1 {
                // Others on this thread do not wait for an hour's worth of it.
                tokio::task::yield_now().await;
            }
            // By the clock of who wrote it: of the past, that is near enough.
            let heard = message.timestamp.min(now);
            if let Some(vitals) = vitals_of(message) {
                if now - heard < FRESH_MS {
                    self.hear(vitals.clone(), heard);
                }
                self.past.push_back((heard, vitals));
            }
        }
        self.forget(now);
        Ok(())
    }

    /// Reads what is new. What was read counts also where this is given up before the end.
    pub(super) async fn listen(&mut self, broker: &dyn Broker, now: u64) -> Result<(), BrokerError> {
        let mut more = true;
        while more {
            let messages;
            (messages, more) = news(broker, EVENTS_ROOM, &mut self.events).await?;
            messages.iter().for_each(|message| self.event(message));
        }
        more = true;
        while more {
            let messages;
            (messages, more) = news(broker, CLUSTER_ROOM, &mut self.cluster).await?;
            messages
                .iter()
                .filter_map(|message| vitals_of(message))
                .for_each(|vitals| self.hear(vitals, now));
        }
        self.forget(now);
        Ok(())
    }

    fn hear(&mut self, vitals: Vitals, heard: u64) {
        self.told.insert(vitals.id.clone(), heard);
        self.vitals.insert(vitals.id.clone(), vitals);
    }

    fn event(&mut self, message: &Message) {
        let Ok(EventData { id, run, at, .. }) = serde_json::from_str(message.data.get()) else { return };
        let kind = match &*message.event {
            "node_lost" => Kind::Node,
            "gateway_lost" => Kind::Gateway,
            "node_joined" | "gateway_joined" => {
                self.lost.remove(&id);
                return;
            }
            _ => return,
        };
        match run {
            Some(run) => self.lost_runs.insert(id.clone(), run),
            None => self.lost_runs.remove(&id),
        };
        self.lost.insert(id, (kind, at));
    }

    fn forget(&mut self, now: u64) {
        self.told.retain(|_, at| now.saturating_sub(*at) < FRESH_MS);
        self.vitals.retain(|id, _| self.told.contains_key(id));
        // That a run was lost may be told after the next one has joined: by somebody who has not seen that one, or who could
        // not publish it sooner.
        let is_back = |id: &String| match (self.lost_runs.get(id), self.vitals.get(id)) {
            (Some(lost), Some(vitals)) => vitals.run != *lost,
            _ => false,
        };
        self.lost.retain(|id, (_, at)| now.saturating_sub(*at) < FORGET_MS && !is_back(id));
        self.lost_runs.retain(|id, _| self.lost.contains_key(id));
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

/// The vitals in a message; none for what another version wrote there.
fn vitals_of(message: &Message) -> Option<Vitals> {
    (&*message.event == VITALS_EVENT).then(|| serde_json::from_str(message.data.get()).ok()).flatten()
}

/// What a room has since a time, in order, and where it stood; page by page from the newest, as far as that can be read until
/// `end`.
async fn back(
    broker: &dyn Broker,
    name: &str,
    since: u64,
    end: Instant,
) -> Result<(Position, VecDeque<Arc<Message>>), BrokerError> {
    let room = room(name)?;
    let read = async |replay| {
        timeout_at(end, broker.history(&room, replay)).await.unwrap_or(Err(BrokerError::Timeout))
    };
    let newest = read(Replay::Last(PAGE)).await?;
    let (position, mut page) = (newest.position, newest.messages);
    let mut all = VecDeque::new();
    while let Some(first) = page.first() {
        let seq = first.seq;
        // All of them: a process whose clock is behind is no end.
        let reaches = page.iter().all(|message| message.timestamp < since);
        page.drain(..).rev().for_each(|message| all.push_front(message));
        if seq <= 1 || reaches {
            break;
        }
        let before = (seq - 1).saturating_sub(PAGE as u64);
        match read(Replay::Since { seq: before, limit: (seq - 1 - before) as usize }).await {
            // Where the log has lost its end meanwhile, numbers name other messages.
            Ok(older) if older.position.epoch == position.epoch => page = older.messages,
            Ok(_) => break,
            Err(error) => {
                tracing::debug!(%error, room = name, "the past is known in part");
                break;
            }
        }
        // Where the log begins later, these are messages that are there already.
        page.retain(|message| message.seq < seq);
    }
    Ok((position, all))
}

/// A page of what is new in a room, and whether there is more.
async fn news(
    broker: &dyn Broker,
    name: &str,
    position: &mut Option<Position>,
) -> Result<(Vec<Arc<Message>>, bool), BrokerError> {
    let room = room(name)?;
    let mut history = match &*position {
        Some(held) => broker.history(&room, Replay::Since { seq: held.seq, limit: PAGE }).await?,
        None => broker.history(&room, Replay::Last(PAGE)).await?,
    };
    let is_older = |held: &Position| held.epoch != history.position.epoch || held.seq > history.position.seq;
    if position.as_ref().is_some_and(is_older) {
        history = broker.history(&room, Replay::Last(PAGE)).await?.unseen_by(position.as_ref());
    }
    let last = history.messages.last().map_or(history.position.seq, |last| last.seq);
    let more = last < history.position.seq;
    *position = Some(Position { seq: last, ..history.position });
    Ok((history.messages, more))
}

#[cfg(test)]
mod tests;
