//! Ticks, bars, alerts and what is kept for users, with everything in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tickmesh_cluster::config::Secret;
use tickmesh_market::calendar::ExchangeConfig;
use tickmesh_tests::{Client, NodeProcess, SECRET, Sandbox, eventually, token};

fn sandbox() -> Sandbox {
    Sandbox::with(2, |config| config.auth.jwt_secret = Secret::new(SECRET))
}

async fn user(sandbox: &Sandbox, node: usize, name: &str) -> Client {
    Client::connect(sandbox.address(node), &format!("?token={}", token(name, "user"))).await
}

/// The next notification of an event.
async fn event(client: &mut Client, name: &str) -> Value {
    loop {
        let message = client.next().await;
        if message["event"] == name {
            return message;
        }
    }
}

async fn rows(address: std::net::SocketAddr, query: &str) -> Vec<Value> {
    let answer = Sandbox::http(address, "GET", &format!("/api/v1/market/{query}"), "", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["rows"].as_array().cloned().unwrap_or_else(|| panic!("{answer:?}"))
}

/// A row of a tick file: its symbol, its time, and the price that bars go by.
fn file_ticks(path: &Path) -> Vec<(String, u64, f64)> {
    let text = std::fs::read_to_string(path).expect("the file");
    text.lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |n: usize| fields[n].parse::<f64>().ok();
            let middle = || Some((number(6)? + number(8)?) / 2.0);
            (
                fields[1].to_owned(),
                fields[0].parse().expect("milliseconds"),
                number(4).or_else(middle).expect("a price"),
            )
        })
        .collect()
}

/// `TICKMESH_TEST_TICKS` names another file, `TICKMESH_TEST_SPEED` another speed.
#[tokio::test]
async fn every_tick_of_a_file_is_kept_once_and_its_bars_are_right() {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/data/demo.csv");
    let path = std::env::var_os("TICKMESH_TEST_TICKS").map_or(usual, PathBuf::from);
    let speed = std::env::var("TICKMESH_TEST_SPEED").unwrap_or_else(|_| "1000000".into());
    // Ticks of one symbol that are far apart are no mistakes here.
    let all = [("TICKMESH_MARKET__MAX_JUMP_PERCENT", "0")];
    let node = NodeProcess::start("n1", "memory", &all);
    let fed = Command::new(tickmesh_tests::binary())
        .args(["feed", "--quiet", "--speed", &speed, "--file"])
        .arg(&path)
        .args(["--via", &format!("http://{}", node.address())])
        .stdin(Stdio::null())
        .status();
    assert!(fed.is_ok_and(|status| status.success()));

    let mut ticks: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    for (symbol, at, price) in file_ticks(&path) {
        ticks.entry(symbol).or_default().push((at, price));
    }
    for (symbol, mut ticks) in ticks {
        let query = format!("{symbol}?data_type=tick&limit=10000");
        eventually("all ticks are kept", || async {
            rows(node.address(), &query).await.len() >= ticks.len().min(10_000)
        })
        .await;
        let kept = rows(node.address(), &query).await;
        let mut seqs: Vec<u64> = kept.iter().filter_map(|row| row["seq"].as_u64()).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=ticks.len() as u64).collect::<Vec<_>>(), "{symbol}: each once");

        // The independent few lines.
        ticks.sort_by_key(|(at, _)| *at);
        let mut bars: BTreeMap<u64, [f64; 5]> = BTreeMap::new();
        for (at, price) in ticks {
            let [_, high, low, close, count] =
                bars.entry(at / 60_000 * 60_000).or_insert([price, price, price, price, 0.0]);
            (*high, *low, *close, *count) = (high.max(price), low.min(price), price, *count + 1.0);
        }
        let query = format!("{symbol}?data_type=kline&timeframe=1m&limit=10000");
        let told = |row: &Value| {
            let figures = ["open", "high", "low", "close", "ticks"].map(|name| row[name].as_f64().unwrap());
            assert_eq!(row["start"], row["timestamp"], "by the name that it has in rooms, too");
            (row["timestamp"].as_u64().unwrap(), figures)
        };
        eventually("its bars are kept", || async {
            let kept: BTreeMap<_, _> = rows(node.address(), &query).await.iter().map(told).collect();
            kept == bars
        })
        .await;
    }
}

