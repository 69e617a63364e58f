//! What every process of a cluster tells of itself once a second, and what happens to processes: the messages of the rooms
//! that the cluster writes about itself.
//!
//! Data and arithmetic alone: who measures, and how a message gets into its room, is not known here. Fields that are
//! unknown are ignored and most that are missing have a default, so that versions can run side by side.

mod window;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use window::{Spread, Window, quantile};

/// Vitals of all processes, one message a second from each, with its id as the key.
pub const CLUSTER_ROOM: &str = "system_cluster";
/// What happened to processes, once each.
pub const EVENTS_ROOM: &str = "system_events";
/// Alarms, with the alarm's id as the key.
pub const ALERTS_ROOM: &str = "system_alerts";
/// Which alarms were delivered to which webhooks, for whoever goes on with that.
pub const DELIVERIES_ROOM: &str = "system_deliveries";
/// The rooms that the cluster writes about itself.
pub const ROOMS: [&str; 4] = [CLUSTER_ROOM, EVENTS_ROOM, ALERTS_ROOM, DELIVERIES_ROOM];
/// The event in [`CLUSTER_ROOM`].
pub const VITALS_EVENT: &str = "vitals";

/// What a process does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    /// Holds sessions.
    Node,
    /// Holds clients' connections.
    Gateway,
}

impl Kind {
    /// `node` or `gateway`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How a process does. Rates are means over the last second or so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// Its name in the cluster.
    pub id: String,
    /// What it does there.
    pub kind: Kind,
    /// Its software.
    #[serde(default)]
    pub version: String,
    /// Where it is; empty if it was not told.
    #[serde(default)]
    pub zone: String,
    /// Where it listens, `host:port`.
    #[serde(default)]
    pub address: String,
    /// Names one run of it.
    pub run: u64,
    /// Names the process of the operating system, of which `cpu_percent` and the figures of memory are: those who tell the
    /// same one share them. 0 where that is not known.
    #[serde(default)]
    pub process: u64,
    /// UTC milliseconds.
    #[serde(default)]
    pub started_at: u64,
    /// When this was measured, in UTC milliseconds by the process's own clock.
    pub at: u64,
    /// It takes no more clients.
    #[serde(default)]
    pub draining: bool,
    /// `/readyz` says so.
    #[serde(default)]
    pub ready: bool,
    /// Connections that are open; of a node, those of gateways for their clients included.
    #[serde(default)]
    pub connections: u64,
    /// Share of one core that was used, in percent; above 100 with several cores.
    #[serde(default)]
    pub cpu_percent: f64,
    /// Resident memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// What it may use; 0 where that is not known.
    #[serde(default)]
    pub memory_limit_bytes: u64,
    /// How short memory is: `normal`, `moderate`, `high`, `critical`. A gateway has no guard and is always `normal`.
    #[serde(default)]
    pub memory_level: String,
    /// The longest time that something ready waited for its thread; 0 at a gateway, which does not look at it.
    #[serde(default)]
    pub queue_delay_ms: f64,
    /// Average quality of the connections that were measured, 0 to 100; 100 where nothing is known of any.
    #[serde(default)]
    pub quality: f64,
    /// What only a node has.
    #[serde(flatten)]
    pub node: Option<NodeVitals>,
    /// What only a gateway has.
    #[serde(flatten)]
    pub gateway: Option<GatewayVitals>,
}

