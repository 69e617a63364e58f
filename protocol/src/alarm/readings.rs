//! What each rule looks at.

use std::collections::BTreeMap;

use super::rules::RuleName;
use crate::vitals::{Kind, NodeVitals, Vitals};

/// A process that is lost is held to be news for so long, in milliseconds; it may never come back under its name.
const LOST_HOLD_MS: u64 = 10 * 60_000;

/// What is known at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// UTC milliseconds.
    pub at: u64,
    /// The newest vitals of each process that is there.
    pub vitals: &'a BTreeMap<String, Vitals>,
    /// Processes that were lost and have not come back, and when that was.
    pub lost: &'a BTreeMap<String, (Kind, u64)>,
    /// The process that looks does not reach Redis, and so knows nothing but that.
    pub cut_off: Option<&'a str>,
    /// Since when some market has been open; none while all are closed.
    pub market_open_since: Option<u64>,
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Whose.
    pub rule: RuleName,
    /// Of what; empty for the whole cluster.
    pub subject: String,
    /// The figure.
    pub value: f64,
}

/// All figures that there are.
#[must_use]
pub fn readings(sample: &Sample<'_>) -> Vec<Reading> {
    let mut all = Vec::new();
    let mut read = |rule: RuleName, subject: &str, value: f64| {
        all.push(Reading { rule, subject: subject.to_owned(), value });
    };
    if let Some(me) = sample.cut_off {
        read(RuleName::RedisAway, me, 1.0);
        return all;
    }
    let nodes = || sample.vitals.values().filter_map(|one| Some((one, one.node.as_ref()?)));
    if nodes().next().is_some() {
        let sessions: u64 = nodes().map(|(_, node)| node.sessions).sum();
        read(RuleName::ConnectionsHigh, "", sessions as f64);
        read(RuleName::ConnectionsVeryHigh, "", sessions as f64);
    }
    for one in sample.vitals.values() {
        if one.memory_limit_bytes > 0 {
            let percent = one.memory_bytes as f64 * 100.0 / one.memory_limit_bytes as f64;
            read(RuleName::MemoryHigh, &one.id, percent);
            read(RuleName::MemoryVeryHigh, &one.id, percent);
        }
    }
    for (one, node) in nodes() {
        of_node(one, node, &mut read);
    }
    for (id, (kind, at)) in sample.lost {
        let rule = if *kind == Kind::Node { RuleName::NodeLost } else { RuleName::GatewayLost };
        let lasts = sample.at.saturating_sub(*at) < LOST_HOLD_MS;
        read(rule, id, f64::from(u8::from(lasts)));
    }
    let newest = nodes().map(|(_, node)| node.market_newest_at).max().unwrap_or(0);
    if let Some(open) = sample.market_open_since
        && newest > 0
    {
        let silent = sample.at.saturating_sub(newest.max(open));
        read(RuleName::MarketSilent, "", silent as f64 / 1_000.0);
    }
    all
}

fn of_node(one: &Vitals, node: &NodeVitals, read: &mut impl FnMut(RuleName, &str, f64)) {
    let id = &one.id;
    // Where nothing is written there is nothing slow.
    let p99 = node.latency_ms.p99.unwrap_or(0.0);
    read(RuleName::LatencyHigh, id, p99);
    read(RuleName::LatencyVeryHigh, id, p99);
    read(RuleName::MarketLatencyHigh, id, node.market_latency_ms.p95.unwrap_or(0.0));
    read(RuleName::ErrorRateHigh, id, node.errors_per_s);
    read(RuleName::QualityLow, id, one.quality);
    if let Some(up) = node.redis_up {
        read(RuleName::RedisAway, id, f64::from(u8::from(!up)));
    }
    for (name, store) in &node.stores {
        let subject = format!("{id}:{name}");
        read(RuleName::StoreAway, &subject, f64::from(u8::from(!store.up)));
        if store.max > 0 {
            read(RuleName::PoolBusy, &subject, store.in_use as f64 * 100.0 / store.max as f64);
        }
    }
}

impl RuleName {
    /// What an alarm says.
    pub(super) fn text(self, subject: &str, value: f64) -> String {
        let store = |what: &str| match subject.split_once(':') {
            Some((node, store)) => format!("node {node} {what} the store \"{store}\""),
            None => format!("{subject} {what} a store"),
        };
        match self {
            Self::ConnectionsHigh | Self::ConnectionsVeryHigh => format!("{value:.0} clients in the cluster"),
            Self::LatencyHigh | Self::LatencyVeryHigh => {
                format!("p99 from acceptance to write is {value:.0} ms at node {subject}")
            }
            Self::ErrorRateHigh => format!("{value:.1} errors a second at node {subject}"),
            Self::QualityLow => {
                format!("connections of node {subject} have a quality of {value:.0} on average")
            }
            Self::MemoryHigh | Self::MemoryVeryHigh => format!("{subject} uses {value:.0} % of its memory"),
            Self::RedisAway => format!("node {subject} does not reach Redis"),
            Self::StoreAway => store("does not reach"),
            Self::NodeLost => format!("node {subject} is lost"),
            Self::GatewayLost => format!("gateway {subject} is lost"),
            Self::MarketLatencyHigh => {
                format!("p95 from acceptance to write of market data is {value:.0} ms at node {subject}")
            }
            Self::MarketSilent => format!("no market data for {value:.0} s"),
            Self::PoolBusy => store(&format!("uses {value:.0} % of its connections to")),
        }
    }
}
