//! A client's connection that is made of HTTP requests, as a socket: what a session writes waits for the next poll, and
//! what is posted can be read. When the client has upgraded to a WebSocket, the same socket goes on with that.
//!
//! Invariants: both directions are bounded by [`Polling`]; no byte is given to two transports; the lock is never held
//! across an await.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tickmesh_protocol::socketio::polling::{Polled, Polling, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::socket::Socket;

mod probe;

pub use probe::Upgrade;

/// How long the last words of a session wait for a poll.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long what came behind its client's WebSocket waits for that to become the transport.
const UPGRADING: Duration = Duration::from_millis(100);

/// The sessions of one process that began on long-polling, by their Engine.IO session ids.
#[derive(Debug, Default)]
pub struct Lines {
    by_sid: Mutex<HashMap<String, Arc<Line>>>,
}

/// One client's requests on one side, its session on the other.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    /// Wakes the session.
    session: AtomicWaker,
    /// Wakes the poll that waits.
    poll: Notify,
    /// Wakes the post that waits.
    post: Notify,
    /// Wakes the WebSockets that found another one there.
    others: Notify,
}

#[derive(Debug)]
struct State {
    polling: Polling,
    /// A post waits until the session has read it.
    posting: bool,
    /// The WebSocket that goes on, until the session has it.
    successor: Option<Socket>,
}

/// The session's end of a [`Line`]; see [`Socket::Held`].
#[derive(Debug)]
pub struct Held {
    line: Arc<Line>,
    lines: Arc<Lines>,
    sid: String,
    /// Posted, and not read when the WebSocket took over.
    rest: BytesMut,
    upgraded: Option<Socket>,
}

impl Lines {
    /// Begins a session on long-polling; answers to polls have at most `max_payload` bytes, or one packet.
    #[must_use]
    pub fn hold(self: &Arc<Self>, sid: String, max_payload: usize) -> (Socket, Arc<Line>) {
        let polling = Polling::new(max_payload);
        let line = Arc::new(Line {
            state: Mutex::new(State { polling, posting: false, successor: None }),
            session: AtomicWaker::new(),
            poll: Notify::new(),
            post: Notify::new(),
            others: Notify::new(),
        });
        self.by_sid.lock().insert(sid.clone(), line.clone());
        let (lines, rest) = (self.clone(), BytesMut::new());
        let held = Held { line: line.clone(), lines, sid, rest, upgraded: None };
        (Socket::Held(Box::new(held)), line)
    }

    /// The session with this id.
    #[must_use]
    pub fn find(&self, sid: &str) -> Option<Arc<Line>> {
        self.by_sid.lock().get(sid).cloned()
    }
}

impl Line {
    /// Waits for packets.
    ///
    /// # Errors
    /// When the session is over or its transport another, and when another poll waits.
    pub async fn poll(&self) -> Result<Vec<u8>, Refusal> {
        let begun = self.state.lock().polling.begin_poll();
        if begun == Err(Refusal::Second) {
            self.poll.notify_one();
            self.session.wake();
        }
        begun?;
        let mut waiting = Waiting { line: self, answered: false };
        let mut until = None;
        loop {
            let polled = self.state.lock().polling.poll();
            match polled {
                Polled::Payload(payload) => {
                    waiting.answered = true;
                    self.session.wake();
                    return Ok(payload);
                }
                Polled::Refused(refusal) => {
                    waiting.answered = true;
                    return Err(refusal);
                }
                Polled::Waits => self.poll.notified().await,
                Polled::WaitsBriefly => {
                    let until = *until.get_or_insert_with(|| Instant::now() + UPGRADING);
                    if timeout_at(until, self.poll.notified()).await.is_err() {
                        self.state.lock().polling.hurry_poll();
                    }
                }
            }
        }
    }

    /// Takes packets; returns when the session has read them.
    ///
    /// # Errors
    /// When the session is over or its transport another, when another post waits, and for a payload that is none.
    pub async fn post(&self, body: &[u8]) -> Result<(), Refusal> {
        let posted = {
            let mut state = self.state.lock();
            if state.posting {
                state.polling.close();
                Err(Refusal::Second)
            } else {
                state.polling.post(body)
            }
        };
        self.session.wake();
        if posted.is_err() {
            self.poll.notify_one();
            return posted;
        }
        self.state.lock().posting = true;
        let _posting = Posting(self);
        loop {
            {
                let state = self.state.lock();
                if !state.polling.has_up() || state.polling.is_closed() {
                    return Ok(());
                }
            }
            self.post.notified().await;
        }
    }
}

