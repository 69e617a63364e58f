//! What operators see of a message's way: one trace over gateway, nodes and Redis at a collector; nothing where it is not
//! sampled; and a collector that fails is nobody's trouble.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tickmesh_tests::{Client, Collector, Manner, NodeProcess, Received, RedisServer, Sandbox, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Kinds of spans, as OTLP numbers them.
const SERVER: i32 = 2;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

fn sampled() -> String {
    format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n")
}

/// Publishes one message over HTTP, with further header lines.
async fn publish(address: SocketAddr, room: &str, headers: &str) -> u64 {
    let body = json!({"room": room, "event": "quote", "data": {"price": 1}}).to_string();
    let answer = Sandbox::http(address, "POST", "/api/v1/publish", headers, &body).await;
    answer.json()["results"][0]["seq"].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
}

async fn metric(address: SocketAddr, name: &str) -> u64 {
    let metrics = Sandbox::http(address, "GET", "/metrics", "", "").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

fn only<'a>(spans: &'a [Received], what: &str, is: impl Fn(&Received) -> bool) -> &'a Received {
    let found: Vec<_> = spans.iter().filter(|span| is(span)).collect();
    assert_eq!(found.len(), 1, "{what} in {spans:#?}");
    found[0]
}

#[tokio::test]
async fn one_trace_over_gateway_node_redis_and_every_node_that_writes() {
    let (redis, collector) = (RedisServer::start(), Collector::start(Manner::Take).await);
    let url = collector.url();
    // Nothing by chance: the request says itself that it is sampled.
    let environment = [("TICKMESH_OTLP__ENDPOINT", &*url), ("TICKMESH_OTLP__SAMPLE", "0")];
    let nodes = ["a", "b"].map(|id| NodeProcess::start(id, &redis.url(), &environment));
    let gateway = NodeProcess::gateway("g", &redis.url(), &environment);
    gateway.places_sessions_on(2).await;
    // Two clients of one node, and one of the other.
    let mut clients = Vec::new();
    for node in [0, 1, 1] {
        let mut client = Client::connect(nodes[node].address(), "").await;
        client.subscribe("market_1", json!({})).await;
        clients.push(client);
    }
    let seq = publish(gateway.address(), "market_1", &sampled()).await;
    for client in &mut clients {
        client.read_until("market_1", seq).await;
    }
    eventually("the trace is whole", || async { collector.of(TRACE).len() >= 5 }).await;
    let spans = collector.of(TRACE);
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let at_gateway = only(&spans, "the gateway's", |span| span.service == "tickmesh-gateway");
    assert_eq!(
        (at_gateway.parent(), at_gateway.span.kind, &*at_gateway.instance),
        (CALLER.into(), SERVER, "g")
    );
    assert_eq!(at_gateway.span.name, "POST /api/v1/publish");
    assert_eq!(at_gateway.get("http.response.status_code"), "200");
    let at_node =
        only(&spans, "the node's", |span| span.service == "tickmesh-node" && span.span.kind == SERVER);
    assert_eq!(at_node.parent(), at_gateway.id());
    let sent = only(&spans, "the way to Redis", |span| span.span.kind == PRODUCER);
    assert_eq!((sent.parent(), &sent.instance), (at_node.id(), &at_node.instance));
    assert_eq!(
        (sent.get("messaging.destination.name"), sent.get("tickmesh.seq")),
        ("market_1".into(), seq.to_string())
    );
    for (node, sessions) in [("a", "1"), ("b", "2")] {
        let written =
            only(&spans, "a node's write", |span| span.span.kind == CONSUMER && span.instance == node);
        assert_eq!(
            (written.parent(), written.get("messaging.destination.name")),
            (sent.id(), "market_1".into())
        );
        assert_eq!(
            (written.get("tickmesh.sessions"), written.get("tickmesh.sessions_blocked")),
            (sessions.into(), "0".into())
        );
        assert!(written.span.start_time_unix_nano >= sent.span.start_time_unix_nano);
        assert!(written.span.end_time_unix_nano > written.span.start_time_unix_nano);
    }
    // Whoever reads the log later is no part of it, and messages without a trace are none of a trace.
    let mut late = Client::connect(nodes[0].address(), "").await;
    late.subscribe("market_1", json!({"history": 10})).await;
    publish(gateway.address(), "market_1", "").await;
    let again =
        publish(gateway.address(), "market_1", &sampled().replace(TRACE, &TRACE.replace('4', "5"))).await;
    late.read_until("market_1", again).await;
    let other = TRACE.replace('4', "5");
    eventually("the next trace is whole", || async { collector.of(&other).len() >= 5 }).await;
    assert_eq!(collector.received().len(), 10, "and nothing else");
}

