//! The stores of a cluster, with real nodes, a real redis-server and PostgreSQL, and a stub of TDengine's WebSocket API:
//! nodes that die and stores that go away under load.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tickmesh_tests::taos_stub::TaosStub;
use tickmesh_tests::{
    Client, DEADLINE, NodeProcess, PostgresServer, RedisServer, Sandbox, eventually, size, token,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Each of these tests loads the machine: they take turns.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// A log that remembers longer than anything here lasts.
const LONG: &str = r#"[{prefix = "market_", history_size = 300000}]"#;

async fn metric(address: SocketAddr, name: &str) -> f64 {
    let metrics = Sandbox::http(address, "GET", "/metrics", "", "").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// Publishes up to so many ticks a second into one room, whoever dies, each under an id: the next only when the one before is
/// kept.
struct Feed {
    addresses: Arc<parking_lot::Mutex<Vec<SocketAddr>>>,
    stopped: Arc<AtomicBool>,
    kept: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Feed {
    fn start(room: &str, addresses: Vec<SocketAddr>, per_second: u64) -> Self {
        let addresses = Arc::new(parking_lot::Mutex::new(addresses));
        let (stopped, kept) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let (to, stop, count, room) = (addresses.clone(), stopped.clone(), kept.clone(), room.to_owned());
        let task = tokio::spawn(async move {
            let batch = (per_second / 20).max(1);
            let mut every = interval(Duration::from_millis(50));
            // A busy machine gets fewer, instead of ever more at once.
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                every.tick().await;
                let message = |n: u64| {
                    json!({"room": room, "event": "tick", "message_id": format!("t{n}"),
                        "data": {"price": 100.0 + (n % 97) as f64 / 100.0, "volume": 1, "n": n}})
                };
                let body = json!({"messages": (n..n + batch).map(message).collect::<Vec<_>>()}).to_string();
                let all_kept = |answer: &Value| {
                    let results = answer["results"].as_array();
                    results.is_some_and(|results| results.iter().all(|result| result["seq"].is_u64()))
                };
                for attempt in 0.. {
                    let address = {
                        let addresses = to.lock();
                        addresses[attempt % addresses.len()]
                    };
                    if let Some(answer) = post(address, "/api/v1/publish", &body).await
                        && all_kept(&answer)
                    {
                        break;
                    }
                    assert!(attempt < 2_000, "the cluster takes messages");
                    sleep(Duration::from_millis(10)).await;
                }
                n += batch;
                count.store(n, Ordering::Release);
            }
        });
        Self { addresses, stopped, kept, task }
    }

    fn kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }

    async fn stop(self) -> u64 {
        self.stopped.store(true, Ordering::Relaxed);
        self.task.await.expect("the feed");
        self.kept.load(Ordering::Acquire)
    }
}

/// A `POST` to somebody who may die meanwhile.
async fn post(address: SocketAddr, path: &str, body: &str) -> Option<Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(body.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    };
    timeout(Duration::from_secs(5), exchange).await.ok().flatten()
}

/// The one of these nodes that keeps the recorded room.
async fn keeper(nodes: &[NodeProcess]) -> usize {
    let found = parking_lot::Mutex::new(None);
    eventually("a node keeps the room", || async {
        for (n, node) in nodes.iter().enumerate() {
            if metric(node.address(), "tickmesh_recorder_rooms").await > 0.0 {
                *found.lock() = Some(n);
            }
        }
        found.lock().is_some()
    })
    .await;
    found.into_inner().expect("found")
}

