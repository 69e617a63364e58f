//! How many newcomers a second are let in while a crowd of them waits.
//!
//! A handshake costs as much as dozens of deliveries. Where messages are delivered, those who get them would wait for all the
//! handshakes of a crowd; where none are, nobody would, and there is nothing to wait for. So the rate is one that is hardly
//! noticed beside deliveries, as long as that lets everybody in within [`WITHIN`]; if there are more, it is what does. It is
//! not what the threads have room for: where the crowd is on the same machine, or behind the same link, room is what it
//! takes from the others.
//!
//! It must not know clocks or who waits.

use std::time::Duration;

/// Newcomers a second at least.
pub const LEAST: u32 = 1_000;
/// In so much time a crowd is let in that has come.
pub const WITHIN: Duration = Duration::from_secs(8);

/// Deliveries a second from which on there are some to disturb: one in ten connections gets one. Pings are far fewer.
const ONE_IN: u64 = 10;
const BESIDE: u64 = 50;
/// For how long it is remembered that there were.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The rate; see the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// As many waited at most since nobody did.
    most: u32,
    /// For so long there are deliveries that would be disturbed.
    disturbing: Duration,
}

impl Crowd {
    /// Newcomers a second that are let in; 0 for any number.
    #[must_use]
    pub fn per_s(&self) -> u32 {
        if self.disturbing.is_zero() { 0 } else { LEAST.max(self.most / WITHIN.as_secs() as u32) }
    }

    /// So many wait now.
    pub fn waits(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.most = if count == 0 { 0 } else { self.most.max(count) };
    }

    /// So many messages were delivered in this time, where so many connections are open. Called a few times a second.
    pub fn delivered(&mut self, messages: u64, within: Duration, open: usize) {
        let enough = (open as u64 / ONE_IN + BESIDE) as f64 * within.as_secs_f64();
        self.disturbing =
            if messages as f64 >= enough { REMEMBERED } else { self.disturbing.saturating_sub(within) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(250);

    #[test]
    fn where_nothing_is_delivered_everybody_is_let_in_at_once() {
        let mut crowd = Crowd::default();
        crowd.waits(5_000);
        assert_eq!(crowd.per_s(), 0);
        // Pings every 25 s, and what a few programs follow.
        crowd.delivered(5_000 / 25 / 4, LOOK, 5_000);
        assert_eq!(crowd.per_s(), 0);
    }

    #[test]
    fn beside_deliveries_a_crowd_is_let_in_at_a_rate_and_a_large_one_within_its_time() {
        let mut crowd = Crowd::default();
        // 500 of 5,500 get a message five times a second.
        crowd.delivered(500 * 5 / 4, LOOK, 5_500);
        crowd.waits(5_000);
        assert_eq!(crowd.per_s(), LEAST);
        crowd.waits(80_000);
        assert_eq!(crowd.per_s(), 10_000);
        crowd.waits(1);
        assert_eq!(crowd.per_s(), 10_000, "the last do not wait for longer than the first");
        crowd.waits(0);
        crowd.waits(1);
        assert_eq!(crowd.per_s(), LEAST);
    }

    #[test]
    fn between_two_messages_it_is_remembered_that_there_are_some() {
        let mut crowd = Crowd::default();
        crowd.delivered(1_000, LOOK, 1_000);
        let looks = (0..100).take_while(|_| {
            crowd.delivered(0, LOOK, 1_000);
            crowd.per_s() > 0
        });
        assert_eq!(looks.count(), 19);
    }
}
