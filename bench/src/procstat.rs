//! CPU time and memory of the server under test and of this process, read from `/proc`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{CurrentSI as _, KernelStats};
use rustix::process::{Resource, Rlimit};

/// Lets this process open as many files as it is allowed to; what that is shows in the errors when it is too few.
pub(crate) fn raise_open_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Refused in some sandboxes; the limit that there was still applies.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
}

/// What processes have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Resident memory in KiB.
    pub(crate) rss_kib: f64,
    /// Open file descriptors.
    pub(crate) files: f64,
    /// Threads.
    pub(crate) threads: f64,
}

/// The processes of the server under test.
#[derive(Debug, Clone)]
pub(crate) struct Processes {
    pids: Vec<i32>,
}

impl Processes {
    /// The processes given, or else those that listen at the addresses, as far as these are on this machine.
    pub(crate) fn find(pids: &[i32], addrs: impl Iterator<Item = SocketAddr>) -> Self {
        if !pids.is_empty() {
            return Self { pids: pids.to_vec() };
        }
        let addrs: Vec<_> = addrs.filter(|addr| addr.ip().is_loopback()).collect();
        let inodes: HashSet<u64> = tcp_sockets()
            .into_iter()
            .filter(|entry| entry.state == TcpState::Listen && addrs.iter().any(|addr| listens(entry, *addr)))
            .map(|entry| entry.inode)
            .collect();
        Self { pids: owners(&inodes) }
    }

    /// User and system seconds so far; `None` if there is no process to ask, or one has ended.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        self.sum(|process| {
            let stat = process.stat().ok()?;
            Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
        })
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> Option<f64> {
        self.sum(|process| process.status().ok()?.vmrss.map(|kib| kib as f64))
    }

    /// What may grow where something leaks, summed; `None` as with [`cpu_seconds`](Self::cpu_seconds).
    pub(crate) fn figures(&self) -> Option<Figures> {
        Some(Figures {
            rss_kib: self.rss_kib()?,
            files: self.sum(|process| Some(process.fd_count().ok()? as f64))?,
            threads: self.sum(|process| Some(process.stat().ok()?.num_threads as f64))?,
        })
    }

    fn sum(&self, value: impl Fn(&Process) -> Option<f64>) -> Option<f64> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|pid| Process::new(*pid).ok().and_then(|process| value(&process))).sum()
    }
}

/// CPU seconds that this process has used.
pub(crate) fn own_cpu_seconds() -> Option<f64> {
    Processes { pids: vec![std::process::id() as i32] }.cpu_seconds()
}

/// CPU seconds that all processes of this machine have used, and that its host took away.
fn machine_cpu_seconds() -> Option<f64> {
    let total = KernelStats::current().ok()?.total;
    let kernel = total.system + total.irq.unwrap_or(0) + total.softirq.unwrap_or(0);
    let busy = total.user + total.nice + kernel + total.steal.unwrap_or(0);
    Some(busy as f64 / procfs::ticks_per_second() as f64)
}

/// CPU time of the server and of this process over a stretch of time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuReading {
    /// Of the server, in seconds.
    pub(crate) server: Option<f64>,
    /// Of this process, in seconds.
    pub(crate) client: Option<f64>,
    /// Of everything on this machine, in seconds.
    pub(crate) machine: Option<f64>,
}

impl CpuReading {
    pub(crate) fn now(server: &Processes) -> Self {
        Self { server: server.cpu_seconds(), client: own_cpu_seconds(), machine: machine_cpu_seconds() }
    }

    /// What was used since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let difference = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        Self {
            server: difference(self.server, earlier.server),
            client: difference(self.client, earlier.client),
            machine: difference(self.machine, earlier.machine),
        }
    }
}

/// True if the server's end of a connection on this machine is still established, or if that cannot be seen because
/// the server is elsewhere and this end is.
pub(crate) fn established(sockets: &[TcpNetEntry], client: SocketAddr, server: SocketAddr) -> bool {
    let state = |local: SocketAddr, remote: SocketAddr| {
        sockets
            .iter()
            .find(|s| plain(s.local_address) == local && plain(s.remote_address) == remote)
            .map(|s| s.state.clone())
    };
    if server.ip().is_loopback() || server.ip() == client.ip() {
        state(server, client) == Some(TcpState::Established)
    } else {
        state(client, server) == Some(TcpState::Established)
    }
}

/// All TCP sockets of this network namespace.
pub(crate) fn tcp_sockets() -> Vec<TcpNetEntry> {
    let mut entries = procfs::net::tcp().unwrap_or_default();
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    entries
}

fn listens(entry: &TcpNetEntry, addr: SocketAddr) -> bool {
    let local = plain(entry.local_address);
    local.port() == addr.port() && (local.ip() == addr.ip() || local.ip().is_unspecified())
}

/// An IPv4 address that a dual-stack socket shows as IPv6 is the same address.
fn plain(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), addr.port()),
        IpAddr::V4(_) => addr,
    }
}

fn owners(inodes: &HashSet<u64>) -> Vec<i32> {
    let owns = |process: &Process| {
        process.fd().is_ok_and(|mut fds| {
            fds.any(|fd| matches!(fd, Ok(fd) if matches!(fd.target, FDTarget::Socket(inode) if inodes.contains(&inode))))
        })
    };
    match all_processes() {
        Ok(processes) if !inodes.is_empty() => {
            processes.flatten().filter(owns).map(|process| process.pid()).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listening_process_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Processes::find(&[], std::iter::once(listener.local_addr().unwrap()));
        assert_eq!(found.pids, [std::process::id() as i32]);
        assert!(found.rss_kib().unwrap() > 100.0);
        let elsewhere = Processes::find(&[], std::iter::once("192.0.2.1:80".parse().unwrap()));
        assert_eq!(elsewhere.cpu_seconds(), None);
    }

    #[test]
    fn a_closed_server_side_is_seen_without_reading() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert!(established(&tcp_sockets(), ends.0, ends.1));
        drop(server);
        assert!(!established(&tcp_sockets(), ends.0, ends.1));
    }
}
