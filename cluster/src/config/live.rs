//! The configuration that is in force, and how it changes while the process runs: when the file is read again, and by
//! operators.
//!
//! Invariants: the configuration in force is valid; a change is applied completely or not at all; changes are applied one after
//! another, and every listener is called for each change before the change is answered. Reading takes no lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::alarms::LiveAlarms;
use super::keys::KEYS;
use super::load::{over_list, together};
use super::origin::{Origin, Origins};
use super::schema::Kind;
use super::tuning::{MemoryConfig, RateConfig, TuningConfig};
use super::{BatchConfig, Config, HeartbeatConfig, LimitsConfig, profiles, schema};

/// Keys whose change is in force at once. All other keys are read when the process starts.
const LIVE: &[&str] = &[
    "tuning.profile",
    "limits.max_connections",
    "limits.max_connections_per_address",
    "limits.max_connections_per_user",
    "limits.accept_per_second",
    "limits.accept_queue",
    "limits.stale_s",
    "limits.max_queue_bytes",
    "limits.max_queue_age_ms",
    "limits.max_subscriptions",
    "limits.max_in_flight",
    "limits.max_gate_messages",
    "limits.max_publish_batch",
    "rate.requests_per_s",
    "rate.subscribes_per_s",
    "rate.publishes_per_s",
    "rate.http_publishes_per_s",
    "rate.connects_per_s",
    "rate.burst_s",
    "memory.limit_bytes",
    "memory.high_percent",
    "memory.interval_ms",
    "memory.cleanup_ms",
    "batch.max_messages",
    "batch.max_bytes",
    "batch.window_ms",
    "batch.target_latency_ms",
    "heartbeat.ping_interval_ms",
    "heartbeat.min_ping_interval_ms",
    "heartbeat.timeout_ms",
    "alarms.enabled",
    "alarms.rule",
];

/// Sections that `GET /api/v1/tuning` shows.
const SHOWN: &[&str] = &["tuning", "limits", "batch", "rate", "memory", "heartbeat", "pool", "alarms"];

