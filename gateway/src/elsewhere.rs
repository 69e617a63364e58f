//! Socket.IO sessions on long-polling that another gateway holds: a load balancer sends a client's requests anywhere, so a
//! session's id says which gateway it lives at, and the others hand its requests there.
//!
//! Invariants: a request is handed on once at most; nothing of a session is kept here. It must not know what is said.

use std::io;
use std::time::Duration;

use actix_http::{HttpMessage, Request};
use actix_web::http::header::{self, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use tickmesh_cluster::members::Kind;
use tickmesh_edge::handshake::Http;
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_edge::socket::Socket;
use tickmesh_edge::socketio::Bad;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::Worker;

/// Marks a request that was handed on, so that two gateways that are wrong about each other do not play ball.
const VIA: HeaderName = HeaderName::from_static("x-tickmesh-via");
/// Longest wait for the other gateway's connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Of a session's id, the part that names its gateway, in hexadecimal digits.
const OWNER_LEN: usize = 14;

/// The beginning of the ids of sessions that live here.
pub(crate) fn mark(run: u64) -> String {
    format!("{run:0OWNER_LEN$x}")
}

/// The address of another gateway at which a session lives that does not live here.
pub(crate) fn owner(worker: &Worker, sid: &str, headers: &HeaderMap) -> Option<String> {
    if headers.contains_key(VIA) || worker.lines.find(sid).is_some() {
        return None;
    }
    let run = u64::from_str_radix(sid.get(..OWNER_LEN)?, 16).ok().filter(|run| *run != worker.run)?;
    let members = worker.roster.members();
    let gateway = members.iter().find(|member| member.kind == Kind::Gateway && member.run == run)?;
    Some(gateway.address.clone())
}

/// Hands a request on, and its answer back.
pub(crate) async fn ask(worker: &Worker, address: &str, request: &HttpRequest, body: Bytes) -> HttpResponse {
    let scheme = if worker.serves_tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}{}", request.uri());
    // A poll is answered with a ping at the latest, and a session that is over is not held long.
    let patience = worker.longest_poll;
    let forwarded = worker
        .polls
        .request(request.method().clone(), url)
        .timeout(patience)
        .no_decompress()
        .insert_header((VIA, HeaderValue::from_static("1")));
    let forwarded = match request.headers().get(CONTENT_TYPE) {
        Some(kind) => forwarded.insert_header((CONTENT_TYPE, kind.clone())),
        None => forwarded,
    };
    match forwarded.send_body(body).await {
        Ok(mut answer) => {
            let mut response = HttpResponse::build(answer.status());
            for name in [CONTENT_TYPE, header::CACHE_CONTROL] {
                if let Some(value) = answer.headers().get(&name) {
                    response.insert_header((name, value.clone()));
                }
            }
            match answer.body().limit(worker.largest_poll).await {
                Ok(body) => response.body(body),
                Err(error) => lost(address, &error),
            }
        }
        Err(error) => lost(address, &error),
    }
}

/// What was in that answer may be lost with it, so the session must not go on: the client begins another, and recovers.
fn lost(address: &str, error: &dyn std::fmt::Display) -> HttpResponse {
    tracing::debug!(gateway = address, %error, "a request of a session that lives there was not answered");
    Bad::Sid.response()
}

/// Carries the bytes of a WebSocket, from its handshake on, until either side ends it or this gateway stops.
pub(crate) async fn carry(
    worker: &Worker,
    address: &str,
    request: &Request,
    http: Http,
    guard: ConnectionGuard,
) -> io::Result<()> {
    let parts = http.into_parts();
    let mut client = parts.io;
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut other = timeout(CONNECT_PATIENCE, connect(worker, address)).await.map_err(timed_out)??;
    other.write_all(&head(request)).await?;
    other.write_all(&parts.read_buf).await?;
    other.flush().await?;
    let mut stopping = worker.stopping.clone();
    let parting = worker.parting();
    actix_rt::spawn(async move {
        let ended = async {
            // The sender is gone when the gateway is.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            tokio::time::sleep(parting).await;
        };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut other) => {}
            () = ended => {}
        }
        drop(guard);
    });
    Ok(())
}

async fn connect(worker: &Worker, address: &str) -> io::Result<Socket> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match (worker.serves_tls, &worker.nodes.dialer().tls) {
        (false, _) => Ok(Socket::Tcp(stream)),
        (true, Some(tls)) => tls.connect(address, stream).await,
        (true, None) => Err(io::Error::other("cluster.tls_ca is not set")),
    }
}

/// The request as it came, and the mark.
fn head(request: &Request) -> Vec<u8> {
    let mut out = format!("GET {} HTTP/1.1\r\n{VIA}: 1\r\n", request.uri()).into_bytes();
    for (name, value) in request.headers().iter().filter(|(name, _)| **name != VIA) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use actix_http::Uri;

    use super::*;

    #[test]
    fn a_mark_has_always_the_same_length() {
        for run in [0, 7, u64::MAX >> 11] {
            assert_eq!(mark(run).len(), OWNER_LEN);
            assert_eq!(u64::from_str_radix(&mark(run), 16), Ok(run));
        }
    }

    #[test]
    fn a_request_is_handed_on_as_it_came() {
        let mut request = Request::new();
        request.head_mut().uri = Uri::from_static("/socket.io/?sid=a");
        request.head_mut().headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let text = String::from_utf8(head(&request)).unwrap();
        assert_eq!(text, "GET /socket.io/?sid=a HTTP/1.1\r\nx-tickmesh-via: 1\r\nupgrade: websocket\r\n\r\n");
    }
}
