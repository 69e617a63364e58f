//! The listener, and the options of the sockets that it gives.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Bytes that the kernel holds unsent for one connection: what is beyond stays where it can be conflated.
const NOTSENT_LOWAT: u32 = 64 * 1024;
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

/// Socket options of every connection; a system that lacks one serves without it. A peer that acknowledges nothing for
/// `user_timeout` is gone.
pub fn tune(stream: &TcpStream, user_timeout: Duration) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(user_timeout));
    let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT);
}
