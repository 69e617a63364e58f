//! How good a connection is: a score from 0 to 100, and what follows from it.
//!
//! The score begins at 100 and loses
//!
//! | for | points | at most |
//! |---|---|---|
//! | round trip | 1 per 20 ms of the smoothed round-trip time | 30 |
//! | variation | 1 per 10 ms of its smoothed variation | 15 |
//! | queue delay | 1 per 50 ms that live messages wait in the session's queue, smoothed, or that the oldest waits now | 30 |
//! | drops | 15 for each `resync` that told of lost messages, halved every minute | 15 |
//! | conflation | 10 times the part of messages that were replaced because the client took them too slowly, smoothed | 10 |
//!
//! Round trips are smoothed as TCP does it (RFC 6298 §2: an eighth of what is new, a quarter for the variation). What a client
//! asked to be replaced (`max_rate`) does not count. It must not know sessions or clocks.

/// Parts of the score.
const ROUND_TRIP: f32 = 30.0;
const VARIATION: f32 = 15.0;
const DELAY: f32 = 30.0;
const DROPS: f32 = 15.0;
const CONFLATION: f32 = 10.0;
/// Milliseconds in which a drop counts half.
const HALF_LIFE: f32 = 60_000.0;
/// From here on a connection is good, below it unsteady, and poor below the second.
const GOOD: u8 = 80;
const POOR: u8 = 50;

/// How good a connection is, in three grades.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Below 50.
    Poor,
    /// Below 80.
    Unsteady,
    /// 80 or more.
    Good,
}

impl Grade {
    /// The grade of a score.
    #[must_use]
    pub fn of(score: u8) -> Self {
        match score {
            GOOD.. => Self::Good,
            POOR.. => Self::Unsteady,
            _ => Self::Poor,
        }
    }

    /// Part of the configured ping interval after which such a connection is asked again.
    fn pace(self) -> u64 {
        match self {
            Self::Good => 1,
            Self::Unsteady => 2,
            Self::Poor => 4,
        }
    }
}

/// What is known of a connection. Times are milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quality {
    /// Smoothed round trip and its variation; none before the first.
    round_trip: Option<(f32, f32)>,
    delay: f32,
    /// Decaying count, and when it was looked at.
    drops: f32,
    dropped_at: u64,
    conflated: f32,
}

impl Quality {
    /// A ping was answered after so many milliseconds.
    pub fn round_trip(&mut self, ms: u64) {
        let now = ms as f32;
        self.round_trip = Some(match self.round_trip {
            None => (now, now / 2.0),
            Some((smooth, variation)) => {
                (smooth + (now - smooth) / 8.0, variation + ((smooth - now).abs() - variation) / 4.0)
            }
        });
    }

    /// Live messages left the queue after so many milliseconds.
    pub fn waited(&mut self, ms: u64) {
        self.delay += (ms as f32 - self.delay) / 8.0;
    }

    /// Messages were lost to the client, and it was told so.
    pub fn dropped(&mut self, now: u64) {
        self.drops = self.drops_at(now) + 1.0;
        self.dropped_at = now;
    }

    /// A message went out that replaced so many others.
    pub fn conflated(&mut self, replaced: u64) {
        let part = replaced as f32 / (1 + replaced) as f32;
        self.conflated += (part - self.conflated) / 16.0;
    }

    fn drops_at(&self, now: u64) -> f32 {
        if self.drops == 0.0 {
            return 0.0;
        }
        let halvings = now.saturating_sub(self.dropped_at) as f32 / HALF_LIFE;
        self.drops * (-halvings).exp2()
    }

    /// The smoothed round trip in milliseconds, and its variation.
    #[must_use]
    pub fn smoothed(&self) -> Option<(u64, u64)> {
        self.round_trip.map(|(smooth, variation)| (smooth.round() as u64, variation.round() as u64))
    }

