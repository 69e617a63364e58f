use std::collections::BTreeMap;

use super::*;
use crate::vitals::{Kind, NodeVitals, Vitals};

const SECOND: u64 = 1_000;

/// A cluster whose figures a test sets, looked at once a second.
struct World {
    at: u64,
    rules: Vec<Rule>,
    engine: Engine,
    vitals: BTreeMap<String, Vitals>,
    lost: BTreeMap<String, (Kind, u64)>,
    cut_off: Option<&'static str>,
    market_open_since: Option<u64>,
}

impl World {
    fn new(rules: Vec<Rule>) -> Self {
        let (vitals, lost) = Default::default();
        let engine = Engine::default();
        Self { at: 1_000_000, rules, engine, vitals, lost, cut_off: None, market_open_since: None }
    }

    fn node(&mut self, id: &str, change: impl FnOnce(&mut Vitals, &mut NodeVitals)) {
        let text = format!(r#"{{"id":"{id}","kind":"node","run":1,"at":0,"sessions":0,"quality":100}}"#);
        let mut vitals: Vitals =
            self.vitals.remove(id).unwrap_or_else(|| serde_json::from_str(&text).unwrap());
        let mut node = vitals.node.take().unwrap();
        change(&mut vitals, &mut node);
        vitals.node = Some(node);
        self.vitals.insert(id.to_owned(), vitals);
    }

    fn look(&mut self) -> Vec<Alarm> {
        let Self { at, vitals, lost, cut_off, market_open_since, .. } = self;
        let sample =
            Sample { at: *at, vitals, lost, cut_off: *cut_off, market_open_since: *market_open_since };
        self.engine.look(&self.rules, &sample)
    }

    fn remember(&mut self) {
        let Self { at, vitals, lost, .. } = self;
        let sample = Sample { at: *at, vitals, lost, cut_off: None, market_open_since: None };
        self.engine.remember(&self.rules, &sample);
    }

    /// Looks for so many seconds, and gives what changed, with the second in which it did.
    fn pass(&mut self, seconds: u64) -> Vec<(u64, Alarm)> {
        let mut told = Vec::new();
        for second in 1..=seconds {
            self.at += SECOND;
            told.extend(self.look().into_iter().map(|alarm| (second, alarm)));
        }
        told
    }
}

fn rule(name: RuleName, threshold: f64, clear: f64, for_s: u64, clear_for_s: u64) -> Rule {
    let (for_ms, clear_for_ms) = (for_s * SECOND, clear_for_s * SECOND);
    Rule { name, enabled: true, severity: Severity::Warning, threshold, clear, for_ms, clear_for_ms }
}

fn sessions(world: &mut World, count: u64) {
    world.node("a", |_, node| node.sessions = count);
}

#[test]
fn a_condition_has_to_last_and_so_has_its_end() {
    let mut world = World::new(vec![rule(RuleName::ConnectionsHigh, 1_000.0, 900.0, 5, 3)]);
    sessions(&mut world, 1_000);
    assert!(world.pass(20).is_empty(), "the threshold itself is allowed");
    sessions(&mut world, 1_001);
    assert!(world.pass(5).is_empty(), "five seconds have not passed since the first of these figures");
    sessions(&mut world, 1_000);
    assert!(world.pass(1).is_empty());
    sessions(&mut world, 1_001);
    let told = world.pass(30);
    assert_eq!(told.len(), 1, "once, and from the beginning again: {told:?}");
    let (second, alarm) = &told[0];
    assert_eq!((*second, alarm.id.as_str(), alarm.value, alarm.change), (6, "connections_high", 1_001.0, 1));
    assert_eq!((alarm.since, alarm.threshold, alarm.state), (alarm.at, 1_000.0, State::Firing));
    sessions(&mut world, 950);
    assert!(world.pass(60).is_empty(), "between the two figures it stays");
    sessions(&mut world, 900);
    assert!(world.pass(3).is_empty());
    sessions(&mut world, 901);
    assert!(world.pass(1).is_empty());
    sessions(&mut world, 900);
    let told = world.pass(10);
    assert_eq!(told.len(), 1);
    let (second, over) = &told[0];
    assert_eq!((*second, over.state, over.since, over.change), (4, State::Resolved, alarm.since, 2));
    assert_eq!(world.engine.firing().count(), 0);
    sessions(&mut world, 5_000);
    assert_eq!(world.pass(6).len(), 1, "it can come again");
}

#[test]
fn sessions_of_all_nodes_count_together_and_quality_fires_below() {
    let rules =
        vec![rule(RuleName::ConnectionsHigh, 10.0, 10.0, 0, 0), rule(RuleName::QualityLow, 60.0, 65.0, 0, 0)];
    let mut world = World::new(rules);
    for id in ["a", "b"] {
        world.node(id, |_, node| node.sessions = 6);
    }
    world.node("b", |vitals, _| vitals.quality = 59.0);
    let told = world.pass(1);
    let ids: Vec<_> = told.iter().map(|(_, alarm)| alarm.id.as_str()).collect();
    assert_eq!(ids, ["connections_high", "quality_low:b"]);
    world.node("b", |vitals, _| vitals.quality = 64.0);
    assert!(world.pass(5).is_empty());
    world.node("b", |vitals, _| vitals.quality = 65.0);
    assert_eq!(world.pass(1)[0].1.state, State::Resolved);
}

#[test]
fn each_rule_reads_its_own_figure() {
    let mut world = World::new(default_rules());
    world.rules.iter_mut().for_each(|rule| (rule.for_ms, rule.clear_for_ms) = (0, 0));
    world.node("a", |vitals, node| {
        (vitals.memory_bytes, vitals.memory_limit_bytes, vitals.quality) = (95, 100, 10.0);
        node.sessions = 6_000;
        (node.latency_ms.p99, node.market_latency_ms.p95) = (Some(1_500.0), Some(2_500.0));
        node.errors_per_s = 11.0;
        node.redis_up = Some(false);
        node.market_newest_at = 1;
        let store = crate::vitals::StoreVitals { up: false, connections: 9, in_use: 9, max: 10 };
        node.stores.insert("users".into(), store);
    });
    world.lost.insert("x".into(), (Kind::Node, world.at));
    world.lost.insert("y".into(), (Kind::Gateway, world.at));
    world.market_open_since = Some(world.at - 121 * SECOND);
    let told: BTreeMap<_, _> =
        world.pass(1).into_iter().map(|(_, alarm)| (alarm.rule.clone(), alarm)).collect();
    assert_eq!(told.len(), RuleName::ALL.len(), "{:?}", told.keys());
    assert_eq!(told["pool_busy"].id, "pool_busy:a:users");
    assert_eq!(told["pool_busy"].text, "node a uses 90 % of its connections to the store \"users\"");
    assert_eq!(told["node_lost"].text, "node x is lost");
    assert_eq!(told["market_silent"].value, 122.0);
    world.node("a", |vitals, node| {
        (vitals.memory_bytes, vitals.quality) = (10, 90.0);
        node.sessions = 1;
        (node.latency_ms.p99, node.market_latency_ms.p95) = (None, None);
        (node.errors_per_s, node.redis_up) = (0.0, Some(true));
        node.stores.clear();
    });
    world.lost.clear();
    world.market_open_since = None;
    let over = world.pass(12);
    assert_eq!(over.len(), RuleName::ALL.len(), "{over:?}");
    assert!(over.iter().all(|(_, alarm)| alarm.state == State::Resolved));
}

#[test]
fn a_lost_process_is_over_when_it_is_back_or_no_news_any_more() {
    let mut world = World::new(vec![rule(RuleName::NodeLost, 0.0, 0.0, 0, 0)]);
    world.lost.insert("b".into(), (Kind::Node, world.at));
    world.lost.insert("c".into(), (Kind::Node, world.at));
    assert_eq!(world.pass(1).len(), 2);
    world.lost.remove("b");
    let told = world.pass(30);
    assert_eq!((told.len(), told[0].1.id.as_str()), (1, "node_lost:b"));
    let told = world.pass(600);
    assert_eq!((told.len(), told[0].1.id.as_str()), (1, "node_lost:c"));
}

#[test]
fn what_is_gone_is_over_and_a_gap_is_no_stretch() {
    let mut world = World::new(vec![rule(RuleName::LatencyHigh, 100.0, 100.0, 5, 60)]);
    let slow = |world: &mut World| world.node("a", |_, node| node.latency_ms.p99 = Some(500.0));
    slow(&mut world);
    world.pass(4);
    world.at += 20 * SECOND;
    assert!(world.pass(5).is_empty(), "what was before the gap does not count");
    assert_eq!(world.pass(1).len(), 1);
    world.vitals.clear();
    assert!(world.pass(9).is_empty(), "a few seconds without figures are not the end");
    let told = world.pass(1);
    assert_eq!(told[0].1.state, State::Resolved, "who is not there is not slow");
    assert!(world.pass(30).is_empty());
}

#[test]
fn who_is_cut_off_says_that_alone_and_keeps_the_rest_as_it_was() {
    let rules =
        vec![rule(RuleName::LatencyHigh, 100.0, 100.0, 0, 0), rule(RuleName::RedisAway, 0.0, 0.0, 3, 2)];
    let mut world = World::new(rules);
    for id in ["me", "you"] {
        world.node(id, |_, node| {
            (node.latency_ms.p99, node.redis_up) = (Some(500.0), Some(true));
        });
    }
    assert_eq!(world.pass(1).len(), 2);
    world.cut_off = Some("me");
    let told = world.pass(60);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0, told[0].1.id.as_str()), (4, "redis_away:me"));
    world.cut_off = None;
    let told = world.pass(20);
    assert_eq!(told.len(), 1, "the others go on firing: {told:?}");
    assert_eq!((told[0].1.id.as_str(), told[0].1.state), ("redis_away:me", State::Resolved));
    assert_eq!(world.engine.firing().count(), 2);
}

