//! The task that takes letters in, and tells the others what changed here.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde_json::value::to_raw_value;
use tickmesh_cluster::bus::{Mail, To};
use tickmesh_cluster::counts::Notice;
use tickmesh_cluster::letter::{Body, Letter};
use tickmesh_cluster::members::Change;
use tickmesh_edge::limits::Connections;
use tickmesh_protocol::batch::Batch;
use tickmesh_protocol::position::Position;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Local, Peers, Question};
use crate::alarms::Alarms;
use crate::clock;
use crate::hub::{HubSender, Request};
use crate::market::MarketHandle;
use crate::metrics::Metrics;

/// How often changed counts are told.
const TELL_INTERVAL: Duration = Duration::from_millis(100);
/// How often the total is told, so that who lacks something notices.
const DIGEST_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two times that all counts of a node are asked for, or told.
const WHOLE_INTERVAL: Duration = Duration::from_millis(500);
/// Questions that are being answered at the same time; more go unanswered.
const ANSWERS: usize = 64;

/// Who is told of what others say.
pub(crate) struct Told {
    pub(crate) market: MarketHandle,
    /// Woken when API keys or revoked tokens are others.
    pub(crate) credentials: Arc<Notify>,
    pub(crate) alarms: Alarms,
}

/// Starts the task; it ends when the mail does.
pub(crate) fn start(
    peers: Arc<Peers>,
    mail: Mail,
    hubs: Vec<HubSender>,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    told: Told,
) {
    let Told { market, credentials, alarms } = told;
    let task = Task {
        market,
        credentials,
        alarms,
        peers,
        connections,
        hubs,
        metrics,
        asked: FxHashMap::default(),
        told_all: None,
        answering: Arc::new(Semaphore::new(ANSWERS)),
    };
    tokio::spawn(task.run(mail));
}

struct Task {
    market: MarketHandle,
    /// Woken when API keys or revoked tokens are others.
    credentials: Arc<Notify>,
    alarms: Alarms,
    peers: Arc<Peers>,
    connections: Arc<Connections>,
    hubs: Vec<HubSender>,
    metrics: Arc<Metrics>,
    /// When all counts of a node were asked for last.
    asked: FxHashMap<String, Instant>,
    told_all: Option<Instant>,
    answering: Arc<Semaphore>,
}

impl Task {
    async fn run(mut self, mut mail: Mail) {
        let mut telling = interval(TELL_INTERVAL);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut digest = interval(DIGEST_INTERVAL);
        digest.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.peers.roster.changes();
        // Those who are there already tell this node more quickly than its next look would.
        self.peers.send(To::Members, Body::Members).await;
        loop {
            tokio::select! {
                letter = mail.recv() => match letter {
                    Some(letter) => self.letter(&letter).await,
                    None => return,
                },
                _ = telling.tick() => self.tell_changed().await,
                _ = digest.tick() => self.tell_digest().await,
                change = changes.recv() => match change {
                    Ok(Change::Left(report)) => self.forget(&report.id),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.forget_strangers(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn forget(&mut self, node: &str) {
        self.peers.counts.lock().forget(node);
        self.asked.remove(node);
    }

    /// Forgets those that have no lease.
    fn forget_strangers(&mut self) {
        let members = self.peers.members();
        let known: Vec<String> = self.peers.counts.lock().nodes().map(str::to_owned).collect();
        for node in known {
            if !members.iter().any(|member| member.id == node) {
                self.forget(&node);
            }
        }
    }

    async fn tell_changed(&self) {
        loop {
            let notice = self.peers.counts.lock().poll_changed();
            let Some(notice) = notice else { return };
            self.peers.send(To::Subscriptions, Body::Counts(notice)).await;
        }
    }

    async fn tell_digest(&mut self) {
        self.forget_strangers();
        let notice = self.peers.counts.lock().digest();
        if let Some(notice) = notice {
            self.peers.send(To::Subscriptions, Body::Counts(notice)).await;
        }
    }

    async fn letter(&mut self, bytes: &[u8]) {
        let letter: Letter = match serde_json::from_slice(bytes) {
            Ok(letter) => letter,
            Err(error) => {
                self.metrics.bad_letters.inc();
                // Its text may quote the letter.
                let (kind, column) = (error.classify(), error.column());
                tracing::error!(?kind, column, "a letter that no node of this version wrote");
                return;
            }
        };
        match letter.body {
            // What concerns everybody's sessions concerns those here as well.
            Body::User { user_id, room, epoch, message } => {
                let start = Position { epoch, seq: message.seq.saturating_sub(1) };
                let batch = Batch::new(room, start, vec![Arc::new(message)], clock::now().utc);
                let batch = Arc::new(batch);
                for hub in &self.hubs {
                    hub.send(Request::User { user_id: user_id.clone(), batch: batch.clone() }).await;
                }
            }
            Body::Alerts(symbol) => self.market.alerts_changed(symbol),
            Body::Credentials => self.credentials.notify_one(),
            _ if letter.from == self.peers.id => {}
            Body::Recorded(room) => self.market.told(room),
            Body::Members => self.peers.roster.look(),
            Body::Drain { node, draining } if node == self.peers.id => {
                self.connections.set_draining(draining);
                self.peers.report_now().await;
            }
            Body::Drain { .. } => {}
            Body::Counts(notice) => self.counts(notice).await,
            Body::CountsWanted { of } if of == self.peers.id => self.tell_all().await,
            Body::CountsWanted { .. } => {}
            Body::Question { id, question } => match serde_json::from_str(question.get()) {
                Ok(question) => self.answer(letter.from, id, question),
                Err(error) => tracing::debug!(%error, "a question of another version"),
            },
            Body::Answer { id, answer } => {
                let asker = self.peers.waiting.lock().get(&id).cloned();
                if let Some(asker) = asker {
                    let _ = asker.try_send((letter.from, answer));
                }
            }
        }
    }

    async fn counts(&mut self, notice: Notice) {
        let node = notice.node.clone();
        if self.peers.counts.lock().handle(notice) {
            return;
        }
        let now = Instant::now();
        if self.asked.get(&node).is_some_and(|asked| now < *asked + WHOLE_INTERVAL) {
            return;
        }
        self.asked.insert(node.clone(), now);
        self.peers.send(To::Subscriptions, Body::CountsWanted { of: node }).await;
    }

    async fn tell_all(&mut self) {
        if self.told_all.is_some_and(|told| told.elapsed() < WHOLE_INTERVAL) {
            return;
        }
        self.told_all = Some(Instant::now());
        self.tell_changed().await;
        let notices = self.peers.counts.lock().all();
        for notice in notices {
            self.peers.send(To::Subscriptions, Body::Counts(notice)).await;
        }
    }

    fn answer(&self, to: String, id: u64, question: Question) {
        let Ok(place) = self.answering.clone().try_acquire_owned() else { return };
        let (peers, hubs, alarms) = (self.peers.clone(), self.hubs.clone(), self.alarms.clone());
        tokio::spawn(async move {
            let answer = match question {
                Question::Unpark(name) => to_raw_value(&peers.parking.take(Instant::now(), &name)).ok(),
                Question::Acknowledge { alarm, user } => {
                    to_raw_value(&alarms.acknowledge(alarm, user).await).ok()
                }
                _ => Local(&hubs).answer(question).await,
            };
            if let Some(answer) = answer {
                peers.send(To::Member(&to), Body::Answer { id, answer }).await;
            }
            drop(place);
        });
    }
}
