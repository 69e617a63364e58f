//! One node: its listener, worker threads and shutdown.
//!
//! Invariant: everything that can be wrong with the configuration shows before the listener takes its first connection.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, HttpServer, web};
use parking_lot::Mutex;
use tickmesh_cluster::config::{Config, Live};
use tickmesh_cluster::members::{Kind, Members, Roster};
use tickmesh_cluster::pulse::{self, Pulse, Who};
use tickmesh_cluster::seat::Seat;
use tickmesh_edge::address::Proxies;
use tickmesh_edge::auth::{Auth, AuthSetupError};
use tickmesh_edge::guard::Gauge;
use tickmesh_edge::kubernetes::{NotInPod, keep_deletion_cost};
use tickmesh_edge::limits::Connections;
use tickmesh_edge::listen::{advertised, bind};
use tickmesh_edge::rate::Keyed;
use tickmesh_edge::service::{self, Options, service};
use tickmesh_edge::socket::Patience;
use tickmesh_edge::tls::TlsError;
use tickmesh_market::calendar::{Calendar, CalendarError};
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::memory::Level;
use tickmesh_protocol::room::Classes;
use tickmesh_protocol::session::{Policy, Rates};
use tickmesh_store::Stores;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::alarms::{self, Receivers};
use crate::attendance::{self, Attendance};
use crate::flush::FlushSettings;
use crate::hub::{Hub, HubSeat, Request as HubRequest};
use crate::load::{Load, QueueDelay};
use crate::market::{self, Means, Settings};
use crate::metrics::{Metrics, Sources};
use crate::peers::{self, Peers, Told};
use crate::policies::{Policies, tune};
use crate::publisher::Publisher;
use crate::reads::Reads;
use crate::vitals::Meter;
use crate::worker::{Shared, Worker};
use crate::{api, audit, clock, fanout, guard, hub, keys, socketio, upgrade};

/// Largest request line and headers, in bytes, of the HTTP server (a constant of `actix-http`).
pub const MAX_HEAD_BYTES: usize = 131_072;

/// Longest wait, when the node stops, for what recorded rooms have to write.
const MARKET_PATIENCE: Duration = Duration::from_secs(3);

