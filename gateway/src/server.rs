//! One gateway: its listener, worker threads and shutdown.

use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, web};
use prometheus_client::registry::Registry;
use tickmesh_cluster::bus::{Bus, Mail, To};
use tickmesh_cluster::config::{Config, Live, Placement, PoolConfig};
use tickmesh_cluster::letter::{Body, Letter};
use tickmesh_cluster::members::{Kind, Members, Report, Roster};
use tickmesh_cluster::pulse::{Means, Pulse, Who};
use tickmesh_cluster::seat::Seat;
use tickmesh_edge::address::Proxies;
use tickmesh_edge::auth::{Auth, AuthSetupError};
use tickmesh_edge::exits::Exits;
use tickmesh_edge::guard::Gauge;
use tickmesh_edge::held::Lines;
use tickmesh_edge::kubernetes::{NotInPod, keep_deletion_cost};
use tickmesh_edge::limits::Connections;
use tickmesh_edge::listen::{advertised, bind};
use tickmesh_edge::service::{self, Options, service};
use tickmesh_edge::socket::Patience;
use tickmesh_edge::tls::{Connector, TlsError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::dial::Dialer;
use crate::guard::Round;
use crate::metrics::{Metrics, Traffic};
use crate::nodes::{Nodes, Rules};
use crate::pool::Pool;
use crate::vitals::Meter;
use crate::{api, edge, guard, socketio};

/// A gateway cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nodes take links only with the cluster's secret.
    #[error("cluster.secret is not set: nodes take no links without it")]
    NoSecret,
    /// The keys that are configured cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthSetupError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The pod's deletion cost is to be kept, but this is no pod.
    #[error(transparent)]
    NotInPod(#[from] NotInPod),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Adds routes of its own to a gateway's HTTP server.
pub type Routes = fn(&mut web::ServiceConfig);

/// What is one per gateway.
pub(crate) struct Shared {
    /// Its name in the cluster.
    pub(crate) id: String,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) roster: Roster,
    /// The configuration that is in force.
    pub(crate) live: Arc<Live>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) metrics: Metrics,
    /// How short memory is.
    pub(crate) memory: Arc<Gauge>,
    pub(crate) registry: Registry,
    pub(crate) origins: Vec<String>,
    /// Who may tell a client's address.
    pub(crate) proxies: Proxies,
    pub(crate) auth: Auth,
    pub(crate) keys: Keys,
    /// Socket.IO clients on long-polling.
    pub(crate) lines: Arc<Lines>,
    /// Largest message of a client, in bytes.
    pub(crate) max_message: usize,
    /// The number of this gateway's present life, which is in the ids of sessions on long-polling.
    pub(crate) run: u64,
    /// Clients, and other gateways, come by TLS.
    pub(crate) serves_tls: bool,
    /// Within which a poll is answered.
    pub(crate) longest_poll: Duration,
    /// Largest answer to a poll, in bytes.
    pub(crate) largest_poll: usize,
    /// How long a client may take nothing though there is something.
    pub(crate) patience: Patience,
    /// Clients that are closed because memory is very short.
    pub(crate) shedding: watch::Receiver<Round>,
    /// Becomes true when the gateway is about to stop.
    pub(crate) stopping: watch::Receiver<bool>,
    shutdown_timeout: Duration,
}

/// By what sessions belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keys {
    /// They do not.
    None,
    /// By user.
    User,
    /// By the value of this query parameter.
    Query(String),
}

impl Keys {
    fn new(config: &Config) -> Self {
        match config.gateway.placement {
            Placement::LeastLoaded => Self::None,
            Placement::User => Self::User,
            Placement::Query => Self::Query(config.gateway.placement_key.clone()),
        }
    }
}

impl Shared {
    /// When a client is sent away after the gateway began to stop: at random, so that not all come to another at once.
    pub(crate) fn parting(&self) -> Duration {
        self.shutdown_timeout.mul_f64(rand::random_range(0.0..0.5))
    }
}

/// What is one per worker thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) exits: Exits,
    /// What hands polls to other gateways.
    pub(crate) polls: awc::Client,
}

