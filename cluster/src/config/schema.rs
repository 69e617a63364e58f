//! Every key once: its bounds, its documentation, how it is written as text.

use std::fmt::Write;
use std::net::SocketAddr;

use tickmesh_protocol::room::Class;
use toml::{Table, Value};

use super::{ApiKey, Config};
use crate::redis::{Address, BadAddress};

/// A key and what it allows.
#[derive(Debug)]
pub(super) struct Key {
    /// `section.key`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    doc: &'static str,
}

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An integer in this range.
    Int(i64, i64),
    /// true or false.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An IP address and port.
    Address,
    /// The same, or empty.
    OptionalAddress,
    /// A name of `[A-Za-z0-9_.-]`, up to 64 bytes, or empty.
    Name,
    /// Any text that is not empty.
    Text,
    /// A text that is never shown.
    Secret,
    /// A path, or empty.
    Path,
    /// Empty, or a URL with one of these schemes.
    Url(&'static [&'static str]),
    /// The same, never shown.
    SecretUrl(&'static [&'static str]),
    /// `memory`, or an address of Redis.
    Broker,
    /// `host:port`, or empty.
    Advertise,
    /// `https://host[:port]`, or `*`.
    Origins,
    /// Networks in CIDR notation, or addresses.
    Networks,
    /// Room classes.
    Classes,
    /// API keys.
    ApiKeys,
}

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc }
}

