//! The database and its super tables.
//!
//! `tick_data` has the composite primary key `(ts, seq)`, which needs TDengine 3.3.0: rows that are written again stay one,
//! and ticks of one millisecond stay apart. Prices are DOUBLE.
//!
//! The database keeps rows for the longest of the three retentions. The others are the super tables' own `KEEP`, which needs
//! TDengine 3.3.6 and takes effect when the server compacts; where the server does not know it, rows stay for as long as the
//! database keeps them.

use taos::{AsyncQueryable, Taos};
use tickmesh_cluster::config::TdengineConfig;

use super::trouble::{Trouble, is_not_understood};

/// Longest `data` in bytes.
pub(super) const DATA_LEN: usize = tickmesh_market::tick::MAX_DATA_LEN;
/// Longest `epoch` and `symbol`.
pub(super) const NAME_LEN: usize = 64;
/// Longest `exchange`.
pub(super) const EXCHANGE_LEN: usize = tickmesh_market::tick::MAX_EXCHANGE_LEN;
/// Longest `event`, `msg_key` and `room`.
pub(super) const ID_LEN: usize = 128;
/// What TDengine takes for `KEEP`.
const MOST_DAYS: u64 = 365_000;

/// How long rows are kept, in days.
#[derive(Debug, Clone, Copy)]
pub(super) struct Days {
    tick: u64,
    minute: u64,
    daily: u64,
}

impl Days {
    pub(super) fn of(config: &TdengineConfig) -> Self {
        let days = |days: u64| days.clamp(1, MOST_DAYS);
        Self {
            tick: days(config.tick_days),
            minute: days(config.minute_days),
            daily: days(config.daily_days),
        }
    }

    fn longest(self) -> u64 {
        self.tick.max(self.minute).max(self.daily)
    }
}

/// Creates what is not there yet. What is there stays as it is, its retention too.
pub(super) async fn database(taos: &Taos, name: &str, days: Days) -> Result<(), Trouble> {
    let keep = days.longest();
    // A data file spans at most a third of what is kept.
    let hours = (keep * 24 / 3).clamp(1, 240);
    let sql = format!("CREATE DATABASE IF NOT EXISTS {name} PRECISION 'ms' KEEP {keep}d DURATION {hours}h");
    taos.exec(sql).await?;
    Ok(())
}

/// The super tables, each with its days. `period` is quoted: it is a keyword of later versions.
pub(super) fn tables(days: Days) -> [(&'static str, String, u64); 4] {
    let figures = "price DOUBLE, volume DOUBLE, bid_price DOUBLE, bid_volume DOUBLE, ask_price DOUBLE, ask_volume DOUBLE";
    let ticks = format!(
        "(ts TIMESTAMP, seq BIGINT PRIMARY KEY, epoch VARCHAR({NAME_LEN}), event VARCHAR({ID_LEN}), msg_key VARCHAR({ID_LEN}), \
         published BIGINT, {figures}, data VARCHAR({DATA_LEN})) \
         TAGS (symbol VARCHAR({NAME_LEN}), exchange VARCHAR({EXCHANGE_LEN}), room VARCHAR({ID_LEN}))"
    );
    let bars = format!(
        "(ts TIMESTAMP, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE, turnover DOUBLE, ticks BIGINT, \
         closed BOOL, epoch VARCHAR({NAME_LEN}), seq BIGINT) \
         TAGS (symbol VARCHAR({NAME_LEN}), exchange VARCHAR({EXCHANGE_LEN}), `period` VARCHAR(4))"
    );
    let position =
        format!("(ts TIMESTAMP, epoch VARCHAR({NAME_LEN}), seq BIGINT) TAGS (room VARCHAR({ID_LEN}))");
    [
        ("tick_data", ticks, days.tick),
        ("minute_kline", bars.clone(), days.minute),
        ("daily_kline", bars, days.daily),
        ("record_position", position, days.longest()),
    ]
}

/// Creates a super table if it is not there.
pub(super) async fn table(
    taos: &Taos,
    database: &str,
    (name, columns, keep): &(&'static str, String, u64),
    days: Days,
) -> Result<(), Trouble> {
    let sql = format!("CREATE STABLE IF NOT EXISTS {database}.{name} {columns}");
    // A super table's has to be less than the database's.
    let keeps = if *keep < days.longest() {
        vec![format!(" KEEP {keep}d"), String::new()]
    } else {
        vec![String::new()]
    };
    // Later versions call the second key so.
    let keys = [sql.clone(), sql.replace("PRIMARY KEY", "COMPOSITE KEY")];
    let mut refused = None;
    for option in &keeps {
        for sql in &keys {
            match taos.exec(format!("{sql}{option}")).await {
                Err(error) if is_not_understood(&error) => refused = Some(error),
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    if option.is_empty() && keeps.len() > 1 {
                        let kept = days.longest();
                        tracing::warn!(
                            table = name,
                            days = keep,
                            kept,
                            "tdengine has no retention per table"
                        );
                    }
                    return Ok(());
                }
            }
        }
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}
