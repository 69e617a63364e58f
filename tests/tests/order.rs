//! Promise 1: every `all` subscriber sees `seq` rise by exactly 1; nothing is lost or doubled without being told.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tickmesh_tests::{Client, RawClient, Sandbox, eventually};

#[tokio::test]
async fn many_publishers_many_subscribers_one_order() {
    const ROOMS: usize = 3;
    const EACH: u64 = 120;
    let sandbox = Sandbox::with(2, |_| {});
    let mut subscribers = Vec::new();
    for n in 0..12 {
        let mut client = match n % 3 {
            0 => Client::msgpack(sandbox.address(n % 2)).await,
            1 => Client::connect(sandbox.address(n % 2), "?batch=1").await,
            _ => sandbox.client_of(n % 2).await,
        };
        for room in 0..ROOMS {
            client.subscribe(&format!("market_{room}"), json!({})).await;
        }
        subscribers.push(client);
    }
    // Two publishers over WebSocket and two over HTTP, single and batched, on both nodes.
    let mut publishers = tokio::task::JoinSet::new();
    for p in 0..4usize {
        let address = sandbox.address(p % 2);
        let mut socket = Client::connect(address, "").await;
        publishers.spawn(async move {
            for n in 0..EACH {
                let data = json!({"publisher": p, "n": n});
                let message =
                    |room: usize| json!({"room": format!("market_{room}"), "event": "quote", "data": data});
                match p {
                    0 | 1 => {
                        for room in 0..ROOMS {
                            let answer = socket.request("publish", message(room)).await;
                            assert_eq!(answer["success"], true, "{answer}");
                        }
                    }
                    2 => {
                        for room in 0..ROOMS {
                            post(address, &message(room)).await;
                        }
                    }
                    _ => {
                        let messages: Vec<_> = (0..ROOMS).map(message).collect();
                        post(address, &json!({ "messages": messages })).await;
                    }
                }
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        done.expect("a publisher");
    }
    let total = 4 * EACH;
    let mut agreed: Vec<Option<Vec<(u64, Value)>>> = vec![None; ROOMS];
    for client in &mut subscribers {
        for (n, agreed) in agreed.iter_mut().enumerate() {
            let name = format!("market_{n}");
            client.read_until(&name, total).await;
            let room = client.room(&name);
            assert_eq!((room.received.len() as u64, room.resyncs), (total, 0));
            let mut next = [0u64; 4];
            for (_, data) in &room.received {
                let p = data["publisher"].as_u64().unwrap() as usize;
                assert_eq!(data["n"], next[p], "a publisher's messages keep their order");
                next[p] += 1;
            }
            match agreed {
                Some(agreed) => assert_eq!(*agreed, room.received, "all see the same"),
                None => *agreed = Some(room.received),
            }
        }
    }
}

async fn post(address: std::net::SocketAddr, body: &Value) {
    let answer = Sandbox::http(address, "POST", "/api/v1/publish", "", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn joining_a_moving_room_leaves_no_hole() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let sandbox = Sandbox::with(2, |config| config.limits.max_gate_messages = 3);
    let address = sandbox.address(0);
    let moving = tokio::spawn(async move {
        for n in 0..150u64 {
            let messages: Vec<_> =
                (0..4).map(|i| json!({"room": "market_m", "event": "e", "data": n * 4 + i})).collect();
            post(address, &json!({ "messages": messages })).await;
        }
    });
    let mut clients = Vec::new();
    let mut known: Option<(Value, u64)> = None;
    for n in 0..30 {
        let mut client = sandbox.client_of(n % 2).await;
        let options = match (random.random_range(0..3), &known) {
            (0, Some((epoch, seq))) => {
                json!({"recover": {"epoch": epoch, "seq": random.random_range(0..=*seq)}})
            }
            (1, _) => json!({"history": random.random_range(0..50)}),
            _ => json!({}),
        };
        let begun = client.subscribe("market_m", options.clone()).await;
        if let Some(from) = options["recover"]["seq"].as_u64() {
            assert_eq!(begun["recovered"], true);
            let first = begun["messages"][0]["seq"].as_u64().unwrap_or(begun["seq"].as_u64().unwrap() + 1);
            assert_eq!(first, from + 1, "everything after the position");
        }
        known = Some((begun["epoch"].clone(), begun["seq"].as_u64().unwrap()));
        clients.push(client);
    }
    moving.await.expect("the publisher");
    for client in &mut clients {
        client.read_until("market_m", 600).await;
        let room = client.room("market_m");
        assert_eq!(room.resyncs, 0);
        for (seq, data) in &room.received {
            assert_eq!(data, &json!(seq - 1), "as it was published");
        }
    }
}

#[tokio::test]
async fn what_the_log_has_no_more_is_told() {
    let sandbox = Sandbox::with(1, |config| config.rooms.class[0].history_size = 5);
    for n in 0..20 {
        sandbox.publish("market_1", json!(n)).await;
    }
    let mut client = sandbox.client().await;
    let begun = client.subscribe("market_1", json!({"history": 100})).await;
    assert_eq!(begun["messages"].as_array().unwrap().len(), 5);
    for (epoch, seq, recovered, count) in [
        (begun["epoch"].clone(), 17, true, 3),
        (begun["epoch"].clone(), 20, true, 0),
        (begun["epoch"].clone(), 3, false, 5),
        (begun["epoch"].clone(), 21, false, 5),
        (json!("another"), 17, false, 5),
    ] {
        let mut client = sandbox.client().await;
        let begun = client.subscribe("market_1", json!({"recover": {"epoch": epoch, "seq": seq}})).await;
        let messages = begun["messages"].as_array().unwrap().len();
        assert_eq!((&begun["recovered"], messages), (&json!(recovered), count), "after {seq}");
        assert_eq!(begun["seq"], 20);
    }
}

#[tokio::test]
async fn leaving_and_coming_back_continues() {
    let sandbox = Sandbox::open();
    let mut client = sandbox.client().await;
    let begun = client.subscribe("market_1", json!({})).await;
    sandbox.publish("market_1", json!(1)).await;
    client.read_until("market_1", 1).await;
    let left = client.ask(json!({"type": "unsubscribe", "room": "market_1"})).await;
    assert_eq!(left["success"], true);
    sandbox.publish("market_1", json!(2)).await;
    let recover = json!({"recover": {"epoch": begun["epoch"], "seq": 1}});
    let begun = client.subscribe("market_1", recover).await;
    assert_eq!((&begun["recovered"], &begun["messages"][0]["data"]), (&json!(true), &json!(2)));
    let again = client.try_subscribe("market_1", json!({})).await;
    assert_eq!(again["error_code"], "ALREADY_SUBSCRIBED");
}

#[tokio::test]
async fn fields_are_filtered_and_data_keeps_its_bytes() {
    let sandbox = Sandbox::open();
    let mut some = sandbox.client().await;
    let mut all = sandbox.client().await;
    some.subscribe("market_1", json!({"fields": ["price", "absent"]})).await;
    all.subscribe("market_1", json!({})).await;
    let mut publisher = sandbox.client().await;
    let text = r#"{"type":"request","request_id":"p","action":"publish",
        "payload":{"room":"market_1","event":"quote","data":{"price": 1.1200, "volume":3}}}"#;
    publisher.send_text(text).await;
    assert_eq!(publisher.answer("p").await["data"]["seq"], 1);
    assert_eq!(some.next().await["data"], json!({"price": 1.12}));
    assert_eq!(all.next().await["data"], json!({"price": 1.12, "volume": 3}));
    let history = sandbox.get("/api/v1/rooms/market_1/history").await;
    assert!(history.body.contains(r#"{"price": 1.1200, "volume":3}"#), "{history:?}");
}

#[tokio::test]
async fn a_message_id_is_accepted_once() {
    let sandbox = Sandbox::with(2, |_| {});
    let mut client = sandbox.client().await;
    client.subscribe("market_1", json!({})).await;
    let message = json!({"room": "market_1", "event": "e", "data": 1, "message_id": "m1"});
    for node in [0, 1, 0] {
        let answer = sandbox.post(node, "/api/v1/publish", &message).await;
        assert_eq!(answer.json()["results"][0]["seq"], 1);
    }
    assert_eq!(client.request("publish", message).await["data"]["seq"], 1);
    assert_eq!(sandbox.publish("market_1", json!("last")).await, 2);
    client.read_until("market_1", 2).await;
    assert_eq!(client.room("market_1").received.len(), 2);
}

#[tokio::test]
async fn publishes_of_one_connection_keep_their_order() {
    let sandbox = Sandbox::open();
    let mut reader = sandbox.client().await;
    reader.subscribe("market_1", json!({})).await;
    let mut publisher = sandbox.client().await;
    for n in 0..500 {
        let payload = json!({"room": "market_1", "event": "e", "data": n});
        let id = format!("p{n}");
        publisher
            .send(&json!({"type": "request", "request_id": id, "action": "publish", "payload": payload}))
            .await;
    }
    reader.read_until("market_1", 500).await;
    for (seq, data) in reader.room("market_1").received {
        assert_eq!(data, json!(seq - 1));
    }
}

#[tokio::test]
async fn joining_and_leaving_in_one_breath_leaves_nobody_behind() {
    let sandbox = Sandbox::open();
    let mut client = RawClient::connect(sandbox.address(0), None).await;
    let mut frames = Default::default();
    for kind in ["subscribe", "unsubscribe"].into_iter().cycle().take(40) {
        let text = format!(r#"{{"type":"{kind}","request_id":"r","room":"market_1"}}"#);
        let opcode = tickmesh_protocol::frame::Opcode::Text;
        tickmesh_protocol::frame::put_masked(&mut frames, opcode, text.as_bytes(), [1, 2, 3, 4]);
    }
    client.send(&frames).await;
    // The greeting, and one answer to each.
    for _ in 0..41 {
        assert!(client.frame().await.is_some());
    }
    eventually("nobody is left in the room", || async {
        sandbox.get("/api/v1/rooms/market_1").await.status == 404
    })
    .await;
    client.send_text(r#"{"type":"subscribe","request_id":"r","room":"market_1"}"#).await;
    assert!(client.frame().await.is_some());
    sandbox.publish("market_1", json!("after")).await;
    let (_, message) = client.frame().await.expect("a subscriber that stayed");
    assert!(String::from_utf8_lossy(&message).contains("after"));
}
