//! The one typed configuration of all processes.
//!
//! Layers, the later over the earlier: defaults, a TOML file, the environment (`TICKMESH_SECTION__KEY`), flags.
//! Every key is described once, in `schema.rs`: its bounds, its documentation, how it is written in the environment.
//!
//! Invariants: a [`Config`] in hand is valid; loading opens no port and no connection; what is wrong is reported all
//! at once, each with its key, its value, where it comes from and what is allowed; a secret is never printed.

mod alarms;
mod batch;
mod keys;
mod kubernetes;
mod limits;
mod live;
mod load;
mod observe;
mod origin;
mod profiles;
mod schema;
mod stores;
#[cfg(test)]
mod tests;
mod tuning;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tickmesh_protocol::identity::Role;
use tickmesh_protocol::room::{Class, default_classes};

pub use alarms::{AlarmsConfig, Webhook};
pub use batch::{BatchConfig, FlushWindow};
pub use kubernetes::KubernetesConfig;
pub use limits::{AcceptRate, LimitsConfig};
pub use live::{ChangeError, Live, needing_restart};
pub use load::{ConfigError, ConfigErrors, Sources};
pub use observe::{LogConfig, LogFormat, OtlpConfig};
pub use origin::{Origin, Origins};
pub use stores::{MarketConfig, PostgresConfig, RecorderConfig, StoresConfig, TdengineConfig, UsersConfig};
pub use tuning::{MemoryConfig, RateConfig, TuningConfig};
pub use values::{BadListenAddress, BrokerUrl, Secret, listen_address};
use values::{optional_address, optional_path};

/// Everything that can be configured. `tickmesh config default` prints it with its documentation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Values of several keys under one name.
    pub tuning: TuningConfig,
    /// This node.
    pub node: NodeConfig,
    /// Where messages are kept and shared.
    pub broker: BrokerConfig,
    /// What processes of one cluster have in common.
    pub cluster: ClusterConfig,
    /// Gateways.
    pub gateway: GatewayConfig,
    /// Links from gateways to nodes.
    pub pool: PoolConfig,
    /// Who may connect.
    pub auth: AuthConfig,
    /// Bounds of one node.
    pub limits: LimitsConfig,
    /// When messages leave together.
    pub batch: BatchConfig,
    /// How often something may be asked for.
    pub rate: RateConfig,
    /// What is done when memory runs short.
    pub memory: MemoryConfig,
    /// Signs of life.
    pub heartbeat: HeartbeatConfig,
    /// Sockets and HTTP.
    pub server: ServerConfig,
    /// Socket.IO.
    pub socketio: SocketIoConfig,
    /// The dashboard.
    pub dashboard: DashboardConfig,
    /// Room classes.
    pub rooms: RoomsConfig,
    /// Logging.
    pub log: LogConfig,
    /// What rooms of a market carry.
    pub market: MarketConfig,
    /// What writes ticks and bars down.
    pub recorder: RecorderConfig,
    /// What is kept for users.
    pub users: UsersConfig,
    /// Both stores.
    pub stores: StoresConfig,
    /// The relational store.
    pub postgres: PostgresConfig,
    /// The time-series store.
    pub tdengine: TdengineConfig,
    /// Traces.
    pub otlp: OtlpConfig,
    /// Kubernetes.
    pub kubernetes: KubernetesConfig,
    /// When the cluster raises an alarm on itself, and who is told.
    pub alarms: AlarmsConfig,
    /// Where the values come from.
    #[serde(skip)]
    pub origins: Origins,
}

/// `[node]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Address to listen on; port 0 takes any free port.
    pub listen: SocketAddr,
    /// Name in the cluster; empty for one made at start.
    pub id: String,
    /// Worker threads; 0 for one per core.
    pub workers: usize,
}

/// `[broker]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BrokerConfig {
    /// `memory`, or an address of Redis.
    pub url: BrokerUrl,
    /// Milliseconds after which a call to Redis has failed.
    pub timeout_ms: u64,
    /// Bytes of all rooms' logs in memory.
    pub memory_bytes: usize,
}

/// `[cluster]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Milliseconds after which a process that does not renew its lease counts as gone.
    pub lease_ms: u64,
    /// Where the others reach this process, `host:port`; empty for where it listens, or for this machine's host name if
    /// that is every address.
    pub advertise: String,
    /// Shared by the processes of a cluster.
    pub secret: Secret,
    /// Where this process is; gateways prefer nodes of their own zone.
    pub zone: String,
    /// Certificates of those who sign nodes' certificates, in PEM; none where nodes are reached in the clear.
    #[serde(with = "optional_path")]
    pub tls_ca: Option<PathBuf>,
}

