//! The task that looks, where this node is the one that does, and tells what changed.
//!
//! What is told goes through one queue, in order, into the room; from there the board and the webhooks have it. While Redis is
//! away the queue waits, and webhooks are told directly of the one thing that is known then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use tickmesh_cluster::broker::BrokerError;
use tickmesh_cluster::members::LeaseState;
use tickmesh_protocol::alarm::{ALARM_EVENT, Alarm, Engine, Rule, Sample};
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::vitals::ALERTS_ROOM;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::board::{Board, room};
use super::heard::Heard;
use super::webhooks::Deliveries;
use super::{Acknowledged, Ask, Inbox, Means, evaluator_of};
use crate::clock;

/// How often it is looked.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for one answer of the broker; what is not done is done at the next look.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long going on from another node may take in all. What is known of the past by then has to do.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How much of that is for how the processes did.
const LOOK_BACK: Duration = Duration::from_secs(6);
/// Between two looks of a node that stood still, at least: another one looks by then, or soon.
const STILL: Duration = Duration::from_millis(3_500);
/// How long a node waits before it goes on from another that lives.
const HANDOVER: Duration = Duration::from_secs(2);
/// How long others have to say how they do after Redis was away.
const SETTLING: Duration = Duration::from_secs(5);
/// What is read of the past beyond what the longest rule needs, in milliseconds.
const MARGIN_MS: u64 = 10_000;
/// Changes that wait for the room.
const WAITING: usize = 1_000;
/// How far back it is looked for the opening of a market, in milliseconds.
const OPENING_MS: u64 = 24 * 3_600_000;
/// A message that is so far behind the newest of its room is told again, lest it falls out of the log.
const REFRESH: u64 = 2_000;
/// And one that is so old, in milliseconds.
pub(super) const REFRESH_MS: u64 = 24 * 3_600_000;

pub(super) async fn run(means: Means, inbox: Inbox) {
    let Inbox { mut asks, board, here } = inbox;
    let mut task = Task {
        means,
        board,
        here,
        seat: None,
        mine_since: None,
        away: None,
        looked: Instant::now(),
        untold: VecDeque::new(),
        told: BTreeMap::new(),
    };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => task.acknowledge(ask).await,
                None => return,
            },
            _ = tick.tick() => {
                if let Err(error) = task.tick().await {
                    tracing::debug!(%error, "alarms could not be looked at");
                }
                task.show();
            }
        }
    }
}

/// What the node that looks has.
struct Seat {
    engine: Engine,
    heard: Heard,
    deliveries: Deliveries,
    /// Since when Redis is back, while others have not all been heard.
    settling: Option<Instant>,
    cut_off: bool,
    /// Since when a market has been open.
    opened: Option<u64>,
}

struct Task {
    means: Means,
    board: Arc<Board>,
    here: Arc<Mutex<Option<Vec<Alarm>>>>,
    seat: Option<Seat>,
    /// Since when this node is the one that looks.
    mine_since: Option<Instant>,
    /// When Redis was away last.
    away: Option<Instant>,
    /// When it was looked last.
    looked: Instant,
    /// Changes that are not in the room yet, the oldest first. They are told also where this node does not look any more.
    untold: VecDeque<Alarm>,
    /// Places in the log of those that were told since the board was read.
    told: BTreeMap<String, u64>,
}

impl Task {
    async fn tick(&mut self) -> Result<(), BrokerError> {
        let stood_still = std::mem::replace(&mut self.looked, Instant::now()).elapsed() > STILL;
        let away = self.means.redis.as_ref().is_some_and(|redis| !redis.is_up());
        let config = self.means.live.now();
        let rules: &[Rule] = if config.alarms.enabled { &config.alarms.rule } else { &[] };
        if away {
            self.away = Some(Instant::now());
            self.look_cut_off(rules);
            return Ok(());
        }
        let (members, lease) = (self.means.peers.members(), self.means.peers.lease());
        let mine = evaluator_of(&members) == Some(self.means.peers.id());
        if stood_still || !mine || lease == LeaseState::Replaced {
            self.step_down();
        }
        if lease != LeaseState::Held {
            return Ok(());
        }
        if !self.untold.is_empty() {
            within(self.board.refresh(clock::now().utc)).await?;
            self.told.clear();
            self.untold
                .retain(|alarm| self.board.of(&alarm.id).is_none_or(|noted| is_news(alarm, &noted.alarm)));
            self.tell().await?;
        }
        if !mine {
            self.mine_since = None;
            return Ok(());
        }
        let since = *self.mine_since.get_or_insert_with(Instant::now);
        if self.seat.is_none() {
            if since.elapsed() < HANDOVER || self.away.is_some_and(|away| away.elapsed() < SETTLING) {
                return Ok(());
            }
            let taken = self.take_over(rules).await;
            // It was at work all the time.
            self.looked = Instant::now();
            taken?;
            if evaluator_of(&self.means.peers.members()) != Some(self.means.peers.id()) {
                self.step_down();
                return Ok(());
            }
        }
        self.look(rules).await?;
        self.tell().await?;
        let now = clock::now().utc;
        match &mut self.seat {
            Some(seat) => within(seat.deliveries.run(now)).await,
            None => Ok(()),
        }
    }