/// All keys, in the order in which they are printed.
pub(super) const KEYS: &[Key] = &[
    key("node.listen", Kind::Address, "Address to listen on; port 0 takes any free port."),
    key("node.id", Kind::Name, "Name in the cluster; empty for one made at start."),
    key("node.workers", Kind::Int(0, 1_024), "Worker threads; 0 for one per core."),
    key(
        "broker.url",
        Kind::Broker,
        "Where messages are kept and shared. \"memory\": in this process, lost with it. Redis, for any number of nodes:\n\
         redis://[[user]:password@]host[:port][/db], redis+cluster://host:port[,host:port..], or\n\
         redis+sentinel://host:port[,host:port..]/master[/db].",
    ),
    key(
        "broker.timeout_ms",
        Kind::Int(100, 60_000),
        "Milliseconds after which a call to Redis has failed.",
    ),
    key(
        "cluster.lease_ms",
        Kind::Int(500, 600_000),
        "Milliseconds after which a process that does not renew its lease counts as gone.",
    ),
    key(
        "cluster.advertise",
        Kind::Advertise,
        "Where the others reach this process, \"host:port\"; empty for node.listen.",
    ),
    key("cluster.secret", Kind::Secret, "Shared by the processes of a cluster: the credential of links between gateways and nodes. Without it there are none."),
    key(
        "cluster.zone",
        Kind::Name,
        "Where this process is, such as a data centre: a gateway prefers nodes of its own zone as long as they serve.",
    ),
    key(
        "cluster.tls_ca",
        Kind::Path,
        "Certificates in PEM of those who sign nodes' certificates. With it a gateway reaches nodes by TLS, and a node's\n\
         certificate (server.tls_certificate) has to be for the name or address in its cluster.advertise.",
    ),
    key(
        "gateway.placement",
        Kind::Choice(&["least-loaded", "user", "query"]),
        "Which node a client gets. \"least-loaded\": of two at random the one with less load. \"user\": all connections of\n\
         a user the same one, \"query\": all with the same value of a query parameter, by consistent hashing, unless that\n\
         node has a quarter more than its share.",
    ),
    key("gateway.placement_key", Kind::Text, "The name of that query parameter."),
    key(
        "gateway.moves_per_second",
        Kind::Int(1, 100_000),
        "Connections that a gateway moves each second, from a node that drains or has more than its share.",
    ),
    key(
        "gateway.reuse_port",
        Kind::Bool,
        "Whether another process may listen on a gateway's port (SO_REUSEPORT): a new one can start before the old one\n\
         stops.",
    ),
    key(
        "pool.min",
        Kind::Int(0, 10_000),
        "Links that each worker thread of a gateway keeps ready for each node, so that a client costs no handshake.",
    ),
    key("pool.max", Kind::Int(0, 10_000), "The same while many clients come; at least pool.min."),
    key(
        "pool.idle_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds after which a ready link beyond pool.min is closed, if nobody needed it.",
    ),
    key(
        "auth.anonymous",
        Kind::Choice(&["none", "subscribe", "full"]),
        "What a connection without a token may do: nothing, subscribe to open rooms, or also publish into them and\n\
         read the API. `tickmesh dev` defaults to \"full\".",
    ),
    key(
        "auth.jwt_algorithm",
        Kind::Choice(&["HS256", "RS256", "ES256"]),
        "How tokens are signed (RFC 7518).",
    ),
    key(
        "auth.jwt_secret",
        Kind::Secret,
        "Key of HS256 tokens. Take 32 random bytes: short ones are guessed offline from a single token.",
    ),
    key("auth.jwt_key_file", Kind::Path, "Public key of RS256 or ES256 tokens, a file in PEM."),
    key(
        "auth.leeway_s",
        Kind::Int(0, 300),
        "Seconds by which the clocks of node and token issuer may differ.",
    ),
    key(
        "auth.api_keys",
        Kind::ApiKeys,
        "Keys for the HTTP API: { name = \"feed\", key = \"...\", role = \"publisher\" }; roles are user, publisher,\n\
         operator; a key has at least 16 bytes.",
    ),
    key("limits.max_connections", Kind::Int(1, 10_000_000), "Connections of a node; more are answered 503."),
    key(
        "limits.max_connections_per_address",
        Kind::Int(0, 10_000_000),
        "Connections from one address (of IPv6, one network of 64 bits); more are answered 503. 0 for any number.",
    ),
    key(
        "limits.max_message_bytes",
        Kind::Int(1_024, 16_777_216),
        "Largest message of a client; larger ones close with 1009.",
    ),
    key(
        "limits.max_queue_bytes",
        Kind::Int(16_384, 1_073_741_824),
        "Bytes of live messages that may wait for one connection; beyond it closes with 4003.",
    ),
    key("limits.max_subscriptions", Kind::Int(1, 100_000), "Rooms that one connection may follow."),
    key(
        "limits.max_in_flight",
        Kind::Int(1, 4_096),
        "Requests of one connection that may wait for others; beyond it the connection is not read.",
    ),
    key(
        "limits.max_gate_messages",
        Kind::Int(1, 1_000_000),
        "Live messages held per subscription while its history is read.",
    ),
    key("limits.max_publish_batch", Kind::Int(1, 100_000), "Messages in one HTTP publish."),
    key("limits.max_http_body_bytes", Kind::Int(1_024, 268_435_456), "Largest HTTP body."),
    key("heartbeat.ping_interval_ms", Kind::Int(100, 3_600_000), "Milliseconds between two pings."),
    key(
        "heartbeat.timeout_ms",
        Kind::Int(200, 7_200_000),
        "Milliseconds of silence after which a client is gone; more than the interval.",
    ),
    key(
        "socketio.connect_timeout_ms",
        Kind::Int(100, 3_600_000),
        "Milliseconds in which a Socket.IO client has to enter the namespace.",
    ),
    key(
        "server.origins",
        Kind::Origins,
        "Allowed Origin headers, and pages that may use Socket.IO's long-polling (CORS), such as\n\
         \"https://example.com\"; empty or \"*\" for any. Clients that are no browsers send none and are not held to it.",
    ),
    key(
        "server.trusted_proxies",
        Kind::Networks,
        "Networks such as \"10.0.0.0/8\" of proxies whose X-Forwarded-For tells a client's address. From others it is\n\
         ignored.",
    ),
    key(
        "server.tls_certificate",
        Kind::Path,
        "Certificate chain in PEM: clients connect by TLS (https, wss). It and its key are read again when they change.",
    ),
    key("server.tls_key", Kind::Path, "The certificate's key in PEM."),
    key(
        "server.tcp_user_timeout_ms",
        Kind::Int(1_000, 600_000),
        "Milliseconds that a client may take nothing of what waits for it.",
    ),
    key(
        "server.handshake_timeout_ms",
        Kind::Int(100, 600_000),
        "Milliseconds in which a request's head has to arrive.",
    ),
    key(
        "server.shutdown_timeout_ms",
        Kind::Int(0, 600_000),
        "Milliseconds that clients have to leave when the node stops.",
    ),
    key(
        "server.metrics_listen",
        Kind::OptionalAddress,
        "An address of its own for /metrics, which the node's address then does not serve; empty for the node's.",
    ),
    key(
        "rooms.class",
        Kind::Classes,
        "Room classes; the longest prefix that matches a room's name wins. What is not named here stays as the defaults\n\
         have it, class by class and key by key. history_size: messages kept, 0 to 1000000;\n\
         history_ttl_s: 1 to 31536000; idempotency_window_s: 1 to 86400; subscribe and publish: everyone, users, owner\n\
         (the user whose id follows the prefix), publishers, operators, nobody; presence: whether subscribers may ask who
\
         else is there; join_events: whether room_member_joined and room_member_left are published into the room.",
    ),
    key("log.format", Kind::Choice(&["text", "json"]), "How log lines are written, on standard error."),
    key(
        "log.level",
        Kind::Text,
        "A filter: error, warn, info, debug, trace, also per module: \"info,tickmesh_node=debug\".",
    ),
    key(
        "postgres.url",
        Kind::SecretUrl(&["postgres", "postgresql"]),
        "The relational store. Not used by this version.",
    ),
    key(
        "tdengine.dsn",
        Kind::SecretUrl(&["taos", "taos+ws", "ws", "wss", "taosws"]),
        "The time-series store. Not used by this version.",
    ),
    key("otlp.endpoint", Kind::Url(&["http", "https"]), "Where traces go. Not used by this version."),
];

