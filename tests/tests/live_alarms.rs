//! The cluster's own alarms: each fires once for all nodes when there is cause, and is over afterwards; whoever looks may die; and
//! webhooks are told, at least once, signed.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tickmesh_tests::taos_stub::TaosStub;
use tickmesh_tests::{
    Answer, Client, DEADLINE, NodeProcess, RedisServer, Sandbox, Webhook, eventually, token,
};
use tokio::time::{Instant, sleep};

const SECRET: &str = "a secret of webhooks";
/// Rules that do not fire here unless a test says so, and have no time to wait.
const QUIET: &[&str] =
    &["memory_high", "memory_very_high", "quality_low", "latency_high", "latency_very_high"];

/// What the environment says of rules: those of a test, and none of the others.
fn rules(wanted: &[Value]) -> String {
    let named = |name: &str| wanted.iter().any(|rule| rule["name"] == name);
    let off = QUIET.iter().filter(|name| !named(name)).map(|name| json!({"name": name, "enabled": false}));
    let table = |rule: Value| {
        let fields = rule.as_object().into_iter().flatten().map(|(name, value)| format!("{name} = {value}"));
        format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
    };
    let all: Vec<_> = off.chain(wanted.iter().cloned()).map(table).collect();
    format!("[{}]", all.join(", "))
}

fn rule(name: &str, threshold: f64, clear: f64) -> Value {
    json!({"name": name, "threshold": threshold, "clear": clear, "for_ms": 0, "clear_for_ms": 0})
}

fn webhooks(hook: &Webhook) -> String {
    format!("[{{ url = \"{}\", secret = \"{SECRET}\" }}]", hook.url())
}

async fn ask(address: SocketAddr, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Sandbox::http(address, method, path, "", &body).await
}

async fn get(node: &NodeProcess, path: &str) -> Value {
    let answer = ask(node.address(), "GET", path, &Value::Null).await;
    serde_json::from_str(&answer.body).unwrap_or_default()
}

/// Changes of an alarm as they stand in the log, in order: state and number.
async fn changes(node: &NodeProcess, id: &str) -> Vec<(String, u64)> {
    let history = get(node, "/api/v1/rooms/system_alerts/history?limit=1000").await;
    let messages = history["messages"].as_array().cloned().unwrap_or_default();
    let of = messages.into_iter().filter(|message| message["data"]["id"] == id);
    of.map(|message| {
        assert_eq!(
            (&message["event"], &message["key"]),
            (&json!("alarm"), &Value::Null),
            "keys are not told: {message}"
        );
        let data = &message["data"];
        (data["state"].as_str().unwrap_or_default().to_owned(), data["change"].as_u64().unwrap_or(0))
    })
    .collect()
}

fn once() -> Vec<(String, u64)> {
    vec![("firing".to_owned(), 1), ("resolved".to_owned(), 2)]
}

async fn fires(node: &NodeProcess, id: &str) {
    eventually(id, || async { changes(node, id).await.last().is_some_and(|(state, _)| state == "firing") })
        .await;
}

async fn is_over(node: &NodeProcess, id: &str) {
    eventually(id, || async { changes(node, id).await.last().is_some_and(|(state, _)| state == "resolved") })
        .await;
}

/// The alarm as a node tells of it.
async fn alarm(node: &NodeProcess, id: &str) -> Value {
    let listed = get(node, "/api/v1/alarms").await;
    listed["alarms"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|alarm| alarm["id"] == id)
        .cloned()
        .unwrap_or_default()
}

/// The node that looks, once all agree.
async fn evaluator(nodes: &[NodeProcess]) -> usize {
    let mut found = None;
    eventually("one looks", || async {
        let mut looks = Vec::new();
        for node in nodes {
            let metrics = ask(node.address(), "GET", "/metrics", &Value::Null).await.body;
            looks.push(metrics.lines().any(|line| line == "tickmesh_alarm_evaluator 1"));
        }
        looks.iter().filter(|looks| **looks).count() == 1
    })
    .await;
    for (n, node) in nodes.iter().enumerate() {
        let metrics = ask(node.address(), "GET", "/metrics", &Value::Null).await.body;
        if metrics.lines().any(|line| line == "tickmesh_alarm_evaluator 1") {
            found = Some(n);
        }
    }
    found.unwrap_or_else(|| panic!("nobody looks"))
}

