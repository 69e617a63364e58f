//! How many connections a node holds, and whether it takes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Counts the connections of a node.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: usize,
    draining: AtomicBool,
}

/// One counted connection; dropping it gives the place back.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<Connections>);

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `limits.max_connections` are open.
    #[error("the node holds as many connections as it may")]
    Full,
    /// The node is about to stop.
    #[error("the node is draining")]
    Draining,
}

impl Connections {
    /// At most `max` at a time.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max, draining: AtomicBool::new(false) })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit(self: &Arc<Self>) -> Result<ConnectionGuard, Refusal> {
        if self.draining() {
            return Err(Refusal::Draining);
        }
        let guard = ConnectionGuard(self.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            return Err(Refusal::Full);
        }
        Ok(guard)
    }

    /// Takes no more connections from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes no more connections, or takes them again.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether no more connections are taken.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let connections = Connections::new(2);
        let first = connections.admit().unwrap();
        let _second = connections.admit().unwrap();
        assert_eq!(connections.admit().unwrap_err(), Refusal::Full);
        drop(first);
        let _third = connections.admit().unwrap();
        connections.drain();
        assert_eq!(connections.admit().unwrap_err(), Refusal::Draining);
        assert_eq!(connections.open(), 2);
    }
}
