//! `tickmesh health`: asks the process that a configuration describes how it is. An image needs no other tool for its
//! health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tickmesh_cluster::config::Config;
use tickmesh_edge::tls::Connector;

use crate::args::HealthArgs;
use crate::{config, serve};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says what the process says; an error unless that is well.
pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let flags = [("--listen", "node.listen", args.listen.map(|address| address.to_string()))];
    let config = config::load(&Config::node_defaults(), args.config.as_deref(), flags)?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let url = format!("{}{path}", serve::url(&config, nearby(config.node.listen)));
    actix_rt::System::new().block_on(async {
        let mut connector = awc::Connector::new();
        if let Some(certificate) = &config.server.tls_certificate {
            connector = connector.rustls_0_23(Connector::only(certificate)?.config());
        }
        let client = awc::Client::builder().connector(connector).timeout(PATIENCE).finish();
        let mut answer = client.get(&url).send().await.map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        let body = answer.body().await.map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        let status: Value = serde_json::from_slice(&body).with_context(|| format!("{url}: not JSON"))?;
        let status = status["status"].as_str().unwrap_or("no status");
        anyhow::ensure!(answer.status().is_success(), "{url}: {status}");
        tickmesh_bench::out::line(status);
        Ok(())
    })
}

/// Where a process that listens there is reached from this machine.
fn nearby(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_asked_at_the_loopback() {
        let near = |text: &str| nearby(text.parse().expect("an address")).to_string();
        assert_eq!(near("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(near("[::]:2"), "[::1]:2");
        assert_eq!(near("192.0.2.1:3"), "192.0.2.1:3");
    }
}
