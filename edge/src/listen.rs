//! The listener, where others reach it, and the options of the sockets that it gives.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Bytes that the kernel holds unsent for one connection: what is beyond stays where it can be conflated.
///
/// A socket that is full is writable again when half of it has gone: who reads less than that within the time that a client
/// may take nothing is taken for one that does not read.
const NOTSENT_LOWAT: u32 = 16 * 1024;
/// Connections that wait to be taken: a crowd that reconnects at once.
const BACKLOG: i32 = 4_096;

/// A listener; port 0 takes any free port. With `shared` another process may listen on the same port (`SO_REUSEPORT`), so
/// that one can take over from the other.
///
/// # Errors
/// When the address cannot be used.
pub fn bind(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where the other processes of the cluster reach this one, `host:port`: what `cluster.advertise` says, or else where it
/// listens. Every address of a machine (`0.0.0.0`) is none that others could use: then it is the machine's host name, which
/// in a container is a name that its network knows.
#[must_use]
pub fn advertised(configured: &str, listening: SocketAddr) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let name = rustix::system::uname();
    match name.nodename().to_str() {
        Ok(name) if listening.ip().is_unspecified() && !name.is_empty() => {
            format!("{name}:{}", listening.port())
        }
        _ => listening.to_string(),
    }
}

/// Socket options of every connection; a system that lacks one serves without it. A peer that acknowledges nothing for
/// `user_timeout` is gone.
pub fn tune(stream: &TcpStream, user_timeout: Duration) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(user_timeout));
    let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_can_be_reached() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(advertised("node-1.example:443", at("0.0.0.0:8080")), "node-1.example:443");
        assert_eq!(advertised("", at("127.0.0.1:8080")), "127.0.0.1:8080");
        for every in ["0.0.0.0:8080", "[::]:8080"] {
            let told = advertised("", at(every));
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            assert_eq!(told, format!("{}:8080", name.trim()), "{every}");
        }
    }
}
