//! What operators see: every metric that docs/metrics.md names is exported as it says, no other is, and the figures are those of
//! the traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tickmesh_tests::taos_stub::TaosStub;
use tickmesh_tests::{Client, DEADLINE, NodeProcess, PostgresServer, RedisServer, Sandbox, eventually};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const DOCS: &str = include_str!("../../docs/metrics.md");

/// Values of a label; none where they are not named one by one.
type Values = Option<BTreeSet<String>>;

/// A metric as it is documented, or exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeMap<String, Values>,
}

type Metrics = BTreeMap<String, Metric>;

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the tables under headings that begin so.
fn rows(heading: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let mut inside = false;
    DOCS.lines().filter_map(move |line| {
        if let Some(title) = line.strip_prefix("## ") {
            inside = title.starts_with(heading);
        }
        let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        inside.then_some(cells)
    })
}

/// What docs/metrics.md says of processes of a role.
fn documented(role: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let own = if role == "node" { "Nodes:" } else { "Gateways" };
    for cells in rows("Nodes and gateways").chain(rows(own)) {
        let [name, kind, labels, ..] = cells[..] else { panic!("{cells:?}") };
        let name = name.trim_matches('`');
        let labels = quoted(labels).map(|label| (label.to_owned(), None)).collect();
        let before = metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), labels });
        assert!(before.is_none(), "{name} is documented once");
    }
    for cells in rows("Labels") {
        let [label, names, values, ..] = cells[..] else { panic!("{cells:?}") };
        // What stands in brackets explains.
        let mut plain = String::new();
        let mut depth = 0;
        for letter in values.chars() {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 => plain.push(letter),
                _ => {}
            }
        }
        let open = ["that of the binary", "the prefixes of"].iter().any(|words| values.starts_with(words));
        let values: Values = (!open).then(|| quoted(&plain).map(str::to_owned).collect());
        for name in quoted(names) {
            let Some(metric) = metrics.get_mut(name) else { continue };
            let held = metric.labels.get_mut(label.trim_matches('`'));
            *held.unwrap_or_else(|| panic!("{name} has {label}")) = values.clone();
        }
    }
    metrics
}

/// The labels of a sample, without those that a histogram adds.
fn labels(sample: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = sample.split_once('{') else { return Vec::new() };
    let (inside, _) = rest.rsplit_once('}').expect("closed");
    let pairs = inside.split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once("=\"").expect("a label");
        (name.to_owned(), value.trim_end_matches('"').to_owned())
    });
    pairs.filter(|(name, _)| name != "le").collect()
}

/// What a scrape in the older text format shows.
fn exported(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            let metric = Metric { kind: kind.to_owned(), ..Metric::default() };
            assert!(metrics.insert(name.to_owned(), metric).is_none(), "{name} is described once");
        }
        if line.starts_with('#') {
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let of = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let name = name.strip_suffix(suffix)?;
            metrics.get(name).filter(|metric| metric.kind == "histogram").map(|_| name.to_owned())
        });
        let metric = metrics.get_mut(&of.unwrap_or_else(|| name.to_owned()));
        let metric = metric.unwrap_or_else(|| panic!("{line} is described before"));
        for (label, value) in labels(line) {
            metric.labels.entry(label).or_default().get_or_insert_default().insert(value);
        }
    }
    metrics
}

async fn scrape(address: SocketAddr) -> String {
    let answer = Sandbox::http(address, "GET", "/metrics", "", "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    answer.body
}

/// One figure, by its name and labels as they are written.
async fn figure(address: SocketAddr, sample: &str) -> f64 {
    let text = scrape(address).await;
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {sample}: {text}"))
}

async fn becomes(address: SocketAddr, sample: &str, value: f64) {
    eventually(&format!("{sample} {value}"), || async { figure(address, sample).await == value }).await;
}

/// Holds what a process exports against what is documented.
fn hold(role: &str, text: &str) {
    let (documented, exported) = (documented(role), exported(text));
    let names = |metrics: &Metrics| metrics.keys().cloned().collect::<BTreeSet<_>>();
    let (said, shown) = (names(&documented), names(&exported));
    let missing: Vec<_> = said.difference(&shown).collect();
    let secret: Vec<_> = shown.difference(&said).collect();
    assert!(missing.is_empty() && secret.is_empty(), "{role}: missing {missing:?}, undocumented {secret:?}");
    for (name, said) in &documented {
        let shown = &exported[name];
        assert_eq!(said.kind, shown.kind, "{name}");
        let keys = |metric: &Metric| metric.labels.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(said), keys(shown), "{name}");
        for (label, values) in
            said.labels.iter().filter_map(|(label, values)| Some((label, values.as_ref()?)))
        {
            let shown = shown.labels[label].as_ref().expect("it has values");
            // Each role exports its own.
            if label == "role" {
                assert_eq!(shown.iter().collect::<Vec<_>>(), [role], "{name}");
            } else {
                assert_eq!(values, shown, "{name}: {label}");
            }
        }
    }
}

