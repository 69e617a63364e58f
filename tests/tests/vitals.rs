//! The live view: what every process tells of itself once a second, and what happens to processes, once each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tickmesh_tests::{Client, DEADLINE, NodeProcess, RedisServer, Sandbox, eventually, token};
use tokio::time::{Instant, sleep};

/// Every message of a room's log, with its event.
async fn log(node: &NodeProcess, room: &str) -> Vec<(String, Value)> {
    let path = format!("/api/v1/rooms/{room}/history?limit=1000");
    let answer = Sandbox::http(node.address(), "GET", &path, "", "").await;
    let history: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let messages = history["messages"].as_array().cloned().unwrap_or_default();
    messages
        .into_iter()
        .map(|message| (message["event"].as_str().unwrap_or_default().to_owned(), message["data"].clone()))
        .collect()
}

/// How often each event was told, with whom it is about.
async fn events(node: &NodeProcess) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (event, data) in log(node, "system_events").await {
        let name = format!("{event} {}", data["id"].as_str().unwrap_or_default());
        *counts.entry(name).or_default() += 1;
    }
    counts
}

async fn post(node: &NodeProcess, path: &str, body: &Value) -> Value {
    Sandbox::http(node.address(), "POST", path, "", &body.to_string()).await.json()
}

/// The next vitals of a process that are as wanted.
async fn vitals_of(client: &mut Client, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        let message = client.next().await;
        let data = &message["data"];
        if message["event"] == "vitals" && data["id"] == id {
            if wanted(data) {
                return data.clone();
            }
            assert!(Instant::now() < end, "not as wanted: {data}");
        }
    }
}

