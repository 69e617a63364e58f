//! One WebSocket connection, driven by polling: whoever owns it decides what to send and when to stop. It takes and gives
//! the native protocol's messages, whatever is spoken on the wire.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, BytesMut};
use sha1::Digest as _;
use tickmesh_protocol::frame::{self, FrameError, Opcode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::clock::Clock;
use crate::dialect::{self, Heard, Proto};
use crate::inbox::{Inbox, Incoming};

/// Opening a connection may take this long.
pub(crate) const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// One read takes at most this.
const READ_SIZE: usize = 64 * 1024;
/// Longest head of an answer.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// RFC 6455 §1.3.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

thread_local! {
    /// Reads of all connections of a thread go here: thousands of buffers of their own would cost more in cache
    /// misses than the reads.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where to connect.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    host: String,
    path: String,
    token: Option<String>,
    proto: Proto,
}

impl Target {
    /// Takes apart `ws://host:port[/path][?query]` (or `http://`) and resolves the host. The path defaults to that of the
    /// protocol.
    pub(crate) async fn resolve(
        url: &str,
        token: Option<&str>,
        batch: bool,
        proto: Proto,
    ) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://")) else {
            bail!("unusable url {url:?}: only ws:// and http:// are supported");
        };
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let mut path = match path {
            "" | "/" => proto.default_path().to_owned(),
            query if query.starts_with('?') && proto == Proto::Native => format!("/ws{query}"),
            path => path.to_owned(),
        };
        if batch && proto == Proto::Native {
            path.push_str(if path.contains('?') { "&batch=1" } else { "?batch=1" });
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { host.to_owned() } else { format!("{host}:80") };
        let addr = tokio::net::lookup_host(&authority)
            .await
            .with_context(|| format!("cannot resolve {authority}"))?
            .next()
            .with_context(|| format!("{authority} has no address"))?;
        Ok(Self { addr, host: host.to_owned(), path, token: token.map(str::to_owned), proto })
    }

    fn upgrade_request(&self, key: &str) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{}\r\n",
            self.path,
            self.host,
            self.authorization()
        )
    }

    /// A `GET` of a path of the HTTP API, after which the connection ends.
    pub(crate) fn get_head(&self, path: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\r\n",
            self.host,
            self.authorization()
        )
    }

    /// Head of a `POST` of JSON to a path of the HTTP API, without `Content-Length` and the empty line.
    pub(crate) fn post_head(&self, path: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{}",
            self.host,
            self.authorization()
        )
    }

    fn authorization(&self) -> String {
        self.token.as_ref().map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default()
    }

    /// Connects. `receive_buffer` bounds the kernel's receive buffer, in bytes.
    pub(crate) async fn dial(&self, receive_buffer: Option<u32>) -> Result<TcpStream, OpenError> {
        let socket = if self.addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(OpenError::Connect)?;
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size).map_err(OpenError::Connect)?;
        }
        let stream = socket.connect(self.addr).await.map_err(OpenError::Connect)?;
        stream.set_nodelay(true).map_err(OpenError::Connect)?;
        Ok(stream)
    }
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("connection lost during the upgrade: {0}")]
    Lost(io::Error),
    #[error("upgrade refused with HTTP status {0}")]
    Refused(u16),
    #[error("upgrade answered wrongly: {0}")]
    BadAnswer(&'static str),
    #[error("not open after {} s", OPEN_DEADLINE.as_secs())]
    Timeout,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    #[error("close {0}")]
    Code(u16),
    #[error("close without a code")]
    NoCode,
    #[error("end of stream")]
    Eof,
    #[error("{0}")]
    Io(io::ErrorKind),
    #[error("broken frame: {0}")]
    Frame(FrameError),
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: BytesMut,
    key: u32,
    proto: Proto,
    /// Messages so far, and room for the next one's packet.
    said: u64,
    packet: Vec<u8>,
}

impl Outgoing {
    /// Queues a native text message.
    pub(crate) fn text(&mut self, payload: &[u8]) {
        match self.proto {
            Proto::Native => self.frame(Opcode::Text, payload),
            Proto::Socketio => {
                let mut packet = std::mem::take(&mut self.packet);
                dialect::say(payload, self.said, &mut packet);
                self.said += 1;
                self.frame(Opcode::Text, &packet);
                self.packet = packet;
            }
        }
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        // Masks exist against confused proxies; between this client and a server under test any key will do.
        self.key = self.key.wrapping_mul(0x9E37_79B1).wrapping_add(0x7F4A_7C15);
        frame::put_masked(&mut self.bytes, opcode, payload, self.key.to_ne_bytes());
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    clock: Clock,
    inbox: Inbox,
    /// The inbox holds bytes that nobody has looked at.
    unseen: bool,
    out: Outgoing,
    write_failed: bool,
    close_code: Option<Closed>,
    /// Whether requests are taken yet; with Socket.IO, what came of the wish to enter the namespace.
    entered: Option<bool>,
}

impl Connection {
    /// Connects and upgrades. `receive_buffer` bounds the kernel's receive buffer, in bytes.
    pub(crate) async fn open(
        target: &Target,
        clock: Clock,
        receive_buffer: Option<u32>,
    ) -> Result<Self, OpenError> {
        tokio::time::timeout(OPEN_DEADLINE, Self::open_unbounded(target, clock, receive_buffer))
            .await
            .unwrap_or(Err(OpenError::Timeout))
    }

