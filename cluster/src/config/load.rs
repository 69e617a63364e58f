//! Merges the layers (defaults, file, environment, flags) and checks the result.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::{Table, Value};

use super::origin::{Origin, Origins};
use super::schema::{self, Key, Kind};
use super::{Config, JwtAlgorithm, profiles};

/// Prefix of the environment variables.
const PREFIX: &str = "TICKMESH_";

/// The sources of a configuration, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment. A variable that does not start with `TICKMESH_` and contain `__` is ignored.
    pub env: Vec<(String, String)>,
    /// Flags: the name of the flag, the key, and the value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `section.key`; empty if it is about the file as a whole.
    pub key: String,
    /// The value as it was written; `***` for secrets; `None` if there is none.
    pub value: Option<String>,
    /// The file, variable or flag that it comes from.
    pub origin: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        let space = if self.key.is_empty() { "" } else { " " };
        write!(f, "{space}(from {}): {}", self.origin, self.problem)
    }
}

/// All problems, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// A value and where it comes from.
struct Given {
    value: Value,
    origin: Origin,
}

/// What was given, by path, and what is wrong so far.
#[derive(Default)]
struct Layers {
    given: BTreeMap<&'static str, Given>,
    errors: Vec<ConfigError>,
}

impl Config {
    /// Applies the sources to the defaults, and checks the result.
    ///
    /// # Errors
    /// With all problems.
    pub fn load(defaults: &Self, sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut layers = Layers::default();
        if let Some(path) = &sources.file {
            layers.file(path);
        }
        for (name, value) in &sources.env {
            layers.variable(name, value);
        }
        for (flag, path, value) in &sources.flags {
            if let Some(key) = schema::find(path) {
                layers.set(key, key.kind.parse(value), Origin::Flag(flag));
            }
        }
        layers.finish(defaults)
    }
}

impl Layers {
    fn wrong(&mut self, key: &str, value: Option<String>, origin: &str, problem: impl Into<String>) {
        let (key, origin, problem) = (key.to_owned(), origin.to_owned(), problem.into());
        self.errors.push(ConfigError { key, value, origin, problem });
    }

    fn file(&mut self, path: &std::path::Path) {
        let origin = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.wrong("", None, &origin, format!("cannot be read: {error}")),
        };
        let table: Table = match text.parse() {
            Ok(table) => table,
            // The parser quotes the line that it fails on, and a secret may be there.
            Err(error) => {
                let line =
                    error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
                return self.wrong("", None, &origin, format!("line {line}: not TOML: {}", error.message()));
            }
        };
        for (section, keys) in table {
            let Value::Table(keys) = keys else {
                let problem = format!("unknown key; the sections are {}", schema::sections());
                self.wrong(&section, None, &origin, problem);
                continue;
            };
            for (name, value) in keys {
                let path = format!("{section}.{name}");
                match schema::find(&path) {
                    Some(key) => self.set(key, value, Origin::File(origin.clone())),
                    None => self.unknown(&path, &origin),
                }
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else { return };
        let path = rest.to_lowercase().replace("__", ".");
        match schema::find(&path) {
            Some(key) => self.set(key, key.kind.parse(value), Origin::Environment(name.to_owned())),
            None => self.unknown(&path, name),
        }
    }

    fn unknown(&mut self, path: &str, origin: &str) {
        let section = path.split('.').next().unwrap_or_default();
        let problem = match schema::keys_of(section) {
            keys if keys.is_empty() => format!("unknown section; the sections are {}", schema::sections()),
            keys => format!("unknown key; the keys of {section} are {keys}"),
        };
        self.wrong(path, None, origin, problem);
    }

    fn set(&mut self, key: &'static Key, value: Value, origin: Origin) {
        let value = key.kind.normal(value);
        match key.kind.check(&value) {
            Ok(()) => {
                self.given.insert(key.path, Given { value, origin });
            }
            Err(allowed) => {
                let shown = key.kind.shown(&value);
                self.wrong(key.path, Some(shown), origin.name(), format!("expected {allowed}"));
            }
        }
    }

    fn origins(&self) -> Origins {
        Origins(self.given.iter().map(|(path, given)| (*path, given.origin.clone())).collect())
    }

    /// Gives the values of the profile to the keys that were not given.
    fn profile(&mut self, defaults: &Config) {
        let given = self.given.get("tuning.profile").and_then(|given| given.value.as_str());
        let Some(profile) = profiles::find(given.unwrap_or(&defaults.tuning.profile)) else { return };
        for (path, value) in profile.values {
            let value = Given { value: Value::Integer(*value), origin: Origin::Profile(profile.name) };
            self.given.entry(*path).or_insert(value);
        }
    }

    fn finish(mut self, defaults: &Config) -> Result<Config, ConfigErrors> {
        self.profile(defaults);
        let mut table = Table::try_from(defaults).unwrap_or_default();
        for (path, given) in &self.given {
            if let Some((section, name)) = path.split_once('.')
                && let Some(Value::Table(keys)) = table.get_mut(section)
            {
                let value = match schema::find(path).map(|key| key.kind) {
                    Some(Kind::Classes) => over_list(keys.get(name), &given.value, "prefix"),
                    Some(Kind::Rules) => over_list(keys.get(name), &given.value, "name"),
                    _ => given.value.clone(),
                };
                keys.insert(name.to_owned(), value);
            }
        }
        let mut config: Option<Config> = match table.try_into() {
            Ok(config) => Some(config),
            // The schema has checked every value: this is a mistake in it.
            Err(error) => {
                self.wrong("", None, "the schema", error.to_string());
                None
            }
        };
        if let Some(config) = &mut config {
            config.origins = self.origins();
            self.errors.extend(together(config, &config.origins));
        }
        match config {
            Some(config) if self.errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(self.errors)),
        }
    }
}

