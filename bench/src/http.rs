//! One keep-alive HTTP/1.1 connection that sends a request and waits for its answer: just enough for a JSON API.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Closed, MAX_HEAD, OPEN_DEADLINE, OpenError, Target};

/// Longest body of an answer.
const MAX_BODY: usize = 64 << 20;

/// Why there will be no more answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("answered wrongly: {0}")]
    BadAnswer(&'static str),
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        Self::Closed(Closed::Io(error.kind()))
    }
}

/// An open connection that posts to one path.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    stream: TcpStream,
    head: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    len: usize,
    body_len: usize,
}

impl HttpConnection {
    pub(crate) async fn open(target: &Target, path: &str) -> Result<Self, OpenError> {
        let dialled = tokio::time::timeout(OPEN_DEADLINE, target.dial(None)).await;
        let stream = dialled.unwrap_or(Err(OpenError::Timeout))?;
        Ok(Self { stream, head: target.post_head(path), request: Vec::new(), answer: Vec::new() })
    }

    /// Posts a body, in one write as far as the socket takes it. Returns the status and the body of the answer.
    pub(crate) async fn post(&mut self, body: &[u8]) -> Result<(u16, &[u8]), HttpError> {
        self.request.clear();
        self.request.extend_from_slice(self.head.as_bytes());
        self.request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;

        self.answer.clear();
        let head = loop {
            if let Some(head) = parse_head(&self.answer)? {
                break head;
            }
            if self.answer.len() > MAX_HEAD {
                return Err(HttpError::BadAnswer("endless head"));
            }
            self.read().await?;
        };
        let end = head.len + head.body_len;
        while self.answer.len() < end {
            self.read().await?;
        }
        if self.answer.len() > end {
            return Err(HttpError::BadAnswer("more than was asked for"));
        }
        Ok((head.status, &self.answer[head.len..]))
    }

    async fn read(&mut self) -> Result<(), HttpError> {
        // Small answers are the rule; long ones double this.
        self.answer.reserve(4096);
        match self.stream.read_buf(&mut self.answer).await? {
            0 => Err(Closed::Eof.into()),
            _ => Ok(()),
        }
    }
}

/// The head of an answer once it is complete. The body has to have a length.
fn parse_head(answer: &[u8]) -> Result<Option<Head>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(parsed) = response.parse(answer) else { return Err(HttpError::BadAnswer("not HTTP")) };
    let (httparse::Status::Complete(len), Some(status)) = (parsed, response.code) else { return Ok(None) };
    let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let body_len = length
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok())
        .filter(|len| *len <= MAX_BODY)
        .ok_or(HttpError::BadAnswer("no usable Content-Length"))?;
    Ok(Some(Head { status, len, body_len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_needs_a_length() {
        let good = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-type: application/json\r\n\r\n";
        let head = Head { status: 200, len: good.len(), body_len: 4 };
        assert_eq!(parse_head(format!("{good}[1,").as_bytes()).unwrap(), Some(head));
        assert_eq!(parse_head(&good.as_bytes()[..30]).unwrap(), None);
        let bad = [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", u64::MAX),
            "hello\r\n\r\n".to_owned(),
        ];
        for answer in bad {
            assert!(matches!(parse_head(answer.as_bytes()), Err(HttpError::BadAnswer(_))), "{answer}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_serves_several_requests() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for body in ["{}", "[1,2]"] {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\nping") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                let request = String::from_utf8(request).unwrap();
                assert!(request.starts_with("POST /p HTTP/1.1\r\n"), "{request}");
                assert!(
                    request.contains("\r\nAuthorization: Bearer t\r\nContent-Length: 4\r\n"),
                    "{request}"
                );
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(body.as_bytes()).await.unwrap();
            }
        };
        let client = async {
            let target =
                Target::resolve(&url, Some("t"), false, crate::dialect::Proto::Native).await.unwrap();
            let mut connection = HttpConnection::open(&target, "/p").await.unwrap();
            assert_eq!(connection.post(b"ping").await.unwrap(), (200, b"{}".as_slice()));
            assert_eq!(connection.post(b"ping").await.unwrap(), (200, b"[1,2]".as_slice()));
            assert!(connection.post(b"ping").await.is_err());
        };
        tokio::join!(server, client);
    }
}
