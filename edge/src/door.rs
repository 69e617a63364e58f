//! The door: how many connections are taken each second, and whose turn it is.
//!
//! A handshake costs as much as dozens of deliveries. When thousands come at once, those who are connected would wait for
//! all of them; so newcomers wait instead, and addresses take turns, so that one with thousands does not keep out another
//! with a few. Invariants: who waits is served in the order of its address's own; the queue is bounded, and who does not
//! fit is told when there will be a turn; who gives up costs no turn.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tickmesh_cluster::config::AcceptRate;
use tickmesh_protocol::crowd::Crowd;
use tickmesh_protocol::rate::{Bucket, Limit};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// Turns that may be given at once are what falls into this time.
const GRAIN: Duration = Duration::from_millis(20);

/// See the module's documentation.
#[derive(Debug)]
pub struct Door {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    max_waiting: usize,
    used: Bucket,
    turns: Turns<oneshot::Sender<()>>,
    /// A task gives turns.
    giving: bool,
}

impl State {
    fn count(&mut self) {
        if let Pace::Auto(crowd) = &mut self.pace {
            crowd.waits(self.turns.len);
        }
    }
}

/// How many are let in each second.
#[derive(Debug)]
enum Pace {
    Fixed(u32),
    Auto(Crowd),
}

impl Pace {
    fn limit(&self) -> Limit {
        let per_s = match self {
            Self::Fixed(per_s) => *per_s,
            Self::Auto(crowd) => crowd.per_s(),
        };
        let burst = per_s / (1_000 / GRAIN.as_millis() as u32);
        Limit { per_s, burst: burst.max(1) }
    }
}

/// Who waits, by address.
#[derive(Debug)]
struct Turns<T> {
    waiting: HashMap<IpAddr, VecDeque<T>>,
    /// Each address that somebody waits at, once; the first is next.
    order: VecDeque<IpAddr>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T> Turns<T> {
    fn push(&mut self, address: IpAddr, who: T) {
        let queue = self.waiting.entry(address).or_default();
        if queue.is_empty() {
            self.order.push_back(address);
        }
        queue.push_back(who);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let address = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&address)?;
        let who = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.order.push_back(address);
        }
        self.len -= usize::from(who.is_some());
        who
    }
}

impl Default for Door {
    fn default() -> Self {
        let state = State {
            pace: Pace::Fixed(0),
            max_waiting: 0,
            used: Bucket::default(),
            turns: Turns::default(),
            giving: false,
        };
        Self { state: Mutex::new(state), began: Instant::now() }
    }
}

impl Door {
    /// So many each second from now on; beyond it at most so many wait.
    pub fn set(&self, rate: AcceptRate, max_waiting: usize) {
        let mut state = self.state.lock();
        state.max_waiting = max_waiting;
        match (rate, &state.pace) {
            (AcceptRate::Fixed(per_s), _) => state.pace = Pace::Fixed(per_s),
            // What it has learnt still holds.
            (AcceptRate::Auto, Pace::Auto(_)) => {}
            (AcceptRate::Auto, Pace::Fixed(_)) => state.pace = Pace::Auto(Crowd::default()),
        }
    }

