//! What the parts in memory must do, the parts on Redis do as well: the same suites, against a real redis-server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tickmesh_cluster::broker::{Broker, Events, inbox, suite};
use tickmesh_cluster::redis::{Address, Redis};
use tickmesh_tests::RedisServer;

struct Factory {
    address: Address,
}

#[async_trait]
impl suite::Nodes for Factory {
    async fn node(&self, capacity: usize) -> (Arc<dyn Broker>, Events) {
        let (inbox, events) = inbox(capacity);
        let redis = Redis::connect(self.address.clone(), Duration::from_secs(2), inbox);
        redis.ready(Duration::from_secs(10)).await.expect("redis is there");
        (Arc::new(redis.broker(suite::classes())), events)
    }
}

#[tokio::test]
async fn a_broker_on_one_redis() {
    let server = RedisServer::start();
    suite::run(&Factory { address: Address::parse(&server.url()).unwrap() }).await;
}
