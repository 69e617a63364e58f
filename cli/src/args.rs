//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use tickmesh_cluster::config::listen_address;

use crate::top::Column;

/// A realtime push cluster for market data.
///
/// Without a command it runs `tickmesh dev`: a whole cluster in one process, with a demo feed.
#[derive(Debug, Parser)]
#[command(name = "tickmesh", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a gateway and nodes in one process, with a demo feed, for development
    Dev(DevArgs),
    /// Run a node; with a command, drain or resume one
    Node(NodeArgs),
    /// Run a gateway, which holds clients' connections while the nodes behind it change
    Gateway(GatewayArgs),
    /// Ask the node or gateway on this machine whether it is alive, for health checks; exit status 1 if it is not
    Health(HealthArgs),
    /// Show the nodes and gateways of a cluster
    Cluster {
        #[command(subcommand)]
        what: ClusterCommand,
    },
    /// Watch a cluster in the terminal
    Top(TopArgs),
    /// Measure a server under load, and check what it delivers
    Bench {
        #[command(subcommand)]
        what: tickmesh_bench::Command,
    },
    /// Publish ticks from a file in their original timing
    Feed(FeedArgs),
    /// Make a JSON Web Token for a user
    Token(TokenArgs),
    /// Show or check the configuration
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevArgs {
    /// Address to listen on, or a port of 127.0.0.1 [default: 127.0.0.1:8080]. The nodes behind the gateway take any free
    /// ports
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Number of nodes, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Where messages are kept: memory, or redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// Do not publish the demo feed
    #[arg(long)]
    pub(crate) no_feed: bool,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Default for DevArgs {
    fn default() -> Self {
        Self { listen: None, nodes: 2, broker: None, no_feed: false, config: None }
    }
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) command: Option<NodeCommand>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Run the test server that a protocol's documents describe, in memory and open to anyone, for conformance suites
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) conformance: Option<Conformance>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Conformance {
    /// Engine.IO v4 at /engine.io/ and Socket.IO v5 at /socket.io/
    Socketio,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Move a node's clients to other nodes, and let it take no more
    Drain(DrainArgs),
    /// Let a drained node take clients again
    Resume {
        /// Name of the node in the cluster
        id: String,
        #[command(flatten)]
        server: Trusted,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DrainArgs {
    /// Name of the node in the cluster
    #[arg(required_unless_present = "own")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) server: Trusted,
    /// Drain the node of this machine's configuration, with a key from there; for hooks that stop a container
    #[arg(long = "self", conflicts_with_all = ["id", "via", "ca"])]
    pub(crate) own: bool,
    /// With --self: configuration file of the node
    #[arg(long, value_name = "FILE", requires = "own")]
    pub(crate) config: Option<PathBuf>,
    /// Wait until the node has no connections, for this time at most, such as 1m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List nodes and gateways with their connections, CPU and memory
    Status {
        #[command(flatten)]
        server: Trusted,
    },
}

/// Which server a command talks to, and by whose right.
#[derive(Debug, ClapArgs)]
pub(crate) struct Server {
    /// Address of any node or gateway of the cluster
    #[arg(long, aliases = ["to", "url", "at"], value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) via: String,
    /// API key or JWT, where the server asks for one
    #[arg(long, env = "TICKMESH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// A server that may be reached by TLS.
#[derive(Debug, ClapArgs)]
pub(crate) struct Trusted {
    #[command(flatten)]
    pub(crate) server: Server,
    /// For https://, the certificate authorities to trust, in PEM, instead of the public ones
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) server: Trusted,
    /// Time between two updates, 100ms or longer
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Print the state once, as plain lines, and exit
    #[arg(long)]
    pub(crate) once: bool,
    /// Column to sort nodes and gateways by
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = Column::Kind)]
    pub(crate) sort: Column,
    /// Sort in reverse
    #[arg(long)]
    pub(crate) reverse: bool,
}

/// More often is of no use: vitals come once a second.
fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(86_400);
    if allowed.contains(&time) { Ok(time) } else { Err("allowed is 100ms to 1day".into()) }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServerArgs {
    /// Address to listen on, such as 0.0.0.0:8080, or a port of 127.0.0.1 [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Name in the cluster; one is made if it is not given
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Where messages are kept: memory, or redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ServerArgs {
    /// The keys that the flags set.
    pub(crate) fn flags(&self) -> [(&'static str, &'static str, Option<String>); 3] {
        [
            ("--listen", "node.listen", self.listen.map(|address| address.to_string())),
            ("--id", "node.id", self.id.clone()),
            ("--broker", "broker.url", self.broker.clone()),
        ]
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Serve the market page at /. It shows rooms that may be read without a token (auth.anonymous = "full")
    #[arg(long)]
    pub(crate) page: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HealthArgs {
    /// Ask whether it takes clients; while it drains or Redis is away it does not
    #[arg(long)]
    pub(crate) ready: bool,
    /// Address it listens on, or a port of 127.0.0.1 [default: that of the configuration]
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Configuration file of the node or gateway
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FeedArgs {
    /// CSV file with the columns ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume
    #[arg(long, value_name = "FILE", required_unless_present = "demo")]
    pub(crate) file: Option<PathBuf>,
    /// Publish the recorded quotes of `tickmesh dev` instead of a file
    #[arg(long, conflicts_with = "file")]
    pub(crate) demo: bool,
    /// Speed relative to the original timing; 0 publishes as fast as possible
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) speed: f64,
    /// Start over at the end of the file, until stopped; the times of each round follow those of the round before
    #[arg(long = "loop")]
    pub(crate) looped: bool,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Print no progress and no summary; skipped rows are still reported
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TokenArgs {
    /// User id, the claim "sub"
    #[arg(long)]
    pub(crate) user: String,
    /// Role of the user
    #[arg(long, value_enum, default_value_t = RoleArg::User)]
    pub(crate) role: RoleArg,
    /// Secret to sign with (HS256) [default: auth.jwt_secret of the configuration]
    #[arg(long, hide_env_values = true)]
    pub(crate) secret: Option<String>,
    /// How long the token is valid, such as 1h or 30d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h")]
    pub(crate) expires: Duration,
    /// Room, or a prefix followed by *, that the user may subscribe to in addition to what room classes allow. Can be repeated
    #[arg(long, value_name = "ROOM")]
    pub(crate) subscribe: Vec<String>,
    /// Room, or a prefix followed by *, that the user may publish into. Can be repeated
    #[arg(long, value_name = "ROOM")]
    pub(crate) publish: Vec<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleArg {
    /// Subscribes and makes requests
    User,
    /// May do everything
    Operator,
    /// Also publishes, and reads the HTTP API
    Publisher,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print all keys with their defaults and documentation, as TOML
    Default,
    /// Check a configuration file together with the environment
    Check {
        /// Configuration file
        file: PathBuf,
    },
    /// Print the configuration that a node would use, and where each value comes from; secrets are masked
    Effective {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}