/// `TICKMESH_TEST_ROUNDS` (4), `TICKMESH_TEST_SUBSCRIBERS` (10), `TICKMESH_TEST_RATE` (100): a client gets as many messages
/// in three seconds after as many in backfill. The recorder is killed in every other round.
///
/// Slow: four rounds of three seconds of ticks, and two nodes die and are replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backfill_is_joined_to_the_stream_whoever_records() {
    let _alone = ALONE.lock().await;
    let (rounds, clients) = (size("TICKMESH_TEST_ROUNDS", 4), size("TICKMESH_TEST_SUBSCRIBERS", 10));
    let rate = size("TICKMESH_TEST_RATE", 100);
    // So many rows before, and so many messages after.
    let each = 3 * rate;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let redis = RedisServer::start();
    let stub = TaosStub::start().await;
    let dsn = stub.dsn();
    let environment = [("TICKMESH_TDENGINE__DSN", dsn.as_str()), ("TICKMESH_ROOMS__CLASS", LONG)];
    let start = |n: usize| NodeProcess::start(&format!("n{n}"), &redis.url(), &environment);
    let mut nodes: Vec<NodeProcess> = (0..3).map(start).collect();
    let all = |nodes: &[NodeProcess]| nodes.iter().map(NodeProcess::address).collect::<Vec<_>>();
    let feed = Feed::start("market_T", all(&nodes), rate as u64);
    // Somewhere in it, so that there is something older: as many messages come from the log, and as many rows before them.
    eventually("ticks are recorded", || async { stub.kept("tick_data") > 2 * each }).await;

    let (mut joined, mut rows_joined, mut retried) = (0, 0, 0);
    for round in 0..rounds {
        let kept_by = keeper(&nodes).await;
        let others: Vec<_> = (0..nodes.len()).filter(|n| *n != kept_by).map(|n| nodes[n].address()).collect();
        let mut watching = JoinSet::new();
        let from = feed.kept();
        for n in 0..clients {
            let address = others[n % others.len()];
            let wait = Duration::from_millis(random.random_range(0..1_500));
            watching.spawn(async move {
                sleep(wait).await;
                let mut client = Client::connect(address, "").await;
                let options = json!({"backfill": {"start": 0, "limit": each}});
                // On a busy machine the stub may be late. That is said, and nothing is joined by halves: it is asked again.
                let mut refused = 0;
                let answer = loop {
                    let answer = client.try_subscribe("market_T", options.clone()).await;
                    if answer["success"] == true {
                        break answer;
                    }
                    assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
                    refused += 1;
                    assert!(refused < 100, "the store serves: {answer}");
                    sleep(Duration::from_millis(100)).await;
                };
                let older: Vec<Value> = answer["data"]["backfill"].as_array().cloned().expect("rows");
                client.read_until("market_T", from + each as u64).await;
                (older, client.room("market_T").received, refused)
            });
        }
        if round % 2 == 1 {
            sleep(Duration::from_millis(random.random_range(0..1_500))).await;
            nodes[kept_by].kill();
            *feed.addresses.lock() = others.clone();
        }
        while let Some(watched) = watching.join_next().await {
            let (older, received, refused) = watched.expect("a client");
            assert_eq!(older.len(), each, "older rows came");
            let older = older.iter().map(|row| (row["seq"].as_u64().unwrap(), &row["data"]));
            let all: Vec<(u64, &Value)> =
                older.chain(received.iter().map(|(seq, data)| (*seq, data))).collect();
            let first = all[0].0;
            for (at, (seq, data)) in all.iter().enumerate() {
                assert_eq!(*seq, first + at as u64, "round {round}: no gap and no repetition");
                // The tick itself: it was published as number `seq - 1`.
                assert_eq!(data["n"], seq - 1, "round {round}");
            }
            joined += 1;
            retried += refused;
            rows_joined += all.len();
        }
        if round % 2 == 1 {
            nodes[kept_by] = start(10 + round);
            *feed.addresses.lock() = all(&nodes);
        }
    }
    let published = feed.stop().await as usize;
    eventually("every tick is recorded", || async { stub.kept("tick_data") >= published }).await;
    assert_eq!(stub.kept("tick_data"), published, "each once");
    println!(
        "{joined} clients, {rows_joined} rows and messages joined, {published} ticks, {retried} asked again"
    );
}