/// What only a node has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeVitals {
    /// Sessions that are open, each one client.
    pub sessions: u64,
    /// Rooms followed by sessions, summed over the sessions.
    #[serde(default)]
    pub subscriptions: u64,
    /// Rooms that it follows at the broker.
    #[serde(default)]
    pub rooms: u64,
    /// Messages accepted from publishers.
    #[serde(default)]
    pub published_per_s: f64,
    /// Messages handed to sessions, once for each.
    #[serde(default)]
    pub delivered_per_s: f64,
    /// Bytes written to clients and gateways.
    #[serde(default)]
    pub sent_bytes_per_s: f64,
    /// Messages that clients sent.
    #[serde(default)]
    pub received_per_s: f64,
    /// Messages that a newer one replaced.
    #[serde(default)]
    pub conflated_per_s: f64,
    /// Requests of sessions answered with an error, and HTTP requests answered 5xx.
    #[serde(default)]
    pub errors_per_s: f64,
    /// Connections that were not taken.
    #[serde(default)]
    pub refused_per_s: f64,
    /// Clients let go because they are slow.
    #[serde(default)]
    pub slow_disconnects_per_s: f64,
    /// Subscriptions told that messages are lost to them.
    #[serde(default)]
    pub resyncs_per_s: f64,
    /// From a message's acceptance to its write to a socket, of the last 10 s.
    #[serde(default)]
    pub latency_ms: Spread,
    /// The same, of market data: nodes measure one distribution for all rooms.
    #[serde(default)]
    pub market_latency_ms: P95,
    /// How long messages wait for others that leave with them.
    #[serde(default)]
    pub flush_window_ms: f64,
    /// How many connections were measured in the last minute with a quality of 0 to 10, 10 to 20, … 90 to 100.
    #[serde(default)]
    pub quality_counts: [u64; 10],
    /// Whether Redis is there; none where the broker is in memory.
    #[serde(default)]
    pub redis_up: Option<bool>,
    /// The stores that are configured.
    #[serde(default)]
    pub stores: BTreeMap<String, StoreVitals>,
    /// When the newest message in rooms of a recorded class was accepted that this node knows of, in UTC milliseconds; 0
    /// without any.
    #[serde(default)]
    pub market_newest_at: u64,
    /// Rooms of this node in which most is going on, by messages a second times subscribers here; 20 at most.
    #[serde(default)]
    pub top_rooms: Vec<BusyRoom>,
}

/// What only a gateway has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayVitals {
    /// Clients that it holds.
    pub clients: u64,
    /// Links to nodes that carry a session.
    #[serde(default)]
    pub links: u64,
    /// Nodes of the cluster that it knows.
    #[serde(default)]
    pub nodes_known: u64,
    /// Ids of nodes that have their lease, have answered this gateway before, and do not answer any more.
    #[serde(default)]
    pub unreachable: Vec<String>,
    /// Sessions that went to another node on purpose.
    #[serde(default)]
    pub moves_per_s: f64,
    /// Sessions that went to another node because theirs was lost.
    #[serde(default)]
    pub takeovers_per_s: f64,
    /// How long such sessions had no node, of the last 10 s.
    #[serde(default)]
    pub pause_ms: Pauses,
}

/// One quantile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct P95 {
    /// None where nothing was measured.
    #[serde(default)]
    pub p95: Option<f64>,
}

/// How long sessions had no node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pauses {
    /// None where there were none, as below.
    #[serde(default)]
    pub p50: Option<f64>,
    /// See `p50`.
    #[serde(default)]
    pub p99: Option<f64>,
}

impl Pauses {
    /// Of these, in milliseconds, in any order.
    #[must_use]
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_unstable_by(f64::total_cmp);
        let last = all.len().saturating_sub(1);
        let rank = |part: f64| all.get((last as f64 * part).round() as usize).copied();
        Self { p50: rank(0.5), p99: rank(0.99) }
    }
}

/// How a store does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreVitals {
    /// It is prepared and not left alone.
    pub up: bool,
    /// Connections that are open.
    #[serde(default)]
    pub connections: u64,
    /// Connections that are in use.
    #[serde(default)]
    pub in_use: u64,
    /// The most that there may be; 0 for a store in memory.
    #[serde(default)]
    pub max: u64,
}

/// A room in which much is going on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusyRoom {
    /// Its name.
    pub room: String,
    /// Messages that came from the broker.
    pub messages_per_s: f64,
    /// Subscribers here.
    pub subscribers: u64,
}

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// It has its lease, for the first time or again.
    Joined,
    /// It went, and had said so.
    Left,
    /// It is gone and had not said that it would go.
    Lost,
    /// It takes no more clients.
    Draining,
    /// It takes clients again.
    Resumed,
}