/// Problems that concern several keys together.
pub(super) fn together(config: &Config, origins: &Origins) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut wrong = |key: &str, value: Option<String>, problem: &str| {
        let origin = origins.of(key).name().to_owned();
        errors.push(ConfigError { key: key.to_owned(), value, origin, problem: problem.to_owned() });
    };
    let (interval, timeout) = (config.heartbeat.ping_interval_ms, config.heartbeat.timeout_ms);
    if timeout <= interval {
        let problem = format!("expected more than heartbeat.ping_interval_ms, which is {interval}");
        wrong("heartbeat.timeout_ms", Some(timeout.to_string()), &problem);
    }
    let (min, max) = (config.pool.min, config.pool.max);
    if max < min {
        let problem = format!("expected at least pool.min, which is {min}");
        wrong("pool.max", Some(max.to_string()), &problem);
    }
    let server = &config.server;
    for (set, other, key) in [
        (&server.tls_certificate, &server.tls_key, "server.tls_certificate"),
        (&server.tls_key, &server.tls_certificate, "server.tls_key"),
    ] {
        if let (Some(path), None) = (set, other) {
            let problem = "expected server.tls_certificate and server.tls_key to be set together";
            wrong(key, Some(format!("{:?}", path.display().to_string())), problem);
        }
    }
    if config.kubernetes.pod_deletion_cost_ms > 0 && config.node.id.is_empty() {
        let problem = "expected node.id, the name of the pod, to be set as well";
        wrong("kubernetes.pod_deletion_cost_ms", None, problem);
    }
    let auth = &config.auth;
    let no_file = auth.jwt_key_file.is_none();
    if auth.jwt_algorithm != JwtAlgorithm::Hs256 && no_file {
        let problem = "expected auth.jwt_key_file, the public key, to be set as well";
        wrong("auth.jwt_algorithm", Some(format!("{:?}", auth.jwt_algorithm).to_uppercase()), problem);
    }
    if auth.jwt_algorithm == JwtAlgorithm::Hs256 && !no_file {
        let problem = "expected auth.jwt_algorithm to be \"RS256\" or \"ES256\"; HS256 uses auth.jwt_secret";
        wrong("auth.jwt_key_file", None, problem);
    }
    if auth.jwt_algorithm != JwtAlgorithm::Hs256 && !auth.jwt_secret.expose().is_empty() {
        let problem = "expected \"\": with auth.jwt_algorithm \"RS256\" or \"ES256\" it would do nothing";
        wrong("auth.jwt_secret", Some("***".into()), problem);
    }
    errors
}

/// Merges the given classes or rules into the defaults. Entries are matched by the key `id`, and merged key by key: setting one
/// class, or one key of a class, must not open the private rooms of other classes.
pub(super) fn over_list(defaults: Option<&Value>, given: &Value, id: &str) -> Value {
    let mut all = defaults.and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |one: &Value| one.get(id).and_then(Value::as_str).unwrap_or_default().to_owned();
    for one in given.as_array().into_iter().flatten() {
        match all.iter_mut().find(|known| name(known) == name(one)) {
            Some(Value::Table(known)) => known.extend(one.as_table().cloned().unwrap_or_default()),
            _ => all.push(one.clone()),
        }
    }
    Value::Array(all)
}
