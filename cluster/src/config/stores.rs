//! The sections of the stores, and of the parts that write into them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tickmesh_market::calendar::ExchangeConfig;

use super::values::{Secret, optional_path};

/// `[postgres]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PostgresConfig {
    /// Its address; empty for none.
    pub url: Secret,
    /// Maximum number of connections.
    pub pool_max: usize,
    /// Milliseconds after which a call has failed. This includes the wait for a connection.
    pub timeout_ms: u64,
    /// Milliseconds after which the server cancels a statement.
    pub statement_timeout_ms: u64,
    /// CA certificates of the server, in PEM; none for the public CAs.
    #[serde(with = "optional_path")]
    pub tls_ca: Option<PathBuf>,
    /// Days for which the audit of sessions is kept.
    pub audit_days: u64,
    /// Whether a node is not ready while the store is away.
    pub required: bool,
}

/// `[tdengine]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TdengineConfig {
    /// Its address; empty for none.
    pub dsn: Secret,
    /// Maximum number of connections.
    pub pool_max: usize,
    /// Milliseconds after which a call has failed. This includes the wait for a connection.
    pub timeout_ms: u64,
    /// Days for which ticks are kept.
    pub tick_days: u64,
    /// Days for which bars shorter than a day are kept.
    pub minute_days: u64,
    /// Days for which bars of one day are kept.
    pub daily_days: u64,
    /// Whether a node is not ready while the store is away.
    pub required: bool,
}

/// `[stores]`
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StoresConfig {
    /// Failed calls in a row after which a node stops calling a store for a while.
    pub breaker_failures: u32,
    /// How long, in milliseconds. Doubled each time the store still fails, up to 30 times this value.
    pub breaker_open_ms: u64,
    /// Bytes of ticks that are kept in this process where TDengine does not keep them.
    pub memory_tick_bytes: usize,
    /// The same of bars.
    pub memory_bar_bytes: usize,
    /// Bytes of users' data that are kept in this process where PostgreSQL does not keep them.
    pub memory_user_bytes: usize,
}

impl Default for StoresConfig {
    fn default() -> Self {
        Self {
            breaker_failures: 5,
            breaker_open_ms: 1_000,
            memory_tick_bytes: 8 << 20,
            memory_bar_bytes: 4 << 20,
            memory_user_bytes: 4 << 20,
        }
    }
}

/// `[market]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MarketConfig {
    /// Prefix of market rooms; the symbol follows it.
    pub prefix: String,
    /// Milliseconds by which a tick may be older than the newest tick of its symbol and still change bars.
    pub late_ms: u64,
    /// Percent by which the price of a tick may differ from the previous price; 0 for any difference.
    pub max_jump_percent: u64,
    /// Exchanges: time zones and trading sessions.
    pub exchange: Vec<ExchangeConfig>,
}

/// `[recorder]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecorderConfig {
    /// Maximum number of ticks in one write.
    pub batch: usize,
    /// Milliseconds between two writes.
    pub flush_ms: u64,
    /// Ticks of one room that wait in memory for the store. Further ticks are read from the room's log later.
    pub buffer: usize,
}

/// `[users]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsersConfig {
    /// Maximum number of symbols in one watchlist.
    pub max_watchlist: usize,
    /// Maximum number of price alerts of one user.
    pub max_alerts: usize,
    /// Hysteresis of alerts with `crosses`, in hundredths of a percent of the alert's value: the field has to move away
    /// from the value by so much before the alert fires again.
    pub alert_hysteresis_bp: u64,
}
