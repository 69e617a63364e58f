//! What the parts in memory must do, the parts on Redis do as well: the same suites, against a real redis-server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tickmesh_cluster::broker::{Broker, Events, inbox, suite};
use tickmesh_cluster::members;
use tickmesh_cluster::presence;
use tickmesh_cluster::redis::{Address, Redis};
use tickmesh_tests::{Client, DEADLINE, NodeProcess, RedisCluster, RedisServer, Sentinel, eventually};
use tokio::time::{Instant, sleep};

struct Factory {
    address: Address,
}

#[async_trait]
impl suite::Nodes for Factory {
    async fn node(&self, capacity: usize) -> (Arc<dyn Broker>, Events) {
        let (inbox, events) = inbox(capacity);
        let (redis, _) = Redis::connect(self.address.clone(), Duration::from_secs(2), "n", inbox);
        redis.ready(DEADLINE).await.expect("redis is there");
        (Arc::new(redis.broker(suite::classes())), events)
    }
}

#[tokio::test]
async fn members_and_presence_on_one_redis() {
    let server = RedisServer::start();
    let address = Address::parse(&server.url()).unwrap();
    let (redis, _) = Redis::connect(address, Duration::from_secs(2), "n", inbox(1).0);
    redis.ready(DEADLINE).await.expect("redis is there");
    members::suite::run(&redis.members()).await;
    presence::suite::run(&redis.presence()).await;
}

#[tokio::test]
async fn a_broker_on_one_redis() {
    let server = RedisServer::start();
    suite::run(&Factory { address: Address::parse(&server.url()).unwrap() }).await;
}

/// Slow: three servers that have to agree, and the whole suite.
#[tokio::test]
async fn everything_on_a_redis_cluster() {
    let cluster = RedisCluster::start();
    let address = Address::parse(&cluster.url()).unwrap();
    suite::run(&Factory { address: address.clone() }).await;
    let (redis, _) = Redis::connect(address, Duration::from_secs(2), "n", inbox(1).0);
    redis.ready(DEADLINE).await.expect("redis is there");
    members::suite::run(&redis.members()).await;
    presence::suite::run(&redis.presence()).await;
}

#[tokio::test]
async fn a_master_that_a_sentinel_names() {
    let mut master = RedisServer::start();
    let port = master.address().port().to_string();
    let replica = RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &port]);
    let sentinel = Sentinel::of(&master);
    eventually("the sentinel knows both", || async { sentinel.knows_a_replica() }).await;
    suite::run(&Factory { address: Address::parse(&sentinel.url()).unwrap() }).await;

    // When the master dies, the replica is found.
    let node = NodeProcess::start("n1", &sentinel.url(), &[]);
    let mut client = Client::connect(node.address(), "").await;
    let before = client.subscribe("market_1", json!({})).await;
    let message = json!({"room": "market_1", "event": "e", "data": {"text": "end"}});
    assert_eq!(client.request("publish", message.clone()).await["data"]["seq"], 1);
    client.read_until("market_1", 1).await;
    master.kill();
    let end = Instant::now() + DEADLINE;
    while client.request("publish", message.clone()).await["success"] != true {
        assert!(Instant::now() < end, "the new master is found");
        sleep(Duration::from_millis(50)).await;
    }
    while client.room("market_1").resyncs == 0 {
        client.next().await;
    }
    assert_ne!(client.room("market_1").epoch, before["epoch"].as_str().unwrap());
    drop(replica);
}
