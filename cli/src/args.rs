//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::top::Column;

/// A realtime push cluster for market data.
///
/// Without a command it is `tickmesh dev`: everything in one process, with a demo feed.
#[derive(Debug, Parser)]
#[command(name = "tickmesh", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A gateway and nodes in this process, with a demo feed and pages that show it
    Dev(DevArgs),
    /// One node; or drains one
    Node(NodeArgs),
    /// A gateway: holds clients' connections while the nodes behind it change
    Gateway(GatewayArgs),
    /// Asks a node or gateway on this machine whether it is alive, for health checks; 1 if it is not
    Health(HealthArgs),
    /// Shows a running cluster
    Cluster {
        #[command(subcommand)]
        what: ClusterCommand,
    },
    /// Watches a running cluster
    Top(TopArgs),
    /// Measures a running server, and checks what it delivers
    Bench {
        #[command(subcommand)]
        what: tickmesh_bench::Command,
    },
    /// Publishes a file of ticks in its own timing
    Feed(FeedArgs),
    /// Makes a JSON Web Token
    Token(TokenArgs),
    /// Shows and checks configurations
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevArgs {
    /// Address of the gateway; nodes are on any ports
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Where messages are kept and shared: memory, or redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// Without the demo feed
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
    /// Serves the test server of a protocol's documents instead, in memory and for anybody
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
    /// Moves a node's clients elsewhere, and gives it no more
    Drain(DrainArgs),
    /// Gives a drained node clients again
    Resume {
        /// Its name in the cluster
        id: String,
        #[command(flatten)]
        via: Via,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DrainArgs {
    /// Its name in the cluster
    #[arg(required_unless_present = "own")]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) via: Via,
    /// The node whose configuration this is, reached where it listens, with a key from there: for what stops a container
    #[arg(long = "self", conflicts_with_all = ["id", "via", "ca"])]
    pub(crate) own: bool,
    /// With --self, its configuration file
    #[arg(long, value_name = "FILE", requires = "own")]
    pub(crate) config: Option<PathBuf>,
    /// Waits until it has no more connections, so long at most, such as 1m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Its nodes and gateways, and how they do
    Status {
        #[command(flatten)]
        via: Via,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Via {
    /// Any node or gateway
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) via: String,
    /// API key or JWT of an operator
    #[arg(long, env = "TICKMESH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Authorities in PEM that a https:// URL is trusted by, in place of those of the web
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) via: Via,
    /// Time from one look to the next, 100ms or longer
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Prints one block of plain lines and ends
    #[arg(long)]
    pub(crate) once: bool,
    /// What nodes and gateways are sorted by
    #[arg(long, value_enum, default_value_t = Column::Kind)]
    pub(crate) sort: Column,
    /// The other way round
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
    /// Address to listen on
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Name in the cluster
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Where messages are kept and shared: memory, or redis://HOST:PORT
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
    /// Also serves the market page, at /. It shows what anybody may see with auth.anonymous = "full"
    #[arg(long)]
    pub(crate) page: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HealthArgs {
    /// Whether it takes clients, which it does not while it drains or Redis is away
    #[arg(long)]
    pub(crate) ready: bool,
    /// Where it listens
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Its configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FeedArgs {
    /// CSV with the columns ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume
    #[arg(long, value_name = "FILE", required_unless_present = "demo")]
    pub(crate) file: Option<PathBuf>,
    /// The recorded quotes that `tickmesh dev` shows, instead of a file
    #[arg(long, conflicts_with = "file")]
    pub(crate) demo: bool,
    /// How many times faster than it happened; 0 for as fast as possible
    #[arg(long, default_value_t = 1.0)]
    pub(crate) speed: f64,
    /// Starts over at the end, until stopped; the times of further rounds go on behind those of the file
    #[arg(long = "loop")]
    pub(crate) looped: bool,
    /// A node or gateway
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) to: String,
    /// API key or JWT that may publish
    #[arg(long, env = "TICKMESH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Neither progress nor summary; rows that are skipped are still named
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TokenArgs {
    /// Whose token it is: the claim sub
    #[arg(long)]
    pub(crate) user: String,
    /// What it makes its bearer
    #[arg(long, value_enum, default_value_t = RoleArg::User)]
    pub(crate) role: RoleArg,
    /// HS256 secret; without it auth.jwt_secret of the configuration
    #[arg(long, hide_env_values = true)]
    pub(crate) secret: Option<String>,
    /// How long it is valid, such as 1h or 30d
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h")]
    pub(crate) expires: Duration,
    /// A room, or a prefix with *, that it may subscribe to beyond what the classes allow; can be repeated
    #[arg(long, value_name = "ROOM")]
    pub(crate) subscribe: Vec<String>,
    /// A room, or a prefix with *, that it may publish into; can be repeated
    #[arg(long, value_name = "ROOM")]
    pub(crate) publish: Vec<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleArg {
    User,
    Operator,
    Publisher,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints all keys with their defaults and documentation
    Default,
    /// Checks a file, with the environment over it
    Check {
        /// Configuration file
        file: PathBuf,
    },
    /// Prints what a node would use; secrets are masked
    Effective {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}
