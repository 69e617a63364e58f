//! The log: its form and its level, which changes while a process runs; and what is never in it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tickmesh_tests::taos_stub::TaosStub;
use tickmesh_tests::{
    Answer, Client, Collector, Manner, NodeProcess, PostgresServer, RawClient, RedisServer, SECRET, Sandbox,
    eventually, token,
};

/// In every payload, whatever becomes of it.
const PAYLOAD: &str = "p4yl0ad";
/// In every credential that is none, and in API keys.
const CREDENTIAL: &str = "cr3dential";

async fn ask(address: SocketAddr, method: &str, path: &str, token: &str, body: &str) -> Answer {
    let header = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    Sandbox::http(address, method, path, &header, body).await
}

/// Has a session begin and end, of which the log tells at `debug`.
async fn come_and_go(address: SocketAddr) {
    let token = token("carol", "user");
    drop(Client::connect(address, &format!("?token={token}")).await);
}

fn lines(process: &NodeProcess) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    process.log().lines().map(parse).collect()
}

fn tells_of_sessions(process: &NodeProcess) -> bool {
    lines(process).iter().any(|line| line["level"] == "DEBUG" && line["fields"]["message"] == "ended")
}

#[tokio::test]
async fn an_operator_changes_the_level_of_a_node_and_of_a_gateway() {
    let redis = RedisServer::start();
    let key = format!("{CREDENTIAL}-of-an-operator");
    let keys = format!(r#"[{{ name = "ops", key = "{key}", role = "operator" }}]"#);
    let environment = [
        ("TICKMESH_AUTH__ANONYMOUS", "none"),
        ("TICKMESH_AUTH__API_KEYS", &*keys),
        ("TICKMESH_LOG__FORMAT", "json"),
        ("TICKMESH_LOG__LEVEL", "info"),
    ];
    let node = NodeProcess::logged(&["node"], "a", &redis.url(), &environment);
    let gateway = NodeProcess::logged(&["gateway"], "g", &redis.url(), &environment);
    gateway.places_sessions_on(1).await;
    let (user, operator) = (token("bob", "user"), token("root", "operator"));
    for process in [&node, &gateway] {
        let at = process.address();
        let put = async |token: &str, body: &str| ask(at, "PUT", "/api/v1/log", token, body).await;
        let debug = r#"{"level":"debug"}"#;
        assert_eq!(put("", debug).await.status, 401);
        assert_eq!(put("not.a.token", debug).await.status, 401);
        assert_eq!(put(&user, debug).await.status, 403);
        assert_eq!(ask(at, "GET", "/api/v1/log", &user, "").await.status, 403);
        for bad in ["", "{}", r#"{"level":7}"#, r#"{"level":""}"#, r#"{"level":"loud=very"}"#] {
            let answer = put(&operator, bad).await;
            assert_eq!(
                (answer.status, &answer.json()["error_code"]),
                (400, &json!("INVALID_PARAMETERS")),
                "{bad}"
            );
        }
        let now = ask(at, "GET", "/api/v1/log", &operator, "").await;
        assert_eq!(now.json(), json!({"level": "info"}), "nothing has changed");
        assert_eq!(put(&key, r#"{"level":"warn,tickmesh_node=debug"}"#).await.status, 200);
        let now = ask(at, "GET", "/api/v1/log", &operator, "").await;
        assert!(
            now.json()["level"].as_str().is_some_and(|level| level.contains("tickmesh_node=debug")),
            "{now:?}"
        );
    }
    eventually("sessions are told of", || async {
        come_and_go(gateway.address()).await;
        tells_of_sessions(&node)
    })
    .await;
    let answer = ask(node.address(), "PUT", "/api/v1/log", &operator, r#"{"level":"error"}"#).await;
    assert_eq!(answer.json(), json!({"level": "error"}));
    let before = node.log();
    come_and_go(node.address()).await;
    assert_eq!(ask(node.address(), "GET", "/api/v1/log", &operator, "").await.status, 200);
    assert_eq!(node.log(), before, "and not any more");
}

#[tokio::test]
async fn the_level_is_read_again_on_sighup() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    let write = |level: &str| {
        std::fs::write(file.path(), format!("[log]\nformat = \"json\"\nlevel = \"{level}\"\n"))
            .expect("written");
    };
    write("info");
    let path = file.path().to_str().expect("a name");
    let node = NodeProcess::logged(&["node", "--config", path], "a", "memory", &[]);
    let says = async |what: &str| {
        eventually("it is told", || async {
            lines(&node).iter().any(|line| line["fields"]["message"].to_string().contains(what))
        })
        .await;
    };
    assert!(!tells_of_sessions(&node));
    write("debug");
    node.signal("-HUP");
    says("the level of the log was changed").await;
    eventually("sessions are told of", || async {
        come_and_go(node.address()).await;
        tells_of_sessions(&node)
    })
    .await;
    // What cannot be used changes nothing.
    write("loud=very");
    node.signal("-HUP");
    says("the configuration was not read again").await;
    assert_eq!(ask(node.address(), "GET", "/healthz", "", "").await.status, 200);
}

/// Whatever clients do that has to do with credentials and payloads, rightly or not.
async fn everything(node: SocketAddr, at: SocketAddr, api_key: &str) -> Vec<String> {
    let (user, publisher, operator) =
        (token("alice", "user"), token("feed", "publisher"), token("root", "operator"));
    let forged = format!("{}{CREDENTIAL}", &user[..user.len() - 10]);
    let mut secrets =
        vec![user.clone(), publisher.clone(), operator.clone(), forged.clone(), api_key.to_owned()];

    // Credentials: in the address, in a header, in a message; good ones and others.
    for bad in [CREDENTIAL, &forged, &format!("tmk_{CREDENTIAL}")] {
        let _ = Client::try_connect(at, &format!("?token={bad}"), &[]).await;
        let _ = Client::try_connect(at, "", &[("authorization", &format!("Bearer {bad}"))]).await;
        assert_eq!(ask(at, "GET", "/api/v1/cluster", bad, "").await.status, 401);
    }
    let mut client = Client::connect(at, &format!("?token={publisher}")).await;
    client.request("auth", json!({"token": user})).await;
    client.request("auth", json!({"token": forged})).await;
    let made = ask(at, "POST", "/api/v1/keys", &operator, r#"{"user_id":"made","role":"publisher"}"#).await;
    assert_eq!(made.status, 201, "{made:?}");
    let key = made.json()["key"].as_str().expect("a key").to_owned();
    eventually("the key is known", || async {
        ask(at, "GET", "/api/v1/cluster", &key, "").await.status == 200
    })
    .await;
    secrets.push(key);
    let body = json!({"token": token("gone", "user")}).to_string();
    let _ = ask(at, "POST", "/api/v1/tokens/revoke", &operator, &body).await;

    // Payloads, over WebSocket and HTTP: into rooms that are recorded and others, to the stores, and what is refused.
    let mut messages = Client::connect(at, &format!("?token={publisher}")).await;
    let data = json!({"price": 1.5, "volume": 2, "note": PAYLOAD});
    for room in ["market_SECRETIVE", "stream_1"] {
        messages.subscribe(room, json!({"history": 5})).await;
        let payload =
            json!({"room": room, "event": "tick", "data": data, "key": PAYLOAD, "message_id": PAYLOAD});
        let answer = messages.request("publish", payload.clone()).await;
        assert_eq!(answer["success"], true, "{answer}");
        let answer = ask(at, "POST", "/api/v1/publish", api_key, &payload.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    messages.request("echo", json!({"text": PAYLOAD})).await;
    messages.request(PAYLOAD, json!({})).await;
    messages.request("publish", json!({"room": "system_1", "event": PAYLOAD, "data": PAYLOAD})).await;
    messages.request("publish", json!({"room": "market_1", "event": 5, "data": PAYLOAD})).await;
    messages.request("watchlist.add", json!({"symbol": PAYLOAD})).await;
    // Not its symbol: alerts have its room recorded, and names of rooms are in logs.
    let alert = json!({"symbol": "A1", "field": PAYLOAD, "op": ">", "value": 1, "once": true});
    messages.request("alert.create", alert).await;
    messages.request("get_market_data", json!({"symbol": PAYLOAD, "data_type": "tick"})).await;
    messages.send_text(&format!("{{\"{PAYLOAD}\"")).await;
    messages
        .send_text(&json!({"type": PAYLOAD, "request_id": PAYLOAD, "trace_id": PAYLOAD}).to_string())
        .await;
    for body in [
        format!("{{\"{PAYLOAD}\""),
        json!({"room": 7, "event": PAYLOAD}).to_string(),
        format!("\u{0}{PAYLOAD}"),
    ] {
        let _ = ask(at, "POST", "/api/v1/publish", &publisher, &body).await;
    }
    let notice = json!({"event": "note", "data": PAYLOAD}).to_string();
    assert_eq!(ask(at, "POST", "/api/v1/users/alice/notify", &operator, &notice).await.status, 200);
    let _ = ask(at, "POST", "/api/v1/watchlist", &user, &json!({"symbol": PAYLOAD}).to_string()).await;
    let _ = ask(at, "PUT", "/api/v1/log", &operator, &format!("{{\"level\":\"{CREDENTIAL}=x\"}}")).await;

    // Socket.IO, over long-polling.
    let opened = Sandbox::http(at, "GET", "/socket.io/?EIO=4&transport=polling", "", "").await;
    let sid = opened.body.split('"').nth(3).expect("a sid").to_owned();
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let packet = format!(
        "40{{\"token\":\"{user}\"}}\u{1e}42[\"request\",{{\"action\":\"echo\",\"payload\":\"{PAYLOAD}\"}}]"
    );
    let _ = Sandbox::http(at, "POST", &path, "", &packet).await;
    let _ = Sandbox::http(at, "GET", &path, "", "").await;

    // What is no WebSocket, and no HTTP; what is no link.
    let mut raw = RawClient::connect(node, None).await;
    raw.send(format!("\u{83}{PAYLOAD}").as_bytes()).await;
    let _ = Sandbox::http(
        at,
        PAYLOAD,
        "/ \u{7f}",
        &format!("Authorization: Bearer {CREDENTIAL}\r\n:\r\n"),
        PAYLOAD,
    )
    .await;
    let _ = ask(node, "GET", "/link", CREDENTIAL, "").await;
    messages.read_until("stream_1", 1).await;
    secrets
}

#[tokio::test]
async fn no_token_and_no_payload_is_in_a_log_or_a_trace() {
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    let (taos, collector) = (TaosStub::start().await, Collector::start(Manner::Take).await);
    let api_key = format!("{CREDENTIAL}-of-a-publisher");
    let keys = format!(r#"[{{ name = "feed", key = "{api_key}", role = "publisher" }}]"#);
    let (postgres_url, dsn, otlp) = (postgres.url(), taos.dsn(), collector.url());
    let environment = [
        ("TICKMESH_AUTH__ANONYMOUS", "none"),
        ("TICKMESH_AUTH__API_KEYS", &*keys),
        ("TICKMESH_LOG__LEVEL", "trace"),
        ("TICKMESH_POSTGRES__URL", &*postgres_url),
        ("TICKMESH_TDENGINE__DSN", &*dsn),
        ("TICKMESH_OTLP__ENDPOINT", &*otlp),
        ("TICKMESH_OTLP__SAMPLE", "1"),
    ];
    let mut nodes =
        [1, 2].map(|n| NodeProcess::logged(&["node"], &format!("n{n}"), &redis.url(), &environment));
    let mut gateway = NodeProcess::logged(&["gateway"], "g", &redis.url(), &environment);
    gateway.places_sessions_on(2).await;
    eventually("the stores are there", || async {
        let metrics = Sandbox::http(nodes[0].address(), "GET", "/metrics", "", "").await.body;
        let mut stores = metrics.lines().filter(|line| line.starts_with("tickmesh_store_up{")).peekable();
        stores.peek().is_some() && stores.all(|line| line.ends_with(" 1"))
    })
    .await;
    let mut secrets = Box::pin(everything(nodes[0].address(), gateway.address(), &api_key)).await;
    secrets.extend(Box::pin(everything(nodes[0].address(), nodes[1].address(), &api_key)).await);
    eventually("ticks are recorded", || async { taos.kept("tick_data") > 0 }).await;
    // Redis holds what is nobody's, with the same in it.
    for broken in [format!("e 1\n9:{PAYLOAD}"), format!("e 1\n30:{{\"ts\":\"{PAYLOAD}\",\"event\":5}}}}")] {
        redis.command(&["PUBLISH", "tm:{stream_1}", &broken]);
    }
    redis.command(&["PUBLISH", "tm:subs", &format!("{{\"from\":\"{PAYLOAD}\"}}")]);
    eventually("spans came", || async { !collector.received().is_empty() }).await;
    let spans = format!("{:?}", collector.received());
    gateway.signal("-TERM");
    gateway.ended().await;
    for node in &mut nodes {
        node.signal("-TERM");
        node.ended().await;
    }
    secrets.extend([PAYLOAD, CREDENTIAL, SECRET, TaosStub::PASSWORD].map(str::to_owned));
    for process in nodes.iter().chain([&gateway]) {
        let log = process.log();
        assert!(log.contains("DEBUG") && log.contains("INFO"), "the log is as talkative as it gets: {log}");
        for secret in &secrets {
            let leak = log.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(leak, None, "{} says {secret}", process.id());
        }
    }
    for secret in &secrets {
        assert!(!spans.contains(secret.as_str()), "{secret} is in a span");
    }
}
