//! Several nodes on Redis are one: a client on any of them sees the same rooms, and anything asked of one is answered for
//! all.

use std::time::Duration;

use serde_json::{Value, json};
use tickmesh_tests::{Answer, Client, Load, NodeProcess, RedisServer, Sandbox, eventually, size, token};

fn nodes(server: &RedisServer, count: usize) -> Vec<NodeProcess> {
    (1..=count).map(|n| NodeProcess::start(&format!("n{n}"), &server.url(), &[])).collect()
}

async fn get(node: &NodeProcess, path: &str) -> Value {
    Sandbox::http(node.address(), "GET", path, "", "").await.json()
}

async fn as_operator(node: &NodeProcess, method: &str, path: &str, body: &Value) -> Answer {
    let header = format!("Authorization: Bearer {}\r\n", token("root", "operator"));
    Sandbox::http(node.address(), method, path, &header, &body.to_string()).await
}

async fn publish(node: &NodeProcess, room: &str, data: u64) -> Value {
    let body = json!({"room": room, "event": "quote", "data": data}).to_string();
    Sandbox::http(node.address(), "POST", "/api/v1/publish", "", &body).await.json()["results"][0].clone()
}

/// Waits until every node that lives knows of this many.
async fn members(nodes: &[NodeProcess], count: usize) {
    for node in nodes {
        eventually("all know of each other", || async {
            get(node, "/api/v1/cluster").await["nodes"].as_array().map(Vec::len) == Some(count)
        })
        .await;
    }
}

#[tokio::test]
async fn publishers_and_subscribers_on_any_node_share_one_order() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 3);
    let addresses: Vec<_> = nodes.iter().map(NodeProcess::address).collect();
    let subscribers = size("TICKMESH_TEST_SUBSCRIBERS", 60);
    let load = Load::start(&addresses, 20, 4, subscribers, Duration::ZERO).await;
    load.goes_on(size("TICKMESH_TEST_MESSAGES", 1_000)).await;
    let account = load.finish().await;
    println!("{account:?}");
    assert_eq!((account.refused, account.resyncs, account.missed), (0, 0, 0), "{account:?}");
}

#[tokio::test]
async fn clients_of_a_killed_node_recover_on_another() {
    let server = RedisServer::start();
    let mut nodes = nodes(&server, 2);
    members(&nodes, 2).await;
    let (first, second) = nodes.split_at_mut(1);
    let (doomed, other) = (&mut first[0], &second[0]);
    let mut client = Client::connect(doomed.address(), "").await;
    let begun = client.subscribe("market_1", json!({})).await;
    let mut witness = Client::connect(other.address(), "").await;
    witness.subscribe("market_1", json!({})).await;
    for n in 1..=10 {
        assert_eq!(publish(if n % 2 == 0 { doomed } else { other }, "market_1", n).await["seq"], n);
    }
    client.read_until("market_1", 10).await;
    let everybody = async || get(other, "/api/v1/rooms/market_1").await["subscribers"].clone();
    eventually("both are counted", || async { everybody().await == 2 }).await;
    doomed.kill();
    for n in 11..=20 {
        publish(other, "market_1", n).await;
    }
    let mut client = Client::connect(other.address(), "").await;
    let recover = json!({"recover": {"epoch": begun["epoch"], "seq": 10}});
    let recovered = client.subscribe("market_1", recover).await;
    assert_eq!(recovered["recovered"], true);
    let data: Vec<_> = recovered["messages"].as_array().unwrap().iter().map(|m| m["data"].as_u64()).collect();
    assert_eq!(data, (11..=20).map(Some).collect::<Vec<_>>());
    publish(other, "market_1", 21).await;
    client.read_until("market_1", 21).await;
    witness.read_until("market_1", 21).await;
    // The dead node's session is counted no more when its lease has ended.
    eventually("two are counted", || async { everybody().await == 2 }).await;
    let presence = client.request("presence", json!({"room": "market_1"})).await;
    assert_eq!(presence["data"]["count"], 2);
    assert_eq!(get(other, "/api/v1/cluster").await["nodes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_node_counts_the_subscribers_of_all() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 3);
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = Client::connect(nodes[n % 2].address(), "").await;
        client.subscribe("market_1", json!({})).await;
        clients.push(client);
    }
    for node in &nodes {
        eventually("six are counted", || async {
            let room = get(node, "/api/v1/rooms/market_1").await;
            room["subscribers"] == 6 && room["nodes"] == json!({"n1": 3, "n2": 3})
        })
        .await;
    }
    // What is pushed gets lost, and later comers were never told: both heal.
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    drop(clients.split_off(4));
    let late = NodeProcess::start("n4", &server.url(), &[]);
    for node in nodes.iter().chain([&late]) {
        eventually("four are counted", || async {
            get(node, "/api/v1/rooms/market_1").await["subscribers"] == 4
        })
        .await;
    }
    assert_eq!(publish(&late, "market_1", 1).await["subscribers"], 4, "and publishers are told");
    let rooms = get(&late, "/api/v1/rooms").await;
    assert_eq!(rooms["rooms"][0]["subscribers"], 4, "{rooms}");
}

#[tokio::test]
async fn presence_names_the_users_on_all_nodes() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 2);
    members(&nodes, 2).await;
    let mut clients = Vec::new();
    for (n, user) in ["bob", "alice", "bob"].into_iter().enumerate() {
        let query = format!("?token={}", token(user, "user"));
        let mut client = Client::connect(nodes[n % 2].address(), &query).await;
        client.subscribe("market_1", json!({})).await;
        clients.push(client);
    }
    let expected = json!({"count": 3, "users": ["alice", "bob"]});
    for client in &mut clients {
        assert_eq!(client.request("presence", json!({"room": "market_1"})).await["data"], expected);
    }
    assert_eq!(get(&nodes[0], "/api/v1/rooms/market_1/presence").await, expected);
    let denied = clients[1].request("presence", json!({"room": "user_bob"})).await;
    assert_eq!(denied["error_code"], "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_notice_reaches_all_sessions_of_a_user_once() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 2);
    let query = format!("?token={}", token("alice", "user"));
    let mut following = Client::connect(nodes[0].address(), &query).await;
    following.subscribe("user_alice", json!({})).await;
    let mut there = Client::connect(nodes[1].address(), &query).await;
    let mut late = Client::connect(nodes[1].address(), "").await;
    let renewed = late.request("auth", json!({"token": token("alice", "user")})).await;
    assert_eq!(renewed["success"], true, "{renewed}");
    let mut other = Client::connect(nodes[1].address(), &format!("?token={}", token("bob", "user"))).await;
    for n in 1..=2 {
        let answer = as_operator(
            &nodes[0],
            "POST",
            "/api/v1/users/alice/notify",
            &json!({"event": "alert", "data": n}),
        )
        .await;
        assert_eq!((answer.status, &answer.json()["seq"]), (200, &json!(n)), "{answer:?}");
    }
    for client in [&mut following, &mut there, &mut late] {
        for n in 1..=2 {
            let notice = client.next().await;
            assert_eq!((&notice["room"], &notice["event"]), (&json!("user_alice"), &json!("alert")));
            assert_eq!((&notice["data"], &notice["seq"]), (&json!(n), &json!(n)));
        }
    }
    assert_eq!(other.request("time", json!({})).await["success"], true);
    assert_eq!(following.request("echo", json!("nothing else came")).await["success"], true);
    let bad = as_operator(&nodes[0], "POST", "/api/v1/users/a%20b/notify", &json!({"event": "e"})).await;
    assert_eq!(bad.status, 400, "{bad:?}");
}