/// Has promtool judge it, where that is installed.
fn lint(text: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else { return eprintln!("promtool is not installed: not linted") };
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn what_is_documented_is_exported_and_nothing_else() {
    let (redis, postgres, stub) = (RedisServer::start(), PostgresServer::start(), TaosStub::start().await);
    let (url, dsn) = (postgres.url(), stub.dsn());
    let stores = [("TICKMESH_POSTGRES__URL", url.as_str()), ("TICKMESH_TDENGINE__DSN", dsn.as_str())];
    let node = NodeProcess::start("n1", &redis.url(), &stores);
    let gateway = NodeProcess::gateway("g1", &redis.url(), &[]);
    gateway.places_sessions_on(1).await;
    becomes(node.address(), "tickmesh_store_up{store=\"users\"}", 1.0).await;
    for (role, address) in [("node", node.address()), ("gateway", gateway.address())] {
        let text = scrape(address).await;
        hold(role, &text);
        lint(&text);
        // Who asks for it gets OpenMetrics, with the same figures.
        let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1\r\n";
        let answer = Sandbox::http(address, "GET", "/metrics", accept, "").await;
        assert!(answer.head.contains("application/openmetrics-text; version=1.0.0"), "{}", answer.head);
        assert!(answer.body.ends_with("# EOF\n"));
        let samples = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect::<BTreeSet<_>>()
        };
        assert_eq!(samples(&answer.body), samples(&text));
        let started = figure(address, "process_start_time_seconds").await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - 300.0..=now + 2.0).contains(&started), "{started} is just before {now}");
        assert!(figure(address, "process_resident_memory_bytes").await > 1e6);
        for (sample, value) in [
            ("tickmesh_ready", 1.0),
            ("tickmesh_draining", 0.0),
            ("tickmesh_lease_held", 1.0),
            ("tickmesh_members{kind=\"node\"}", 1.0),
            ("tickmesh_members{kind=\"gateway\"}", 1.0),
            ("tickmesh_redis_up", 1.0),
        ] {
            becomes(address, sample, value).await;
        }
    }
}

/// A Socket.IO client on a WebSocket, when it has entered the main namespace with this to say.
async fn socketio(address: SocketAddr, auth: &Value) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (mut socket, _) = connect_async(url).await.expect("let in");
    socket.send(Message::text(format!("40{auth}"))).await.expect("sent");
    loop {
        let answer =
            timeout(DEADLINE, socket.next()).await.expect("in time").expect("open").expect("a message");
        if matches!(&answer, Message::Text(text) if text.starts_with("40")) {
            return socket;
        }
    }
}

const MESSAGES: usize = 20;

