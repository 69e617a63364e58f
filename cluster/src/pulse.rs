//! What a process tells the cluster's own rooms: its vitals once a second, and what happens to it and to others.
//!
//! One task. Invariants: nothing waits for it; while the broker is away vitals are skipped, and events wait, the newest
//! `WAITING` of them; an event has the same `message_id` whoever tells it, so that it is in the room once. It must not know
//! how vitals are measured.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::to_raw_value;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::vitals::{
    CLUSTER_ROOM, EVENTS_ROOM, EventData, Happening, Kind, MOVED_EVENT, Moved, VITALS_EVENT, Vitals,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::broker::{Broker, BrokerError};
use crate::members::{Change, LeaseState, Report, Roster};
use crate::redis::Health;

/// How often vitals are told.
const BEAT: Duration = Duration::from_secs(1);
/// Longest wait for the broker to take them: what is not told by the next beat is out of date.
const PATIENCE: Duration = Duration::from_millis(900);
/// Events that wait for the broker.
const WAITING: usize = 64;
/// Longest wait for the last word of a process that leaves.
const FAREWELL: Duration = Duration::from_millis(500);

/// Whose pulse it is.
#[derive(Debug, Clone)]
pub struct Who {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: Kind,
    /// Names this life of it.
    pub run: u64,
}

/// What is measured once a second.
pub trait Measure: Send + 'static {
    /// How the process does at this time, in UTC milliseconds. Called about once a second, whether it is told or not. It must
    /// not block.
    fn vitals(&mut self, now: u64) -> Vitals;

    /// Sessions that went to another node since this was asked last; told at most once a second.
    fn moved(&mut self) -> Option<Moved> {
        None
    }
}

/// Through what it is told.
pub struct Means {
    /// The rooms.
    pub broker: Arc<dyn Broker>,
    /// Who else is there.
    pub roster: Roster,
    /// The connections to Redis; none where the broker is in memory.
    pub health: Option<Arc<Health>>,
    /// UTC milliseconds.
    pub clock: fn() -> u64,
}

/// The running task. It ends with [`farewell`](Self::farewell), or when this is gone.
#[derive(Debug)]
pub struct Pulse {
    leaving: mpsc::Sender<oneshot::Sender<()>>,
}

impl Pulse {
    /// Starts it, on the present runtime.
    #[must_use]
    pub fn start(who: Who, means: Means, measure: impl Measure) -> Self {
        let (leaving, asked) = mpsc::channel(1);
        let task = Task {
            who,
            means,
            measure,
            waiting: VecDeque::new(),
            joined: 0,
            held: false,
            drained: 0,
            draining: false,
            moves: 0,
        };
        tokio::spawn(task.run(asked));
        Self { leaving }
    }

    /// Tells that the process leaves, which had said so, and ends the task. Takes no longer than half a second.
    pub async fn farewell(&self) {
        let (done, told) = oneshot::channel();
        if self.leaving.try_send(done).is_ok() {
            let _ = timeout(FAREWELL, told).await;
        }
    }
}

struct Task<M> {
    who: Who,
    means: Means,
    measure: M,
    /// Events that the broker has not taken.
    waiting: VecDeque<Publish>,
    /// How often this process got its lease, and whether it has it.
    joined: u64,
    held: bool,
    /// How often it began to drain or ended it, and whether it drains.
    drained: u64,
    draining: bool,
    /// Events of sessions that moved.
    moves: u64,
}