    /// So many messages were delivered in this time, where so many connections are open.
    pub fn delivered(&self, messages: u64, within: Duration, open: usize) {
        if let Pace::Auto(crowd) = &mut self.state.lock().pace {
            crowd.delivered(messages, within, open);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.lock().turns.len
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// At once, with the time after which there will be one, when too many wait.
    pub async fn enter(self: &Arc<Self>, address: IpAddr) -> Result<(), Duration> {
        let turn = {
            let mut state = self.state.lock();
            if state.turns.len == 0 && self.take(&mut state).is_ok() {
                return Ok(());
            }
            if state.turns.len >= state.max_waiting {
                let per_s = f64::from(state.pace.limit().per_s.max(1));
                return Err(Duration::from_secs_f64(state.turns.len as f64 / per_s));
            }
            let (given, turn) = oneshot::channel();
            state.turns.push(address, given);
            state.count();
            if !std::mem::replace(&mut state.giving, true) {
                tokio::spawn(self.clone().give());
            }
            turn
        };
        // Where the one who gives turns is gone, so is this process.
        let _ = turn.await;
        Ok(())
    }

    fn take(&self, state: &mut State) -> Result<(), u64> {
        let limit = state.pace.limit();
        state.used.take(limit, self.now_ms())
    }

    /// The clock of buckets begins anywhere but at 0, where all of them are empty.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 2) + 1_000_000
    }

    /// Gives turns as long as somebody waits.
    async fn give(self: Arc<Self>) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                loop {
                    if state.turns.len == 0 {
                        state.giving = false;
                        return;
                    }
                    if let Err(wait) = self.take(&mut state) {
                        break wait;
                    }
                    // Who gave up is passed over.
                    while state.turns.pop().is_some_and(|given| given.send(()).is_err()) {}
                    state.count();
                }
            };
            sleep(Duration::from_millis(wait)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn addresses_take_turns_and_each_keeps_its_own_order() {
        let mut turns = Turns::default();
        (0..100).for_each(|n| turns.push(address(1), (1, n)));
        (0..3).for_each(|n| turns.push(address(2), (2, n)));
        turns.push(address(3), (3, 0));
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order[..7], [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2), (2, 2)]);
        assert!(order[7..].iter().map(|(_, n)| *n).eq(3..100));
        assert_eq!((turns.len, turns.order.len(), turns.waiting.len()), (0, 0, 0), "nothing is left behind");
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_served_at_the_rate_and_one_address_does_not_keep_out_another() {
        let door = Arc::new(Door::default());
        door.set(AcceptRate::Fixed(100), 1_000);
        let began = Instant::now();
        let enter = |n: u8| {
            let door = door.clone();
            tokio::spawn(async move {
                door.enter(address(n)).await.unwrap();
                began.elapsed()
            })
        };
        let many: Vec<_> = (0..500).map(|_| enter(1)).collect();
        tokio::task::yield_now().await;
        let one = enter(2);
        assert!(one.await.unwrap() < Duration::from_millis(100), "an address of its own is served at once");
        let mut last = Duration::ZERO;
        for entered in many {
            last = last.max(entered.await.unwrap());
        }
        assert!((4_900..5_200).contains(&last.as_millis()), "{last:?}");
        assert_eq!(door.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_a_crowd_waits_for_deliveries_and_for_nothing_else() {
        let door = Arc::new(Door::default());
        door.set(AcceptRate::Auto, 10_000);
        let let_in = async || {
            let began = Instant::now();
            let mut crowd = tokio::task::JoinSet::new();
            for n in 0..5_000 {
                let door = door.clone();
                crowd.spawn(async move { door.enter(address((n % 200) as u8)).await });
            }
            assert!(crowd.join_all().await.iter().all(Result::is_ok));
            began.elapsed()
        };
        assert_eq!(let_in().await, Duration::ZERO);
        door.delivered(10_000, Duration::from_secs(1), 5_000);
        // Setting it again, as a reload does, forgets nothing.
        door.set(AcceptRate::Auto, 10_000);
        let took = let_in().await;
        assert!((4_500..5_500).contains(&took.as_millis()), "{took:?}");
        assert_eq!(door.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_fit_is_told_when_there_will_be_a_turn() {
        let door = Arc::new(Door::default());
        assert_eq!(door.enter(address(1)).await, Ok(()), "no rate, no queue");
        door.set(AcceptRate::Fixed(10), 20);
        let waiting: Vec<_> = (0..21)
            .map(|_| {
                let door = door.clone();
                tokio::spawn(async move { door.enter(address(1)).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(door.waiting(), 20);
        assert_eq!(door.enter(address(2)).await, Err(Duration::from_secs(2)));
        waiting.iter().take(20).for_each(tokio::task::JoinHandle::abort);
        let last = waiting.into_iter().next_back().unwrap();
        let began = Instant::now();
        assert_eq!(last.await.unwrap(), Ok(()));
        assert!(began.elapsed() < Duration::from_millis(250), "those who gave up cost no turn");
    }
}