#[tokio::test]
async fn figures_are_those_of_the_traffic() {
    let mut redis = RedisServer::start();
    let one = NodeProcess::start("n1", &redis.url(), &[("TICKMESH_SERVER__ORIGINS", "https://here.example")]);
    let gateway = NodeProcess::gateway("g1", &redis.url(), &[]);
    gateway.places_sessions_on(1).await;
    let (node, gate) = (one.address(), gateway.address());

    // Three who follow everything, one of them at the gateway, and one who wants one message a second.
    let mut all = Vec::new();
    for address in [node, node, gate] {
        let mut client = Client::connect(address, "").await;
        client.subscribe("market_1", json!({})).await;
        all.push(client);
    }
    let mut calm = Client::connect(node, "").await;
    calm.subscribe("market_1", json!({"delivery": "latest", "max_rate": 1})).await;
    for (sample, value) in [
        ("tickmesh_connections", 4.0),
        ("tickmesh_sessions_open{protocol=\"native\",transport=\"websocket\"}", 3.0),
        ("tickmesh_sessions_open{protocol=\"native\",transport=\"link\"}", 1.0),
        ("tickmesh_subscriptions", 4.0),
        ("tickmesh_newest_message_timestamp_seconds{class=\"market_\"}", 0.0),
    ] {
        assert_eq!(figure(node, sample).await, value, "{sample}");
    }
    becomes(node, "tickmesh_rooms", 1.0).await;
    assert_eq!(
        figure(gate, "tickmesh_gateway_clients_open{protocol=\"native\",transport=\"websocket\"}").await,
        1.0
    );
    assert_eq!(figure(gate, "tickmesh_gateway_links{state=\"used\"}").await, 1.0);

    // The publisher's own time is long ago: what counts is when the message was accepted.
    let messages: Vec<_> = (0..MESSAGES)
        .map(|n| json!({"room": "market_1", "event": "quote", "key": "k", "data": n, "timestamp": 1_000}))
        .chain([json!({"room": "market_1", "event": ""})])
        .collect();
    let answer = json!({ "messages": messages }).to_string();
    let answer = Sandbox::http(node, "POST", "/api/v1/publish", "", &answer).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for client in all.iter_mut().chain([&mut calm]) {
        client.read_until("market_1", MESSAGES as u64).await;
    }
    let count = MESSAGES as f64;
    let calmly = calm.room("market_1").received.len() as f64;
    for (sample, value) in [
        ("tickmesh_published_messages_total{class=\"market_\"}", count),
        ("tickmesh_publish_errors_total{cause=\"refused\"}", 1.0),
        ("tickmesh_fanout_messages_total", count),
        ("tickmesh_fanout_batch_messages_sum", count),
        ("tickmesh_broker_lag_seconds_count", count),
        ("tickmesh_deliveries_total", 4.0 * count),
        ("tickmesh_conflated_messages_total", count - calmly),
        ("tickmesh_sent_messages_total", 3.0 * count + calmly),
        ("tickmesh_write_messages_sum", 3.0 * count + calmly),
        ("tickmesh_received_messages_total", 4.0),
    ] {
        becomes(node, sample, value).await;
    }
    // Not timed is what the calm one's rate limit held up; its first message went at once.
    for sample in ["tickmesh_publish_to_write_seconds_count", "tickmesh_queue_delay_seconds_count"] {
        let timed = figure(node, sample).await;
        assert!((3.0 * count + 1.0..=3.0 * count + calmly).contains(&timed), "{sample}: {timed}, {calmly}");
    }
    for sample in ["publish_to_write_seconds", "broker_lag_seconds", "queue_delay_seconds"] {
        let sum = figure(node, &format!("tickmesh_{sample}_sum")).await;
        assert!(sum / count < 30.0, "{sample}: nobody waited since 1970: {sum}");
    }
    assert!(figure(node, "tickmesh_queue_delay_seconds_sum").await > 0.0);
    assert!(calmly < count, "the calm one got {calmly} of {count}");
    let newest = figure(node, "tickmesh_newest_message_timestamp_seconds{class=\"market_\"}").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((now - 120.0..=now + 1.0).contains(&newest), "{newest} is just before {now}");
    assert!(figure(node, "tickmesh_sent_bytes_total").await > 3.0 * count * 50.0);
    assert!(figure(gate, "tickmesh_gateway_sent_bytes_total").await > count * 50.0);
    assert!(figure(gate, "tickmesh_gateway_received_bytes_total").await > 50.0);

    // Those who are not let in, by cause.
    assert_eq!(Client::try_connect(node, "", &[("Origin", "https://there.example")]).await.err(), Some(403));
    assert_eq!(Client::try_connect(node, "?token=x", &[]).await.err(), Some(4001));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGlja21lc2gtbGluay0wMQ==\r\n";
    assert_eq!(Sandbox::http(node, "GET", "/nowhere", upgrade, "").await.status, 404);
    for cause in ["origin", "authentication", "path"] {
        becomes(node, &format!("tickmesh_connections_refused_total{{cause=\"{cause}\"}}"), 1.0).await;
    }
    becomes(node, "tickmesh_sessions_ended_total{cause=\"authentication failed\"}", 1.0).await;
    let denied = all[0].try_subscribe("user_ann", json!({})).await;
    assert_eq!(denied["error_code"], "PERMISSION_DENIED");
    becomes(node, "tickmesh_request_errors_total{code=\"PERMISSION_DENIED\"}", 1.0).await;
    assert_eq!(Sandbox::http(node, "GET", "/api/v1/nothing", "", "").await.status, 404);
    becomes(node, "tickmesh_http_requests_total{status=\"2xx\"}", 1.0).await;
    becomes(node, "tickmesh_http_requests_total{status=\"4xx\"}", 1.0).await;

    // Those who come back: with a position, with one of another log, and Socket.IO with a session that nobody knows.
    let epoch = all[0].room("market_1").epoch;
    for (epoch, outcome) in [(epoch.as_str(), "complete"), ("another", "incomplete")] {
        let mut back = Client::connect(node, "").await;
        back.subscribe("market_1", json!({"recover": {"epoch": epoch, "seq": 5}})).await;
        let sample = format!("tickmesh_recoveries_total{{protocol=\"native\",outcome=\"{outcome}\"}}");
        becomes(node, &sample, 1.0).await;
    }
    let back = socketio(node, &json!({"pid": "x", "offset": "5:market_1"})).await;
    becomes(node, "tickmesh_recoveries_total{protocol=\"socketio\",outcome=\"incomplete\"}", 1.0).await;
    let polling = Sandbox::http(node, "GET", "/socket.io/?EIO=4&transport=polling", "", "").await;
    assert_eq!(polling.status, 200);
    for transport in ["websocket", "polling"] {
        let sample = format!("tickmesh_sessions_open{{protocol=\"socketio\",transport=\"{transport}\"}}");
        becomes(node, &sample, 1.0).await;
    }
    drop(back);
    becomes(node, "tickmesh_sessions_open{protocol=\"socketio\",transport=\"websocket\"}", 0.0).await;

    // Redis goes, and comes back without what it had.
    redis.kill();
    becomes(node, "tickmesh_redis_up", 0.0).await;
    becomes(gate, "tickmesh_redis_up", 0.0).await;
    becomes(node, "tickmesh_ready", 0.0).await;
    let one_more = json!({"room": "market_1", "event": "quote", "data": 1}).to_string();
    assert_eq!(Sandbox::http(node, "POST", "/api/v1/publish", "", &one_more).await.status, 503);
    becomes(node, "tickmesh_publish_errors_total{cause=\"unavailable\"}", 1.0).await;
    redis.restart();
    becomes(node, "tickmesh_redis_up", 1.0).await;
    assert!(figure(node, "tickmesh_redis_reconnects_total").await > 0.0);
    eventually("the gap that cannot be filled is told", || async {
        figure(node, "tickmesh_log_repairs_failed_total").await >= 1.0
            && figure(node, "tickmesh_resyncs_total").await >= 4.0
    })
    .await;
}

