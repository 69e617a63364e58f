//! `tickmesh node`: one node, for a deployment.

use tickmesh_cluster::config::Config;
use tickmesh_node::Node;

use crate::args::{Conformance, NodeArgs};
use crate::{config, serve};

/// Serves until a signal, then drains.
pub(crate) fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let server = &args.server;
    let load = {
        let (file, flags) = (server.config.clone(), server.flags());
        move || config::load(&Config::node_defaults(), file.as_deref(), flags.clone())
    };
    let mut config = load()?;
    let loaded = config.clone();
    if args.conformance == Some(Conformance::Socketio) {
        conform(&mut config);
    }
    let id = serve::id(&config, "node");
    let telemetry = serve::prepare(&config, "tickmesh-node", &id)?;
    let served = actix_rt::System::new().block_on(async {
        let stop = serve::StopSignals::new()?;
        let hangups = serve::Hangups::new()?;
        let stores = serve::stores(&config, &id)?;
        let node = Node::start(&config, &id, serve::cluster(&config).seat(&id), stores, |_| {})?;
        hangups.reload(loaded, load, vec![node.live().clone()]);
        node.joined(serve::PATIENCE).await;
        tickmesh_bench::out::line(serve::url(&config, node.address()));
        stop.wait().await;
        node.stop().await;
        Ok(())
    });
    telemetry.finish();
    served
}

/// What the Engine.IO v4 and Socket.IO v5 protocol documents say of their test servers.
fn conform(config: &mut Config) {
    config.socketio.conformance = true;
    config.socketio.connect_timeout_ms = 1_000;
    config.heartbeat.ping_interval_ms = 300;
    // A ping interval of 300 and a ping timeout of 200.
    config.heartbeat.timeout_ms = 500;
    config.limits.max_message_bytes = 1_000_000;
    config.server.origins = Vec::new();
}
