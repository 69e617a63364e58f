//! Why a process cannot listen, and what to do about it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

/// Ports beyond the taken one that are tried for one that is free.
const TRIED: u16 = 50;

/// The text for a process whose address `flag` or `key` sets.
pub(crate) fn trouble(address: SocketAddr, error: &io::Error, set_by: SetBy) -> String {
    let cannot = match set_by {
        SetBy::Listen => format!("cannot listen on {address}"),
        SetBy::Metrics => format!("server.metrics_listen: cannot listen on {address}"),
    };
    match error.kind() {
        ErrorKind::AddrInUse => {
            let other = set_by.example(free_beside(address));
            format!(
                "{cannot}: another process listens there; choose another address {other}, or stop that process"
            )
        }
        ErrorKind::AddrNotAvailable => {
            let other = set_by.example(SocketAddr::new([0, 0, 0, 0].into(), address.port()));
            format!(
                "{cannot}: this machine does not have that address; choose one of its own, or 0.0.0.0 for all of them, {other}"
            )
        }
        ErrorKind::PermissionDenied => {
            let other = set_by.example(free_beside(SocketAddr::new(address.ip(), 8_079)));
            format!("{cannot}: this user may not use that port; choose one from 1024 on {other}")
        }
        _ => format!("{cannot}: {error}"),
    }
}

/// What an address is set by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetBy {
    /// `--listen`
    Listen,
    /// `server.metrics_listen`
    Metrics,
}

impl SetBy {
    fn example(self, address: SocketAddr) -> String {
        match self {
            Self::Listen => format!("with --listen, e.g. --listen {address}"),
            Self::Metrics => format!("for it, e.g. {address}"),
        }
    }
}

/// The next port that is free, or the next one where none is.
fn free_beside(address: SocketAddr) -> SocketAddr {
    let at = |port| SocketAddr::new(address.ip(), port);
    let next = address.port().checked_add(1).unwrap_or(8_080);
    let mut ports = next..=next.saturating_add(TRIED);
    at(ports.find(|port| TcpListener::bind(at(*port)).is_ok()).unwrap_or(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(address: SocketAddr, kind: ErrorKind, set_by: SetBy) -> String {
        trouble(address, &kind.into(), set_by)
    }

    #[test]
    fn the_way_out_is_an_address_that_can_be_listened_on() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = held.local_addr().expect("its address");
        for (set_by, begins, named) in [
            (SetBy::Listen, "", "choose another address with --listen, e.g. --listen "),
            (SetBy::Metrics, "server.metrics_listen: ", "choose another address for it, e.g. "),
        ] {
            let said = text(address, ErrorKind::AddrInUse, set_by);
            let begins = format!("{begins}cannot listen on {address}: another process listens there; ");
            assert!(said.starts_with(&begins) && said.contains("or stop that process"), "{said}");
            let other = said.split_once(named).and_then(|(_, rest)| rest.split_once(',')).expect(&said).0;
            let other: SocketAddr = other.parse().expect(&said);
            assert!(other != address && other.ip() == address.ip(), "{said}");
        }
    }

    #[test]
    fn other_troubles_have_other_ways_out() {
        let away = SocketAddr::from(([192, 0, 2, 1], 80));
        let said = text(away, ErrorKind::AddrNotAvailable, SetBy::Listen);
        assert!(
            said.contains("does not have that address") && said.contains("--listen 0.0.0.0:80"),
            "{said}"
        );
        let said = text(away, ErrorKind::PermissionDenied, SetBy::Listen);
        assert!(said.contains("from 1024") && said.contains("--listen 192.0.2.1:"), "{said}");
        assert_eq!(
            trouble(away, &io::Error::other("odd"), SetBy::Listen),
            "cannot listen on 192.0.2.1:80: odd"
        );
    }
}
