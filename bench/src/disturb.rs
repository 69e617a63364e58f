//! `bench roll` and `bench kill`: a cluster of real processes under load, whose nodes are restarted in turn or killed at
//! random, while every message at every client is checked. It starts everything itself: a redis-server, the nodes and a
//! gateway.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::TargetArgs;
use crate::fanout::{self, FanoutArgs};

/// Longest wait for a process to be ready, or gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Quiet time before the first disturbance, and after the last.
const CALM: Duration = Duration::from_secs(3);

/// The cluster and its load.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// Nodes behind the gateway
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Subscribers, which follow one room each
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    subs: usize,
    /// Rooms
    #[arg(long, value_name = "N", default_value_t = 10)]
    rooms: usize,
    /// Messages per second over all rooms
    #[arg(long, value_name = "PER_SECOND", default_value_t = 200.0)]
    rate: f64,
    /// Publishing clients of the gateway
    #[arg(long, value_name = "N", default_value_t = 20)]
    publishers: usize,
    /// A Redis to use; without it one is started
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// Arguments of `bench roll`.
#[derive(Debug, clap::Args)]
pub struct RollArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// How often every node is restarted
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
}

/// Arguments of `bench kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Time between two kills
    #[arg(long, value_parser = crate::parse_duration, default_value = "5s")]
    every: Duration,
    /// How long
    #[arg(long = "for", value_parser = crate::parse_duration, default_value = "2m")]
    duration: Duration,
}

/// A process that is killed when this is dropped.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Cluster {
    redis: String,
    secret: String,
    nodes: Vec<Running>,
    _gateway: Running,
    address: SocketAddr,
    started: usize,
    _redis: Option<Running>,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Cluster {
    async fn start(load: &LoadArgs) -> anyhow::Result<Self> {
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

    /// Starts a node, and waits until the gateway counts on it.
    async fn add(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let (node, address) =
            spawn("node", &format!("node-{}", self.started), &self.redis, &self.secret).await?;
        self.nodes.push(node);
        ready(address).await?;
        ready(self.address).await
    }

    /// Has a node stop as an operator would, waits until it is gone, and starts another.
    async fn restart(&mut self, at: usize) -> anyhow::Result<()> {
        let mut node = self.nodes.remove(at);
        let pid = i32::try_from(node.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::TERM).context("the node cannot be told to stop")?;
        let end = Instant::now() + PATIENCE;
        while node.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("a node does not stop");
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.add().await
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
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

/// Waits until a process says that it is ready.
async fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let asking = async {
        loop {
            let ask = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?;
                std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
            };
            if matches!(ask.await, Ok(true)) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.with_context(|| format!("{address} does not get ready"))
}

/// Runs the load until the disturbance is over.
async fn under_load<F>(load: LoadArgs, disturb: F) -> anyhow::Result<bool>
where
    F: AsyncFnOnce(&mut Cluster) -> anyhow::Result<()> + 'static,
{
    let mut cluster = Cluster::start(&load).await?;
    let done = Rc::new(Cell::new(false));
    let mut args = FanoutArgs::default();
    args.target = TargetArgs::at(format!("ws://{}", cluster.address), load.json);
    args.subs = load.subs;
    args.rooms = load.rooms;
    args.rate = load.rate / load.rooms.max(1) as f64;
    args.publishers = load.publishers;
    // Its end is that of the disturbance.
    args.duration = Duration::from_secs(24 * 3_600);
    args.until = Some(done.clone());
    let begun = Rc::new(Cell::new(false));
    let (started, finished) = (begun.clone(), done.clone());
    let disturbing = tokio::task::spawn_local(async move {
        while !started.get() {
            sleep(Duration::from_millis(50)).await;
        }
        sleep(CALM).await;
        let result = disturb(&mut cluster).await;
        sleep(CALM).await;
        finished.set(true);
        // The cluster serves until the account is closed.
        (result, cluster)
    });
    let held = fanout::run_observed(args, Some(begun)).await?;
    let (result, cluster) = disturbing.await.context("the disturbance")?;
    drop(cluster);
    result?;
    Ok(held)
}

/// Restarts every node in turn, some times.
pub(crate) async fn roll(args: RollArgs) -> anyhow::Result<bool> {
    let (rounds, nodes) = (args.rounds, args.load.nodes);
    under_load(args.load, async move |cluster: &mut Cluster| {
        for _ in 0..rounds * nodes {
            // The one that has been there longest.
            cluster.restart(0).await?;
        }
        Ok(())
    })
    .await
}

/// Kills a node at random, again and again.
pub(crate) async fn kill(args: KillArgs) -> anyhow::Result<bool> {
    let (every, duration) = (args.every, args.duration);
    under_load(args.load, async move |cluster: &mut Cluster| {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let next = Instant::now() + every;
            cluster.kill().await?;
            tokio::time::sleep_until(next).await;
        }
        Ok(())
    })
    .await
}
