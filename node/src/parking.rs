//! Socket.IO sessions that lost their client, for it to come back to.
//!
//! Invariants: each is given out once; there are not more than [`MAX`], and none is older than [`KEEP`].

use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tickmesh_protocol::session::Parked;
use tokio::time::Instant;

/// How long a client may take to come back (as long as Socket.IO's own default).
const KEEP: Duration = Duration::from_secs(120);
/// Most sessions that are kept; those that end beyond it are not.
const MAX: usize = 100_000;

/// The sessions of one node, by the secret name of each.
#[derive(Default)]
pub(crate) struct Parking {
    places: Mutex<FxHashMap<String, (Instant, Parked)>>,
}

impl Parking {
    /// Keeps a session.
    pub(crate) fn park(&self, name: String, parked: Parked) {
        let now = Instant::now();
        let mut places = self.places.lock();
        if places.len() >= places.capacity() {
            // It is about to grow: looked through no more often than that.
            places.retain(|_, (until, _)| *until > now);
        }
        if places.len() < MAX {
            places.insert(name, (now + KEEP, parked));
        }
    }

    /// Throws away those that nobody came back to in time.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut places = self.places.lock();
        places.retain(|_, (until, _)| *until > now);
        places.shrink_to_fit();
    }

    /// Gives a session out, once.
    pub(crate) fn take(&self, name: &str) -> Option<Parked> {
        let (until, parked) = self.places.lock().remove(name)?;
        (until > Instant::now()).then_some(parked)
    }
}