#[tokio::test]
async fn a_gateway_tells_how_long_its_clients_waited_for_another_node() {
    let redis = RedisServer::start();
    let mut first = NodeProcess::start("n1", &redis.url(), &[]);
    let gateway = NodeProcess::gateway("g1", &redis.url(), &[]);
    gateway.places_sessions_on(1).await;
    let mut client = Client::connect(gateway.address(), "").await;
    client.subscribe("market_1", json!({})).await;
    // It drains: its client moves.
    let second = NodeProcess::start("n2", &redis.url(), &[]);
    gateway.places_sessions_on(2).await;
    first.signal("-TERM");
    first.ended().await;
    becomes(gateway.address(), "tickmesh_gateway_pause_seconds_count{cause=\"move\"}", 1.0).await;
    assert_eq!(figure(gateway.address(), "tickmesh_gateway_nodes_lost_total").await, 0.0);
    // Nothing was published: the gateway hears from the node itself that the session goes on there.
    let waited = figure(gateway.address(), "tickmesh_gateway_pause_seconds_sum{cause=\"move\"}").await;
    assert!(waited < 10.0, "{waited}");
    becomes(second.address(), "tickmesh_subscriptions", 1.0).await;
    // It is killed: another takes over.
    let third = NodeProcess::start("n3", &redis.url(), &[]);
    gateway.places_sessions_on(2).await;
    let at = client.request("stats", json!({})).await["data"]["node_id"].clone();
    let mut nodes = [second, third];
    nodes[usize::from(at == "n3")].kill();
    becomes(gateway.address(), "tickmesh_gateway_pause_seconds_count{cause=\"takeover\"}", 1.0).await;
    becomes(gateway.address(), "tickmesh_gateway_nodes_lost_total", 1.0).await;
    becomes(gateway.address(), "tickmesh_gateway_nodes", 1.0).await;
    let waited = figure(gateway.address(), "tickmesh_gateway_pause_seconds_sum{cause=\"takeover\"}").await;
    assert!(waited > 0.0 && waited < 20.0, "{waited}");
    client.request("echo", json!("still there")).await;
}
