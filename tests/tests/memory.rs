//! Promise 6 where memory is short: a node sheds, refuses and lives, and serves again when the load falls.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use tickmesh_tests::{Client, DEADLINE, NodeProcess, RawClient, RedisServer, Sandbox, eventually};
use tokio::time::{Instant, sleep, timeout};

/// Twice what a node takes without any load.
const LIMIT: u64 = 128 * 1024 * 1024;
/// Clients that do not read, each in a room of its own, and what is published into each of these.
const CLIENTS: usize = 200;
const MESSAGE: usize = 16 * 1024;
/// Clients of a gateway that do not read, all in one room.
const GATEWAY_CLIENTS: usize = 300;
/// Connections that the guard has closed, and those that were closed because too much waited for them.
const SHED: &str = r#"tickmesh_memory_actions_total{action="shed"}"#;
const SLOW: &str = r#"tickmesh_sessions_ended_total{cause="slow consumer"}"#;

async fn get(address: SocketAddr, path: &str) -> Value {
    Sandbox::http(address, "GET", path, "", "").await.json()
}

/// A figure of the metrics, by its name and labels as they are written.
async fn figure(address: SocketAddr, sample: &str) -> u64 {
    let metrics = Sandbox::http(address, "GET", "/metrics", "", "").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.parse::<f64>().ok()).map_or(0, |value| value as u64)
}

async fn tune(address: SocketAddr, keys: &Value) {
    let set = Sandbox::http(address, "PUT", "/api/v1/tuning", "", &keys.to_string()).await;
    assert_eq!(set.status, 200, "{set:?}");
}

async fn publish(address: SocketAddr, round: usize, rooms: std::ops::Range<usize>) -> u16 {
    let data = "x".repeat(MESSAGE);
    let messages: Vec<_> = rooms
        .map(|room| json!({"room": format!("bulk_{room}"), "event": "e", "data": [round, data]}))
        .collect();
    let body = json!({ "messages": messages }).to_string();
    Sandbox::http(address, "POST", "/api/v1/publish", "", &body).await.status
}

/// A control group that may use so much memory; it is removed when it is dropped.
struct Group(PathBuf);

