//! Whose turn it is to be taken down, of connections that were lost.
//!
//! To take one down costs some 30 µs, most of it the system's: if thousands are lost at once, those who stay would wait for all
//! of them. So they take turns, each thread's by themselves. Invariant: who is lost alone goes at once.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Between two of one thread: about three times what one costs.
const EACH: Duration = Duration::from_micros(100);
/// What would be so soon is at once: timers know no shorter time.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The turns of one thread.
#[derive(Debug)]
pub struct Exits {
    next: Cell<Instant>,
}

impl Default for Exits {
    fn default() -> Self {
        Self { next: Cell::new(Instant::now()) }
    }
}

impl Exits {
    /// Takes a turn: none if it is now, or else when it is.
    #[must_use]
    pub fn turn(&self, now: Instant) -> Option<Instant> {
        let at = self.next.get().max(now);
        self.next.set(at + EACH);
        (at > now + AT_ONCE).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_lost_alone_goes_at_once_and_of_thousands_each_has_a_turn() {
        let now = Instant::now() + AT_ONCE;
        let exits = Exits::default();
        let turns: Vec<_> = (0..1_000).map(|_| exits.turn(now)).collect();
        assert_eq!(turns.iter().filter(|turn| turn.is_none()).count(), 11);
        assert!(turns.is_sorted());
        assert_eq!(turns[999], Some(now + 999 * EACH));
        assert_eq!(exits.turn(now + Duration::from_secs(1)), None);
    }
}
