//! `tickmesh dev`: nodes in this process, the demo feed, and a page that shows it.

use std::net::SocketAddr;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use actix_web::{HttpResponse, web};
use tickmesh_cluster::config::Config;
use tickmesh_cluster::seat::Cluster;
use tickmesh_node::{Node, StartError};

use crate::args::DevArgs;
use crate::{config, feed, serve};

/// Serves until a signal, then drains. The first node listens where the configuration says, the others beside it.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<()> {
    let flags = [
        ("--listen", "node.listen", args.listen.map(|address| address.to_string())),
        ("--broker", "broker.url", args.broker.clone()),
    ];
    let config = &config::load(&Config::dev_defaults(), args.config.as_deref(), flags)?;
    serve::prepare(config)?;
    actix_rt::System::new().block_on(async {
        let stop = serve::StopSignals::new()?;
        let cluster = serve::cluster(config);
        // On Redis there may be others.
        let name = match cluster {
            Cluster::Memory { .. } => "dev".to_owned(),
            Cluster::Redis { .. } => format!("dev-{:04x}", rand::random::<u16>()),
        };
        let mut running = Vec::new();
        for n in 0..args.nodes {
            let id = format!("{name}-{}", n + 1);
            let node = match beside(config, n) {
                None => Node::start(config, &id, cluster.seat(&id), page)?,
                Some(beside) => match Node::start(&beside, &id, cluster.seat(&id), page) {
                    // The port next to the first one is taken: any other will do.
                    Err(StartError::Listen { .. }) => {
                        Node::start(&beside_any(config), &id, cluster.seat(&id), page)?
                    }
                    started => started?,
                },
            };
            node.joined(serve::PATIENCE).await;
            running.push(node);
        }
        for (n, node) in running.iter().enumerate() {
            let page = if n == 0 { "  <- open this in a browser" } else { "" };
            println!("http://{}{page}", node.address());
        }
        let feeding = (!args.no_feed).then(|| actix_rt::spawn(feed::demo(cluster.seat("feed").broker)));
        stop.wait().await;
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        for node in running {
            node.stop().await;
        }
        Ok(())
    })
}

/// The configuration of the node that is `n` ports further; `None` for the first.
fn beside(config: &Config, n: u16) -> Option<Config> {
    let address = config.node.listen;
    if n == 0 {
        return None;
    }
    let port = match address.port() {
        0 => 0,
        port => port.checked_add(n).unwrap_or(0),
    };
    Some(listening(config, SocketAddr::new(address.ip(), port)))
}

fn beside_any(config: &Config) -> Config {
    listening(config, SocketAddr::new(config.node.listen.ip(), 0))
}

fn listening(config: &Config, address: SocketAddr) -> Config {
    let mut config = config.clone();
    config.node.listen = address;
    config
}

/// The demo page: no script, style or connection but its own.
fn page(routes: &mut web::ServiceConfig) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let file = |kind: &'static str, body: &'static str| {
        web::get().to(move || async move {
            HttpResponse::Ok()
                .insert_header((CONTENT_TYPE, kind))
                .insert_header((CONTENT_SECURITY_POLICY, POLICY))
                .insert_header((CACHE_CONTROL, "no-cache"))
                .body(body)
        })
    };
    routes
        .route("/", file("text/html; charset=utf-8", include_str!("../assets/index.html")))
        .route("/app.js", file("text/javascript; charset=utf-8", include_str!("../assets/app.js")))
        .route("/app.css", file("text/css; charset=utf-8", include_str!("../assets/app.css")));
}
