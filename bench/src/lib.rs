//! The load generator behind `tickmesh bench`: it measures a server from the outside and checks, independently of the
//! server's code, that the server keeps its promises.
//!
//! Invariants:
//! - The server under test is another process, reached by its address. Nothing here depends on the crates that
//!   serve; only frame headers are shared with them.
//! - One thread drives all connections, and a delivery costs less here than at the server: otherwise the
//!   measurement would be of the client.
//! - Latencies count from the moment a message was *meant* to be sent, so a stalled client or server cannot hide its
//!   own delay (no coordinated omission).
//! - Every wait has a deadline.
//!
//! It must not know how the server works inside: what it reports comes from the wire and from `/proc`.

use std::time::Duration;

use anyhow::Context as _;

use dialect::Proto;

mod baseline;
mod batches;
mod check;
mod client;
mod clock;
mod dialect;
mod disturb;
mod fanout;
mod flow;
mod http;
mod idle;
mod inbox;
mod lagging;
mod opening;
mod positions;
mod procstat;
mod publish;
mod publisher;
mod report;
mod requests;
mod returning;
mod rpc;
mod scan;
mod soak;
mod stalled;
mod subscriber;

pub use baseline::BaselineArgs;
pub use disturb::{DuringArgs, JoinArgs, KillArgs, LoadArgs, PauseArgs, RollArgs, StandingArgs};
pub use fanout::FanoutArgs;
pub use idle::IdleArgs;
pub use publish::PublishArgs;
pub use rpc::RpcArgs;
pub use soak::SoakArgs;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Closed-loop `echo` requests: answers per second, latency, success ratio
    Rpc(RpcArgs),
    /// Publish to subscribers: deliveries per second, latency, and whether every message came exactly once in order
    Fanout(FanoutArgs),
    /// Closed-loop publishes: accepted per second, latency, and whether every `seq` was given once and in order
    Publish(PublishArgs),
    /// Connections that do nothing: memory per connection, connects per second
    Idle(IdleArgs),
    /// Mixed load for hours: whether the server's memory, file descriptors and threads stay as they are
    Soak(SoakArgs),
    /// Starts a cluster, or takes one that runs, restarts its nodes in turn under load, and checks every message at every client
    Roll(RollArgs),
    /// Starts a cluster, or takes one that runs, kills its nodes at random under load, and checks every message at every client
    Kill(KillArgs),
    /// Starts a cluster, stops its nodes' processes for a while (SIGSTOP) under load, and checks the same
    Pause(PauseArgs),
    /// Starts a cluster, adds a node under load, checks the same, and that connections move to it
    Join(JoinArgs),
    /// Runs a command, that scales a running cluster, say, under load, and checks every message at every client
    During(DuringArgs),
    /// Serve the bare minimum, one write per delivery: the floor to compare a server with
    Baseline(BaselineArgs),
}

/// Which server is measured, and how the result is told.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// Server under test, ws:// or http://; repeat it to spread the connections over several nodes
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8080")]
    urls: Vec<String>,
    /// JWT, sent in the Authorization header
    #[arg(long)]
    token: Option<String>,
    /// What the connections speak
    #[arg(long, value_enum, default_value_t = Proto::Native)]
    proto: Proto,
    /// Process whose CPU time and memory are reported; found by the listening port when the address is local. Repeat
    /// it to sum several
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<i32>,
    /// What listens at the address is not the server, but stands in front of it: its figures are none of the server's.
    #[arg(skip)]
    relayed: bool,
    /// How many connections are being opened at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl TargetArgs {
    /// One address, with the defaults for the rest.
    fn at(url: String, json: bool) -> Self {
        Self {
            urls: vec![url],
            token: None,
            proto: Proto::Native,
            pids: Vec::new(),
            relayed: false,
            concurrency: 64,
            json,
        }
    }
}