impl<M: Measure> Task<M> {
    async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut changes = self.means.roster.changes();
        loop {
            tokio::select! {
                done = asked.recv() => {
                    if let Some(done) = done {
                        let (id, run) = (self.who.id.clone(), self.who.run);
                        self.happened(Happening::Left, self.who.kind, (&id, run), &gone(&id, run));
                        self.tell(Vec::new()).await;
                        let _ = done.send(());
                    }
                    return;
                }
                _ = beat.tick() => self.beat().await,
                change = changes.recv() => match change {
                    Ok(change) => self.changed(&change).await,
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    async fn beat(&mut self) {
        let now = (self.means.clock)();
        let vitals = self.measure.vitals(now);
        let held = self.means.roster.lease() == LeaseState::Held;
        let (kind, id, run) = (self.who.kind, self.who.id.clone(), self.who.run);
        if held && !self.held {
            self.joined += 1;
            let told_as = format!("joined:{id}:{run}:{}", self.joined);
            self.happened(Happening::Joined, kind, (&id, run), &told_as);
        }
        self.held = held;
        if vitals.draining != self.draining {
            self.draining = vitals.draining;
            self.drained += 1;
            let what = if self.draining { Happening::Draining } else { Happening::Resumed };
            self.happened(what, kind, (&id, run), &format!("drain:{id}:{run}:{}", self.drained));
        }
        if let Some(moved) = self.measure.moved() {
            self.moves += 1;
            let what = match (moved.cause.as_ref(), moved.sessions) {
                ("move", 1) => "session moved",
                ("move", _) => "sessions moved",
                (_, 1) => "session was taken over",
                _ => "sessions were taken over",
            };
            let text = format!("{} {what} at gateway {id}", moved.sessions);
            let data = EventData { id: id.clone(), run: Some(run), at: now, text, moved: Some(moved) };
            self.wait(MOVED_EVENT, &data, &format!("moved:{id}:{run}:{}", self.moves));
        }
        let message = message(CLUSTER_ROOM, VITALS_EVENT, &vitals, now);
        self.tell(
            message.map(|vitals| Publish { key: Some(id.as_str().into()), ..vitals }).into_iter().collect(),
        )
        .await;
    }

    /// What happens to others is told by all who see it: one of them may be gone the next moment.
    async fn changed(&mut self, change: &Change) {
        match change {
            Change::Left(report) if report.draining => {
                let Report { kind, id, run, .. } = report;
                self.happened(Happening::Left, *kind, (id, *run), &gone(id, *run));
            }
            // Where another run is there under its name, that one has said so, and "lost" behind it would be read as its end.
            Change::Lost(report) if !self.is_there(&report.id) => {
                let Report { kind, id, run, .. } = report;
                self.happened(Happening::Lost, *kind, (id, *run), &gone(id, *run));
            }
            _ => return,
        }
        self.tell(Vec::new()).await;
    }

    fn is_there(&self, id: &str) -> bool {
        self.means.roster.members().iter().any(|member| member.id == id)
    }

    fn happened(&mut self, what: Happening, kind: Kind, (id, run): (&str, u64), told_as: &str) {
        let Some(event) = what.event(kind) else { return };
        let at = (self.means.clock)();
        let data =
            EventData { id: id.to_owned(), run: Some(run), at, text: what.text(kind, id), moved: None };
        self.wait(event, &data, told_as);
    }

    fn wait(&mut self, event: &str, data: &EventData, told_as: &str) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        let message = message(EVENTS_ROOM, event, data, data.at);
        self.waiting.extend(message.map(|event| Publish { message_id: Some(told_as.into()), ..event }));
    }

    /// Publishes what waits, and these. What waits goes on doing so if that fails.
    async fn tell(&mut self, more: Vec<Publish>) {
        let away = self.means.health.as_ref().is_some_and(|health| !health.is_up());
        let messages: Vec<_> = self.waiting.iter().cloned().chain(more).collect();
        if away || messages.is_empty() {
            return;
        }
        let results = timeout(PATIENCE, self.means.broker.publish(messages)).await;
        let Ok(results) = results else {
            tracing::debug!("vitals were not taken in time");
            return;
        };
        // Something damaged in Redis is there the next time as well.
        let is_done = |result: &Result<_, _>| matches!(result, Ok(_) | Err(BrokerError::Damaged(_)));
        let mut done = results.iter().map(is_done);
        self.waiting.retain(|_| !done.next().unwrap_or(false));
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            tracing::debug!(%error, "vitals were not taken");
        }
    }
}

/// The `message_id` of the end of a run, however it is told: who said that it goes is not told to be lost as well by those who
/// did not hear it in time, since the first that is published under an id counts.
fn gone(id: &str, run: u64) -> String {
    format!("gone:{id}:{run}")
}

fn message(room: &str, event: &str, data: &impl Serialize, at: u64) -> Option<Publish> {
    Some(Publish {
        room: RoomName::new(room).ok()?,
        event: event.into(),
        data: to_raw_value(data).ok()?,
        message_id: None,
        key: None,
        timestamp: Some(at),
        trace: None,
    })
}

#[cfg(test)]
mod tests;