impl Group {
    /// None where this user may make none.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("tickmesh-test-{}", std::process::id());
        for (root, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let directory = Path::new(root).join(&name);
            if std::fs::create_dir(&directory).is_err() {
                continue;
            }
            let group = Self(directory);
            if group.0.join(file).exists() && std::fs::write(group.0.join(file), limit.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    fn take(&self, pid: u32) -> bool {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel takes a moment to notice that a process is gone.
        for _ in 0..1_000 {
            if std::fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::yield_now();
        }
    }
}

/// Slow: it fills a hundred megabytes, by messages.
#[tokio::test]
async fn a_node_with_too_little_memory_sheds_refuses_and_lives_and_then_serves_again() {
    let limit = LIMIT.to_string();
    let mut node = node(&[("TICKMESH_MEMORY__LIMIT_BYTES", limit.as_str())]);
    Box::pin(ordeal(&mut node, LIMIT)).await;
}

/// Slow: as the one before.
#[tokio::test]
async fn in_a_control_group_the_kernel_has_nothing_to_kill() {
    let Some(group) = Group::new(LIMIT) else {
        eprintln!("left out: this user may make no control group");
        return;
    };
    let mut node = node(&[]);
    if !group.take(node.pid()) {
        eprintln!("left out: this user may put no process into a control group");
        return;
    }
    Box::pin(ordeal(&mut node, LIMIT)).await;
    node.kill();
}

/// Slow: 300 clients come, and much is written for each.
#[tokio::test]
async fn a_gateway_with_too_little_memory_sheds_refuses_and_lives_and_then_serves_again() {
    let redis = RedisServer::start();
    let patient = [
        ("TICKMESH_SERVER__TCP_USER_TIMEOUT_MS", "600000"),
        ("TICKMESH_HEARTBEAT__PING_INTERVAL_MS", "600000"),
        ("TICKMESH_HEARTBEAT__TIMEOUT_MS", "900000"),
    ];
    let node = NodeProcess::start("n", &redis.url(), &patient);
    let mut gateway = NodeProcess::logged(&["gateway"], "g", &redis.url(), &patient);
    let (at, behind) = (gateway.address(), node.address());
    eventually("the gateway has a node", || async {
        Sandbox::http(at, "GET", "/readyz", "", "").await.status == 200
    })
    .await;
    let mut reader = Client::connect(at, "").await;
    reader.subscribe("calm_room", json!({})).await;
    let mut clients = Vec::new();
    for _ in 0..GATEWAY_CLIENTS {
        let mut client = RawClient::connect(at, Some(4_096)).await;
        let subscribe = json!({"type": "subscribe", "request_id": "s", "room": "bulk_0"});
        client.send_text(&subscribe.to_string()).await;
        clients.push(client);
    }
    eventually("all follow the room", || async {
        get(behind, "/api/v1/rooms/bulk_0").await["subscribers"] == json!(GATEWAY_CLIENTS)
    })
    .await;
    // Room for a part of what will wait for those who do not read.
    let limit = figure(at, "process_resident_memory_bytes").await + 12 * 1024 * 1024;
    tune(at, &json!({"memory.limit_bytes": limit, "memory.interval_ms": 50, "memory.high_percent": 80}))
        .await;

    let (mut most, mut refused, mut round) = (0, false, 0);
    let end = Instant::now() + DEADLINE;
    while !(refused && figure(at, SHED).await > 0) {
        assert!(
            Instant::now() < end,
            "refused {refused}, shed {}, {most} of {limit}, {} waiting\n{}",
            figure(at, SHED).await,
            figure(at, "tickmesh_gateway_waiting_bytes").await,
            gateway.log()
        );
        round += 1;
        assert_eq!(publish(behind, round, 0..1).await, 200);
        most = most.max(figure(at, "process_resident_memory_bytes").await);
        refused |= Client::try_connect(at, "", &[]).await.err() == Some(503);
    }
    assert!(figure(at, r#"tickmesh_gateway_connections_refused_total{cause="memory"}"#).await > 0);
    drop(clients);
    let end = Instant::now() + DEADLINE;
    let mut again = loop {
        match Client::try_connect(at, "", &[]).await {
            Ok(client) => break client,
            Err(_) => assert!(Instant::now() < end, "it takes clients again\n{}", gateway.log()),
        }
        sleep(Duration::from_millis(100)).await;
    };
    again.subscribe("calm_room", json!({})).await;
    let body = json!({"room": "calm_room", "event": "e", "data": 1}).to_string();
    assert_eq!(Sandbox::http(behind, "POST", "/api/v1/publish", "", &body).await.status, 200);
    again.read_until("calm_room", 1).await;
    // For whom nothing waits is not closed before those for whom much does: only in rounds that close some of all.
    let mut stays = true;
    while stays && reader.room("calm_room").seq < 1 {
        stays = reader.try_next().await.is_ok();
    }
    assert!(stays || gateway.log().contains("all=true"), "{}", gateway.log());
    assert!(!gateway.ended_within(Duration::ZERO).await, "it lives");
}

fn node(more: &[(&str, &str)]) -> NodeProcess {
    let mut environment = vec![
        ("TICKMESH_MEMORY__INTERVAL_MS", "50"),
        // Only the guard closes those who do not read.
        ("TICKMESH_SERVER__TCP_USER_TIMEOUT_MS", "600000"),
        ("TICKMESH_HEARTBEAT__PING_INTERVAL_MS", "600000"),
        ("TICKMESH_HEARTBEAT__TIMEOUT_MS", "900000"),
        ("TICKMESH_LIMITS__MAX_QUEUE_BYTES", "8388608"),
    ];
    environment.extend(more);
    NodeProcess::logged(&["node"], "m", "memory", &environment)
}

/// Wants far more of a node than it may use.
async fn ordeal(node: &mut NodeProcess, limit: u64) {
    let address = node.address();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = RawClient::connect(address, Some(4_096)).await;
        let subscribe = json!({"type": "subscribe", "request_id": "s", "room": format!("bulk_{n}")});
        client.send_text(&subscribe.to_string()).await;
        clients.push(client);
    }
    eventually("all follow their rooms", || async {
        get(address, "/api/v1/sessions?limit=1000").await["sessions"]
            .as_array()
            .is_some_and(|all| all.iter().filter(|one| one["rooms"] != json!([])).count() == CLIENTS)
    })
    .await;

    // 200 rooms with up to 1,000 messages of 16 KiB in their logs, and as much for each reader: gigabytes.
    let (mut most, mut refused, mut round, mut before) = (0, false, 0, 0);
    // By the guard, or because more waits for them than now may: which of both is first depends on the machine.
    let closed = async || figure(address, SHED).await + figure(address, SLOW).await;
    let end = Instant::now() + 2 * DEADLINE;
    while Instant::now() < end {
        round += 1;
        for first in (0..CLIENTS).step_by(50) {
            publish(address, round, first..first + 50).await;
        }
        most = most.max(figure(address, "process_resident_memory_bytes").await);
        refused |= Client::try_connect(address, "", &[]).await.err() == Some(503);
        // Some were closed just now: they are still there to be told so.
        let now = closed().await;
        if refused && now > std::mem::replace(&mut before, now) {
            break;
        }
    }
    let log = node.log();
    assert!(refused, "no more clients are taken: {most} of {limit} after {round} rounds\n{log}");
    assert!(before > 0, "some are closed: {most} of {limit} after {round} rounds\n{log}");
    assert!(most < limit, "{most} of {limit} after {round} rounds\n{log}");
    let ready = Sandbox::http(address, "GET", "/readyz", "", "").await;
    eprintln!("{most} of {limit} bytes at most, {round} rounds, {before} closed");
    assert!(ready.status == 200 || ready.json()["status"] == "memory is short", "{ready:?}");
    for action in ["shrink", "tighten", "refuse"] {
        let sample = format!(r#"tickmesh_memory_actions_total{{action="{action}"}}"#);
        assert!(figure(address, &sample).await > 0, "{action}");
    }
    let causes = r#"tickmesh_connections_refused_total{cause="memory"}"#;
    assert!(figure(address, causes).await > 0);

    // Those who were closed are told so.
    let mut all: FuturesUnordered<_> = clients.iter_mut().map(RawClient::closed).collect();
    // Who was not closed has nothing to say at the end.
    let mut others = Vec::new();
    let told = async {
        loop {
            match all.next().await {
                Some(Some(1013 | 4003)) => return true,
                Some(other) => others.push(other),
                None => return false,
            }
        }
    };
    let told = timeout(DEADLINE, told).await;
    assert_eq!(told, Ok(true), "{} others, {:?}\n{}", others.len(), others.first(), node.log());
    drop(all);
    drop(clients);
    let end = Instant::now() + DEADLINE;
    loop {
        let level = get(address, "/api/v1/stats").await["memory"].clone();
        if let Ok(mut client) = Client::try_connect(address, "", &[]).await {
            client.subscribe("bulk_1", json!({})).await;
            assert_eq!(publish(address, 0, 1..2).await, 200);
            let seq = get(address, "/api/v1/rooms/bulk_1").await["seq"].as_u64().expect("a number");
            client.read_until("bulk_1", seq).await;
            break;
        }
        assert!(Instant::now() < end, "it serves again: {level}\n{}", node.log());
        sleep(Duration::from_millis(100)).await;
    }

    // Where nothing else helps, some are closed for whom nothing waits.
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Client::connect(address, "").await);
    }
    let before = figure(address, SHED).await;
    tune(address, &json!({"memory.limit_bytes": 1_000_000})).await;
    eventually("some are closed", || async { figure(address, SHED).await > before }).await;
    tune(address, &json!({ "memory.limit_bytes": limit })).await;
    let mut all: FuturesUnordered<_> = idle.iter_mut().map(Client::closed).collect();
    let told = timeout(DEADLINE, all.next()).await;
    assert!(matches!(told, Ok(Some(1013))), "{told:?}");
    assert!(!node.ended_within(Duration::ZERO).await, "it lives");
}
