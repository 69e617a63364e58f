//! `tickmesh`: nodes, their tools and their measurements in one binary.
//!
//! Exit status: 0 after a clean end, 64 for arguments or a configuration that cannot be used, 1 for a failure.

mod api;
mod args;
mod config;
mod dev;
mod feed;
mod gateway;
mod health;
mod listen;
mod node;
mod operate;
mod reach;
mod serve;
mod token;
mod top;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Args, Command, DevArgs, NodeArgs};
use listen::SetBy;
use tickmesh_gateway::StartError as GatewayError;
use tickmesh_node::StartError as NodeError;

/// Arguments or a configuration that cannot be used.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    let result = match args.command.unwrap_or_else(|| Command::Dev(DevArgs::default())) {
        Command::Dev(args) => dev::run(&args),
        Command::Node(NodeArgs { command: Some(command), .. }) => operate::node(&command),
        Command::Node(args) => node::run(&args),
        Command::Gateway(args) => gateway::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Cluster { what } => operate::cluster(&what),
        Command::Top(args) => top::run(&args),
        Command::Bench { what } => bench(what),
        Command::Feed(args) => feed::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Config { what } => config::run(&what),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tickmesh: {}", text(&error));
            ExitCode::from(if unusable(&error) { USAGE } else { 1 })
        }
    }
}

/// What the user is told: where there is a way out, that too.
fn text(error: &anyhow::Error) -> String {
    let (address, error, set_by) = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(NodeError::Listen { address, error }), ..)
        | (_, Some(GatewayError::Listen { address, error }), _)
        | (.., Some(tickmesh_bench::CannotListen { address, error })) => (address, error, SetBy::Listen),
        (Some(NodeError::ListenForMetrics { address, error }), ..) => (address, error, SetBy::Metrics),
        _ => return format!("{error:#}"),
    };
    listen::trouble(*address, error, set_by)
}

/// A key file is read when a node starts, but is as much part of the configuration as what names it.
fn unusable(error: &anyhow::Error) -> bool {
    error.is::<config::Unusable>()
        || matches!(error.downcast_ref(), Some(NodeError::Auth(_) | NodeError::NotInPod(_)))
        || matches!(error.downcast_ref(), Some(GatewayError::NoSecret | GatewayError::NotInPod(_)))
}

/// Says first whether the servers are there that it measures: what it reports otherwise is for those who know what it does.
fn bench(what: tickmesh_bench::Command) -> anyhow::Result<()> {
    actix_rt::System::new().block_on(async {
        for url in what.servers() {
            reach::server(url).await?;
        }
        Ok::<_, reach::Nobody>(())
    })?;
    anyhow::ensure!(tickmesh_bench::run(what)?, "not all checks held");
    Ok(())
}
