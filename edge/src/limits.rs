//! How many connections a process holds, in all and from one address, and whether it takes more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tickmesh_cluster::config::{LimitsConfig, RateConfig};
use tickmesh_protocol::error::ErrorCode;
use tickmesh_protocol::rate::Limit;
use tokio::time::{Instant, sleep};

use crate::door::Door;
use crate::rate::{Keyed, millis};

/// How often it is looked at what is delivered.
const LOOK: Duration = Duration::from_millis(250);

/// Clients that are sent away are told to come back at a random moment within so many milliseconds, so that not all are at
/// another process's door at once.
pub const RETRY_SPREAD_MS: u64 = 2_000;
/// Who is let go because memory is short comes back no sooner than this, in milliseconds.
pub const SHED_LEAST_MS: u64 = 5_000;
/// And within so many from then.
pub const SHED_SPREAD_MS: u64 = 10_000;
/// Those who are not let in, no sooner than this.
const RETRY_LEAST_MS: u64 = 1_000;

/// Counts the connections of a node or gateway.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: AtomicUsize,
    /// From one address; 0 for any number.
    max_per_address: AtomicUsize,
    /// Counted whether they are limited or not: a limit that is set later holds for all.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    /// Of one user; 0 for any number.
    max_per_user: AtomicUsize,
    by_user: Mutex<HashMap<Arc<str>, usize>>,
    /// How often one address may come.
    pace: Keyed<IpAddr>,
    /// How often anybody may.
    door: Arc<Door>,
    draining: AtomicBool,
    short_of_memory: AtomicBool,
}

/// One counted connection of a user; dropping it gives the place back.
#[derive(Debug)]
pub struct UserGuard {
    connections: Arc<Connections>,
    user: Arc<str>,
}

/// One counted connection; dropping it gives the place back.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `limits.max_connections` are open.
    #[error("no more connections are taken: as many are open as may be")]
    Full,
    /// `limits.max_connections_per_address` are open from there.
    #[error("no more connections are taken from this address: as many are open as may be")]
    FullAddress,
    /// `rate.connects_per_s` is used up by that address for so long.
    #[error("connections from this address come too fast")]
    TooFast(Duration),
    /// More wait for their turn than may, and there will be one after so long.
    #[error("no more connections may wait to be taken: too many come at once")]
    Busy(Duration),
    /// There is too little memory for more.
    #[error("no more connections are taken: memory is short")]
    Memory,
    /// The process is about to stop.
    #[error("no more connections are taken: draining")]
    Draining,
}

impl Refusal {
    /// Names of all causes, for counting.
    pub const CAUSES: [&str; 6] = ["full", "full address", "rate", "busy", "memory", "draining"];

    /// A short name, for counting.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::FullAddress => "full address",
            Self::TooFast(_) => "rate",
            Self::Busy(_) => "busy",
            Self::Memory => "memory",
            Self::Draining => "draining",
        }
    }

    /// What a program goes by.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::TooFast(_) => ErrorCode::RateLimitExceeded,
            _ => ErrorCode::ServiceUnavailable,
        }
    }

    /// Milliseconds after which the client should come again: for each another, so that not all come at once.
    #[must_use]
    pub fn retry_after_ms(self) -> u64 {
        let soonest = match self {
            Self::TooFast(wait) | Self::Busy(wait) => millis(wait),
            _ => RETRY_LEAST_MS,
        };
        soonest + rand::random_range(0..=RETRY_SPREAD_MS)
    }
}

/// What counts as one address: of IPv6, where a household has many, the network of 64 bits.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Connections {
    /// At most `max` at a time, and `per_address` from one address; 0 for any number.
    #[must_use]
    pub fn new(max: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            max_per_address: AtomicUsize::new(per_address),
            by_address: Mutex::default(),
            max_per_user: AtomicUsize::new(0),
            by_user: Mutex::default(),
            pace: Keyed::new(Limit::ANY),
            door: Arc::default(),
            draining: AtomicBool::new(false),
            short_of_memory: AtomicBool::new(false),
        })
    }

    /// What is configured holds from now on. Those that are open stay.
    pub fn set(&self, limits: &LimitsConfig, rate: &RateConfig) {
        self.max.store(limits.max_connections, Ordering::Relaxed);
        self.max_per_address.store(limits.max_connections_per_address, Ordering::Relaxed);
        self.max_per_user.store(limits.max_connections_per_user, Ordering::Relaxed);
        self.pace.set(rate.connects());
        self.door.set(limits.accept_per_second, limits.accept_queue);
    }

    /// Looks a few times a second at how many messages were delivered in all, which newcomers must not hold up. It ends with the
    /// present runtime, or with the connections.
    pub fn watch(self: &Arc<Self>, delivered: impl Fn() -> u64 + Send + 'static) {
        let connections = Arc::downgrade(self);
        tokio::spawn(async move {
            let (mut last, mut looked) = (delivered(), Instant::now());
            loop {
                sleep(LOOK).await;
                let Some(connections) = connections.upgrade() else { return };
                let now = delivered();
                connections.door.delivered(now.wrapping_sub(last), looked.elapsed(), connections.open());
                (last, looked) = (now, Instant::now());
            }
        });
    }

    /// Waits for the turn of one at this address. Called with its place in hand, so that those who wait are counted.
    ///
    /// # Errors
    /// At once, when too many wait.
    pub async fn turn(&self, address: IpAddr) -> Result<(), Refusal> {
        self.door.enter(counted(address)).await.map_err(Refusal::Busy)
    }

    /// How many wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.door.waiting()
    }

    /// Takes a place for a connection of a user; one that was let in elsewhere is never refused.
    ///
    /// # Errors
    /// With the limit, when as many of the user's are open.
    pub fn admit_user(self: &Arc<Self>, user: &str, elsewhere: bool) -> Result<UserGuard, usize> {
        let max = self.max_per_user.load(Ordering::Relaxed);
        let mut open = self.by_user.lock();
        let (user, count) = match open.get_key_value(user) {
            Some((user, count)) => (user.clone(), *count),
            None => (user.into(), 0),
        };
        if max > 0 && count >= max && !elsewhere {
            return Err(max);
        }
        open.insert(user.clone(), count + 1);
        Ok(UserGuard { connections: self.clone(), user })
    }

    /// Takes no more connections because of too little memory, or takes them again.
    pub fn set_short_of_memory(&self, short: bool) {
        self.short_of_memory.store(short, Ordering::Relaxed);
    }

    /// Whether no more are taken because of too little memory.
    #[must_use]
    pub fn short_of_memory(&self) -> bool {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// Takes a place, for a client at an address, or for one that is counted elsewhere.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<ConnectionGuard, Refusal> {
        if self.draining() {
            return Err(Refusal::Draining);
        }
        if self.short_of_memory() {
            return Err(Refusal::Memory);
        }
        let address = address.map(counted);
        // Before all else: who is refused for another cause has come all the same.
        if let Some(address) = address {
            self.pace.take(|| address).map_err(Refusal::TooFast)?;
        }
        // Counted first, so that the guard gives back whatever is refused below.
        let mut guard = ConnectionGuard { connections: self.clone(), address: None };
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) {
            return Err(Refusal::Full);
        }
        if let Some(address) = address {
            let max = self.max_per_address.load(Ordering::Relaxed);
            let mut open = self.by_address.lock();
            let count = open.get(&address).copied().unwrap_or(0);
            if max > 0 && count >= max {
                return Err(Refusal::FullAddress);
            }
            open.insert(address, count + 1);
            guard.address = Some(address);
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
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut open = self.connections.by_address.lock();
            if let Some(count) = open.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    open.remove(&address);
                }
            }
        }
    }
}