async fn tune(nodes: &[&NodeProcess], rule: &Value) {
    for node in nodes {
        let answer = Sandbox::http(
            node.address(),
            "PUT",
            "/api/v1/tuning",
            &format!("Authorization: Bearer {}\r\n", token("root", "operator")),
            &json!({"alarms.rule": [rule]}).to_string(),
        )
        .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

async fn tick(node: &NodeProcess) {
    let body = json!({"room": "market_T", "event": "tick", "data": {"price": 1}});
    ask(node.address(), "POST", "/api/v1/publish", &body).await;
}

/// Slow: a dozen alarms, each of which needs two or three looks, once a second, to come and to go.
#[tokio::test]
async fn each_rule_fires_once_for_all_nodes_and_is_over() {
    let server = RedisServer::append_only();
    let mut stub = TaosStub::start().await;
    let own = rules(&[
        rule("connections_high", 4.0, 3.0),
        rule("connections_very_high", 5.0, 3.0),
        rule("error_rate_high", 1.0, 0.0),
        rule("latency_high", 0.0001, 0.0),
        rule("latency_very_high", 0.0001, 0.0),
        rule("market_latency_high", 0.0001, 0.0),
        rule("market_silent", 4.0, 2.0),
        rule("store_away", 0.0, 0.0),
        rule("pool_busy", 5.0, 0.0),
    ]);
    let dsn = stub.dsn();
    let environment: &[(&str, &str)] = &[("TICKMESH_ALARMS__RULE", &own), ("TICKMESH_TDENGINE__DSN", &dsn)];
    let start = |id: &str| NodeProcess::start(id, &server.url(), environment);
    let mut nodes: Vec<_> = ["a", "b", "c"].map(start).into();
    let mut gateway = NodeProcess::gateway("g", &server.url(), environment);
    let at = evaluator(&nodes).await;
    // The one that looks stays; the others are those to whom things happen.
    nodes.rotate_left(at);
    let (one, other) = (&nodes[0], &nodes[1]);
    let id = |rule: &str, node: &NodeProcess| format!("{rule}:{}", node.id());

    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = Client::connect([other, one][n % 2].address(), "").await;
        client.subscribe("market_T", json!({})).await;
        clients.push(client);
    }
    fires(one, "connections_high").await;
    fires(one, "connections_very_high").await;
    tick(other).await;
    for rule in ["latency_high", "latency_very_high", "market_latency_high"] {
        fires(one, &id(rule, other)).await;
    }
    let mut loud = Client::connect(other.address(), "").await;
    let end = Instant::now() + DEADLINE;
    while changes(one, &id("error_rate_high", other)).await.is_empty() {
        assert!(Instant::now() < end, "errors are seen");
        for _ in 0..10 {
            loud.request("nothing", json!({})).await;
        }
    }
    fires(one, "market_silent").await;
    clients.clear();
    is_over(one, "connections_high").await;
    is_over(one, "connections_very_high").await;
    let end = Instant::now() + DEADLINE;
    while changes(one, "market_silent").await.len() < 2 {
        assert!(Instant::now() < end, "market data are seen");
        tick(other).await;
        sleep(Duration::from_millis(100)).await;
    }
    // Nobody is subscribed any more: nothing is written.
    for rule in ["latency_high", "latency_very_high", "market_latency_high", "error_rate_high"] {
        is_over(one, &id(rule, other)).await;
    }

    stub.delay(Duration::from_millis(1_500));
    let busy = async || {
        for node in &nodes {
            if !changes(one, &format!("pool_busy:{}:series", node.id())).await.is_empty() {
                return Some(format!("pool_busy:{}:series", node.id()));
            }
        }
        None
    };
    let end = Instant::now() + DEADLINE;
    let pool = loop {
        assert!(Instant::now() < end, "connections are in use");
        tick(other).await;
        if let Some(pool) = busy().await {
            break pool;
        }
    };
    stub.delay(Duration::ZERO);
    is_over(one, &pool).await;
    stub.stop().await;
    let store = format!("store_away:{}:series", other.id());
    fires(one, &store).await;
    stub.restart().await;
    is_over(one, &store).await;

    // What cannot be made within seconds is made by a threshold, changed while the nodes run.
    let everybody: Vec<_> = nodes.iter().collect();
    for (name, at, was) in
        [("quality_low", 101.0, 60.0), ("memory_high", 0.0001, 80.0), ("memory_very_high", 0.0001, 92.0)]
    {
        let mut wanted = rule(name, at, at);
        wanted["enabled"] = json!(true);
        tune(&everybody, &wanted).await;
        fires(one, &id(name, other)).await;
        tune(&everybody, &rule(name, was, was)).await;
        is_over(one, &id(name, other)).await;
    }

    gateway.kill();
    nodes[2].kill();
    let lost = id("node_lost", &nodes[2]);
    fires(&nodes[0], "gateway_lost:g").await;
    fires(&nodes[0], &lost).await;
    let back = NodeProcess::start(nodes[2].id(), &server.url(), environment);
    gateway = NodeProcess::gateway("g", &server.url(), environment);
    is_over(&nodes[0], &lost).await;
    is_over(&nodes[0], "gateway_lost:g").await;
    drop((back, gateway));
    for alarm in ["connections_high", "connections_very_high", "gateway_lost:g", &lost, &store] {
        assert_eq!(changes(&nodes[0], alarm).await, once(), "{alarm}");
    }
}

#[tokio::test]
async fn a_process_that_is_started_again_at_once_is_not_lost() {
    let server = RedisServer::append_only();
    let own = rules(&[]);
    let environment: &[(&str, &str)] = &[("TICKMESH_ALARMS__RULE", &own)];
    let mut nodes: Vec<_> =
        ["a", "b", "c"].map(|id| NodeProcess::start(id, &server.url(), environment)).into();
    let mut gateway = NodeProcess::gateway("g", &server.url(), environment);
    gateway.places_sessions_on(3).await;
    let at = evaluator(&nodes).await;
    nodes.rotate_left(at);
    let mut doomed = nodes.remove(2);
    let restarts = nodes[1].id().to_owned();
    nodes[1].kill();
    gateway.kill();
    nodes[1] = NodeProcess::start(&restarts, &server.url(), environment);
    let gateway = NodeProcess::gateway("g", &server.url(), environment);
    // All know the new runs: what there is to say of the old ones is said before the third node is lost.
    gateway.places_sessions_on(3).await;
    let events = async || {
        let history = get(&nodes[0], "/api/v1/rooms/system_events/history?limit=1000").await;
        let messages = history["messages"].as_array().cloned().unwrap_or_default();
        let of = |one: Value| format!("{} {}", one["event"].as_str().unwrap_or_default(), one["data"]["id"]);
        messages.into_iter().map(of).collect::<Vec<_>>()
    };
    let joined = async |id: &str| events().await.iter().filter(|one| one.ends_with(id)).count() == 2;
    eventually("both are back", || async {
        joined(&format!("node_joined \"{restarts}\"")).await && joined("gateway_joined \"g\"").await
    })
    .await;
    doomed.kill();
    fires(&nodes[0], &format!("node_lost:{}", doomed.id())).await;
    for id in [format!("node_lost:{restarts}"), "gateway_lost:g".to_owned()] {
        assert!(changes(&nodes[0], &id).await.is_empty(), "{id}");
    }
    let told = events().await;
    let lost: Vec<_> = told.iter().filter(|event| event.contains("_lost")).collect();
    assert_eq!(lost, [&format!("node_lost \"{}\"", doomed.id())], "nor in the log of events: {told:?}");
}

/// How long a rule waits that is to be waiting while another node takes over.
const SLOW_MS: u64 = 15_000;

/// UTC milliseconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Slow: a rule that waits for fifteen seconds, in which another node takes over.
#[tokio::test]
async fn another_goes_on_when_the_one_that_looks_is_killed() {
    let server = RedisServer::append_only();
    let hook = Webhook::start(usize::MAX).await;
    let mut slow = rule("connections_very_high", 2.0, 2.0);
    slow["for_ms"] = json!(SLOW_MS);
    let own = rules(&[rule("connections_high", 1.0, 0.0), slow]);
    let hooks = webhooks(&hook);
    let environment: &[(&str, &str)] = &[
        ("TICKMESH_ALARMS__RULE", &own),
        ("TICKMESH_ALARMS__WEBHOOKS", &hooks),
        ("TICKMESH_ALARMS__WEBHOOK_RETRY_MS", "200"),
    ];
    let mut nodes: Vec<_> =
        ["a", "b", "c"].map(|id| NodeProcess::start(id, &server.url(), environment)).into();
    let gateway = NodeProcess::gateway("g", &server.url(), environment);
    gateway.places_sessions_on(3).await;
    let at = evaluator(&nodes).await;
    let mut doomed = nodes.remove(at);
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(Client::connect(nodes[n % 2].address(), "").await);
    }
    let begun = now();
    fires(&nodes[0], "connections_high").await;
    let unknown = ask(gateway.address(), "POST", "/api/v1/alarms/connections_low/ack", &Value::Null).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    let path = "/api/v1/alarms/connections%5Fhigh/ack";
    let header = format!("Authorization: Bearer {}\r\n", token("olga", "operator"));
    let acknowledged = Sandbox::http(nodes[1].address(), "POST", path, &header, "").await;
    assert_eq!((acknowledged.status, &acknowledged.json()["acknowledged_by"]), (200, &json!("olga")));
    let path = "/api/v1/alarms/connections_high/ack";
    let again = ask(gateway.address(), "POST", path, &Value::Null).await.json();
    assert_eq!(again["acknowledged_by"], "olga", "the first one stays named: {again}");
    eventually("the webhook was tried", || async { !hook.tries().is_empty() }).await;
    let before = alarm(&nodes[0], "connections_high").await;
    let delivery = hook.tries()[0].header("X-Tickmesh-Delivery").to_owned();

    doomed.kill();
    hook.fail(0);
    let successor = evaluator(&nodes).await;
    let took_over = now();
    let lost = format!("node_lost:{}", doomed.id());
    fires(&nodes[0], &lost).await;
    let after = alarm(&nodes[1 - successor], "connections_high").await;
    assert_eq!((&after["since"], &after["acknowledged_by"]), (&before["since"], &json!("olga")), "{after}");
    eventually("the next one delivers", || async { !hook.taken().is_empty() }).await;
    eventually("and what happened since", || async {
        hook.taken().contains(&(lost.clone(), "firing".into()))
    })
    .await;
    let taken = hook.tries().into_iter().find(|one| one.taken).unwrap_or_else(|| panic!("taken"));
    assert_eq!(taken.header("X-Tickmesh-Delivery"), delivery, "under the same id");
    fires(&nodes[0], "connections_very_high").await;
    let fired = alarm(&nodes[0], "connections_very_high").await["since"].as_u64().expect("a time");
    assert!(fired < took_over + SLOW_MS, "the time before counts: {took_over} and then {fired}");
    // Of the figures, the first are up to two seconds old.
    assert!(fired > begun + SLOW_MS - 2_000, "and no more than that: {begun} and then {fired}");
    clients.clear();
    is_over(&nodes[0], "connections_high").await;
    is_over(&nodes[0], "connections_very_high").await;
    let told = changes(&nodes[0], "connections_high").await;
    let states: Vec<_> = told.iter().map(|(state, change)| (state.as_str(), *change)).collect();
    assert_eq!(
        states,
        [("firing", 1), ("firing", 1), ("resolved", 2)],
        "begun, acknowledged, over: nothing twice"
    );
    eventually("all is delivered", || async {
        let taken = hook.taken();
        ["connections_high", "connections_very_high"]
            .iter()
            .all(|id| taken.contains(&((*id).into(), "resolved".into())))
    })
    .await;
    let mut ids: Vec<_> = hook
        .tries()
        .into_iter()
        .filter(|one| one.taken)
        .map(|one| one.header("X-Tickmesh-Delivery").to_owned())
        .collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "nobody died since: each once");
}

