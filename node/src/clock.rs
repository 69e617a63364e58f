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
    precise().0
}

/// The present, and with it the microseconds of the clock that never goes back; they are never 0.
#[must_use]
pub fn precise() -> (Now, u64) {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mono = start().elapsed();
    (Now { mono: mono.as_millis() as u64, utc: utc.as_millis() as u64 }, mono.as_micros() as u64 + 1)
}

/// The instant at which [`now`] says `mono`.
#[must_use]
pub fn instant(mono: u64) -> tokio::time::Instant {
    tokio::time::Instant::from_std(start() + Duration::from_millis(mono))
}
