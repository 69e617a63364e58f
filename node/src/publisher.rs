//! Publishing through a node from within its process.
//!
//! What is published so is counted, traced and recorded as what clients publish is. It asks for no permission: whoever has a
//! [`Publisher`] may publish into any room.

use std::sync::Arc;

use tickmesh_cluster::broker::BrokerError;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::Position;

use crate::worker::Shared;

/// The way into rooms through one node; see [`Node::publisher`](crate::Node::publisher). Clones share it.
#[derive(Clone)]
pub struct Publisher(pub(crate) Arc<Shared>);

impl Publisher {
    /// Publishes messages in order, and answers for each at the same index.
    pub async fn publish(&self, messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>> {
        self.0.publish(messages).await
    }
}
