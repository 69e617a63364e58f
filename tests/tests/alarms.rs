//! Alarms: a real Prometheus watches a running cluster. Nothing fires while all is well, each alarm whose cause can be made
//! within seconds fires when it is made, and is silent again afterwards.
//!
//! The rules are those of a deployment, in a hurry: minutes are seconds, and thresholds that a test cannot reach are lower
//! ([`hurried`]). That they hold with their own times and thresholds is what `promtool test rules` shows
//! (`deploy/prometheus/rules/tests`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tickmesh_tests::taos_stub::TaosStub;
use tickmesh_tests::{
    Client, DEADLINE, NodeProcess, PrometheusServer, RawClient, RedisServer, eventually, hurried,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const RULES: &str = include_str!("../../deploy/prometheus/rules/tickmesh.yml");

/// Thresholds that are lower here, or higher for a busy machine, and a market that is open.
const REPLACED: &[(&str, &str)] = &[
    ("> 10  # threshold: clients in 10 minutes", "> 0"),
    ("> 10  # threshold: subscriptions in 10 minutes", "> 0"),
    ("> 1000  # threshold: clients of the cluster", "> 20"),
    ("> 5000  # threshold: clients of the cluster", "> 40"),
    ("> 10000  # threshold: messages", "> 500"),
    ("> 0.2  # threshold: seconds", "> 1"),
    ("> 0.25  # threshold: seconds", "> 1"),
    ("> 0.5  # threshold: seconds", "> 1"),
    ("vector(time() + 8 * 3600)", "vector(12 * 3600)"),
    ("< bool 11 * 60 + 30", "< bool 24 * 60"),
    (
        "(day_of_week(cluster:tickmesh_exchange:local_time_seconds) >= bool 1)",
        "(day_of_week(cluster:tickmesh_exchange:local_time_seconds) >= bool 0)",
    ),
];

/// What a busy machine is right to complain of, whatever else happens.
const BUSY: &[&str] = &[
    "TickmeshLatencyHigh",
    "TickmeshLatencyVeryHigh",
    "TickmeshRedisSlow",
    "TickmeshNodeOverloaded",
    "TickmeshLongPauses",
];

/// Publishes a tick every 50 ms to whichever node takes it.
struct Feed {
    nodes: Arc<Mutex<Vec<SocketAddr>>>,
    paused: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Feed {
    fn start(addresses: Vec<SocketAddr>) -> Self {
        let nodes = Arc::new(Mutex::new(addresses));
        let paused = Arc::new(AtomicBool::new(false));
        let (to, idle) = (nodes.clone(), paused.clone());
        let task = tokio::spawn(async move {
            for n in 0_usize.. {
                sleep(Duration::from_millis(50)).await;
                let address = {
                    let nodes = to.lock();
                    nodes[n % nodes.len()]
                };
                if !idle.load(Ordering::Relaxed) {
                    let tick = json!({"price": 100 + n % 7, "volume": 1});
                    let message = json!({"room": "market_T", "event": "tick", "data": tick});
                    let _ = publish(address, &json!({"messages": [message]})).await;
                }
            }
        });
        Self { nodes, paused, task }
    }

    fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A `POST` to somebody who may be dead.
async fn publish(address: SocketAddr, body: &Value) -> Option<Value> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    };
    timeout(Duration::from_secs(5), exchange).await.ok().flatten()
}

/// Follows the feed, reads all that comes, and connects again, to another, when it is sent away or its gateway is gone.
fn subscriber(gateways: &[SocketAddr], n: usize) -> JoinHandle<()> {
    let gateways = gateways.to_vec();
    tokio::spawn(async move {
        for attempt in n.. {
            let address = gateways[attempt % gateways.len()];
            if let Ok((mut socket, _)) = connect_async(format!("ws://{address}/ws")).await {
                let subscribe = r#"{"type":"subscribe","request_id":"s","room":"market_T"}"#;
                let _ = socket.send(Message::text(subscribe)).await;
                while let Some(Ok(_)) = socket.next().await {}
            }
            sleep(Duration::from_millis(200)).await;
        }
    })
}

/// Prometheus, and what was wrong so far.
struct Watch {
    prometheus: PrometheusServer,
    /// All that fired, as it was told.
    told: Vec<Value>,
}

impl Watch {
    /// Waits until all of these alarms have fired; `also` may. Any other is a false alarm.
    async fn fires(&mut self, cause: &str, alarms: &[&str], also: &[&str]) {
        let begun = Instant::now();
        let mut seen = BTreeSet::new();
        while !alarms.iter().all(|alarm| seen.contains(*alarm)) {
            seen.append(&mut self.look(cause, &[alarms, also].concat()).await);
            assert!(begun.elapsed() < DEADLINE, "{cause}: of {alarms:?} only {seen:?}");
        }
        println!("{cause}: {seen:?} after {:.1} s", begun.elapsed().as_secs_f64());
    }

    /// Waits until nothing fires; what still does are these alone.
    async fn ends(&mut self, cause: &str, alarms: &[&str]) {
        let begun = Instant::now();
        while !self.look(cause, alarms).await.is_empty() {
            assert!(begun.elapsed() < DEADLINE, "{cause} is over: {:?}", self.prometheus.names().await);
        }
        println!("{cause} is over: silent after {:.1} s", begun.elapsed().as_secs_f64());
    }

    /// What fires now; all of it is to be among these, or due to the machine: that is not given where it was not asked for.
    async fn look(&mut self, cause: &str, allowed: &[&str]) -> BTreeSet<String> {
        sleep(Duration::from_millis(250)).await;
        let mut firing = self.prometheus.firing().await;
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned();
        firing
            .retain(|alert| allowed.contains(&name(alert).as_str()) || !BUSY.contains(&name(alert).as_str()));
        for alert in &firing {
            assert!(allowed.contains(&name(alert).as_str()), "a false alarm, {cause}: {alert}");
        }
        let names = firing.iter().map(name).collect();
        self.told.append(&mut firing);
        names
    }
}

fn addresses(processes: &[NodeProcess]) -> Vec<SocketAddr> {
    processes.iter().map(NodeProcess::address).collect()
}

/// Slow: a dozen causes, one after the other, and Prometheus needs ten seconds to see each come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_fire_when_their_cause_is_made_and_not_otherwise() {
    let mut redis = RedisServer::start();
    let mut stub = TaosStub::start().await;
    let dsn = stub.dsn();
    let environment = [
        ("TICKMESH_TDENGINE__DSN", dsn.as_str()),
        ("TICKMESH_RECORDER__BUFFER", "2000"),
        ("TICKMESH_LIMITS__MAX_QUEUE_BYTES", "1048576"),
    ];
    let node = |id: &str| NodeProcess::start(id, &redis.url(), &environment);
    let mut nodes = vec![node("n1"), node("n2")];
    let url = redis.url();
    let mut gateways: Vec<_> = ["g1", "g2", "g3"].map(|id| NodeProcess::gateway(id, &url, &[])).into();
    for gateway in &gateways {
        gateway.places_sessions_on(2).await;
    }
    let prometheus = PrometheusServer::start(&hurried(RULES, REPLACED));
    prometheus.targets("node", &addresses(&nodes));
    prometheus.targets("gateway", &addresses(&gateways));
    let feed = Feed::start(addresses(&nodes));
    let subscribers: Vec<_> = (0..6).map(|n| subscriber(&addresses(&gateways), n)).collect();
    eventually("clients are there and Prometheus sees the nodes", || async {
        prometheus.value("cluster:tickmesh_clients:sum").await == Some(6.0)
            && prometheus.value("sum(up)").await == Some(5.0)
            && prometheus.value("sum(increase(tickmesh_published_messages_total[10s]))").await > Some(0.0)
    })
    .await;
    let mut watch = Watch { prometheus, told: Vec::new() };
    // Before the first scrapes there was nobody, truly.
    watch.ends("the start", &["TickmeshTooFewNodes", "TickmeshTooFewGateways", "TickmeshNoMarketData"]).await;

    // Longer than the longest range.
    let calm = Instant::now();
    while calm.elapsed() < Duration::from_secs(15) {
        watch.look("all is well", &[]).await;
    }
    let rules = watch.prometheus.rules().await;
    let count = RULES.lines().filter(|line| line.trim_start().starts_with("expr:")).count();
    assert_eq!(rules.len(), count, "all rules are loaded");
    for (name, error) in rules {
        assert_eq!(error, "", "{name}");
    }

    // Many clients, one that does not read, and some that nobody knows.
    let mut many = Vec::new();
    for n in 0..45 {
        many.push(Client::connect(gateways[n % gateways.len()].address(), "").await);
    }
    let mut slow = RawClient::connect(nodes[0].address(), Some(4_096)).await;
    slow.send_text(r#"{"type":"subscribe","request_id":"s","room":"chat_big"}"#).await;
    let (node, gateway) = (nodes[0].address(), gateways[0].address());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let unknown = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let _ = Client::try_connect(node, "?token=not.a.token", &[]).await;
            let _ = Client::try_connect(gateway, "?token=not.a.token", &[]).await;
            let message = |_| json!({"room": "chat_big", "event": "e", "data": "x".repeat(8_000)});
            let _ = publish(node, &json!({"messages": (0..20).map(message).collect::<Vec<_>>()})).await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    let clients = [
        "TickmeshConnectionsHigh",
        "TickmeshConnectionsVeryHigh",
        "TickmeshSlowDisconnects",
        "TickmeshConnectionsRefused",
    ];
    watch.fires("clients", &clients, &[]).await;
    stop.store(true, Ordering::Relaxed);
    unknown.await.expect("they are told");
    drop((many, slow));
    watch.ends("clients", &clients).await;

    // The time-series store goes away until logs have forgotten what it did not take.
    stub.stop().await;
    let away = ["TickmeshStoreAway", "TickmeshRecorderBehind"];
    for _ in 0..40 {
        let tick = |n| json!({"room": "market_T", "event": "tick", "data": {"price": 100, "n": n}});
        let messages: Vec<_> = (0..100).map(tick).collect();
        publish(node, &json!({ "messages": messages })).await.expect("taken");
    }
    let lost = ["TickmeshRecorderLosing", "TickmeshStoreDropping"];
    watch.fires("the store is away", &away, &lost).await;
    stub.restart().await;
    watch.fires("the store is back", &["TickmeshRecorderLosing"], &[&away[..], &lost[..]].concat()).await;
    watch.ends("the store was away", &[&away[..], &lost[..]].concat()).await;

    // No quotes.
    feed.pause(true);
    watch.fires("the feed stops", &["TickmeshNoMarketData"], &[]).await;
    feed.pause(false);
    watch.ends("the feed stopped", &["TickmeshNoMarketData"]).await;

    // Redis, with all that it has. What follows from it is another's alarm as well.
    redis.kill();
    let follows = [
        "TickmeshRedisDown",
        "TickmeshPublishErrors",
        "TickmeshNoMarketData",
        "TickmeshRequestErrors",
        "TickmeshRedisReconnects",
        "TickmeshGapsNotRepaired",
        "TickmeshResyncs",
        "TickmeshLeaseLost",
        "TickmeshRecorderLosing",
        "TickmeshStoreDropping",
        "TickmeshNoRoomForClients",
    ];
    watch.fires("Redis is away", &["TickmeshRedisDown", "TickmeshPublishErrors"], &follows).await;
    redis.restart();
    watch
        .fires("Redis is back without its data", &["TickmeshGapsNotRepaired", "TickmeshResyncs"], &follows)
        .await;
    watch.ends("Redis was away", &follows).await;

    // A node stands still for less than it takes to count as dead: what it writes then is late.
    let mut late = Client::connect(nodes[0].address(), "").await;
    late.subscribe("market_T", json!({})).await;
    let reading = tokio::spawn(async move { while late.try_next().await.is_ok() {} });
    let lateness = ["TickmeshLatencyHigh", "TickmeshLatencyVeryHigh"];
    let still = [
        "TickmeshRedisDown",
        "TickmeshNodeDown",
        "TickmeshTooFewNodes",
        "TickmeshNodeLost",
        "TickmeshLeaseLost",
        "TickmeshRedisReconnects",
        "TickmeshPublishErrors",
    ];
    // A publisher that waits for it would publish nothing.
    *feed.nodes.lock() = vec![nodes[1].address()];
    // As often as it takes until one in a hundred messages was later than the threshold.
    let standing = async {
        loop {
            nodes[0].signal("-STOP");
            sleep(Duration::from_millis(1_800)).await;
            nodes[0].signal("-CONT");
            sleep(Duration::from_millis(1_000)).await;
        }
    };
    tokio::select! {
        never = standing => never,
        () = watch.fires("a node stood still", &lateness, &still) => nodes[0].signal("-CONT"),
    }
    watch.ends("a node stood still", &[&lateness[..], &still[..]].concat()).await;
    reading.abort();

    // A gateway is killed, and is no target any more.
    gateways.pop().expect("the third").kill();
    watch.prometheus.targets("gateway", &addresses(&gateways));
    watch.fires("a gateway is killed", &["TickmeshGatewayLost"], &["TickmeshGatewayDown"]).await;
    watch.ends("a gateway was killed", &["TickmeshGatewayLost", "TickmeshGatewayDown"]).await;

    // A node is killed, and stays a target.
    nodes[1].kill();
    *feed.nodes.lock() = vec![nodes[0].address()];
    let lost = ["TickmeshNodeLost", "TickmeshNodeDown", "TickmeshTooFewNodes"];
    watch.fires("a node is killed", &lost, &[]).await;
    nodes[1] = NodeProcess::start("n3", &url, &environment);
    watch.prometheus.targets("node", &addresses(&nodes));
    watch.ends("a node was killed", &lost).await;

    // One of each leaves as it should.
    nodes.push(NodeProcess::start("n4", &url, &environment));
    let shutdown = [("TICKMESH_SERVER__SHUTDOWN_TIMEOUT_MS", "8000")];
    gateways.push(NodeProcess::gateway("g4", &url, &shutdown));
    watch.prometheus.targets("node", &addresses(&nodes));
    watch.prometheus.targets("gateway", &addresses(&gateways));
    let (mut node, mut gateway) = (nodes.pop().expect("it is new"), gateways.pop().expect("it is new"));
    gateway.places_sessions_on(3).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(Client::connect(gateway.address(), "").await);
    }
    eventually("Prometheus sees them", || async { watch.prometheus.value("sum(up)").await == Some(6.0) })
        .await;
    gateway.signal("-TERM");
    gateway.ended().await;
    watch.prometheus.targets("gateway", &addresses(&gateways));
    node.signal("-TERM");
    node.ended().await;
    watch.prometheus.targets("node", &addresses(&nodes));
    // Prometheus takes up to 5 s to forget a target: longer than a minute is here.
    let left = Instant::now();
    while left.elapsed() < Duration::from_secs(12) {
        watch.look("they have left", &["TickmeshNodeDown", "TickmeshGatewayDown"]).await;
    }

    for alert in &watch.told {
        let texts = alert["annotations"].as_object().expect("annotations");
        assert!(texts.values().all(|text| !text.to_string().contains("error expanding")), "{alert}");
    }
    subscribers.iter().for_each(JoinHandle::abort);
}
