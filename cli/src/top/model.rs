//! What is known of the cluster: answers of its API become processes, rooms, events and alarms.
//!
//! Invariants: a process that was not heard of for [`SILENCE`](liveness::SILENCE) and is no member is gone; one that is a member
//! stays, as silent. How long that is goes by what [`Liveness`] saw itself, so the clocks of the cluster's machines do not matter.
//! It knows no terminal, no HTTP and no clock.

mod liveness;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use strum::IntoStaticStr;

use super::text::clean;
pub(super) use liveness::Liveness;

/// What the API answered to one look at it.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// `GET /api/v1/cluster`.
    pub(super) cluster: Value,
    /// The log of `system_cluster`; none where the server has no such room.
    pub(super) vitals: Option<Value>,
    /// The log of `system_events`; none likewise.
    pub(super) events: Option<Value>,
    /// `GET /api/v1/alarms`; none where the server has no alarms.
    pub(super) alarms: Option<Value>,
    /// Why one of these is none though the server may have it.
    pub(super) trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Kind {
    Node,
    Gateway,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

/// From best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum State {
    Up,
    /// It takes no more clients.
    Draining,
    /// It cannot serve, such as without its broker.
    Unready,
    /// A member of the cluster that has not been heard of.
    Silent,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

/// A node or gateway. What it has not told is none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Process {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) state: State,
    /// Of a gateway its clients, of a node its connections.
    pub(super) clients: Option<f64>,
    pub(super) cpu_percent: Option<f64>,
    pub(super) memory_bytes: Option<f64>,
    pub(super) memory_limit_bytes: Option<f64>,
    /// Memory is short there.
    pub(super) memory_short: bool,
    pub(super) published_per_s: Option<f64>,
    pub(super) delivered_per_s: Option<f64>,
    pub(super) bytes_per_s: Option<f64>,
    pub(super) conflated_per_s: Option<f64>,
    pub(super) p50_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) queue_delay_ms: Option<f64>,
    /// 0 to 100.
    pub(super) quality: Option<f64>,
    /// UTC milliseconds.
    pub(super) started_at: Option<f64>,
}

impl Process {
    /// Memory as a share of the limit; none where there is no limit.
    pub(super) fn memory_percent(&self) -> Option<f64> {
        let limit = self.memory_limit_bytes.filter(|limit| *limit > 0.0)?;
        Some(self.memory_bytes? / limit * 100.0)
    }
}

/// A room over all nodes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Room {
    pub(super) name: String,
    pub(super) messages_per_s: f64,
    pub(super) subscribers: f64,
    pub(super) delivered_per_s: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(super) seq: u64,
    pub(super) at: u64,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) text: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Alarm {
    pub(super) id: String,
    pub(super) severity: String,
    state: String,
    /// UTC milliseconds.
    pub(super) since: u64,
    pub(super) text: String,
    pub(super) acknowledged_by: Option<String>,
}

impl Alarm {
    pub(super) fn critical(&self) -> bool {
        self.severity == "critical"
    }
}

/// Sums over the processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) nodes: usize,
    pub(super) gateways: usize,
    /// Nodes and gateways that are not up.
    pub(super) not_up: usize,
    pub(super) clients: f64,
    pub(super) published_per_s: Option<f64>,
    pub(super) delivered_per_s: Option<f64>,
    pub(super) bytes_per_s: Option<f64>,
    /// In milliseconds, and whose it is.
    pub(super) worst_p99: Option<(f64, String)>,
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Whether the server tells vitals.
    pub(super) has_vitals: bool,
    pub(super) processes: Vec<Process>,
    /// The busiest first.
    pub(super) rooms: Vec<Room>,
    /// The newest first.
    pub(super) events: Vec<Event>,
    /// Those that fire, the critical and then the newest first; none where the server has no alarms.
    pub(super) firing: Option<Vec<Alarm>>,
    pub(super) totals: Totals,
}

/// As a process tells it in `system_cluster`; what `/cluster` tells is a part of that, by the same names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Vitals {
    id: String,
    kind: String,
    started_at: Option<f64>,
    draining: bool,
    ready: Option<bool>,
    connections: Option<f64>,
    clients: Option<f64>,
    cpu_percent: Option<f64>,
    memory_bytes: Option<f64>,
    memory_limit_bytes: Option<f64>,
    memory_level: Option<String>,
    queue_delay_ms: Option<f64>,
    quality: Option<f64>,
    /// In `/cluster` alone: what is `delivered_per_s` here.
    messages_per_s: Option<f64>,
    published_per_s: Option<f64>,
    delivered_per_s: Option<f64>,
    sent_bytes_per_s: Option<f64>,
    conflated_per_s: Option<f64>,
    latency_ms: Option<Quantiles>,
    top_rooms: Option<Vec<TopRoom>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Quantiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct TopRoom {
    room: String,
    messages_per_s: f64,
    subscribers: f64,
}

