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
use tokio::sync::mpsc;

use super::board::{alarm_of, room};
use super::courier::{Courier, Job, Manner};
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
        let agent = tickmesh_telemetry::http::agent(timeout, ca.as_deref())?;
        let retry = Duration::from_millis(config.webhook_retry_ms);
        Ok(Self {
            hooks: config.webhooks.clone(),
            queue: config.webhook_queue,
            manner: Manner { agent, retry },
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
    /// Deliveries that were offered or are known to be done, and the alarms' times.
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
        let keep = self.give_up_ms * 2;
        self.offered.retain(|_, at| now.saturating_sub(*at) < keep);
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
        if age >= self.give_up_ms {
            return;
        }
        let Ok(body) = serde_json::to_string(alarm) else { return };
        for (hook, courier) in &self.couriers {
            let delivery = delivery_id(alarm, hook.url.expose());
            if self.offered.contains_key(&delivery) {
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
