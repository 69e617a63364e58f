//! The way of one connection of the driver to the server, through this process.
//!
//! The driver writes the head of a frame and then its body, on a socket that waits for the head to be acknowledged before
//! it sends the body; servers take 40 ms for that, with every turn. It gives no way to change its sockets. Nor does it notice
//! that a server has gone: who asked waits until time is up. So it connects to a port of this host that takes one connection
//! and acknowledges at once, and what passes there goes to the server without delay. When either side ends, both do, and
//! that is told.
//!
//! This module must not know what passes.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use taos::Dsn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes under way in one direction.
const BUFFER: usize = 32 * 1024;
/// Of taosAdapter.
const PORT: u16 = 6041;

/// Becomes true when one of a connection's ways has ended.
pub(super) type Broken = Arc<watch::Sender<bool>>;

/// A way. It ends when this is dropped.
pub(super) struct Bridge {
    task: JoinHandle<()>,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bridge {
    /// Connects to the server of a DSN; answers with the DSN that leads there over the bridge.
    pub(super) async fn to(dsn: &Dsn, broken: &Broken) -> io::Result<(Self, Dsn)> {
        // As the driver does: of many addresses the first.
        let address = dsn.addresses.first();
        let host = address.and_then(|address| address.host.as_deref()).unwrap_or("localhost");
        let port = address.and_then(|address| address.port).unwrap_or(PORT);
        let server = TcpStream::connect((host, port)).await?;
        server.set_nodelay(true)?;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut here = dsn.clone();
        here.addresses = vec![taos::taos_query::Address::new("127.0.0.1", door.local_addr()?.port())];
        let broken = broken.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = pass(door, server).await {
                tracing::debug!(%error, "a connection to tdengine ended");
            }
            broken.send_replace(true);
        });
        Ok((Self { task }, here))
    }
}

async fn pass(door: TcpListener, server: TcpStream) -> io::Result<()> {
    let (driver, _) = door.accept().await?;
    // One connection, then the door is closed.
    drop(door);
    driver.set_nodelay(true)?;
    let ((from_driver, to_driver), (from_server, to_server)) = (driver.into_split(), server.into_split());
    tokio::select! {
        ended = copy(from_driver, to_server) => ended,
        ended = copy(from_server, to_driver) => ended,
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        acknowledge(&from)?;
        to.write_all(&buffer[..count]).await?;
    }
}

/// Acknowledges now what came so far. The system forgets that this was wanted, so it is said each time.
#[cfg(target_os = "linux")]
fn acknowledge(from: &OwnedReadHalf) -> io::Result<()> {
    socket2::SockRef::from(from.as_ref()).set_tcp_quickack(true)
}

#[cfg(not(target_os = "linux"))]
fn acknowledge(_: &OwnedReadHalf) -> io::Result<()> {
    Ok(())
}
