//! Promise 6: overload is refused early, never answered with a crash or a stall.

use serde_json::json;
use tickmesh_tests::{Client, RawClient, Sandbox, eventually};

#[tokio::test]
async fn a_full_node_refuses_with_503_and_takes_clients_again() {
    let sandbox = Sandbox::with(1, |config| config.limits.max_connections = 2);
    let first = sandbox.client().await;
    let mut second = sandbox.client().await;
    assert_eq!(Client::try_connect(sandbox.address(0), "", &[]).await.err(), Some(503));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let refused = sandbox.request("GET", "/ws", upgrade, "").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.head.to_lowercase().contains("retry-after:"), "{refused:?}");
    drop(first);
    eventually("a place is free", || async {
        Client::try_connect(sandbox.address(0), "", &[]).await.is_ok()
    })
    .await;
    assert_eq!(second.request("time", json!({})).await["success"], true);
}

#[tokio::test]
async fn a_message_that_is_too_big_closes_with_1009() {
    let sandbox = Sandbox::with(1, |config| config.limits.max_message_bytes = 2_000);
    let mut client = sandbox.client().await;
    assert_eq!(client.hello["max_message_bytes"], 2_000);
    assert_eq!(client.request("echo", json!("x".repeat(1_500))).await["success"], true);
    client.send_text(&"x".repeat(2_001)).await;
    assert_eq!(client.closed().await, 1009);
}

#[tokio::test]
async fn more_requests_than_may_wait_are_all_answered() {
    let sandbox = Sandbox::with(1, |config| config.limits.max_in_flight = 2);
    let mut client = sandbox.client().await;
    for n in 0..300 {
        let payload = json!({"room": "market_1", "event": "e", "data": n});
        client
            .send(&json!({"type": "request", "request_id": format!("p{n}"), "action": "publish", "payload": payload}))
            .await;
    }
    for n in 0..300 {
        assert_eq!(client.answer(&format!("p{n}")).await["data"]["seq"], n + 1);
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_not_read() {
    let sandbox = Sandbox::open();
    let mut greedy = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    let echo = format!(
        r#"{{"type":"request","request_id":"e","action":"echo","payload":"{}"}}"#,
        "x".repeat(10_000)
    );
    let mut frames = Default::default();
    for _ in 0..100 {
        let opcode = tickmesh_protocol::frame::Opcode::Text;
        tickmesh_protocol::frame::put_masked(&mut frames, opcode, echo.as_bytes(), [1, 2, 3, 4]);
    }
    // 100 MB of requests whose answers nobody reads: it must come to a stand long before.
    let mut sent = 0;
    for _ in 0..100 {
        let whole = tokio::time::timeout(std::time::Duration::from_millis(500), greedy.send(&frames)).await;
        if whole.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 50, "{sent} MB were taken");
    let mut other = sandbox.client().await;
    assert_eq!(other.request("time", json!({})).await["success"], true);
    let sessions = sandbox.get("/api/v1/sessions").await.json();
    for session in sessions["sessions"].as_array().expect("a list") {
        assert!(session["queued_bytes"].as_u64().expect("a number") < 1_000_000, "{session}");
    }
}

/// Slow: a hundred thousand requests and answers.
#[tokio::test]
async fn a_hundred_thousand_subscribes_disturb_nobody() {
    let sandbox = Sandbox::with(1, |config| config.limits.max_subscriptions = 100);
    let mut other = sandbox.client().await;
    other.subscribe("market_1", json!({})).await;
    let address = sandbox.address(0);
    let flood = tokio::spawn(async move {
        let mut client = Client::connect(address, "").await;
        let (mut good, mut refused) = (0, 0);
        for block in 0..100 {
            for n in 0..1_000 {
                let room = format!("r{}", block * 1_000 + n);
                client.send(&json!({"type": "subscribe", "request_id": "s", "room": room})).await;
            }
            for _ in 0..1_000 {
                let answer = client.next().await;
                match answer["error_code"].as_str() {
                    None => good += 1,
                    Some(code) => {
                        assert_eq!(code, "SUBSCRIPTION_FAILED", "{answer}");
                        assert_eq!(answer["error_details"]["max_subscriptions"], 100);
                        refused += 1;
                    }
                }
            }
        }
        (good, refused)
    });
    let mut last = 0;
    while !flood.is_finished() {
        last = sandbox.publish("market_1", json!("tick")).await;
        other.read_until("market_1", last).await;
    }
    assert!(last > 0);
    assert_eq!(flood.await.expect("every subscribe is answered"), (100, 99_900));
}
