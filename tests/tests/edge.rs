//! What stands between clients and sessions: TLS, addresses, tokens, and which node it is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tickmesh_tests::{Authority, Client, NodeProcess, RedisServer, Sandbox, eventually, token};

async fn is_ready(gateway: &NodeProcess) -> bool {
    Sandbox::http(gateway.address(), "GET", "/readyz", "", "").await.status == 200
}

async fn node_of(client: &mut Client) -> Value {
    // What the client was greeted with is of the node where it was first.
    client.request("stats", json!({})).await["data"]["node_id"].clone()
}

#[tokio::test]
async fn a_cluster_under_tls_takes_renewed_certificates_without_a_restart() {
    let (server, authority) = (RedisServer::start(), Authority::new());
    authority.issue("node");
    authority.issue("gateway");
    let tls = |name: &str| (authority.text(&format!("{name}.pem")), authority.text(&format!("{name}.key")));
    let (certificate, key) = tls("node");
    let environment = [
        ("TICKMESH_SERVER__TLS_CERTIFICATE", certificate.as_str()),
        ("TICKMESH_SERVER__TLS_KEY", key.as_str()),
    ];
    let mut nodes = [
        NodeProcess::start("n1", &server.url(), &environment),
        NodeProcess::start("n2", &server.url(), &environment),
    ];
    let ((certificate, key), ca) = (tls("gateway"), authority.text("ca.pem"));
    let environment = [
        ("TICKMESH_SERVER__TLS_CERTIFICATE", certificate.as_str()),
        ("TICKMESH_SERVER__TLS_KEY", key.as_str()),
        ("TICKMESH_CLUSTER__TLS_CA", ca.as_str()),
    ];
    let gateway = NodeProcess::gateway("g1", &server.url(), &environment);
    eventually("the gateway is ready", || async {
        authority.get(gateway.address(), "/readyz").await.is_ok_and(|(answer, _)| answer.contains(" 200 "))
    })
    .await;
    let (status, before) = authority.get(gateway.address(), "/api/socketio-status").await.expect("an answer");
    assert!(status.contains("active"), "asked of a node by TLS: {status}");

    // Everything as in the clear: much data, a killed node, a node under TLS directly.
    let mut client = Client::tls(gateway.address(), authority.trust()).await;
    client.subscribe("market_tls", json!({})).await;
    let mut publisher = Client::tls(nodes[1].address(), authority.trust()).await;
    let publish =
        |n: u64| json!({"room": "market_tls", "event": "e", "data": {"n": n, "pad": "x".repeat(20_000)}});
    for n in 1..=30 {
        assert_eq!(publisher.request("publish", publish(n)).await["data"]["seq"], n);
    }
    client.read_until("market_tls", 30).await;
    let at = node_of(&mut client).await;
    let killed = usize::from(at == "n2");
    nodes[killed].kill();
    let mut publisher = Client::tls(nodes[1 - killed].address(), authority.trust()).await;
    publisher.request("publish", publish(31)).await;
    client.read_until("market_tls", 31).await;
    let echo = "y".repeat(40_000);
    assert_eq!(client.request("echo", json!(echo)).await["data"], echo);

    // Half a renewal, or garbage, changes nothing; a whole one does, for those who come.
    std::fs::write(authority.path("gateway.key"), "garbage").expect("written");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let (_, shown) = authority.get(gateway.address(), "/healthz").await.expect("the old one stays");
        assert_eq!(shown, before);
    }
    authority.issue("gateway");
    eventually("the new certificate is shown", || async {
        authority.get(gateway.address(), "/healthz").await.is_ok_and(|(_, shown)| shown != before)
    })
    .await;
    publisher.request("publish", publish(32)).await;
    client.read_until("market_tls", 32).await;
}