#[test]
fn another_goes_on_where_one_ended() {
    let rules =
        vec![rule(RuleName::ConnectionsHigh, 10.0, 10.0, 30, 5), rule(RuleName::LatencyHigh, 1.0, 1.0, 0, 5)];
    let mut first = World::new(rules.clone());
    first.node("a", |_, node| (node.sessions, node.latency_ms.p99) = (11, Some(9.0)));
    let told = first.pass(1);
    let acknowledged = first.engine.acknowledge("latency_high:a", "me", first.at + 1).unwrap();
    assert_eq!((told.len(), acknowledged.acknowledged_by.as_deref()), (1, Some("me")));
    let mut second = World::new(rules);
    second.vitals = first.vitals.clone();
    second.engine.adopt(acknowledged.clone(), second.at);
    // The history of what both have heard.
    for _ in 0..20 {
        second.at += SECOND;
        second.remember();
    }
    let told = second.pass(40);
    assert_eq!(told.len(), 1, "nothing twice: {told:?}");
    assert_eq!((told[0].0, told[0].1.id.as_str()), (11, "connections_high"), "the time before counts");
    second.node("a", |_, node| node.latency_ms.p99 = None);
    let told = second.pass(20);
    let over = &told[0].1;
    assert_eq!((told.len(), over.state, over.since), (1, State::Resolved, acknowledged.since));
    assert_eq!((over.change, over.acknowledged_by.as_deref()), (2, Some("me")));
}