impl Worker {
    fn new(shared: Arc<Shared>, pool: PoolConfig) -> Rc<Self> {
        let traffic = shared.metrics.worker();
        let pool = Pool::new(shared.nodes.clone(), pool, traffic.clone());
        // A poll lasts; how many there are is bounded by the connections of clients.
        let polls = api::client(shared.nodes.dialer(), 0);
        Rc::new(Self { shared, traffic, pool, exits: Exits::default(), polls })
    }
}

impl Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// A gateway that serves.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: ServerHandle,
    running: JoinHandle<std::io::Result<()>>,
    stop: watch::Sender<bool>,
    members: Arc<dyn Members>,
    bus: Arc<dyn Bus>,
    pulse: Pulse,
    id: String,
    run: u64,
}

impl Gateway {
    /// Starts a gateway on the present actix system. Port 0 takes any free port. `id` names it in the cluster, in which it
    /// takes the seat.
    ///
    /// # Errors
    /// When there is no secret or the address cannot be used.
    pub fn start(config: &Config, id: &str, seat: Seat, routes: Routes) -> Result<Self, StartError> {
        if config.cluster.secret.expose().is_empty() {
            return Err(StartError::NoSecret);
        }
        let auth = Auth::new(&config.auth)?;
        let options = Options::new(&config.server)?;
        let tls = config.cluster.tls_ca.as_deref().map(Connector::new).transpose()?;
        let at = config.node.listen;
        let listen = |error| StartError::Listen { address: at, error };
        let listener = bind(at, config.gateway.reuse_port).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let Seat { broker, members, bus, mail, health, .. } = seat;
        let connections =
            Connections::new(config.limits.max_connections, config.limits.max_connections_per_address);
        connections.set(&config.limits, &config.rate);
        let live = Live::new(config.clone());
        live.on_change({
            let connections = connections.clone();
            move |config| connections.set(&config.limits, &config.rate)
        });
        keep_deletion_cost(config, id, &connections)?;
        let run = rand::random::<u64>() >> 11;
        let zone = config.cluster.zone.clone();
        let advertised = advertised(&config.cluster.advertise, address);
        let started_at = utc();
        let report = reporter(id, run, advertised.clone(), zone.clone(), started_at, connections.clone());
        let lease = Duration::from_millis(config.cluster.lease_ms);
        let roster = Roster::start(members.clone(), lease, report);
        tokio::spawn(read_mail(id.to_owned(), bus.clone(), mail, roster.clone()));
        let keys = Keys::new(config);
        let rules =
            Rules { zone: zone.clone(), keyed: keys != Keys::None, pace: config.gateway.moves_per_second };
        let dialer = Dialer { secret: config.cluster.secret.clone(), tls };
        let nodes = Nodes::start(roster.clone(), rules, dialer);
        let metrics = Metrics::new();
        let (stop, stopping) = watch::channel(false);
        let (rounds, shedding) = watch::channel(Round::default());
        let memory = Arc::<Gauge>::default();
        let shared = Arc::new(Shared {
            id: id.to_owned(),
            registry: metrics.registry(nodes.clone(), connections.clone(), memory.clone(), health.clone()),
            nodes,
            roster,
            live,
            connections,
            metrics,
            memory,
            origins: config.server.origins.clone(),
            proxies: Proxies::new(config.server.trusted_proxies.clone()),
            auth,
            keys,
            lines: Arc::default(),
            max_message: config.limits.max_message_bytes,
            run,
            serves_tls: config.server.tls_certificate.is_some(),
            longest_poll: Duration::from_millis(
                config.heartbeat.ping_interval_ms + config.heartbeat.timeout_ms,
            ),
            largest_poll: config.limits.max_message_bytes + config.limits.max_queue_bytes,
            patience: Patience::new(&config.server),
            shedding,
            stopping,
            shutdown_timeout: Duration::from_millis(config.server.shutdown_timeout_ms),
        });
        guard::start(shared.clone(), rounds);
        shared.connections.watch(shared.metrics.writes());
        let server = serve(config, options, listener, &shared, routes).map_err(listen)?;
        let who = Who { id: id.to_owned(), kind: Kind::Gateway, run };
        let means = Means { broker, roster: shared.roster.clone(), health, clock: utc };
        let meter = Meter::new(shared.clone(), advertised, zone, started_at);
        let pulse = Pulse::start(who, means, meter);
        let handle = server.handle();
        let running = tokio::spawn(server);
        tracing::info!(gateway = id, %address, "gateway is ready");
        let id = id.to_owned();
        Ok(Self { shared, address, server: handle, running, stop, members, bus, pulse, id, run })
    }

