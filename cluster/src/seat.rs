//! A process's place in the cluster: everything through which it meets the others.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_protocol::room::Classes;

use crate::broker::memory::MemoryCluster;
use crate::broker::{Broker, Events, inbox};
use crate::bus::memory::MemoryBus;
use crate::bus::{Bus, Mail};
use crate::members::Members;
use crate::members::memory::MemoryMembers;
use crate::presence::Presence;
use crate::presence::memory::MemoryPresence;
use crate::redis::{Address, Health, Redis};

/// Events from the broker that may wait for a node.
const INBOX: usize = 65_536;

/// The parts, all of one kind: in memory or on Redis.
pub struct Seat {
    /// The logs of all rooms.
    pub broker: Arc<dyn Broker>,
    /// What comes from them.
    pub events: Events,
    /// Who is there.
    pub members: Arc<dyn Members>,
    /// The register of attendees.
    pub presence: Arc<dyn Presence>,
    /// Letters to the others.
    pub bus: Arc<dyn Bus>,
    /// Letters from them.
    pub mail: Mail,
    /// The connections; none in memory.
    pub health: Option<Arc<Health>>,
    /// The logs, where they are in this process's memory.
    pub logs: Option<Arc<MemoryCluster>>,
}

/// Where seats are taken.
#[derive(Clone)]
pub enum Cluster {
    /// Within this process. Clones are the same cluster.
    Memory {
        /// The logs.
        logs: Arc<MemoryCluster>,
        /// The members.
        members: MemoryMembers,
        /// The register of attendees.
        presence: MemoryPresence,
        /// The letters.
        bus: MemoryBus,
    },
    /// On Redis.
    Redis {
        /// Where.
        address: Address,
        /// How the logs are kept.
        classes: Classes,
        /// Longest wait for an answer.
        timeout: Duration,
    },
}

impl Cluster {
    /// A cluster within this process; its logs are gone with it.
    #[must_use]
    pub fn memory(logs: Arc<MemoryCluster>) -> Self {
        let (members, presence, bus) = Default::default();
        Self::Memory { logs, members, presence, bus }
    }

    /// Takes a seat under an id. On Redis this begins to connect, on the present runtime, and does not wait for it.
    #[must_use]
    pub fn seat(&self, id: &str) -> Seat {
        let (inbox, events) = inbox(INBOX);
        match self {
            Self::Memory { logs, members, presence, bus } => Seat {
                broker: Arc::new(logs.connect(inbox)),
                events,
                members: Arc::new(members.clone()),
                presence: Arc::new(presence.clone()),
                bus: Arc::new(bus.clone()),
                mail: bus.join(id),
                health: None,
                logs: Some(logs.clone()),
            },
            Self::Redis { address, classes, timeout } => {
                let (redis, mail) = Redis::connect(address.clone(), *timeout, id, inbox);
                Seat {
                    broker: Arc::new(redis.broker(classes.clone())),
                    events,
                    members: Arc::new(redis.members()),
                    presence: Arc::new(redis.presence()),
                    bus: Arc::new(redis.bus()),
                    mail,
                    health: Some(redis.health().clone()),
                    logs: None,
                }
            }
        }
    }
}
