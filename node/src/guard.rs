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
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tickmesh_cluster::broker::memory::MemoryCluster;
use tickmesh_cluster::config::Live;
use tickmesh_edge::metrics::memory;
use tickmesh_protocol::memory::{Estimate, Level, Levels};
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

/// What operators see of it.
#[derive(Debug, Default)]
pub struct Gauge {
    level: AtomicU8,
    /// Bytes that are used, and that may be.
    used: AtomicU64,
    limit: AtomicU64,
    actions: [AtomicU64; Action::ALL.len()],
}

/// What the guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Shrink,
    Tighten,
    Refuse,
    Shed,
}

impl Action {
    const ALL: [Self; 4] = [Self::Shrink, Self::Tighten, Self::Refuse, Self::Shed];
}

impl Gauge {
    /// Names of the levels.
    pub const LEVELS: [Level; 4] = [Level::Normal, Level::Moderate, Level::High, Level::Critical];

    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        Self::LEVELS[usize::from(self.level.load(Ordering::Relaxed)).min(3)]
    }

    /// Bytes that were used when it looked last.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be used.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// What was done how often; of connections that were closed, how many.
    pub fn actions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |action: Action| self.actions[action as usize].load(Ordering::Relaxed);
        [
            ("shrink", count(Action::Shrink)),
            ("tighten", count(Action::Tighten)),
            ("refuse", count(Action::Refuse)),
            ("shed", count(Action::Shed)),
        ]
        .into_iter()
    }

    fn did(&self, action: Action, times: u64) {
        self.actions[action as usize].fetch_add(times, Ordering::Relaxed);
    }
}

/// Starts it, on the present runtime. It ends with it.
pub(crate) fn start(shared: Arc<Shared>, live: Arc<Live>, logs: Option<Arc<MemoryCluster>>) {
    let guard = Guard {
        shared,
        live,
        logs,
        levels: Levels::default(),
        estimate: Estimate::default(),
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
    levels: Levels,
    estimate: Estimate,
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
            let limit = if config.limit_bytes > 0 { Some(config.limit_bytes) } else { memory::limit() };
            let used = memory::used(config.limit_bytes > 0);
            let (Some(limit), Some(resident)) = (limit, used) else { continue };
            self.weigh(resident > limit / 2).await;
            let used = self.estimate.in_use(resident, self.held.1);
            let before = self.levels.level();
            let level = self.levels.look(used, limit, config.high_percent);
            let gauge = &self.shared.memory;
            gauge.used.store(used, Ordering::Relaxed);
            gauge.limit.store(limit, Ordering::Relaxed);
            if level != before {
                self.change(before, level, used, resident, limit);
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
        let logs = self.logs.as_ref().map_or(0, |logs| logs.bytes());
        let parked = self.shared.peers.parked() as u64 * PARKED;
        self.held = (Instant::now(), connections + logs + parked);
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

    fn change(&mut self, before: Level, level: Level, used: u64, resident: u64, limit: u64) {
        let shared = &self.shared;
        if level > before {
            tracing::warn!(level = level.name(), used, resident, limit, "memory is short");
        } else {
            tracing::info!(level = level.name(), used, resident, limit, "memory is less short");
        }
        let gauge = &shared.memory;
        gauge.level.store(level as u8, Ordering::Relaxed);
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