#[tokio::test]
async fn a_node_whose_certificate_nobody_vouches_for_gets_no_sessions() {
    let (server, authority, stranger) = (RedisServer::start(), Authority::new(), Authority::new());
    authority.issue("node");
    stranger.issue("node");
    let ca = authority.text("ca.pem");
    let gateway = NodeProcess::gateway("g1", &server.url(), &[("TICKMESH_CLUSTER__TLS_CA", ca.as_str())]);
    let start = |id: &str, authority: &Authority| {
        let (certificate, key) = (authority.text("node.pem"), authority.text("node.key"));
        let environment = [
            ("TICKMESH_SERVER__TLS_CERTIFICATE", certificate.as_str()),
            ("TICKMESH_SERVER__TLS_KEY", key.as_str()),
        ];
        NodeProcess::start(id, &server.url(), &environment)
    };
    let _stranger = start("stranger", &stranger);
    let _clear = NodeProcess::start("clear", &server.url(), &[]);
    let _vouched = start("vouched", &authority);
    gateway.places_sessions_on(1).await;
    for _ in 0..5 {
        assert_eq!(Client::connect(gateway.address(), "").await.hello["node_id"], "vouched");
    }
}

#[tokio::test]
async fn an_address_has_its_share_and_only_a_trusted_proxy_tells_it() {
    let server = RedisServer::start();
    let node = NodeProcess::start("n1", &server.url(), &[]);
    let limit = ("TICKMESH_LIMITS__MAX_CONNECTIONS_PER_ADDRESS", "2");
    let trusted = ("TICKMESH_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.0/8");
    let behind = NodeProcess::gateway("g1", &server.url(), &[limit, trusted]);
    let open = NodeProcess::gateway("g2", &server.url(), &[limit]);
    for gateway in [&behind, &open] {
        eventually("the gateway is ready", || is_ready(gateway)).await;
    }
    let from = async |gateway: &NodeProcess, address: &str| {
        Client::try_connect(gateway.address(), "", &[("x-forwarded-for", address)]).await
    };
    let mut first = from(&behind, "203.0.113.1").await.expect("let in");
    let _second = from(&behind, "1.1.1.1, 203.0.113.1, 10.1.1.1").await.expect("let in");
    assert_eq!(from(&behind, "203.0.113.1").await.err(), Some(503));
    let _other = from(&behind, "203.0.113.2").await.expect("let in");
    let id = first.request("stats", json!({})).await["data"]["session_id"].as_str().map(str::to_owned);
    let path = format!("/api/v1/sessions/{}", id.unwrap_or_default());
    let session = Sandbox::http(node.address(), "GET", &path, "", "").await.json();
    assert_eq!(session["remote"], "203.0.113.1:0", "the node knows it too: {session}");
    drop(first);
    eventually("a place is given back", || async { from(&behind, "203.0.113.1").await.is_ok() }).await;

    let _clients = [
        from(&open, "203.0.113.1").await.expect("let in"),
        from(&open, "203.0.113.2").await.expect("let in"),
    ];
    assert_eq!(from(&open, "203.0.113.3").await.err(), Some(503), "whatever a client says of itself");
}

#[tokio::test]
async fn a_gateway_refuses_bad_tokens_without_asking_a_node() {
    let server = RedisServer::start();
    let gateway = NodeProcess::gateway("g1", &server.url(), &[]);
    let refused = async |token: &str| {
        Client::try_connect(gateway.address(), &format!("?token={token}"), &[]).await.err()
    };
    // {"sub":"ann","exp":1}, signed with the right secret.
    let claims = json!({"sub": "ann", "exp": 1});
    let key = jsonwebtoken::EncodingKey::from_secret(tickmesh_tests::SECRET.as_bytes());
    let expired =
        tickmesh_edge::jwt::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signed");
    assert_eq!(refused(&expired).await, Some(4002));
    let good = token("ann", "user");
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    assert_eq!(refused(&forged).await, Some(4001));

    let _node = NodeProcess::start("n1", &server.url(), &[]);
    gateway.places_sessions_on(1).await;
    let client = Client::connect(gateway.address(), &format!("?token={good}")).await;
    assert_eq!(client.hello["user_id"], "ann");
    assert_eq!(refused("no-token-at-all").await, Some(4001), "what only a node can judge");
}