#[tokio::test]
async fn bars_are_published_as_they_grow_and_close_and_are_mended() {
    let sandbox = sandbox();
    let mut client = sandbox.client_of(1).await;
    client.subscribe("kline_ACME_1m", json!({})).await;
    let minute = 1_700_000_040_000u64;
    for (after, price, volume) in [(0, 10.0, 1), (20_000, 12.0, 2), (61_000, 11.0, 1)] {
        let data = json!({"price": price, "volume": volume, "ts": minute + after});
        sandbox.publish("market_ACME", data).await;
    }
    let closed = event(&mut client, "bar_close").await["data"].clone();
    let figures = |bar: &Value| {
        ["start", "open", "high", "low", "close", "volume", "turnover", "ticks"]
            .map(|name| bar[name].as_f64().unwrap())
    };
    assert_eq!(figures(&closed), [minute as f64, 10.0, 12.0, 10.0, 12.0, 3.0, 34.0, 2.0]);
    assert_eq!(closed["symbol"], "ACME");
    assert_eq!(closed["period"], "1m");
    assert_eq!(closed["closed"], true);
    let open = event(&mut client, "bar_update").await["data"].clone();
    assert_eq!(figures(&open)[..2], [(minute + 60_000) as f64, 11.0]);
    // Late, but not too late.
    sandbox.publish("market_ACME", json!({"price": 13.0, "ts": minute + 30_000})).await;
    let mended = event(&mut client, "bar_close").await["data"].clone();
    assert_eq!(mended["revised"], true);
    assert_eq!(figures(&mended), [minute as f64, 10.0, 13.0, 10.0, 13.0, 3.0, 34.0, 3.0]);
    // Too late, too far, and no tick at all: kept as messages, in no bar.
    sandbox.publish("market_ACME", json!({"price": 13.0, "ts": minute - 60_000})).await;
    sandbox.publish("market_ACME", json!({"price": 1_300.0, "ts": minute + 62_000})).await;
    sandbox.publish("market_ACME", json!({"news": "none"})).await;
    eventually("all are kept", || async { rows(sandbox.address(0), "ACME?data_type=tick").await.len() == 7 })
        .await;
    let rejected = |metrics: &str, cause: &str| {
        metrics.contains(&format!("tickmesh_bar_ticks_rejected_total{{cause=\"{cause}\"}} 1"))
    };
    let mut metrics = String::new();
    for node in 0..2 {
        metrics += &Sandbox::http(sandbox.address(node), "GET", "/metrics", "", "").await.body;
    }
    assert!(rejected(&metrics, "late") && rejected(&metrics, "jump"), "{metrics}");
}

#[tokio::test]
async fn exchanges_have_their_own_hours_and_days() {
    let sandbox = Sandbox::with(1, |config| {
        config.market.max_jump_percent = 0;
        config.market.exchange = vec![ExchangeConfig {
            name: "SSE".into(),
            time_zone: "Asia/Shanghai".into(),
            sessions: vec!["09:30-11:30".into(), "13:00-15:00".into()],
            days: ["mon", "tue", "wed", "thu", "fri"].map(String::from).to_vec(),
        }];
    });
    // Thursday, 16 November 2023, in Shanghai: 11:29, the end of the morning, the break, 13:00; then Saturday.
    let midnight = 1_700_064_000_000u64;
    let minutes = |minutes: u64| midnight + minutes * 60_000;
    let ticks = [
        (minutes(689), 1.0),
        (minutes(690), 2.0),
        (minutes(700), 3.0),
        (minutes(780), 4.0),
        (minutes(3_000), 5.0),
    ];
    for (ts, price) in ticks {
        sandbox.publish("market_600519", json!({"price": price, "exchange": "SSE", "ts": ts})).await;
    }
    let day = |row: &Value| (row["timestamp"].as_u64(), row["high"].as_f64(), row["ticks"].as_u64());
    eventually("a bar of the day", || async {
        let days = rows(sandbox.address(0), "600519?data_type=kline&timeframe=1d").await;
        days.iter().map(day).collect::<Vec<_>>() == [(Some(midnight), Some(4.0), Some(3))]
    })
    .await;
    let minutes_kept = rows(sandbox.address(0), "600519?data_type=kline&timeframe=1m").await;
    let starts: Vec<_> = minutes_kept.iter().map(day).collect();
    assert_eq!(starts, [(Some(minutes(689)), Some(2.0), Some(2)), (Some(minutes(780)), Some(4.0), Some(1))]);
}

