//! Promise 3 in Kubernetes: pods are deleted by what their manifests say, with real processes under load. Nobody is
//! disconnected who is at another gateway's node, misses anything or gets anything twice.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tickmesh_tests::{
    Account, Authority, Client, DEADLINE, Hook, Load, Manifest, NodeProcess, RedisServer, Sandbox,
    eventually, size,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

struct Cluster {
    server: RedisServer,
    manifest: Manifest,
    nodes: Vec<NodeProcess>,
    gateways: Vec<NodeProcess>,
    started: usize,
}

impl Cluster {
    async fn start(gateways: usize) -> Self {
        let server = RedisServer::start();
        let manifest = Manifest::read("node.yaml");
        let gateway = Manifest::read("gateway.yaml");
        // A gateway sends its clients away over half of this.
        let quick = [("TICKMESH_SERVER__SHUTDOWN_TIMEOUT_MS", "6000")];
        let gateways =
            (1..=gateways).map(|n| gateway.start(&format!("g{n}"), &server.url(), &quick)).collect();
        let mut cluster = Self { server, manifest, nodes: Vec::new(), gateways, started: 0 };
        for _ in 0..3 {
            cluster.add().await;
        }
        cluster
    }

    /// One pod more, which the gateways count on.
    async fn add(&mut self) {
        self.started += 1;
        let id = format!("tickmesh-node-{}", self.started);
        self.nodes.push(self.manifest.start(&id, &self.server.url(), &[]));
        for gateway in &self.gateways {
            gateway.places_sessions_on(self.nodes.len()).await;
        }
    }

    async fn load(&self) -> Load {
        let subscribers = size("TICKMESH_TEST_SUBSCRIBERS", 40);
        Load::start(&[self.gateways[0].address()], 5, 4, subscribers, Duration::from_millis(2)).await
    }
}

/// The load goes on, and nothing happened to it.
async fn nothing_happened(load: Load) -> Account {
    load.goes_on(20).await;
    let account = load.finish().await;
    println!("{account:?}");
    assert_eq!((account.refused, account.resyncs, account.missed), (0, 0, 0), "{account:?}");
    account
}

async fn connections(node: &NodeProcess) -> u64 {
    let answer = Sandbox::http(node.address(), "GET", "/api/socketio-status", "", "").await;
    answer.json()["connections"].as_u64().unwrap_or(u64::MAX)
}

/// Slow: three nodes are drained and replaced, one after the other.
#[tokio::test]
async fn nodes_are_replaced_as_a_rolling_update_does() {
    let mut cluster = Cluster::start(1).await;
    let load = cluster.load().await;
    for _ in 0..3 {
        // maxSurge: 1, maxUnavailable: 0
        cluster.add().await;
        let mut oldest = cluster.nodes.remove(0);
        eventually("it has connections", || async { connections(&oldest).await > 0 }).await;
        let end = cluster.manifest.terminate(&mut oldest, &[]).await;
        println!("{end:?}");
        assert_eq!(end.hook, Ok(()));
        assert!(!end.killed, "{end:?}");
        assert_eq!(end.left, Some(0), "it was empty when SIGTERM came");
    }
    nothing_happened(load).await;
}

#[tokio::test]
async fn what_a_hook_did_not_do_sigterm_does() {
    let mut cluster = Cluster::start(1).await;
    let load = cluster.load().await;
    for _ in 0..2 {
        cluster.add().await;
        let mut oldest = cluster.nodes.remove(0);
        let end = cluster
            .manifest
            .terminate(&mut oldest, &[("TICKMESH_AUTH__JWT_SECRET", "another secret's token")])
            .await;
        println!("{end:?}");
        assert!(end.hook.as_ref().is_err_and(|text| text.contains("401")), "{end:?}");
        assert!(!end.killed, "{end:?}");
    }
    nothing_happened(load).await;
}

/// Slow: the grace, and then a lease, have to end.
#[tokio::test]
async fn a_node_that_stands_still_is_killed_when_the_grace_is_over() {
    let mut cluster = Cluster::start(1).await;
    let load = cluster.load().await;
    // The hook hangs, and SIGTERM is not heard. With less patience than the manifest has.
    cluster.manifest.grace = Duration::from_secs(4);
    cluster.add().await;
    let mut oldest = cluster.nodes.remove(0);
    oldest.signal("-STOP");
    let end = cluster.manifest.terminate(&mut oldest, &[]).await;
    println!("{end:?}");
    assert!(end.hook.is_err() && end.killed, "{end:?}");
    nothing_happened(load).await;
}

#[tokio::test]
async fn pods_that_are_deleted_by_force_are_missed_by_nobody() {
    let mut cluster = Cluster::start(1).await;
    let load = cluster.load().await;
    for _ in 0..2 {
        // kubectl delete pod --grace-period=0 --force
        cluster.nodes.remove(0).kill();
        cluster.add().await;
    }
    nothing_happened(load).await;
}