/// A change that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such key.
    #[error("there is no key {0}")]
    Unknown(String),
    /// The key is read only when the process starts.
    #[error("{0} is read when the process starts: set it in the configuration and restart")]
    NeedsRestart(String),
    /// The value cannot be used.
    #[error("{key}: {problem}")]
    Bad {
        /// The key.
        key: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

/// Sections with keys that can be changed. They contain no secret, so they can be serialized and read again.
#[derive(Serialize, Deserialize)]
struct Sections {
    tuning: TuningConfig,
    limits: LimitsConfig,
    batch: BatchConfig,
    rate: RateConfig,
    memory: MemoryConfig,
    heartbeat: HeartbeatConfig,
    alarms: LiveAlarms,
}

impl Sections {
    fn of(config: &Config) -> Self {
        let Config { tuning, limits, batch, rate, memory, heartbeat, alarms, .. } = config.clone();
        Self { tuning, limits, batch, rate, memory, heartbeat, alarms: LiveAlarms::of(&alarms) }
    }

    fn put(self, config: &mut Config) {
        let Self { tuning, limits, batch, rate, memory, heartbeat, alarms } = self;
        alarms.put(&mut config.alarms);
        (config.tuning, config.limits, config.rate) = (tuning, limits, rate);
        (config.batch, config.memory, config.heartbeat) = (batch, memory, heartbeat);
    }
}

type Told = Box<dyn Fn(&Config) + Send + Sync>;

/// See the module's documentation.
pub struct Live {
    now: ArcSwap<Config>,
    /// The values that profiles replace.
    defaults: Config,
    /// Held while a change is made.
    told: Mutex<Vec<Told>>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Live {
    /// This configuration is in force.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        let now = ArcSwap::from_pointee(config);
        Arc::new(Self { now, defaults: Config::node_defaults(), told: Mutex::default() })
    }

    /// What is in force now.
    #[must_use]
    pub fn now(&self) -> Arc<Config> {
        self.now.load_full()
    }

    /// Calls `told` for every change from now on, within the call that makes the change. `told` must not call this.
    pub fn on_change(&self, told: impl Fn(&Config) + Send + Sync + 'static) {
        self.told.lock().push(Box::new(told));
    }

    /// Takes the keys that can be changed from a configuration that was read again. This replaces changes by operators.
    pub fn reload(&self, fresh: &Config) {
        let told = self.told.lock();
        let mut next = (*self.now()).clone();
        let mut table = sections(&next);
        let given = sections(fresh);
        for path in LIVE {
            if let Some(new) = at(&given, path) {
                put(&mut table, path, new.clone());
                next.origins.0.insert(path, fresh.origins.of(path).clone());
            }
        }
        // What can be changed goes together in the one as in the other: the types are the same, and the rules are about
        // keys that change together.
        if let Ok(sections) = table.try_into::<Sections>() {
            sections.put(&mut next);
            self.put(next, &told);
        }
    }

    /// Changes keys, all of them or none.
    ///
    /// # Errors
    /// When a key is unknown or needs a restart, or when its value is not allowed, by itself or together with others.
    pub fn change(&self, wanted: &BTreeMap<String, serde_json::Value>) -> Result<(), ChangeError> {
        let told = self.told.lock();
        let mut next = (*self.now()).clone();
        let mut table = sections(&next);
        let profile = "tuning.profile";
        // The profile first: what is said of a key itself wins.
        let first = wanted.iter().filter(|(path, _)| *path == profile);
        let rest = wanted.iter().filter(|(path, _)| *path != profile);
        for (path, value) in first.chain(rest) {
            let Some(key) = schema::find(path) else { return Err(ChangeError::Unknown(path.clone())) };
            if !LIVE.contains(&key.path) {
                return Err(ChangeError::NeedsRestart(path.clone()));
            }
            let bad = |problem: String| ChangeError::Bad { key: path.clone(), problem };
            let value: Value = Value::try_from(value).map_err(|error| bad(error.to_string()))?;
            // Of a rule that is not named, and of a key of a rule that is not, nothing is said.
            let value = match key.kind {
                Kind::Rules if value.is_array() => over_list(at(&table, key.path), &value, "name"),
                _ => value,
            };
            key.kind.check(&value).map_err(|allowed| bad(format!("expected {allowed}")))?;
            if key.path == profile {
                self.apply_profile(value.as_str().unwrap_or_default(), &mut table, &mut next.origins);
            }
            put(&mut table, key.path, value);
            next.origins.0.insert(key.path, Origin::Api);
        }
        let sections: Sections = table.try_into().map_err(|error: toml::de::Error| ChangeError::Bad {
            key: "tuning".into(),
            problem: error.message().to_owned(),
        })?;
        sections.put(&mut next);
        if let Some(error) = together(&next, &next.origins).into_iter().next() {
            return Err(ChangeError::Bad { key: error.key, problem: error.problem });
        }
        self.put(next, &told);
        Ok(())
    }

    /// Sets keys that were not set explicitly to the profile's value, or else to the default.
    fn apply_profile(&self, name: &str, table: &mut Table, origins: &mut Origins) {
        let profile = profiles::find(name);
        let defaults = sections(&self.defaults);
        for path in LIVE {
            if *path == "tuning.profile" || origins.of(path).is_explicit() {
                continue;
            }
            let of_profile = profile.and_then(|profile| {
                let (_, value) = profile.values.iter().find(|(key, _)| key == path)?;
                Some((Value::Integer(*value), Origin::Profile(profile.name)))
            });
            let by_default = || Some((at(&defaults, path)?.clone(), Origin::Default));
            let was_of_profile = matches!(origins.of(path), Origin::Profile(_));
            // What a program has set, as tests do, has no origin and stays unless a profile says something.
            if let Some((value, origin)) = of_profile.or_else(|| by_default().filter(|_| was_of_profile)) {
                put(table, path, value);
                origins.0.insert(path, origin);
            }
        }
    }

    fn put(&self, next: Config, told: &[Told]) {
        let next = Arc::new(next);
        self.now.store(next.clone());
        told.iter().for_each(|told| told(&next));
    }

    /// The keys that `GET /api/v1/tuning` shows: value, origin, and whether it can be changed while the process runs.
    #[must_use]
    pub fn shown(&self) -> serde_json::Value {
        let config = self.now();
        let values = schema::values(&config);
        let mut shown = serde_json::Map::new();
        let keys = KEYS
            .iter()
            .filter(|key| key.path.split_once('.').is_some_and(|(section, _)| SHOWN.contains(&section)));
        for key in keys {
            let Some(value) = at(&values, key.path) else { continue };
            let entry = serde_json::json!({
                "value": value,
                "origin": config.origins.of(key.path).to_string(),
                "live": LIVE.contains(&key.path),
            });
            shown.insert(key.path.to_owned(), entry);
        }
        shown.into()
    }
}

/// The keys that differ and are read only when a process starts.
#[must_use]
pub fn needing_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (before, after) = (schema::values(old), schema::values(new));
    let differs = |path: &str| at(&before, path) != at(&after, path) || !schema::same_secret(old, new, path);
    KEYS.iter().map(|key| key.path).filter(|path| !LIVE.contains(path) && differs(path)).collect()
}

fn sections(config: &Config) -> Table {
    Table::try_from(Sections::of(config)).unwrap_or_default()
}

fn at<'t>(table: &'t Table, path: &str) -> Option<&'t Value> {
    let (section, name) = path.split_once('.')?;
    table.get(section)?.get(name)
}

fn put(table: &mut Table, path: &str, value: Value) {
    if let Some((section, name)) = path.split_once('.')
        && let Some(Value::Table(keys)) = table.get_mut(section)
    {
        keys.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests;
