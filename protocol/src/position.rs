//! Where a reader is in the log of a room.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names one life of a room's log. It changes only if the log was lost, and then sequence numbers start again.
/// An opaque string; cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Longest epoch in bytes that is accepted from a client or a peer.
    pub const MAX_LEN: usize = 64;

    /// Takes any string; it is only ever compared.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The text on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        if text.len() > Self::MAX_LEN {
            return Err(serde::de::Error::custom("an epoch has at most 64 bytes"));
        }
        Ok(Self::new(&text))
    }
}

/// The last message that a reader has: `seq` counts from 1, 0 is before the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The life of the log that `seq` counts in.
    pub epoch: Epoch,
    /// Sequence number of the message.
    pub seq: u64,
}