    async fn open_unbounded(
        target: &Target,
        clock: Clock,
        receive_buffer: Option<u32>,
    ) -> Result<Self, OpenError> {
        let mut stream = target.dial(receive_buffer).await?;
        let key = BASE64.encode(rand::random::<[u8; 16]>());
        stream.write_all(target.upgrade_request(&key).as_bytes()).await.map_err(OpenError::Lost)?;
        let mut head = Vec::with_capacity(1024);
        let head_len = loop {
            if let Some(len) = check_upgrade(&head, &key)? {
                break len;
            }
            if head.len() > MAX_HEAD {
                return Err(OpenError::BadAnswer("endless head"));
            }
            if stream.read_buf(&mut head).await.map_err(OpenError::Lost)? == 0 {
                return Err(OpenError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let mut inbox = Inbox::default();
        inbox.keep(&head[head_len..]);
        let out = Outgoing { key: rand::random(), proto: target.proto, ..Outgoing::default() };
        let entered = (target.proto == Proto::Native).then_some(true);
        let mut connection =
            Self { stream, clock, inbox, unseen: true, out, write_failed: false, close_code: None, entered };
        while connection.entered.is_none() {
            let ended = poll_fn(|cx| match connection.poll_io(cx, |_, _, _| {}) {
                Poll::Ready(closed) => Poll::Ready(Some(closed)),
                Poll::Pending if connection.entered.is_some() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if ended.await.is_some() {
                return Err(OpenError::BadAnswer("closed before the namespace was entered"));
            }
        }
        if connection.entered == Some(false) {
            return Err(OpenError::BadAnswer("the namespace may not be entered"));
        }
        Ok(connection)
    }

    /// The socket's own address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The server's address.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// What is to be written with the next poll.
    pub(crate) fn out(&mut self) -> &mut Outgoing {
        &mut self.out
    }

    /// Writes what is queued and reads what is there, until neither goes on. Every message is handed to `on_message`
    /// with the time of its read in nanoseconds of the run's clock, and a queue for what is to be said in return.
    /// Ready when the connection has ended.
    pub(crate) fn poll_io(
        &mut self,
        cx: &mut Context<'_>,
        mut on_message: impl FnMut(&[u8], u64, &mut Outgoing),
    ) -> Poll<Closed> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            loop {
                self.flush(cx);
                match ready!(self.poll_read(cx, buffer, &mut on_message)) {
                    Ok(()) => {}
                    Err(closed) => return Poll::Ready(closed),
                }
            }
        })
    }

    /// Takes one byte off the socket, as the slowest of readers would. `None` if there is none now.
    pub(crate) fn trickle(&mut self) -> Option<Result<(), Closed>> {
        let mut byte = [0];
        match self.stream.try_read(&mut byte) {
            Ok(0) => Some(Err(Closed::Eof)),
            Ok(_) => {
                self.inbox.keep(&byte);
                self.unseen = true;
                Some(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(Closed::Io(error.kind()))),
        }
    }

    /// Reads at most so many bytes, as a reader with a narrow link would, and hands every message that they complete to
    /// `on_message`. What is to be written is written as far as the socket takes it.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) fn sip(&mut self, bytes: usize, mut on_message: impl FnMut(&[u8])) -> Result<(), Closed> {
        let mut left = bytes;
        READ_BUFFER.with_borrow_mut(|buffer| {
            while left > 0 {
                let held = self.inbox.partial().len();
                if buffer.len() < held + READ_SIZE {
                    buffer.resize(held + READ_SIZE, 0);
                }
                buffer[..held].copy_from_slice(self.inbox.partial());
                let filled = if std::mem::take(&mut self.unseen) {
                    held
                } else {
                    match self.stream.try_read(&mut buffer[held..held + READ_SIZE.min(left)]) {
                        Ok(0) => return Err(Closed::Eof),
                        Ok(read) => {
                            left -= read;
                            held + read
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(Closed::Io(error.kind())),
                    }
                };
                self.hear(&buffer[..filled], &mut |text, _, _| on_message(text))?;
            }
            while !self.out.bytes.is_empty() {
                match self.stream.try_write(&self.out.bytes) {
                    Ok(written) => self.out.bytes.advance(written),
                    Err(_) => break,
                }
            }
            Ok(())
        })
    }

    /// Writes as much as the socket takes. A failure is not the end: the server's last words may still be unread.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while !self.out.bytes.is_empty() && !self.write_failed {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out.bytes) {
                Poll::Ready(Ok(n)) => self.out.bytes.advance(n),
                Poll::Ready(Err(_)) => self.write_failed = true,
                Poll::Pending => return,
            }
        }
        if self.write_failed {
            self.out.bytes.clear();
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        on_message: &mut impl FnMut(&[u8], u64, &mut Outgoing),
    ) -> Poll<Result<(), Closed>> {
        // The start of an incomplete frame goes in front of the bytes that complete it.
        let held = self.inbox.partial().len();
        if buffer.len() < held + READ_SIZE {
            buffer.resize(held + READ_SIZE, 0);
        }
        buffer[..held].copy_from_slice(self.inbox.partial());
        let filled = if std::mem::take(&mut self.unseen) {
            held
        } else {
            let mut free = ReadBuf::new(&mut buffer[held..held + READ_SIZE]);
            // This read, unlike `try_read`, knows from a short count that the socket is drained, and saves a
            // system call per wake-up.
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut free)) {
                Ok(()) if free.filled().is_empty() => {
                    return Poll::Ready(Err(self.close_code.take().unwrap_or(Closed::Eof)));
                }
                Ok(()) => held + free.filled().len(),
                Err(error) => {
                    let closed = self.close_code.take().unwrap_or(Closed::Io(error.kind()));
                    return Poll::Ready(Err(closed));
                }
            }
        };
        Poll::Ready(self.hear(&buffer[..filled], on_message))
    }

