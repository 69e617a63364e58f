//! Promise 7: Redis may vanish and come back. Connections stay, nobody is told a falsehood, and what was acknowledged
//! arrives, or the room says that its log restarted.

use std::time::Duration;

use serde_json::json;
use tickmesh_tests::{Account, Client, DEADLINE, Load, NodeProcess, RedisServer, Sandbox, eventually, size};
use tokio::time::{sleep, timeout};

/// So many messages more show that the publishers are served.
const GOING_ON: usize = 100;

/// How often the server is killed; more by hand.
fn times() -> usize {
    size("TICKMESH_TEST_KILLS", 3)
}

fn subscribers() -> usize {
    size("TICKMESH_TEST_SUBSCRIBERS", 20)
}

fn nodes(server: &RedisServer, count: usize) -> Vec<NodeProcess> {
    (1..=count).map(|n| NodeProcess::start(&format!("n{n}"), &server.url(), &[])).collect()
}

async fn load(nodes: &[NodeProcess]) -> Load {
    let addresses: Vec<_> = nodes.iter().map(NodeProcess::address).collect();
    let rooms = size("TICKMESH_TEST_ROOMS", 5);
    Load::start(&addresses, rooms, 4, subscribers(), Duration::from_millis(1)).await
}

/// Waits until every node says that it is ready for clients, or that it is not.
async fn ready(nodes: &[NodeProcess], ready: bool) {
    for node in nodes {
        eventually("the node's readiness", || async {
            let answer = Sandbox::http(node.address(), "GET", "/readyz", "", "").await;
            (answer.status == 200) == ready
        })
        .await;
    }
}

async fn killed_and_restarted(mut server: RedisServer) -> Account {
    let nodes = nodes(&server, 3);
    let load = load(&nodes).await;
    for _ in 0..times() {
        load.goes_on(GOING_ON).await;
        server.kill();
        ready(&nodes, false).await;
        server.restart();
        ready(&nodes, true).await;
    }
    load.goes_on(GOING_ON).await;
    load.finish().await
}

#[tokio::test]
async fn killed_and_restarted_with_an_append_only_file() {
    let account = killed_and_restarted(RedisServer::append_only()).await;
    println!("{account:?}");
    assert!(account.refused > 0, "{account:?}");
}

#[tokio::test]
async fn killed_and_restarted_with_everything_lost() {
    let account = killed_and_restarted(RedisServer::start()).await;
    println!("{account:?}");
    assert!(account.refused > 0, "{account:?}");
    assert_eq!(account.resyncs, (subscribers() * times()) as u64, "every subscriber is told, each time");
}

#[tokio::test]
async fn paused() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 2);
    let load = load(&nodes).await;
    load.goes_on(GOING_ON).await;
    server.pause(true);
    ready(&nodes, false).await;
    // A publish is refused at once by now: so many that wait for Redis, one after the other, would take minutes.
    let mut client = Client::connect(nodes[0].address(), "").await;
    let refused = async {
        for n in 0..200 {
            let message = json!({"room": "market_x", "event": "e", "data": n});
            assert_eq!(client.request("publish", message).await["error_code"], "SERVICE_UNAVAILABLE");
        }
    };
    timeout(DEADLINE, refused).await.expect("refused at once");
    sleep(Duration::from_secs(size("TICKMESH_TEST_PAUSE", 0) as u64)).await;
    server.pause(false);
    ready(&nodes, true).await;
    let account = load.finish().await;
    println!("{account:?}");
    assert_eq!((account.resyncs, account.missed), (0, 0), "nothing was lost: {account:?}");
    assert!(account.refused > 0);
}

#[tokio::test]
async fn its_push_connections_are_cut() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 2);
    let load = load(&nodes).await;
    for _ in 0..5 {
        load.goes_on(GOING_ON).await;
        // Only once both are there again: who is cut all the time backs off.
        eventually("both hear what is pushed", || async {
            server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count() == 2
        })
        .await;
        assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]), "2");
    }
    ready(&nodes, true).await;
    let account = load.finish().await;
    println!("{account:?}");
    assert_eq!((account.resyncs, account.missed, account.refused), (0, 0, 0), "{account:?}");
}

#[tokio::test]
async fn a_replica_that_lags_takes_over() {
    let mut master = RedisServer::append_only();
    let nodes = nodes(&master, 2);
    let load = load(&nodes).await;
    let port = master.address().port().to_string();
    let replica = RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &port]);
    eventually("the replica follows", || async {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    load.goes_on(GOING_ON).await;
    // From here on it lags, and then takes the master's place.
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    load.goes_on(GOING_ON).await;
    master.kill();
    let promoted = master.replaced_by(&replica);
    ready(&nodes, true).await;
    load.goes_on(GOING_ON).await;
    let account = load.finish().await;
    println!("{account:?}");
    assert!(account.resyncs >= subscribers() as u64, "every subscriber is told: {account:?}");
    drop(promoted);
}

#[tokio::test]
async fn a_lost_last_message_of_a_quiet_room_is_noticed() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 1);
    let mut client = Client::connect(nodes[0].address(), "").await;
    client.subscribe("market_quiet", json!({})).await;
    let message = json!({"room": "market_quiet", "event": "e", "data": 1});
    assert_eq!(client.request("publish", message).await["success"], true);
    client.read_until("market_quiet", 1).await;
    // As a publish would, but for what is pushed.
    let body = r#"{"ts":1,"event":"e","data":2}"#;
    server.command(&["XADD", "tm:{market_quiet}:log", "2-0", "t", "9999999999999", "m", body]);
    server.command(&["HSET", "tm:{market_quiet}:meta", "seq", "2"]);
    client.read_until("market_quiet", 2).await;
    assert_eq!(client.room("market_quiet").resyncs, 0);
}
