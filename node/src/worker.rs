//! What the connections and requests of a node, and of one of its threads, have in common.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_cluster::config::{Live, Secret};
use tickmesh_cluster::members::LeaseState;
use tickmesh_cluster::redis::Health;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::{Policy, Presence};
use tickmesh_store::Stores;
use tickmesh_store::guard::Health as StoreHealth;

use crate::alarms::Alarms;
use crate::attendance::Attendance;
use crate::audit::Auditor;
use crate::flush::FlushSettings;
use crate::hub::{Hub, HubSender};
use crate::market::{self, MarketHandle};
use crate::metrics::Metrics;
use crate::metrics::traffic::Traffic;
use crate::peers::{Local, Peers, Question, merged};
use crate::policies::Policies;
use crate::reads::Reads;
use crate::trace;
use tickmesh_edge::address::Proxies;
use tickmesh_edge::auth::Auth;
use tickmesh_edge::exits::Exits;
use tickmesh_edge::guard::Gauge;
use tickmesh_edge::held::Lines;
use tickmesh_edge::limits::Connections;
use tickmesh_edge::metrics::Standing;
use tickmesh_edge::rate::Keyed;
use tickmesh_edge::socket::Patience;

/// What is one per node.
pub(crate) struct Shared {
    pub(crate) broker: Arc<dyn Broker>,
    /// What never changes while the node runs: its name, the classes of rooms, the largest message.
    pub(crate) policy: Arc<Policy>,
    /// What is in force for sessions.
    pub(crate) policies: Arc<Policies>,
    /// The configuration that is in force.
    pub(crate) live: Arc<Live>,
    /// How short memory is.
    pub(crate) memory: Arc<Gauge>,
    pub(crate) auth: Auth,
    pub(crate) connections: Arc<Connections>,
    /// How often one user, key or address may publish over HTTP.
    pub(crate) publish_pace: Arc<Keyed<String>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) hubs: Vec<HubSender>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) attendance: Arc<Attendance>,
    /// The connections to Redis, if that is the broker.
    pub(crate) redis: Option<Arc<Health>>,
    /// Credential of gateways.
    pub(crate) secret: Secret,
    /// Allowed values of the `Origin` header; empty for any.
    pub(crate) origins: Vec<String>,
    /// Who may tell a client's address.
    pub(crate) proxies: Proxies,
    /// How long a client may take nothing though there is something.
    pub(crate) patience: Patience,
    /// When messages leave together.
    pub(crate) flush: Arc<FlushSettings>,
    pub(crate) max_watchlist: usize,
    pub(crate) max_alerts: usize,
    pub(crate) stores: Stores,
    pub(crate) reads: Reads,
    pub(crate) market: MarketHandle,
    pub(crate) auditor: Auditor,
    /// Alarms on the cluster.
    pub(crate) alarms: Alarms,
    /// Stores without which the node is not ready, by what they are for.
    pub(crate) required: Vec<(&'static str, Arc<StoreHealth>)>,
    /// Socket.IO clients on long-polling.
    pub(crate) lines: Arc<Lines>,
    /// The test servers of the Socket.IO protocol documents answer in this protocol's place.
    pub(crate) conformance: bool,
    /// UTC milliseconds.
    pub(crate) started_at: u64,
    /// Names this life of the node in the cluster.
    pub(crate) run: u64,
}

/// What is one per worker thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pub(crate) hub: Rc<Hub>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) exits: Exits,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, hub: Rc<Hub>, traffic: Arc<Traffic>) -> Rc<Self> {
        Rc::new(Self { shared, hub, traffic, exits: Exits::default() })
    }
}

impl Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Shared {
    /// Why the node is not ready for clients, if it is not.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        if self.connections.draining() {
            return Some("draining");
        }
        if self.connections.short_of_memory() {
            return Some("memory is short");
        }
        if self.redis.as_ref().is_some_and(|redis| !redis.is_up()) {
            return Some("redis is away");
        }
        if let Some((name, _)) = self.required.iter().find(|(_, health)| !health.is_up()) {
            return Some(if *name == "users" { "postgres is away" } else { "tdengine is away" });
        }
        match self.peers.lease() {
            LeaseState::Held => None,
            LeaseState::Joining => Some("joining the cluster"),
            LeaseState::Lost => Some("the lease in the cluster is lost"),
            LeaseState::Replaced => Some("another process took this id"),
        }
    }

    /// Its place in the cluster.
    pub(crate) fn standing(&self) -> Standing {
        Standing::new(self.not_ready().is_none(), self.connections.draining(), self.peers.roster())
    }

    /// The sessions of this node.
    pub(crate) fn local(&self) -> Local<'_> {
        Local(&self.hubs)
    }

    /// Who is in a room, over the cluster.
    pub(crate) async fn presence(&self, room: &RoomName) -> Presence {
        let question = Question::Presence(room.clone());
        let (here, asked) =
            tokio::join!(self.local().presence(room), self.peers.ask(&question, |_: &Presence| false));
        merged(asked.answers.into_iter().chain([here]))
    }

    /// Publishes and counts.
    pub(crate) async fn publish(&self, mut messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>> {
        let mut recorded: Vec<RoomName> = Vec::new();
        for publish in &messages {
            if recorded.last() != Some(&publish.room)
                && market::is_recorded(&self.policy.classes, &publish.room)
            {
                recorded.push(publish.room.clone());
            }
        }
        let classes: Vec<usize> =
            messages.iter().map(|publish| self.metrics.class_of(&publish.room)).collect();
        let sends = trace::sends(&self.policy.node_id, &mut messages);
        let results = self.broker.publish(messages).await;
        sends.answered(&results);
        for room in &recorded {
            self.market.published(room);
        }
        for (class, result) in classes.into_iter().zip(&results) {
            self.metrics.asked_to_publish(class, result.as_ref().map(|_| ()));
        }
        results
    }
}
