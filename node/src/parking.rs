//! Socket.IO sessions that lost their client, for it to come back to.
//!
//! Invariants: each is given out once; there are not more than [`MAX`], and none is older than [`KEEP`]. It must not know what
//! a session is.

use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// How long a client may take to come back (as long as Socket.IO's own default).
const KEEP: Duration = Duration::from_secs(120);
/// Most sessions that are kept; those that end beyond it are not.
const MAX: usize = 100_000;

/// The sessions of one node, by the secret name of each.
pub(crate) struct Parking<T> {
    /// Boxed: a table has room for up to four times as many as there are.
    places: Mutex<FxHashMap<String, (Instant, Box<T>)>>,
}

impl<T> Default for Parking<T> {
    fn default() -> Self {
        Self { places: Mutex::default() }
    }
}

impl<T> Parking<T> {
    /// Keeps a session.
    pub(crate) fn park(&self, now: Instant, name: String, parked: T) {
        let mut places = self.places.lock();
        if places.len() >= places.capacity() {
            // It is about to grow: looked through no more often than that.
            places.retain(|_, (until, _)| *until > now);
        }
        if places.len() < MAX {
            places.insert(name, (now + KEEP, Box::new(parked)));
        }
    }

    /// Throws away those that nobody came back to in time.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut places = self.places.lock();
        places.retain(|_, (until, _)| *until > now);
        places.shrink_to_fit();
    }

    /// Memory is very short: throws away the half that has waited longest. A client that comes back to one of them is served as
    /// a new one.
    pub(crate) fn halve(&self) {
        let mut places = self.places.lock();
        if places.is_empty() {
            return;
        }
        let mut ends: Vec<Instant> = places.values().map(|(until, _)| *until).collect();
        let half = (ends.len() - 1) / 2;
        let median = *ends.select_nth_unstable(half).1;
        places.retain(|_, (until, _)| *until > median);
        places.shrink_to_fit();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.lock().len()
    }

    /// Gives a session out, once.
    pub(crate) fn take(&self, now: Instant, name: &str) -> Option<T> {
        let (until, parked) = self.places.lock().remove(name)?;
        (until > now).then_some(*parked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_given_out_once_and_in_time() {
        let (parking, now) = (Parking::default(), Instant::now());
        parking.park(now, "1".into(), 1);
        parking.park(now + KEEP / 2, "2".into(), 2);
        let take = |at, name| parking.take(at, name);
        assert_eq!([take(now, "2"), take(now, "2"), take(now + KEEP, "1")], [Some(2), None, None]);
        parking.park(now, "3".into(), 3);
        parking.sweep(now + KEEP / 2);
        assert_eq!(parking.len(), 1);
        parking.sweep(now + KEEP);
        assert_eq!(parking.len(), 0);
    }

    #[test]
    fn the_half_that_has_waited_longest_is_thrown_away() {
        let (parking, now) = (Parking::default(), Instant::now());
        parking.halve();
        for number in 0..10u32 {
            parking.park(now + Duration::from_secs(number.into()), number.to_string(), number);
        }
        parking.halve();
        let left: Vec<_> = (0..10u32).filter_map(|name| parking.take(now, &name.to_string())).collect();
        assert_eq!(left, [5, 6, 7, 8, 9]);
        // All of one moment: none has waited longer than another, and room is to be made.
        (0..4).for_each(|number| parking.park(now, number.to_string(), number));
        parking.halve();
        assert_eq!(parking.len(), 0);
    }
}