#[tokio::test]
async fn a_publish_over_websocket_joins_the_trace_that_it_names() {
    let (redis, collector) = (RedisServer::start(), Collector::start(Manner::Take).await);
    let url = collector.url();
    let environment = [("TICKMESH_OTLP__ENDPOINT", &*url), ("TICKMESH_OTLP__SAMPLE", "1")];
    let node = NodeProcess::start("a", &redis.url(), &environment);
    let mut client = Client::connect(node.address(), "").await;
    client.subscribe("market_1", json!({})).await;
    let place = format!("00-{}-{CALLER}-01", TRACE.replace('4', "6"));
    for (trace_id, expected) in [
        // Root of the trace that is named.
        (TRACE, Some((TRACE.to_owned(), ""))),
        // A whole traceparent says where in it.
        (&*place, Some((TRACE.replace('4', "6"), CALLER))),
        // Anything else is echoed, and is no trace id.
        ("order 66", None),
    ] {
        let before = collector.received().len();
        let payload = json!({"room": "market_1", "event": "quote", "data": 1});
        let asked = json!({"type": "request", "action": "publish", "payload": payload, "trace_id": trace_id});
        let answer = client.ask(asked).await;
        assert_eq!((&answer["trace_id"], &answer["success"]), (&json!(trace_id), &json!(true)), "{answer}");
        client.read_until("market_1", answer["data"]["seq"].as_u64().expect("a seq")).await;
        eventually("three spans", || async { collector.received().len() >= before + 3 }).await;
        let spans = collector.received().split_off(before);
        let request = only(&spans, "the request", |span| span.span.kind == SERVER);
        let sent = only(&spans, "the way to Redis", |span| span.span.kind == PRODUCER);
        let written = only(&spans, "the write", |span| span.span.kind == CONSUMER);
        assert_eq!((sent.parent(), written.parent()), (request.id(), sent.id()));
        assert!(spans.iter().all(|span| span.trace_id() == request.trace_id()), "{spans:#?}");
        match expected {
            Some((trace, parent)) => {
                assert_eq!((request.trace_id(), request.parent()), (trace, parent.to_owned()));
            }
            None => assert_eq!(request.parent(), ""),
        }
    }
    assert_eq!(metric(node.address(), "tickmesh_traces_exported_total").await, 9);
    assert_eq!(metric(node.address(), "tickmesh_traces_dropped_total").await, 0);
}

#[tokio::test]
async fn what_is_not_sampled_makes_no_span() {
    let (redis, collector) = (RedisServer::start(), Collector::start(Manner::Take).await);
    let url = collector.url();
    let start = |id: &str, gateway: bool, sample, follow| {
        let environment = [
            ("TICKMESH_OTLP__ENDPOINT", &*url),
            ("TICKMESH_OTLP__SAMPLE", sample),
            ("TICKMESH_OTLP__FOLLOW_PARENT", follow),
        ];
        let kind = if gateway { NodeProcess::gateway } else { NodeProcess::start };
        kind(id, &redis.url(), &environment)
    };
    // The gateway decides against it, and the node behind it does not decide again, though it would trace everything.
    let mut node = start("a", false, "1", "true");
    let mut gateway = start("g", true, "0", "true");
    gateway.places_sessions_on(1).await;
    for _ in 0..20 {
        publish(gateway.address(), "market_1", "").await;
        publish(node.address(), "market_1", &sampled().replace("-01", "-00")).await;
    }
    // Nobody's word counts where that is configured.
    let mut deaf = start("b", false, "0", "false");
    for _ in 0..20 {
        publish(deaf.address(), "market_1", &sampled()).await;
    }
    // What waits is sent when they stop.
    for process in [&mut gateway, &mut node, &mut deaf] {
        process.signal("-TERM");
        process.ended().await;
    }
    assert!(collector.received().is_empty(), "{:#?}", collector.received());
}

