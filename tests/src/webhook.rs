//! A receiver of alarms, which takes them or does not, and keeps what it was sent.

use std::net::SocketAddr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One try of somebody to deliver something.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Status line and headers.
    pub head: String,
    /// The body as it came.
    pub body: String,
    /// Whether it was answered that it is taken.
    pub taken: bool,
}

impl Delivery {
    /// A header; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
            .unwrap_or_default()
    }

    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Whether who has the secret has signed it.
    #[must_use]
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
        mac.update(self.header("X-Tickmesh-Timestamp").as_bytes());
        mac.update(b".");
        mac.update(self.body.as_bytes());
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        self.header("X-Tickmesh-Signature") == format!("sha256={hex}")
    }
}

#[derive(Default)]
struct Kept {
    deliveries: Vec<Delivery>,
    /// Tries that are not taken: `usize::MAX` for all.
    failures: usize,
}

/// The receiver. It ends when it is dropped.
pub struct Webhook {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

impl Webhook {
    /// Starts one on a free port, that does not take the first so many tries.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(failures: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let kept = Arc::new(Mutex::new(Kept { failures, ..Kept::default() }));
        let all = kept.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, all.clone()));
            }
        });
        Self { address, kept, task }
    }

    /// Where alarms go.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/alarms?from=tickmesh", self.address)
    }

    /// The next so many tries are not taken.
    pub fn fail(&self, failures: usize) {
        self.kept.lock().failures = failures;
    }

    /// All tries so far.
    #[must_use]
    pub fn tries(&self) -> Vec<Delivery> {
        self.kept.lock().deliveries.clone()
    }

    /// Those that were taken, as id of the alarm and its state.
    #[must_use]
    pub fn taken(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tries = self.tries().into_iter().filter(|one| one.taken).map(|one| one.json());
        tries.map(|alarm| (text(&alarm["id"]), text(&alarm["state"]))).collect()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Kept>>) {
    let mut input = Vec::new();
    loop {
        let mut part = [0; 4_096];
        let read = stream.read(&mut part).await.unwrap_or(0);
        input.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&input).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase();
            let length =
                length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                let (head, body) = (head.to_owned(), body.to_owned());
                let taken = {
                    let mut kept = kept.lock();
                    let taken = kept.failures == 0;
                    if !taken && kept.failures < usize::MAX {
                        kept.failures -= 1;
                    }
                    kept.deliveries.push(Delivery { head, body, taken });
                    taken
                };
                let status = if taken { "204 No Content" } else { "500 Internal Server Error" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
        }
        if read == 0 {
            return;
        }
    }
}
