use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tickmesh_cluster::broker::memory::{MemoryBroker, MemoryCluster};
use tickmesh_cluster::broker::{Events, inbox};
use tickmesh_protocol::alarm::{RuleName, default_rules};
use tickmesh_protocol::message::{History, Publish};
use tickmesh_protocol::room::{Classes, RoomName};

use super::*;

const NOW: u64 = 1_700_000_000_000;
const SECOND: u64 = 1_000;

/// The rooms in memory, which are read so many times and then not any more.
struct Rooms {
    broker: MemoryBroker,
    reads: AtomicUsize,
    most: usize,
    _events: Events,
}

#[async_trait]
impl Broker for Rooms {
    async fn publish(&self, messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>> {
        self.broker.publish(messages).await
    }

    async fn subscribe(&self, room: &RoomName) -> Result<Position, BrokerError> {
        self.broker.subscribe(room).await
    }

    async fn unsubscribe(&self, room: &RoomName) {
        self.broker.unsubscribe(room).await;
    }

    async fn history(&self, room: &RoomName, replay: Replay) -> Result<History, BrokerError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) >= self.most {
            return Err(BrokerError::Timeout);
        }
        let history = self.broker.history(room, replay).await?;
        assert!(history.messages.len() <= PAGE, "{} messages in one answer", history.messages.len());
        Ok(history)
    }

    async fn rooms(&self) -> Result<Vec<(RoomName, Position)>, BrokerError> {
        self.broker.rooms().await
    }
}

impl Rooms {
    fn new(most: usize) -> Self {
        let (inbox, _events) = inbox(1);
        let broker = MemoryCluster::new(Classes::default(), Arc::new(|| NOW)).connect(inbox);
        Self { broker, reads: AtomicUsize::new(0), most, _events }
    }

    async fn tell(&self, name: &str, event: &str, at: u64, data: &Value) {
        let publish = Publish {
            room: room(name).unwrap(),
            event: event.into(),
            data: to_raw_value(data).unwrap(),
            message_id: None,
            key: None,
            timestamp: Some(at),
            trace: None,
        };
        self.publish(vec![publish]).await.pop().unwrap().unwrap();
    }

    async fn vitals(&self, id: &str, run: u64, at: u64) {
        let data = json!({"id": id, "kind": "node", "run": run, "at": at, "sessions": 2_000});
        self.tell(CLUSTER_ROOM, VITALS_EVENT, at, &data).await;
    }

    async fn event(&self, event: &str, id: &str, run: Option<u64>, at: u64) {
        let data = EventData { id: id.into(), run, at, text: String::new(), moved: None };
        self.tell(EVENTS_ROOM, event, at, &serde_json::to_value(&data).unwrap()).await;
    }

