//! Promise 5: a slow client harms only itself.

use std::time::Duration;

use serde_json::json;
use tickmesh_protocol::frame::{Opcode, parse_close};
use tickmesh_tests::{Client, DEADLINE, RawClient, Sandbox, eventually};

/// Small bounds, so that a client is slow after kilobytes, and is judged after a second.
fn sandbox() -> Sandbox {
    Sandbox::with(1, |config| {
        config.limits.max_queue_bytes = 16_384;
        config.server.tcp_user_timeout_ms = 1_000;
    })
}

/// Publishes messages of about a kilobyte until the condition holds or the deadline passes.
async fn publish_until<F: Future<Output = bool>>(sandbox: &Sandbox, mut condition: impl FnMut() -> F) -> u64 {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let seq = sandbox.publish("market_1", json!("x".repeat(1_000))).await;
        if condition().await {
            return seq;
        }
        assert!(tokio::time::Instant::now() < end, "not within {DEADLINE:?}");
    }
}

const SUBSCRIBE: &str = r#"{"type":"subscribe","request_id":"s","room":"market_1"}"#;

#[tokio::test]
async fn a_client_that_stops_reading_is_gone_and_the_others_miss_nothing() {
    let sandbox = sandbox();
    let mut others = Vec::new();
    for _ in 0..20 {
        let mut client = sandbox.client().await;
        client.subscribe("market_1", json!({})).await;
        others.push(client);
    }
    let mut stuck = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    stuck.send_text(SUBSCRIBE).await;
    eventually("the stuck client follows", || async {
        sandbox.get("/api/v1/rooms/market_1").await.json()["subscribers"] == 21
    })
    .await;
    let reading: Vec<_> = others
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                while client.next().await["data"] != "last" {}
                client.room("market_1")
            })
        })
        .collect();
    publish_until(&sandbox, || async { sandbox.connections().await == 20 }).await;
    let last = sandbox.publish("market_1", json!("last")).await;
    for client in reading {
        let room = client.await.expect("undisturbed");
        assert_eq!((room.received.len() as u64, room.seq, room.resyncs), (last, last, 0));
    }
    let metrics = sandbox.get("/metrics").await.body;
    assert!(metrics.contains(r#"tickmesh_sessions_ended_total{cause="slow consumer"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_slow_reader_of_all_is_told_4003_and_can_recover() {
    let sandbox = sandbox();
    let mut slow = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    slow.send_text(SUBSCRIBE).await;
    // Far more than the queue, published before anything is read.
    let messages: Vec<_> = (0..500)
        .map(|n| json!({"room": "market_1", "event": "e", "data": format!("{n} {}", "x".repeat(8_000))}))
        .collect();
    let answer = sandbox.post(0, "/api/v1/publish", &json!({ "messages": messages })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(slow.closed().await, Some(4003));
    let mut again = sandbox.client().await;
    let begun = again.subscribe("market_1", json!({"history": 500})).await;
    assert_eq!(begun["messages"].as_array().map(Vec::len), Some(500), "nothing of it is lost to the log");
}

#[tokio::test]
async fn a_reader_of_one_byte_a_second_is_gone() {
    let sandbox = sandbox();
    let mut trickle = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    trickle.send_text(SUBSCRIBE).await;
    let trickling = tokio::spawn(async move {
        let mut read = 0u32;
        while trickle.trickle().await {
            read += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        read
    });
    publish_until(&sandbox, || async { sandbox.connections().await == 0 }).await;
    trickling.abort();
}

#[tokio::test]
async fn a_latest_subscriber_that_does_not_read_ends_on_the_last_value_with_an_exact_count() {
    let sandbox = Sandbox::with(1, |config| {
        config.limits.max_queue_bytes = 16_384;
        config.server.tcp_user_timeout_ms = 60_000;
    });
    // The receive buffer of this client is not bounded, but what one client's kernel takes is less than this.
    let mut slow = Client::connect(sandbox.address(0), "").await;
    slow.subscribe("market_1", json!({"delivery": "latest"})).await;
    let mut last = 0;
    for _ in 0..40 {
        let message = |_| json!({"room": "market_1", "event": "e", "data": "x".repeat(16_000)});
        let messages: Vec<_> = (0..20).map(message).collect();
        let answer = sandbox.post(0, "/api/v1/publish", &json!({ "messages": messages })).await.json();
        last = answer["results"][19]["seq"].as_u64().unwrap_or(0);
    }
    slow.read_until("market_1", last).await;
    let room = slow.room("market_1");
    assert_eq!(room.sum, last - room.start, "conflated can be told from lost");
    assert!((room.received.len() as u64) < last, "something was conflated");
}

#[tokio::test]
async fn a_reader_of_latest_may_stop_for_longer_than_one_of_all() {
    let sandbox = sandbox();
    let latest = r#"{"type":"subscribe","request_id":"s","room":"market_1","delivery":"latest"}"#;
    let mut patient = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    patient.send_text(latest).await;
    let mut stuck = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    stuck.send_text(SUBSCRIBE).await;
    eventually("both follow", || async {
        sandbox.get("/api/v1/rooms/market_1").await.json()["subscribers"] == 2
    })
    .await;
    // Neither reads. One goes; the other stays for several times as long.
    publish_until(&sandbox, || async { sandbox.connections().await == 1 }).await;
    let gone = tokio::time::Instant::now();
    let last = publish_until(&sandbox, || async {
        assert_eq!(sandbox.connections().await, 1, "it is let go as well");
        gone.elapsed() >= Duration::from_secs(3)
    })
    .await;
    drop(stuck);
    let (mut seq, mut sum, mut received) = (0, 0, 0u64);
    while seq < last {
        let (_, payload) = patient.frame().await.expect("still open");
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(&payload) else { continue };
        if message["room"] == "market_1" && message["event"] == "quote" {
            seq = message["seq"].as_u64().unwrap_or(0);
            sum += 1 + message["conflated"].as_u64().unwrap_or(0);
            received += 1;
        }
    }
    assert_eq!((seq, sum), (last, last), "the newest value, and a sum that comes out");
    assert!(received < last, "something was conflated");
}

/// Slow: three times as long as the longest of its time-outs.
#[tokio::test]
async fn a_reader_of_latest_with_a_small_window_may_take_as_long_as_it_likes() {
    let sandbox = Sandbox::with(1, |config| {
        config.server.tcp_user_timeout_ms = 1_000;
        config.server.latest_timeout_ms = 2_000;
    });
    let latest = r#"{"type":"subscribe","request_id":"s","room":"market_1","delivery":"latest"}"#;
    let mut slow = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    slow.send_text(latest).await;
    eventually("it follows", || async {
        sandbox.get("/api/v1/rooms/market_1").await.json()["subscribers"] == 1
    })
    .await;
    // It always has something to read, reads all the time, and its window is shut nearly all the time.
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        for _ in 0..5 {
            sandbox.publish("market_1", json!("x".repeat(1_000))).await;
        }
        for _ in 0..1_000 {
            assert!(slow.trickle().await, "let go after {:?}", begun.elapsed());
        }
    }
    assert_eq!(sandbox.connections().await, 1);
}

#[tokio::test]
async fn a_rate_limited_subscriber_gets_at_most_its_rate_and_the_last_value() {
    let sandbox = Sandbox::open();
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({"delivery": "latest", "max_rate": 10})).await;
    let begun = tokio::time::Instant::now();
    let mut last = 0;
    while begun.elapsed() < Duration::from_millis(600) {
        last = sandbox.publish("market_1", json!(last)).await;
    }
    client.read_until("market_1", last).await;
    let most = begun.elapsed().as_millis() / 100 + 1;
    let room = client.room("market_1");
    assert!(room.received.len() as u128 <= most, "{} in {:?}", room.received.len(), begun.elapsed());
    assert_eq!(room.sum, last);
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    let sandbox = Sandbox::with(1, |config| {
        // Long enough for the other one, which is read only when this thread has its turn.
        config.heartbeat.ping_interval_ms = 500;
        config.heartbeat.timeout_ms = 3_000;
    });
    let mut silent = RawClient::connect(sandbox.address(0), None).await;
    let mut alive = sandbox.client().await;
    let (told, mut over) = tokio::sync::oneshot::channel();
    let living = tokio::spawn(async move {
        // Its library answers pings whenever it is read.
        while over.try_recv().is_err() {
            assert_eq!(alive.request("time", json!({})).await["success"], true);
        }
    });
    assert_eq!(silent.closed().await, Some(4004));
    told.send(()).expect("the other one lives on");
    living.await.expect("the other one lives on");
}

/// Slow: 600 subscriptions with a timer each.
#[tokio::test]
async fn many_rate_limits_at_once_end_no_connection() {
    let sandbox = Sandbox::open();
    let mut readers = Vec::new();
    for _ in 0..30 {
        let mut client = sandbox.client().await;
        for room in 0..20 {
            client.subscribe(&format!("market_{room}"), json!({"delivery": "latest", "max_rate": 150})).await;
        }
        readers.push(tokio::spawn(async move {
            for room in 0..20 {
                client.read_until(&format!("market_{room}"), 200).await;
                assert_eq!(client.room(&format!("market_{room}")).sum, 200);
            }
        }));
    }
    for n in 0..200 {
        let message = |room| json!({"room": format!("market_{room}"), "event": "e", "data": n});
        let messages: Vec<_> = (0..20).map(message).collect();
        let answer = sandbox.post(0, "/api/v1/publish", &json!({ "messages": messages })).await;
        assert_eq!(answer.status, 200);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for reader in readers {
        reader.await.expect("stays connected and gets the last values");
    }
}

#[tokio::test]
async fn a_reader_that_is_never_far_behind_in_bytes_is_closed_when_it_is_in_time() {
    let sandbox = Sandbox::with(1, |config| {
        config.limits.max_queue_bytes = 64 << 20;
        config.limits.max_queue_age_ms = 1_000;
        config.limits.max_http_body_bytes = 16 << 20;
    });
    let mut slow = RawClient::connect(sandbox.address(0), Some(4_096)).await;
    slow.send_text(SUBSCRIBE).await;
    eventually("it follows", || async {
        sandbox.get("/api/v1/rooms/market_1").await.json()["subscribers"] == 1
    })
    .await;
    let message = |_| json!({"room": "market_1", "event": "e", "data": "x".repeat(8_000)});
    let messages: Vec<_> = (0..1_000).map(message).collect();
    let answer = sandbox.post(0, "/api/v1/publish", &json!({ "messages": messages })).await;
    assert_eq!(answer.status, 200);
    // It reads all the time, but would need half a minute.
    let mut got = 0;
    let code = loop {
        match slow.frame().await {
            Some((Opcode::Close, payload)) => break parse_close(&payload).expect("a close frame"),
            Some((Opcode::Text, _)) => got += 1,
            Some(_) => {}
            None => break None,
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    };
    assert_eq!(code, Some(4003));
    assert!(got < 500, "{got}");
}

#[tokio::test]
async fn a_bandwidth_is_kept_and_no_room_takes_all_of_it() {
    const RATE: f64 = 50_000.0;
    let sandbox = Sandbox::open();
    let mut client = Client::connect(sandbox.address(0), "?max_bandwidth=50000").await;
    for room in ["market_loud", "market_quiet"] {
        client.subscribe(room, json!({})).await;
    }
    let message = |room: &str| json!({"room": room, "event": "e", "data": "x".repeat(1_000)});
    let mut messages: Vec<_> = (0..100).map(|_| message("market_loud")).collect();
    messages.push(message("market_quiet"));
    let began = tokio::time::Instant::now();
    let answer = sandbox.post(0, "/api/v1/publish", &json!({ "messages": messages })).await;
    assert_eq!(answer.status, 200);
    client.read_until("market_quiet", 1).await;
    let before = client.room("market_loud").seq;
    assert!(before < 50, "the quiet room does not wait for the loud one: {before}");
    client.read_until("market_loud", 100).await;
    let took = began.elapsed().as_secs_f64();
    // All but what the bucket held at first.
    assert!(took >= (100_000.0 - 10_000.0) / RATE, "{took} s");

    for bad in ["0", "1023", "fast", "-5", "2000000000"] {
        let refused = Client::try_connect(sandbox.address(0), &format!("?max_bandwidth={bad}"), &[]).await;
        assert_eq!(refused.err(), Some(400), "{bad}");
    }
}

#[tokio::test]
async fn a_connection_is_measured_and_its_score_is_told() {
    let sandbox = Sandbox::with(1, |config| {
        config.heartbeat.ping_interval_ms = 200;
    });
    let mut client = sandbox.client().await;
    let end = tokio::time::Instant::now() + DEADLINE;
    let stats = loop {
        let stats = client.request("stats", json!({})).await["data"].clone();
        if stats["smoothed_round_trip_ms"].is_u64() {
            break stats;
        }
        assert!(tokio::time::Instant::now() < end, "no ping: {stats}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(stats["quality"].as_u64().is_some_and(|score| (50..=100).contains(&score)), "{stats}");
    let metrics = sandbox.get("/metrics").await.body;
    let line = metrics.lines().find(|line| line.starts_with("tickmesh_session_quality_count"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
    let sessions = sandbox.get("/api/v1/sessions").await.body;
    assert!(sessions.contains("\"quality\":"), "{sessions}");
}
