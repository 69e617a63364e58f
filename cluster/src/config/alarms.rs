//! `[alarms]`: the alarm rules of the cluster, and the webhooks that get its alarms.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tickmesh_protocol::alarm::{Rule, RuleName, default_rules};
use toml::{Table, Value};

use super::load::over_list;
use super::values::{Secret, optional_path};

/// Maximum number of webhooks: each has its own thread.
const MAX_WEBHOOKS: usize = 16;
/// Minimum length of a webhook's secret, in bytes: a shorter one could be guessed offline from one delivery.
const MIN_SECRET: usize = 16;
/// Maximum length of a URL, in bytes.
const MAX_URL: usize = 2_048;

/// `[alarms]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlarmsConfig {
    /// Whether the rules are evaluated.
    pub enabled: bool,
    /// Milliseconds within which a receiver has to answer.
    pub webhook_timeout_ms: u64,
    /// Milliseconds until a failed delivery is sent again; doubled each time.
    pub webhook_retry_ms: u64,
    /// Seconds after which a failed delivery is given up.
    pub webhook_give_up_s: u64,
    /// Maximum number of deliveries that wait for one receiver.
    pub webhook_queue: usize,
    /// CA certificates of the receivers, in PEM; none for the public CAs.
    #[serde(with = "optional_path")]
    pub webhook_tls_ca: Option<PathBuf>,
    /// Receivers.
    pub webhooks: Vec<Webhook>,
    /// All rules.
    pub rule: Vec<Rule>,
}

/// One of `alarms.webhooks`. A URL may contain a secret, so neither field is ever shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where alarms are posted.
    pub url: Secret,
    /// The key that signs them.
    pub secret: Secret,
}

/// The part of `[alarms]` that can be changed while the process runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LiveAlarms {
    enabled: bool,
    rule: Vec<Rule>,
}

impl LiveAlarms {
    pub(super) fn of(config: &AlarmsConfig) -> Self {
        Self { enabled: config.enabled, rule: config.rule.clone() }
    }

    pub(super) fn put(self, config: &mut AlarmsConfig) {
        (config.enabled, config.rule) = (self.enabled, self.rule);
    }
}

impl Default for AlarmsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            webhook_timeout_ms: 5_000,
            webhook_retry_ms: 1_000,
            webhook_give_up_s: 3_600,
            webhook_queue: 1_000,
            webhook_tls_ca: None,
            webhooks: Vec::new(),
            rule: default_rules(),
        }
    }
}

/// Checks rules. Each key that is set replaces the default of this key.
pub(super) fn check_rules(value: &Value) -> Result<(), String> {
    let Some(given) = value.as_array() else { return Err("a list of tables".into()) };
    let mut seen = std::collections::HashSet::new();
    for one in given {
        let Some(name) = one.get("name").and_then(Value::as_str) else {
            return Err(format!("a name in each rule: one of {}", names()));
        };
        if RuleName::find(name).is_none() {
            return Err(format!("names of rules to be of {}, not \"{name}\"", names()));
        }
        if !seen.insert(name) {
            return Err(format!("each rule once, but \"{name}\" is there twice"));
        }
    }
    let defaults = Table::try_from(AlarmsConfig::default()).unwrap_or_default();
    let all = over_list(defaults.get("rule"), value, "name");
    let rules: Vec<Rule> = all.try_into().map_err(|error| format!("a list of rules: {error}"))?;
    rules.iter().try_for_each(Rule::check).map_err(|error| error.to_string())
}

fn names() -> String {
    RuleName::ALL.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ")
}

/// Checks receivers. The error contains nothing of the value, because it may be secret.
pub(super) fn check_webhooks(value: &Value) -> Result<(), String> {
    let allowed = || {
        format!(
            "a list of at most {MAX_WEBHOOKS} {{ url = \"https://host[:port]/path\", secret = \"at least {MIN_SECRET} bytes\" }}, \
             each url once"
        )
    };
    let all: Vec<Webhook> = value.clone().try_into().map_err(|_| allowed())?;
    let mut seen = std::collections::HashSet::new();
    let good = |hook: &Webhook| is_receiver(hook.url.expose()) && hook.secret.expose().len() >= MIN_SECRET;
    if all.len() <= MAX_WEBHOOKS && all.iter().all(|hook| good(hook) && seen.insert(hook.url.expose())) {
        Ok(())
    } else {
        Err(allowed())
    }
}

/// `http://` or `https://`, a host, optionally a port and a path (RFC 3986). A user name or password is not allowed: the
/// signature already authenticates a delivery.
fn is_receiver(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    let clean =
        url.len() <= MAX_URL && url.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&b));
    clean && authority.is_some_and(is_authority)
}

fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            _ => return false,
        },
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b)) && !host.is_empty();
    let port_is_good = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|n| n > 0));
    named && port_is_good
}
