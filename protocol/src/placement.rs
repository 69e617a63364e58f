//! Which node a session is placed on, and how many connections a node has too many: pure functions of what is known of the
//! nodes.
//!
//! Invariants: every gateway that sees the same nodes makes the same choice for the same key; placing by the score alone and
//! balancing agree, so that nothing is placed only to be moved. Must not know how a node's figures come about.

use std::cmp::Reverse;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// A node that keeps what is ready to run waiting for longer is only taken where there is no other, in milliseconds.
const SLOW_MS: f64 = 500.0;
/// How much of a key's choice may be on its node: this part of its share, in percent (Mirrokni, Thorup, Zadimoghaddam:
/// Consistent Hashing with Bounded Loads, 2016).
const BOUND_PERCENT: u64 = 125;
/// And so many connections more, so that where there are few, those of a key are not parted.
const BOUND_ROOM: u64 = 32;
/// What CPU, queue delay, round trip and quality weigh beside the number of connections. They decide between nodes that are about
/// even: together they outweigh a difference in connections of a tenth, not more, which is what balancing leaves alone.
const WEIGHT: f64 = 0.0115;
/// Below these, differences are noise: connections, percent of a core, milliseconds, milliseconds, points.
const NOISE: [f64; 5] = [1.0, 5.0, 5.0, 1.0, 10.0];

/// A node that takes sessions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Its name.
    pub id: &'a str,
    /// Where it is.
    pub zone: &'a str,
    /// Connections that are on it.
    pub connections: u64,
    /// Percent of a core that it uses.
    pub cpu_percent: f64,
    /// How long what is ready to run waits on it, in milliseconds.
    pub queue_delay_ms: f64,
    /// How long it takes to answer over a link, in milliseconds.
    pub round_trip_ms: f64,
    /// What its connections' quality lacks of 100, on average.
    pub quality_loss: f64,
    /// It failed sessions lately.
    pub passed_over: bool,
}

/// What is wanted of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The zone that is preferred; empty for any.
    pub zone: &'a str,
    /// Sessions with the same key belong on the same node.
    pub key: Option<&'a str>,
    /// A node that is only taken where there is no other.
    pub not: Option<&'a str>,
}

/// The node for a session, as its index; `None` where there is none. `random` decides which two are compared.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], wanted: Wanted<'_>, random: u64) -> Option<usize> {
    let reserve = |one: &Candidate<'_>| {
        [
            Some(one.id) == wanted.not,
            one.passed_over,
            one.queue_delay_ms > SLOW_MS,
            !wanted.zone.is_empty() && one.zone != wanted.zone,
        ]
    };
    let best = candidates.iter().map(reserve).min()?;
    let from: Vec<usize> = (0..candidates.len()).filter(|at| reserve(&candidates[*at]) == best).collect();
    match wanted.key {
        Some(key) => by_key(candidates, &from, key),
        None => by_load(candidates, &from, random),
    }
}

/// The better of two.
fn by_load(candidates: &[Candidate<'_>], from: &[usize], random: u64) -> Option<usize> {
    let count = from.len() as u64;
    let first = *from.get((random % count.max(1)) as usize)?;
    if count == 1 {
        return Some(first);
    }
    let step = 1 + (random >> 32) % (count - 1);
    let second = from[((random % count + step) % count) as usize];
    let better = is_better(&candidates[second], &candidates[first]);
    Some(if better { second } else { first })
}

/// Compares what each has of what both have: so a percent and a millisecond need no common measure.
fn is_better(one: &Candidate<'_>, other: &Candidate<'_>) -> bool {
    let figures = |node: &Candidate<'_>| {
        [
            node.connections as f64,
            node.cpu_percent,
            node.queue_delay_ms,
            node.round_trip_ms,
            node.quality_loss,
        ]
    };
    let (a, b) = (figures(one), figures(other));
    let difference: f64 = (0..NOISE.len())
        .map(|n| {
            let weight = if n == 0 { 1.0 } else { WEIGHT };
            weight * (a[n] - b[n]) / (a[n] + b[n] + NOISE[n])
        })
        .sum();
    difference < 0.0
}

