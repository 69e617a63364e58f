//! `tickmesh dev`: a gateway and nodes in this process, the demo feed, and pages that show it.

mod banner;

use std::net::SocketAddr;

use tickmesh_cluster::config::{Config, Secret};
use tickmesh_cluster::seat::Cluster;
use tickmesh_gateway::Gateway;
use tickmesh_node::Node;

use crate::args::DevArgs;
use crate::{config, feed, serve};
use banner::Banner;

/// Serves until a signal, then drains. The gateway listens where the configuration says, the nodes on any ports.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<()> {
    let flags = [
        ("--listen", "node.listen", args.listen.map(|address| address.to_string())),
        ("--broker", "broker.url", args.broker.clone()),
    ];
    let load = {
        let file = args.config.clone();
        move || config::load(&Config::dev_defaults(), file.as_deref(), flags.clone())
    };
    let mut config = load()?;
    let loaded = config.clone();
    if config.cluster.secret.expose().is_empty() {
        // Gateway and nodes are one process: nobody else has to know it.
        config.cluster.secret = Secret::new(format!("{:032x}", rand::random::<u128>()));
    }
    // They are reached within this process, whatever is configured for others.
    config.cluster.tls_ca = None;
    let config = &config;
    let telemetry = serve::prepare(config, "tickmesh", "dev")?;
    let served = actix_rt::System::new().block_on(async {
        let stop = serve::StopSignals::new()?;
        let hangups = serve::Hangups::new()?;
        let cluster = serve::cluster(config);
        // On Redis there may be others.
        let name = match cluster {
            Cluster::Memory { .. } => "dev".to_owned(),
            Cluster::Redis { .. } => format!("dev-{:04x}", rand::random::<u16>()),
        };
        let id = format!("{name}-gateway");
        let gateway = Gateway::start(config, &id, cluster.seat(&id), tickmesh_web::market)?;
        let mut nodes = Vec::new();
        let mut inside = inside(config);
        let stores = serve::stores(config, &name)?;
        for n in 1..=args.nodes {
            let id = format!("{name}-{n}");
            let node = Node::start(&inside, &id, cluster.seat(&id), stores.clone(), |_| {})?;
            node.joined(serve::PATIENCE).await;
            nodes.push(node);
            // Only one can listen there. The others serve their counters where they listen.
            inside.server.metrics_listen = None;
        }
        let lives = nodes.iter().map(|node: &Node| node.live().clone());
        hangups.reload(loaded, load, lives.chain([gateway.live().clone()]).collect());
        gateway.joined(serve::PATIENCE).await;
        let url = serve::url(config, gateway.address());
        tickmesh_bench::out::text(Banner { url: &url, listening: gateway.address(), config });
        // Through a node, so that it is counted as what others publish.
        let publisher = nodes.first().filter(|_| !args.no_feed).map(Node::publisher);
        let feeding = publisher.map(|publisher| actix_rt::spawn(feed::demo(publisher)));
        stop.wait().await;
        tickmesh_bench::out::line("stopping; Ctrl-C again ends it at once");
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        gateway.stop().await;
        for node in nodes {
            node.stop().await;
        }
        Ok(())
    });
    telemetry.finish();
    served
}

/// The configuration of a node behind the gateway: on any port of this machine.
fn inside(config: &Config) -> Config {
    let mut config = config.clone();
    config.node.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.server.tls_certificate, config.server.tls_key) = (None, None);
    config
}
