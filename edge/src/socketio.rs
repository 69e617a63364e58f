//! Socket.IO's HTTP side: handshakes, long-polling and its errors
//! (<https://socket.io/docs/v4/engine-io-protocol/>). What is said is not looked at here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use actix_cors::Cors;
use actix_http::{HttpMessage, Request, StatusCode};
use actix_web::http::{Method, header};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tickmesh_protocol::session::Handshake;

use crate::address::Proxies;
use crate::handshake::{bearer, retry_after, status_of};
use crate::held::{Line, Lines};
use crate::limits::{ConnectionGuard, Connections, Refusal};

/// The path, on nodes and gateways.
pub const PATH: &str = "/socket.io/";
/// Seconds for which browsers may remember what a preflight request was told.
const PREFLIGHT_S: usize = 600;

/// What a request's query says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The session; none yet where it begins.
    pub sid: Option<String>,
    /// From the `Authorization` header, or else the query.
    pub token: Option<String>,
    /// `batch=1`: messages that come together may come as one event.
    pub batch: bool,
}

/// What Engine.IO tells of a request that it does not serve; the numbers are those of its reference server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// 0: neither polling nor WebSocket, or not the one that this request is.
    Transport,
    /// 1: there is no such session, or not on this transport.
    Sid,
    /// 2: sessions begin with GET.
    Method,
    /// 3: the body, or one request too many.
    Request,
    /// 4: no more connections are taken, in all or from this address.
    Overload(Refusal),
    /// 5: not version 4.
    Version,
}

impl Bad {
    /// What the body says.
    #[must_use]
    pub fn body(self) -> String {
        let (code, message) = match self {
            Self::Transport => (0, "Transport unknown"),
            Self::Sid => (1, "Session ID unknown"),
            Self::Method => (2, "Bad handshake method"),
            Self::Request => (3, "Bad request"),
            Self::Overload(_) => (4, "Too many connections"),
            Self::Version => (5, "Unsupported protocol version"),
        };
        json!({ "code": code, "message": message }).to_string()
    }

    /// As an answer.
    #[must_use]
    pub fn response(self) -> HttpResponse {
        let mut response = match self {
            Self::Overload(refusal) => {
                let mut response = HttpResponse::build(status_of(refusal));
                response.insert_header((header::RETRY_AFTER, retry_after(refusal.retry_after_ms())));
                response
            }
            _ => HttpResponse::BadRequest(),
        };
        response.content_type("application/json").body(self.body())
    }
}

/// Whose request on long-polling it is.
pub enum Polls {
    /// That of a session.
    Session(String),
    /// Nobody's yet: a session begins.
    New(Asked, SocketAddr, ConnectionGuard),
}

/// Judges a request on long-polling, and lets a new client in.
///
/// # Errors
/// What Engine.IO answers instead.
pub fn judge(request: &HttpRequest, proxies: &Proxies, connections: &Arc<Connections>) -> Result<Polls, Bad> {
    let asked = asked(request.query_string(), request.headers(), "polling")?;
    if let Some(sid) = asked.sid {
        return Ok(Polls::Session(sid));
    }
    if request.method() != Method::GET {
        return Err(Bad::Method);
    }
    let peer = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let remote = proxies.client(peer, request.headers());
    let guard = connections.admit(Some(remote.ip())).map_err(Bad::Overload)?;
    Ok(Polls::New(asked, remote, guard))
}

/// Reads a request's query, which has to name this transport.
///
/// # Errors
/// When the version or the transport is another.
pub fn asked(query: &str, headers: &actix_http::header::HeaderMap, transport: &str) -> Result<Asked, Bad> {
    let query: HashMap<Cow<'_, str>, Cow<'_, str>> = form_urlencoded::parse(query.as_bytes()).collect();
    let value = |name: &str| query.get(name).map(AsRef::as_ref);
    if value("transport") != Some(transport) {
        return Err(Bad::Transport);
    }
    if value("EIO") != Some("4") {
        return Err(Bad::Version);
    }
    let token = bearer(headers).or_else(|| value("token")).filter(|token| !token.is_empty());
    let batch = value("batch") == Some("1");
    Ok(Asked { sid: value("sid").map(str::to_owned), token: token.map(str::to_owned), batch })
}

/// The same for a WebSocket handshake.
///
/// # Errors
/// As for [`asked`].
pub fn asked_websocket(request: &Request) -> Result<Asked, Bad> {
    asked(request.uri().query().unwrap_or_default(), request.headers(), "websocket")
}

/// A client whose session begins now. Its id is a secret behind `mark`, which is none.
#[must_use]
pub fn begins(mark: &str, upgrades: bool) -> Handshake {
    let secret = || format!("{:032x}", rand::random::<u128>());
    Handshake { sid: format!("{mark}{}", secret()), pid: secret(), upgrades }
}

/// Serves a request of a session on long-polling.
pub async fn serve(
    lines: &Lines,
    sid: &str,
    method: &Method,
    body: &Bytes,
    max_payload: usize,
) -> HttpResponse {
    let Some(line) = lines.find(sid) else { return Bad::Sid.response() };
    match *method {
        Method::GET => poll(&line).await,
        Method::POST if body.len() > max_payload => {
            HttpResponse::build(StatusCode::PAYLOAD_TOO_LARGE).finish()
        }
        Method::POST => match line.post(body).await {
            Ok(()) => HttpResponse::Ok().content_type("text/html").body("ok"),
            Err(refusal) => refused(refusal),
        },
        _ => Bad::Request.response(),
    }
}

/// Waits for packets.
pub async fn poll(line: &Arc<Line>) -> HttpResponse {
    match line.poll().await {
        Ok(payload) => HttpResponse::Ok()
            .content_type("text/plain; charset=UTF-8")
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .body(payload),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: tickmesh_protocol::socketio::polling::Refusal) -> HttpResponse {
    use tickmesh_protocol::socketio::polling::Refusal;
    match refusal {
        Refusal::Unknown => Bad::Sid.response(),
        Refusal::Second | Refusal::Payload => Bad::Request.response(),
    }
}

/// Which pages may ask: those of `server.origins`, or any.
pub fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods([Method::GET, Method::POST])
        .allowed_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        .max_age(PREFLIGHT_S);
    if origins.is_empty() || origins.iter().any(|origin| origin == "*") {
        return cors.allow_any_origin().send_wildcard();
    }
    // Credentials, which are cookies of load balancers, are for pages that are named.
    origins.iter().fold(cors.supports_credentials(), |cors, origin| cors.allowed_origin(origin))
}