#[tokio::test]
async fn clients_are_told_when_to_come_back_and_not_all_at_once() {
    let server = RedisServer::start();
    let mut node = NodeProcess::start("n1", &server.url(), &[]);
    let mut gateway = NodeProcess::gateway("g1", &server.url(), &[]);
    eventually("the gateway is ready", || is_ready(&gateway)).await;
    for stops in [&mut gateway, &mut node] {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(Client::connect(stops.address(), "").await);
        }
        stops.signal("-TERM");
        let mut hints = BTreeSet::new();
        for client in &mut clients {
            let hint = client.next().await;
            assert_eq!(hint["event"], "going_away", "{hint}");
            hints.insert(hint["data"]["retry_after_ms"].as_u64().expect("milliseconds"));
            assert_eq!(client.closed().await, 1001);
        }
        assert!(hints.len() > 5, "{hints:?}");
        drop(clients);
        stops.ended().await;
    }
}

#[tokio::test]
async fn all_of_a_users_connections_are_on_one_node_also_after_it_died() {
    let server = RedisServer::start();
    let mut nodes: Vec<_> =
        (1..=3).map(|n| NodeProcess::start(&format!("n{n}"), &server.url(), &[])).collect();
    let gateway = NodeProcess::gateway("g1", &server.url(), &[("TICKMESH_GATEWAY__PLACEMENT", "user")]);
    gateway.places_sessions_on(3).await;
    let mut clients = Vec::new();
    for user in 0..12 {
        let query = format!("?token={}", token(&format!("user-{user}"), "user"));
        clients.push([
            Client::connect(gateway.address(), &query).await,
            Client::connect(gateway.address(), &query).await,
        ]);
    }
    let mut used = BTreeSet::new();
    for [one, other] in &mut clients {
        let at = node_of(one).await;
        assert_eq!(at, node_of(other).await);
        used.insert(at.to_string());
    }
    assert!(used.len() > 1, "{used:?}");
    nodes[0].kill();
    gateway.places_sessions_on(2).await;
    for [one, other] in &mut clients {
        assert_eq!(node_of(one).await, node_of(other).await);
    }
    // A node that joins gets those that belong to it, both of each.
    nodes[0] = NodeProcess::start("n1", &server.url(), &[]);
    gateway.places_sessions_on(3).await;
    for [one, other] in &mut clients {
        let (one, other) = (tokio::sync::Mutex::new(one), tokio::sync::Mutex::new(other));
        eventually("they are together again", || async {
            node_of(*one.lock().await).await == node_of(*other.lock().await).await
        })
        .await;
    }
}

#[tokio::test]
async fn a_gateway_prefers_nodes_of_its_zone_and_sessions_come_home() {
    let server = RedisServer::start();
    let zone = |zone| [("TICKMESH_CLUSTER__ZONE", zone)];
    let _west = NodeProcess::start("west", &server.url(), &zone("west"));
    let mut east = NodeProcess::start("east", &server.url(), &zone("east"));
    let gateway = NodeProcess::gateway("g1", &server.url(), &zone("east"));
    gateway.places_sessions_on(2).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(gateway.address(), "").await);
    }
    for client in &mut clients {
        assert_eq!(node_of(client).await, "east");
    }
    east.kill();
    for client in &mut clients {
        assert_eq!(node_of(client).await, "west", "better than none");
    }
    let _east = NodeProcess::start("east", &server.url(), &zone("east"));
    for client in &mut clients {
        let client = tokio::sync::Mutex::new(client);
        eventually("they come home", || async { node_of(*client.lock().await).await == "east" }).await;
    }
}
