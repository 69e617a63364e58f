//! Messages that come together leave together, when a window is configured; what is urgent does not wait, and nothing
//! overtakes its room.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tickmesh_cluster::config::{ApiKey, FlushWindow, Secret};
use tickmesh_protocol::identity::Role;
use tickmesh_tests::{Client, DEADLINE, Sandbox, eventually};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Longer than any wait here: what arrives has not waited for its end.
const ENDLESS: Duration = Duration::from_secs(2 * DEADLINE.as_secs());

fn sandbox(window: Duration, change: impl FnOnce(&mut tickmesh_cluster::config::Config)) -> Sandbox {
    Sandbox::with(1, |config| {
        config.batch.window = FlushWindow::Fixed(window);
        change(config);
    })
}

async fn publish(sandbox: &Sandbox, room: &str, event: &str, data: Value) {
    let body = json!({"room": room, "event": event, "data": data});
    let answer = sandbox.post(0, "/api/v1/publish", &body).await;
    assert!(answer.json()["results"][0]["seq"].is_u64(), "{answer:?}");
}

/// One figure of the node's metrics.
async fn figure(sandbox: &Sandbox, name: &str) -> f64 {
    let text = sandbox.get("/metrics").await.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {text}"))
}

#[tokio::test]
async fn what_comes_within_a_window_leaves_in_one_write_and_one_frame() {
    // What is urgent ends the window here, however long the others took to come.
    let sandbox = sandbox(ENDLESS, |_| {});
    let url = format!("ws://{}/ws?batch=1", sandbox.address(0));
    let (mut socket, _) = connect_async(&url).await.expect("let in");
    let subscribe = json!({"type": "subscribe", "request_id": "s", "room": "market_1"});
    socket.send(Message::text(subscribe.to_string())).await.expect("sent");
    let mut frame = async || loop {
        let message =
            timeout(DEADLINE, socket.next()).await.expect("in time").expect("open").expect("a frame");
        if let Message::Text(text) = message {
            return serde_json::from_str::<Value>(&text).expect("JSON");
        }
    };
    assert_eq!(frame().await["event"], "connected");
    assert_eq!(frame().await["success"], true);
    let before = figure(&sandbox, "tickmesh_write_messages_count").await;
    for n in 1..=4 {
        publish(&sandbox, "market_1", "quote", json!(n)).await;
    }
    publish(&sandbox, "market_1", "alert", json!(5)).await;
    let array = frame().await;
    let seqs: Vec<_> = array.as_array().expect("an array").iter().map(|one| one["seq"].clone()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    eventually("one write", || async {
        figure(&sandbox, "tickmesh_write_messages_count").await == before + 1.0
    })
    .await;
    eventually("the window is told", || async {
        figure(&sandbox, "tickmesh_flush_window_seconds").await == ENDLESS.as_secs_f64()
    })
    .await;
}

#[tokio::test]
async fn a_message_waits_for_the_end_of_the_window_and_no_longer() {
    let window = Duration::from_millis(500);
    let sandbox = sandbox(window, |_| {});
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    let began = Instant::now();
    publish(&sandbox, "market_1", "quote", json!(1)).await;
    client.read_until("market_1", 1).await;
    assert!(began.elapsed() >= window, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_urgent_does_not_wait_and_does_not_overtake_its_room() {
    let sandbox = sandbox(ENDLESS, |_| {});
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    publish(&sandbox, "market_1", "quote", json!(1)).await;
    publish(&sandbox, "market_1", "alert", json!(2)).await;
    // The client checks that 1 comes before 2.
    client.read_until("market_1", 2).await;
}

#[tokio::test]
async fn many_messages_or_bytes_do_not_wait() {
    let sandbox = sandbox(ENDLESS, |config| {
        config.batch.max_messages = 5;
        config.batch.max_bytes = 8_192;
    });
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    client.subscribe("market_2", json!({})).await;
    for n in 1..=5 {
        publish(&sandbox, "market_1", "quote", json!(n)).await;
    }
    client.read_until("market_1", 5).await;
    publish(&sandbox, "market_2", "quote", json!("x".repeat(10_000))).await;
    client.read_until("market_2", 1).await;
}

#[tokio::test]
async fn who_is_disconnected_or_sent_away_has_what_was_pending() {
    const KEY: &str = "an operator's key";
    let mut sandbox = sandbox(ENDLESS, |config| {
        let (name, key, role) = ("ops".to_owned(), Secret::new(KEY), Role::Operator);
        config.auth.api_keys = vec![ApiKey { name, key, role }];
    });
    let mut first = sandbox.client().await;
    let mut second = sandbox.client().await;
    for client in [&mut first, &mut second] {
        client.subscribe("market_1", json!({})).await;
    }
    // What is urgent arrives: then what was published before it is pending.
    let mut witness = sandbox.client().await;
    witness.subscribe("market_2", json!({})).await;
    publish(&sandbox, "market_1", "quote", json!(1)).await;
    publish(&sandbox, "market_2", "alert", json!(1)).await;
    witness.read_until("market_2", 1).await;
    let id = first.hello["session_id"].as_str().expect("an id").to_owned();
    let operator = format!("Authorization: Bearer {KEY}\r\n");
    let answer = sandbox.request("DELETE", &format!("/api/v1/sessions/{id}"), &operator, "").await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    first.read_until("market_1", 1).await;
    assert_eq!(first.closed().await, 4005);
    publish(&sandbox, "market_1", "quote", json!(2)).await;
    publish(&sandbox, "market_2", "alert", json!(2)).await;
    witness.read_until("market_2", 2).await;
    sandbox.begin_stop();
    second.read_until("market_1", 2).await;
    assert_eq!(second.closed().await, 1001);
}

/// Joins, leaves and messages in the midst of windows: a client that follows sees every number once.
#[tokio::test]
async fn windows_and_subscriptions_do_not_meet_badly() {
    let sandbox = Sandbox::with(1, |config| {
        config.batch.window = FlushWindow::Fixed(Duration::from_millis(20));
    });
    let mut client: Client = sandbox.client().await;
    for round in 0..40u64 {
        publish(&sandbox, "market_1", "quote", json!(round)).await;
        // Promise 1 is checked by the client for all that it reads.
        client.subscribe("market_1", json!({"history": 3})).await;
        publish(&sandbox, "market_1", "quote", json!(round)).await;
        client.read_until("market_1", 2 * round + 2).await;
        let left = client.ask(json!({"type": "unsubscribe", "room": "market_1"})).await;
        assert_eq!(left["success"], true, "{left}");
    }
}
