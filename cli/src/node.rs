//! `tickmesh node`: one node, for a deployment.

use tickmesh_cluster::config::Config;
use tickmesh_node::Node;

use crate::args::ServerArgs;
use crate::{config, serve};

/// Serves until a signal, then drains.
pub(crate) fn run(args: &ServerArgs) -> anyhow::Result<()> {
    let config = config::load(&Config::node_defaults(), args.config.as_deref(), args.flags())?;
    serve::prepare(&config)?;
    actix_rt::System::new().block_on(async {
        let stop = serve::StopSignals::new()?;
        let id = serve::id(&config, "node");
        let node = Node::start(&config, &id, serve::cluster(&config).seat(&id), |_| {})?;
        node.joined(serve::PATIENCE).await;
        println!("{}", serve::url(&config, node.address()));
        stop.wait().await;
        node.stop().await;
        Ok(())
    })
}