impl Drop for UserGuard {
    fn drop(&mut self) {
        let mut open = self.connections.by_user.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tickmesh_cluster::config::Config;

    use super::*;

    fn limits(change: impl FnOnce(&mut Config)) -> Arc<Connections> {
        let mut config = Config::node_defaults();
        change(&mut config);
        let connections = Connections::new(1, 0);
        connections.set(&config.limits, &config.rate);
        connections
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let connections = Connections::new(2, 0);
        let first = connections.admit(None).unwrap();
        let _second = connections.admit(None).unwrap();
        assert_eq!(connections.admit(None).unwrap_err(), Refusal::Full);
        drop(first);
        let _third = connections.admit(None).unwrap();
        connections.drain();
        assert_eq!(connections.admit(None).unwrap_err(), Refusal::Draining);
        assert_eq!(connections.open(), 2);
    }

    #[test]
    fn a_user_has_its_share_and_gives_it_back() {
        let connections = limits(|config| config.limits.max_connections_per_user = 2);
        let first = connections.admit_user("alice", false).unwrap();
        let _moved = connections.admit_user("alice", true).unwrap();
        assert_eq!(connections.admit_user("alice", false).unwrap_err(), 2);
        let _too_many =
            connections.admit_user("alice", true).expect("who was let in stays, wherever it goes");
        let _other = connections.admit_user("bob", false).unwrap();
        drop((first, _too_many));
        let _again = connections.admit_user("alice", false).unwrap();
    }

    #[test]
    fn an_address_that_comes_too_fast_is_told_when_to_come() {
        let connections = limits(|config| (config.rate.connects_per_s, config.rate.burst_s) = (1, 3));
        let admit = |address: &str| connections.admit(Some(address.parse().unwrap()));
        let taken: Vec<_> = (0..3).map(|_| admit("192.0.2.1").unwrap()).collect();
        drop(taken);
        let refusal = admit("192.0.2.1").unwrap_err();
        assert_eq!((refusal.cause(), refusal.code()), ("rate", ErrorCode::RateLimitExceeded));
        assert!((900..=1_000 + RETRY_SPREAD_MS).contains(&refusal.retry_after_ms()));
        let _other = admit("192.0.2.2").unwrap();
        let _link = connections.admit(None).unwrap();
        assert_eq!(connections.open(), 2);
    }

    #[test]
    fn a_limit_that_is_set_later_counts_those_from_before() {
        let connections = Connections::new(10, 0);
        let admit = |address: &str| connections.admit(Some(address.parse().unwrap()));
        let first = admit("192.0.2.1").unwrap();
        let mut config = Config::node_defaults();
        (config.limits.max_connections, config.limits.max_connections_per_address) = (2, 1);
        connections.set(&config.limits, &config.rate);
        assert_eq!(admit("192.0.2.1").unwrap_err(), Refusal::FullAddress);
        let _other = admit("192.0.2.2").unwrap();
        assert_eq!(admit("192.0.2.3").unwrap_err(), Refusal::Full);
        drop(first);
        let _again = admit("192.0.2.1").unwrap();
    }

    #[test]
    fn an_address_has_its_share_and_an_ipv6_network_is_one() {
        let connections = Connections::new(10, 2);
        let admit = |address: &str| connections.admit(Some(address.parse().unwrap()));
        let first = admit("192.0.2.1").unwrap();
        let _mapped = admit("::ffff:192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), Refusal::FullAddress);
        let _other = admit("192.0.2.2").unwrap();
        let _six = [admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap()];
        assert_eq!(admit("2001:db8::3").unwrap_err(), Refusal::FullAddress);
        assert_eq!(connections.open(), 5, "those who were refused are not counted");
        drop(first);
        let _again = admit("192.0.2.1").unwrap();
    }
}
