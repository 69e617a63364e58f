//! Which alarms webhooks are to be told of, and which they were.
//!
//! What is to be told is what the log of alarms has; what was told is in a log beside it. So whoever goes on sends what it cannot
//! prove was taken, under the delivery id that it had before.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};
use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_cluster::config::{AlarmsConfig, Webhook};
use tickmesh_protocol::alarm::Alarm;
use tickmesh_protocol::message::{Publish, Replay};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::vitals::{ALERTS_ROOM, DELIVERIES_ROOM};
use tickmesh_telemetry::http::Outgoing;
use tokio::sync::mpsc;

use super::board::{alarm_of, room};
use super::courier::{Courier, Job, Manner};
use super::evaluator::REFRESH_MS;
use super::{Gauges, Outcome};

/// Messages of a log that are read where nothing is known.
const READ: usize = 5_000;
/// Deliveries that were made and are not in the log yet.
const RECEIPTS: usize = 4_096;
/// The event in [`DELIVERIES_ROOM`].
const DELIVERED: &str = "delivered";

/// Who is told, and how.
#[derive(Debug, Clone)]
pub(crate) struct Receivers {
    hooks: Vec<Webhook>,
    queue: usize,
    manner: Manner,
    give_up_ms: u64,
}

impl Receivers {
    /// Takes them from a configuration.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub(crate) fn new(config: &AlarmsConfig) -> Result<Self, String> {
        let timeout = Duration::from_millis(config.webhook_timeout_ms);
        let ca: Option<PathBuf> = config.webhook_tls_ca.clone();
        let outgoing = Outgoing::new(timeout, ca.as_deref())?;
        let retry = Duration::from_millis(config.webhook_retry_ms);
        Ok(Self {
            hooks: config.webhooks.clone(),
            queue: config.webhook_queue,
            manner: Manner { outgoing, retry },
            give_up_ms: config.webhook_give_up_s * 1_000,
        })
    }
}

/// What is in the log of deliveries.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    delivery: String,
    alarm: String,
}

/// See the module's documentation.
pub(super) struct Deliveries {
    broker: Arc<dyn Broker>,
    couriers: Vec<(Webhook, Courier)>,
    give_up_ms: u64,
    gauges: Arc<Gauges>,
    /// Deliveries that were offered, are known to be done or are given up, and when their changes were told last.
    offered: BTreeMap<String, u64>,
    /// Where the log of alarms was read to.
    position: Option<Position>,
    made: mpsc::Receiver<(String, String)>,
    /// Deliveries that were made, with their alarms, and are not in the log yet.
    receipts: VecDeque<(String, String)>,
}

impl Deliveries {
    pub(super) fn new(receivers: &Receivers, broker: Arc<dyn Broker>, gauges: &Arc<Gauges>) -> Self {
        let (done, made) = mpsc::channel(RECEIPTS);
        let courier = |hook: &Webhook| {
            let made = done.clone();
            let courier =
                Courier::start(hook.clone(), receivers.manner.clone(), receivers.queue, made, gauges.clone());
            match courier {
                Ok(courier) => Some((hook.clone(), courier)),
                Err(error) => {
                    tracing::error!(%error, "no thread for a webhook: it is not told of alarms");
                    None
                }
            }
        };
        Self {
            broker,
            couriers: receivers.hooks.iter().filter_map(courier).collect(),
            give_up_ms: receivers.give_up_ms,
            gauges: gauges.clone(),
            offered: BTreeMap::new(),
            position: None,
            made,
            receipts: VecDeque::new(),
        }
    }

    /// Reads what was delivered, and offers what was not.
    pub(super) async fn take_over(&mut self, now: u64) -> Result<(), BrokerError> {
        if self.couriers.is_empty() {
            return Ok(());
        }
        let history = self.broker.history(&room(DELIVERIES_ROOM)?, Replay::Last(READ)).await?;
        for message in &history.messages {
            if let Ok(receipt) = serde_json::from_str::<Receipt>(message.data.get()) {
                self.offered.insert(receipt.delivery, message.timestamp);
            }
        }
        self.read(now).await
    }

    /// Offers what is new in the log of alarms, and notes what was delivered.
    pub(super) async fn run(&mut self, now: u64) -> Result<(), BrokerError> {
        if self.couriers.is_empty() {
            return Ok(());
        }
        self.read(now).await?;
        self.forget(now);
        while self.receipts.len() < RECEIPTS
            && let Ok(made) = self.made.try_recv()
        {
            self.receipts.push_back(made);
        }
        let publishes: Vec<_> = self.receipts.iter().filter_map(|made| receipt(made, now)).collect();
        if !publishes.is_empty() {
            // Where that is not known, they are published again, which changes nothing.
            for answer in self.broker.publish(publishes).await {
                answer?;
            }
            self.receipts.clear();
        }
        Ok(())
    }

    /// What fires is told again into the log once a day, and so stays known.
    fn forget(&mut self, now: u64) {
        let keep = (self.give_up_ms * 2).max(REFRESH_MS * 2);
        self.offered.retain(|_, at| now.saturating_sub(*at) < keep);
    }

