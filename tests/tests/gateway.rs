//! Promise 3: nodes are disposable. A client at a gateway is not disconnected, misses nothing and gets nothing twice,
//! whatever happens to the nodes behind.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tickmesh_tests::{Client, DEADLINE, Load, NodeProcess, RedisServer, Sandbox, eventually, size};
use tokio::sync::Barrier;
use tokio::time::Instant;

/// So many messages more show that the publishers are served.
const GOING_ON: usize = 100;

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

    /// Waits until the gateway would place sessions on all nodes.
    async fn settled(&self) {
        self.gateway.places_sessions_on(self.nodes.len()).await;
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

/// The load goes on, and nothing happened to it.
async fn nothing_happened(load: Load) {
    load.goes_on(GOING_ON).await;
    let account = load.finish().await;
    println!("{account:?}");
    assert_eq!((account.refused, account.resyncs, account.missed), (0, 0, 0), "{account:?}");
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
    nothing_happened(load).await;
}

#[tokio::test]
async fn nodes_are_stopped_and_replaced() {
    let mut cluster = Cluster::start(2).await;
    let load = cluster.load().await;
    for node in [0, 1, 0] {
        cluster.nodes[node].signal("-TERM");
        cluster.nodes[node].ended().await;
        cluster.replace(node);
        cluster.settled().await;
    }
    nothing_happened(load).await;
}

#[tokio::test]
async fn nodes_are_killed() {
    let mut cluster = Cluster::start(3).await;
    let load = cluster.load().await;
    for kill in 0..size("TICKMESH_TEST_KILLS", 4) {
        load.goes_on(GOING_ON).await;
        cluster.nodes[kill % 3].kill();
        cluster.replace(kill % 3);
        cluster.settled().await;
    }
    nothing_happened(load).await;
}

/// A container that is restarted keeps its address. What listens there has to join the cluster before it gets sessions: this
/// one never does, as it is in a cluster of its own.
#[tokio::test]
async fn what_listens_at_a_dead_nodes_address_gets_none_of_its_sessions() {
    let mut cluster = Cluster::start(2).await;
    let load = cluster.load().await;
    load.goes_on(GOING_ON).await;
    cluster.nodes[0].kill();
    let other = NodeProcess::start_at(cluster.nodes[0].address(), "other", "memory");
    cluster.gateway.places_sessions_on(1).await;
    eventually("the dead one's lease has ended", || async {
        let cluster =
            Sandbox::http(cluster.nodes[1].address(), "GET", "/api/v1/cluster", "", "").await.json();
        cluster["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1)
    })
    .await;
    let answer = Sandbox::http(other.address(), "GET", "/api/socketio-status", "", "").await;
    assert_eq!(answer.json()["connections"], 0);
    assert!(cluster.sessions(1).await >= 40);
    nothing_happened(load).await;
}

#[tokio::test]
async fn a_node_stands_still_and_comes_back() {
    let cluster = Cluster::start(2).await;
    let load = cluster.load().await;
    load.goes_on(GOING_ON).await;
    cluster.nodes[0].signal("-STOP");
    // Its sessions go on at the other while it stands.
    eventually("the other has them all", || async { cluster.sessions(1).await >= 40 }).await;
    cluster.nodes[0].signal("-CONT");
    // It takes sessions again.
    cluster.settled().await;
    nothing_happened(load).await;
}

#[tokio::test]
async fn connections_move_to_a_node_that_joins() {
    let mut cluster = Cluster::start(1).await;
    let load = cluster.load().await;
    assert_eq!(cluster.sessions(0).await, 44);
    cluster.nodes.push(NodeProcess::start("late", &cluster.server.url(), &[]));
    eventually("each has its share", || async { (18..=26).contains(&cluster.sessions(1).await) }).await;
    nothing_happened(load).await;
}

const FAILOVER_ROOMS: usize = 5;

/// Follows a room until its last message, at the other gateway when one is gone, and gives what it has received.
async fn follow(
    mut gateways: Vec<SocketAddr>,
    room: String,
    last: u64,
    ready: Arc<Barrier>,
) -> (Vec<Value>, u32) {
    let (mut client, mut received, mut moves) = (Client::connect(gateways[0], "").await, Vec::new(), 0);
    client.subscribe(&room, json!({})).await;
    ready.wait().await;
    let mut end = Instant::now() + DEADLINE;
    while (received.len() + client.room(&room).received.len()) as u64 != last {
        assert!(Instant::now() < end, "{room} does not go on");
        if client.try_next().await.is_ok() {
            end = Instant::now() + DEADLINE;
            continue;
        }
        gateways.rotate_left(1);
        let before = client.room(&room);
        received.extend(before.received.into_iter().map(|(_, data)| data));
        client = Client::connect(gateways[0], "").await;
        let recover = json!({"recover": {"epoch": before.epoch, "seq": before.seq}});
        let recovered = client.subscribe(&room, recover).await;
        let count = recovered["messages"].as_array().map_or(0, Vec::len) as u64;
        assert_eq!(recovered["recovered"], true, "{recovered}");
        assert_eq!(recovered["seq"], before.seq + count, "what comes follows what came");
        (moves, end) = (moves + 1, Instant::now() + DEADLINE);
    }
    received.extend(client.room(&room).received.into_iter().map(|(_, data)| data));
    (received, moves)
}

/// Publishes so many messages over all rooms, each again at the other gateway if it stays without an answer.
async fn publish(mut gateways: Vec<SocketAddr>, name: usize, count: u64) {
    let mut client = Client::connect(gateways[0], "").await;
    for n in 0..count {
        let id = format!("p{name}-{n}");
        let room = format!("market_failover{}", n as usize % FAILOVER_ROOMS);
        let payload = json!({"room": room, "event": "e", "data": id, "message_id": id});
        let message = json!({"type": "request", "request_id": id, "action": "publish", "payload": payload});
        'sent: loop {
            if client.try_send(&message).await {
                while let Ok(answer) = client.try_next().await {
                    if answer["request_id"] == id {
                        assert_eq!(answer["success"], true, "{answer}");
                        break 'sent;
                    }
                }
            }
            gateways.rotate_left(1);
            client = Client::connect(gateways[0], "").await;
        }
    }
}

/// What happens to the first of two gateways under load: nobody misses anything or gets anything twice.
async fn failover(happens: impl FnOnce(&mut NodeProcess)) {
    let mut cluster = Cluster::start(2).await;
    let other = NodeProcess::gateway("g2", &cluster.server.url(), &[]);
    other.places_sessions_on(2).await;
    let both =
        [vec![cluster.gateway.address(), other.address()], vec![other.address(), cluster.gateway.address()]];
    let (publishers, each) = (4, size("TICKMESH_TEST_MESSAGES", 400) as u64);
    let last = publishers as u64 * each / FAILOVER_ROOMS as u64;
    let count = size("TICKMESH_TEST_SUBSCRIBERS", 40);
    let ready = Arc::new(Barrier::new(count + 1));
    let followers: Vec<_> = (0..count)
        .map(|n| {
            let room = format!("market_failover{}", n / 2 % FAILOVER_ROOMS);
            tokio::spawn(follow(both[n % 2].clone(), room, last, ready.clone()))
        })
        .collect();
    ready.wait().await;
    let publishing: Vec<_> =
        (0..publishers).map(|n| tokio::spawn(publish(both[n % 2].clone(), n, each))).collect();
    eventually("a part is published", || async {
        let room =
            Sandbox::http(other.address(), "GET", "/api/v1/rooms/market_failover0", "", "").await.json();
        room["seq"].as_u64().is_some_and(|seq| seq > last / 10)
    })
    .await;
    happens(&mut cluster.gateway);
    for publisher in publishing {
        publisher.await.expect("published");
    }
    for (n, follower) in followers.into_iter().enumerate() {
        let (received, moves) = follower.await.expect("followed");
        let different: HashSet<String> = received.iter().map(Value::to_string).collect();
        assert_eq!((received.len() as u64, different.len() as u64), (last, last), "once each");
        assert_eq!(moves, 1 - n as u32 % 2, "those of the other gateway are not disconnected");
    }
}

/// Slow: 13,000 messages, each of them read and checked.
#[tokio::test]
async fn clients_of_a_killed_gateway_recover_at_another() {
    failover(NodeProcess::kill).await;
}

/// Slow: as the one before.
#[tokio::test]
async fn clients_of_a_stopping_gateway_recover_at_another() {
    failover(|gateway| gateway.signal("-TERM")).await;
}

#[tokio::test]
async fn a_stopping_gateway_sends_its_clients_away() {
    let mut cluster = Cluster::start(1).await;
    let mut client = Client::connect(cluster.gateway.address(), "").await;
    cluster.gateway.signal("-TERM");
    assert_eq!(client.closed().await, 1001);
    drop(client);
    cluster.gateway.ended().await;
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

/// A node that joins the cluster and then answers whatever a gateway says with the same bytes.
async fn liar(server: &RedisServer, id: &str, answer: &'static [u8]) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let report = json!({"id": id, "kind": "node", "run": 1, "address": address, "version": "0", "started_at": 1,
        "draining": false, "connections": 0, "cpu_percent": 0.0, "memory_bytes": 0, "messages_per_s": 0.0});
    let key = format!("tm:node:{id}");
    server.command(&["HSET", &key, "run", "1", "report", &report.to_string()]);
    server.command(&["HSET", "tm:leases", &key, ""]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut input = [0; 4_096];
                let _ = stream.read(&mut input).await;
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
                while stream.read(&mut input).await.is_ok_and(|read| read > 0) {
                    // Pings get their answer, so that it is taken for a node; sessions get the lie.
                    let ping = input[4] == 5;
                    let said: &[u8] = if ping { &[1, 0, 0, 0, 20] } else { answer };
                    if stream.write_all(said).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

#[tokio::test]
async fn nodes_that_answer_garbage_are_left() {
    let cluster = Cluster::start(1).await;
    let mut lies = Vec::new();
    for (n, answer) in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[255, 255, 255, 255, 16],
        &[0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 16, 7, 1],
        &[1, 0, 0, 0, 99],
    ]
    .into_iter()
    .enumerate()
    {
        lies.push(liar(&cluster.server, &format!("liar{n}"), answer).await);
    }
    // The gateway believes in them, and every client gets its session all the same.
    cluster.gateway.places_sessions_on(1 + lies.len()).await;
    let load = cluster.load().await;
    nothing_happened(load).await;
    let metrics = Sandbox::http(cluster.gateway.address(), "GET", "/metrics", "", "").await.body;
    let bad = metrics.lines().find(|line| line.starts_with("tickmesh_gateway_bad_links_total"));
    assert!(bad.is_some_and(|line| !line.ends_with(" 0")), "{bad:?}");
    lies.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_gateway_that_sends_garbage_harms_only_its_link() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::start(1).await;
    let mut witness = Client::connect(cluster.gateway.address(), "").await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[255; 64],
        &[1, 0, 0, 0, 4],
        &[9, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 1, b'{', b'}'],
    ] {
        let mut link = tokio::net::TcpStream::connect(cluster.nodes[0].address()).await.expect("connected");
        let handshake = format!(
            "GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGlja21lc2gtbGluay0wMQ==\r\nAuthorization: Bearer {}\r\n\r\n",
            tickmesh_tests::SECRET
        );
        link.write_all(handshake.as_bytes()).await.expect("sent");
        link.write_all(garbage).await.expect("sent");
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, link.read_to_end(&mut answer))
            .await
            .expect("the node closes the link")
            .ok();
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(witness.request("echo", json!(1)).await["data"], 1);
}