    fn step_down(&mut self) {
        if self.seat.take().is_some() {
            tracing::info!(
                "this node no longer evaluates alarms: another one does, or this one has to catch up first"
            );
        }
        self.mine_since = None;
    }

    async fn take_over(&mut self, rules: &[Rule]) -> Result<(), BrokerError> {
        let (begun, now) = (Instant::now(), clock::now().utc);
        until(begun + TAKE_OVER, self.board.refresh(now)).await?;
        let mut heard = Heard::default();
        let needed = rules.iter().filter(|rule| rule.enabled);
        let longest = needed.map(|rule| rule.for_ms.max(rule.clear_for_ms)).max().unwrap_or(0);
        heard.look_back(&*self.means.broker, now, longest + MARGIN_MS, begun + LOOK_BACK).await?;
        let mut engine = Engine::default();
        heard.recall(&mut engine, rules);
        let (_, firing) = self.board.firing();
        for noted in firing {
            engine.adopt(noted.alarm, now);
        }
        let mut deliveries =
            Deliveries::new(&self.means.webhooks, self.means.broker.clone(), &self.means.gauges);
        until(begun + TAKE_OVER, deliveries.take_over(now)).await?;
        tracing::info!(firing = engine.firing().count(), "this node evaluates alarms now");
        self.seat = Some(Seat { engine, heard, deliveries, settling: None, cut_off: false, opened: None });
        Ok(())
    }

    /// Nothing is known but that Redis is away.
    fn look_cut_off(&mut self, rules: &[Rule]) {
        let Some(seat) = &mut self.seat else { return };
        let (at, nothing) = (clock::now().utc, Default::default());
        let sample = Sample {
            at,
            vitals: &nothing,
            lost: &Default::default(),
            cut_off: Some(self.means.peers.id()),
            market_open_since: None,
        };
        let changes = seat.engine.look(rules, &sample);
        (seat.cut_off, seat.settling) = (true, None);
        for alarm in changes {
            note(&alarm);
            seat.deliveries.offer(&alarm, at);
            wait(&mut self.untold, alarm);
        }
    }

    async fn look(&mut self, rules: &[Rule]) -> Result<(), BrokerError> {
        let now = clock::now().utc;
        within(self.board.refresh(now)).await?;
        self.told.clear();
        self.agree();
        let Some(seat) = &mut self.seat else { return Ok(()) };
        within(seat.heard.listen(&*self.means.broker, now)).await?;
        if std::mem::take(&mut seat.cut_off) {
            seat.settling = Some(Instant::now());
        }
        if let Some(since) = seat.settling {
            if since.elapsed() < SETTLING {
                return Ok(());
            }
            seat.settling = None;
            seat.engine.resume(now);
        }
        seat.opened = match (&self.means.calendar, seat.opened) {
            (None, _) => Some(0),
            (Some(calendar), Some(opened)) if calendar.is_open(now) => Some(opened),
            (Some(calendar), _) => calendar.open_since(now, OPENING_MS),
        };
        let changes = seat.engine.look(rules, &seat.heard.sample(now, seat.opened));
        for alarm in changes {
            note(&alarm);
            wait(&mut self.untold, alarm);
        }
        Ok(())
    }

    /// What the log says counts, unless there is something newer that it does not have yet: another node may have looked, or
    /// the log may be lost.
    fn agree(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        let now = clock::now().utc;
        let (newest, firing) = self.board.firing();
        let waits = |id: &str| self.untold.iter().any(|alarm| alarm.id == id);
        let mut again = Vec::new();
        for noted in firing {
            let alarm = noted.alarm;
            if waits(&alarm.id) {
                continue;
            }
            let old = newest - noted.seq.min(newest) > REFRESH || now.saturating_sub(alarm.at) > REFRESH_MS;
            if old {
                again.push(Alarm { at: now, ..alarm.clone() });
            }
            let same = |mine: &Alarm| {
                (mine.since, mine.change, &mine.acknowledged_by)
                    == (alarm.since, alarm.change, &alarm.acknowledged_by)
            };
            if !seat.engine.get(&alarm.id).is_some_and(same) {
                seat.engine.adopt(alarm, now);
            }
        }
        let mut over = Vec::new();
        for mine in seat.engine.firing().filter(|alarm| !waits(&alarm.id)) {
            match self.board.of(&mine.id) {
                Some(noted) if !noted.alarm.is_firing() => over.push(noted.alarm),
                Some(_) => {}
                None => again.push(mine.clone()),
            }
        }
        over.into_iter().for_each(|alarm| seat.engine.adopt(alarm, now));
        again.into_iter().for_each(|alarm| wait(&mut self.untold, alarm));
    }