#[tokio::test]
async fn a_webhook_that_fails_twice_gets_it_the_third_time() {
    let hook = Webhook::start(2).await;
    let (own, hooks) = (rules(&[rule("connections_high", 0.0, 0.0)]), webhooks(&hook));
    let environment: &[(&str, &str)] = &[
        ("TICKMESH_ALARMS__RULE", &own),
        ("TICKMESH_ALARMS__WEBHOOKS", &hooks),
        ("TICKMESH_ALARMS__WEBHOOK_RETRY_MS", "100"),
        // Also where all is written that there is.
        ("TICKMESH_LOG__LEVEL", "trace"),
    ];
    let node = NodeProcess::logged(&["node"], "a", "memory", environment);
    let client = Client::connect(node.address(), "").await;
    eventually("the third try", || async { hook.tries().iter().any(|one| one.taken) }).await;
    drop(client);
    eventually("the end", || async { hook.taken().len() == 2 }).await;
    let states: Vec<_> = hook.taken().into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["firing", "resolved"]);
    let tries = hook.tries();
    assert_eq!(tries.len(), 4, "{tries:?}");
    assert!(tries.iter().all(|one| one.is_signed_with(SECRET)), "{tries:?}");
    assert!(!tries[0].is_signed_with("another secret of webhooks"));
    let ids: Vec<_> = tries.iter().map(|one| one.header("X-Tickmesh-Delivery")).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3] && !ids[0].is_empty(), "{ids:?}");
    let told = tries[2].json();
    assert_eq!(
        (&told["id"], &told["value"], &told["severity"]),
        (&json!("connections_high"), &json!(1.0), &json!("warning"))
    );
    // The receiver knows a moment before the node does.
    for line in [
        "tickmesh_webhook_deliveries_total{outcome=\"delivered\"} 2",
        "tickmesh_webhook_deliveries_total{outcome=\"retried\"} 2",
        "tickmesh_webhook_waiting 0",
        "tickmesh_alarms{severity=\"warning\"} 0",
    ] {
        eventually(line, || async {
            let metrics = ask(node.address(), "GET", "/metrics", &Value::Null).await.body;
            metrics.lines().any(|have| have == line)
        })
        .await;
    }
    let tuning = Sandbox::http(
        node.address(),
        "GET",
        "/api/v1/tuning",
        &format!("Authorization: Bearer {}\r\n", token("root", "operator")),
        "",
    )
    .await;
    assert!(
        tuning.status == 200 && !tuning.body.contains("from=tickmesh") && !tuning.body.contains(SECRET),
        "{tuning:?}"
    );
    assert!(
        !node.log().contains("from=tickmesh") && !node.log().contains(SECRET),
        "addresses are secrets, too"
    );
}

