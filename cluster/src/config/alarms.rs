//! `[alarms]`: the rules by which the cluster looks at itself, and who is told.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tickmesh_protocol::alarm::{Rule, RuleName, default_rules};
use toml::{Table, Value};

use super::load::over_list;
use super::values::{Secret, optional_path};

/// Webhooks at most: each has a thread.
const MAX_WEBHOOKS: usize = 16;
/// What a webhook's secret has at least, in bytes: it can be guessed offline from one delivery.
const MIN_SECRET: usize = 16;
/// Longest URL.
const MAX_URL: usize = 2_048;

/// `[alarms]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlarmsConfig {
    /// Whether the rules are looked at.
    pub enabled: bool,
    /// Milliseconds after which a receiver has failed to take an alarm.
    pub webhook_timeout_ms: u64,
    /// Milliseconds until it is tried again; doubled each time.
    pub webhook_retry_ms: u64,
    /// Seconds after which it is given up.
    pub webhook_give_up_s: u64,
    /// Alarms that may wait for one receiver.
    pub webhook_queue: usize,
    /// Certificates in PEM of those who sign the receivers'; none for the public ones.
    #[serde(with = "optional_path")]
    pub webhook_tls_ca: Option<PathBuf>,
    /// Receivers.
    pub webhooks: Vec<Webhook>,
    /// All rules.
    pub rule: Vec<Rule>,
}

/// One of `alarms.webhooks`. Many a URL is a secret itself, so both are never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where alarms are posted.
    pub url: Secret,
    /// By which they are signed.
    pub secret: Secret,
}

/// What of `[alarms]` can be changed while the process runs.
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

/// Checks what is said of rules, each key over that of the rule's default.
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
    RuleName::ALL.map(RuleName::name).join(", ")
}

/// Checks receivers. What is wrong is told without a word of what was written.
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

/// `http://` or `https://`, a host, perhaps a port and a path (RFC 3986); no name or password, which would be sent along in
/// no other way than a signature is.
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