#[tokio::test]
async fn sessions_are_listed_and_ended_from_any_node() {
    let server = RedisServer::start();
    let nodes = nodes(&server, 3);
    members(&nodes, 3).await;
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(Client::connect(node.address(), "").await);
    }
    let listed = as_operator(&nodes[1], "GET", "/api/v1/sessions", &json!({})).await.json();
    assert_eq!((&listed["total"], &listed["unanswered"]), (&json!(3), &json!([])), "{listed}");
    let id = clients[0].hello["session_id"].as_str().unwrap().to_owned();
    let one = as_operator(&nodes[2], "GET", &format!("/api/v1/sessions/{id}"), &json!({})).await.json();
    assert_eq!(one["node_id"], "n1", "{one}");
    let ended = as_operator(&nodes[2], "DELETE", &format!("/api/v1/sessions/{id}"), &json!({})).await;
    assert_eq!(ended.status, 200, "{ended:?}");
    assert_eq!(clients[0].closed().await, 4005);
    drop(clients.remove(0));
    eventually("nobody has it any more", || async {
        as_operator(&nodes[2], "DELETE", &format!("/api/v1/sessions/{id}"), &json!({})).await.status == 404
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_id_was_taken_is_not_ready() {
    let server = RedisServer::start();
    let first = NodeProcess::start("same", &server.url(), &[]);
    let second = NodeProcess::start("same", &server.url(), &[]);
    let status =
        async |node: &NodeProcess| Sandbox::http(node.address(), "GET", "/readyz", "", "").await.status;
    eventually("the first gives up", || async { status(&first).await == 503 }).await;
    assert_eq!(status(&second).await, 200);
    assert_eq!(Sandbox::http(first.address(), "GET", "/healthz", "", "").await.status, 200);
}

#[tokio::test]
async fn joins_and_leaves_are_announced_where_the_class_asks_for_it() {
    let server = RedisServer::start();
    let class = r#"[{prefix = "desk_", join_events = true}]"#;
    let start = |id: &str| NodeProcess::start(id, &server.url(), &[("TICKMESH_ROOMS__CLASS", class)]);
    let (mut doomed, node) = (start("n1"), start("n2"));
    let follow = async |node: &NodeProcess, user: &str| {
        let mut client = Client::connect(node.address(), &format!("?token={}", token(user, "user"))).await;
        client.subscribe("desk_1", json!({})).await;
        client
    };
    let mut witness = follow(&node, "alice").await;
    // The witness may hear of itself; what counts here are the others.
    let heard = async |witness: &mut Client| loop {
        let message = witness.next().await;
        if message["data"]["user_id"] != "alice" {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return (text(&message["event"]), text(&message["data"]["user_id"]));
        }
    };
    let pair = |event: &str, user: &str| (event.to_owned(), user.to_owned());
    let mut bob = follow(&doomed, "bob").await;
    assert_eq!(heard(&mut witness).await, pair("room_member_joined", "bob"));
    bob.ask(json!({"type": "unsubscribe", "room": "desk_1"})).await;
    assert_eq!(heard(&mut witness).await, pair("room_member_left", "bob"));
    let carol = follow(&node, "carol").await;
    assert_eq!(heard(&mut witness).await, pair("room_member_joined", "carol"));
    drop(carol);
    assert_eq!(heard(&mut witness).await, pair("room_member_left", "carol"));
    // A session whose node dies leaves when its lease has ended.
    let _dave = follow(&doomed, "dave").await;
    assert_eq!(heard(&mut witness).await, pair("room_member_joined", "dave"));
    doomed.kill();
    assert_eq!(heard(&mut witness).await, pair("room_member_left", "dave"));
}