    /// Publishes what waits, in order, each named after what it follows on: of two nodes that both think that they look, one
    /// is heard.
    async fn tell(&mut self) -> Result<(), BrokerError> {
        while let Some(alarm) = self.untold.front() {
            let before = self.told.get(&alarm.id).copied();
            let before = before.or_else(|| self.board.of(&alarm.id).map(|noted| noted.seq)).unwrap_or(0);
            let Ok(data) = to_raw_value(alarm) else {
                self.untold.pop_front();
                continue;
            };
            let publish = Publish {
                room: room(ALERTS_ROOM)?,
                event: ALARM_EVENT.into(),
                data,
                message_id: Some(format!("{}:{before}", alarm.id).into()),
                key: Some(alarm.id.as_str().into()),
                timestamp: Some(alarm.at),
                trace: None,
            };
            let publishing = async { self.means.broker.publish(vec![publish]).await.pop() };
            let answer = timeout(PATIENCE, publishing).await.map_err(|_| BrokerError::Timeout)?;
            let position = answer.unwrap_or(Err(BrokerError::Timeout))?;
            self.told.insert(alarm.id.clone(), position.seq);
            self.untold.pop_front();
        }
        Ok(())
    }

    async fn acknowledge(&mut self, ask: Ask) {
        let now = clock::now().utc;
        let answer = match &mut self.seat {
            None => Acknowledged::Elsewhere,
            Some(seat) => match seat.engine.acknowledge(&ask.id, &ask.user, now) {
                None => Acknowledged::Unknown,
                Some(alarm) => {
                    if alarm.acknowledged_at == Some(now) {
                        tracing::info!(alarm = alarm.id, user = ask.user, "an alarm was acknowledged");
                        wait(&mut self.untold, alarm.clone());
                    }
                    Acknowledged::Done(Box::new(alarm))
                }
            },
        };
        if matches!(answer, Acknowledged::Done(_))
            && let Err(error) = self.tell().await
        {
            tracing::debug!(%error, "an acknowledgement waits to be told");
        }
        self.show();
        let _ = ask.reply.send(answer);
    }

    /// Shows what this node knows, to its API and in its metrics.
    fn show(&self) {
        let gauges = &self.means.gauges;
        let Some(seat) = &self.seat else {
            *self.here.lock() = None;
            return gauges.set(false, std::iter::empty());
        };
        gauges.set(true, seat.engine.firing());
        let over = self.untold.iter().filter(|alarm| !alarm.is_firing());
        *self.here.lock() = Some(seat.engine.firing().chain(over).cloned().collect());
    }
}

/// Whether an alarm says more than the log does: another node may have told it meanwhile.
fn is_news(alarm: &Alarm, noted: &Alarm) -> bool {
    let place = |alarm: &Alarm| (alarm.since, alarm.change, alarm.acknowledged_by.is_some());
    place(alarm) > place(noted)
}

/// Puts a change into the queue; where too many wait, the oldest goes.
fn wait(untold: &mut VecDeque<Alarm>, alarm: Alarm) {
    if untold.len() >= WAITING {
        untold.pop_front();
    }
    untold.push_back(alarm);
}

fn note(alarm: &Alarm) {
    let Alarm { id, severity, text, .. } = alarm;
    if alarm.is_firing() {
        tracing::warn!(alarm = id, severity = severity.name(), text, "an alarm fires");
    } else {
        tracing::info!(alarm = id, severity = severity.name(), "an alarm is over");
    }
}

async fn within(work: impl Future<Output = Result<(), BrokerError>>) -> Result<(), BrokerError> {
    until(Instant::now() + PATIENCE, work).await
}

async fn until(end: Instant, work: impl Future<Output = Result<(), BrokerError>>) -> Result<(), BrokerError> {
    timeout_at(end, work).await.unwrap_or(Err(BrokerError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_has_told_is_no_news() {
        let text = r#"{"id":"x","rule":"x","severity":"warning","subject":"","state":"firing","since":5,"at":5,
            "value":1,"threshold":0,"unit":"","text":"","change":1}"#;
        let begun: Alarm = serde_json::from_str(text).unwrap();
        let seen = Alarm { acknowledged_by: Some("me".into()), ..begun.clone() };
        let over = Alarm { change: 2, ..begun.clone() };
        let again = Alarm { since: 9, ..begun.clone() };
        let order = [&begun, &seen, &over, &again];
        for (at, one) in order.iter().enumerate() {
            for (other_at, other) in order.iter().enumerate() {
                assert_eq!(is_news(one, other), at > other_at, "{one:?} {other:?}");
            }
        }
    }
}