/// The key at a path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The keys of a section, for an error message.
pub(super) fn keys_of(section: &str) -> String {
    let keys: Vec<_> =
        KEYS.iter().filter_map(|key| key.path.strip_prefix(section)?.strip_prefix('.')).collect();
    keys.join(", ")
}

/// The names of the sections, for an error message.
pub(super) fn sections() -> String {
    let mut names: Vec<_> = KEYS.iter().filter_map(|key| Some(key.path.split_once('.')?.0)).collect();
    names.dedup();
    names.join(", ")
}

impl Kind {
    /// The value as it may be shown.
    pub(super) fn shown(self, value: &Value) -> String {
        if matches!(self, Self::Secret | Self::SecretUrl(_) | Self::ApiKeys) {
            return "***".into();
        }
        // A URL may carry a password, and end up where it is only refused.
        match value.as_str().and_then(|text| text.split_once("://")?.1.rsplit_once('@')) {
            Some((_, host)) => format!("\"***@{host}\""),
            None => value.to_string(),
        }
    }

    /// Reads a value as the environment and flags write it. What cannot be read stays text, for [`check`](Self::check)
    /// to refuse.
    pub(super) fn parse(self, text: &str) -> Value {
        match self {
            Self::Bool => text.trim().parse().map_or_else(|_| Value::String(text.into()), Value::Boolean),
            Self::Int(..) => text.trim().parse().map_or_else(|_| Value::String(text.into()), Value::Integer),
            Self::Origins | Self::Networks if !text.trim_start().starts_with('[') => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.into())).collect())
            }
            Self::Origins | Self::Networks | Self::Classes | Self::ApiKeys => {
                let table = format!("value = {text}").parse::<Table>();
                table.ok().and_then(|mut table| table.remove("value")).unwrap_or(Value::String(text.into()))
            }
            _ => Value::String(text.into()),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// With what is allowed.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let text = value.as_str();
        let good = match self {
            Self::Bool => value.is_bool(),
            Self::Int(min, max) => value.as_integer().is_some_and(|n| (min..=max).contains(&n)),
            Self::Choice(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Address => text.is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
            Self::OptionalAddress => {
                text.is_some_and(|text| text.is_empty() || text.parse::<SocketAddr>().is_ok())
            }
            Self::Name => text.is_some_and(|text| {
                text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
            }),
            Self::Text => text.is_some_and(|text| !text.is_empty()),
            Self::Secret => text.is_some(),
            Self::Path => text.is_some(),
            Self::Url(schemes) | Self::SecretUrl(schemes) => text.is_some_and(|text| {
                text.is_empty()
                    || text
                        .split_once("://")
                        .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
            }),
            Self::Broker => text.is_some_and(|text| text == "memory" || Address::parse(text).is_ok()),
            Self::Advertise => text.is_some_and(|text| {
                let parts = text.rsplit_once(':');
                text.is_empty()
                    || parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            }),
            Self::Origins => {
                value.as_array().is_some_and(|all| all.iter().all(|one| one.as_str().is_some_and(is_origin)))
            }
            Self::Networks => value.as_array().is_some_and(|all| {
                all.iter().all(|one| one.as_str().is_some_and(|one| one.parse::<ipnet::IpNet>().is_ok()))
            }),
            Self::Classes => return check_classes(value),
            Self::ApiKeys => return check_api_keys(value),
        };
        if good { Ok(()) } else { Err(self.allowed()) }
    }

    fn allowed(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int(min, max) => format!("an integer from {min} to {max}"),
            Self::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Self::Address => "an IP address and port such as \"0.0.0.0:8080\"".into(),
            Self::OptionalAddress => "an IP address and port such as \"0.0.0.0:9100\", or \"\"".into(),
            Self::Name => "up to 64 characters of A-Z a-z 0-9 _ . -".into(),
            Self::Text => "a text that is not empty".into(),
            Self::Secret => "a text".into(),
            Self::Path => "a path, or \"\"".into(),
            Self::Url(schemes) | Self::SecretUrl(schemes) => {
                format!("a URL that starts with {}://, or \"\"", schemes.join(":// or "))
            }
            Self::Broker => format!("\"memory\", {BadAddress}"),
            Self::Advertise => "\"host:port\", or \"\"".into(),
            Self::Origins => {
                "a list of origins such as \"https://example.com\", without a path, or \"*\"".into()
            }
            Self::Networks => "a list of networks such as \"10.0.0.0/8\"".into(),
            Self::Classes | Self::ApiKeys => "a list of tables".into(),
        }
    }
}

