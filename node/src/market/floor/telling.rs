//! Alerts that fired: kept, then told to their users.
//!
//! Invariants: a hit is told after it was kept, and what was kept is told by somebody: who kept it may die before it has told it,
//! or not hear that it was kept, so one node looks now and then for hits that nobody told. What waits is bounded, for
//! each user, so that one whose alerts fire without end takes nothing from the others.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::value::to_raw_value;
use tickmesh_protocol::message::{Message, Publish};
use tickmesh_protocol::placement::keeper;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_store::StoreError;
use tickmesh_store::relational::{AlertState, Hit};
use tokio::time::Instant;

use super::{Done, Floor};
use crate::clock;

/// How often it is looked for hits that nobody told. One that is there at two looks is told.
pub(super) const SWEEP: Duration = Duration::from_secs(3);
/// Hits in one write, or found at one look.
const HIT_BATCH: usize = 500;
/// Hits that wait to be kept, of one user and of all.
const WAITING_OF_USER: usize = 1_000;
const WAITING: usize = 20_000;
/// Hits that are told at a time, and that wait for it. What is beyond is found by the sweep.
const TELL_BATCH: usize = 200;
const WAITING_TO_TELL: usize = 5_000;

/// Hits and states on their way to the store and to users.
#[derive(Debug)]
pub(super) struct HitsWaiting {
    after: Instant,
    firing: bool,
    fired: VecDeque<(Hit, AlertState)>,
    /// Of those that wait or are being kept.
    of_user: FxHashMap<String, usize>,
    keeping_states: bool,
    states: FxHashMap<u64, AlertState>,
    /// Kept, and to be told.
    to_tell: VecDeque<Hit>,
    telling: bool,
    /// Told, which the store is to know.
    told: Vec<u64>,
    keeping_told: bool,
    sweeping: bool,
    /// Found untold at the last look.
    untold: FxHashSet<u64>,
}

impl HitsWaiting {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            after: now,
            firing: false,
            fired: VecDeque::new(),
            of_user: FxHashMap::default(),
            keeping_states: false,
            states: FxHashMap::default(),
            to_tell: VecDeque::new(),
            telling: false,
            told: Vec::new(),
            keeping_told: false,
            sweeping: false,
            untold: FxHashSet::default(),
        }
    }

    /// Takes hits; answers how many found no room.
    pub(super) fn push(&mut self, hits: Vec<(Hit, AlertState)>) -> u64 {
        let mut dropped = 0;
        for (hit, state) in hits {
            let count = self.of_user.entry(hit.user_id.clone()).or_default();
            if *count < WAITING_OF_USER && self.fired.len() < WAITING {
                *count += 1;
                self.fired.push_back((hit, state));
            } else {
                dropped += 1;
            }
        }
        dropped
    }

    /// Takes where alerts stand that did not fire.
    pub(super) fn changed(&mut self, states: Vec<(u64, AlertState)>) {
        self.states.extend(states);
    }

    fn kept(&mut self, hits: &[(Hit, AlertState)]) {
        for (hit, _) in hits {
            if let Some(count) = self.of_user.get_mut(&hit.user_id) {
                *count -= 1;
                if *count == 0 {
                    self.of_user.remove(&hit.user_id);
                }
            }
        }
    }
}

impl Floor {
    /// Keeps what fired and what changed.
    pub(super) fn fire(&mut self) {
        let Some(users) = self.means.stores.users.clone() else { return };
        if Instant::now() < self.hits.after {
            return;
        }
        let hits = &mut self.hits;
        if !hits.firing && !hits.fired.is_empty() {
            hits.firing = true;
            let batch: Vec<_> = hits.fired.drain(..hits.fired.len().min(HIT_BATCH)).collect();
            let users = users.clone();
            self.job(async move {
                let result = users.call(|users| users.hits.fire(&batch)).await;
                Done::Fired(batch, result)
            });
        }
        let hits = &mut self.hits;
        // Where an alert stands says that what came before is done with: so only once all hits before it are kept.
        let all_kept = !hits.firing && hits.fired.is_empty();
        if all_kept && !hits.keeping_states && !hits.states.is_empty() {
            hits.keeping_states = true;
            let states: Vec<_> = std::mem::take(&mut hits.states).into_iter().collect();
            let users = users.clone();
            self.job(async move {
                let result = users.call(|users| users.alerts.keep(&states)).await;
                Done::StatesKept(states, result)
            });
        }
        let hits = &mut self.hits;
        if !hits.keeping_told && !hits.told.is_empty() {
            hits.keeping_told = true;
            let told = std::mem::take(&mut hits.told);
            self.job(async move {
                let result = users.call(|users| users.hits.told(&told)).await;
                Done::ToldKept(told, result)
            });
        }
    }

    pub(super) fn was_fired(
        &mut self,
        batch: Vec<(Hit, AlertState)>,
        result: Result<Vec<Hit>, StoreError>,
        again: Instant,
    ) {
        self.hits.firing = false;
        match result {
            Ok(new) => {
                self.hits.kept(&batch);
                self.means.metrics.market.hits.inc_by(new.len() as u64);
                let room = WAITING_TO_TELL.saturating_sub(self.hits.to_tell.len());
                self.hits.to_tell.extend(new.into_iter().take(room));
                self.tell();
            }
            Err(StoreError::Refused(reason)) => {
                tracing::warn!(reason, "alerts fired that the store cannot take");
                self.hits.kept(&batch);
                self.means.metrics.market.hits_lost.inc_by(batch.len() as u64);
            }
            Err(error) => {
                tracing::warn!(%error, "alerts fired that cannot be kept yet, will try again");
                self.hits.after = again;
                batch.into_iter().rev().for_each(|hit| self.hits.fired.push_front(hit));
            }
        }
    }

