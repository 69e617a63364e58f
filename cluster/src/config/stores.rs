//! What is kept beside the logs: the sections of the stores and of what fills them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tickmesh_market::calendar::ExchangeConfig;

use super::values::{Secret, optional_path};

/// `[postgres]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PostgresConfig {
    /// Where it is; empty for none.
    pub url: Secret,
    /// Connections at most.
    pub pool_max: usize,
    /// Milliseconds after which a call has failed, waiting for a connection included.
    pub timeout_ms: u64,
    /// Milliseconds after which the server ends a statement.
    pub statement_timeout_ms: u64,
    /// Certificates in PEM of those who sign the server's; none for the public ones.
    #[serde(with = "optional_path")]
    pub tls_ca: Option<PathBuf>,
    /// Days that the audit of sessions goes back.
    pub audit_days: u64,
    /// A node is not ready without it.
    pub required: bool,
}

/// `[tdengine]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TdengineConfig {
    /// Where it is; empty for none.
    pub dsn: Secret,
    /// Connections at most.
    pub pool_max: usize,
    /// Milliseconds after which a call has failed, waiting for a connection included.
    pub timeout_ms: u64,
    /// Days that ticks are kept.
    pub tick_days: u64,
    /// Days that bars of less than a day are kept.
    pub minute_days: u64,
    /// Days that bars of a day are kept.
    pub daily_days: u64,
    /// A node is not ready without it.
    pub required: bool,
}

/// `[stores]`
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StoresConfig {
    /// Calls that have to fail one after another before a store is left alone for a while.
    pub breaker_failures: u32,
    /// For how many milliseconds; doubled each time it still fails, up to thirty times as long.
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
    /// Rooms whose name starts so carry the ticks of the symbol that follows.
    pub prefix: String,
    /// Milliseconds by which a tick may be older than the newest of its symbol and still count in its bars.
    pub late_ms: u64,
    /// Percent by which a tick's price may differ from the one before; 0 for any.
    pub max_jump_percent: u64,
    /// Exchanges: time zones and trading sessions.
    pub exchange: Vec<ExchangeConfig>,
}

/// `[recorder]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecorderConfig {
    /// Ticks in one write, at most.
    pub batch: usize,
    /// Milliseconds between two writes of what came.
    pub flush_ms: u64,
    /// Ticks of one room that wait in memory for the store; what is beyond is read from the room's log again.
    pub buffer: usize,
}

/// `[users]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsersConfig {
    /// Symbols in one watchlist.
    pub max_watchlist: usize,
    /// Alerts of one user.
    pub max_alerts: usize,
    /// Hundredths of a percent of an alert's value by which the field has to move away from it before `crosses` can fire
    /// again.
    pub alert_hysteresis_bp: u64,
}
