//! Socket.IO's own clients against real nodes and a gateway. They are installed by `./test`, into tests/socketio.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tickmesh_tests::{NodeProcess, RedisServer, Sandbox, eventually, size, token};
use tokio::io::{AsyncBufReadExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Longest run of one program.
const LONGEST: Duration = Duration::from_secs(180);

fn program(name: &str, arguments: &[String]) -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("socketio");
    let python = here.join("venv/bin/python");
    let (runs, installed) = match name.ends_with(".py") {
        true => (python.clone(), python),
        false => ("node".into(), here.join("node_modules/socket.io-client")),
    };
    assert!(installed.exists(), "{} is missing: run ./test, which installs it", installed.display());
    let mut command = Command::new(runs);
    command.arg(here.join(name)).args(arguments).kill_on_drop(true);
    command
}

async fn succeeds(mut child: Child, what: &str) {
    let status = timeout(LONGEST, child.wait()).await;
    assert!(matches!(&status, Ok(Ok(status)) if status.success()), "{what}: {status:?}");
}

async fn runs(name: &str, node: &NodeProcess, more: &[&str]) {
    let mut arguments = vec![format!("http://{}", node.address())];
    arguments.extend(more.iter().map(ToString::to_string));
    let child = program(name, &arguments).spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
    succeeds(child, name).await;
}

#[tokio::test]
async fn every_case_of_the_protocol_documents_passes() {
    runs("suite.mjs", &NodeProcess::conformance(), &[]).await;
}

#[tokio::test]
async fn real_clients_are_served_by_a_node() {
    let node = NodeProcess::start("n1", "memory", &[]);
    runs("client.mjs", &node, &["", "market"]).await;
    runs("client.py", &node, &[]).await;
}

/// Slow: three kinds of clients, one in a browser, one after the other.
#[tokio::test]
async fn real_clients_are_served_through_a_gateway() {
    let server = RedisServer::start();
    let _nodes = ["n1", "n2"].map(|id| NodeProcess::start(id, &server.url(), &[]));
    let gateway = NodeProcess::gateway("g1", &server.url(), &[]);
    gateway.places_sessions_on(2).await;
    // With a token this time.
    runs("client.mjs", &gateway, &[&token("ann", "publisher")]).await;
    runs("client.py", &gateway, &[]).await;
    runs("browser.mjs", &gateway, &["chromium"]).await;
}

/// Sends each connection to the next of these addresses, as load balancers do that know nothing of sessions.
async fn balanced(addresses: [SocketAddr; 2]) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        for to in addresses.into_iter().cycle() {
            let Ok((mut client, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_load_balancer_need_not_know_of_sessions() {
    let server = RedisServer::start();
    let _nodes = ["n1", "n2"].map(|id| NodeProcess::start(id, &server.url(), &[]));
    let gateways = ["g1", "g2"].map(|id| NodeProcess::gateway(id, &server.url(), &[]));
    for gateway in &gateways {
        gateway.places_sessions_on(2).await;
    }
    eventually("the gateways know each other", || async {
        let cluster = Sandbox::http(gateways[0].address(), "GET", "/api/v1/cluster", "", "").await.json();
        cluster["gateways"].as_array().is_some_and(|gateways| gateways.len() == 2)
    })
    .await;
    let address = balanced([gateways[0].address(), gateways[1].address()]).await.unwrap();
    let child = program("client.mjs", &[format!("http://{address}")]).spawn().unwrap();
    succeeds(child, "client.mjs").await;
}

#[tokio::test]
async fn notices_go_to_the_others_and_to_their_receiver_alone() {
    let server = RedisServer::start();
    let class = [("TICKMESH_ROOMS__CLASS", r#"[{prefix = "desk_", join_events = true}]"#)];
    let _nodes = ["n1", "n2"].map(|id| NodeProcess::start(id, &server.url(), &class));
    let gateways = ["g1", "g2"].map(|id| NodeProcess::gateway(id, &server.url(), &[]));
    for gateway in &gateways {
        gateway.places_sessions_on(2).await;
    }
    let mut arguments: Vec<_> = gateways.iter().map(|g| format!("http://{}", g.address())).collect();
    arguments.extend([token("ann", "user"), token("bob", "publisher")]);
    let child = program("others.mjs", &arguments).spawn().unwrap();
    succeeds(child, "others.mjs").await;
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_by_the_list() {
    let allowed = [("TICKMESH_SERVER__ORIGINS", "https://desk.example")];
    let node = NodeProcess::start("n1", "memory", &allowed);
    let path = "/socket.io/?EIO=4&transport=polling";
    for (origin, told) in [("https://desk.example", true), ("https://other.example", false)] {
        for method in ["GET", "OPTIONS"] {
            let headers = format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n");
            let answer = Sandbox::http(node.address(), method, path, &headers, "").await;
            let head = answer.head.to_lowercase();
            let named = format!("access-control-allow-origin: {origin}");
            assert_eq!(head.contains(&named), told, "{method} {origin}: {head}");
            assert!(told || !head.contains("access-control-allow-origin"), "{method} {origin}: {head}");
            // Without the origin's name a browser lets nobody in, whatever else is said (Fetch, CORS check).
            assert!(!told || head.contains("access-control-allow-credentials: true"), "{head}");
        }
    }
}

/// `TICKMESH_TEST_SOCKETIO_CLIENTS` (40), half of them polling, and as many drains and kills as
/// `TICKMESH_TEST_KILLS` (2) says.
#[tokio::test]
async fn clients_notice_nothing_of_drained_and_killed_nodes() {
    let server = RedisServer::start();
    let mut nodes: Vec<_> =
        (1..=3).map(|n| NodeProcess::start(&format!("n{n}"), &server.url(), &[])).collect();
    let gateway = NodeProcess::gateway("g1", &server.url(), &[]);
    gateway.places_sessions_on(3).await;
    let clients = size("TICKMESH_TEST_SOCKETIO_CLIENTS", 40);
    let arguments = [format!("http://{}", gateway.address()), clients.to_string()];
    let mut command = program("disturbed.mjs", &arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = timeout(LONGEST, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(ready.as_deref(), Some("ready"));

    for n in 0..size("TICKMESH_TEST_KILLS", 2) {
        let at = n % nodes.len();
        // Drained, and all its sessions moved; then resumed.
        let id = nodes[at].id().to_owned();
        for what in ["drain", "resume"] {
            let path = format!("/api/v1/nodes/{id}/{what}");
            // The node that is asked may be the one that was killed: its lease has not ended yet.
            eventually("the node is told", || async {
                Sandbox::http(gateway.address(), "POST", &path, "", "").await.status == 202
            })
            .await;
            let expected = if what == "drain" { 2 } else { 3 };
            gateway.places_sessions_on(expected).await;
            if what == "drain" {
                eventually("the node has no session", || async {
                    let status =
                        Sandbox::http(nodes[at].address(), "GET", "/api/socketio-status", "", "").await;
                    status.json()["connections"] == 0
                })
                .await;
            }
        }
        // Another one killed, and a new one started.
        let at = (n + 1) % nodes.len();
        nodes[at].kill();
        nodes[at] = NodeProcess::start(&format!("n{}", 4 + n), &server.url(), &[]);
        gateway.places_sessions_on(3).await;
        // The load goes on for a while with what there is now.
        sleep(Duration::from_millis(500)).await;
    }
    drop(child.stdin.take());
    while let Ok(Some(line)) = lines.next_line().await {
        println!("{line}");
    }
    succeeds(child, "disturbed.mjs").await;
}