    pub(super) fn states_kept(
        &mut self,
        states: Vec<(u64, AlertState)>,
        result: Result<(), StoreError>,
        again: Instant,
    ) {
        self.hits.keeping_states = false;
        if result.is_err() {
            self.hits.after = again;
            for (id, state) in states {
                self.hits.states.entry(id).or_insert(state);
            }
        }
    }

    /// Pushes hits into their users' rooms, and tells those of the users' sessions that do not follow them.
    pub(super) fn tell(&mut self) {
        if self.hits.telling || self.hits.to_tell.is_empty() {
            return;
        }
        self.hits.telling = true;
        let hits: Vec<Hit> = self.hits.to_tell.drain(..self.hits.to_tell.len().min(TELL_BATCH)).collect();
        let (broker, peers) = (self.means.broker.clone(), self.means.peers.clone());
        self.job(async move {
            let timestamp = clock::now().utc;
            let mut told = Vec::new();
            let (mut publishes, mut published) = (Vec::new(), Vec::new());
            for hit in hits {
                match publish(&hit, timestamp) {
                    Some(publish) => {
                        publishes.push(publish);
                        published.push(hit);
                    }
                    // Nobody can be told of it; it is in the list of the user's alerts.
                    None => told.push((hit, true)),
                }
            }
            let results = broker.publish(publishes.clone()).await;
            for ((hit, publish), result) in published.into_iter().zip(publishes).zip(results) {
                if let Ok(Position { seq, epoch }) = &result {
                    let Publish { room, event, data, .. } = publish;
                    let message = Message {
                        seq: *seq,
                        timestamp,
                        accepted_at: timestamp,
                        event,
                        key: None,
                        data,
                        trace: None,
                    };
                    peers.notify(&hit.user_id, room, epoch.clone(), message).await;
                }
                told.push((hit, result.is_ok()));
            }
            Done::Told(told)
        });
    }

    pub(super) fn were_told(&mut self, hits: Vec<(Hit, bool)>) {
        self.hits.telling = false;
        let all = hits.iter().all(|(_, told)| *told);
        for (hit, told) in hits.into_iter().rev() {
            if told {
                self.hits.told.push(hit.hit_id);
            } else {
                self.hits.to_tell.push_front(hit);
            }
        }
        // Otherwise at the next look.
        if all {
            self.tell();
        }
    }

    pub(super) fn told_kept(&mut self, hits: Vec<u64>, result: Result<(), StoreError>, again: Instant) {
        self.hits.keeping_told = false;
        if result.is_err() {
            self.hits.after = again;
            let room = WAITING.saturating_sub(self.hits.told.len());
            self.hits.told.extend(hits.into_iter().take(room));
        }
    }

    /// Looks for hits that nobody told, if this is the node that does.
    pub(super) fn sweep(&mut self) {
        let mine = keeper("hits", self.nodes.iter().map(String::as_str)) == Some(self.means.peers.id());
        let Some(users) = self.means.stores.users.clone().filter(|_| mine && !self.hits.sweeping) else {
            return;
        };
        self.hits.sweeping = true;
        self.job(async move {
            let found = users.call(|users| users.hits.untold(HIT_BATCH)).await;
            Done::Untold(found.unwrap_or_default())
        });
    }

    pub(super) fn untold(&mut self, found: Vec<Hit>) {
        let hits = &mut self.hits;
        hits.sweeping = false;
        let before = std::mem::take(&mut hits.untold);
        hits.untold = found.iter().map(|hit| hit.hit_id).collect();
        let known: FxHashSet<u64> =
            hits.to_tell.iter().map(|hit| hit.hit_id).chain(hits.told.iter().copied()).collect();
        let forgotten = |hit: &Hit| before.contains(&hit.hit_id) && !known.contains(&hit.hit_id);
        hits.to_tell.extend(found.into_iter().filter(forgotten));
        self.tell();
    }
}

/// A hit as a message of its user's room.
fn publish(hit: &Hit, timestamp: u64) -> Option<Publish> {
    Some(Publish {
        room: RoomName::of_user(&hit.user_id)?,
        event: "alert".into(),
        data: to_raw_value(hit).ok()?,
        // Whoever else tells it tells nothing new.
        message_id: Some(format!("alert:{}", hit.hit_id).into()),
        key: None,
        timestamp: Some(timestamp),
        trace: None,
    })
}

#[cfg(test)]
mod tests {
    use tickmesh_protocol::market::{AlertSpec, Op, Symbol};
    use tickmesh_protocol::position::Epoch;

    use super::*;

    #[test]
    fn one_users_hits_leave_room_for_those_of_others() {
        let hit = |user: &str, seq: u64| {
            let symbol = Symbol::new("A").unwrap();
            let spec = AlertSpec { symbol, field: "price".into(), op: Op::Above, value: 1.0, once: false };
            let position = Position { epoch: Epoch::new("e"), seq };
            let user_id = user.to_owned();
            (
                Hit { hit_id: 0, alert_id: 1, user_id, spec, reached: 2.0, position, at: 0 },
                AlertState::default(),
            )
        };
        let mut waiting = HitsWaiting::new(Instant::now());
        let many: Vec<_> = (0..WAITING_OF_USER as u64 + 7).map(|seq| hit("loud", seq)).collect();
        assert_eq!(waiting.push(many), 7);
        assert_eq!(waiting.push(vec![hit("quiet", 1)]), 0);
        let batch: Vec<_> = waiting.fired.drain(..10).collect();
        waiting.kept(&batch);
        assert_eq!(waiting.push((0..11).map(|seq| hit("loud", seq)).collect()), 1);
    }
}
