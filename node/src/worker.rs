//! What the connections and requests of a node, and of one of its threads, have in common.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tickmesh_cluster::broker::{Broker, BrokerError};
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::session::Policy;

use crate::auth::Auth;
use crate::hub::{Hub, HubSender};
use crate::limits::Connections;
use crate::metrics::Metrics;

/// What is one per node.
pub(crate) struct Shared {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) auth: Auth,
    pub(crate) connections: Arc<Connections>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) hubs: Vec<HubSender>,
    /// Allowed values of the `Origin` header; empty for any.
    pub(crate) origins: Vec<String>,
    /// How long a client may take nothing though there is something.
    pub(crate) stall_timeout: Duration,
    pub(crate) max_publish_batch: usize,
    /// UTC milliseconds.
    pub(crate) started_at: u64,
}

/// What is one per worker thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pub(crate) hub: Rc<Hub>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, hub: Rc<Hub>) -> Rc<Self> {
        Rc::new(Self { shared, hub })
    }
}

impl Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Shared {
    /// Publishes and counts.
    pub(crate) async fn publish(&self, messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>> {
        let results = self.broker.publish(messages).await;
        let kept = results.iter().filter(|result| result.is_ok()).count() as u64;
        self.metrics.published.inc_by(kept);
        self.metrics.publish_errors.inc_by(results.len() as u64 - kept);
        results
    }
}
