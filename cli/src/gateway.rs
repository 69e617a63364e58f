//! `tickmesh gateway`: holds clients' connections in front of a cluster's nodes.

use tickmesh_cluster::config::Config;
use tickmesh_gateway::Gateway;

use crate::args::GatewayArgs;
use crate::{config, serve};

/// Serves until a signal, then sends its clients away.
pub(crate) fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    let server = &args.server;
    let load = {
        let (file, flags) = (server.config.clone(), server.flags());
        move || config::load(&Config::node_defaults(), file.as_deref(), flags.clone())
    };
    let config = load()?;
    if config.broker.url.redis().is_none() {
        let problem =
            "a gateway and its nodes are several processes: set broker.url to a Redis that they share";
        return Err(config::Unusable(problem.into()).into());
    }
    let id = serve::id(&config, "gateway");
    let telemetry = serve::prepare(&config, "tickmesh-gateway", &id)?;
    let served = actix_rt::System::new().block_on(async {
        let stop = serve::StopSignals::new()?;
        let hangups = serve::Hangups::new()?;
        let routes = if args.page { tickmesh_web::market } else { |_: &mut _| {} };
        let gateway = Gateway::start(&config, &id, serve::cluster(&config).seat(&id), routes)?;
        hangups.reload(config.clone(), load, vec![gateway.live().clone()]);
        gateway.joined(serve::PATIENCE).await;
        tickmesh_bench::out::line(serve::url(&config, gateway.address()));
        stop.wait().await;
        gateway.stop().await;
        Ok(())
    });
    telemetry.finish();
    served
}
