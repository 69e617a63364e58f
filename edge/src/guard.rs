//! What the memory guards of nodes and gateways have in common: how they look at memory, and what operators see of it.
//!
//! It must not know what a guard does.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use strum::IntoStaticStr;
use tickmesh_cluster::config::MemoryConfig;
use tickmesh_protocol::memory::{Estimate, Level, Levels};

use crate::metrics::{Figures, memory};

/// What operators see.
#[derive(Debug, Default)]
pub struct Gauge {
    level: AtomicU8,
    /// Bytes that are used, and that may be.
    used: AtomicU64,
    limit: AtomicU64,
    actions: [AtomicU64; Action::ALL.len()],
}

/// What a guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Action {
    /// What is kept in memory is made smaller.
    Shrink,
    /// Less may wait for each connection.
    Tighten,
    /// No more connections are taken.
    Refuse,
    /// A connection is closed.
    Shed,
}

impl Action {
    /// All of them.
    const ALL: [Self; 4] = [Self::Shrink, Self::Tighten, Self::Refuse, Self::Shed];

    fn name(self) -> &'static str {
        self.into()
    }
}

impl Gauge {
    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::ALL[usize::from(self.level.load(Ordering::Relaxed)).min(Level::ALL.len() - 1)]
    }

    /// Bytes that were used when it was looked last.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be used.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Counts what was done; of connections that were closed, each.
    pub fn did(&self, action: Action, times: u64) {
        self.actions[action as usize].fetch_add(times, Ordering::Relaxed);
    }

    fn count(&self, action: Action) -> u64 {
        self.actions[action as usize].load(Ordering::Relaxed)
    }
}

/// The gauge in the metrics.
#[derive(Debug)]
pub struct Shown(pub Arc<Gauge>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(gauge) = self;
        let (figures, now) = (&mut Figures(&mut encoder), gauge.level());
        let levels = Level::ALL.map(|one| ([("level", one.name())], u64::from(one == now)));
        figures.gauges("memory_level", "1 for how short memory is now", levels)?;
        let text = "Memory that is in use, by the guard's estimate";
        figures.gauge("memory_used_bytes", text, gauge.used())?;
        let text = "What the memory guard did; of connections closed (shed), how many";
        let actions = Action::ALL.map(|action| ([("action", action.name())], gauge.count(action)));
        figures.counters("memory_actions", text, actions)
    }
}

/// What is seen at one look.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Bytes that are resident, or charged.
    pub resident: u64,
    /// Bytes that there may be.
    pub limit: u64,
    high_percent: u8,
}

impl Sight {
    /// Looks; none where the system says nothing.
    #[must_use]
    pub fn take(config: &MemoryConfig) -> Option<Self> {
        let configured = (config.limit_bytes > 0).then_some(config.limit_bytes);
        let limit = configured.or_else(memory::limit)?;
        let resident = memory::used(configured.is_some())?;
        Some(Self { resident, limit, high_percent: config.high_percent })
    }

    /// Whether it is so much that it matters what the allocator keeps of it: from half of what is high.
    #[must_use]
    pub fn is_much(&self) -> bool {
        self.resident > self.limit / 200 * u64::from(self.high_percent)
    }
}

/// Judges what is seen, by what was seen before.
#[derive(Debug, Default)]
pub struct Judge {
    levels: Levels,
    estimate: Estimate,
}

impl Judge {
    /// The level until now and from now on, where so many bytes are known to be held; the gauge shows it.
    pub fn judge(&mut self, sight: &Sight, held: u64, gauge: &Gauge) -> (Level, Level) {
        let used = if sight.is_much() { self.estimate.in_use(sight.resident, held) } else { sight.resident };
        let before = self.levels.level();
        let level = self.levels.look(used, sight.limit, sight.high_percent);
        gauge.used.store(used, Ordering::Relaxed);
        gauge.limit.store(sight.limit, Ordering::Relaxed);
        gauge.level.store(level as u8, Ordering::Relaxed);
        if level > before {
            let Sight { resident, limit, .. } = sight;
            tracing::warn!(level = level.name(), used, resident, limit, "memory is short");
        } else if level < before {
            tracing::info!(level = level.name(), used, "memory is less short");
        }
        (before, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_below_the_marks_all_that_is_resident_counts_and_above_only_what_is_in_use() {
        let (mut judge, gauge) = (Judge::default(), Gauge::default());
        let mut look = |resident, held| {
            let levels = judge.judge(&Sight { resident, limit: 1_000, high_percent: 80 }, held, &gauge);
            (levels.1, gauge.used())
        };
        // However long: nothing wears off.
        assert!((0..10_000).all(|_| look(300, 0) == (Level::Normal, 300)));
        assert_eq!(look(850, 600), (Level::High, 850));
        let mut last = (Level::High, 0);
        for _ in 0..20 {
            last = look(850, 0);
        }
        assert!(last.0 == Level::Normal && last.1 < 300, "600 were given back: {last:?}");
    }
}
