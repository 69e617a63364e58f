//! A socket for bytes that no WebSocket library would send, and for clients that do not read.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tickmesh_protocol::frame::{Opcode, decode_header, parse_close, put_masked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::DEADLINE;

/// An upgraded connection without a library.
pub struct RawClient {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl RawClient {
    /// Connects and upgrades. `receive_buffer` bounds what the kernel takes in for a client that does not read.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn connect(address: SocketAddr, receive_buffer: Option<usize>) -> Self {
        let mut stream = Self::tcp(address, receive_buffer).await;
        let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap_or_else(|error| panic!("{error}"));
        let mut unread = Vec::new();
        let end = loop {
            if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            let mut byte = [0];
            let read = timeout(DEADLINE, stream.read_exact(&mut byte)).await;
            assert!(matches!(read, Ok(Ok(_))), "no handshake");
            unread.push(byte[0]);
        };
        let head = String::from_utf8_lossy(&unread[..end]).into_owned();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        // RFC 6455 §1.3 gives the answer to this key.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        unread.drain(..end);
        Self { stream, unread }
    }

    /// A plain connection.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn tcp(address: SocketAddr, receive_buffer: Option<usize>) -> TcpStream {
        let connect = move || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            if let Some(bytes) = receive_buffer {
                socket.set_recv_buffer_size(bytes)?;
            }
            socket.connect(&address.into())?;
            socket.set_nonblocking(true)?;
            TcpStream::from_std(socket.into())
        };
        connect().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends bytes. The server may close before it has taken all.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(DEADLINE, self.stream.write_all(bytes)).await;
    }

    /// Sends text in a masked frame.
    pub async fn send_text(&mut self, text: &str) {
        let mut frame = Default::default();
        put_masked(&mut frame, Opcode::Text, text.as_bytes(), [1, 2, 3, 4]);
        self.send(&frame).await;
    }

    /// The next frame; `None` when the connection is over.
    ///
    /// # Panics
    /// When none comes.
    pub async fn frame(&mut self) -> Option<(Opcode, Vec<u8>)> {
        loop {
            if let Ok(Some(header)) = decode_header(&self.unread) {
                let end = header.header_len + header.payload_len as usize;
                if self.unread.len() >= end {
                    let payload = self.unread[header.header_len..end].to_vec();
                    self.unread.drain(..end);
                    return Some((header.opcode, payload));
                }
            }
            let mut buffer = vec![0; 16_384];
            let read = timeout(DEADLINE, self.stream.read(&mut buffer)).await;
            match read.unwrap_or_else(|_| panic!("nothing came for {DEADLINE:?}")) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Reads on until the end, and gives the close code if one came.
    ///
    /// # Panics
    /// When the server breaks the protocol.
    pub async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((opcode, payload)) = self.frame().await {
            assert!(code.is_none(), "a frame after the close frame");
            if opcode == Opcode::Close {
                code = parse_close(&payload).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        code
    }

    /// Reads one byte, if there is one.
    pub async fn trickle(&mut self) -> bool {
        let mut byte = [0];
        matches!(timeout(DEADLINE, self.stream.read(&mut byte)).await, Ok(Ok(1)))
    }
}
