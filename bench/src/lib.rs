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

use std::net::{Ipv4Addr, SocketAddr};
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
pub mod out;
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

pub use baseline::{BaselineArgs, CannotListen};
pub use disturb::{DuringArgs, JoinArgs, KillArgs, LoadArgs, PauseArgs, RollArgs, StandingArgs};
pub use fanout::FanoutArgs;
pub use idle::IdleArgs;
pub use publish::PublishArgs;
pub use rpc::RpcArgs;
pub use soak::SoakArgs;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Measure echo requests: answers per second, latency, success ratio
    Rpc(RpcArgs),
    /// Measure publishing to subscribers: deliveries per second, latency; check that no message is lost, doubled or out of order
    Fanout(FanoutArgs),
    /// Measure publishing alone: messages accepted per second, latency; check their sequence numbers
    Publish(PublishArgs),
    /// Measure idle connections: memory per connection, connects per second
    Idle(IdleArgs),
    /// Apply mixed load for hours; check that the server's memory, open files and threads do not grow
    Soak(SoakArgs),
    /// Restart the nodes of a cluster in turn under load; check every message at every subscriber
    Roll(RollArgs),
    /// Kill nodes of a cluster at random under load; check every message at every subscriber
    Kill(KillArgs),
    /// Stop nodes of a cluster for a while (SIGSTOP) under load; check every message at every subscriber
    Pause(PauseArgs),
    /// Add a node to a cluster under load; check every message at every subscriber, and that connections move to the new node
    Join(JoinArgs),
    /// Run a command under load, such as one that scales a cluster; check every message at every subscriber
    During(DuringArgs),
    /// Serve with one write per delivery and nothing else: the least a server can cost, to compare one with
    Baseline(BaselineArgs),
}

impl Command {
    /// Addresses of the servers that must run before it begins; none where it starts its own.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        match self {
            Self::Rpc(args) => &args.target.via,
            Self::Fanout(args) => &args.target.via,
            Self::Publish(args) => &args.target.via,
            Self::Idle(args) => &args.target.via,
            Self::Soak(args) => &args.target.via,
            Self::Roll(args) => args.standing.via.as_slice(),
            Self::Kill(args) => args.standing.via.as_slice(),
            Self::During(args) => std::slice::from_ref(&args.via),
            Self::Pause(_) | Self::Join(_) | Self::Baseline(_) => &[],
        }
    }
}

/// Where a server listens unless it is told otherwise.
const USUAL: &str = "http://127.0.0.1:8080";

/// Which server is measured, and how the result is reported.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// The server to measure: address of a node or gateway. Repeat it to spread the connections over several
    #[arg(
        long,
        aliases = ["url", "to", "at"],
        value_name = "URL",
        default_value = USUAL,
        value_parser = parse_url
    )]
    via: Vec<String>,
    /// API key or JWT, where the server asks for one
    #[arg(long, env = "TICKMESH_TOKEN", hide_env_values = true, value_parser = parse_token)]
    token: Option<String>,
    /// Protocol of the connections
    #[arg(long, value_enum, default_value_t = Proto::Native)]
    proto: Proto,
    /// Process of the server, whose CPU time and memory are reported. Found by the port if the server is on this machine.
    /// Repeat it to add up several
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<i32>,
    /// What listens at the address is not the server, but stands in front of it: its figures are none of the server's.
    #[arg(skip)]
    relayed: bool,
    /// Connections that are opened at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

impl TargetArgs {
    /// One address, with the defaults for the rest.
    fn at(url: String, json: bool) -> Self {
        Self {
            via: vec![url],
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

/// Accepts an address that a measurement can connect to.
fn parse_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("ws://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with(['/', '?', ':']) => Ok(text.to_owned()),
        _ => Err("expected a URL such as http://127.0.0.1:8080; https:// is not supported here".into()),
    }
}

/// A token that comes out of a file often ends with a line break.
fn parse_token(text: &str) -> Result<String, String> {
    let token = text.trim();
    let good = token.bytes().all(|byte| !byte.is_ascii_control());
    if good { Ok(token.to_owned()) } else { Err("it has a character that no token has".into()) }
}

/// Reads an address to listen on, as nodes and gateways do: with an IP address, or a port of 127.0.0.1.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
    let local = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    match local {
        Some(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().map_err(|_| "expected an IP address and port, or a port of 127.0.0.1".into()),
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
            let line = format!("bench {line} --json --via ws://{}", listener.local_addr()?);
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
    fn addresses_and_tokens_are_refused_before_anything_is_tried() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        for flag in ["--via", "--url", "--to", "--at"] {
            for line in
                ["rpc", "fanout", "publish", "idle", "soak", "roll --restart x", "kill --kill x", "during x"]
            {
                let given = parse(&format!("bench {line} {flag} http://h:1")).unwrap();
                assert_eq!(given.servers(), ["http://h:1"], "{line} {flag}");
                for bad in ["h:1", "https://h", "http://", "ftp://h"] {
                    assert!(parse(&format!("bench {line} {flag} {bad}")).is_err(), "{line} {flag} {bad}");
                }
            }
        }
        assert!(parse("bench roll").unwrap().servers().is_empty(), "it starts its own");
        assert_eq!(parse_token("from.a.file\n").as_deref(), Ok("from.a.file"));
        assert!(parse_token("two\nlines").is_err());
    }

    #[test]
    fn the_baseline_listens_where_servers_would() {
        for text in ["9000", ":9000", "localhost:9000", "127.0.0.1:9000"] {
            assert_eq!(
                parse_listen(text).map(|address| address.to_string()).as_deref(),
                Ok("127.0.0.1:9000")
            );
        }
        for bad in ["", ":", "nowhere", "localhost", "65536", "+1"] {
            assert!(parse_listen(bad).is_err(), "{bad:?}");
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
