//! Every key once: its bounds, its documentation, how it is written as text.

use std::fmt::Write;

use tickmesh_market::calendar::{Calendar, ExchangeConfig};
use tickmesh_protocol::room::{Class, RoomName};
use toml::{Table, Value};

use super::alarms::{check_rules, check_webhooks};
use super::keys::KEYS;
use super::values::{BadListenAddress, listen_address};
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
    /// This word, or an integer in this range.
    IntOr(&'static str, i64, i64),
    /// A number from 0 to 1.
    Ratio,
    /// true or false.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An address to listen on, see [`listen_address`].
    Address,
    /// The same, or empty.
    OptionalAddress,
    /// A name of `[A-Za-z0-9_.-]`, up to 64 bytes, or empty.
    Name,
    /// The beginning of a room's name, not empty.
    Prefix,
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
    /// Exchanges.
    Exchanges,
    /// API keys.
    ApiKeys,
    /// Receivers of alarms.
    Webhooks,
    /// Rules of alarms.
    Rules,
}

pub(super) const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc }
}

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
        if matches!(self, Self::Secret | Self::SecretUrl(_) | Self::ApiKeys | Self::Webhooks) {
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
            Self::Ratio => text.trim().parse().map_or_else(|_| Value::String(text.into()), Value::Float),
            Self::Int(..) | Self::IntOr(..) => {
                text.trim().parse().map_or_else(|_| Value::String(text.into()), Value::Integer)
            }
            Self::Origins | Self::Networks if !text.trim_start().starts_with('[') => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.into())).collect())
            }
            Self::Origins
            | Self::Networks
            | Self::Classes
            | Self::Exchanges
            | Self::ApiKeys
            | Self::Webhooks
            | Self::Rules => {
                let table = format!("value = {text}").parse::<Table>();
                table.ok().and_then(|mut table| table.remove("value")).unwrap_or(Value::String(text.into()))
            }
            _ => Value::String(text.into()),
        }
    }

    /// Rewrites a value that can be written in several ways as the one that [`Config`] reads. What is wrong stays as it is, for
    /// [`check`](Self::check) to refuse.
    pub(super) fn normal(self, value: Value) -> Value {
        let address = match (self, &value) {
            (Self::Address | Self::OptionalAddress, Value::String(text)) => listen_address(text).ok(),
            // A port needs no quotes.
            (Self::Address | Self::OptionalAddress, Value::Integer(port)) => {
                listen_address(&port.to_string()).ok()
            }
            _ => None,
        };
        address.map_or(value, |address| Value::String(address.to_string()))
    }

    /// Checks a value that is [`normal`](Self::normal).
    ///
    /// # Errors
    /// With what is allowed.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let text = value.as_str();
        let good = match self {
            Self::Bool => value.is_bool(),
            Self::Ratio => number(value).is_some_and(|n| (0.0..=1.0).contains(&n)),
            Self::Int(min, max) => value.as_integer().is_some_and(|n| (min..=max).contains(&n)),
            Self::IntOr(word, min, max) => {
                text == Some(word) || value.as_integer().is_some_and(|n| (min..=max).contains(&n))
            }
            Self::Choice(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Address => text.is_some_and(|text| listen_address(text).is_ok()),
            Self::OptionalAddress => text.is_some_and(|text| text.is_empty() || listen_address(text).is_ok()),
            Self::Name => text.is_some_and(|text| {
                text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
            }),
            Self::Prefix => {
                text.is_some_and(|text| (1..=32).contains(&text.len()) && RoomName::new(text).is_ok())
            }
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
            Self::Exchanges => return check_exchanges(value),
            Self::ApiKeys => return check_api_keys(value),
            Self::Webhooks => return check_webhooks(value),
            Self::Rules => return check_rules(value),
        };
        if good { Ok(()) } else { Err(self.allowed()) }
    }

    fn allowed(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Ratio => "a number from 0 to 1".into(),
            Self::Int(min, max) => format!("an integer from {min} to {max}"),
            Self::IntOr(word, min, max) => format!("\"{word}\", or an integer from {min} to {max}"),
            Self::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Self::Address => BadListenAddress::ALLOWED.into(),
            Self::OptionalAddress => format!("{}, or \"\"", BadListenAddress::ALLOWED),
            Self::Name => "up to 64 characters of A-Z a-z 0-9 _ . -".into(),
            Self::Prefix => "1 to 32 characters of A-Z a-z 0-9 _ . : -".into(),
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
            Self::Classes | Self::Exchanges | Self::ApiKeys | Self::Webhooks | Self::Rules => {
                "a list of tables".into()
            }
        }
    }
}

/// 0 and 1 may be written as integers.
fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
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

fn check_exchanges(value: &Value) -> Result<(), String> {
    let exchanges: Vec<ExchangeConfig> =
        value.clone().try_into().map_err(|error| format!("a list of exchanges: {error}"))?;
    Calendar::new(&exchanges).map(|_| ()).map_err(|error| error.to_string())
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

/// All values as they may be shown.
pub(super) fn values(config: &Config) -> Table {
    Table::try_from(config).unwrap_or_default()
}

/// Whether both have the same value of a key that may not be shown.
pub(super) fn same_secret(a: &Config, b: &Config, path: &str) -> bool {
    let keys = |config: &Config| -> Vec<(String, String)> {
        let keys = config.auth.api_keys.iter();
        keys.map(|key| (key.name.clone(), key.key.expose().to_owned())).collect()
    };
    match path {
        "auth.jwt_secret" => a.auth.jwt_secret == b.auth.jwt_secret,
        "auth.api_keys" => keys(a) == keys(b),
        "alarms.webhooks" => a.alarms.webhooks == b.alarms.webhooks,
        "cluster.secret" => a.cluster.secret == b.cluster.secret,
        "postgres.url" => a.postgres.url == b.postgres.url,
        "tdengine.dsn" => a.tdengine.dsn == b.tdengine.dsn,
        "broker.url" => a.broker.url == b.broker.url,
        _ => true,
    }
}

/// The configuration as TOML, section by section, with documentation or with where each value comes from.
pub(super) fn render(config: &Config, documented: bool) -> String {
    let values = values(config);
    let mut out = String::new();
    let mut section = "";
    for key in KEYS {
        let Some((of, name)) = key.path.split_once('.') else { continue };
        let Some(value) = values.get(of).and_then(|table| table.get(name)) else { continue };
        if matches!(key.kind, Kind::Classes | Kind::Rules) {
            if documented {
                out.push('\n');
                comment(&mut out, key.doc);
            } else {
                let _ = write!(out, "\n# {}", config.origins.of(key.path));
            }
            for class in value.as_array().into_iter().flatten().filter_map(Value::as_table) {
                let _ = write!(out, "\n[[{}]]\n{class}", key.path);
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
            if let Kind::IntOr(word, min, max) = key.kind {
                let _ = writeln!(out, "# \"{word}\", or {min} to {max}.");
            }
            if key.kind == Kind::Ratio {
                let _ = writeln!(out, "# 0 to 1.");
            }
            let variable = key.path.replace('.', "__").to_uppercase();
            let _ = writeln!(out, "# TICKMESH_{variable}");
        }
        let _ = write!(out, "{name} = {value}");
        if !documented {
            let _ = write!(out, "  # {}", config.origins.of(key.path));
        }
        out.push('\n');
    }
    out
}

fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        let _ = writeln!(out, "# {}", line.trim());
    }
}
