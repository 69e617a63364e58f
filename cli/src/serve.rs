//! What `dev` and `node` share: logging, the cluster that the configuration names, and the signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tickmesh_cluster::broker::memory::MemoryCluster;
use tickmesh_cluster::config::{Config, Live, needing_restart};
use tickmesh_cluster::seat::Cluster;
use tickmesh_node::clock;
use tickmesh_protocol::room::Classes;
use tickmesh_store::Stores;
use tickmesh_telemetry::{InitError, Telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Unusable;

/// How long a process waits for its cluster before it says where it listens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What a process does before it serves: logs, traces, and as many open files as it may have.
pub(crate) fn prepare(config: &Config, service: &'static str, id: &str) -> anyhow::Result<Telemetry> {
    let telemetry = tickmesh_telemetry::init(config, service, id).map_err(|error| match error {
        InitError::Twice => anyhow::Error::new(error),
        InitError::Level(_) | InitError::Otlp { .. } => Unusable(error.to_string()).into(),
    })?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    raise_open_files(config);
    Ok(telemetry)
}

/// SIGHUP. Made before the process serves: until then it would end it.
pub(crate) struct Hangups(Signal);

impl Hangups {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// On each, reads the configuration as it is then, and takes from it what can be changed: the log's level, and what
    /// the nodes and gateways of this process have in force. `loaded` is as it was read when the process started.
    pub(crate) fn reload(
        mut self,
        loaded: Config,
        load: impl Fn() -> anyhow::Result<Config> + 'static,
        lives: Vec<Arc<Live>>,
    ) {
        actix_rt::spawn(async move {
            while self.0.recv().await.is_some() {
                let taken = load().and_then(|config| {
                    tickmesh_telemetry::log::set_level(&config.log.level)?;
                    Ok(config)
                });
                match taken {
                    Ok(config) => {
                        lives.iter().for_each(|live| live.reload(&config));
                        let kept = needing_restart(&loaded, &config);
                        let kept: Vec<_> = kept.into_iter().filter(|key| *key != "log.level").collect();
                        if !kept.is_empty() {
                            let keys = kept.join(", ");
                            tracing::warn!(keys, "these keys have changed and need a restart");
                        }
                        tracing::info!("the configuration was read again");
                    }
                    Err(error) => tracing::error!("the configuration was not read again: {error:#}"),
                }
            }
        });
    }
}

/// Where this process's nodes take their seats: in memory, for them alone, or on Redis.
pub(crate) fn cluster(config: &Config) -> Cluster {
    let classes = Classes::new(config.rooms.class.clone());
    match config.broker.url.redis() {
        None => {
            let most = config.broker.memory_bytes;
            tracing::info!(most, "rooms' logs are kept in memory, in at most so many bytes");
            Cluster::memory(MemoryCluster::bounded(classes, Arc::new(|| clock::now().utc), most))
        }
        Some(address) => {
            Cluster::Redis { address, classes, timeout: Duration::from_millis(config.broker.timeout_ms) }
        }
    }
}

/// The stores that the configuration names. Called on a runtime.
pub(crate) fn stores(config: &Config, name: &str) -> anyhow::Result<Stores> {
    Stores::open(config, name).map_err(|error| Unusable(error.to_string()).into())
}

/// Where a process that listens there is reached.
pub(crate) fn url(config: &Config, address: SocketAddr) -> String {
    let scheme = if config.server.tls_certificate.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// A name for a process that was given none: unique enough to tell them apart in a log.
pub(crate) fn id(config: &Config, kind: &str) -> String {
    if config.node.id.is_empty() {
        format!("{kind}-{:08x}", rand::random::<u32>())
    } else {
        config.node.id.clone()
    }
}

/// SIGTERM and SIGINT. Made before anybody is told that the process serves: from then on they mean a clean stop.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn either(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the first. From then on a second one ends the process at once.
    pub(crate) async fn wait(mut self) {
        self.either().await;
        tracing::info!("stopping; a second signal ends the process at once");
        actix_rt::spawn(async move {
            self.either().await;
            std::process::exit(1);
        });
    }
}

/// Raises the limit of open files as far as the system lets it: every client is one.
fn raise_open_files(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let wanted = config.limits.max_connections as u64 + 64;
    if getrlimit(Resource::Nofile).current.is_some_and(|now| now < wanted) {
        tracing::warn!(wanted, "the limit of open files is below limits.max_connections");
    }
}
