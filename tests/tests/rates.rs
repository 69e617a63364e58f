//! Promise 6: who asks too often is told so, and when to try again; and nothing of it is done.

use serde_json::{Value, json};
use tickmesh_tests::{Answer, Client, DEADLINE, Sandbox, eventually};
use tokio::time::{Duration, Instant, sleep};

fn message(n: usize) -> Value {
    json!({"room": "market_1", "event": "e", "data": n})
}

async fn seq(sandbox: &Sandbox) -> u64 {
    sandbox.get("/api/v1/rooms/market_1/history").await.json()["seq"].as_u64().unwrap_or(0)
}

/// The first answer that says that it is too much. On a busy machine there may be time for some more before.
async fn refused(ask: impl AsyncFn() -> Answer) -> Answer {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = ask().await;
        if answer.status == 429 {
            return answer;
        }
        assert!(answer.status == 200 && Instant::now() < end, "{answer:?}");
    }
}

#[tokio::test]
async fn publishes_of_a_connection_beyond_its_rate_are_refused_and_not_kept() {
    let sandbox = Sandbox::with(1, |config| {
        config.rate.publishes_per_s = 1;
        config.rate.burst_s = 3;
    });
    let mut client = sandbox.client().await;
    let (mut kept, mut refused) = (0, 0);
    for n in 0..20 {
        let answer = client.request("publish", message(n)).await;
        match answer["error_code"].as_str() {
            None => kept += 1,
            Some(code) => {
                assert_eq!(code, "RATE_LIMIT_EXCEEDED", "{answer}");
                let wait = answer["error_details"]["retry_after_ms"].as_u64().expect("a time");
                assert!((1..=1_000).contains(&wait), "{answer}");
                refused += 1;
            }
        }
    }
    assert!(kept >= 3 && refused > 0, "{kept} {refused}");
    assert_eq!(seq(&sandbox).await, kept);
    // Others have their own.
    assert_eq!(sandbox.client().await.request("publish", message(0)).await["success"], true);
    let errors = r#"tickmesh_request_errors_total{code="RATE_LIMIT_EXCEEDED"}"#;
    let line = format!("{errors} {refused}");
    eventually("they are counted", || async {
        sandbox.get("/metrics").await.body.lines().any(|have| have == line)
    })
    .await;
    let end = Instant::now() + DEADLINE;
    while client.request("publish", message(0)).await["success"] != true {
        assert!(Instant::now() < end, "it may again");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn publishes_over_http_beyond_the_rate_are_429_with_retry_after() {
    let sandbox = Sandbox::with(1, |config| {
        config.rate.http_publishes_per_s = 1;
        config.rate.burst_s = 4;
    });
    let batch = json!({ "messages": (0..10).map(message).collect::<Vec<_>>() });
    let some = sandbox.post(0, "/api/v1/publish", &batch).await;
    assert_eq!(some.status, 200, "some are kept: {some:?}");
    let some = some.json();
    let results = some["results"].as_array().expect("results");
    let kept = results.iter().take_while(|result| result["seq"].is_u64()).count();
    assert!((4..=5).contains(&kept), "{results:?}");
    for refused in &results[kept..] {
        assert_eq!(refused["error_code"], "RATE_LIMIT_EXCEEDED", "those behind are refused as well");
        assert!(refused["error_details"]["retry_after_ms"].as_u64().is_some_and(|ms| ms <= 1_000));
    }
    let none = sandbox.post(0, "/api/v1/publish", &batch).await;
    if none.status != 200 {
        assert_eq!(none.status, 429, "{none:?}");
        assert!(none.head.to_lowercase().contains("retry-after: 1\r\n"), "{none:?}");
    }
    let notice = json!({"event": "n", "data": 1});
    let refused = refused(async || sandbox.post(0, "/api/v1/users/bob/notify", &notice).await).await;
    assert!(refused.head.to_lowercase().contains("retry-after: 1"), "{refused:?}");
    assert_eq!(refused.json()["error_code"], "RATE_LIMIT_EXCEEDED");
    assert!(seq(&sandbox).await < 10, "what was refused is not kept");
}

#[tokio::test]
async fn an_address_that_connects_too_fast_gets_429() {
    let sandbox = Sandbox::with(1, |config| {
        config.rate.connects_per_s = 1;
        config.rate.burst_s = 3;
    });
    let (mut refused, began) = (0, Instant::now());
    for _ in 0..10 {
        match Client::try_connect(sandbox.address(0), "", &[]).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status, 429);
                refused += 1;
            }
        }
    }
    // Three at once, and one more for each second that it took.
    let least = 6_u64.saturating_sub(began.elapsed().as_secs());
    assert!((least..=7).contains(&refused), "{refused} of at least {least}");
    let poll = self::refused(async || sandbox.get("/socket.io/?EIO=4&transport=polling").await).await;
    assert!(poll.head.to_lowercase().contains("retry-after: "), "{poll:?}");
    let metrics = sandbox.get("/metrics").await.body;
    let line = format!(r#"tickmesh_connections_refused_total{{cause="rate"}} {}"#, refused + 1);
    assert!(metrics.lines().any(|have| have == line), "{metrics}");
    eventually("it may come again", || async {
        Client::try_connect(sandbox.address(0), "", &[]).await.is_ok()
    })
    .await;
}
