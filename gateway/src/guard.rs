//! The memory guard of a gateway, which holds connections and what waits for them, and nothing else that could be given up.
//!
//! | level | what is done, each on top of those before |
//! |---|---|
//! | high | no more clients are taken |
//! | critical | again and again some are closed: of those for which much waits one in four, and if that was not enough one in fifty of all (1013) |
//!
//! Invariants: a lower level takes back what can be; one look at a time, and nothing is closed before the last look's had time
//! to go. Bridges close themselves: this says only which.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_edge::guard::{Action, Judge, Sight};
use tickmesh_protocol::memory::Level;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::server::Shared;

/// What a client and its link take beside what waits for them, in bytes.
const CLIENT: u64 = 12 * 1024;
/// Looks before more clients are closed: what those had is given back meanwhile.
const PAUSE: u32 = 2;
/// Rounds in which only those are closed for which much waits.
const GENTLE: u32 = 3;
/// Of these, one in so many is closed in a round, and of all.
const OF_HEAVY: u32 = 4;
const OF_ALL: u32 = 50;

/// A round of closing clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// Rises with each; none was before 1.
    number: u64,
    /// Those for whom little waits as well.
    all: bool,
}

impl Round {
    /// Whether a client is closed, for which much waits or not: by chance, so that nobody has to count them.
    pub(crate) fn closes(self, heavy: bool) -> bool {
        self.number > 0
            && match (heavy, self.all) {
                (true, _) => rand::random_ratio(1, OF_HEAVY),
                (false, all) => all && rand::random_ratio(1, OF_ALL),
            }
    }
}

/// Starts it, on the present runtime. It ends with it.
pub(crate) fn start(shared: Arc<Shared>, rounds: watch::Sender<Round>) {
    tokio::spawn(async move {
        let (mut judge, mut critical) = (Judge::default(), 0);
        loop {
            let config = shared.live.now().memory;
            sleep(Duration::from_millis(config.interval_ms)).await;
            let Some(sight) = Sight::take(&config) else { continue };
            let held = shared.connections.open() as u64 * CLIENT + shared.metrics.waiting_bytes();
            let (before, level) = judge.judge(&sight, held, &shared.memory);
            shared.connections.set_short_of_memory(level >= Level::High);
            if before < Level::High && level >= Level::High {
                shared.memory.did(Action::Refuse, 1);
            }
            if level < Level::Critical {
                critical = 0;
                continue;
            }
            if critical % (PAUSE + 1) == 0 {
                let all = critical / (PAUSE + 1) >= GENTLE;
                tracing::warn!(all, "clients are closed because memory is very short");
                rounds.send_modify(|round| *round = Round { number: round.number + 1, all });
            }
            critical += 1;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_for_whom_much_waits_are_closed_first_and_the_others_if_need_be() {
        let closed = |round: Round, heavy| (0..10_000).filter(|_| round.closes(heavy)).count();
        assert_eq!((closed(Round::default(), true), closed(Round::default(), false)), (0, 0));
        let first = Round { number: 1, all: false };
        assert!((2_000..3_000).contains(&closed(first, true)));
        assert_eq!(closed(first, false), 0);
        let later = Round { number: 4, all: true };
        assert!((100..400).contains(&closed(later, false)));
    }
}
