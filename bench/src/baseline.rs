//! `bench baseline`: the bare writer. It speaks just enough of the protocol for `rpc`, `fanout` and `publish`, and does
//! for each delivery one `write` of a frame that was encoded before, and nothing else. What a server costs above it is
//! the server's own doing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tickmesh_protocol::frame::{self, Assembler, Incoming, Opcode};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::client::accept_key;

/// Arguments of `bench baseline`.
#[derive(Debug, clap::Args)]
pub struct BaselineArgs {
    /// Address to listen on, or a port of 127.0.0.1. It is printed at start; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = crate::parse_listen)]
    listen: SocketAddr,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct CannotListen {
    /// The address that was given.
    pub address: SocketAddr,
    /// What the system says.
    pub error: std::io::Error,
}

const READ_SIZE: usize = 64 * 1024;
const MAX_MESSAGE: usize = 1 << 20;
const MAX_HEAD: usize = 16 * 1024;
/// A subscriber that lags by more than this, in bytes, is dropped.
const MAX_BACKLOG: usize = 16 << 20;

#[derive(Default)]
struct Rooms(RefCell<HashMap<String, Room>>);

#[derive(Default)]
struct Room {
    seq: u64,
    subscribers: Vec<Rc<Peer>>,
}

/// The writing side of a connection.
struct Peer {
    write: OwnedWriteHalf,
    /// What the socket did not take.
    backlog: RefCell<BytesMut>,
    /// Wakes the connection's task to write the backlog.
    waker: RefCell<Option<Waker>>,
    failed: Cell<bool>,
}

impl Peer {
    fn send(&self, frame: &[u8]) {
        let mut backlog = self.backlog.borrow_mut();
        let written = if backlog.is_empty() { self.write.try_write(frame).unwrap_or(0) } else { 0 };
        if written < frame.len() {
            backlog.extend_from_slice(&frame[written..]);
            self.failed.set(self.failed.get() || backlog.len() > MAX_BACKLOG);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    fn send_text(&self, text: &str) {
        let mut frame = BytesMut::with_capacity(text.len() + frame::MAX_HEADER_LEN);
        frame::put_frame(&mut frame, Opcode::Text, text.as_bytes());
        self.send(&frame);
    }

    /// Writes the backlog; not ready while there is nothing to do. Ready when the connection is of no more use.
    fn poll_backlog(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut backlog = self.backlog.borrow_mut();
        while !backlog.is_empty() && !self.failed.get() {
            match self.write.try_write(&backlog) {
                Ok(n) => backlog.advance(n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    match self.write.as_ref().poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => self.failed.set(true),
                        Poll::Pending => break,
                    }
                }
                Err(_) => self.failed.set(true),
            }
        }
        if self.failed.get() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Deserialize)]
struct ClientMessage<'a> {
    r#type: &'a str,
    #[serde(default)]
    request_id: &'a str,
    #[serde(default)]
    room: &'a str,
    #[serde(default)]
    action: &'a str,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Publish<'a> {
    room: &'a str,
    event: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

pub(crate) async fn run(args: BaselineArgs) -> anyhow::Result<bool> {
    let cannot = |error| CannotListen { address: args.listen, error };
    let listener = TcpListener::bind(args.listen).await.map_err(cannot)?;
    crate::out::line(listener.local_addr()?);
    serve_all(listener).await;
    Ok(true)
}

/// Serves connections for ever.
pub(crate) async fn serve_all(listener: TcpListener) {
    let rooms = Rc::new(Rooms::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let rooms = rooms.clone();
                tokio::task::spawn_local(async move {
                    // A client that breaks off is its own business.
                    let _ = serve(stream, rooms).await;
                });
            }
            // Out of files, most likely: connections that end make room.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn serve(stream: TcpStream, rooms: Rc<Rooms>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, write) = stream.into_split();
    let peer = Rc::new(Peer {
        write,
        backlog: RefCell::default(),
        waker: RefCell::default(),
        failed: Cell::new(false),
    });
    let mut rest = upgrade(&mut read, &peer).await?;
    peer.send_text(&format!(
        r#"{{"type":"notification","room":"","event":"connected","data":{{"session_id":"0","node_id":"baseline"}},"seq":0,"timestamp":{0},"server_time":{0}}}"#,
        utc_ms()
    ));
    let mut assembler = Assembler::new(MAX_MESSAGE);
    let mut buffer = vec![0; READ_SIZE].into_boxed_slice();
    loop {
        let mut open = true;
        let fed = assembler.feed(&mut rest, |incoming| {
            match incoming {
                Incoming::Text(text) => handle(text, &peer, &rooms),
                Incoming::Close(_) => open = false,
                Incoming::Binary(_) | Incoming::Ping(_) | Incoming::Pong(_) => {}
            }
            true
        });
        if fed.is_err() || !open {
            break;
        }
        let count = poll_fn(|cx| {
            if peer.poll_backlog(cx).is_ready() {
                return Poll::Ready(Ok(0));
            }
            let mut free = ReadBuf::new(&mut buffer);
            Pin::new(&mut read).poll_read(cx, &mut free).map_ok(|()| free.filled().len())
        })
        .await;
        match count {
            Ok(count) if count > 0 => {
                rest.clear();
                rest.extend_from_slice(&buffer[..count]);
            }
            _ => break,
        }
    }
    for room in rooms.0.borrow_mut().values_mut() {
        room.subscribers.retain(|subscriber| !Rc::ptr_eq(subscriber, &peer));
    }
    Ok(())
}

/// Answers the upgrade; returns the bytes after the request.
async fn upgrade(read: &mut OwnedReadHalf, peer: &Peer) -> anyhow::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if read.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD {
            bail!("no upgrade");
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(len) = request.parse(&head)? else { continue };
        let key = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("sec-websocket-key"));
        let Some(key) = key else {
            peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            bail!("no upgrade");
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept_key(key.value)
        );
        peer.send(answer.as_bytes());
        return Ok(head.split_off(len));
    }
}

fn handle(text: &str, peer: &Rc<Peer>, rooms: &Rooms) {
    let now = utc_ms();
    let Ok(message) = serde_json::from_str::<ClientMessage<'_>>(text) else {
        peer.send_text(&format!(
            r#"{{"type":"error","request_id":null,"error_code":"INVALID_MESSAGE_FORMAT","error_message":"not understood","error_details":{{}},"timestamp":{now}}}"#
        ));
        return;
    };
    let data = match (message.r#type, message.action) {
        ("subscribe", _) => {
            let mut rooms = rooms.0.borrow_mut();
            let room = rooms.entry(message.room.to_owned()).or_default();
            room.subscribers.push(peer.clone());
            format!(
                r#"{{"room":"{}","epoch":"0","seq":{},"recovered":false,"messages":[]}}"#,
                message.room, room.seq
            )
        }
        ("request", "echo") => message.payload.map_or("{}", RawValue::get).to_owned(),
        ("request", "publish") => {
            let publish = message.payload.and_then(|payload| serde_json::from_str(payload.get()).ok());
            match publish {
                Some(publish) => format!(r#"{{"seq":{},"epoch":"0"}}"#, deliver(publish, now, rooms)),
                None => return,
            }
        }
        _ => return,
    };
    peer.send_text(&format!(
        r#"{{"type":"response","request_id":"{}","success":true,"data":{data},"timestamp":{now},"server_time":{now}}}"#,
        message.request_id
    ));
}

fn deliver(publish: Publish<'_>, now: u64, rooms: &Rooms) -> u64 {
    let mut rooms = rooms.0.borrow_mut();
    let room = rooms.entry(publish.room.to_owned()).or_default();
    room.seq += 1;
    let text = format!(
        r#"{{"type":"notification","room":"{}","event":"{}","seq":{},"timestamp":{now},"server_time":{now},"data":{}}}"#,
        publish.room,
        publish.event,
        room.seq,
        publish.data.get()
    );
    let mut frame = BytesMut::with_capacity(text.len() + frame::MAX_HEADER_LEN);
    frame::put_frame(&mut frame, Opcode::Text, text.as_bytes());
    for subscriber in &room.subscribers {
        subscriber.send(&frame);
    }
    room.seq
}

fn utc_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
