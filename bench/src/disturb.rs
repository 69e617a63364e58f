//! `bench roll`, `kill`, `pause`, `join` and `during`: a cluster of real processes under load, whose nodes are restarted in turn,
//! killed at random, stand still, or get one more, while every message at every client and every answer to a request is checked.
//! It starts everything itself, a redis-server, the nodes and a gateway, or takes a cluster that runs already, which it
//! disturbs by commands.

mod cluster;
mod standing;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::TargetArgs;
use crate::dialect::Proto;
use crate::fanout::{self, FanoutArgs};
use crate::requests::Requests;

use cluster::Cluster;
use standing::Standing;

/// Quiet time before the first disturbance, and after the last.
const CALM: Duration = Duration::from_secs(3);

/// The cluster and its load.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Subscribers, each of one room
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    subs: usize,
    /// Rooms
    #[arg(long, value_name = "N", default_value_t = 10)]
    rooms: usize,
    /// Messages per second, all rooms together
    #[arg(long, value_name = "PER_SECOND", default_value_t = 200.0)]
    rate: f64,
    /// Publishing connections
    #[arg(long, value_name = "N", default_value_t = 20)]
    publishers: usize,
    /// Protocol of the connections
    #[arg(long, value_enum, default_value_t = Proto::Native)]
    proto: Proto,
    /// Connections that make requests
    #[arg(long, value_name = "N", default_value_t = 50)]
    requesters: usize,
    /// Redis for the cluster that is started; without it redis-server is started too
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// A cluster that runs already.
#[derive(Debug, Clone, clap::Args)]
pub struct StandingArgs {
    /// A running cluster: address of a gateway, or of the load balancer in front of several. Without it a cluster is started
    /// on this machine
    #[arg(
        long,
        aliases = ["url", "to", "at"],
        value_name = "URL",
        conflicts_with = "redis",
        value_parser = crate::parse_url
    )]
    pub(crate) via: Option<String>,
    /// With --via: API key or JWT of an operator
    #[arg(long, env = "TICKMESH_TOKEN", hide_env_values = true, value_parser = crate::parse_token)]
    token: Option<String>,
}

/// Arguments of `bench roll`.
#[derive(Debug, clap::Args)]
pub struct RollArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    pub(crate) standing: StandingArgs,
    /// With --via: the command that restarts a node; $NODE is the node's number, from 1 to --nodes
    #[arg(long, value_name = "COMMAND", requires = "via")]
    restart: Option<String>,
    /// How often each node is restarted
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
}

/// Arguments of `bench kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    pub(crate) standing: StandingArgs,
    /// With --via: the command that kills a node and starts it again; $NODE is the node's number, from 1 to --nodes
    #[arg(long, value_name = "COMMAND", requires = "via")]
    kill: Option<String>,
    /// Time between two kills
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "5s")]
    every: Duration,
    /// How long nodes are killed
    #[arg(long = "for", value_name = "TIME", value_parser = crate::parse_duration, default_value = "2m")]
    duration: Duration,
}

/// Arguments of `bench pause`.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// How long a node is stopped each time
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "10s")]
    pause: Duration,
    /// How many times a node is stopped
    #[arg(long, value_name = "N", default_value_t = 3)]
    times: usize,
}

/// Arguments of `bench join`.
#[derive(Debug, clap::Args)]
pub struct JoinArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// How far a node's number of connections may be from the mean at the end
    #[arg(long, value_name = "PERCENT", default_value_t = 15.0)]
    spread: f64,
    /// How long it may take until all nodes are that near to the mean
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "60s")]
    within: Duration,
}

/// Arguments of `bench during`.
#[derive(Debug, clap::Args)]
pub struct DuringArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// The running cluster: address of a gateway, or of the load balancer in front of several
    #[arg(
        long,
        aliases = ["url", "to", "at"],
        value_name = "URL",
        default_value = crate::USUAL,
        value_parser = crate::parse_url
    )]
    pub(crate) via: String,
    /// API key or JWT of an operator
    #[arg(long, env = "TICKMESH_TOKEN", hide_env_values = true, value_parser = crate::parse_token)]
    token: Option<String>,
    /// The command, run by a shell
    #[arg(value_name = "COMMAND")]
    command: String,
}

/// A cluster of its own under load.
async fn under_load<F>(load: LoadArgs, disturb: F) -> anyhow::Result<bool>
where
    F: AsyncFnOnce(&mut Cluster) -> anyhow::Result<()> + 'static,
{
    let cluster = Cluster::start(&load).await?;
    let url = format!("ws://{}", cluster.address);
    disturbed(load, TargetArgs::at(url, false), cluster, disturb).await
}

/// A cluster that runs already under load.
async fn standing_under_load<F>(
    load: LoadArgs,
    (via, token): (String, Option<String>),
    disturb: F,
) -> anyhow::Result<bool>
where
    F: AsyncFnOnce(&mut Standing) -> anyhow::Result<()> + 'static,
{
    let mut target = TargetArgs::at(via, false);
    target.token = token;
    // A published port, perhaps, or a balancer.
    target.relayed = true;
    let cluster = Standing::find(&target, load.nodes).await?;
    disturbed(load, target, cluster, disturb).await
}

