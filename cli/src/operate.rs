//! `tickmesh node drain`, `tickmesh node resume` and `tickmesh cluster status`: the API of a running cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use awc::http::Method;
use tickmesh_cluster::config::{Anonymous, Config, JwtAlgorithm};
use tickmesh_edge::tls::Connector;
use tickmesh_protocol::identity::{Grants, Role};
use tokio::time::{Instant, sleep};

use crate::api::{Api, Refused};
use crate::args::{ClusterCommand, DrainArgs, NodeCommand};
use crate::config::{self, Unusable};
use crate::{reach, token};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a node that drains is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// For how many seconds a token of one's own is valid; beyond that of `--wait`.
const VALID: u64 = 60;

/// Has a node drained, or take clients again.
pub(crate) fn node(command: &NodeCommand) -> anyhow::Result<()> {
    actix_rt::System::new().block_on(async {
        match command {
            NodeCommand::Drain(args) => drain(args).await,
            NodeCommand::Resume { id, server } => {
                let api = Api::via(server, PATIENCE)?;
                reach::first(api.url(), tell(&api, id, "resume"), Refused::is).await?
            }
        }
    })
}

/// Lists the members of the cluster with their load.
pub(crate) fn cluster(command: &ClusterCommand) -> anyhow::Result<()> {
    let ClusterCommand::Status { server } = command;
    let asking = async {
        let api = Api::via(server, PATIENCE)?;
        reach::first(api.url(), api.ask(Method::GET, "/api/v1/cluster"), Refused::is).await?
    };
    let answer = actix_rt::System::new().block_on(asking)?;
    tickmesh_bench::out::line(format_args!(
        "{:<24} {:<8} {:<22} {:>11} {:>6} {:>9} {:<8} state",
        "id", "kind", "address", "connections", "cpu", "memory", "version"
    ));
    for kind in ["nodes", "gateways"] {
        for member in answer[kind].as_array().into_iter().flatten() {
            let text = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
            tickmesh_bench::out::line(format_args!(
                "{:<24} {:<8} {:<22} {:>11} {:>5}% {:>6} MiB {:<8} {}",
                text("id"),
                text("kind"),
                text("address"),
                member["connections"],
                member["cpu_percent"].as_f64().unwrap_or_default().round(),
                member["memory_bytes"].as_u64().unwrap_or_default() >> 20,
                text("version"),
                if member["draining"] == true { "draining" } else { "up" },
            ));
        }
    }
    Ok(())
}

async fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let (api, id) = match &args.id {
        Some(id) => {
            let api = Api::via(&args.server, PATIENCE)?;
            reach::first(api.url(), tell(&api, id, "drain"), Refused::is).await??;
            (api, id.clone())
        }
        // Nobody else can be named here.
        None => {
            let (api, id) = own(args)?;
            tell(&api, &id, "drain").await?;
            (api, id)
        }
    };
    let Some(patience) = args.wait else { return Ok(()) };
    let end = Instant::now() + patience;
    loop {
        let cluster = api.ask(Method::GET, "/api/v1/cluster").await?;
        let node = cluster["nodes"].as_array().into_iter().flatten().find(|node| node["id"] == id.as_str());
        // One that left the cluster has none either. A report from before the order counts for nothing.
        let left =
            node.map_or(Some(0), |node| node["connections"].as_u64().filter(|_| node["draining"] == true));
        if left == Some(0) {
            tickmesh_bench::out::line(format_args!("{id}: empty"));
            return Ok(());
        }
        let count = left.map_or_else(|| "an unknown number of".into(), |left| left.to_string());
        ensure!(Instant::now() < end, "{id}: {count} connections are left after {patience:?}");
        sleep(LOOK).await;
    }
}

async fn tell(api: &Api, id: &str, what: &str) -> anyhow::Result<()> {
    let answer = api.ask(Method::POST, &format!("/api/v1/nodes/{id}/{what}")).await?;
    tickmesh_bench::out::line(format_args!(
        "{}: {}",
        answer["node_id"].as_str().unwrap_or(id),
        answer["status"].as_str().unwrap_or("told")
    ));
    Ok(())
}

/// The node that has the same configuration as this process, and its name.
fn own(args: &DrainArgs) -> anyhow::Result<(Api, String)> {
    let config = config::load(&Config::node_defaults(), args.config.as_deref(), [])?;
    let unusable = |text: &str| Unusable(format!("--self: {text}"));
    if config.node.id.is_empty() {
        bail!(unusable("node.id (TICKMESH_NODE__ID) is not set, so the node has a name that it made itself"));
    }
    if config.node.listen.port() == 0 {
        bail!(unusable("node.listen has port 0, so nobody knows where the node listens"));
    }
    let builder = awc::Client::builder().timeout(PATIENCE);
    let (url, client) = if config.server.tls_certificate.is_none() {
        (format!("http://{}", reachable(config.node.listen)), builder.finish())
    } else {
        // The certificate is for the name that others use.
        let (Some(ca), false) = (&config.cluster.tls_ca, config.cluster.advertise.is_empty()) else {
            bail!(unusable("with TLS it needs cluster.tls_ca and cluster.advertise"));
        };
        let tls = Connector::new(ca)?.config();
        let connector = awc::Connector::new().rustls_0_23(tls);
        (format!("https://{}", config.cluster.advertise), builder.connector(connector).finish())
    };
    let token = match &args.server.server.token {
        Some(token) => Some(token.clone()),
        None => operator(&config, args.wait.unwrap_or_default())?,
    };
    Ok((Api::new(url, token, client)?, config.node.id))
}

/// Where a process on this machine finds one that listens there.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// What makes its bearer an operator where this configuration holds; none where everybody may do everything.
fn operator(config: &Config, wait: Duration) -> anyhow::Result<Option<String>> {
    let auth = &config.auth;
    if let Some(key) = auth.api_keys.iter().find(|key| key.role == Role::Operator) {
        return Ok(Some(key.key.expose().to_owned()));
    }
    let secret = auth.jwt_secret.expose();
    if auth.jwt_algorithm == JwtAlgorithm::Hs256 && !secret.is_empty() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let times = (now, now + VALID + wait.as_secs());
        return token::sign("node-drain", Role::Operator, Grants::default(), times, secret).map(Some);
    }
    if auth.anonymous == Anonymous::Full {
        return Ok(None);
    }
    let text =
        "--self: no key for it: give --token, or set auth.jwt_secret or an operator's key in auth.api_keys";
    Err(Unusable(text.into()).into())
}
