//! What every implementation of [`Members`] must do. It panics where a guarantee is broken.

use std::time::Duration;

use tokio::time::Instant;

use super::{Kind, LeaseError, Members, Report};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(10);

/// A report of a process that does nothing.
#[must_use]
pub fn report(id: &str, run: u64) -> Report {
    Report {
        id: id.into(),
        kind: Kind::Node,
        run,
        address: "127.0.0.1:1".into(),
        version: "0.0.0".into(),
        started_at: 1,
        draining: false,
        connections: 0,
        cpu_percent: 0.5,
        memory_bytes: 1,
        messages_per_s: 0.0,
        zone: String::new(),
        queue_delay_ms: 0.0,
        quality: 100.0,
    }
}

async fn ids(members: &dyn Members) -> Vec<String> {
    members.snapshot().await.expect("a snapshot").into_iter().map(|report| report.id).collect()
}

/// Runs every check, on leases that nobody else uses.
///
/// # Panics
/// When a guarantee is broken.
pub async fn run(members: &dyn Members) {
    members.join(&report("b", 1), LONG).await.expect("joined");
    members.join(&Report { kind: Kind::Gateway, ..report("a", 2) }, LONG).await.expect("joined");
    assert_eq!(ids(members).await, ["a", "b"]);

    let newer = Report { connections: 7, draining: true, ..report("b", 1) };
    members.renew(&newer, LONG).await.expect("renewed");
    let all = members.snapshot().await.expect("a snapshot");
    assert_eq!(all[1], newer, "the newest report");
    assert_eq!(all[0].kind, Kind::Gateway);

    members.join(&report("b", 3), LONG).await.expect("a later run takes the id");
    assert_eq!(members.renew(&newer, LONG).await, Err(LeaseError::Replaced));
    members.leave("b", 1).await.expect("asked");
    assert_eq!(ids(members).await, ["a", "b"], "an earlier run cannot give it up");
    members.leave("b", 3).await.expect("left");
    members.leave("a", 2).await.expect("left");
    assert!(ids(members).await.is_empty());

    members.join(&report("c", 4), SHORT).await.expect("joined");
    let begun = Instant::now();
    for _ in 0..10 {
        members.renew(&report("c", 4), SHORT).await.expect("renewed");
        assert_eq!(ids(members).await, ["c"], "there while it is renewed");
        tokio::time::sleep(SHORT / 6).await;
    }
    assert!(begun.elapsed() > SHORT);
    let end = Instant::now() + DEADLINE;
    while !ids(members).await.is_empty() {
        assert!(Instant::now() < end, "a lease ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    members.renew(&report("c", 4), SHORT).await.expect("taken again, since nobody has it");
    members.leave("c", 4).await.expect("left");
}