/// `TICKMESH_TEST_MESSAGES` (250) that each follower gets while a store is away: more than the recorder's buffer holds.
///
/// Slow: five outages, each for as long as 250 ticks take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_holds_up_what_needs_it_and_nothing_else() {
    let _alone = ALONE.lock().await;
    let meanwhile = size("TICKMESH_TEST_MESSAGES", 250) as u64;
    let redis = RedisServer::start();
    let mut postgres = PostgresServer::start();
    let mut stub = TaosStub::start().await;
    let (url, dsn) = (postgres.url(), stub.dsn());
    let environment = [
        ("TICKMESH_POSTGRES__URL", url.as_str()),
        ("TICKMESH_TDENGINE__DSN", dsn.as_str()),
        ("TICKMESH_STORES__BREAKER_OPEN_MS", "100"),
        ("TICKMESH_RECORDER__BUFFER", "100"),
        ("TICKMESH_ROOMS__CLASS", LONG),
    ];
    let nodes: Vec<NodeProcess> =
        (0..2).map(|n| NodeProcess::start(&format!("n{n}"), &redis.url(), &environment)).collect();
    let strict: Vec<_> = environment.into_iter().chain([("TICKMESH_POSTGRES__REQUIRED", "true")]).collect();
    let needy = NodeProcess::start("needy", &redis.url(), &strict);
    let addresses: Vec<_> = nodes.iter().map(NodeProcess::address).collect();
    for address in &addresses {
        eventually("the stores are there", || async {
            metric(*address, "tickmesh_store_up{store=\"users\"}").await == 1.0
                && metric(*address, "tickmesh_store_up{store=\"series\"}").await == 1.0
        })
        .await;
    }
    // Followers of the push path, who hear of nothing.
    let feed = Feed::start("market_T", addresses.clone(), 100);
    let stop = Arc::new(AtomicBool::new(false));
    let mut followers = JoinSet::new();
    let received: [Arc<AtomicU64>; 6] = Default::default();
    for (n, count) in received.iter().enumerate() {
        let mut client = Client::connect(addresses[n % 2], "").await;
        client.subscribe("market_T", json!({})).await;
        let (stop, count) = (stop.clone(), count.clone());
        followers.spawn(async move {
            // The client checks that each comes once and in order.
            while !stop.load(Ordering::Relaxed) {
                client.next().await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // What the one who is furthest behind has.
    let least = || received.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0);
    let mut ann = Client::connect(addresses[0], &format!("?token={}", token("ann", "user"))).await;
    let watch = |n: u64| json!({"symbol": format!("S{n}")});
    assert_eq!(ann.request("watchlist.add", watch(0)).await["success"], true);
    let market = json!({"symbol": "T", "data_type": "tick", "limit": 5});
    eventually("ticks are there", || async { stub.kept("tick_data") > 0 }).await;
    assert_eq!(ann.request("get_market_data", market.clone()).await["success"], true);

    // PostgreSQL: killed, and started again; then full, which is when it takes reads alone.
    postgres.kill();
    let opened = "tickmesh_store_breaker_opened_total{store=\"users\"}";
    let rejected = "tickmesh_store_calls_total{store=\"users\",outcome=\"rejected\"}";
    let (opened_before, rejected_before) =
        (metric(addresses[0], opened).await, metric(addresses[0], rejected).await);
    let (until, end) = (least() + meanwhile, Instant::now() + DEADLINE);
    while least() < until || metric(addresses[0], rejected).await == rejected_before {
        assert!(Instant::now() < end, "the push path goes on, and the breaker answers at once");
        let answer = ann.request("watchlist.list", json!({})).await;
        assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
        assert_eq!(
            ann.request("get_market_data", market.clone()).await["success"],
            true,
            "the other store serves"
        );
        assert_eq!(Sandbox::http(addresses[0], "GET", "/readyz", "", "").await.status, 200);
    }
    assert!(metric(addresses[0], opened).await > opened_before);
    eventually("who needs it is not ready", || async {
        Sandbox::http(needy.address(), "GET", "/readyz", "", "").await.status == 503
    })
    .await;
    postgres.restart();
    let ann = tokio::sync::Mutex::new(ann);
    let held = &ann;
    let serves = |n: u64| async move {
        held.lock().await.request("watchlist.add", json!({"symbol": format!("S{n}")})).await["success"]
            == true
    };
    eventually("it serves again", || async { serves(1).await }).await;
    eventually("the breaker closes", || async {
        metric(addresses[0], "tickmesh_store_up{store=\"users\"}").await == 1.0
    })
    .await;
    eventually("who needs it is ready again", || async {
        Sandbox::http(needy.address(), "GET", "/readyz", "", "").await.status == 200
    })
    .await;
    let _ = postgres.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    let _ = postgres.sql("SELECT pg_reload_conf()");
    eventually("it takes no writes", || async {
        let answer = ann.lock().await.request("watchlist.add", watch(2)).await;
        answer["error_code"] == "SERVICE_UNAVAILABLE"
    })
    .await;
    let _ = postgres.sql("ALTER SYSTEM SET default_transaction_read_only = off");
    let _ = postgres.sql("SELECT pg_reload_conf()");
    eventually("it takes writes again", || async { serves(3).await }).await;
    let listed = ann.lock().await.request("watchlist.list", json!({})).await;
    let symbols: Vec<_> = listed["data"]["symbols"].as_array().expect("a list").to_vec();
    assert!(symbols.contains(&json!("S0")) && symbols.contains(&json!("S3")), "{listed}");

    // TDengine: cut, longer than the recorder's buffer lasts; then full; then with tables of another shape.
    let mut ann = ann.into_inner();
    for fault in [None, Some((0x0366, "no disk space")), Some((0x2602, "Invalid column name"))] {
        match fault {
            Some(fault) => stub.fail(Some(fault)),
            None => stub.stop().await,
        }
        let (until, end) = (least() + meanwhile, Instant::now() + DEADLINE);
        let mut refused = 0;
        while least() < until || refused == 0 {
            assert!(Instant::now() < end, "the push path goes on, and it is told");
            let answer = ann.request("get_market_data", market.clone()).await;
            refused += u32::from(answer["error_code"] == "SERVICE_UNAVAILABLE");
            assert_eq!(
                ann.request("watchlist.list", json!({})).await["success"],
                true,
                "the other store serves"
            );
            assert_eq!(Sandbox::http(addresses[1], "GET", "/readyz", "", "").await.status, 200);
            sleep(Duration::from_millis(20)).await;
        }
        match fault {
            Some(_) => stub.fail(None),
            None => stub.restart().await,
        }
        let until = feed.kept() as usize;
        eventually("what it missed is recorded from the log", || async { stub.kept("tick_data") >= until })
            .await;
    }
    let published = feed.stop().await as usize;
    eventually("every tick is recorded", || async { stub.kept("tick_data") >= published }).await;
    assert_eq!(stub.kept("tick_data"), published, "each once");
    for address in &addresses {
        assert_eq!(metric(*address, "tickmesh_recorder_lost_total").await, 0.0);
    }
    stop.store(true, Ordering::Relaxed);
    // One more, so that they look.
    post(addresses[0], "/api/v1/publish", r#"{"room":"market_T","event":"tick","data":{"price":1}}"#).await;
    while let Some(follower) = followers.join_next().await {
        follower.expect("nobody was disconnected, and nothing came out of order");
    }
    println!("{published} ticks");
}

/// `TICKMESH_TEST_KILLS` (2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_fire_once_whoever_looks_at_them() {
    let _alone = ALONE.lock().await;
    let redis = RedisServer::start();
    let postgres = PostgresServer::start();
    let stub = TaosStub::start().await;
    let (url, dsn) = (postgres.url(), stub.dsn());
    let environment = [("TICKMESH_POSTGRES__URL", url.as_str()), ("TICKMESH_TDENGINE__DSN", dsn.as_str())];
    let start = |n: usize| NodeProcess::start(&format!("n{n}"), &redis.url(), &environment);
    let mut nodes: Vec<NodeProcess> = (0..3).map(start).collect();
    for node in &nodes {
        eventually("the store is there", || async {
            metric(node.address(), "tickmesh_store_up{store=\"users\"}").await == 1.0
        })
        .await;
    }
    let headers = format!("Authorization: Bearer {}\r\n", token("ann", "user"));
    let create = |op: &str, once: bool| {
        json!({"symbol": "T", "field": "price", "op": op, "value": 100, "once": once}).to_string()
    };
    for body in [create("crosses", false), create(">", false), create(">", true)] {
        let made = Sandbox::http(nodes[0].address(), "POST", "/api/v1/alerts", &headers, &body).await;
        assert_eq!(made.status, 200, "{made:?}");
    }
    let mut price = 90.0;
    let mut crossings = 0u64;
    let kills = size("TICKMESH_TEST_KILLS", 2);
    for round in 0..=kills {
        let kept_by = if round == 0 {
            None
        } else {
            let kept_by = keeper(&nodes).await;
            nodes[kept_by].kill();
            Some(kept_by)
        };
        let alive = nodes[(kept_by.unwrap_or(0) + 1) % nodes.len()].address();
        // Nobody looks at some of these until another has taken over.
        for _ in 0..11 {
            price = if price < 100.0 { 110.0 } else { 90.0 };
            crossings += 1;
            let body = json!({"room": "market_T", "event": "tick", "data": {"price": price}}).to_string();
            let kept = post(alive, "/api/v1/publish", &body).await.expect("it lives");
            assert!(kept["results"][0]["seq"].is_u64(), "{kept}");
        }
        if let Some(kept_by) = kept_by {
            nodes[kept_by] = start(10 + round);
        }
    }
    // The first price sets the side, every other one of the 110s raises the second alert, and the third is over after one.
    let expected = HashMap::from([(1, crossings - 1), (2, crossings.div_ceil(2)), (3, 1)]);
    let pending = || async {
        let alerts = Sandbox::http(nodes[0].address(), "GET", "/api/v1/alerts", &headers, "").await;
        let mut hits: HashMap<u64, u64> = HashMap::new();
        for hit in alerts.json()["hits"].as_array().into_iter().flatten() {
            *hits.entry(hit["alert_id"].as_u64().unwrap_or_default()).or_default() += 1;
        }
        hits
    };
    eventually("every alert has fired as often as it should", || async { pending().await == expected }).await;
    // And is told of that often in the user's room.
    let told = || async {
        let history = "/api/v1/rooms/user_ann/history?limit=1000";
        let history = Sandbox::http(nodes[0].address(), "GET", history, &headers, "").await.json();
        let messages = history["messages"].as_array().cloned().unwrap_or_default();
        messages.iter().filter_map(|message| message["data"]["hit_id"].as_u64()).collect::<Vec<_>>()
    };
    let all = expected.values().sum::<u64>() as usize;
    eventually("the user is told of each", || async { told().await.len() >= all }).await;
    let mut told = told().await;
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), all, "of each once");
}

