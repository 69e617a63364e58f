//! How a link to a node begins: a connection, perhaps TLS, and a WebSocket handshake with the cluster's secret.

use std::io;
use std::time::Duration;

use tickmesh_cluster::config::Secret;
use tickmesh_edge::handshake::RUN_HEADER;
use tickmesh_edge::socket::Socket;
use tickmesh_edge::tls::Connector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time that it may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest answer to the handshake.
const MAX_HEAD: usize = 4_096;

/// Opens links.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) secret: Secret,
    /// Without it, in the clear.
    pub(crate) tls: Option<Connector>,
}

impl Dialer {
    /// Opens a link to this run of a node, after which there are records. What answers at the address may be another one
    /// already: a container that is restarted keeps its address.
    pub(crate) async fn link(&self, address: &str, run: u64) -> io::Result<Socket> {
        let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
        // Every held connection's future has room for this one, which would be mostly TLS, and hardly ever needs it.
        timeout(PATIENCE, Box::pin(self.shake_hands(address, run))).await.map_err(timed_out)?
    }

    async fn shake_hands(&self, address: &str, run: u64) -> io::Result<Socket> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut socket = match &self.tls {
            None => Socket::Tcp(stream),
            Some(tls) => tls.connect(address, stream).await?,
        };
        // The key is not secret (RFC 6455 §10.8): it only has to be 16 bytes.
        let head = format!(
            "GET /link HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGlja21lc2gtbGluay0wMQ==\r\n\
             {RUN_HEADER}: {run}\r\nAuthorization: Bearer {}\r\n\r\n",
            self.secret.expose()
        );
        socket.write_all(head.as_bytes()).await?;
        socket.flush().await?;
        let mut answer = Vec::with_capacity(256);
        // A node says nothing behind its answer before it is asked.
        while !answer.ends_with(b"\r\n\r\n") {
            let read = socket.read_buf(&mut answer).await?;
            if read == 0 || answer.len() > MAX_HEAD {
                return Err(io::Error::other("the node did not answer the handshake"));
            }
            if !answer.starts_with(b"HTTP/1.1 101") && answer.len() >= 12 {
                let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
                return Err(io::Error::other(format!("the node refused the link: {line}")));
            }
        }
        Ok(socket)
    }
}
