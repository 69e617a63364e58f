use super::*;
use crate::broker::memory::MemoryCluster;
use crate::broker::{Events, inbox};
use crate::members::memory::MemoryMembers;
use crate::members::suite::report;
use crate::members::{Members, Report};
use tickmesh_protocol::message::Replay;
use tickmesh_protocol::room::Classes;
use tokio::time::sleep;

const LEASE: Duration = Duration::from_secs(3);

struct Fixed {
    id: &'static str,
    draining: Arc<parking_lot::Mutex<bool>>,
}

impl Measure for Fixed {
    fn vitals(&mut self, now: u64) -> Vitals {
        let text = format!(r#"{{"id":"{}","kind":"node","run":1,"at":{now},"sessions":3}}"#, self.id);
        let vitals: Vitals = serde_json::from_str(&text).unwrap();
        Vitals { draining: *self.draining.lock(), ..vitals }
    }
}

struct Process {
    pulse: Pulse,
    broker: Arc<dyn Broker>,
    draining: Arc<parking_lot::Mutex<bool>>,
    _events: Events,
}

fn process(id: &'static str, logs: &Arc<MemoryCluster>, members: &MemoryMembers) -> Process {
    let (inbox, _events) = inbox(64);
    let broker: Arc<dyn Broker> = Arc::new(logs.connect(inbox));
    let roster = Roster::start(Arc::new(members.clone()), LEASE, move || report(id, 1));
    let draining = Arc::<parking_lot::Mutex<bool>>::default();
    let means = Means { broker: broker.clone(), roster, health: None, clock: || 1_000 };
    let who = Who { id: id.into(), kind: Kind::Node, run: 1 };
    let pulse = Pulse::start(who, means, Fixed { id, draining: draining.clone() });
    Process { pulse, broker, draining, _events }
}

async fn told(broker: &Arc<dyn Broker>, room: &str) -> Vec<String> {
    let history = broker.history(&RoomName::new(room).unwrap(), Replay::Last(100)).await.unwrap();
    let id = |data: &str| {
        serde_json::from_str::<serde_json::Value>(data).unwrap()["id"].as_str().unwrap().to_owned()
    };
    history.messages.iter().map(|message| format!("{} {}", message.event, id(message.data.get()))).collect()
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_told_once_whoever_sees_it() {
    let logs = MemoryCluster::new(Classes::default(), Arc::new(|| 1_000));
    let members = MemoryMembers::default();
    let (a, b) = (process("a", &logs, &members), process("b", &logs, &members));
    sleep(Duration::from_secs(3)).await;
    let vitals = told(&a.broker, CLUSTER_ROOM).await;
    assert!(vitals.iter().filter(|one| *one == "vitals a").count() >= 3, "{vitals:?}");
    let join = async |report: Report| members.join(&report, LEASE).await.unwrap();
    join(report("dies", 1)).await;
    join(report("restarts", 1)).await;
    join(Report { draining: true, kind: Kind::Gateway, ..report("leaves", 1) }).await;
    *b.draining.lock() = true;
    sleep(Duration::from_secs(2)).await;
    // It was not away for as long as a lease; now it stays.
    members.join(&report("restarts", 2), Duration::from_secs(60)).await.unwrap();
    sleep(Duration::from_secs(7)).await;
    *b.draining.lock() = false;
    sleep(Duration::from_secs(2)).await;
    b.pulse.farewell().await;
    let mut events = told(&a.broker, EVENTS_ROOM).await;
    events.sort();
    let expected = [
        "gateway_left leaves",
        "node_draining b",
        "node_joined a",
        "node_joined b",
        "node_left b",
        "node_lost dies",
        "node_resumed b",
    ];
    assert_eq!(events, expected);
}