/// A node cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys that are configured cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthSetupError),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The pod's deletion cost is to be kept, but this is no pod.
    #[error(transparent)]
    NotInPod(#[from] NotInPod),
    /// The exchanges that are configured cannot be used.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
    /// The certificates of webhooks' receivers cannot be used.
    #[error("alarms.webhook_tls_ca: {0}")]
    Webhooks(String),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The address of the counters cannot be listened on.
    #[error("server.metrics_listen: cannot listen on {address}: {error}")]
    ListenForMetrics {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Adds routes of its own to a node's HTTP server.
pub type Routes = fn(&mut web::ServiceConfig);

/// A node that serves.
pub struct Node {
    shared: Arc<Shared>,
    fanout: fanout::FanoutHandle,
    address: SocketAddr,
    server: ServerHandle,
    /// Where `server.metrics_listen` is set.
    metrics_server: Option<ServerHandle>,
    members: Arc<dyn Members>,
    pulse: Pulse,
    run: u64,
    running: JoinHandle<std::io::Result<()>>,
    shutdown_timeout: Duration,
}

impl Node {
    /// Starts a node on the present actix system. Port 0 takes any free port. `id` names the node in the cluster, in which
    /// it takes the seat; `stores` may be shared with other nodes of the process.
    ///
    /// # Errors
    /// When the keys or the address cannot be used.
    pub fn start(
        config: &Config,
        id: &str,
        seat: Seat,
        stores: Stores,
        routes: Routes,
    ) -> Result<Self, StartError> {
        let auth = Auth::new(&config.auth)?;
        let settings = Settings::new(config)?;
        let options = Options::new(&config.server)?;
        let webhooks = Receivers::new(&config.alarms).map_err(StartError::Webhooks)?;
        // Without exchanges, markets are open around the clock.
        let exchanges = &config.market.exchange;
        let calendar = if exchanges.is_empty() { None } else { Some(Calendar::new(exchanges)?) };
        let at = config.node.listen;
        let listen = |error| StartError::Listen { address: at, error };
        let listener = bind(at, false).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let workers = service::workers(config.node.workers);
        let (senders, seats): (Vec<_>, Vec<_>) = (0..workers).map(hub::seat).unzip();
        let Seat { broker, events, members, presence, bus, mail, health, logs } = seat;
        let metrics = Arc::new(Metrics::new(Classes::new(config.rooms.class.clone())));
        let connections =
            Connections::new(config.limits.max_connections, config.limits.max_connections_per_address);
        connections.set(&config.limits, &config.rate);
        let policy = policy(config, id, stores.users.is_some());
        let policies = Arc::new(Policies::new(policy.clone(), config));
        let publish_pace = Arc::new(Keyed::new(config.rate.http_publishes()));
        let live = Live::new(config.clone());
        let flush = Arc::new(FlushSettings::new(&config.batch));
        live.on_change({
            let (connections, policies) = (connections.clone(), policies.clone());
            let flush = flush.clone();
            let publish_pace = publish_pace.clone();
            move |config| {
                connections.set(&config.limits, &config.rate);
                policies.configure(config);
                publish_pace.set(config.rate.http_publishes());
                flush.set(&config.batch);
            }
        });
        connections.watch({
            let metrics = metrics.clone();
            move || metrics.delivered()
        });
        let memory = Arc::new(Gauge::default());
        keep_deletion_cost(config, id, &connections)?;
        let run = rand::random::<u64>() >> 11;
        let started_at = clock::now().utc;
        let advertised = advertised(&config.cluster.advertise, address);
        let delay = Arc::new(QueueDelay::default());
        let mut load = Load {
            base: Load::base(id, run, advertised.clone(), config.cluster.zone.clone(), started_at),
            connections: connections.clone(),
            metrics: metrics.clone(),
            delay: delay.clone(),
            last: None,
        };
        let lease = Duration::from_millis(config.cluster.lease_ms);
        let roster = Roster::start(members.clone(), lease, move || load.report());
        let peers = Peers::new(id, run, bus, roster);
        let (market, inbox) = market::handle();
        let credentials = Arc::<Notify>::default();
        let (alarms, asked) = alarms::handle(broker.clone());
        let gauges = Arc::<alarms::Gauges>::default();
        peers::start(
            peers.clone(),
            mail,
            senders.clone(),
            connections.clone(),
            metrics.clone(),
            Told { market: market.clone(), credentials: credentials.clone(), alarms: alarms.clone() },
        );
        let auditor = audit::start(
            stores.users.clone(),
            peers.clone(),
            metrics.market.clone(),
            config.postgres.audit_days,
        );
        let needs = [("users", config.postgres.required), ("series", config.tdengine.required)];
        let is_needed = |name: &str| needs.contains(&(name, true));
        let required = stores.health().into_iter().filter(|(name, _)| is_needed(name)).collect();
        let attendance = Arc::new(Attendance::default());
        let shared = Arc::new(Shared {
            registry: metrics.registry(Sources {
                connections: connections.clone(),
                redis: health.clone(),
                stores: stores.clone(),
                logs: logs.clone(),
                delay: delay.clone(),
                memory: memory.clone(),
                alarms: gauges.clone(),
            }),
            peers: peers.clone(),
            max_watchlist: config.users.max_watchlist,
            max_alerts: config.users.max_alerts,
            stores: stores.clone(),
            reads: Reads::start().map_err(StartError::Thread)?,
            market,
            auditor,
            alarms,
            required,
            attendance: attendance.clone(),
            redis: health,
            policy: Arc::new(policy),
            policies,
            live: live.clone(),
            memory,
            auth,
            connections,
            publish_pace,
            hubs: senders.clone(),
            secret: config.cluster.secret.clone(),
            origins: config.server.origins.clone(),
            proxies: Proxies::new(config.server.trusted_proxies.clone()),
            patience: Patience::new(&config.server),
            flush,
            started_at,
            run,
            lines: Arc::default(),
            conformance: config.socketio.conformance,
            broker: broker.clone(),
            metrics: metrics.clone(),
        });
        attendance::start(attendance, presence, broker.clone(), lease);
        // Without a store there is nothing that the recorded rooms are kept for.
        let records = stores.series.is_some() || stores.users.is_some();
        let (tap, tapped) = fanout::tap(market::TAPPED);
        let tap = records.then_some(tap);
        let fanout = fanout::start(broker.clone(), events, senders, tap, metrics.clone(), id.into());
        if records {
            let means = Means { broker, stores, fanout: fanout.clone(), peers, metrics };
            market::start(settings, means, inbox, tapped).map_err(StartError::Thread)?;
        }
        let looks = alarms::Means {
            broker: shared.broker.clone(),
            peers: shared.peers.clone(),
            redis: shared.redis.clone(),
            live: live.clone(),
            calendar,
            gauges,
            webhooks,
        };
        alarms::start(looks, asked);
        let who = Who { id: id.to_owned(), kind: Kind::Node, run };
        let pulse = pulse::Means {
            broker: shared.broker.clone(),
            roster: shared.peers.roster().clone(),
            health: shared.redis.clone(),
            clock: || clock::now().utc,
        };
        let meter = Meter::new(shared.clone(), delay.clone(), advertised, config.cluster.zone.clone());
        let pulse = Pulse::start(who, pulse, meter);
        keys::start(shared.clone(), credentials);
        guard::start(shared.clone(), live, logs);
        let metrics_server = match config.server.metrics_listen {
            Some(at) => Some(serve_metrics(at, shared.clone())?),
            None => None,
        };
        let server = serve(config, listener, shared.clone(), fanout.clone(), seats, (options, delay), routes)
            .map_err(listen)?;
        let handle = server.handle();
        let running = tokio::spawn(server);
        let shutdown_timeout = Duration::from_millis(config.server.shutdown_timeout_ms);
        tracing::info!(node = id, %address, workers, "node is ready");
        Ok(Self {
            shared,
            fanout,
            address,
            server: handle,
            metrics_server,
            members,
            pulse,
            run,
            running,
            shutdown_timeout,
        })
    }

    /// Waits until the node has joined its cluster, knows the keys and revocations of its store and is ready for clients, but
    /// no longer than `patience`: it serves all the same, and goes on trying.
    pub async fn joined(&self, patience: Duration) {
        let known = tokio::time::timeout(patience, self.shared.auth.kept_known());
        let _ = tokio::join!(self.shared.peers.in_cluster(patience), known);
    }

    /// The configuration that is in force.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.shared.live
    }

    /// Publishes through this node from within the process, as long as it runs.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher(self.shared.clone())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.open()
    }

    /// Takes no more connections, tells every client to go elsewhere (1001) after what is queued for it, and returns
    /// when all are gone or `server.shutdown_timeout_ms` has passed. Sessions of gateways are moved by them meanwhile.
    pub async fn stop(self) {
        self.shared.connections.drain();
        self.shared.peers.report_now().await;
        let farewell = self.shared.peers.roster().farewell();
        self.fanout.flush().await;
        let market = self.shared.market.clone();
        let writing = tokio::spawn(async move { market.stop(MARKET_PATIENCE).await });
        for hub in &self.shared.hubs {
            hub.send(HubRequest::CloseDirect(CloseCode::GoingAway)).await;
        }
        let deadline = Instant::now() + self.shutdown_timeout;
        while self.shared.connections.open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left = self.shared.connections.open();
        if left > 0 {
            tracing::warn!(left, "clients did not leave within server.shutdown_timeout_ms");
        }
        let _ = writing.await;
        tokio::time::sleep_until(farewell).await;
        self.server.stop(false).await;
        if let Some(server) = self.metrics_server {
            server.stop(false).await;
        }
        let _ = self.running.await;
        self.pulse.farewell().await;
        if self.members.leave(&self.shared.policy.node_id, self.run).await.is_ok() {
            self.shared.peers.left_cluster().await;
        }
        tracing::info!(node = self.shared.policy.node_id, "node has stopped");
    }
}