/// Redis comes back with its data and another epoch, and somebody else takes the room over: what was done with its messages
/// is not done again, and nothing is left out.
///
/// Slow: leases of two nodes end, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_life_of_the_log_is_taken_up_where_the_last_one_ended() {
    let _alone = ALONE.lock().await;
    let mut redis = RedisServer::append_only();
    let postgres = PostgresServer::start();
    let stub = TaosStub::start().await;
    let (url, dsn) = (postgres.url(), stub.dsn());
    let environment = [("TICKMESH_POSTGRES__URL", url.as_str()), ("TICKMESH_TDENGINE__DSN", dsn.as_str())];
    let broker = redis.url();
    let start = |n: usize| NodeProcess::start(&format!("n{n}"), &broker, &environment);
    let mut nodes: Vec<NodeProcess> = (0..2).map(start).collect();
    for node in &nodes {
        eventually("the store is there", || async {
            metric(node.address(), "tickmesh_store_up{store=\"users\"}").await == 1.0
        })
        .await;
    }
    let headers = format!("Authorization: Bearer {}\r\n", token("ann", "user"));
    let alert = json!({"symbol": "T", "field": "price", "op": ">", "value": 100}).to_string();
    let made = Sandbox::http(nodes[0].address(), "POST", "/api/v1/alerts", &headers, &alert).await;
    assert_eq!(made.status, 200, "{made:?}");
    let publish = async |address: SocketAddr, numbers: std::ops::Range<usize>| {
        for n in numbers {
            let data = json!({"price": 95 + n % 2 * 10});
            let body =
                json!({"room": "market_T", "event": "tick", "data": data, "message_id": format!("m{n}")});
            let body = body.to_string();
            eventually("the message is kept", || async {
                let kept = post(address, "/api/v1/publish", &body).await;
                kept.is_some_and(|kept| kept["results"][0]["seq"].is_u64())
            })
            .await;
        }
    };
    let state = async |address: SocketAddr| {
        let alerts = Sandbox::http(address, "GET", "/api/v1/alerts", &headers, "").await.json();
        let hits = alerts["hits"].as_array().map_or(0, Vec::len);
        let day = "/api/v1/market/T?data_type=kline&timeframe=1d";
        let bars = Sandbox::http(address, "GET", day, &headers, "").await.json();
        let bars = bars["rows"].as_array().cloned().unwrap_or_default();
        // At midnight there are two.
        (hits, stub.kept("tick_data"), bars.iter().filter_map(|bar| bar["ticks"].as_u64()).sum::<u64>())
    };
    publish(nodes[0].address(), 0..20).await;
    let address = nodes[0].address();
    eventually("all is done with the first", || async { state(address).await == (10, 20, 20) }).await;

    redis.kill();
    redis.restart();
    let kept_by = keeper(&nodes).await;
    nodes[kept_by].kill();
    let alive = nodes[1 - kept_by].address();
    publish(alive, 20..30).await;
    eventually("all is done with the second", || async { state(alive).await == (15, 30, 30) }).await;
    // Somebody who has seen neither goes through all of it.
    nodes[kept_by] = start(7);
    nodes[1 - kept_by].kill();
    let last = nodes[kept_by].address();
    publish(last, 30..40).await;
    eventually("all is done with the third", || async { state(last).await == (20, 40, 40) }).await;
}