    /// Waits until the gateway has joined its cluster and has a node, but no longer than `patience`.
    pub async fn joined(&self, patience: Duration) {
        let end = Instant::now() + patience;
        self.shared.roster.joined(patience).await;
        while self.shared.nodes.choose(None, None).is_none() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The configuration that is in force.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.shared.live
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.open()
    }

    /// Takes no more clients, sends those it has away (1001), a few at a time, and returns when all are gone or
    /// `server.shutdown_timeout_ms` has passed.
    pub async fn stop(self) {
        self.shared.connections.drain();
        self.shared.roster.renew();
        members_changed(&self.id, &*self.bus).await;
        let farewell = self.shared.roster.farewell();
        self.server.pause().await;
        let _ = self.stop.send(true);
        let deadline = Instant::now() + self.shared.shutdown_timeout;
        while self.shared.connections.open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep_until(farewell).await;
        self.server.stop(false).await;
        let _ = self.running.await;
        self.pulse.farewell().await;
        let _ = self.members.leave(&self.id, self.run).await;
        tracing::info!(gateway = self.id, "gateway has stopped");
    }
}

/// UTC milliseconds.
pub(crate) fn utc() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}

fn reporter(
    id: &str,
    run: u64,
    address: String,
    zone: String,
    started_at: u64,
    connections: Arc<Connections>,
) -> impl FnMut() -> Report + Send + 'static {
    let id = id.to_owned();
    move || Report {
        id: id.clone(),
        kind: Kind::Gateway,
        run,
        address: address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        draining: connections.draining(),
        connections: connections.open() as u64,
        cpu_percent: 0.0,
        memory_bytes: procfs::process::Process::myself()
            .and_then(|process| process.stat())
            .map_or(0, |stat| stat.rss * procfs::page_size()),
        messages_per_s: 0.0,
        zone: zone.clone(),
        queue_delay_ms: 0.0,
        quality: 100.0,
    }
}

/// Tells the others to look at who is there.
async fn members_changed(id: &str, bus: &dyn Bus) {
    let letter = Letter { from: id.to_owned(), body: Body::Members };
    if let Ok(text) = serde_json::to_string(&letter) {
        let _ = bus.send(To::Members, &text).await;
    }
}

/// Of what the others say, a gateway hears that members changed.
async fn read_mail(id: String, bus: Arc<dyn Bus>, mut mail: Mail, roster: Roster) {
    members_changed(&id, &*bus).await;
    while let Some(letter) = mail.recv().await {
        if let Ok(Letter { body: Body::Members, .. }) = serde_json::from_slice(&letter) {
            roster.look();
        }
    }
}

fn serve(
    config: &Config,
    options: Options,
    listener: std::net::TcpListener,
    shared: &Arc<Shared>,
    routes: Routes,
) -> std::io::Result<Server> {
    let workers = service::workers(config.node.workers);
    let max_body = config.limits.max_http_body_bytes;
    let pool = config.pool.clone();
    let dashboard = config.dashboard.enabled;
    let shared = shared.clone();
    // This runs on each worker's own thread.
    let factory = move || {
        let worker = Worker::new(shared.clone(), pool.clone());
        let requests = shared.metrics.requests.clone();
        let app = App::new()
            .wrap_fn(move |request, app| requests.count(request, app))
            .app_data(web::Data::from(shared.clone()))
            .app_data(web::ThinData(api::client(shared.nodes.dialer(), api::MAX_FORWARDED)))
            .app_data(web::PayloadConfig::new(max_body))
            .app_data(web::ThinData(worker.clone()))
            .configure(api::routes)
            .configure(|config| socketio::routes(config, &shared.origins))
            .configure(|config| {
                if dashboard {
                    tickmesh_web::dashboard(config);
                }
            })
            .configure(routes)
            .default_service(web::to(api::not_found));
        service(
            options.clone(),
            map_config(app.into_factory(), |()| AppConfig::default()),
            move |request, http| edge::serve(worker.clone(), request, http),
        )
    };
    service::run("gateway", workers, listener, factory)
}
