//! How many connections a process holds, in all and from one address, and whether it takes more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Clients that are sent away are told to come back at a random moment within so many milliseconds, so that not all are at
/// another process's door at once.
pub const RETRY_SPREAD_MS: u64 = 2_000;

/// Counts the connections of a node or gateway.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: usize,
    /// None where addresses are not limited.
    addresses: Option<Addresses>,
    draining: AtomicBool,
}

#[derive(Debug)]
struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
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
    /// The process is about to stop.
    #[error("no more connections are taken: draining")]
    Draining,
}

impl Refusal {
    /// Names of all causes, for counting.
    pub const CAUSES: [&str; 3] = ["full", "full address", "draining"];

    /// A short name, for counting.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::FullAddress => "full address",
            Self::Draining => "draining",
        }
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
        let addresses = (per_address > 0).then(|| Addresses { max: per_address, open: Mutex::default() });
        Arc::new(Self { open: AtomicUsize::new(0), max, addresses, draining: AtomicBool::new(false) })
    }

    /// Takes a place, for a client at an address, or for one that is counted elsewhere.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<ConnectionGuard, Refusal> {
        if self.draining() {
            return Err(Refusal::Draining);
        }
        // Counted first, so that the guard gives back whatever is refused below.
        let mut guard = ConnectionGuard { connections: self.clone(), address: None };
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            return Err(Refusal::Full);
        }
        if let (Some(addresses), Some(address)) = (&self.addresses, address.map(counted)) {
            let mut open = addresses.open.lock();
            let count = open.entry(address).or_default();
            if *count >= addresses.max {
                return Err(Refusal::FullAddress);
            }
            *count += 1;
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
        if let (Some(addresses), Some(address)) = (&self.connections.addresses, self.address) {
            let mut open = addresses.open.lock();
            if let Some(count) = open.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    open.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
