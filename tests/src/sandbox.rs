//! Nodes in this process, each with threads of its own, on one memory broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tickmesh_cluster::broker::memory::MemoryCluster;
use tickmesh_cluster::config::Config;
use tickmesh_cluster::seat::Cluster;
use tickmesh_node::{Node, clock};
use tickmesh_protocol::room::Classes;
use tickmesh_store::Stores;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::{Client, DEADLINE};

/// Running nodes. They are stopped when it is dropped.
pub struct Sandbox {
    nodes: Vec<Running>,
}

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    stopped: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// The answer to an HTTP request.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Sandbox {
    /// One node where everybody may do everything.
    #[must_use]
    pub fn open() -> Self {
        Self::with(1, |_| {})
    }

    /// Nodes with a changed configuration.
    ///
    /// # Panics
    /// When one cannot be started.
    #[must_use]
    pub fn with(nodes: usize, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::dev_defaults();
        config.node.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.node.workers = 2;
        config.server.shutdown_timeout_ms = 2_000;
        change(&mut config);
        let classes = Classes::new(config.rooms.class.clone());
        let cluster = Cluster::memory(MemoryCluster::new(classes, Arc::new(|| clock::now().utc)));
        let stores = Stores::memory(&config);
        let start = |n| Running::start(&config, &format!("n{n}"), &cluster, stores.clone());
        let nodes = (1..=nodes).map(start).collect();
        Self { nodes }
    }

    /// Where a node listens.
    #[must_use]
    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address
    }

    /// A client of the first node.
    pub async fn client(&self) -> Client {
        Client::connect(self.address(0), "").await
    }

    /// A client of any node.
    pub async fn client_of(&self, node: usize) -> Client {
        Client::connect(self.address(node), "").await
    }

    /// Publishes one message over HTTP, and gives its `seq`.
    ///
    /// # Panics
    /// When it is not accepted.
    pub async fn publish(&self, room: &str, data: Value) -> u64 {
        let answer =
            self.post(0, "/api/v1/publish", &json!({"room": room, "event": "quote", "data": data})).await;
        answer.json()["results"][0]["seq"].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
    }

    /// `GET` on the first node.
    pub async fn get(&self, path: &str) -> Answer {
        Self::http(self.address(0), "GET", path, "", "").await
    }

    /// `POST` of JSON.
    pub async fn post(&self, node: usize, path: &str, body: &Value) -> Answer {
        Self::http(self.address(node), "POST", path, "", &body.to_string()).await
    }

    /// Any request to the first node, with further header lines, each ended by CRLF.
    pub async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        Self::http(self.address(0), method, path, headers, body).await
    }

    /// One request to any address.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn http(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            let length = body.len();
            let close = if headers.contains("Connection:") { "" } else { "Connection: close\r\n" };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {length}\r\n{headers}\r\n"
            );
            // The server may answer and close before it has read everything.
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let text =
            timeout(DEADLINE, exchange).await.unwrap_or_else(|_| panic!("no answer to {method} {path}"));
        let text = text.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Answer { status: status.unwrap_or(0), head: head.to_owned(), body: body.to_owned() }
    }

    /// Connections that the first node counts.
    pub async fn connections(&self) -> u64 {
        self.get("/api/socketio-status").await.json()["connections"].as_u64().unwrap_or(u64::MAX)
    }

    /// Begins to stop the first node.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.nodes[0].stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits until the first node has stopped.
    ///
    /// # Panics
    /// When that takes longer than [`DEADLINE`].
    pub async fn stopped(&mut self) {
        let stopped = timeout(DEADLINE, self.nodes[0].stopped.recv()).await;
        assert!(stopped.is_ok(), "the node stops");
    }
}

impl Running {
    fn start(config: &Config, id: &str, cluster: &Cluster, stores: Stores) -> Self {
        let (stop, stopping) = oneshot::channel::<()>();
        let (told, stopped) = mpsc::channel(1);
        let (started, address) = std::sync::mpsc::channel();
        let (config, id, cluster) = (config.clone(), id.to_owned(), cluster.clone());
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let node = Node::start(&config, &id, cluster.seat(&id), stores, |_| {});
                let node = node.unwrap_or_else(|error| panic!("{error}"));
                node.joined(DEADLINE).await;
                let _ = started.send(node.address());
                let _ = stopping.await;
                node.stop().await;
                drop(told);
            });
        });
        let address = address.recv().unwrap_or_else(|_| panic!("the node starts"));
        Self { address, stop: Some(stop), stopped, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