/// `[gateway]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayConfig {
    /// Which node a client gets.
    pub placement: Placement,
    /// With `placement = "query"`, the query parameter whose value decides.
    pub placement_key: String,
    /// Connections that may move between nodes each second.
    pub moves_per_second: usize,
    /// Another process may listen on the same port.
    pub reuse_port: bool,
}

/// Which node a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Of two nodes at random the one with less load.
    LeastLoaded,
    /// All of a user's connections on the same node, as long as it has room.
    User,
    /// All connections with the same value of a query parameter.
    Query,
}

/// `[pool]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Links that each worker thread keeps ready for each node, at least.
    pub min: usize,
    /// And at most, while many clients come.
    pub max: usize,
    /// Milliseconds after which links beyond the least are closed if nobody needed them.
    pub idle_ms: u64,
}

/// `[auth]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthConfig {
    /// What a connection without a token may do.
    pub anonymous: Anonymous,
    /// How tokens are signed.
    pub jwt_algorithm: JwtAlgorithm,
    /// Key of HS256 tokens; empty for none.
    pub jwt_secret: Secret,
    /// Public key of RS256 or ES256 tokens, in PEM.
    #[serde(with = "optional_path")]
    pub jwt_key_file: Option<PathBuf>,
    /// Seconds by which clocks may differ.
    pub leeway_s: u64,
    /// Keys for the HTTP API.
    pub api_keys: Vec<ApiKey>,
}

/// One of `[[auth.api_keys]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Who uses it; the user id of what it does.
    pub name: String,
    /// The key itself.
    pub key: Secret,
    /// `user`, `publisher` or `operator`.
    pub role: Role,
}

/// What a connection without a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nothing.
    None,
    /// Subscribe to open rooms.
    Subscribe,
    /// Also publish into them and read the API: for a laptop.
    Full,
}

/// How tokens are signed (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

/// `[heartbeat]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeartbeatConfig {
    /// Milliseconds between two pings.
    pub ping_interval_ms: u64,
    /// Milliseconds between two pings of a connection that is not good, at least.
    pub min_ping_interval_ms: u64,
    /// Milliseconds of silence after which a client is gone.
    pub timeout_ms: u64,
}

/// `[socketio]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SocketIoConfig {
    /// Milliseconds in which a client has to enter a namespace.
    pub connect_timeout_ms: u64,
    /// Serves the test servers of the protocol documents instead of this protocol. Set by a flag alone.
    #[serde(skip)]
    pub conformance: bool,
}

/// `[server]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerConfig {
    /// Allowed `Origin` headers; empty for any.
    pub origins: Vec<String>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Certificate chain in PEM; none to serve in the clear.
    #[serde(with = "optional_path")]
    pub tls_certificate: Option<PathBuf>,
    /// Its key, in PEM.
    #[serde(with = "optional_path")]
    pub tls_key: Option<PathBuf>,
    /// Milliseconds that a client may take nothing of what waits for it.
    pub tcp_user_timeout_ms: u64,
    /// The same for clients that follow rooms, all of them as `latest`.
    pub latest_timeout_ms: u64,
    /// Milliseconds in which a request's head has to arrive.
    pub handshake_timeout_ms: u64,
    /// Milliseconds that clients have to leave when the node stops.
    pub shutdown_timeout_ms: u64,
    /// An address of its own for `/metrics`; none for the node's.
    #[serde(with = "optional_address")]
    pub metrics_listen: Option<SocketAddr>,
}

/// `[dashboard]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DashboardConfig {
    /// A gateway serves `/dashboard`.
    pub enabled: bool,
}

/// `[rooms]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomsConfig {
    /// The classes; the longest prefix that matches a room's name wins.
    pub class: Vec<Class>,
}