#[tokio::test]
async fn every_process_tells_how_it_does() {
    let server = RedisServer::start();
    let a = NodeProcess::start("a", &server.url(), &[("TICKMESH_CLUSTER__ZONE", "east")]);
    let b = NodeProcess::start("b", &server.url(), &[]);
    let gateway = NodeProcess::gateway("g", &server.url(), &[]);
    gateway.places_sessions_on(2).await;
    let mut follower = Client::connect(a.address(), "").await;
    follower.subscribe("market_1", json!({})).await;
    let mut behind = Client::connect(gateway.address(), "").await;
    behind.subscribe("market_1", json!({})).await;
    let mut watcher = Client::connect(gateway.address(), "").await;
    watcher.subscribe("system_cluster", json!({"delivery": "latest", "history": 100})).await;
    let address = b.address();
    let feed = tokio::spawn(async move {
        loop {
            let body = json!({"room": "market_1", "event": "tick", "data": {"price": 1}}).to_string();
            Sandbox::http(address, "POST", "/api/v1/publish", "", &body).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    let told = vitals_of(&mut watcher, "a", |data| {
        data["delivered_per_s"].as_f64() > Some(5.0)
            && data["top_rooms"][0]["messages_per_s"].as_f64() > Some(5.0)
    })
    .await;
    assert_eq!(
        (&told["kind"], &told["zone"], &told["redis_up"]),
        (&json!("node"), &json!("east"), &json!(true))
    );
    assert_eq!((&told["top_rooms"][0]["room"], &told["ready"]), (&json!("market_1"), &json!(true)));
    assert!(told["latency_ms"]["p99"].as_f64() > Some(0.0), "{told}");
    assert!(
        told["memory_bytes"].as_u64() > Some(1 << 20) && told["memory_limit_bytes"].as_u64() > Some(1 << 20)
    );
    assert_eq!(told["quality_counts"].as_array().map(Vec::len), Some(10));
    assert!(told["clients"].is_null(), "that is a gateway's");
    let publisher = vitals_of(&mut watcher, "b", |data| data["published_per_s"].as_f64() > Some(5.0)).await;
    let age = publisher["at"].as_u64().unwrap_or(0) - publisher["market_newest_at"].as_u64().unwrap_or(0);
    assert!(age < 5_000, "market data is new: {publisher}");
    let told = vitals_of(&mut watcher, "g", |data| data["nodes_known"] == 2).await;
    assert_eq!((&told["clients"], &told["links"], &told["sessions"]), (&json!(2), &json!(2), &Value::Null));
    let sessions = |data: &Value| data["sessions"].as_u64().unwrap_or(0);
    let here = vitals_of(&mut watcher, "a", |_| true).await;
    let there = vitals_of(&mut watcher, "b", |_| true).await;
    assert_eq!(sessions(&here) + sessions(&there), 3, "each client once, wherever it is");
    feed.abort();
    // What the cluster says of itself is no room of anybody's, and nobody's message.
    let rooms = Sandbox::http(a.address(), "GET", "/api/v1/rooms", "", "").await.json();
    let names: Vec<_> =
        rooms["rooms"].as_array().into_iter().flatten().map(|room| room["room"].clone()).collect();
    assert_eq!(names, ["market_1"]);
    let metrics = Sandbox::http(a.address(), "GET", "/metrics", "", "").await.body;
    assert!(metrics.contains("tickmesh_published_messages_total{class=\"system_cluster\"} 0\n"), "{metrics}");
}

/// Slow: what is lost is told when its lease has ended.
#[tokio::test]
async fn what_happens_to_processes_is_told_once() {
    let server = RedisServer::start();
    let mut nodes: Vec<_> = ["a", "b", "c"].map(|id| NodeProcess::start(id, &server.url(), &[])).into();
    let mut gateway = NodeProcess::gateway("g", &server.url(), &[]);
    gateway.places_sessions_on(3).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Client::connect(gateway.address(), "").await);
    }
    let has = async |node: &NodeProcess, event: &str| events(node).await.contains_key(event);
    for event in ["node_joined a", "node_joined b", "node_joined c", "gateway_joined g"] {
        eventually(event, || has(&nodes[0], event)).await;
    }
    post(&nodes[0], "/api/v1/nodes/b/drain", &json!({})).await;
    eventually("b drains", || has(&nodes[0], "node_draining b")).await;
    eventually("its sessions have moved", || has(&nodes[0], "moved g")).await;
    post(&nodes[0], "/api/v1/nodes/b/resume", &json!({})).await;
    eventually("b is back", || has(&nodes[0], "node_resumed b")).await;
    nodes[1].signal("-TERM");
    nodes[1].ended().await;
    eventually("b has left", || has(&nodes[0], "node_left b")).await;
    nodes[2].kill();
    eventually("c is lost", || has(&nodes[0], "node_lost c")).await;
    gateway.signal("-TERM");
    gateway.ended().await;
    eventually("the gateway has left", || has(&nodes[0], "gateway_left g")).await;
    let told = events(&nodes[0]).await;
    for (event, times) in &told {
        // A node that stops drains, too; and sessions move as often as they do.
        let most = if event.starts_with("node_draining b") { 2 } else { 1 };
        assert!(event.starts_with("moved") || *times <= most, "{event}: {told:?}");
    }
    assert!(!told.contains_key("node_lost b") && !told.contains_key("node_left c"), "{told:?}");
    let moved: Vec<_> =
        log(&nodes[0], "system_events").await.into_iter().filter(|(event, _)| event == "moved").collect();
    assert!(
        moved.iter().all(|(_, data)| data["sessions"].as_u64() > Some(0) && data["gateway"] == "g"),
        "{moved:?}"
    );
    assert!(
        moved.iter().any(|(_, data)| data["cause"] == "move" && data["pause_ms"]["p99"].is_number()),
        "{moved:?}"
    );
}

#[tokio::test]
async fn only_operators_see_it() {
    let server = RedisServer::start();
    let node = NodeProcess::start("a", &server.url(), &[("TICKMESH_AUTH__ANONYMOUS", "subscribe")]);
    let as_role = async |role: &str| {
        let query = if role.is_empty() { String::new() } else { format!("?token={}", token("me", role)) };
        Client::connect(node.address(), &query).await
    };
    for room in ["system_cluster", "system_events", "system_alerts"] {
        for role in ["", "user", "publisher"] {
            let answer = as_role(role).await.try_subscribe(room, json!({})).await;
            assert_eq!(answer["error_code"], "PERMISSION_DENIED", "{room} {role}: {answer}");
        }
        let answer = as_role("operator").await.try_subscribe(room, json!({})).await;
        assert_eq!(answer["success"], true, "{answer}");
        let publish = json!({"room": room, "event": "vitals", "data": {}});
        let answer = as_role("operator").await.request("publish", publish).await;
        assert_eq!(answer["error_code"], "PERMISSION_DENIED", "nobody but the cluster: {answer}");
    }
    let others = as_role("user").await.try_subscribe("system_status", json!({})).await;
    assert_eq!(others["success"], true, "other rooms of system_ are for users as ever: {others}");
}

/// UTC milliseconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Slow: Redis is away for six vitals.
#[tokio::test]
async fn vitals_are_skipped_while_redis_is_away_and_nothing_piles_up() {
    let mut server = RedisServer::append_only();
    let node = NodeProcess::start("a", &server.url(), &[]);
    eventually("there are vitals", || async { log(&node, "system_cluster").await.len() >= 2 }).await;
    server.kill();
    let ready = async || Sandbox::http(node.address(), "GET", "/readyz", "", "").await.status;
    eventually("it is noticed", || async { ready().await == 503 }).await;
    let begun = Instant::now();
    let away = now();
    while begun.elapsed() < Duration::from_secs(6) {
        assert_eq!(Sandbox::http(node.address(), "GET", "/healthz", "", "").await.status, 200);
        sleep(Duration::from_millis(100)).await;
    }
    let back = now();
    server.restart();
    eventually("it is back", || async { ready().await == 200 }).await;
    let times = async || {
        let all = log(&node, "system_cluster").await;
        all.iter().filter_map(|(_, data)| data["at"].as_u64()).collect::<Vec<_>>()
    };
    let before = times().await.len();
    eventually("vitals go on", || async { times().await.len() >= before + 2 }).await;
    let all = times().await;
    let meanwhile = all.iter().filter(|at| (away..back).contains(*at)).count();
    // The last one may be on its way when Redis is back.
    assert!(meanwhile <= 1, "none was kept for later: {all:?} from {away} to {back}");
}
