//! The clocks of the process, read in this one place.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tickmesh_protocol::session::Now;

static START: OnceLock<Instant> = OnceLock::new();

fn start() -> Instant {
    *START.get_or_init(Instant::now)
}

/// The present.
#[must_use]
pub fn now() -> Now {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { mono: start().elapsed().as_millis() as u64, utc: utc.as_millis() as u64 }
}

/// The instant at which [`now`] says `mono`.
#[must_use]
pub fn instant(mono: u64) -> tokio::time::Instant {
    tokio::time::Instant::from_std(start() + Duration::from_millis(mono))
}
