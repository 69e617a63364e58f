//! A node under mixed load stays as it is: memory, file descriptors, threads. Half a minute here;
//! `TICKMESH_TEST_SECONDS=3600` makes it an hour.

use std::process::Stdio;

use serde_json::Value;
use tickmesh_tests::{NodeProcess, binary, eventually};
use tokio::process::Command;

const SECONDS: u64 = 30;

fn open_files(node: &NodeProcess) -> usize {
    let path = format!("/proc/{}/fd", node.pid());
    std::fs::read_dir(&path).map_or_else(|error| panic!("{path}: {error}"), Iterator::count)
}

/// Slow: what grows shows over time: half a minute.
#[tokio::test]
async fn nothing_grows_under_mixed_load_and_nothing_is_left_after_it() {
    let seconds = std::env::var("TICKMESH_TEST_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |text| text.parse().expect("TICKMESH_TEST_SECONDS is a number"));
    let node = NodeProcess::start("a", "memory", &[]);
    let before = open_files(&node);
    let (url, length) = (format!("ws://{}", node.address()), format!("{seconds}s"));
    let mut soak = Command::new(binary());
    soak.args(["bench", "soak", "--json", "--via", &url, "--for", &length]);
    let output = soak.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it can be started");
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    println!("{report:#}");
    assert!(output.status.success(), "{:#}", report["failed"]);
    assert!(report["visits"].as_u64() > Some(100), "clients came and went");
    eventually("the node has let go of all clients", || async { open_files(&node) <= before + 8 }).await;
}
