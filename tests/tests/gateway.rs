//! Promise 3: nodes are disposable. A client at a gateway is not disconnected, misses nothing and gets nothing twice,
//! whatever happens to the nodes behind.

use std::time::Duration;

use serde_json::json;
use tickmesh_tests::{Account, Client, Load, NodeProcess, RedisServer, Sandbox, eventually, size};
use tokio::time::sleep;

struct Cluster {
    server: RedisServer,
    nodes: Vec<NodeProcess>,
    gateway: NodeProcess,
    started: usize,
}

impl Cluster {
    async fn start(nodes: usize) -> Self {
        let server = RedisServer::start();
        let started = nodes;
        let nodes = (1..=nodes).map(|n| NodeProcess::start(&format!("n{n}"), &server.url(), &[])).collect();
        let gateway = NodeProcess::gateway("g1", &server.url(), &[]);
        let cluster = Self { server, nodes, gateway, started };
        cluster.settled().await;
        cluster
    }

    /// Waits until the gateway knows all nodes.
    async fn settled(&self) {
        eventually("all nodes are known and take sessions", || async {
            let answer = Sandbox::http(self.gateway.address(), "GET", "/api/v1/cluster", "", "").await;
            let nodes = serde_json::from_str::<serde_json::Value>(&answer.body).unwrap_or_default();
            let up = nodes["nodes"].as_array().into_iter().flatten().filter(|node| node["draining"] == false);
            answer.status == 200 && up.count() == self.nodes.len()
        })
        .await;
        // Each has to answer a ping of the gateway as well.
        sleep(Duration::from_millis(600)).await;
    }

    async fn load(&self) -> Load {
        let subscribers = size("TICKMESH_TEST_SUBSCRIBERS", 40);
        Load::start(&[self.gateway.address()], 5, 4, subscribers, Duration::from_millis(2)).await
    }

    fn replace(&mut self, at: usize) {
        self.started += 1;
        self.nodes[at] = NodeProcess::start(&format!("n{}", self.started), &self.server.url(), &[]);
    }

    async fn tell(&self, node: usize, what: &str) {
        let path = format!("/api/v1/nodes/{}/{what}", self.nodes[node].id());
        let answer = Sandbox::http(self.gateway.address(), "POST", &path, "", "").await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    async fn sessions(&self, node: usize) -> u64 {
        let answer = Sandbox::http(self.nodes[node].address(), "GET", "/api/socketio-status", "", "").await;
        answer.json()["connections"].as_u64().unwrap_or(u64::MAX)
    }
}

fn nothing_happened(account: &Account) {
    println!("{account:?}");
    assert_eq!((account.refused, account.resyncs, account.missed), (0, 0, 0), "{account:?}");
    assert!(account.kept > 100, "{account:?}");
}

#[tokio::test]
async fn nodes_are_drained_and_resumed() {
    let cluster = Cluster::start(2).await;
    let load = cluster.load().await;
    for node in [0, 1, 0, 1] {
        cluster.tell(node, "drain").await;
        eventually("the node is empty", || async { cluster.sessions(node).await == 0 }).await;
        cluster.tell(node, "resume").await;
        cluster.settled().await;
    }
    nothing_happened(&load.finish().await);
}

#[tokio::test]
async fn nodes_are_stopped_and_replaced() {
    let mut cluster = Cluster::start(2).await;
    let load = cluster.load().await;
    for node in [0, 1, 0] {
        cluster.nodes[node].signal("-TERM");
        for _ in 0..1_000 {
            if cluster.nodes[node].has_ended() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(cluster.nodes[node].has_ended(), "it leaves when its sessions have moved");
        cluster.replace(node);
        cluster.settled().await;
    }
    nothing_happened(&load.finish().await);
}

#[tokio::test]
async fn nodes_are_killed() {
    let mut cluster = Cluster::start(3).await;
    let load = cluster.load().await;
    for kill in 0..size("TICKMESH_TEST_KILLS", 4) {
        sleep(Duration::from_millis(300)).await;
        cluster.nodes[kill % 3].kill();
        cluster.replace(kill % 3);
        cluster.settled().await;
    }
    nothing_happened(&load.finish().await);
}

#[tokio::test]
async fn a_node_stands_still_and_comes_back() {
    let cluster = Cluster::start(2).await;
    let load = cluster.load().await;
    sleep(Duration::from_millis(300)).await;
    cluster.nodes[0].signal("-STOP");
    // Its sessions go on at the other while it stands.
    eventually("the other has them all", || async { cluster.sessions(1).await >= 40 }).await;
    cluster.nodes[0].signal("-CONT");
    sleep(Duration::from_millis(1_500)).await;
    nothing_happened(&load.finish().await);
}

#[tokio::test]
async fn connections_move_to_a_node_that_joins() {
    let mut cluster = Cluster::start(1).await;
    let load = cluster.load().await;
    assert_eq!(cluster.sessions(0).await, 44);
    cluster.nodes.push(NodeProcess::start("late", &cluster.server.url(), &[]));
    eventually("each has its share", || async { (18..=26).contains(&cluster.sessions(1).await) }).await;
    nothing_happened(&load.finish().await);
}

#[tokio::test]
async fn clients_of_a_killed_gateway_recover_at_another() {
    let mut cluster = Cluster::start(2).await;
    let other = NodeProcess::gateway("g2", &cluster.server.url(), &[]);
    let mut client = Client::connect(cluster.gateway.address(), "").await;
    let begun = client.subscribe("market_1", json!({})).await;
    let mut publisher = Client::connect(other.address(), "").await;
    let message = json!({"room": "market_1", "event": "e", "data": {"text": "1"}});
    publisher.request("publish", message.clone()).await;
    client.read_until("market_1", 1).await;
    cluster.gateway.kill();
    publisher.request("publish", message).await;
    let mut client = Client::connect(other.address(), "").await;
    let recovered =
        client.subscribe("market_1", json!({"recover": {"epoch": begun["epoch"], "seq": 1}})).await;
    assert_eq!((&recovered["recovered"], &recovered["messages"][0]["seq"]), (&json!(true), &json!(2)));
}

#[tokio::test]
async fn a_stopping_gateway_sends_its_clients_away() {
    let mut cluster = Cluster::start(1).await;
    let mut client = Client::connect(cluster.gateway.address(), "").await;
    cluster.gateway.signal("-TERM");
    assert_eq!(client.closed().await, 1001);
    drop(client);
    for _ in 0..1_500 {
        if cluster.gateway.has_ended() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not end");
}

#[tokio::test]
async fn only_the_secret_opens_a_link() {
    let cluster = Cluster::start(1).await;
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGlja21lc2gtbGluay0wMQ==\r\n";
    let node = cluster.nodes[0].address();
    for secret in ["", "Authorization: Bearer wrong\r\n"] {
        let answer = Sandbox::http(node, "GET", "/link", &format!("{handshake}{secret}"), "").await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
}
