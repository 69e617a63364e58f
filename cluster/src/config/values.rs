//! Types of values that configuration alone has.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};

use crate::redis::Address;

/// Where the broker is. It may have a password, which is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// Takes the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// An address of Redis; `None` for memory.
    #[must_use]
    pub fn redis(&self) -> Option<Address> {
        Address::parse(&self.0).ok()
    }

    fn shown(&self) -> String {
        match self.0.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
            Some((scheme, Some((_, hosts)))) => format!("{scheme}://***@{hosts}"),
            _ => self.0.clone(),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

/// A text that is never printed: not by `Debug`, not in a configuration that is shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for what it is needed for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", Self::ALLOWED)]
pub struct BadListenAddress;

impl BadListenAddress {
    /// What is one.
    pub(super) const ALLOWED: &str = "an IP address and port such as \"0.0.0.0:8080\", or the port alone for 127.0.0.1 (\"8080\", \"localhost:8080\")";
}

/// Reads an address to listen on: an IP address with a port, or a port of the loopback address, which is written `8080`,
/// `:8080` or `localhost:8080`. No name is resolved.
///
/// A port alone is never every address of the machine: who wants to be reached by others says so.
///
/// # Errors
/// When the text is neither.
pub fn listen_address(text: &str) -> Result<SocketAddr, BadListenAddress> {
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
    // `parse` would take a sign, too.
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = port.parse().map_err(|_| BadListenAddress)?;
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| BadListenAddress)
}

/// The word for what is set by the process itself.
pub(super) const AUTO: &str = "auto";

/// A number, or none for the word `auto`.
pub(super) fn number_or_auto<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(u64),
        Word(String),
    }
    match Value::deserialize(d)? {
        Value::Number(number) => Ok(Some(number)),
        Value::Word(word) if word == AUTO => Ok(None),
        Value::Word(word) => {
            Err(serde::de::Error::custom(format!("`{word}` is neither a number nor `{AUTO}`")))
        }
    }
}

/// TOML has no null: an empty text stands for none.
pub(super) mod optional_path {
    use super::{Deserialize, PathBuf, Serializer};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub(in crate::config) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default())
    }

    pub(in crate::config) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let text = String::deserialize(d)?;
        Ok((!text.is_empty()).then(|| text.into()))
    }
}

/// As `optional_path`.
pub(super) mod optional_address {
    use super::{Deserialize, Serializer, SocketAddr};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub(in crate::config) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&address.map(|address| address.to_string()).unwrap_or_default())
    }

    pub(in crate::config) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(d)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(serde::de::Error::custom) }
    }
}
