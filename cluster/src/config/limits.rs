//! How many there may be, and how much of everything each may have.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::{AUTO, number_or_auto};

/// `[limits]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Connections of a node; more are answered 503.
    pub max_connections: usize,
    /// Connections from one address; more are answered 503. 0 for any number.
    pub max_connections_per_address: usize,
    /// Connections of one user; more are closed with 1008. 0 for any number.
    pub max_connections_per_user: usize,
    /// Connections that are taken each second.
    pub accept_per_second: AcceptRate,
    /// Connections that may wait for their turn; more are answered 503.
    pub accept_queue: usize,
    /// Seconds after which a client that does nothing is let go; 0 for never.
    pub stale_s: u64,
    /// Largest message of a client, in bytes.
    pub max_message_bytes: usize,
    /// Bytes of live messages that may wait for one connection.
    pub max_queue_bytes: usize,
    /// Milliseconds that the oldest live message may wait for one connection; 0 for any time.
    pub max_queue_age_ms: u64,
    /// Rooms that one connection may follow.
    pub max_subscriptions: usize,
    /// Requests of one connection that may wait for others.
    pub max_in_flight: usize,
    /// Live messages held per subscription while its history is read.
    pub max_gate_messages: usize,
    /// Messages in one HTTP publish.
    pub max_publish_batch: usize,
    /// Largest HTTP body, in bytes.
    pub max_http_body_bytes: usize,
}

/// `auto`, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptRate {
    /// As many as those that are connected hardly notice ([`tickmesh_protocol::crowd`]).
    Auto,
    /// Always so many; 0 for any number.
    Fixed(u32),
}

impl Serialize for AcceptRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Fixed(per_s) => serializer.serialize_u32(*per_s),
        }
    }
}

impl<'de> Deserialize<'de> for AcceptRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let per_s = number_or_auto(deserializer)?.map(u32::try_from).transpose();
        per_s.map(|per_s| per_s.map_or(Self::Auto, Self::Fixed)).map_err(serde::de::Error::custom)
    }
}
