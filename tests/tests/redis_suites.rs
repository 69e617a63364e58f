//! What the parts in memory must do, the parts on Redis do as well: the same suites, against a real redis-server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tickmesh_cluster::broker::{Broker, Events, inbox, suite};
use tickmesh_cluster::members;
use tickmesh_cluster::redis::{Address, Redis};
use tickmesh_tests::RedisServer;

struct Factory {
    address: Address,
}

#[async_trait]
impl suite::Nodes for Factory {
    async fn node(&self, capacity: usize) -> (Arc<dyn Broker>, Events) {
        let (inbox, events) = inbox(capacity);
        let (redis, _) = Redis::connect(self.address.clone(), Duration::from_secs(2), "n", inbox);
        redis.ready(Duration::from_secs(10)).await.expect("redis is there");
        (Arc::new(redis.broker(suite::classes())), events)
    }
}

#[tokio::test]
async fn members_on_one_redis() {
    let server = RedisServer::start();
    let address = Address::parse(&server.url()).unwrap();
    let (redis, _) = Redis::connect(address, Duration::from_secs(2), "n", inbox(1).0);
    redis.ready(Duration::from_secs(10)).await.expect("redis is there");
    members::suite::run(&redis.members()).await;
}

#[tokio::test]
async fn a_broker_on_one_redis() {
    let server = RedisServer::start();
    suite::run(&Factory { address: Address::parse(&server.url()).unwrap() }).await;
}
