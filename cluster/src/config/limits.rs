//! `[limits]`: how many connections there may be, and what each of them may use.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::{AUTO, number_or_auto};

/// `[limits]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Maximum number of open connections of a node or gateway; further ones get 503.
    pub max_connections: usize,
    /// Maximum number of open connections from one address; further ones get 503. 0 for no limit.
    pub max_connections_per_address: usize,
    /// Maximum number of open connections of one user; further ones are closed with 1008. 0 for no limit.
    pub max_connections_per_user: usize,
    /// Connections that are accepted per second.
    pub accept_per_second: AcceptRate,
    /// Connections that may wait to be accepted; further ones get 503.
    pub accept_queue: usize,
    /// Seconds after which an inactive client is disconnected; 0 for never.
    pub stale_s: u64,
    /// Largest message of a client, in bytes.
    pub max_message_bytes: usize,
    /// Bytes of live messages that may wait for one connection.
    pub max_queue_bytes: usize,
    /// Milliseconds that the oldest live message may wait for one connection; 0 for no limit.
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
    /// A rate that hardly delays deliveries to clients that are connected ([`tickmesh_protocol::crowd`]).
    Auto,
    /// Always this rate; 0 for no limit.
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