/// A message of a room's log.
#[derive(Debug, Deserialize)]
struct Logged<T> {
    seq: u64,
    event: String,
    timestamp: u64,
    #[serde(default)]
    server_time: u64,
    data: T,
}

type Key = (Kind, String);

/// The newest vitals of a process.
struct Heard {
    seq: u64,
    /// When it told them, by its own clock; UTC milliseconds, as the next.
    at: u64,
    /// When the process answered that handed them on, by that one's clock.
    server_time: u64,
    vitals: Vitals,
}

impl Model {
    /// What there is to show now. Of earlier looks nothing is left but `liveness`, so what a server no longer tells is not shown.
    /// `now` is in milliseconds, of one clock for all looks.
    pub(super) fn of(answers: &Answers, liveness: &mut Liveness, now: u64) -> Self {
        let members = members(&answers.cluster);
        let heard = heard(answers.vitals.as_ref());
        if let Some(log) = &answers.vitals {
            liveness.look(log["epoch"].as_str().unwrap_or_default(), &heard, &members, now);
        }
        let fresh = |key: &Key| liveness.fresh(key, now);
        let any_fresh = heard.keys().any(fresh);

        let mut known: BTreeMap<&Key, (State, &Vitals)> = BTreeMap::new();
        for (key, member) in &members {
            // One that is silent for long is not among the newest messages any more.
            let silent = any_fresh && liveness.silent(key, now);
            known.insert(key, (if silent { State::Silent } else { state(member) }, member));
        }
        for (key, Heard { vitals, .. }) in &heard {
            match (fresh(key), members.contains_key(key)) {
                (true, _) => known.insert(key, (state(vitals), vitals)),
                // Vitals of all that are old are of a room that nobody writes to any more.
                (false, true) if !any_fresh => None,
                (false, true) => known.insert(key, (State::Silent, vitals)),
                (false, false) => None,
            };
        }
        let processes: Vec<_> =
            known.iter().map(|(key, (state, vitals))| process(key, *state, vitals)).collect();
        let live = known.values().filter(|(state, _)| *state != State::Silent).map(|(_, vitals)| *vitals);
        Self {
            has_vitals: any_fresh,
            rooms: rooms(live),
            events: events(answers.events.as_ref()),
            firing: answers.alarms.as_ref().map(firing),
            totals: Totals::of(&processes),
            processes,
        }
    }
}

/// Entries that cannot be read are of a version that means something else by them: they are passed over.
fn read<T: DeserializeOwned>(list: &Value) -> impl Iterator<Item = T> {
    list.as_array().into_iter().flatten().filter_map(|one| T::deserialize(one).ok())
}

fn keyed(vitals: &Vitals) -> Option<Key> {
    let kind = match vitals.kind.as_str() {
        "node" => Kind::Node,
        "gateway" => Kind::Gateway,
        _ => return None,
    };
    Some((kind, clean(&vitals.id)))
}

fn members(cluster: &Value) -> BTreeMap<Key, Vitals> {
    let lists = ["nodes", "gateways"].into_iter().flat_map(|list| read::<Vitals>(&cluster[list]));
    lists.filter_map(|member| Some((keyed(&member)?, member))).collect()
}

fn heard(log: Option<&Value>) -> BTreeMap<Key, Heard> {
    let mut newest: BTreeMap<Key, Heard> = BTreeMap::new();
    for message in read::<Logged<Vitals>>(log.map_or(&Value::Null, |log| &log["messages"])) {
        let Some(key) = keyed(&message.data).filter(|_| message.event == "vitals") else { continue };
        if newest.get(&key).is_none_or(|heard| heard.seq < message.seq) {
            let Logged { seq, timestamp: at, server_time, data: vitals, .. } = message;
            newest.insert(key, Heard { seq, at, server_time, vitals });
        }
    }
    newest
}

fn state(vitals: &Vitals) -> State {
    match vitals {
        _ if vitals.draining => State::Draining,
        Vitals { ready: Some(false), .. } => State::Unready,
        _ => State::Up,
    }
}