#[test]
fn the_first_who_has_seen_an_alarm_stays_named() {
    let mut world = World::new(vec![rule(RuleName::ConnectionsHigh, 1.0, 1.0, 0, 0)]);
    sessions(&mut world, 2);
    world.pass(1);
    assert!(world.engine.acknowledge("nothing", "me", 1).is_none());
    world.engine.acknowledge("connections_high", "me", 7);
    let again = world.engine.acknowledge("connections_high", "you", 9).unwrap();
    assert_eq!((again.acknowledged_by.as_deref(), again.acknowledged_at), (Some("me"), Some(7)));
}

#[test]
fn a_changed_rule_changes_its_alarm() {
    let mut world = World::new(vec![rule(RuleName::ConnectionsHigh, 1.0, 1.0, 0, 0)]);
    sessions(&mut world, 2);
    world.pass(1);
    world.rules[0].severity = Severity::Critical;
    let told = world.pass(5);
    assert_eq!((told.len(), told[0].1.severity, told[0].1.change), (1, Severity::Critical, 2));
    world.rules[0].enabled = false;
    let told = world.pass(5);
    assert_eq!((told.len(), told[0].1.state, told[0].1.change), (1, State::Resolved, 3));
}

#[test]
fn rules_that_cannot_be_meant_are_refused() {
    for rule in default_rules() {
        rule.check().unwrap();
        assert_eq!(RuleName::find(rule.name.name()), Some(rule.name));
    }
    let names: Vec<_> = default_rules().into_iter().map(|rule| rule.name).collect();
    assert_eq!(names, RuleName::ALL);
    let good = rule(RuleName::LatencyHigh, 100.0, 90.0, 1, 1);
    for (bad, word) in [
        (Rule { clear: 101.0, ..good.clone() }, "at most"),
        (Rule { threshold: f64::NAN, ..good.clone() }, "threshold"),
        (Rule { threshold: -1.0, ..good.clone() }, "threshold"),
        (Rule { clear: f64::INFINITY, ..good.clone() }, "clear"),
        (Rule { for_ms: u64::MAX, ..good.clone() }, "for_ms"),
        (Rule { name: RuleName::QualityLow, threshold: 50.0, clear: 40.0, ..good.clone() }, "at least"),
        (Rule { name: RuleName::NodeLost, threshold: 2.0, clear: 0.0, ..good }, "1 or 0"),
    ] {
        let problem = bad.check().unwrap_err().to_string();
        assert!(problem.contains(word), "{problem}");
    }
}