    /// The score, see the module's documentation. The oldest live message waits for `oldest` milliseconds.
    #[must_use]
    pub fn score(&self, now: u64, oldest: u64) -> u8 {
        let (round_trip, variation) = self.round_trip.unwrap_or_default();
        let lost = (round_trip / 20.0).min(ROUND_TRIP)
            + (variation / 10.0).min(VARIATION)
            + (self.delay.max(oldest as f32) / 50.0).min(DELAY)
            + (self.drops_at(now) * DROPS).min(DROPS)
            + self.conflated * CONFLATION;
        (100.0 - lost).clamp(0.0, 100.0).round() as u8
    }
}

/// Milliseconds until the next ping: the interval that the client was told for a good connection, a half or a quarter of it for a
/// worse one, but no less than `least`, and never more than the client was told. A connection of which nothing is known yet is
/// asked early.
#[must_use]
pub fn ping_interval(grade: Option<Grade>, told: u64, least: u64) -> u64 {
    let wanted = told / grade.map_or(4, Grade::pace);
    wanted.max(least).min(told)
}

/// Bytes that may be taken from a session's queue before its socket took those before: what was taken cannot be conflated any
/// more, so a connection that is slow gets less ahead.
#[must_use]
pub fn write_ahead(grade: Grade, most: usize) -> usize {
    match grade {
        Grade::Good => most,
        Grade::Unsteady => most / 2,
        Grade::Poor => most / 4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_held_against_a_new_connection() {
        assert_eq!(Quality::default().score(0, 0), 100);
    }

    #[test]
    fn each_cause_costs_what_it_should() {
        let mut far = Quality::default();
        (0..200).for_each(|_| far.round_trip(200));
        assert_eq!((far.score(0, 0), far.smoothed()), (90, Some((200, 0))));

        let mut unsteady = Quality::default();
        (0..200).for_each(|n| unsteady.round_trip(if n % 2 == 0 { 20 } else { 220 }));
        assert!((75..=90).contains(&unsteady.score(0, 0)), "{unsteady:?}");

        let mut late = Quality::default();
        (0..100).for_each(|_| late.waited(1_000));
        assert_eq!(late.score(0, 0), 80);
        assert_eq!(Quality::default().score(0, 1_000), 80, "what waits now counts as well");

        let mut lossy = Quality::default();
        lossy.dropped(0);
        assert_eq!((lossy.score(0, 0), lossy.score(60_000, 0), lossy.score(600_000, 0)), (85, 93, 100));

        let mut conflated = Quality::default();
        (0..200).for_each(|_| conflated.conflated(9));
        assert_eq!(conflated.score(0, 0), 91);
    }

    #[test]
    fn the_worst_has_nothing_left() {
        let mut worst = Quality::default();
        worst.dropped(0);
        (0..100).for_each(|n| {
            worst.round_trip(n % 2 * 10_000);
            worst.waited(60_000);
            worst.conflated(1_000);
        });
        assert!(worst.score(0, 60_000) <= 1, "{worst:?}");
    }

    #[test]
    fn who_is_worse_is_asked_more_often_and_nobody_less_than_it_was_told() {
        let intervals = [None, Some(Grade::Good), Some(Grade::Unsteady), Some(Grade::Poor)]
            .map(|grade| ping_interval(grade, 30_000, 5_000));
        assert_eq!(intervals, [7_500, 30_000, 15_000, 7_500]);
        assert_eq!(ping_interval(Some(Grade::Poor), 300, 5_000), 300);
        assert_eq!(ping_interval(Some(Grade::Poor), 8_000, 5_000), 5_000);
    }

    proptest! {
        #[test]
        fn a_score_is_a_score(
            steps in prop::collection::vec((0u8..4, 0u64..100_000), 0..200),
            oldest in 0u64..1_000_000,
        ) {
            let mut quality = Quality::default();
            let mut now = 0;
            for (what, value) in steps {
                now += value;
                match what {
                    0 => quality.round_trip(value),
                    1 => quality.waited(value),
                    2 => quality.dropped(now),
                    _ => quality.conflated(value),
                }
                let score = quality.score(now, oldest);
                prop_assert!(score <= 100);
                // What waits longer is never better.
                prop_assert!(quality.score(now, oldest + 1_000) <= score);
            }
        }
    }
}