/// Runs the load until the disturbance is over.
async fn disturbed<C, F>(
    load: LoadArgs,
    target: TargetArgs,
    mut cluster: C,
    disturb: F,
) -> anyhow::Result<bool>
where
    C: 'static,
    F: AsyncFnOnce(&mut C) -> anyhow::Result<()> + 'static,
{
    let done = Rc::new(Cell::new(false));
    let mut args = FanoutArgs::default();
    args.target = target;
    args.target.json = load.json;
    args.target.proto = load.proto;
    args.subs = load.subs;
    args.rooms = load.rooms;
    args.rate = load.rate / load.rooms.max(1) as f64;
    args.publishers = load.publishers;
    // Its end is that of the disturbance.
    args.duration = Duration::from_secs(24 * 3_600);
    args.until = Some(done.clone());
    let requests = Requests::open(&args.target, load.requesters).await?;
    args.requests = Some(requests.clone());
    let begun = Rc::new(Cell::new(false));
    let (started, finished) = (begun.clone(), done.clone());
    let disturbing = tokio::task::spawn_local(async move {
        while !started.get() {
            sleep(Duration::from_millis(50)).await;
        }
        requests.begin();
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
    if let Some(via) = args.standing.via {
        let command =
            args.restart.context("--via needs --restart: the command that restarts a node there")?;
        return standing_under_load(
            args.load,
            (via, args.standing.token),
            async move |cluster: &mut Standing| {
                for turn in 0..rounds * nodes {
                    cluster.replace(&command, turn % nodes + 1).await?;
                }
                Ok(())
            },
        )
        .await;
    }
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
    let (every, duration, nodes) = (args.every, args.duration, args.load.nodes);
    if let Some(via) = args.standing.via {
        let command = args
            .kill
            .context("--via needs --kill: the command that kills a node there and starts it again")?;
        return standing_under_load(
            args.load,
            (via, args.standing.token),
            async move |cluster: &mut Standing| {
                let end = Instant::now() + duration;
                while Instant::now() < end {
                    let next = Instant::now() + every;
                    cluster.replace(&command, rand::random_range(1..=nodes)).await?;
                    sleep_until(next).await;
                }
                Ok(())
            },
        )
        .await;
    }
    under_load(args.load, async move |cluster: &mut Cluster| {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let next = Instant::now() + every;
            cluster.kill().await?;
            sleep_until(next).await;
        }
        Ok(())
    })
    .await
}

/// Has nodes stand still, one after the other, and go on.
pub(crate) async fn pause(args: PauseArgs) -> anyhow::Result<bool> {
    let (pause, times) = (args.pause, args.times);
    under_load(args.load, async move |cluster: &mut Cluster| {
        for time in 0..times {
            let node = &cluster.nodes[time % cluster.nodes.len()];
            node.signal(Signal::STOP)?;
            sleep(pause).await;
            node.signal(Signal::CONT)?;
            // It comes back to what it was about to do, and gets sessions again.
            sleep(CALM).await;
        }
        Ok(())
    })
    .await
}

/// One node more: connections move to it until it has its share.
pub(crate) async fn join(args: JoinArgs) -> anyhow::Result<bool> {
    let (allowed, within) = (args.spread, args.within);
    under_load(args.load, async move |cluster: &mut Cluster| {
        let before = cluster.connections().await?;
        cluster.add().await?;
        let begun = Instant::now();
        loop {
            let now = cluster.connections().await?;
            let spread = spread(&now);
            if now.len() > before.len() && spread <= allowed {
                let seconds = begun.elapsed().as_secs_f64();
                eprintln!(
                    "connections of each node: {before:?}, and {seconds:.1} s after one joined {now:?}: within {spread:.1} %"
                );
                return Ok(());
            }
            if begun.elapsed() > within {
                bail!("after {within:?} the nodes have {now:?} connections: {spread:.1} % from the mean");
            }
            sleep(Duration::from_millis(250)).await;
        }
    })
    .await
}

/// Runs a command.
pub(crate) async fn during(args: DuringArgs) -> anyhow::Result<bool> {
    let command = args.command;
    standing_under_load(args.load, (args.via, args.token), async move |cluster: &mut Standing| {
        cluster.run(&command, None).await
    })
    .await
}

/// How far the one that is furthest from the mean is from it, in percent.
fn spread(connections: &[u64]) -> f64 {
    let mean = connections.iter().sum::<u64>() as f64 / connections.len().max(1) as f64;
    let furthest = connections.iter().map(|one| (*one as f64 - mean).abs()).fold(0.0, f64::max);
    if mean > 0.0 { furthest / mean * 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_spread_is_that_of_the_furthest() {
        assert_eq!(super::spread(&[100, 90, 110]), 10.0);
        assert_eq!(super::spread(&[300, 0, 0]), 200.0);
        assert_eq!(super::spread(&[]), 0.0);
    }
}