fn process((kind, id): &Key, state: State, vitals: &Vitals) -> Process {
    let latency = vitals.latency_ms.clone().unwrap_or_default();
    Process {
        id: id.clone(),
        kind: *kind,
        state,
        clients: vitals.clients.or(vitals.connections),
        cpu_percent: vitals.cpu_percent,
        memory_bytes: vitals.memory_bytes,
        memory_limit_bytes: vitals.memory_limit_bytes,
        memory_short: matches!(vitals.memory_level.as_deref(), Some("high" | "critical")),
        published_per_s: vitals.published_per_s,
        delivered_per_s: vitals.delivered_per_s.or(vitals.messages_per_s),
        bytes_per_s: vitals.sent_bytes_per_s,
        conflated_per_s: vitals.conflated_per_s,
        p50_ms: latency.p50,
        p95_ms: latency.p95,
        p99_ms: latency.p99,
        queue_delay_ms: vitals.queue_delay_ms,
        quality: vitals.quality,
        started_at: vitals.started_at,
    }
}

/// Every node with subscribers sees all messages of a room, so these are not added up.
fn rooms<'a>(vitals: impl Iterator<Item = &'a Vitals>) -> Vec<Room> {
    let mut rooms: BTreeMap<String, Room> = BTreeMap::new();
    for top in vitals.flat_map(|vitals| vitals.top_rooms.iter().flatten()) {
        let name = clean(&top.room);
        let room = rooms.entry(name.clone()).or_insert(Room {
            name,
            messages_per_s: 0.0,
            subscribers: 0.0,
            delivered_per_s: 0.0,
        });
        room.messages_per_s = room.messages_per_s.max(top.messages_per_s);
        room.subscribers += top.subscribers;
        room.delivered_per_s += top.messages_per_s * top.subscribers;
    }
    let mut rooms: Vec<_> = rooms.into_values().collect();
    // The order of names stays among equals.
    rooms.sort_by(|a, b| b.delivered_per_s.total_cmp(&a.delivered_per_s));
    rooms
}

fn events(log: Option<&Value>) -> Vec<Event> {
    let messages = read::<Logged<Value>>(log.map_or(&Value::Null, |log| &log["messages"]));
    let text = |value: &Value| clean(value.as_str().unwrap_or_default());
    let mut events: Vec<_> = messages
        .map(|message| Event {
            seq: message.seq,
            at: message.data["at"].as_u64().unwrap_or(message.timestamp),
            name: clean(&message.event),
            id: text(&message.data["id"]),
            text: text(&message.data["text"]),
        })
        .collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.seq));
    events
}

fn firing(answer: &Value) -> Vec<Alarm> {
    let mut alarms: Vec<_> = read::<Alarm>(&answer["alarms"])
        .filter(|alarm| alarm.state == "firing")
        .map(|alarm| Alarm {
            id: clean(&alarm.id),
            severity: clean(&alarm.severity),
            text: clean(&alarm.text),
            acknowledged_by: alarm.acknowledged_by.as_deref().map(clean),
            ..alarm
        })
        .collect();
    alarms.sort_by(|a, b| {
        b.critical().cmp(&a.critical()).then(b.since.cmp(&a.since)).then_with(|| a.id.cmp(&b.id))
    });
    alarms
}

impl Totals {
    fn of(processes: &[Process]) -> Self {
        let nodes = || processes.iter().filter(|process| process.kind == Kind::Node);
        let gateways = || processes.iter().filter(|process| process.kind == Kind::Gateway);
        let sum = |value: fn(&Process) -> Option<f64>| nodes().filter_map(value).reduce(|a, b| a + b);
        let of_gateways: f64 = gateways().filter_map(|gateway| gateway.clients).sum();
        let worst = nodes().filter_map(|node| Some((node.p99_ms?, node.id.clone())));
        Self {
            nodes: nodes().count(),
            gateways: gateways().count(),
            not_up: processes.iter().filter(|process| process.state != State::Up).count(),
            // A client of a gateway is a connection of a node, unless that node is just being replaced.
            clients: sum(|node| node.clients).unwrap_or(0.0).max(of_gateways),
            published_per_s: sum(|node| node.published_per_s),
            delivered_per_s: sum(|node| node.delivered_per_s),
            bytes_per_s: sum(|node| node.bytes_per_s),
            worst_p99: worst.reduce(|worst, next| if next.0 > worst.0 { next } else { worst }),
        }
    }
}
