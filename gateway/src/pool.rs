//! Links to nodes that wait for a client, so that a new one costs no handshake: each worker thread has its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::nodes::{Node, Nodes};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Largest answer to the handshake.
const MAX_HEAD: usize = 4_096;

/// The links of one thread.
pub(crate) struct Pool {
    nodes: Arc<Nodes>,
    /// How many wait for each node.
    warm: usize,
    idle: RefCell<HashMap<String, Vec<TcpStream>>>,
}

impl Pool {
    pub(crate) fn new(nodes: Arc<Nodes>, warm: usize) -> Rc<Self> {
        Rc::new(Self { nodes, warm, idle: RefCell::default() })
    }

    /// A link to a node.
    pub(crate) async fn link(self: &Rc<Self>, node: &Arc<Node>) -> io::Result<TcpStream> {
        while let Some(stream) = self.take(node) {
            // A link that ended, or on which a node speaks unasked, is of no use.
            let mut byte = [0];
            if matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                self.refill(node);
                return Ok(stream);
            }
        }
        let stream = timeout(CONNECT, connect(&node.address, self.nodes.secret())).await;
        let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.refill(node);
        Ok(stream)
    }

    fn take(&self, node: &Node) -> Option<TcpStream> {
        self.idle.borrow_mut().get_mut(&node.id)?.pop()
    }

    /// Makes up for links that were taken, in the background.
    fn refill(self: &Rc<Self>, node: &Arc<Node>) {
        let lacking = self.warm.saturating_sub(self.idle.borrow().get(&node.id).map_or(0, Vec::len));
        if lacking == 0 {
            return;
        }
        let (pool, node) = (self.clone(), node.clone());
        actix_rt::spawn(async move {
            if let Ok(Ok(stream)) = timeout(CONNECT, connect(&node.address, pool.nodes.secret())).await {
                let mut idle = pool.idle.borrow_mut();
                let links = idle.entry(node.id.clone()).or_default();
                if links.len() < pool.warm {
                    links.push(stream);
                }
            }
        });
    }
}

/// Opens a link: a WebSocket handshake with the secret, after which there are records.
pub(crate) async fn connect(address: &str, secret: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // The key is not secret (RFC 6455 §10.8): it only has to be 16 bytes.
    let head = format!(
        "GET /link HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGlja21lc2gtbGluay0wMQ==\r\n\
         Authorization: Bearer {secret}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::with_capacity(256);
    // A node says nothing behind its answer before it is asked.
    while !answer.ends_with(b"\r\n\r\n") {
        let read = stream.read_buf(&mut answer).await?;
        if read == 0 || answer.len() > MAX_HEAD {
            return Err(io::Error::other("the node did not answer the handshake"));
        }
        if !answer.starts_with(b"HTTP/1.1 101") && answer.len() >= 12 {
            let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
            return Err(io::Error::other(format!("the node refused the link: {line}")));
        }
    }
    Ok(stream)
}