/// Slow: Redis is away for longer than it takes to notice and to alarm, and everything joins again afterwards.
#[tokio::test]
async fn when_redis_is_away_webhooks_are_told_and_the_room_when_it_is_back() {
    let mut server = RedisServer::append_only();
    let hook = Webhook::start(0).await;
    let own = rules(&[
        json!({"name": "redis_away", "for_ms": 1_000, "clear_for_ms": 1_000}),
        rule("connections_high", 0.0, 0.0),
    ]);
    let hooks = webhooks(&hook);
    let environment: &[(&str, &str)] =
        &[("TICKMESH_ALARMS__RULE", &own), ("TICKMESH_ALARMS__WEBHOOKS", &hooks)];
    let nodes: Vec<_> = ["a", "b", "c"].map(|id| NodeProcess::start(id, &server.url(), environment)).into();
    let at = evaluator(&nodes).await;
    let client = Client::connect(nodes[0].address(), "").await;
    fires(&nodes[0], "connections_high").await;
    let away = format!("redis_away:{}", nodes[at].id());
    server.kill();
    eventually("the webhook is told", || async { hook.taken().contains(&(away.clone(), "firing".into())) })
        .await;
    let listed = alarm(&nodes[at], &away).await;
    assert_eq!(listed["state"], "firing", "the node that looks says so as well");
    let unknown =
        ask(nodes[at].address(), "POST", "/api/v1/alarms/redis_away:nobody/ack", &Value::Null).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    sleep(Duration::from_secs(5)).await;
    server.restart();
    eventually("the room is told when Redis is back", || async { changes(&nodes[0], &away).await == once() })
        .await;
    eventually("and the webhook", || async { hook.taken().contains(&(away.clone(), "resolved".into())) })
        .await;
    assert_eq!(changes(&nodes[0], "connections_high").await.len(), 1, "what fired goes on, untold");
    drop(client);
    is_over(&nodes[0], "connections_high").await;
    let ended = ("connections_high".to_owned(), "resolved".to_owned());
    eventually("and its end", || async { hook.taken().contains(&ended) }).await;
    // Another node may look now, and not know what was delivered just before Redis went: then it says so under the same id.
    let mut told = std::collections::BTreeMap::new();
    for one in hook.tries() {
        told.insert(one.header("X-Tickmesh-Delivery").to_owned(), one.json()["id"].clone());
    }
    let count =
        |of: &str| told.values().filter(|id| id.as_str().is_some_and(|id| id.starts_with(of))).count();
    assert_eq!((count("redis_away"), count("connections_high")), (2, 2), "one node, once: {told:?}");
}

#[tokio::test]
async fn alarms_are_for_operators() {
    let node = NodeProcess::start("a", "memory", &[("TICKMESH_AUTH__ANONYMOUS", "subscribe")]);
    let as_role = async |role: &str, method: &str, path: &str| {
        let header = format!("Authorization: Bearer {}\r\n", token("me", role));
        Sandbox::http(node.address(), method, path, &header, "").await.status
    };
    for (method, path) in [("GET", "/api/v1/alarms"), ("POST", "/api/v1/alarms/node_lost:b/ack")] {
        for role in ["user", "publisher"] {
            assert_eq!(as_role(role, method, path).await, 403, "{role} {path}");
        }
    }
    assert_eq!(as_role("operator", "GET", "/api/v1/alarms").await, 200);
    // Nobody looks in the first seconds.
    eventually("a bad id is none", || async {
        as_role("operator", "POST", "/api/v1/alarms/node_lost:b/ack").await == 404
    })
    .await;
    for id in ["%00", "a%2Fb", "..", &"x".repeat(5_000)] {
        let status = as_role("operator", "POST", &format!("/api/v1/alarms/{id}/ack")).await;
        assert_eq!(status, 404, "{id}");
    }
}
