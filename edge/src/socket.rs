//! A connection, in the clear or under TLS, behind one type.
//!
//! It can be used like any stream, or by readiness: wait until it is readable or writable, then take or give what it can at
//! once. Under TLS, bytes that were given may still wait inside it: [`Socket::try_flush`] tells.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tickmesh_cluster::config::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::held::Held;

/// How long a client may take nothing of what waits for it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Mostly.
    usual: Duration,
    /// With one that follows rooms, all of them as `latest`.
    latest: Duration,
}

impl Patience {
    /// As configured.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Self {
        let usual = Duration::from_millis(config.tcp_user_timeout_ms);
        Self { usual, latest: usual.max(Duration::from_millis(config.latest_timeout_ms)) }
    }

    /// With a client of which it is known whether it follows rooms and all of them as `latest`.
    #[must_use]
    pub fn with(&self, only_latest: bool) -> Duration {
        if only_latest { self.latest } else { self.usual }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub enum Socket {
    /// In the clear.
    Tcp(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// Requests of a client that polls, and the WebSocket that it may upgrade to.
    Held(Box<Held>),
}

impl Socket {
    /// Whether it is made of requests, and of no WebSocket yet.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.tcp().is_none()
    }

    /// Goes by what is known of the client now, see [`Patience`].
    ///
    /// A peer whose window is small and mostly shut reads on, but to Linux it is one that has been probed since the window was
    /// shut for the first time, and `TCP_USER_TIMEOUT` ends it in the midst of its reading. So for those that may read slowly
    /// there is none: who takes nothing, or answers no ping, is seen without it.
    pub fn set_patience(&self, patience: Patience, only_latest: bool) {
        if let Some(stream) = self.tcp() {
            let system = (!only_latest).then_some(patience.usual);
            // A system that cannot serves without it.
            let _ = SockRef::from(stream).set_tcp_user_timeout(system);
        }
    }

    /// The connection underneath; none while it is made of requests.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Held(held) => held.upgraded().and_then(Self::tcp),
        }
    }

    /// Waits until [`try_read`](Self::try_read) may give something. What was read with a buffer that it filled may have
    /// left a rest, for which this does not wait: read until the buffer is not filled, with at least 32 KiB.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn readable(&self) -> io::Result<()> {
        match (self, self.tcp()) {
            (Self::Held(held), Some(_)) if held.has_rest() => Ok(()),
            (_, Some(stream)) => stream.readable().await,
            (Self::Held(held), None) => {
                poll_fn(|cx| held.poll_readable(cx)).await;
                Ok(())
            }
            (_, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until [`try_write`](Self::try_write) or [`try_flush`](Self::try_flush) may get something away.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn writable(&self) -> io::Result<()> {
        match (self, self.tcp()) {
            (_, Some(stream)) => stream.writable().await,
            (Self::Held(held), None) => {
                poll_fn(|cx| held.poll_writable(cx)).await;
                Ok(())
            }
            (_, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or when the connection is lost.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(into),
            Self::Tls(stream) => {
                let mut buffer = ReadBuf::new(into);
                // Whoever reads so waits with `readable`, which this waker does not replace.
                now(
                    Pin::new(stream.as_mut()).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer)
                )?;
                Ok(buffer.filled().len())
            }
            Self::Held(held) => match held.try_upgraded() {
                Some(socket) => socket.try_read(into),
                None => held.try_read(into),
            },
        }
    }

    /// Gives as many bytes as are taken at once.
    ///
    /// # Errors
    /// `WouldBlock` when none are, or when the connection is lost.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Tls(stream) => {
                now(Pin::new(stream.as_mut()).poll_write(&mut Context::from_waker(Waker::noop()), bytes))
            }
            Self::Held(held) => match held.adopt() {
                Some(socket) => socket.try_write(bytes),
                None => held.try_write(bytes),
            },
        }
    }

    /// Gets away what was given and still waits inside.
    ///
    /// # Errors
    /// `WouldBlock` when some of it still waits, or when the connection is lost.
    pub fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Held(held) => held.adopt().map_or(Ok(()), Self::try_flush),
            Self::Tls(stream) => {
                now(Pin::new(stream.as_mut()).poll_flush(&mut Context::from_waker(Waker::noop())))
            }
        }
    }
}

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
            Self::Held(held) => Pin::new(held.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            Self::Held(held) => Pin::new(held.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
            Self::Held(held) => Pin::new(held.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Held(held) => held.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Held(held) => Pin::new(held.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Held(held) => Pin::new(held.as_mut()).poll_shutdown(cx),
        }
    }
}