/// Runs a measurement to its end on a runtime of its own, and prints the result.
///
/// True if every check held: no error, no message lost, duplicated or out of order. `Baseline` serves until the
/// process is ended.
///
/// # Errors
/// When there is nothing to measure: unusable arguments, or a server that accepts no connection.
pub fn run(command: Command) -> anyhow::Result<bool> {
    procstat::raise_open_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot start the runtime")?;
    match command {
        Command::Rpc(args) => runtime.block_on(rpc::run(args)),
        Command::Fanout(args) => runtime.block_on(fanout::run(args)),
        Command::Publish(args) => runtime.block_on(publish::run(args)),
        Command::Idle(args) => runtime.block_on(idle::run(args)),
        Command::Soak(args) => runtime.block_on(soak::run(args)),
        Command::Roll(args) => runtime.block_on(disturb::roll(args)),
        Command::Kill(args) => runtime.block_on(disturb::kill(args)),
        Command::Pause(args) => runtime.block_on(disturb::pause(args)),
        Command::Join(args) => runtime.block_on(disturb::join(args)),
        Command::During(args) => runtime.block_on(disturb::during(args)),
        Command::Baseline(args) => runtime.block_on(baseline::run(args)),
    }
}

/// Parses a duration such as `500ms`, `10s` or `2m`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let value: f64 = number.parse().map_err(|_| format!("not a duration: {text:?}"))?;
    let seconds = match unit {
        "ms" => value / 1e3,
        "" | "s" => value,
        "m" => value * 60.0,
        "h" => value * 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    /// Runs a command line against a baseline server in the same thread.
    fn against_baseline(line: &str) -> anyhow::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let line = format!("bench {line} --json --url ws://{}", listener.local_addr()?);
            tokio::task::spawn_local(baseline::serve_all(listener));
            match Cli::try_parse_from(line.split(' '))?.command {
                Command::Rpc(args) => rpc::run(args).await,
                Command::Fanout(args) => fanout::run(args).await,
                Command::Publish(args) => publish::run(args).await,
                Command::Idle(args) => idle::run(args).await,
                Command::Soak(args) => soak::run(args).await,
                Command::Roll(args) => disturb::roll(args).await,
                Command::Kill(args) => disturb::kill(args).await,
                Command::Pause(args) => disturb::pause(args).await,
                Command::Join(args) => disturb::join(args).await,
                Command::During(args) => disturb::during(args).await,
                Command::Baseline(args) => baseline::run(args).await,
            }
        })
    }

    #[test]
    fn a_server_that_keeps_its_promises_passes() {
        let lines = [
            "rpc --conns 3 --requests 100 --inflight 4",
            "fanout --subs 7 --rooms 3 --publishers 2 --rate 200 --warmup 100ms --duration 300ms",
            "fanout --subs 7 --rooms 3 --publishers 2 --saturate --warmup 100ms --duration 300ms",
            "fanout --subs 2 --delivery latest --warmup 0s --duration 200ms",
            "publish --publishers 3 --rooms 4 --batch 5 --warmup 100ms --duration 300ms",
            "idle --conns 5 --hold 10ms",
            "fanout --subs 5 --rooms 2 --lagging 3 --rate 100 --warmup 100ms --duration 600ms",
        ];
        for line in lines {
            assert!(against_baseline(line).unwrap(), "{line}");
        }
    }

    #[test]
    fn messages_that_never_come_fail_the_run() {
        let line = "fanout --subs 2 --no-publish --room r --messages 3 --timeout 100ms";
        assert!(!against_baseline(line).unwrap());
    }

    #[test]
    fn unusable_arguments_are_refused() {
        let lines = [
            "fanout --no-publish",
            "fanout --saturate --rate 5",
            "fanout --subs 0",
            "fanout --rate -1",
            "publish --publishers 0",
            "publish --batch 0",
        ];
        for line in lines {
            assert!(against_baseline(line).is_err(), "{line}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert!(parse_duration("3x").is_err());
        assert!(parse_duration("-3s").is_err());
        assert!(parse_duration("").is_err());
    }
}
