//! Redis may hold anything under our names: it is reported, and everything else goes on.

use serde_json::json;
use tickmesh_tests::{Client, NodeProcess, RedisServer, Sandbox, eventually};

async fn metric(node: &NodeProcess, name: &str) -> f64 {
    let text = Sandbox::http(node.address(), "GET", "/metrics", "", "").await.body;
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(-1.0)
}

fn message(room: &str, data: u64) -> serde_json::Value {
    json!({"room": room, "event": "e", "data": data})
}

#[tokio::test]
async fn wrong_types_under_our_keys() {
    let server = RedisServer::start();
    let node = NodeProcess::start("n1", &server.url(), &[]);
    let mut client = Client::connect(node.address(), "").await;
    server.command(&["SET", "tm:{market_a}:log", "not a stream"]);
    server.command(&["SET", "tm:{market_b}:meta", "not a hash"]);
    server.command(&["LPUSH", "tm:node:x", "not a lease"]);
    server.command(&["HSET", "tm:leases", "tm:node:x", "", "nothing", ""]);
    server.command(&["HSET", "tm:{market_c}:meta", "epoch", "e", "seq", "many"]);
    for room in ["market_a", "market_b"] {
        let answer = client.request("publish", message(room, 1)).await;
        assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
        let answer = client.try_subscribe(room, json!({"history": 5})).await;
        assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
    }
    // A position that is none is a log that was lost.
    assert_eq!(client.request("publish", message("market_c", 1)).await["data"]["seq"], 1);
    client.subscribe("market_1", json!({})).await;
    assert_eq!(client.request("publish", message("market_1", 1)).await["data"]["seq"], 1);
    client.read_until("market_1", 1).await;
    assert!(metric(&node, "tickmesh_redis_garbage").await >= 4.0);
    // Once an operator has removed it, the room works.
    server.command(&["DEL", "tm:{market_a}:log", "tm:{market_b}:meta"]);
    for room in ["market_a", "market_b"] {
        client.subscribe(room, json!({})).await;
        assert_eq!(client.request("publish", message(room, 1)).await["data"]["seq"], 1);
    }
    assert_eq!(Sandbox::http(node.address(), "GET", "/readyz", "", "").await.status, 200);
}

#[tokio::test]
async fn a_log_that_was_tampered_with() {
    let server = RedisServer::start();
    let node = NodeProcess::start("n1", &server.url(), &[]);
    let mut client = Client::connect(node.address(), "").await;
    for n in 1..=10 {
        client.request("publish", message("market_1", n)).await;
    }
    let epoch =
        client.request("history", json!({"room": "market_1", "limit": 1})).await["data"]["epoch"].clone();
    let log = "tm:{market_1}:log";
    server.command(&["XDEL", log, "4-0"]);
    let recover = async |seq: u64| {
        let mut client = Client::connect(node.address(), "").await;
        let options = json!({"recover": {"epoch": epoch, "seq": seq}});
        let begun = client.subscribe("market_1", options).await;
        (begun["recovered"].clone(), begun["messages"].as_array().unwrap().len())
    };
    assert_eq!(recover(2).await, (json!(false), 6), "a hole in the middle is told");
    assert_eq!(recover(4).await, (json!(true), 6));
    server.command(&["XDEL", log, "10-0"]);
    assert_eq!(recover(4).await, (json!(false), 0), "nothing that is left reaches the position");
    server.command(&["XADD", log, "11-0", "what", "ever"]);
    let answer = client.request("publish", message("market_1", 11)).await;
    assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
    server.command(&["DEL", log]);
    assert_eq!(client.request("publish", message("market_1", 11)).await["data"]["seq"], 11);
    assert_eq!(recover(10).await, (json!(true), 1));
}

#[tokio::test]
async fn foreign_messages_on_our_channels() {
    let server = RedisServer::start();
    let node = NodeProcess::start("n1", &server.url(), &[]);
    let mut client = Client::connect(node.address(), "").await;
    client.subscribe("market_1", json!({})).await;
    for channel in ["tm:{market_1}", "tm:subs", "tm:members", "tm:everybody", "tm:member:n1"] {
        for text in ["", "hello", "{}", "e 1\n9:{}", "\u{0}", r#"{"from":"x","body":{"counts":{"node":3}}}"#]
        {
            server.command(&["PUBLISH", channel, text]);
        }
    }
    // Well-formed lies: a message that the log does not have, of another epoch and of this one.
    let lie = r#"31:{"ts":1,"event":"e","data":"x"}"#;
    server.command(&["PUBLISH", "tm:{market_1}", &format!("other 7\n{lie}")]);
    assert_eq!(client.request("publish", message("market_1", 1)).await["data"]["seq"], 1);
    client.read_until("market_1", 1).await;
    assert_eq!(client.room("market_1").received.len(), 1);
    eventually("all of it is counted", || async {
        metric(&node, "tickmesh_redis_garbage").await >= 6.0
            && metric(&node, "tickmesh_bad_letters").await >= 20.0
    })
    .await;
    assert_eq!(Sandbox::http(node.address(), "GET", "/readyz", "", "").await.status, 200);
}