    /// Vitals of ten nodes for so many seconds until [`NOW`].
    async fn filled(self, seconds: u64) -> Self {
        for second in (0..seconds).rev() {
            for node in 0..10 {
                self.vitals(&format!("n{node}"), 1, NOW - second * SECOND).await;
            }
        }
        self
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Whether a rule for which something has to last so many seconds fires at the first look, by the past that was read.
fn fires_at_once(heard: &mut Heard, for_s: u64) -> bool {
    let mut rules = default_rules();
    rules.retain(|rule| rule.name == RuleName::ConnectionsHigh);
    rules[0].for_ms = for_s * SECOND;
    let mut engine = Engine::default();
    heard.recall(&mut engine, &rules);
    !engine.look(&rules, &heard.sample(NOW, None)).is_empty()
}

#[tokio::test]
async fn the_past_is_read_in_pages_and_no_further_than_is_needed() {
    let rooms = Rooms::new(usize::MAX).filled(300).await;
    let mut heard = Heard::default();
    heard.look_back(&rooms, NOW, 130 * SECOND, soon()).await.unwrap();
    // One of the events; of 3,000 vitals the pages of the newest 1,301, and one to see that it is the last.
    assert!((4..=5).contains(&rooms.reads.load(Ordering::Relaxed)), "{:?}", rooms.reads);
    assert_eq!((heard.past.len(), heard.vitals.len()), (1_310, 10));
    let times: Vec<_> = heard.past.iter().map(|(at, _)| *at).collect();
    assert!(times.is_sorted(), "in order");
    assert!(fires_at_once(&mut heard, 120));
    let mut all = Heard::default();
    all.look_back(&rooms, NOW, 24 * 3_600 * SECOND, soon()).await.unwrap();
    assert_eq!(all.past.len(), 3_000, "to the beginning, and nothing twice");
}

#[tokio::test]
async fn what_cannot_be_read_leaves_what_was() {
    // The events, and two pages of vitals: 100 seconds of ten nodes.
    let rooms = Rooms::new(3).filled(300).await;
    let mut heard = Heard::default();
    heard.look_back(&rooms, NOW, 300 * SECOND, soon()).await.unwrap();
    assert_eq!((heard.past.len(), heard.vitals.len()), (1_000, 10));
    assert!(fires_at_once(&mut heard, 90));
    let nothing = Rooms::new(1).filled(1).await;
    let nothing = Heard::default().look_back(&nothing, NOW, 300 * SECOND, soon()).await;
    assert!(nothing.is_err(), "without the newest nothing is known");
}

#[tokio::test]
async fn more_than_a_page_is_heard_at_once() {
    let rooms = Rooms::new(usize::MAX).filled(1).await;
    let mut heard = Heard::default();
    heard.look_back(&rooms, NOW, SECOND, soon()).await.unwrap();
    for n in 0..PAGE + 1 {
        rooms.vitals(&format!("late{n}"), 1, NOW).await;
    }
    heard.listen(&rooms, NOW).await.unwrap();
    assert_eq!(heard.vitals.len(), 10 + PAGE + 1);
}

#[tokio::test]
async fn a_run_that_has_a_successor_is_not_lost() {
    let rooms = Rooms::new(usize::MAX);
    let mut heard = Heard::default();
    rooms.event("node_joined", "b", Some(1), NOW - 9 * SECOND).await;
    rooms.vitals("b", 1, NOW - 9 * SECOND).await;
    heard.look_back(&rooms, NOW, SECOND, soon()).await.unwrap();
    rooms.event("node_joined", "b", Some(2), NOW).await;
    rooms.vitals("b", 2, NOW).await;
    rooms.event("node_lost", "b", Some(1), NOW).await;
    heard.listen(&rooms, NOW).await.unwrap();
    assert!(heard.lost.is_empty(), "it is up: {:?}", heard.lost);
    let mut later = Heard::default();
    later.look_back(&rooms, NOW, SECOND, soon()).await.unwrap();
    assert!(later.lost.is_empty(), "for who goes on as well: {:?}", later.lost);
    rooms.event("node_lost", "b", Some(2), NOW + SECOND).await;
    heard.listen(&rooms, NOW + SECOND).await.unwrap();
    assert!(heard.lost.contains_key("b"), "its last vitals are of the run that is lost");
    heard.listen(&rooms, NOW + 60 * SECOND).await.unwrap();
    assert!(heard.lost.contains_key("b"), "it stays away");
    rooms.vitals("b", 3, NOW + 61 * SECOND).await;
    heard.listen(&rooms, NOW + 61 * SECOND).await.unwrap();
    assert!(heard.lost.is_empty(), "another run is there");
    rooms.event("gateway_lost", "g", None, NOW + 62 * SECOND).await;
    heard.listen(&rooms, NOW + 62 * SECOND).await.unwrap();
    assert!(heard.lost.contains_key("g"), "told by a version that names no run");
    rooms.event("gateway_joined", "g", Some(5), NOW + 63 * SECOND).await;
    heard.listen(&rooms, NOW + 63 * SECOND).await.unwrap();
    assert!(heard.lost.is_empty());
}