/// Follows a room until its end, at the next gateway whenever one sends it away; what it received, and how often it was
/// sent away, by which close codes.
async fn follow(
    mut gateways: Vec<SocketAddr>,
    room: &str,
    ready: mpsc::Sender<()>,
) -> (Vec<String>, Vec<u16>) {
    let mut client = Client::connect(gateways[0], "").await;
    client.subscribe(room, json!({})).await;
    let _ = ready.send(()).await;
    let (mut received, mut closed) = (Vec::new(), Vec::new());
    let texts = |client: &Client| {
        let all = client.room(room).received.into_iter();
        all.map(|(_, data)| data["text"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    while texts(&client).last().map(String::as_str) != Some("end") {
        let Err(code) = client.try_next().await else { continue };
        closed.push(code);
        let before = client.room(room);
        received.append(&mut texts(&client));
        gateways.rotate_left(1);
        client = Client::connect(gateways[0], "").await;
        let recover = json!({"recover": {"epoch": before.epoch, "seq": before.seq}});
        let recovered = client.subscribe(room, recover).await;
        assert_eq!(recovered["recovered"], true, "{recovered}");
        let count = recovered["messages"].as_array().map_or(0, Vec::len) as u64;
        assert_eq!(recovered["seq"], before.seq + count, "what comes follows what came");
    }
    received.append(&mut texts(&client));
    (received, closed)
}

/// Slow: the pause of the manifest, ten seconds, and three in which clients are sent away.
#[tokio::test]
async fn a_gateway_takes_clients_until_load_balancers_know_and_then_sends_all_away_once() {
    let mut cluster = Cluster::start(2).await;
    let manifest = Manifest::read("gateway.yaml");
    let Hook::Sleep(pause) = manifest.pre_stop else { panic!("{manifest:?}") };
    let (leaving, staying) = (cluster.gateways.remove(0), cluster.gateways.remove(0));
    let load = Load::start(&[staying.address()], 1, 2, 0, Duration::from_millis(5)).await;
    let both = [vec![leaving.address(), staying.address()], vec![staying.address(), leaving.address()]];
    let (ready, mut all_ready) = mpsc::channel(1);
    let count = size("TICKMESH_TEST_SUBSCRIBERS", 40);
    let followers: Vec<_> = (0..count)
        .map(|n| {
            let (gateways, ready) = (both[n % 2].clone(), ready.clone());
            tokio::spawn(async move { follow(gateways, "market_load0", ready).await })
        })
        .collect();
    for _ in 0..count {
        all_ready.recv().await.expect("a follower");
    }
    let (over, mut is_over) = watch::channel(false);
    let address = leaving.address();
    let deleting = tokio::spawn(async move {
        let mut leaving = leaving;
        let end = manifest.terminate(&mut leaving, &[]).await;
        let _ = over.send(true);
        end
    });
    // Nobody has told the load balancer yet.
    let end = Instant::now() + pause.mul_f64(0.8);
    while Instant::now() < end {
        drop(Client::connect(address, "").await);
        sleep(Duration::from_millis(200)).await;
    }
    is_over.wait_for(|over| *over).await.expect("it ends");
    let end = deleting.await.expect("it ends");
    println!("{end:?}");
    assert!(!end.killed, "{end:?}");
    let account = nothing_happened(load).await;
    for (n, follower) in followers.into_iter().enumerate() {
        let (mut received, closed) = follower.await.expect("followed");
        let expected = if n % 2 == 0 { vec![1001] } else { vec![] };
        assert_eq!(closed, expected, "those of the other gateway are not disconnected");
        let length = received.len();
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), length, "once each");
        assert!(length <= account.kept + 1, "{length} of {}", account.kept);
    }
}

/// An API server that tells which deletion costs were written, or, if it hangs, takes requests and says nothing.
async fn api_server(authority: &Authority, hangs: bool) -> (u16, mpsc::Receiver<String>) {
    use std::sync::Arc;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto};
    authority.issue("api");
    let certificate = CertificateDer::from_pem_file(authority.path("api.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(authority.path("api.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (told, costs) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut input = Vec::new();
            let cost = loop {
                if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                    break None;
                }
                let text = String::from_utf8_lossy(&input);
                let body = text
                    .split_once("\r\n\r\n")
                    .and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
                if let Some(body) = body {
                    let cost = &body["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
                    break cost.as_str().map(str::to_owned);
                }
            };
            let Some(cost) = cost else { continue };
            let _ = told.send(cost).await;
            if hangs {
                held.push(stream);
                continue;
            }
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                .await;
            let _ = stream.shutdown().await;
        }
    });
    (port, costs)
}