impl Config {
    /// The defaults of a node in a deployment: nobody connects without a token.
    #[must_use]
    pub fn node_defaults() -> Self {
        Self {
            tuning: TuningConfig::default(),
            origins: Origins::default(),
            node: NodeConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
                id: String::new(),
                workers: 0,
            },
            broker: BrokerConfig {
                url: BrokerUrl::new("memory"),
                timeout_ms: 2_000,
                memory_bytes: 256 << 20,
            },
            cluster: ClusterConfig {
                lease_ms: 5_000,
                advertise: String::new(),
                secret: Secret::default(),
                zone: String::new(),
                tls_ca: None,
            },
            gateway: GatewayConfig {
                placement: Placement::LeastLoaded,
                placement_key: "key".into(),
                moves_per_second: 200,
                reuse_port: false,
            },
            pool: PoolConfig { min: 4, max: 64, idle_ms: 30_000 },
            auth: AuthConfig {
                anonymous: Anonymous::None,
                jwt_algorithm: JwtAlgorithm::Hs256,
                jwt_secret: Secret::default(),
                jwt_key_file: None,
                leeway_s: 5,
                api_keys: Vec::new(),
            },
            limits: LimitsConfig {
                max_connections: 10_000,
                max_connections_per_address: 0,
                max_connections_per_user: 0,
                accept_per_second: AcceptRate::Auto,
                accept_queue: 10_000,
                stale_s: 0,
                max_message_bytes: 64 * 1024,
                max_queue_bytes: 1024 * 1024,
                max_queue_age_ms: 30_000,
                max_subscriptions: 1_000,
                max_in_flight: 64,
                max_gate_messages: 10_000,
                max_publish_batch: 1_000,
                max_http_body_bytes: 4 * 1024 * 1024,
            },
            rate: RateConfig::default(),
            memory: MemoryConfig::default(),
            batch: BatchConfig::default(),
            heartbeat: HeartbeatConfig {
                ping_interval_ms: 30_000,
                min_ping_interval_ms: 5_000,
                timeout_ms: 60_000,
            },
            server: ServerConfig {
                origins: Vec::new(),
                trusted_proxies: Vec::new(),
                tls_certificate: None,
                tls_key: None,
                tcp_user_timeout_ms: 10_000,
                latest_timeout_ms: 60_000,
                handshake_timeout_ms: 5_000,
                shutdown_timeout_ms: 10_000,
                metrics_listen: None,
            },
            socketio: SocketIoConfig { connect_timeout_ms: 45_000, conformance: false },
            dashboard: DashboardConfig { enabled: true },
            rooms: RoomsConfig { class: default_classes() },
            log: LogConfig {
                format: LogFormat::Text,
                level: "info,actix_server=warn,refinery_core=warn,tokio_postgres=warn".into(),
            },
            market: MarketConfig {
                prefix: "market_".into(),
                late_ms: 60_000,
                max_jump_percent: 20,
                exchange: Vec::new(),
            },
            recorder: RecorderConfig { batch: 2_000, flush_ms: 100, buffer: 20_000 },
            users: UsersConfig { max_watchlist: 500, max_alerts: 100, alert_hysteresis_bp: 5 },
            stores: StoresConfig::default(),
            postgres: PostgresConfig {
                url: Secret::default(),
                pool_max: 16,
                timeout_ms: 2_000,
                statement_timeout_ms: 1_000,
                tls_ca: None,
                audit_days: 30,
                required: false,
            },
            tdengine: TdengineConfig {
                dsn: Secret::default(),
                pool_max: 8,
                timeout_ms: 3_000,
                tick_days: 3_650,
                minute_days: 3_650,
                daily_days: 36_500,
                required: false,
            },
            otlp: OtlpConfig {
                endpoint: String::new(),
                sample: 0.01,
                follow_parent: true,
                timeout_ms: 5_000,
                queue: 4_096,
                tls_ca: None,
            },
            kubernetes: KubernetesConfig::default(),
            alarms: AlarmsConfig::default(),
        }
    }

    /// The defaults of `tickmesh dev`: everybody may do everything, for a laptop, in whose terminal only warnings are shown.
    #[must_use]
    pub fn dev_defaults() -> Self {
        let mut config = Self::node_defaults();
        config.auth.anonymous = Anonymous::Full;
        config.broker.memory_bytes = 16 << 20;
        config.log.level = "warn".into();
        config
    }

    /// What an operator should know before this is used: it works, but hardly as it is meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let auth = &self.auth;
        let secret = auth.jwt_secret.expose();
        let nobody = auth.anonymous == Anonymous::None
            && secret.is_empty()
            && auth.jwt_key_file.is_none()
            && auth.api_keys.is_empty();
        let set = |secret: &Secret| !secret.expose().is_empty();
        [
            (nobody, "nobody can connect: auth.anonymous is \"none\", and no auth.jwt_secret, auth.jwt_key_file or \
                      auth.api_keys is set"),
            (set(&auth.jwt_secret) && secret.len() < 16, "auth.jwt_secret is shorter than 16 bytes: it can be guessed"),
            (
                self.otlp.endpoint.contains(":4317"),
                "otlp.endpoint has port 4317, usually that of OTLP over gRPC: traces go over HTTP, usually to port 4318",
            ),
            (
                set(&self.cluster.secret) && self.cluster.secret.expose().len() < 16,
                "cluster.secret is shorter than 16 bytes: it can be guessed",
            ),
        ]
        .into_iter()
        .filter_map(|(holds, warning)| holds.then_some(warning))
        .collect()
    }

    /// All keys with their documentation and the defaults of a node, as TOML.
    #[must_use]
    pub fn default_toml() -> String {
        schema::render(&Self::node_defaults(), true)
    }

    /// This configuration as TOML; secrets are masked.
    #[must_use]
    pub fn effective_toml(&self) -> String {
        schema::render(self, false)
    }
}
