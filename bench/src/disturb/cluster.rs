//! A cluster of real processes of this program, with a redis-server of its own.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::LoadArgs;

/// Longest wait for a process to be ready, or gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed when this is dropped.
pub(super) struct Running {
    child: Child,
}

impl Running {
    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).context("the process cannot be signalled")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nodes behind a gateway.
pub(super) struct Cluster {
    redis: String,
    secret: String,
    pub(super) nodes: Vec<Running>,
    _gateway: Running,
    pub(super) address: SocketAddr,
    started: usize,
    _redis: Option<Running>,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Cluster {
    /// Starts it, with as many nodes as the load wants.
    pub(super) async fn start(load: &LoadArgs) -> anyhow::Result<Self> {
        let (url, server) = match &load.redis {
            Some(url) => (url.clone(), None),
            None => {
                let port = free_port()?;
                let child = Command::new("redis-server")
                    .args([
                        "--port",
                        &port.to_string(),
                        "--bind",
                        "127.0.0.1",
                        "--save",
                        "",
                        "--appendonly",
                        "no",
                    ])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()
                    .context("redis-server cannot be started: install it, or name one with --redis")?;
                (format!("redis://127.0.0.1:{port}"), Some(Running { child }))
            }
        };
        let secret = format!("{:032x}", rand::random::<u128>());
        let (gateway, address) = spawn("gateway", "gateway", &url, &secret).await?;
        let (nodes, started) = (Vec::new(), 0);
        let mut cluster =
            Self { redis: url, secret, nodes, _gateway: gateway, address, started, _redis: server };
        for _ in 0..load.nodes {
            cluster.add().await?;
        }
        Ok(cluster)
    }

    /// Starts a node, and waits until the gateway counts on it as on all others.
    pub(super) async fn add(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let (node, _) = spawn("node", &format!("node-{}", self.started), &self.redis, &self.secret).await?;
        self.nodes.push(node);
        let (gateway, line) = (self.address, format!("tickmesh_gateway_nodes {}", self.nodes.len()));
        let asking = async {
            while !get(gateway, "/metrics").await.is_ok_and(|text| text.lines().any(|have| have == line)) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, asking).await.with_context(|| format!("the gateway does not say {line:?}"))
    }

    /// Has a node stop as an operator would, waits until it is gone, and starts another.
    pub(super) async fn restart(&mut self, at: usize) -> anyhow::Result<()> {
        let mut node = self.nodes.remove(at);
        node.signal(Signal::TERM)?;
        let end = Instant::now() + PATIENCE;
        while node.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("a node does not stop");
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.add().await
    }

    /// Ends a node at random with no warning, and starts another.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        let at = rand::random_range(0..self.nodes.len());
        drop(self.nodes.remove(at));
        self.add().await
    }
}

/// Starts a process of this program, and reads where it listens. The load goes on meanwhile.
async fn spawn(
    kind: &'static str,
    id: &str,
    redis: &str,
    secret: &str,
) -> anyhow::Result<(Running, SocketAddr)> {
    let (id, redis, secret) = (id.to_owned(), redis.to_owned(), secret.to_owned());
    tokio::task::spawn_blocking(move || spawn_now(kind, &id, &redis, &secret)).await.context("starting")?
}

fn spawn_now(kind: &str, id: &str, redis: &str, secret: &str) -> anyhow::Result<(Running, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([kind, "--id", id, "--listen", "127.0.0.1:0", "--broker", redis])
        .env("TICKMESH_AUTH__ANONYMOUS", "full")
        .env("TICKMESH_CLUSTER__SECRET", secret)
        .env("TICKMESH_LOG__LEVEL", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start a {kind}"))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let running = Running { child };
    let address = line.trim().strip_prefix("http://").and_then(|address| address.parse().ok());
    Ok((running, address.with_context(|| format!("a {kind} says {line:?}"))?))
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

impl Cluster {
    /// Connections of each node, as the cluster knows them.
    pub(super) async fn connections(&self) -> anyhow::Result<Vec<u64>> {
        let answer = timeout(PATIENCE, get(self.address, "/api/v1/cluster")).await??;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer of the cluster")?;
        let members: Value =
            serde_json::from_str(body).with_context(|| format!("the cluster says {body:?}"))?;
        let nodes = members["nodes"].as_array().context("no nodes")?;
        Ok(nodes.iter().map(|node| node["connections"].as_u64().unwrap_or_default()).collect())
    }
}
