//! The HTTP API as far as one node goes.

use std::collections::HashSet;

use serde_json::json;
use tickmesh_cluster::config::Secret;
use tickmesh_tests::{Sandbox, eventually, free_address};

const SECRET: &str = "a secret of the tests, long enough";

#[tokio::test]
async fn a_batch_keeps_its_order_and_one_bad_message_holds_up_no_other() {
    let sandbox = Sandbox::open();
    let message = |room: &str| json!({"room": room, "event": "e", "data": room});
    let batch = json!({"messages": [message("a"), message("a"), message("not a room"), message("b"), message("system_x"), message("a")]});
    let answer = sandbox.post(0, "/api/v1/publish", &batch).await;
    assert_eq!(answer.status, 200);
    let results = answer.json()["results"].clone();
    let seqs: Vec<_> = (0..6).map(|n| results[n]["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(1), Some(2), None, Some(1), None, Some(3)]);
    assert_eq!(results[2]["error_code"], "INVALID_PARAMETERS");
    assert_eq!(results[4]["error_code"], "PERMISSION_DENIED");
    assert_eq!(
        sandbox.post(0, "/api/v1/publish", &json!({"messages": []})).await.json(),
        json!({"results": []})
    );
    let many: Vec<_> = (0..1_001).map(|_| message("a")).collect();
    assert_eq!(sandbox.post(0, "/api/v1/publish", &json!({ "messages": many })).await.status, 400);
}

#[tokio::test]
async fn rooms_and_their_history_can_be_read() {
    let sandbox = Sandbox::open();
    for n in 1..=10 {
        sandbox.publish("market_1", json!(n)).await;
    }
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    let rooms = sandbox.get("/api/v1/rooms").await.json();
    let room = sandbox.get("/api/v1/rooms/market_1").await.json();
    let expected = json!({"room": "market_1", "epoch": room["epoch"], "seq": 10, "subscribers": 1});
    assert_eq!((&rooms["rooms"], &room["nodes"]), (&json!([expected]), &json!({"n1": 1})));
    assert_eq!((&room["seq"], &room["subscribers"]), (&json!(10), &json!(1)));
    let seqs = async |query: &str| {
        let history = sandbox.get(&format!("/api/v1/rooms/market_1/history{query}")).await.json();
        assert_eq!((&history["seq"], &history["epoch"]), (&json!(10), &room["epoch"]));
        let messages = history["messages"].as_array().expect("a list").clone();
        messages.iter().map(|message| message["seq"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(seqs("").await, (1..=10).collect::<Vec<_>>());
    assert_eq!(seqs("?limit=3").await, [8, 9, 10]);
    assert_eq!(seqs("?since_seq=4&limit=2").await, [5, 6]);
    assert_eq!(seqs("?since_seq=10").await, [0u64; 0]);
    let wire = client.request("history", json!({"room": "market_1", "since_seq": 8})).await;
    assert_eq!(wire["data"]["messages"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn sessions_are_listed_and_ended_by_operators() {
    let sandbox = Sandbox::with(1, |config| config.auth.jwt_secret = Secret::new(SECRET));
    let mut client = sandbox.client().await;
    let _other = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    let sessions = sandbox.get("/api/v1/sessions").await.json();
    assert_eq!((&sessions["total"], sessions["sessions"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    assert_eq!(
        sandbox.get("/api/v1/sessions?limit=1").await.json()["sessions"].as_array().map(Vec::len),
        Some(1)
    );
    let path = format!("/api/v1/sessions/{}", client.hello["session_id"].as_str().expect("an id"));
    let session = sandbox.get(&path).await.json();
    assert_eq!(
        (&session["rooms"], &session["node_id"], &session["protocol"]),
        (&json!(["market_1"]), &json!("n1"), &json!("json"))
    );
    assert_eq!(sandbox.request("DELETE", &path, "", "").await.status, 403);
    let claims = json!({"sub": "root", "role": "operator", "exp": 4_000_000_000u64});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = tickmesh_edge::jwt::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signed");
    let header = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(sandbox.request("DELETE", &path, &header, "").await.status, 200);
    assert_eq!(client.closed().await, 4005);
    drop(client);
    eventually("the session is gone", || async { sandbox.get(&path).await.status == 404 }).await;
    assert_eq!(sandbox.get("/api/v1/rooms/market_1").await.status, 404, "nobody uses it any more");
}

#[tokio::test]
async fn health_and_metrics_are_what_monitoring_expects() {
    let sandbox = Sandbox::open();
    assert_eq!(sandbox.get("/healthz").await.status, 200);
    assert_eq!(sandbox.get("/readyz").await.status, 200);
    assert_eq!(sandbox.request("HEAD", "/readyz", "", "").await.status, 200);
    assert_eq!(sandbox.get("/api/socketio-status").await.json()["status"], "active");
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    for n in 1..=5 {
        sandbox.publish("market_1", json!(n)).await;
    }
    client.read_until("market_1", 5).await;
    let text = sandbox.get("/metrics").await.body;
    let mut described = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            described.extend(rest.split(' ').next());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            assert!(name.starts_with("tickmesh_") || name.starts_with("process_"), "{line}");
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let is_described =
                [Some(name), of_histogram].into_iter().flatten().any(|name| described.contains(name));
            assert!(is_described, "described before: {line}");
        }
    }
    let stats = sandbox.get("/api/v1/stats").await.json();
    for (name, value) in [("published_messages", 5), ("deliveries", 5), ("connections", 1)] {
        assert_eq!(stats[name], value, "{name}: {stats}");
    }
    assert!(text.contains("tickmesh_deliveries_total 5"), "{text}");
    let own = client.request("stats", json!({})).await;
    assert_eq!(own["data"]["notifications_out"], 5);
}

#[tokio::test]
async fn metrics_can_have_an_address_of_their_own() {
    let free = free_address();
    let sandbox = Sandbox::with(1, |config| config.server.metrics_listen = Some(free));
    assert_eq!(sandbox.get("/metrics").await.status, 404);
    let answer = Sandbox::http(free, "GET", "/metrics", "", "").await;
    assert!(answer.status == 200 && answer.body.contains("tickmesh_connections"), "{answer:?}");
}