    async fn read(&mut self, now: u64) -> Result<(), BrokerError> {
        let replay = self.position.clone().map_or(Replay::Last(READ), Replay::After);
        let history =
            self.broker.history(&room(ALERTS_ROOM)?, replay).await?.unseen_by(self.position.as_ref());
        for message in &history.messages {
            if let Some(alarm) = alarm_of(message) {
                self.offer(&alarm, now);
            }
        }
        self.position = Some(history.position);
        Ok(())
    }

    /// Has every webhook told of an alarm that was not told of it.
    pub(super) fn offer(&mut self, alarm: &Alarm, now: u64) {
        let age = now.saturating_sub(alarm.at);
        let Ok(body) = serde_json::to_string(alarm) else { return };
        for (hook, courier) in &self.couriers {
            let delivery = delivery_id(alarm, hook.url.expose());
            // The same change again: somebody has acknowledged it, or it is told again so that it stays in the log.
            if let Some(at) = self.offered.get_mut(&delivery) {
                *at = (*at).max(alarm.at);
                continue;
            }
            if age >= self.give_up_ms {
                self.offered.insert(delivery, alarm.at);
                continue;
            }
            let patience = Duration::from_millis(self.give_up_ms - age);
            let job =
                Job { delivery: delivery.clone(), alarm: alarm.id.clone(), body: body.clone(), patience };
            if !courier.offer(job) {
                self.gauges.count(Outcome::Dropped);
                tracing::warn!(alarm = alarm.id, "a webhook is not told of an alarm: too many wait for it");
            }
            self.offered.insert(delivery, alarm.at);
        }
    }
}

fn receipt((delivery, alarm): &(String, String), now: u64) -> Option<Publish> {
    let receipt = Receipt { delivery: delivery.clone(), alarm: alarm.clone() };
    Some(Publish {
        room: room(DELIVERIES_ROOM).ok()?,
        event: DELIVERED.into(),
        data: to_raw_value(&receipt).ok()?,
        message_id: Some(delivery.as_str().into()),
        key: None,
        timestamp: Some(now),
        trace: None,
    })
}

/// The same for every try and every node: of this change of this alarm, to this receiver.
fn delivery_id(alarm: &Alarm, url: &str) -> String {
    let (since, change) = (alarm.since, alarm.change);
    let digest = Sha256::digest(format!("{}\n{since}\n{change}\n{url}", alarm.id));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use tickmesh_cluster::broker::inbox;
    use tickmesh_cluster::broker::memory::MemoryCluster;
    use tickmesh_cluster::config::Secret;
    use tickmesh_protocol::room::Classes;

    use super::*;

    const GIVE_UP_MS: u64 = 3_600_000;
    const BEGUN: u64 = 1_700_000_000_000;

    fn deliveries() -> (Deliveries, Receiver<Job>) {
        let (inbox, _events) = inbox(1);
        let (courier, jobs) = Courier::idle(16);
        let hook = Webhook { url: Secret::new("http://localhost/"), secret: Secret::new("secret") };
        let deliveries = Deliveries {
            broker: Arc::new(MemoryCluster::new(Classes::default(), Arc::new(|| BEGUN)).connect(inbox)),
            couriers: vec![(hook, courier)],
            give_up_ms: GIVE_UP_MS,
            gauges: Arc::default(),
            offered: BTreeMap::new(),
            position: None,
            made: mpsc::channel(1).1,
            receipts: VecDeque::new(),
        };
        (deliveries, jobs)
    }

    fn alarm() -> Alarm {
        let text = format!(
            r#"{{"id":"x","rule":"x","severity":"warning","subject":"","state":"firing","since":{BEGUN},"at":{BEGUN},
            "value":1,"threshold":0,"unit":"","text":"","change":1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_told_again_without_a_change_is_posted_once() {
        let (mut deliveries, jobs) = deliveries();
        let tell = |deliveries: &mut Deliveries, at: u64, change: u32| {
            deliveries.offer(&Alarm { at, change, ..alarm() }, at);
            deliveries.forget(at);
            jobs.try_iter().count()
        };
        assert_eq!(tell(&mut deliveries, BEGUN, 1), 1);
        // Acknowledged after hours, and then refreshed every day.
        let acknowledged = BEGUN + 3 * GIVE_UP_MS;
        assert_eq!(tell(&mut deliveries, acknowledged, 1), 0, "that somebody has seen it is no change");
        for day in 1..=7 {
            assert_eq!(tell(&mut deliveries, acknowledged + day * (REFRESH_MS + 60_000), 1), 0, "day {day}");
        }
        let end = acknowledged + 8 * REFRESH_MS;
        assert_eq!(tell(&mut deliveries, end, 2), 1, "its end is");
        deliveries.forget(end + 2 * REFRESH_MS);
        assert!(deliveries.offered.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn what_was_given_up_is_not_posted_because_somebody_has_seen_it() {
        let (mut deliveries, jobs) = deliveries();
        let late = BEGUN + GIVE_UP_MS;
        // As in the log that a node reads which goes on: the beginning, and that it was acknowledged.
        deliveries.offer(&alarm(), late);
        deliveries.offer(&Alarm { at: late, ..alarm() }, late);
        assert_eq!(jobs.try_iter().count(), 0);
    }
}
