//! What is in force can be seen, and changed while it runs: by an operator, and by reading the configuration again.

use std::io::Write;

use serde_json::{Value, json};
use tickmesh_tests::{DEADLINE, NodeProcess, RedisServer, Sandbox, eventually};
use tokio::time::Instant;

async fn put(sandbox: &Sandbox, wanted: Value) -> (u16, Value) {
    let answer = sandbox.request("PUT", "/api/v1/tuning", "", &wanted.to_string()).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_change_holds_at_once_for_those_who_are_connected() {
    let sandbox = Sandbox::open();
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    let (status, shown) = put(
        &sandbox,
        json!({ "limits.max_subscriptions": 1, "rate.publishes_per_s": 1, "rate.burst_s": 1,
            "rate.http_publishes_per_s": 1, "limits.max_publish_batch": 2 }),
    )
    .await;
    assert_eq!(status, 200, "{shown}");
    let entry = json!({ "value": 1, "origin": "api", "live": true });
    assert_eq!(shown["limits.max_subscriptions"], entry);
    assert_eq!(sandbox.get("/api/v1/stats").await.json()["tuning"]["limits.max_subscriptions"], entry);
    assert_eq!(sandbox.get("/api/v1/tuning").await.json()["limits.max_subscriptions"], entry);
    let refused = client.try_subscribe("market_2", json!({})).await;
    assert_eq!(refused["error_details"]["max_subscriptions"], 1, "{refused}");
    let message = json!({ "room": "market_3", "event": "e", "data": 1 });
    assert_eq!(client.request("publish", message.clone()).await["success"], true);
    // One a second: on a busy machine a second may go by between two.
    let end = Instant::now() + DEADLINE;
    while client.request("publish", message.clone()).await["error_code"] != "RATE_LIMIT_EXCEEDED" {
        assert!(Instant::now() < end, "it is refused");
    }
    let three = json!({ "messages": [message, message, message] });
    assert_eq!(sandbox.post(0, "/api/v1/publish", &three).await.status, 400);
    assert_eq!(sandbox.post(0, "/api/v1/publish", &message).await.status, 200);
    eventually("it is refused", || async {
        sandbox.post(0, "/api/v1/publish", &message).await.status == 429
    })
    .await;

    put(&sandbox, json!({ "limits.max_connections": 1 })).await;
    assert_eq!(tickmesh_tests::Client::try_connect(sandbox.address(0), "", &[]).await.err(), Some(503));
    put(&sandbox, json!({ "limits.max_connections": 2, "rate.publishes_per_s": 0 })).await;
    let mut second = sandbox.client().await;
    for _ in 0..10 {
        assert_eq!(second.request("publish", message.clone()).await["success"], true);
    }
}

#[tokio::test]
async fn what_cannot_be_changed_is_told_and_nothing_is_changed_then() {
    let sandbox = Sandbox::open();
    let before = sandbox.get("/api/v1/tuning").await.json();
    for (wanted, code, key, restart) in [
        (
            json!({ "limits.stale_s": 5, "limits.max_message_bytes": 2_048 }),
            "INVALID_ACTION",
            "limits.max_message_bytes",
            true,
        ),
        (json!({ "limits.stale_s": 5, "pool.min": 1 }), "INVALID_ACTION", "pool.min", true),
        (json!({ "limits.stale_s": 5, "limits.what": 1 }), "INVALID_PARAMETERS", "limits.what", false),
        (json!({ "limits.stale_s": -1 }), "INVALID_PARAMETERS", "limits.stale_s", false),
        (
            json!({ "limits.stale_s": 5, "heartbeat.timeout_ms": 300 }),
            "INVALID_PARAMETERS",
            "heartbeat.timeout_ms",
            false,
        ),
    ] {
        let (status, error) = put(&sandbox, wanted).await;
        assert_eq!((status, &error["error_code"]), (400, &code.into()), "{error}");
        assert_eq!(error["error_details"], json!({ "key": key, "needs_restart": restart }));
    }
    assert_eq!(put(&sandbox, json!([1])).await.0, 400);
    assert_eq!(sandbox.get("/api/v1/tuning").await.json(), before);
    let closed = Sandbox::with(1, |config| {
        config.auth.anonymous = tickmesh_cluster::config::Anonymous::Subscribe;
    });
    assert_eq!(put(&closed, json!({ "limits.stale_s": 5 })).await.0, 403, "operators only");
}

#[tokio::test]
async fn a_profile_and_the_keys_that_win_over_it_are_read_again_on_sighup() {
    let redis = RedisServer::start();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write = |text: &str| {
        let mut file = file.reopen().expect("it is there");
        file.set_len(0).expect("emptied");
        file.write_all(text.as_bytes()).expect("written");
    };
    let path = file.path().to_str().expect("a path").to_owned();
    write("[tuning]\nprofile = \"small\"\n[limits]\nstale_s = 77\n");
    let node = NodeProcess::run(&["node", "--config", &path], "n", &redis.url(), &[]);
    let gateway = NodeProcess::run(&["gateway", "--config", &path], "g", &redis.url(), &[]);
    let shown = async |of: &NodeProcess, key: &str| {
        let answer = Sandbox::http(of.address(), "GET", "/api/v1/tuning", "", "").await;
        let entry = answer.json()[key].clone();
        (entry["value"].clone(), entry["origin"].as_str().unwrap_or_default().to_owned())
    };
    gateway.places_sessions_on(1).await;
    for process in [&node, &gateway] {
        let profile = (json!(100), "profile small".to_owned());
        assert_eq!(shown(process, "limits.max_connections").await, profile);
        assert_eq!(shown(process, "limits.stale_s").await, (json!(77), format!("file {path}")));
        assert_eq!(shown(process, "limits.max_queue_bytes").await.1, "default");
        let wanted = json!({ "limits.max_connections": 7 }).to_string();
        let answer = Sandbox::http(process.address(), "PUT", "/api/v1/tuning", "", &wanted).await;
        assert_eq!(answer.json()["limits.max_connections"]["value"], 7, "{answer:?}");
    }
    write("[tuning]\nprofile = \"large\"\n[limits]\nmax_queue_bytes = 99999\n");
    for process in [&node, &gateway] {
        process.signal("-HUP");
        eventually("the configuration is read again", || async {
            shown(process, "limits.max_connections").await == (json!(5_000), "profile large".to_owned())
        })
        .await;
        assert_eq!(shown(process, "limits.stale_s").await, (json!(600), "profile large".to_owned()));
        assert_eq!(shown(process, "limits.max_queue_bytes").await, (json!(99_999), format!("file {path}")));
        assert_eq!(shown(process, "pool.min").await.0, 5, "it needs a restart");
    }
}