impl Happening {
    /// The event in [`EVENTS_ROOM`]; none for what is not told there.
    #[must_use]
    pub fn event(self, kind: Kind) -> Option<&'static str> {
        Some(match (kind, self) {
            (Kind::Node, Self::Joined) => "node_joined",
            (Kind::Node, Self::Left) => "node_left",
            (Kind::Node, Self::Lost) => "node_lost",
            (Kind::Node, Self::Draining) => "node_draining",
            (Kind::Node, Self::Resumed) => "node_resumed",
            (Kind::Gateway, Self::Joined) => "gateway_joined",
            (Kind::Gateway, Self::Left) => "gateway_left",
            (Kind::Gateway, Self::Lost) => "gateway_lost",
            (Kind::Gateway, Self::Draining | Self::Resumed) => return None,
        })
    }

    /// In words.
    #[must_use]
    pub fn text(self, kind: Kind, id: &str) -> String {
        let what = match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Lost => "is lost",
            Self::Draining => "takes no more clients",
            Self::Resumed => "takes clients again",
        };
        format!("{} {id} {what}", kind.name())
    }
}

/// `data` of a message in [`EVENTS_ROOM`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventData {
    /// The process.
    pub id: String,
    /// Which run of it; none where a version told it that did not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// UTC milliseconds.
    pub at: u64,
    /// In words.
    pub text: String,
    /// Of the event `moved` alone.
    #[serde(flatten)]
    pub moved: Option<Moved>,
}

/// What a gateway tells of sessions that went to another node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Its id.
    pub gateway: String,
    /// `move`, or `takeover` where their node was lost.
    pub cause: String,
    /// How many.
    pub sessions: u64,
    /// How long they had no node.
    pub pause_ms: Pauses,
}

/// The event of [`Moved`].
pub const MOVED_EVENT: &str = "moved";

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals() -> Vitals {
        Vitals {
            id: "a".into(),
            kind: Kind::Gateway,
            version: "1".into(),
            zone: String::new(),
            address: "h:1".into(),
            run: 1,
            process: 9,
            started_at: 2,
            at: 3,
            draining: false,
            ready: true,
            connections: 4,
            cpu_percent: 0.5,
            memory_bytes: 5,
            memory_limit_bytes: 6,
            memory_level: "normal".into(),
            queue_delay_ms: 0.0,
            quality: 100.0,
            node: None,
            gateway: Some(GatewayVitals {
                clients: 4,
                links: 4,
                nodes_known: 1,
                unreachable: Vec::new(),
                moves_per_s: 0.0,
                takeovers_per_s: 0.0,
                pause_ms: Pauses::default(),
            }),
        }
    }

    #[test]
    fn parts_lie_flat_and_what_is_unknown_is_null() {
        let json = serde_json::to_value(vitals()).unwrap();
        assert_eq!(json["clients"], 4);
        assert_eq!(json["kind"], "gateway");
        assert!(json["pause_ms"]["p50"].is_null() && json["pause_ms"].get("p50").is_some());
        assert!(json.get("sessions").is_none());
        let back: Vitals = serde_json::from_value(json).unwrap();
        assert_eq!(back, vitals());
    }

    #[test]
    fn a_node_of_another_version_is_understood() {
        let text =
            r#"{"id":"n","kind":"node","run":1,"at":2,"sessions":7,"novelty":[1],"latency_ms":{"p50":1.0}}"#;
        let read: Vitals = serde_json::from_str(text).unwrap();
        let node = read.node.unwrap();
        assert_eq!((node.sessions, node.latency_ms.p50, node.latency_ms.p99), (7, Some(1.0), None));
        assert!(read.gateway.is_none());
    }

    #[test]
    fn pauses_are_ranked() {
        assert_eq!(Pauses::of(Vec::new()), Pauses { p50: None, p99: None });
        assert_eq!(Pauses::of(vec![3.0, 1.0, 2.0]), Pauses { p50: Some(2.0), p99: Some(3.0) });
    }

    #[test]
    fn a_moved_event_is_flat_too() {
        let data = EventData {
            id: "g1".into(),
            run: Some(7),
            at: 1,
            text: "t".into(),
            moved: Some(Moved {
                gateway: "g1".into(),
                cause: "move".into(),
                sessions: 2,
                pause_ms: Pauses::default(),
            }),
        };
        let json = serde_json::to_value(&data).unwrap();
        assert_eq!((json["gateway"].as_str(), json["sessions"].as_u64()), (Some("g1"), Some(2)));
        let plain = EventData { moved: None, ..data };
        assert!(serde_json::to_value(&plain).unwrap().get("gateway").is_none());
        let before: EventData = serde_json::from_str(r#"{"id":"b","at":1,"text":"t"}"#).unwrap();
        assert_eq!((before.run, before.moved), (None, None));
    }
}
