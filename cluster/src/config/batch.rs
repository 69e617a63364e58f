//! `[batch]`: how long messages wait for others that are sent with them in one write.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::{AUTO, number_or_auto};

/// `[batch]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchConfig {
    /// Messages of one room that may wait in the flush window. When there are so many, they are sent at once.
    pub max_messages: usize,
    /// The same limit in bytes.
    pub max_bytes: usize,
    /// How long the first of them may wait.
    #[serde(rename = "window_ms")]
    pub window: FlushWindow,
    /// Maximum window with `auto`, in milliseconds.
    pub target_latency_ms: u64,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_messages: 100, max_bytes: 64 * 1024, window: FlushWindow::Auto, target_latency_ms: 50 }
    }
}

/// `auto`, or milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushWindow {
    /// No window while there is CPU to spare, up to `batch.target_latency_ms` otherwise.
    Auto,
    /// Always this window.
    Fixed(Duration),
}

impl Serialize for FlushWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Fixed(window) => serializer.serialize_u64(window.as_millis() as u64),
        }
    }
}

impl<'de> Deserialize<'de> for FlushWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ms = number_or_auto(deserializer)?;
        Ok(ms.map_or(Self::Auto, |ms| Self::Fixed(Duration::from_millis(ms))))
    }
}