#[tokio::test]
async fn what_waits_is_sent_when_a_node_stops() {
    let (redis, collector) = (RedisServer::start(), Collector::start(Manner::Take).await);
    let url = collector.url();
    let mut node = NodeProcess::start("a", &redis.url(), &[("TICKMESH_OTLP__ENDPOINT", &url)]);
    publish(node.address(), "market_1", &sampled()).await;
    node.signal("-TERM");
    node.ended().await;
    assert_eq!(collector.of(TRACE).len(), 2, "{:#?}", collector.received());
}

/// Publishes go on with such a collector, and what it does not take is counted; the node stops.
async fn collector_fails(url: &str) {
    let redis = RedisServer::start();
    let environment = [
        ("TICKMESH_OTLP__ENDPOINT", url),
        ("TICKMESH_OTLP__SAMPLE", "1"),
        ("TICKMESH_OTLP__QUEUE", "64"),
        ("TICKMESH_OTLP__TIMEOUT_MS", "1000"),
    ];
    let mut node = NodeProcess::start("a", &redis.url(), &environment);
    let mut client = Client::connect(node.address(), "").await;
    client.subscribe("market_1", json!({})).await;
    let mut last = 0;
    // Three spans each: many times what the queue holds.
    for _ in 0..300 {
        let payload = json!({"room": "market_1", "event": "quote", "data": 1});
        let answer = client.request("publish", payload).await;
        last = answer["data"]["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    }
    client.read_until("market_1", last).await;
    let dropped = || metric(node.address(), "tickmesh_traces_dropped_total");
    eventually("what is lost is counted", || async { dropped().await >= 900 - 64 }).await;
    assert_eq!(metric(node.address(), "tickmesh_traces_exported_total").await, 0);
    drop(client);
    node.signal("-TERM");
    node.ended().await;
}

#[tokio::test]
async fn a_collector_that_hangs_costs_nothing() {
    let collector = Collector::start(Manner::Hang).await;
    collector_fails(&collector.url()).await;
    let asked = collector.requests();
    assert!((1..100).contains(&asked), "300 publishes did not wait for {asked} requests that got no answer");
}

#[tokio::test]
async fn a_collector_that_refuses_costs_nothing() {
    collector_fails(&Collector::start(Manner::Refuse).await.url()).await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing() {
    collector_fails(&format!("http://{}", tickmesh_tests::free_address())).await;
}

#[tokio::test]
async fn a_request_of_many_messages_carries_its_trace_once_for_each_room() {
    let (redis, collector) = (RedisServer::start(), Collector::start(Manner::Take).await);
    let url = collector.url();
    let node = NodeProcess::start("a", &redis.url(), &[("TICKMESH_OTLP__ENDPOINT", &url)]);
    let mut client = Client::connect(node.address(), "").await;
    let mut messages: Vec<Value> = Vec::new();
    for room in ["market_1", "market_2"] {
        client.subscribe(room, json!({})).await;
        messages.extend((0..50).map(|n| json!({"room": room, "event": "quote", "data": n})));
    }
    let body = json!({"messages": messages}).to_string();
    let answer = Sandbox::http(node.address(), "POST", "/api/v1/publish", &sampled(), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    client.read_until("market_1", 50).await;
    client.read_until("market_2", 50).await;
    eventually("the trace is whole", || async { collector.of(TRACE).len() >= 5 }).await;
    let spans = collector.of(TRACE);
    assert_eq!(spans.len(), 5, "{spans:#?}");
    for room in ["market_1", "market_2"] {
        let of =
            |span: &Received, kind| span.span.kind == kind && span.get("messaging.destination.name") == room;
        let sent = only(&spans, "the way to Redis", |span| of(span, PRODUCER));
        let written = only(&spans, "the write", |span| of(span, CONSUMER));
        assert_eq!(written.parent(), sent.id());
    }
}
