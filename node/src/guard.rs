//! The memory guard: looks at what the process uses, and does something before the kernel does.
//!
//! | level | what is done, each on top of those before |
//! |---|---|
//! | moderate | logs and series that are kept in memory are made smaller, what is out of date there is thrown away |
//! | high | queues of connections are a quarter as long; no more connections are taken; what is kept in memory, sessions that wait for their client included, is halved again and again |
//! | critical | queues are a sixteenth as long; again and again some of the worst connections are closed (1013) |
//!
//! Invariants: everything but what was closed or thrown away is taken back when the level falls; with nobody to close,
//! nothing is closed. It must not know how memory is measured.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_cluster::broker::memory::MemoryCluster;
use tickmesh_cluster::config::Live;
use tickmesh_edge::guard::{Action, Judge, Sight};
use tickmesh_protocol::memory::Level;
use tokio::time::{Instant, sleep};

use crate::hub::{Request, Weight};
use crate::worker::Shared;

/// Of all connections, at most one in so many is closed at a time.
const SHED: usize = 50;
/// Looks before more is thrown away or closed: what that had is given back meanwhile.
const PAUSE: u32 = 2;
/// Between two times that sessions are asked what they hold.
const WEIGH: Duration = Duration::from_millis(500);
/// What a connection takes beside what waits for it, in bytes.
const CONNECTION: u64 = 10 * 1024;

/// What a session takes that waits for its client to come back, in bytes.
const PARKED: u64 = 2 * 1024;

/// Starts it, on the present runtime. It ends with it.
pub(crate) fn start(shared: Arc<Shared>, live: Arc<Live>, logs: Option<Arc<MemoryCluster>>) {
    let guard = Guard {
        shared,
        live,
        logs,
        judge: Judge::default(),
        held: (Instant::now(), 0),
        pause: 0,
        cleaned: Instant::now(),
    };
    tokio::spawn(guard.run());
}

struct Guard {
    shared: Arc<Shared>,
    live: Arc<Live>,
    /// Where they are in this process.
    logs: Option<Arc<MemoryCluster>>,
    judge: Judge,
    /// Bytes that are known to be held, and when that was looked at.
    held: (Instant, u64),
    /// Looks until more is thrown away or closed.
    pause: u32,
    cleaned: Instant,
}

impl Guard {
    async fn run(mut self) {
        loop {
            let config = self.live.now().memory;
            sleep(Duration::from_millis(config.interval_ms)).await;
            let Some(sight) = Sight::take(&config) else { continue };
            self.weigh(sight.is_much()).await;
            let (before, level) = self.judge.judge(&sight, self.held.1, &self.shared.memory);
            if level != before {
                self.change(before, level);
            }
            if level >= Level::High {
                self.relieve(level).await;
            }
            if self.cleaned.elapsed() >= Duration::from_millis(config.cleanup_ms) {
                self.cleaned = Instant::now();
                self.clean();
            }
        }
    }

    /// Looks at what is held, as often as it is needed.
    async fn weigh(&mut self, needed: bool) {
        if !needed || self.held.0.elapsed() < WEIGH {
            return;
        }
        let all = self.weights().await;
        let connections: u64 = all.iter().map(|(_, weight)| weight.queued() as u64 + CONNECTION).sum();
        let logs = self.logs.as_ref().map_or(0, |logs| logs.bytes().0 as u64);
        let stores: usize = self.shared.stores.memory.iter().map(|(_, bytes)| bytes().0).sum();
        let parked = self.shared.peers.parked() as u64 * PARKED;
        self.held = (Instant::now(), connections + logs + stores as u64 + parked);
    }

    /// What each session weighs, with the place of its hub.
    async fn weights(&self) -> Vec<(usize, Weight)> {
        let mut all = Vec::new();
        for (at, hub) in self.shared.hubs.iter().enumerate() {
            let weights = hub.ask(Request::Weigh).await.unwrap_or_default();
            all.extend(weights.into_iter().map(|weight| (at, weight)));
        }
        all
    }

    fn change(&mut self, before: Level, level: Level) {
        let (shared, gauge) = (&self.shared, &self.shared.memory);
        if let Some(logs) = &self.logs {
            logs.set_pressure(level as u32);
        }
        if level > before {
            self.clean();
            gauge.did(Action::Shrink, 1);
        }
        let is = |mark: Level| (before < mark && level >= mark, before >= mark && level < mark);
        if is(Level::High) != (false, false) || is(Level::Critical) != (false, false) {
            shared.policies.set_level(level);
        }
        if is(Level::High).0 {
            gauge.did(Action::Tighten, 1);
            gauge.did(Action::Refuse, 1);
        }
        shared.connections.set_short_of_memory(level >= Level::High);
        self.pause = 0;
    }

    /// Throws away what can be spared, and closes connections where that is not enough.
    async fn relieve(&mut self, level: Level) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        self.pause = PAUSE;
        if let Some(series) = &self.shared.stores.in_memory {
            series.halve();
        }
        if let Some(logs) = &self.logs {
            logs.halve();
        }
        self.shared.peers.halve_parked();
        if level == Level::Critical {
            self.shed().await;
        }
    }

    /// Throws away what is out of date.
    fn clean(&self) {
        if let Some(logs) = &self.logs {
            logs.sweep_now();
        }
        self.shared.peers.sweep_parked();
    }

    /// Closes some of the worst connections: those for which most waits, and of those for which nothing does, those with the
    /// worst quality.
    async fn shed(&self) {
        let mut all = self.weights().await;
        let count = all.len().div_ceil(SHED);
        if count == 0 {
            return;
        }
        all.select_nth_unstable_by(count - 1, |(_, a), (_, b)| a.cmp(b));
        let mut by_hub = vec![Vec::new(); self.shared.hubs.len()];
        all[..count].iter().for_each(|(at, weight)| by_hub[*at].push(weight.key));
        for (hub, keys) in self.shared.hubs.iter().zip(by_hub) {
            if !keys.is_empty() {
                hub.send(Request::Shed(keys)).await;
            }
        }
        self.shared.memory.did(Action::Shed, count as u64);
        tracing::warn!(count, of = all.len(), "connections are closed because memory is very short");
    }
}