/// What is in force for sessions at first.
pub(crate) fn policy(config: &Config, id: &str, keeps_users: bool) -> Policy {
    let mut policy = Policy {
        node_id: id.to_owned(),
        classes: Classes::new(config.rooms.class.clone()),
        max_message_bytes: config.limits.max_message_bytes,
        // Set below, as whenever they change.
        max_queue_bytes: 0,
        max_queue_age_ms: 0,
        max_subscriptions: 0,
        max_in_flight: 0,
        max_gate_messages: 0,
        rates: Rates::default(),
        stale_ms: 0,
        ping_interval_ms: config.heartbeat.ping_interval_ms,
        min_ping_interval_ms: config.heartbeat.min_ping_interval_ms,
        ping_timeout_ms: config.heartbeat.timeout_ms,
        connect_timeout_ms: config.socketio.connect_timeout_ms,
        market_prefix: config.market.prefix.clone(),
        keeps_users,
    };
    tune(&mut policy, config, Level::Normal);
    policy
}

fn serve(
    config: &Config,
    listener: TcpListener,
    shared: Arc<Shared>,
    fanout: fanout::FanoutHandle,
    seats: Vec<HubSeat>,
    (options, delay): (Options, Arc<QueueDelay>),
    routes: Routes,
) -> std::io::Result<Server> {
    let workers = seats.len();
    let seats = Arc::new(Mutex::new(seats));
    let max_body = config.limits.max_http_body_bytes;
    let metrics_here = config.server.metrics_listen.is_none();
    let node = web::Data::from(shared.clone());
    let origins = config.server.origins.clone();

    // This runs on each worker's own thread.
    let factory = move || {
        let Some(seat) = seats.lock().pop() else {
            // A worker that panicked is started again; its hub and sessions went with it.
            panic!("a worker thread was lost, restart the node");
        };
        delay.watch();
        let traffic = shared.metrics.worker();
        let hub = Hub::start(seat, fanout.clone(), shared.clone(), traffic.clone());
        let worker = Worker::new(shared.clone(), hub, traffic);
        let requests = shared.metrics.requests.clone();
        let app = App::new()
            .wrap_fn(move |request, app| requests.count(request, app))
            .app_data(web::ThinData(worker.clone()))
            .app_data(web::PayloadConfig::new(max_body))
            .app_data(node.clone())
            .configure(api::routes)
            .configure(|config| socketio::routes(config, &origins))
            .configure(|config| {
                if metrics_here {
                    api::metrics_route(config);
                }
            })
            .configure(routes)
            .default_service(web::to(api::not_found));
        service(
            options.clone(),
            map_config(app.into_factory(), |()| AppConfig::default()),
            move |request, http| upgrade::serve(worker.clone(), request, http),
        )
    };
    service::run("node", workers, listener, factory)
}

/// The counters on an address of their own.
fn serve_metrics(address: SocketAddr, shared: Arc<Shared>) -> Result<ServerHandle, StartError> {
    let node = web::Data::from(shared);
    let server = HttpServer::new(move || App::new().app_data(node.clone()).configure(api::metrics_route))
        .workers(1)
        .disable_signals()
        .bind(address)
        .map_err(|error| StartError::ListenForMetrics { address, error })?
        .run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}
