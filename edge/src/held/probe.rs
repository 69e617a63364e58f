//! A WebSocket that is to become the transport of a session on long-polling
//! (<https://socket.io/docs/v4/engine-io-protocol/#upgrade>).
//!
//! Invariants: a session has one at a time, from before its handshake is answered, and none once it has gone over to one;
//! one that does not become the transport changes nothing, unless it was given something already.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tickmesh_protocol::frame::{Assembler, Incoming, Opcode, put_close, put_frame};
use tickmesh_protocol::socketio::engine::Packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Line, UPGRADING};
use crate::socket::Socket;

/// In which a WebSocket that asks to be the transport has to become it.
const UPGRADE: Duration = Duration::from_secs(10);
/// Largest packet of a WebSocket that is not the transport yet.
const MAX_PROBE: usize = 256;

/// A WebSocket's place as the next transport of a session. It is free again when this is dropped.
#[derive(Debug)]
pub struct Upgrade {
    line: Arc<Line>,
    /// False where the place is not to be had.
    mine: bool,
    began: bool,
    done: bool,
}

impl Line {
    /// A WebSocket of the client is about to be accepted. To be called before that is told to the client: what it does
    /// from then on finds the place taken.
    #[must_use]
    pub fn upgrade(self: &Arc<Self>) -> Upgrade {
        let mine = self.state.lock().polling.offer();
        Upgrade { line: self.clone(), mine, began: false, done: false }
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        if !self.mine || self.done {
            return;
        }
        let mut state = self.line.state.lock();
        if state.polling.is_upgraded() {
            // What was taken from the session for it is lost: so is the connection.
            state.polling.close();
        } else {
            state.polling.abandon();
        }
        drop(state);
        self.line.session.wake();
        self.line.poll.notify_one();
        self.line.others.notify_waiters();
    }
}

impl Upgrade {
    /// Lets the WebSocket take over when it asks to. `early` is what came behind its handshake.
    ///
    /// # Errors
    /// When the WebSocket is lost or does not keep to the protocol; the session goes on with requests.
    pub async fn run(mut self, socket: Socket, early: &[u8]) -> io::Result<()> {
        match timeout(UPGRADE, self.probe(socket, early)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits until it is known what becomes of the WebSocket that has the place: its client takes the end of this one as
    /// a sign that the other is answered.
    async fn wait_for_the_other(&self) {
        // Before the look: what happens in between is not missed.
        let decided = self.line.others.notified();
        let open = self.line.state.lock().polling.is_offered();
        if open {
            // Longer than that nobody is kept.
            let _ = timeout(UPGRADING, decided).await;
        }
    }

    async fn probe(&mut self, mut socket: Socket, early: &[u8]) -> io::Result<()> {
        let mut assembler = Assembler::new(MAX_PROBE);
        let mut input = early.to_vec();
        let mut bad = !self.mine;
        if bad {
            self.wait_for_the_other().await;
        }
        loop {
            let (mut out, mut upgrade) = (BytesMut::new(), false);
            let fed = assembler.feed(&mut input, |incoming| {
                match incoming {
                    Incoming::Text(text) => match Packet::parse(text) {
                        Ok(Packet::Ping(probe)) => {
                            put_frame(&mut out, Opcode::Text, format!("3{probe}").as_bytes());
                        }
                        Ok(Packet::Upgrade) => upgrade = true,
                        _ => bad = true,
                    },
                    Incoming::Ping(payload) => put_frame(&mut out, Opcode::Pong, payload),
                    Incoming::Pong(_) => {}
                    Incoming::Binary(_) | Incoming::Close(_) => bad = true,
                }
                !upgrade && !bad
            });
            if bad || fed.is_err() || ((!out.is_empty() || upgrade) && !self.begin()) {
                put_close(&mut out, 1002, "no upgrade");
                socket.write_all(&out).await?;
                return socket.shutdown().await;
            }
            socket.write_all(&out).await?;
            socket.flush().await?;
            if upgrade {
                return self.finish(socket, &assembler.into_rest()).await;
            }
            input.resize(1_024, 0);
            let read = socket.read(&mut input).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.truncate(read);
        }
    }

    fn begin(&mut self) -> bool {
        if !self.began {
            self.began = self.line.state.lock().polling.probe();
            // The poll that waits is let go, so that the client can stop.
            self.line.poll.notify_one();
        }
        self.began
    }

    async fn finish(&mut self, mut socket: Socket, rest: &[u8]) -> io::Result<()> {
        let down = self.line.state.lock().polling.upgrade(rest);
        let Some(down) = down else { return socket.shutdown().await };
        // A poll that came behind the WebSocket is to hear that it is not served any more.
        self.line.poll.notify_one();
        socket.write_all(&down).await?;
        socket.flush().await?;
        self.line.state.lock().successor = Some(socket);
        self.done = true;
        self.line.session.wake();
        self.line.others.notify_waiters();
        Ok(())
    }
}
