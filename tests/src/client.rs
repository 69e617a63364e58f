//! A client that trusts nothing: it checks promise 1 on every message.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{self, Error};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async, connect_async_tls_with_config,
};

use crate::DEADLINE;

/// A connected client. Every receive has a deadline; what breaks the order panics.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    msgpack: bool,
    next_id: u64,
    rooms: HashMap<String, Followed>,
    /// Received while something else was waited for.
    held: VecDeque<Value>,
    /// `data` of the `connected` notification.
    pub hello: Value,
}

/// What a client knows of a room it follows.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// The log's life.
    pub epoch: String,
    /// The newest message received.
    pub seq: u64,
    /// Where the subscription began, or began anew.
    pub start: u64,
    /// `delivery: "latest"`.
    pub latest: bool,
    /// Sum of `1 + conflated`.
    pub sum: u64,
    /// How often the room was said to go on elsewhere.
    pub resyncs: u64,
    /// `data` of everything received, history included.
    pub received: Vec<(u64, Value)>,
}

impl Client {
    /// Connects with a query such as `?batch=1`.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn connect(address: SocketAddr, query: &str) -> Self {
        let request = format!("ws://{address}/ws{query}").into_client_request();
        Self::with(request.unwrap_or_else(|error| panic!("{error}")), false).await
    }

    /// Connects with MessagePack.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn msgpack(address: SocketAddr) -> Self {
        let request = format!("ws://{address}/ws").into_client_request();
        let mut request = request.unwrap_or_else(|error| panic!("{error}"));
        let protocol = tungstenite::http::HeaderValue::from_static("tickmesh.msgpack.v1");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        Self::with(request, true).await
    }

    /// Connects by TLS.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn tls(address: SocketAddr, trust: Arc<ClientConfig>) -> Self {
        let connecting = connect_async_tls_with_config(
            format!("wss://{address}/ws"),
            None,
            true,
            Some(Connector::Rustls(trust)),
        );
        let connected = timeout(DEADLINE, connecting).await.unwrap_or_else(|_| panic!("no handshake"));
        let (socket, _) = connected.unwrap_or_else(|error| panic!("not let in: {error}"));
        Self::greeted(socket, false).await
    }

    async fn with(request: tungstenite::http::Request<()>, msgpack: bool) -> Self {
        let connected =
            timeout(DEADLINE, connect_async(request)).await.unwrap_or_else(|_| panic!("no handshake"));
        let (socket, _) = connected.unwrap_or_else(|error| panic!("not let in: {error}"));
        Self::greeted(socket, msgpack).await
    }

    async fn greeted(socket: WebSocketStream<MaybeTlsStream<TcpStream>>, msgpack: bool) -> Self {
        let (rooms, held) = Default::default();
        let mut client = Self { socket, msgpack, next_id: 0, rooms, held, hello: Value::Null };
        let hello = client.next().await;
        assert_eq!(hello["event"], "connected", "{hello}");
        client.hello = hello["data"].clone();
        client
    }

    /// Tries to connect; the HTTP status or the close code if it is not let in.
    ///
    /// # Errors
    /// The status or code.
    pub async fn try_connect(
        address: SocketAddr,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let request = format!("ws://{address}/ws{query}").into_client_request();
        let mut request = request.unwrap_or_else(|error| panic!("{error}"));
        for (name, value) in headers {
            let value = value.parse().unwrap_or_else(|error| panic!("{error}"));
            request.headers_mut().insert(*name, value);
        }
        let connected =
            timeout(DEADLINE, connect_async(request)).await.unwrap_or_else(|_| panic!("no handshake"));
        let socket = match connected {
            Ok((socket, _)) => socket,
            Err(Error::Http(response)) => return Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        };
        let (rooms, held) = Default::default();
        let mut client = Self { socket, msgpack: false, next_id: 0, rooms, held, hello: Value::Null };
        match client.read().await {
            Ok(hello) if hello["event"] == "connected" => {
                client.hello = hello["data"].clone();
                Ok(client)
            }
            Ok(_) => Err(client.closed().await),
            Err(code) => Err(code),
        }
    }

    /// Sends any JSON.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn send(&mut self, message: &Value) {
        let message = if self.msgpack {
            Message::binary(rmp_serde::to_vec(message).unwrap_or_else(|error| panic!("{error}")))
        } else {
            Message::text(message.to_string())
        };
        self.socket.send(message).await.unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends any JSON, and says whether the connection took it.
    pub async fn try_send(&mut self, message: &Value) -> bool {
        self.socket.send(Message::text(message.to_string())).await.is_ok()
    }

    /// Sends text as it is.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends a message with a new `request_id`, and gives its answer.
    pub async fn ask(&mut self, mut message: Value) -> Value {
        self.next_id += 1;
        let id = format!("r{}", self.next_id);
        message["request_id"] = id.clone().into();
        self.send(&message).await;
        self.answer(&id).await
    }

    /// Waits for the answer to a request; what else comes is kept for [`next`](Self::next).
    ///
    /// # Panics
    /// When none comes.
    pub async fn answer(&mut self, id: &str) -> Value {
        let mut others = VecDeque::new();
        loop {
            let message = self.next().await;
            if message["request_id"] == id {
                others.append(&mut self.held);
                self.held = others;
                return message;
            }
            others.push_back(message);
        }
    }

    /// A `request`.
    pub async fn request(&mut self, action: &str, payload: Value) -> Value {
        self.ask(json!({"type": "request", "action": action, "payload": payload})).await
    }

    /// Subscribes with further options.
    pub async fn try_subscribe(&mut self, room: &str, options: Value) -> Value {
        let mut message = json!({"type": "subscribe", "room": room});
        for (name, value) in options.as_object().into_iter().flatten() {
            message[name] = value.clone();
        }
        let latest = options["delivery"] == "latest";
        self.rooms.insert(room.to_owned(), Followed { latest, ..Followed::default() });
        self.ask(message).await
    }

    /// Subscribes, and gives the `data` of the response.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn subscribe(&mut self, room: &str, options: Value) -> Value {
        let answer = self.try_subscribe(room, options).await;
        assert_eq!(answer["success"], true, "{answer}");
        answer["data"].clone()
    }

    /// What is known of a followed room.
    #[must_use]
    pub fn room(&self, room: &str) -> Followed {
        self.rooms.get(room).cloned().unwrap_or_default()
    }

    /// Reads until a room has reached a sequence number.
    pub async fn read_until(&mut self, room: &str, seq: u64) {
        self.held.clear();
        while self.rooms.get(room).is_none_or(|followed| followed.seq < seq) {
            self.next_from_socket().await;
        }
    }

    /// Reads until a message with the text `end` has come in a room.
    pub async fn read_to_end(&mut self, room: &str) {
        self.held.clear();
        let ended =
            |followed: &Followed| followed.received.last().is_some_and(|(_, data)| data["text"] == "end");
        while !self.rooms.get(room).is_some_and(ended) {
            self.next_from_socket().await;
        }
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes, or the connection is closed.
    pub async fn next(&mut self) -> Value {
        match self.held.pop_front() {
            Some(message) => message,
            None => self.next_from_socket().await,
        }
    }

    /// The next message, or the close code.
    ///
    /// # Errors
    /// When the connection is closed; 1006 where that came without a word.
    pub async fn try_next(&mut self) -> Result<Value, u16> {
        match self.held.pop_front() {
            Some(message) => Ok(message),
            None => self.read().await,
        }
    }

    async fn next_from_socket(&mut self) -> Value {
        self.read().await.unwrap_or_else(|code| panic!("closed with {code}"))
    }

    /// Reads on until the server closes, and gives the code.
    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.read().await {
                return code;
            }
        }
    }

    /// The next message; the first of an array, whose others are kept.
    async fn read(&mut self) -> Result<Value, u16> {
        loop {
            let received = timeout(DEADLINE, self.socket.next()).await;
            let message = match received.unwrap_or_else(|_| panic!("nothing came for {DEADLINE:?}")) {
                Some(Ok(Message::Text(text))) => {
                    assert!(!self.msgpack, "text on a MessagePack connection");
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
                }
                Some(Ok(Message::Binary(bytes))) => {
                    assert!(self.msgpack, "binary on a JSON connection");
                    rmp_serde::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}"))
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(1005, |frame| frame.code.into())),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Err(1006),
            };
            match message {
                Value::Array(messages) => {
                    let mut messages = messages.into_iter();
                    let first = messages.next().unwrap_or_else(|| panic!("an empty array"));
                    self.check(&first);
                    for message in messages {
                        self.check(&message);
                        self.held.push_back(message);
                    }
                    return Ok(first);
                }
                message => {
                    self.check(&message);
                    return Ok(message);
                }
            }
        }
    }

    /// Promise 1.
    fn check(&mut self, message: &Value) {
        if message["type"] == "response"
            && message["data"]["messages"].is_array()
            && message["data"]["epoch"].is_string()
        {
            return self.begin(&message["data"]);
        }
        if message["type"] != "notification" || message["room"] == "" {
            return;
        }
        let name = message["room"].as_str().unwrap_or_default();
        // A notice for the user, whose room this session does not follow.
        if name.starts_with("user_") && !self.rooms.contains_key(name) {
            return;
        }
        let seq = message["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {message}"));
        let room = self.rooms.get_mut(name).unwrap_or_else(|| panic!("never subscribed: {message}"));
        if message["event"] == "resync" {
            room.epoch = message["data"]["epoch"].as_str().unwrap_or_default().to_owned();
            room.seq = message["data"]["seq"].as_u64().unwrap_or_default();
            (room.start, room.sum) = (room.seq, 0);
            room.resyncs += 1;
            return;
        }
        if room.latest {
            assert!(seq > room.seq, "{name}: {seq} after {}", room.seq);
        } else {
            assert_eq!(seq, room.seq + 1, "{name}: {seq} after {}", room.seq);
            assert!(message["conflated"].is_null(), "{message}");
        }
        room.sum += 1 + message["conflated"].as_u64().unwrap_or(0);
        room.seq = seq;
        room.received.push((seq, message["data"].clone()));
    }

    fn begin(&mut self, data: &Value) {
        let name = data["room"].as_str().unwrap_or_default();
        let Some(room) = self.rooms.get_mut(name) else { return };
        // Answers to `history` look alike, but say nothing of recovery.
        if !data["recovered"].is_boolean() {
            return;
        }
        let end = data["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {data}"));
        let messages = data["messages"].as_array().cloned().unwrap_or_default();
        for (n, message) in messages.iter().enumerate() {
            let expected = end + 1 + n as u64 - messages.len() as u64;
            assert_eq!(message["seq"], expected, "history is in order and ends at seq");
            room.received.push((expected, message["data"].clone()));
        }
        room.epoch = data["epoch"].as_str().unwrap_or_default().to_owned();
        (room.seq, room.start, room.sum) = (end, end, 0);
    }
}
