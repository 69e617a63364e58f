//! A node that stops takes no more clients, tells those it has, and leaves within its deadline.

use serde_json::json;
use tickmesh_tests::{Client, RawClient, Sandbox, eventually};

#[tokio::test]
async fn clients_get_what_is_queued_and_then_1001() {
    let mut sandbox = Sandbox::open();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = sandbox.client().await;
        client.subscribe("market_1", json!({})).await;
        clients.push(client);
    }
    let messages: Vec<_> = (0..200).map(|n| json!({"room": "market_1", "event": "e", "data": n})).collect();
    let answer = sandbox.post(0, "/api/v1/publish", &json!({ "messages": messages })).await;
    assert_eq!(answer.json()["results"][199]["seq"], 200);
    sandbox.begin_stop();
    for client in &mut clients {
        assert_eq!(client.closed().await, 1001);
        assert_eq!(client.room("market_1").seq, 200, "everything that was acknowledged before arrived");
    }
    drop(clients);
    sandbox.stopped().await;
}

#[tokio::test]
async fn a_draining_node_says_so_and_waits_only_so_long() {
    let mut sandbox = Sandbox::with(1, |config| config.server.shutdown_timeout_ms = 1_500);
    // Neither reads nor closes: the node has to leave without it.
    let _stuck = RawClient::connect(sandbox.address(0), None).await;
    sandbox.begin_stop();
    eventually("it is not ready any more", || async { sandbox.get("/readyz").await.status == 503 }).await;
    assert_eq!(sandbox.get("/healthz").await.status, 200, "draining is alive");
    assert_eq!(Client::try_connect(sandbox.address(0), "", &[]).await.err(), Some(503));
    sandbox.stopped().await;
}