    /// Takes in what stands in front of what was read, and that.
    fn hear(
        &mut self,
        bytes: &[u8],
        on_message: &mut impl FnMut(&[u8], u64, &mut Outgoing),
    ) -> Result<(), Closed> {
        let now = self.clock.now_ns();
        let (out, close_code, entered) = (&mut self.out, &mut self.close_code, &mut self.entered);
        let fed = self.inbox.feed(bytes, |incoming| match incoming {
            Incoming::Message(text) if out.proto == Proto::Native => on_message(text, now, out),
            Incoming::Message(packet) => match dialect::hear(packet) {
                Heard::Message(text) => on_message(&text, now, out),
                Heard::Answer(packet) => out.frame(Opcode::Text, packet),
                Heard::Entered => *entered = Some(true),
                Heard::Refused => *entered = Some(false),
                Heard::Nothing => {}
            },
            Incoming::Ping(payload) => out.frame(Opcode::Pong, payload),
            Incoming::Close(code) => *close_code = Some(code.map_or(Closed::NoCode, Closed::Code)),
        });
        if let Err(error) = fed {
            return Err(Closed::Frame(error));
        }
        // The closing handshake is not played to its end: what counts has been said.
        self.close_code.take().map_or(Ok(()), Err)
    }
}

/// Length of the answer's head once it is complete and agrees to the upgrade.
fn check_upgrade(head: &[u8], key: &str) -> Result<Option<usize>, OpenError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(status) = response.parse(head) else { return Err(OpenError::BadAnswer("not HTTP")) };
    let httparse::Status::Complete(len) = status else { return Ok(None) };
    match response.code {
        Some(101) => {}
        code => return Err(OpenError::Refused(code.unwrap_or(0))),
    }
    let accept = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if accept.is_none_or(|header| header.value != accept_key(key.as_bytes()).as_bytes()) {
        return Err(OpenError::BadAnswer("wrong Sec-WebSocket-Accept"));
    }
    Ok(Some(len))
}

/// The proof that a server understood the upgrade (RFC 6455 §4.2.2).
pub(crate) fn accept_key(key: &[u8]) -> String {
    let hash = sha1::Sha1::new().chain_update(key).chain_update(ACCEPT_SUFFIX).finalize();
    BASE64.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_standard() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_upgrade_is_checked() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nrest";
        assert_eq!(check_upgrade(good.as_bytes(), key).unwrap(), Some(good.len() - 4));
        assert_eq!(check_upgrade(&good.as_bytes()[..60], key).unwrap(), None);
        let other = check_upgrade(good.as_bytes(), "AAAAAAAAAAAAAAAAAAAAAA==");
        assert!(matches!(other, Err(OpenError::BadAnswer(_))));
        let refused = check_upgrade(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", key);
        assert!(matches!(refused, Err(OpenError::Refused(503))));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn urls_are_taken_apart() {
        let plain = Target::resolve("ws://127.0.0.1:8080", None, false, Proto::Native).await.unwrap();
        assert_eq!((plain.addr.port(), plain.path.as_str()), (8080, "/ws"));
        let batch = Target::resolve("http://127.0.0.1/live?x=1", None, true, Proto::Native).await.unwrap();
        assert_eq!((batch.addr.port(), batch.path.as_str()), (80, "/live?x=1&batch=1"));
        let v6 = Target::resolve("ws://[::1]:9000?x=1", None, true, Proto::Native).await.unwrap();
        assert_eq!((v6.addr.to_string().as_str(), v6.path.as_str()), ("[::1]:9000", "/ws?x=1&batch=1"));
        let socketio = Target::resolve("ws://127.0.0.1:1", None, true, Proto::Socketio).await.unwrap();
        assert_eq!(socketio.path, "/socket.io/?EIO=4&transport=websocket");
        assert!(Target::resolve("wss://127.0.0.1:1", None, false, Proto::Native).await.is_err());
    }
}