/// `*`, or a scheme and a host, perhaps with a port (RFC 6454 §6.2).
fn is_origin(text: &str) -> bool {
    let of_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    let parts = text.split_once("://");
    text == "*"
        || parts.is_some_and(|(scheme, host)| {
            [scheme, host].iter().all(|part| !part.is_empty())
                && scheme.chars().all(of_scheme)
                && host.chars().all(of_host)
        })
}

fn check_classes(value: &Value) -> Result<(), String> {
    let classes: Vec<Class> =
        value.clone().try_into().map_err(|error| format!("a list of classes: {error}"))?;
    let mut seen = std::collections::HashSet::new();
    for class in &classes {
        let prefix = &class.prefix;
        let in_range = |name: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} of class \"{prefix}\" to be an integer from {min} to {max}, not {value}"))
            }
        };
        if !seen.insert(prefix) {
            return Err(format!("each prefix once, but \"{prefix}\" is there twice"));
        }
        if !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b)) {
            return Err(format!("prefixes of A-Z a-z 0-9 _ . : -, not \"{prefix}\""));
        }
        in_range("history_size", class.history_size as u64, 0, 1_000_000)?;
        in_range("history_ttl_s", class.history_ttl_s, 1, 31_536_000)?;
        in_range("idempotency_window_s", class.idempotency_window_s, 1, 86_400)?;
    }
    Ok(())
}

fn check_api_keys(value: &Value) -> Result<(), String> {
    let allowed = "a list of { name = \"...\", key = \"at least 16 bytes\", role = \"user\", \"publisher\" or \"operator\" }";
    // The error of the parser might quote a key.
    let keys: Vec<ApiKey> = value.clone().try_into().map_err(|_| allowed.to_owned())?;
    let anonymous = |key: &ApiKey| key.role == tickmesh_protocol::identity::Role::Anonymous;
    if keys.iter().any(|key| key.name.is_empty() || key.key.expose().len() < 16 || anonymous(key)) {
        return Err(allowed.into());
    }
    Ok(())
}

/// The configuration as TOML, section by section, with or without documentation.
pub(super) fn render(config: &Config, documented: bool) -> String {
    let values = Table::try_from(config).unwrap_or_default();
    let mut out = String::new();
    let mut section = "";
    for key in KEYS {
        let Some((of, name)) = key.path.split_once('.') else { continue };
        let Some(value) = values.get(of).and_then(|table| table.get(name)) else { continue };
        if key.kind == Kind::Classes {
            if documented {
                out.push('\n');
                comment(&mut out, key.doc);
            }
            for class in value.as_array().into_iter().flatten().filter_map(Value::as_table) {
                let _ = write!(out, "\n[[rooms.class]]\n{class}");
            }
            section = of;
            continue;
        }
        if of != section {
            let _ = writeln!(out, "{}[{of}]", if out.is_empty() { "" } else { "\n" });
            section = of;
        }
        if documented {
            comment(&mut out, key.doc);
            if let Kind::Int(min, max) = key.kind {
                let _ = writeln!(out, "# {min} to {max}.");
            }
            let variable = key.path.replace('.', "__").to_uppercase();
            let _ = writeln!(out, "# TICKMESH_{variable}");
        }
        let _ = writeln!(out, "{name} = {value}");
    }
    out
}

fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        let _ = writeln!(out, "# {}", line.trim());
    }
}