#[tokio::test]
async fn alerts_fire_once_where_asked_and_wait_for_who_is_away() {
    let sandbox = sandbox();
    let mut ann = user(&sandbox, 0, "ann").await;
    let create = |op: &str, once: bool| json!({"symbol": "ACME", "field": "price", "op": op, "value": 100, "once": once});
    let once = ann.request("alert.create", create(">", true)).await["data"]["id"].clone();
    let crosses = ann.request("alert.create", create("crosses", false)).await["data"]["id"].clone();
    assert!(once.is_u64() && crosses.is_u64());
    // Around the value, but within the hysteresis of 5 basis points of it after the first crossing.
    for price in [99.0, 100.02, 99.98, 100.03] {
        sandbox.publish("market_ACME", json!({"price": price})).await;
    }
    let mut fired = Vec::new();
    for _ in 0..2 {
        let hit = event(&mut ann, "alert").await;
        assert_eq!(hit["room"], "user_ann");
        assert_eq!(hit["data"]["reached"], 100.02);
        fired.push(hit["data"]["alert_id"].clone());
    }
    assert_eq!(fired, [once.clone(), crosses.clone()]);
    // Far enough away to be armed again, and back, while she is away.
    let listed = ann.request("alert.list", json!({})).await["data"].clone();
    assert_eq!(listed["hits"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(listed["alerts"][0]["active"], false, "{listed}");
    for hit in listed["hits"].as_array().unwrap() {
        let acknowledged = ann.request("alert.ack", json!({"hit_id": hit["hit_id"]})).await;
        assert_eq!(acknowledged["success"], true, "{acknowledged}");
    }
    drop(ann);
    for price in [105.0, 95.0] {
        sandbox.publish("market_ACME", json!({"price": price})).await;
    }
    let operator = format!("Authorization: Bearer {}\r\n", token("ann", "user"));
    eventually("it is kept for her", || async {
        let alerts = sandbox.request("GET", "/api/v1/alerts", &operator, "").await.json();
        alerts["hits"].as_array().is_some_and(|hits| hits.len() == 1)
    })
    .await;
    let mut ann = user(&sandbox, 1, "ann").await;
    let missed = event(&mut ann, "alert").await;
    assert_eq!(missed["data"]["reached"], 95.0);
    assert_eq!(missed["data"]["alert_id"], crosses);
    let mut bob = user(&sandbox, 1, "bob").await;
    let foreign = bob.request("alert.ack", json!({"hit_id": missed["data"]["hit_id"]})).await;
    assert_eq!(foreign["error_code"], "INVALID_PARAMETERS", "only one's own");
    let deleted = bob.request("alert.delete", json!({"id": crosses})).await;
    assert_eq!(deleted["error_code"], "INVALID_PARAMETERS", "only one's own");
    let acknowledged = ann.request("alert.ack", json!({"hit_id": missed["data"]["hit_id"]})).await;
    assert_eq!(acknowledged["success"], true);
    assert_eq!(ann.request("alert.delete", json!({"id": crosses})).await["success"], true);
    sandbox.publish("market_ACME", json!({"price": 105.0})).await;
    // Nothing more: what is asked next is answered first.
    let mut again = user(&sandbox, 0, "ann").await;
    assert_eq!(again.request("alert.list", json!({})).await["data"]["hits"], json!([]));
    let seen = ann.request("echo", json!({})).await;
    assert_eq!(seen["success"], true);
}

#[tokio::test]
async fn hostile_input_is_refused_by_its_code_and_nothing_is_kept() {
    let sandbox = Sandbox::with(1, |config| {
        config.auth.jwt_secret = Secret::new(SECRET);
        let class = config.rooms.class.iter_mut().find(|class| class.prefix == "market_").unwrap();
        class.subscribe = tickmesh_protocol::room::Access::Operators;
    });
    let mut ann = user(&sandbox, 0, "ann").await;
    let sql = "x'); DROP TABLE alerts; --";
    let long = "A".repeat(10_000);
    for (action, payload, code) in [
        ("watchlist.add", json!({"symbol": sql}), "INVALID_SYMBOL"),
        ("watchlist.add", json!({"symbol": long}), "INVALID_SYMBOL"),
        ("watchlist.add", json!({"symbol": ""}), "INVALID_SYMBOL"),
        ("watchlist.add", json!({"symbol": "a\u{0}b"}), "INVALID_SYMBOL"),
        ("watchlist.add", json!({"symbol": 7}), "INVALID_PARAMETERS"),
        ("get_market_data", json!({"symbol": sql, "data_type": "tick"}), "INVALID_SYMBOL"),
        ("get_market_data", json!({"symbol": "A", "data_type": sql}), "INVALID_PARAMETERS"),
        (
            "get_market_data",
            json!({"symbol": "A", "data_type": "kline", "timeframe": sql}),
            "INVALID_PARAMETERS",
        ),
        ("get_market_data", json!({"symbol": "A", "data_type": "tick"}), "PERMISSION_DENIED"),
        (
            "alert.create",
            json!({"symbol": "A", "field": "price", "op": ">", "value": 1}),
            "PERMISSION_DENIED",
        ),
        ("alert.create", json!({"symbol": sql, "field": "price", "op": ">", "value": 1}), "INVALID_SYMBOL"),
        ("alert.create", json!({"symbol": "A", "field": sql, "op": ">", "value": 1}), "INVALID_PARAMETERS"),
        (
            "alert.create",
            json!({"symbol": "A", "field": "price", "op": sql, "value": 1}),
            "INVALID_PARAMETERS",
        ),
        (
            "alert.create",
            json!({"symbol": "A", "field": "price", "op": ">", "value": "NaN"}),
            "INVALID_PARAMETERS",
        ),
        ("alert.delete", json!({"id": sql}), "INVALID_PARAMETERS"),
        ("alert.ack", json!({"hit_id": -1}), "INVALID_PARAMETERS"),
    ] {
        let answer = ann.request(action, payload.clone()).await;
        assert_eq!(answer["error_code"], code, "{action} {payload}: {answer}");
    }
    for price in [json!(-1), json!(0), json!("12"), json!([1]), json!({"a": 1}), json!(true)] {
        let body = json!({"room": "market_A", "event": "quote", "data": {"price": price}});
        let answer = sandbox.post(0, "/api/v1/publish", &body).await;
        assert_eq!(answer.json()["results"][0]["error_code"], "INVALID_PARAMETERS", "{body}");
    }
    for body in [
        r#"{"room":"market_A","event":"q","data":{"price":NaN}}"#,
        r#"{"room":"market_A","event":"q","data":{"price":1e999}}"#,
    ] {
        let answer = sandbox.request("POST", "/api/v1/publish", "", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let mut anonymous = sandbox.client().await;
    for action in ["watchlist.list", "alert.list"] {
        assert_eq!(anonymous.request(action, json!({})).await["error_code"], "AUTH_REQUIRED");
    }
    assert_eq!(ann.request("watchlist.list", json!({})).await["data"]["symbols"], json!([]));
    assert_eq!(ann.request("alert.list", json!({})).await["data"], json!({"alerts": [], "hits": []}));
    let position = sandbox.get("/api/v1/rooms/market_A").await;
    assert_eq!(position.status, 404, "nothing was published: {position:?}");
}

#[tokio::test]
async fn users_have_lists_of_their_own_with_an_end() {
    let sandbox = Sandbox::with(1, |config| {
        config.auth.jwt_secret = Secret::new(SECRET);
        (config.users.max_watchlist, config.users.max_alerts) = (2, 1);
    });
    let mut ann = user(&sandbox, 0, "ann").await;
    let mut bob = user(&sandbox, 0, "bob").await;
    for symbol in ["600519", "AAPL", "600519"] {
        assert_eq!(ann.request("watchlist.add", json!({"symbol": symbol})).await["success"], true);
    }
    let full = ann.request("watchlist.add", json!({"symbol": "MSFT"})).await;
    assert_eq!(full["error_code"], "INVALID_PARAMETERS");
    assert_eq!(full["error_details"]["max"], 2);
    assert_eq!(ann.request("watchlist.list", json!({})).await["data"]["symbols"], json!(["600519", "AAPL"]));
    assert_eq!(bob.request("watchlist.list", json!({})).await["data"]["symbols"], json!([]));
    let spec = json!({"symbol": "A", "field": "price", "op": "<", "value": 1});
    assert_eq!(ann.request("alert.create", spec.clone()).await["success"], true);
    assert_eq!(ann.request("alert.create", spec.clone()).await["error_code"], "INVALID_PARAMETERS");
    // The same over HTTP.
    let headers = format!("Authorization: Bearer {}\r\n", token("ann", "user"));
    let removed = sandbox.request("DELETE", "/api/v1/watchlist/AAPL", &headers, "").await;
    assert_eq!(removed.json()["status"], "removed");
    let added = sandbox.request("POST", "/api/v1/watchlist", &headers, r#"{"symbol":"MSFT"}"#).await;
    assert_eq!(added.status, 200, "{added:?}");
    let listed = sandbox.request("GET", "/api/v1/watchlist", &headers, "").await;
    assert_eq!(listed.json()["symbols"], json!(["600519", "MSFT"]));
    assert_eq!(sandbox.get("/api/v1/watchlist").await.status, 401);
}

#[tokio::test]
async fn older_rows_lead_up_to_the_log_and_the_live_stream() {
    let sandbox = Sandbox::with(2, |config| {
        let class = config.rooms.class.iter_mut().find(|class| class.prefix == "market_").unwrap();
        class.history_size = 600;
    });
    for n in 1..=5_000u64 {
        if n % 500 == 1 {
            let messages: Vec<_> = (n..n + 500)
                .map(|n| json!({"room": "market_M", "event": "q", "data": {"price": n, "ts": 1_000 * n}}))
                .collect();
            sandbox.post(0, "/api/v1/publish", &json!({"messages": messages})).await;
            // The log is short: the recorder has to keep up, as it does with a longer one.
            eventually("recorded", || async {
                rows(sandbox.address(0), "M?data_type=tick&limit=1")
                    .await
                    .first()
                    .map(|row| row["seq"].clone())
                    == Some(json!(n + 499))
            })
            .await;
        }
    }
    for (options, first) in [
        (json!({"backfill": {"start": 0, "limit": 10_000}}), 1),
        (json!({"backfill": {"start": 2_000_000}}), 2_000),
        (json!({"backfill": {"start": 0, "limit": 300}}), 4_401),
        (json!({"backfill": {"start": 0}, "history": 7}), 1),
        (json!({"backfill": {"start": 4_999_000}}), 4_999),
        (json!({"backfill": {"start": 9_000_000}}), 5_001),
    ] {
        let mut client = sandbox.client_of(1).await;
        let data = client.subscribe("market_M", options.clone()).await;
        let seqs = |name: &str| {
            let of = data[name].as_array().unwrap_or_else(|| panic!("{options}: no {name}"));
            of.iter().map(|message| message["seq"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let joined: Vec<u64> = seqs("backfill").into_iter().chain(seqs("messages")).collect();
        let expected: Vec<u64> = (first..=5_000).collect();
        let ends = (joined.first(), joined.last(), joined.len());
        assert!(joined == expected, "{options}: {ends:?} in place of {first}..=5000");
        assert_eq!(data["backfill_complete"], options["backfill"]["limit"] != 300, "{options}");
        if let Some(row) = data["backfill"].get(0) {
            assert_eq!(row["data"]["price"], first);
            assert_eq!(row["type"], "notification");
        }
    }
    let mut client = sandbox.client().await;
    for bad in [
        json!({}),
        json!({"start": -1}),
        json!({"start": 0, "limit": 0}),
        json!({"start": 0, "limit": 10_001}),
    ] {
        let answer = client.try_subscribe("market_M", json!({"backfill": bad})).await;
        assert_eq!(answer["error_code"], "INVALID_PARAMETERS", "{bad}");
    }
}

#[tokio::test]
async fn keys_and_tokens_can_be_revoked_and_sessions_leave_a_trace() {
    let sandbox = sandbox();
    let operator = format!("Authorization: Bearer {}\r\n", token("root", "operator"));
    let make = r#"{"user_id":"feed","role":"user","rooms":{"publish":["market_A*"]}}"#;
    let key = sandbox.request("POST", "/api/v1/keys", &operator, make).await;
    assert_eq!(key.status, 201, "{key:?}");
    let (id, secret) = (key.json()["id"].clone(), key.json()["key"].clone());
    let secret = secret.as_str().unwrap();
    let listed = sandbox.request("GET", "/api/v1/keys", &operator, "").await;
    assert!(!listed.body.contains(secret) && listed.body.contains("feed"), "{listed:?}");
    // On the other node, within its scope.
    let with_key = format!("Authorization: Bearer {secret}\r\n");
    let publish = |room: &str| format!(r#"{{"room":"{room}","event":"q","data":{{"price":1}}}}"#);
    let address = sandbox.address(1);
    eventually("the key is known", || async {
        Sandbox::http(address, "POST", "/api/v1/publish", &with_key, &publish("market_A1")).await.status
            == 200
    })
    .await;
    let beyond = Sandbox::http(address, "POST", "/api/v1/publish", &with_key, &publish("market_B1")).await;
    assert_eq!(beyond.status, 403, "{beyond:?}");
    let mut held = Client::connect(address, &format!("?token={secret}")).await;
    let revoked =
        sandbox.request("DELETE", &format!("/api/v1/keys/{}", id.as_str().unwrap()), &operator, "").await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!(held.closed().await, 4001, "who came with it leaves");
    let after = Sandbox::http(address, "POST", "/api/v1/publish", &with_key, &publish("market_A1")).await;
    assert_eq!(after.status, 401, "{after:?}");

    let claims = json!({"sub": "eve", "exp": 4_000_000_000u64, "jti": "eve-1"});
    let encoding = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let eve = tickmesh_edge::jwt::encode(&jsonwebtoken::Header::default(), &claims, &encoding).unwrap();
    let mut held = Client::connect(address, &format!("?token={eve}")).await;
    let body = json!({"token": eve}).to_string();
    let revoked = sandbox.request("POST", "/api/v1/tokens/revoke", &operator, &body).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!(held.closed().await, 4001);
    let refused = Client::try_connect(address, &format!("?token={eve}"), &[]).await;
    assert_eq!(refused.err(), Some(4001));

    eventually("the audit has it", || async {
        let audit = sandbox.request("GET", "/api/v1/audit?user_id=eve", &operator, "").await.json();
        let events: Vec<_> = audit["events"].as_array().into_iter().flatten().collect();
        events
            .iter()
            .any(|event| event["event"] == "disconnected" && event["reason"] == "authentication failed")
            && events.iter().any(|event| event["event"] == "connected" && event["node_id"] == "n2")
    })
    .await;
    let common = format!("Authorization: Bearer {}\r\n", token("ann", "user"));
    for path in ["/api/v1/keys", "/api/v1/audit"] {
        assert_eq!(sandbox.request("GET", path, &common, "").await.status, 403);
    }
}