/// A node in a pod whose API server is there.
async fn node_with_api_server(broker: &str, hangs: bool) -> (NodeProcess, mpsc::Receiver<String>, Authority) {
    let authority = Authority::new();
    let (port, costs) = api_server(&authority, hangs).await;
    std::fs::copy(authority.path("ca.pem"), authority.path("ca.crt")).expect("copied");
    for (name, text) in [("token", "t"), ("namespace", "tickmesh")] {
        std::fs::write(authority.path(name), text).expect("written");
    }
    let (directory, port) = (authority.text(""), port.to_string());
    let node = Manifest::read("node.yaml").start(
        "tickmesh-node-abc",
        broker,
        &[
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", &port),
            ("TICKMESH_KUBERNETES__POD_DELETION_COST_MS", "100"),
            ("TICKMESH_KUBERNETES__SERVICE_ACCOUNT", &directory),
        ],
    );
    (node, costs, authority)
}

async fn written(costs: &mut mpsc::Receiver<String>) -> String {
    timeout(DEADLINE, costs.recv()).await.expect("it is written").expect("the API server runs")
}

#[tokio::test]
async fn the_emptiest_pod_and_before_it_one_that_drains_cost_least() {
    let server = RedisServer::start();
    let (mut node, mut costs, _files) = node_with_api_server(&server.url(), false).await;
    assert_eq!(written(&mut costs).await, "0");
    let mut clients = vec![Client::connect(node.address(), "").await];
    assert_eq!(written(&mut costs).await, "1");
    clients.push(Client::connect(node.address(), "").await);
    assert_eq!(written(&mut costs).await, "2");
    let drain = format!("/api/v1/nodes/{}/drain", node.id());
    assert_eq!(Sandbox::http(node.address(), "POST", &drain, "", "").await.status, 202);
    assert_eq!(written(&mut costs).await, "-1");
    drop(clients);
    node.signal("-TERM");
    node.ended().await;
}

#[tokio::test]
async fn an_api_server_that_says_nothing_keeps_nobody_waiting() {
    let server = RedisServer::start();
    let (mut node, mut costs, _files) = node_with_api_server(&server.url(), true).await;
    assert_eq!(written(&mut costs).await, "0");
    let mut client = Client::connect(node.address(), "").await;
    assert_eq!(client.request("echo", json!(1)).await["data"], 1);
    assert_eq!(Sandbox::http(node.address(), "GET", "/readyz", "", "").await.status, 200);
    node.signal("-TERM");
    assert_eq!(client.closed().await, 1001);
    drop(client);
    node.ended().await;
}

#[test]
fn the_configuration_of_the_production_overlay_is_one() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/k8s");
    let overlay = directory.join("overlays/production");
    let mut variables = Vec::new();
    for file in ["settings.env", "cluster.env.example", "stores.env.example"] {
        let text = std::fs::read_to_string(overlay.join(file)).expect(file);
        let set = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        variables.extend(set.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    assert!(variables.len() >= 8, "{variables:?}");
    let output = std::process::Command::new(tickmesh_tests::binary())
        .args(["config", "check"])
        .arg(directory.join("base/tickmesh.toml"))
        .envs(variables)
        .env("TICKMESH_NODE__ID", "tickmesh-node-7d9f8b6c5d-x2x4z")
        .env("TICKMESH_CLUSTER__ADVERTISE", "10.0.0.1:8080")
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What startup, liveness and readiness probes of a manifest get from a process.
async fn probed(manifest: &Manifest, process: &NodeProcess) -> [u16; 3] {
    let mut statuses = [0; 3];
    for (path, status) in manifest.probes.iter().zip(&mut statuses) {
        *status = Sandbox::http(process.address(), "GET", path, "", "").await.status;
    }
    statuses
}

#[tokio::test]
async fn without_redis_a_pod_is_not_ready_but_neither_restarted_nor_without_its_clients() {
    let mut cluster = Cluster::start(1).await;
    let manifests = [Manifest::read("node.yaml"), Manifest::read("gateway.yaml")];
    let mut client = Client::connect(cluster.gateways[0].address(), "").await;
    client.subscribe("market_probe", json!({})).await;
    cluster.server.kill();
    let both = [&cluster.nodes[0], &cluster.gateways[0]];
    for (manifest, process) in manifests.iter().zip(both) {
        eventually("it is alive and not ready", || async {
            probed(manifest, process).await == [200, 200, 503]
        })
        .await;
    }
    // One that is started meanwhile is not given up either.
    let late = manifests[0].start("late", &cluster.server.url(), &[]);
    assert_eq!(probed(&manifests[0], &late).await, [200, 200, 503]);
    assert_eq!(client.request("echo", json!(1)).await["data"], 1, "the client is still there");
    cluster.server.restart();
    for (manifest, process) in manifests.iter().zip([&cluster.nodes[0], &cluster.gateways[0]]) {
        eventually("it is ready", || async { probed(manifest, process).await == [200, 200, 200] }).await;
    }
    eventually("the late one is ready", || async { probed(&manifests[0], &late).await == [200; 3] }).await;
    assert_eq!(client.request("echo", json!(2)).await["data"], 2);
}
