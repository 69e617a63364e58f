//! Whether there is a server at all where a command was sent.
//!
//! Invariant: within [`PATIENCE`] of its first contact a command knows that nobody answers, and says how to go on. A server
//! that answers is asked exactly what it would have been asked without this: no connection is made to look for it first.
//!
//! It must not know what is asked, nor by which client.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest time until it is known that there is no server.
const PATIENCE: Duration = Duration::from_secs(3);
/// A request that takes longer is looked into: a server that listens accepts at once, however long its answer takes.
const DOUBT: Duration = Duration::from_secs(1);

/// There is no server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "nobody answers at {url} ({reason}): start a server with \"tickmesh dev\", or name one with --via URL"
)]
pub(crate) struct Nobody {
    url: String,
    reason: String,
}

/// Makes the first request to the server at a URL, and returns what became of it. `answered` says of an error that it is the
/// server's own answer.
///
/// # Errors
/// When there is no server. A URL that is none is left to the request.
pub(crate) async fn first<T, E>(
    url: &str,
    request: impl Future<Output = Result<T, E>>,
    answered: impl FnOnce(&E) -> bool,
) -> Result<Result<T, E>, Nobody> {
    let Some((host, port)) = authority(url) else { return Ok(request.await) };
    let nobody = |reason| Nobody { url: url.to_owned(), reason };
    let end = Instant::now() + PATIENCE;
    let addresses = resolve(host, port, end).await.map_err(nobody)?;
    let mut request = pin!(request);
    let failed = match timeout(DOUBT, &mut request).await {
        Ok(Ok(answer)) => return Ok(Ok(answer)),
        Ok(Err(error)) if answered(&error) => return Ok(Err(error)),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    connect(&addresses, end).await.map_err(nobody)?;
    match failed {
        Some(error) => Ok(Err(error)),
        None => Ok(request.await),
    }
}

/// Looks for a server before anything is asked, by a connection that is closed at once.
///
/// # Errors
/// When there is none. A URL that is none is not looked at.
pub(crate) async fn server(url: &str) -> Result<(), Nobody> {
    let Some((host, port)) = authority(url) else { return Ok(()) };
    let end = Instant::now() + PATIENCE;
    let found = async { connect(&resolve(host, port, end).await?, end).await };
    found.await.map_err(|reason| Nobody { url: url.to_owned(), reason })
}

/// Host and port of `scheme://host[:port][/..]`; an address of IPv6 without its brackets.
fn authority(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let usual = match scheme {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => return None,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, usual),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!bare.is_empty()).then_some((bare, port))
}

/// On a thread of its own, for which nobody waits: the system's resolver can take much longer than the time that there is.
async fn resolve(host: &str, port: u16, end: Instant) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (tell, told) = oneshot::channel();
    let name = host.to_owned();
    std::thread::spawn(move || {
        let _ = tell.send((name, port).to_socket_addrs().map(Iterator::collect));
    });
    let resolved: Vec<_> = match timeout_at(end, told).await {
        Ok(Ok(Ok(addresses))) => addresses,
        Ok(_) => Vec::new(),
        Err(_) => return Err(format!("the name is not resolved within {} s", PATIENCE.as_secs())),
    };
    if resolved.is_empty() { Err("the name cannot be resolved".into()) } else { Ok(resolved) }
}

/// Connects to the first that takes a connection; otherwise says why the last did not.
async fn connect(addresses: &[SocketAddr], end: Instant) -> Result<(), String> {
    let mut reason = format!("no answer within {} s", PATIENCE.as_secs());
    for address in addresses {
        match timeout_at(end, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => reason = why(&error),
            Err(_) => break,
        }
    }
    Err(reason)
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn hosts_and_ports_are_those_of_the_url() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", Some(("127.0.0.1", 8_080))),
            ("https://h.example/below?x=1", Some(("h.example", 443))),
            ("ws://h?x=1", Some(("h", 80))),
            ("http://[::1]:9/", Some(("::1", 9))),
            ("http://[::1]", Some(("::1", 80))),
            ("ftp://h", None),
            ("http://", None),
            ("http://h:port", None),
            ("127.0.0.1:8080", None),
        ] {
            assert_eq!(authority(url), expected, "{url}");
        }
    }

    async fn free() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        (listener, url)
    }

    #[tokio::test]
    async fn nobody_is_told_from_a_server_that_refuses() {
        let (listener, url) = free().await;
        let failed = async || Err::<(), _>("failed");
        assert_eq!(first(&url, failed(), |_| false).await, Ok(Err("failed")), "somebody is there");
        drop(listener);
        assert_eq!(first(&url, failed(), |_| true).await, Ok(Err("failed")), "somebody was there");
        let nobody = first(&url, failed(), |_| false).await.unwrap_err().to_string();
        assert!(nobody.starts_with(&format!("nobody answers at {url} (connection refused): ")), "{nobody}");
        assert_eq!(server(&url).await.unwrap_err().to_string(), nobody);
    }

    #[tokio::test]
    async fn a_server_sees_no_connection_but_the_request() {
        let (listener, url) = free().await;
        let address = listener.local_addr().expect("its address");
        let request = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.read_u8().await
        };
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("the request");
            tokio::io::AsyncWriteExt::write_u8(&mut stream, 7).await.expect("it reads");
            stream
        };
        let (answer, _stream) = tokio::join!(first(&url, request, |_| false), serving);
        assert!(matches!(answer, Ok(Ok(7))), "{answer:?}");
        assert!(timeout(Duration::ZERO, listener.accept()).await.is_err(), "there was one connection");
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for() {
        let (_listener, url) = free().await;
        let slow = async {
            tokio::time::sleep(DOUBT + Duration::from_millis(50)).await;
            Ok::<_, ()>(7)
        };
        assert_eq!(first(&url, slow, |()| false).await, Ok(Ok(7)));
    }

    #[tokio::test]
    async fn a_server_that_takes_no_connection_is_given_up() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let listener = socket.listen(1).expect("it listens");
        let address = listener.local_addr().expect("its address");
        // Nobody accepts: when its queue is full, the system answers no more.
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            waiting.spawn(TcpStream::connect(address));
        }
        let mut held = Vec::new();
        while let Ok(Some(Ok(Ok(stream)))) = timeout(Duration::from_secs(1), waiting.join_next()).await {
            held.push(stream);
        }
        assert!(held.len() < 8, "the queue is full");
        let nobody = server(&format!("http://{address}")).await.unwrap_err();
        assert_eq!(nobody.reason, "no answer within 3 s");
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_not_asked() {
        let asked = std::cell::Cell::new(false);
        let request = async {
            asked.set(true);
            Ok::<_, ()>(())
        };
        let nobody = first("http://no-such-host.invalid:1", request, |()| false).await.unwrap_err();
        assert!(!asked.get());
        assert!(nobody.reason.starts_with("the name "), "{nobody}");
    }
}