/// The first in the key's own order of the nodes that has room (rendezvous hashing: when a node goes, only its keys move).
fn by_key(candidates: &[Candidate<'_>], from: &[usize], key: &str) -> Option<usize> {
    let total: u64 = from.iter().map(|at| candidates[*at].connections).sum();
    let bound = (total * BOUND_PERCENT).div_ceil(100 * from.len().max(1) as u64) + BOUND_ROOM;
    let mut order = from.to_vec();
    order.sort_by_key(|at| Reverse(rank(key, candidates[*at].id)));
    order.iter().find(|at| candidates[**at].connections < bound).or(order.first()).copied()
}

/// Of these nodes the one that takes care of something of which there is one in the cluster, such as the recording of a
/// room: the same from everybody's point of view, and another only if that node goes or a new one comes first.
#[must_use]
pub fn keeper<'a>(of: &str, nodes: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    nodes.max_by_key(|node| rank(of, node))
}

/// A hash that is the same in every process and version.
fn rank(key: &str, node: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key.as_bytes());
    hasher.write_u8(0xff);
    hasher.write(node.as_bytes());
    hasher.finish()
}

/// For each node, how many connections it has above its share: so many may move. Nothing, as long as no node is further
/// from its share than `slack_percent` of it, above or below. Where some nodes are in the preferred zone, the others'
/// share is nothing.
#[must_use]
pub fn surplus(candidates: &[Candidate<'_>], zone: &str, slack_percent: u64) -> Vec<u64> {
    let home = |one: &Candidate<'_>| zone.is_empty() || one.zone == zone;
    let any_home = candidates.iter().any(home);
    let shares = |one: &Candidate<'_>| !any_home || home(one);
    let count = candidates.iter().filter(|one| shares(one)).count() as u64;
    let total: u64 = candidates.iter().map(|one| one.connections).sum();
    let share = total.div_ceil(count.max(1));
    let slack = share * slack_percent / 100 + 1;
    let uneven = candidates.iter().any(|one| shares(one) && one.connections.abs_diff(share) > slack);
    let above = |one: &Candidate<'_>| match one.connections {
        connections if !shares(one) => connections,
        connections if uneven => connections.saturating_sub(share),
        _ => 0,
    };
    candidates.iter().map(above).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn node(id: &str, connections: u64) -> Candidate<'_> {
        Candidate {
            id,
            zone: "",
            connections,
            cpu_percent: 0.0,
            queue_delay_ms: 0.0,
            round_trip_ms: 0.0,
            quality_loss: 0.0,
            passed_over: false,
        }
    }

    fn chosen<'a>(nodes: &[Candidate<'a>], wanted: Wanted<'_>) -> Vec<&'a str> {
        let mut random = StdRng::seed_from_u64(1);
        let mut all: Vec<_> =
            (0..200).map(|_| nodes[choose(nodes, wanted, random.random()).unwrap()].id).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn the_one_of_two_with_fewer_connections_is_taken_and_the_fullest_never() {
        assert_eq!(chosen(&[node("a", 5), node("b", 3)], Wanted::default()), ["b"]);
        assert_eq!(chosen(&[node("a", 9), node("b", 3), node("c", 4)], Wanted::default()), ["b", "c"]);
        assert_eq!(choose(&[], Wanted::default(), 7), None);
    }

    #[test]
    fn load_decides_between_nodes_that_are_about_even_and_no_others() {
        let busy = Candidate {
            cpu_percent: 90.0,
            queue_delay_ms: 100.0,
            round_trip_ms: 50.0,
            quality_loss: 40.0,
            ..node("busy", 100)
        };
        assert_eq!(chosen(&[busy, node("free", 104)], Wanted::default()), ["free"]);
        assert_eq!(chosen(&[busy, node("free", 120)], Wanted::default()), ["busy"]);
        let noise = Candidate { cpu_percent: 1.0, ..node("noise", 100) };
        assert_eq!(chosen(&[noise, node("other", 101)], Wanted::default()), ["noise"]);
    }

    #[test]
    fn a_node_that_is_avoided_failed_or_is_slow_is_taken_only_where_there_is_no_other() {
        let failed = Candidate { passed_over: true, ..node("failed", 0) };
        let slow = Candidate { queue_delay_ms: 900.0, ..node("slow", 0) };
        let avoid = |not| Wanted { not: Some(not), ..Wanted::default() };
        assert_eq!(chosen(&[failed, slow, node("good", 99)], Wanted::default()), ["good"]);
        assert_eq!(chosen(&[failed, slow, node("good", 99)], avoid("good")), ["slow"]);
        assert_eq!(chosen(&[failed, node("good", 99)], avoid("good")), ["failed"]);
        assert_eq!(chosen(&[node("good", 99)], avoid("good")), ["good"]);
    }

    #[test]
    fn the_own_zone_comes_first_as_long_as_it_serves() {
        let east = Candidate { zone: "east", ..node("east", 500) };
        let west = Candidate { zone: "west", ..node("west", 0) };
        let wanted = Wanted { zone: "east", ..Wanted::default() };
        assert_eq!(chosen(&[east, west], wanted), ["east"]);
        assert_eq!(chosen(&[Candidate { passed_over: true, ..east }, west], wanted), ["west"]);
        assert_eq!(chosen(&[west], wanted), ["west"]);
        assert_eq!(surplus(&[east, west], "east", 5), [0, 0], "500 are right where they are");
        let strays = Candidate { connections: 30, ..west };
        assert_eq!(surplus(&[east, strays], "east", 5), [0, 30], "and the others come home");
        assert_eq!(surplus(&[strays, node("other", 10)], "east", 5), [10, 0], "nobody is at home");
    }

    #[test]
    fn a_key_stays_on_its_node_and_only_the_keys_of_a_node_that_goes_move() {
        let names: Vec<String> = (0..5).map(|n| format!("node-{n}")).collect();
        let keys: Vec<String> = (0..1_000).map(|n| format!("user-{n}")).collect();
        let place = |nodes: &[Candidate<'_>]| -> Vec<String> {
            let at = |key| choose(nodes, Wanted { key: Some(key), ..Wanted::default() }, 0).unwrap();
            keys.iter().map(|key| nodes[at(key)].id.to_owned()).collect()
        };
        let all: Vec<_> = names.iter().map(|name| node(name, 0)).collect();
        let before = place(&all);
        for name in &names {
            let here = before.iter().filter(|at| *at == name).count();
            assert!((140..=260).contains(&here), "{name} has {here} of 1000 keys");
        }
        let after = place(&all[1..]);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || before == "node-0");
        }
        // One user with very many connections does not sink a node.
        let mut load = all;
        for _ in 0..1_000 {
            let at = choose(&load, Wanted { key: Some("whale"), ..Wanted::default() }, 0).unwrap();
            load[at].connections += 1;
        }
        assert!(load.iter().all(|node| node.connections <= 250 + BOUND_ROOM), "{load:?}");
    }

    #[test]
    fn what_is_above_a_nodes_share_may_move() {
        assert_eq!(surplus(&[node("a", 300), node("b", 0)], "", 5), [150, 0]);
        assert_eq!(surplus(&[node("a", 104), node("b", 96)], "", 5), [0, 0]);
        let joined = [node("a", 108), node("b", 109), node("c", 107), node("late", 76)];
        assert_eq!(surplus(&joined, "", 12), [8, 9, 7, 0], "nobody has much too many, but one has too few");
        assert_eq!(surplus(&[node("a", 1), node("b", 0)], "", 5), [0, 0], "one cannot be shared");
        assert_eq!(surplus(&[], "", 5), [0; 0]);
    }

    #[test]
    fn nothing_is_placed_only_to_be_moved() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut nodes = [node("a", 0), node("b", 0), node("c", 0), node("d", 0)];
        for placed in 0..4_000 {
            for node in &mut nodes {
                node.cpu_percent = if node.id == "a" { 190.0 } else { random.random_range(0.0..50.0) };
                node.queue_delay_ms = if node.id == "a" { 400.0 } else { 0.0 };
            }
            let at = choose(&nodes, Wanted::default(), random.random()).unwrap();
            nodes[at].connections += 1;
            assert!(placed < 400 || surplus(&nodes, "", 12).iter().all(|above| *above == 0), "{nodes:?}");
        }
    }
}
