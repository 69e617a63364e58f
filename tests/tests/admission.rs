//! Who is let in, who stays, and who waits for a turn.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tickmesh_cluster::config::{AcceptRate, Secret};
use tickmesh_edge::jwt::encode;
use tickmesh_tests::{Client, DEADLINE, SECRET, Sandbox, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

fn token(user: &str) -> String {
    let claims = json!({"sub": user, "exp": 4_000_000_000u64});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signed")
}

#[tokio::test]
async fn a_user_has_no_more_connections_than_allowed_and_gets_a_place_back() {
    let sandbox = Sandbox::with(1, |config| {
        config.auth.jwt_secret = Secret::new(SECRET);
        config.limits.max_connections_per_user = 2;
    });
    let enter = |user: &str| {
        let (address, query) = (sandbox.address(0), format!("?token={}", token(user)));
        async move { Client::try_connect(address, &query, &[]).await }
    };
    let first = enter("alice").await.expect("let in");
    let _second = enter("alice").await.expect("let in");
    let mut third = enter("alice").await.expect("greeted, and then");
    let error = third.next().await;
    assert_eq!(error["error_code"], "RATE_LIMIT_EXCEEDED", "{error}");
    assert_eq!(error["error_details"], json!({ "max_connections_per_user": 2 }));
    assert_eq!(third.closed().await, 1008);
    let _other = enter("bob").await.expect("another user");
    // Who came without a token and turns out to be one too many is no better off.
    let mut late = sandbox.client().await;
    assert_eq!(late.request("auth", json!({ "token": token("alice") })).await["success"], true);
    assert_eq!(late.next().await["error_code"], "RATE_LIMIT_EXCEEDED");
    assert_eq!(late.closed().await, 1008);
    drop(first);
    eventually("a place is free", || async {
        let mut again = enter("alice").await.expect("greeted");
        let time = json!({"type": "request", "request_id": "t", "action": "time"});
        again.try_send(&time).await && again.try_next().await.is_ok_and(|answer| answer["success"] == true)
    })
    .await;
}

#[tokio::test]
async fn who_does_nothing_is_closed_with_4004_and_who_follows_a_room_is_not() {
    let sandbox = Sandbox::with(1, |config| {
        config.limits.stale_s = 1;
        config.heartbeat.ping_interval_ms = 200;
    });
    let mut idle = sandbox.client().await;
    let mut follower = sandbox.client().await;
    follower.subscribe("market_1", json!({})).await;
    let began = Instant::now();
    let following = timeout(Duration::from_secs(3), follower.next());
    let (closed, stayed) = tokio::join!(idle.closed(), following);
    assert_eq!(closed, 4004);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(stayed.is_err(), "nothing happens to who follows a room: {stayed:?}");
    let last = sandbox.publish("market_1", json!(1)).await;
    follower.read_until("market_1", last).await;
}

#[tokio::test]
async fn states_are_shown_for_each_session_and_counted() {
    let sandbox = Sandbox::with(1, |config| {
        config.limits.stale_s = 2;
        config.heartbeat.ping_interval_ms = 200;
    });
    let mut follower = sandbox.client().await;
    follower.subscribe("market_1", json!({})).await;
    let state = async |state: &str| {
        let line = format!(r#"tickmesh_session_states{{state="{state}"}} 1"#);
        let counted = sandbox.get("/metrics").await.body.lines().any(|have| have == line);
        let sessions = sandbox.get("/api/v1/sessions").await.json();
        counted && sessions["sessions"][0]["state"] == state
    };
    let active = async |follower: &mut Client| {
        let end = Instant::now() + DEADLINE;
        while !state("active").await {
            assert!(Instant::now() < end, "it has messages and answers");
            let last = sandbox.publish("market_1", json!(1)).await;
            follower.read_until("market_1", last).await;
        }
    };
    active(&mut follower).await;
    // A client that is not polled answers no pings, as one whose network is gone.
    eventually("it is broken", || async { state("broken").await }).await;
    active(&mut follower).await;
    let end = Instant::now() + DEADLINE;
    while !state("idle").await {
        assert!(Instant::now() < end, "it answers and does nothing else");
        // It answers pings as long as it is polled.
        let nothing = timeout(Duration::from_millis(200), follower.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
}

#[tokio::test]
async fn a_crowd_is_served_in_turns_and_disturbs_nobody() {
    let sandbox = Sandbox::with(1, |config| {
        config.limits.accept_per_second = AcceptRate::Fixed(100);
        config.limits.accept_queue = 1_000;
    });
    let mut here = sandbox.client().await;
    let (address, began) = (sandbox.address(0), Instant::now());
    let mut crowd = JoinSet::new();
    for _ in 0..200 {
        crowd.spawn(async move { Client::connect(address, "").await });
    }
    let waiting = async || {
        let metrics = sandbox.get("/metrics").await.body;
        let count = metrics.lines().find_map(|line| line.strip_prefix("tickmesh_connections_waiting "));
        count.and_then(|count| count.parse::<usize>().ok()).unwrap_or_else(|| panic!("{metrics}"))
    };
    let (mut held, mut served) = (Vec::new(), 0);
    while held.len() < 200 {
        tokio::select! {
            Some(client) = crowd.join_next() => held.push(client.expect("let in")),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        assert_eq!(here.request("time", json!({})).await["success"], true);
        if held.len() % 20 == 10 && waiting().await > 0 {
            served += 1;
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(1_800), "{:?}", began.elapsed());
    assert!(served > 0, "who is in is served while others wait");
}

#[tokio::test]
async fn beyond_the_queue_clients_are_refused_early_with_the_time_of_the_next_turn() {
    let sandbox = Sandbox::with(1, |config| {
        config.limits.accept_per_second = AcceptRate::Fixed(2);
        config.limits.accept_queue = 4;
    });
    let (address, began) = (sandbox.address(0), Instant::now());
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        crowd.spawn(async move { Client::try_connect(address, "", &[]).await.map(drop) });
    }
    let outcomes: Vec<_> = crowd.join_all().await;
    let served = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(503))), "{outcomes:?}");
    // Those at once, those that wait, and two more for each second in which some of them came.
    let most = 7 + 2 * began.elapsed().as_secs() as usize;
    assert!((5..=most).contains(&served), "{served} of at most {most}");
    let refused = sandbox.get("/metrics").await.body;
    let line = format!(r#"tickmesh_connections_refused_total{{cause="busy"}} {}"#, 20 - served);
    assert!(refused.lines().any(|have| have == line), "{refused}");
}

#[tokio::test]
async fn hundreds_that_are_lost_at_once_leave_nothing_behind_and_their_places_are_free() {
    const MANY: usize = 400;
    let sandbox = Sandbox::with(1, |config| config.limits.max_connections = MANY);
    let open = async || {
        let mut crowd = JoinSet::new();
        for _ in 0..MANY {
            let address = sandbox.address(0);
            crowd.spawn(async move {
                let mut client = Client::connect(address, "").await;
                client.subscribe("crowded", json!({})).await;
                client
            });
        }
        crowd.join_all().await
    };
    let subscribers = async || sandbox.get("/api/v1/rooms/crowded").await.json()["subscribers"].clone();
    let held = open().await;
    assert_eq!(subscribers().await, json!(MANY));
    drop(held);
    let connections = async || {
        let metrics = sandbox.get("/metrics").await.body;
        metrics.lines().find_map(|line| line.strip_prefix("tickmesh_connections ")?.parse::<usize>().ok())
    };
    // What asks is a connection, too, where it is counted.
    eventually("all places are free", || async { connections().await.is_some_and(|open| open <= 1) }).await;
    eventually("nobody is left in the room", || async {
        sandbox.get("/api/v1/rooms/crowded").await.json()["error_code"] == "ROOM_NOT_FOUND"
    })
    .await;
    let held = open().await;
    assert_eq!(subscribers().await, json!(MANY));
    drop(held);
}