/// A poll that may be dropped: its client is gone then, with whatever it was about to be given.
struct Waiting<'l> {
    line: &'l Line,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.line.state.lock();
        state.polling.end_poll();
        if !self.answered {
            state.polling.close();
            drop(state);
            self.line.session.wake();
        }
    }
}

struct Posting<'l>(&'l Line);

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().posting = false;
    }
}

impl Held {
    /// The WebSocket, if it goes on with that.
    pub(crate) fn upgraded(&self) -> Option<&Socket> {
        self.upgraded.as_ref()
    }

    /// Takes the WebSocket over if it is there.
    pub(crate) fn adopt(&mut self) -> Option<&mut Socket> {
        if self.upgraded.is_none() {
            let mut state = self.line.state.lock();
            self.upgraded = state.successor.take();
            if self.upgraded.is_some() {
                self.rest = state.polling.take_rest();
                drop(state);
                self.line.post.notify_one();
            }
        }
        self.upgraded.as_mut()
    }

    /// Whether a read would give something, or the end.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.line.session.register(cx.waker());
        let state = self.line.state.lock();
        let ready = state.polling.has_up() || state.polling.is_closed() || state.successor.is_some();
        if ready || !self.rest.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether a write would give something away, or fail.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.line.session.register(cx.waker());
        let state = self.line.state.lock();
        let moves = state.polling.is_upgraded();
        let ready = if moves { state.successor.is_some() } else { state.polling.has_room() };
        if ready || state.polling.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The WebSocket, once all that was posted is read.
    pub(crate) fn try_upgraded(&mut self) -> Option<&mut Socket> {
        self.adopt();
        self.upgraded.as_mut().filter(|_| self.rest.is_empty())
    }

    /// What was posted; 0 bytes at the end.
    pub(crate) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.rest.is_empty() {
            let length = self.rest.len().min(into.len());
            self.rest.copy_to_slice(&mut into[..length]);
            return Ok(length);
        }
        let mut state = self.line.state.lock();
        if state.polling.has_up() {
            let mut bytes = state.polling.take_up(into.len());
            let (length, emptied) = (bytes.len(), !state.polling.has_up());
            drop(state);
            bytes.copy_to_slice(&mut into[..length]);
            if emptied {
                self.line.post.notify_one();
            }
            return Ok(length);
        }
        if state.polling.is_closed() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Gives bytes to the next poll.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.line.state.lock();
        if state.polling.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = state.polling.give_down(bytes);
        drop(state);
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.line.poll.notify_one();
        Ok(taken)
    }

    /// Whether bytes wait that no socket will announce.
    pub(crate) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.upgraded.is_some() {
            self.lines.by_sid.lock().remove(&self.sid);
            return;
        }
        self.line.state.lock().polling.close();
        self.line.poll.notify_one();
        self.line.post.notify_one();
        let (lines, sid) = (self.lines.clone(), std::mem::take(&mut self.sid));
        let forget = async move {
            // Its last words may not have been polled yet.
            tokio::time::sleep(LAST_WORDS).await;
            lines.by_sid.lock().remove(&sid);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(forget);
        }
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // First registered, then looked.
        self.line.session.register(cx.waker());
        if let Some(socket) = self.try_upgraded() {
            return Pin::new(socket).poll_read(cx, buffer);
        }
        match self.try_read(buffer.initialize_unfilled()) {
            Ok(read) => {
                buffer.advance(read);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.session.register(cx.waker());
        if let Some(socket) = self.adopt() {
            return Pin::new(socket).poll_write(cx, bytes);
        }
        match self.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(socket) = self.adopt() {
            return Pin::new(socket).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.upgraded {
            Some(socket) => Pin::new(socket).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(socket) = self.adopt() {
            return Pin::new(socket).poll_shutdown(cx);
        }
        self.line.state.lock().polling.close();
        self.line.poll.notify_one();
        Poll::Ready(Ok(()))
    }
}
