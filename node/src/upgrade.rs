//! From an HTTP upgrade request to the actor that owns the socket.
//!
//! The socket is taken out of the HTTP server here. What is wrong with the request itself is answered by an HTTP status;
//! what is wrong with the token is told over the WebSocket, where browsers can see it (close codes 4001 and 4002).

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use actix_codec::Framed;
use actix_http::body::BodySize;
use actix_http::h1::{Codec, Message};
use actix_http::header::{self, HeaderValue};
use actix_http::{HttpMessage, Request, Response, StatusCode, ws};
use bytes::Bytes;
use futures_util::SinkExt;
use tickmesh_protocol::encode::Encoding;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::session::{Session, Wire};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::api::bearer;
use crate::clock;
use crate::link;
use crate::session::{Connection, SessionActor};
use crate::worker::Worker;

type Http = Framed<TcpStream, Codec>;

/// A request that gets an HTTP status instead of a WebSocket.
struct Refused {
    status: StatusCode,
    cause: &'static str,
    failure: Failure,
}

impl Refused {
    fn new(status: StatusCode, cause: &'static str, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, cause, failure: Failure::new(code, message) }
    }
}

/// Serves one upgrade request.
pub(crate) async fn serve(worker: Rc<Worker>, request: Request, wire: Http) -> Result<(), actix_web::Error> {
    if let Err(error) = answer(worker, &request, wire).await {
        tracing::debug!(%error, peer = ?request.peer_addr(), "client left during its handshake");
    }
    Ok(())
}

async fn answer(worker: Rc<Worker>, request: &Request, mut wire: Http) -> io::Result<()> {
    match accept(&worker, request) {
        Ok((response, start)) => {
            wire.send(Message::Item((response, BodySize::None))).await?;
            let parts = wire.into_parts();
            start(parts.io, parts.read_buf.freeze());
            Ok(())
        }
        Err(refused) => {
            worker.metrics.refused(refused.cause);
            refuse(&mut wire, &refused).await
        }
    }
}

type Start = Box<dyn FnOnce(TcpStream, Bytes)>;

fn accept(worker: &Rc<Worker>, request: &Request) -> Result<(Response<()>, Start), Refused> {
    let is_link = request.path() == "/link" && !worker.secret.expose().is_empty();
    if request.path() != "/ws" && !is_link {
        let text = "WebSocket connections are taken at /ws";
        return Err(Refused::new(StatusCode::NOT_FOUND, "path", ErrorCode::InvalidParameters, text));
    }
    let mut handshake = ws::handshake(request.head()).map_err(|error| {
        let status = match error {
            ws::HandshakeError::GetMethodRequired => StatusCode::METHOD_NOT_ALLOWED,
            ws::HandshakeError::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        };
        Refused::new(status, "handshake", ErrorCode::InvalidParameters, error.to_string())
    })?;
    if is_link {
        if !link::is_secret(worker.secret.expose(), bearer(request.headers())) {
            let text = "links need the cluster's secret";
            return Err(Refused::new(StatusCode::UNAUTHORIZED, "link", ErrorCode::AuthFailed, text));
        }
        let worker = worker.clone();
        let start: Start = Box::new(move |stream, early| {
            actix_rt::spawn(link::serve(worker, stream, early));
        });
        return Ok((handshake.finish().drop_body(), start));
    }
    check_origin(&worker.origins, request)?;
    let guard = worker.connections.admit().map_err(|refusal| {
        let text = refusal.to_string();
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "overload", ErrorCode::ServiceUnavailable, text)
    })?;
    let query = query(request.uri().query().unwrap_or_default());
    let encoding = subprotocol(request);
    if let Some(encoding) = encoding {
        let name = HeaderValue::from_static(encoding.subprotocol());
        handshake.insert_header((header::SEC_WEBSOCKET_PROTOCOL, name));
    }
    let wire = Wire {
        encoding: encoding.unwrap_or(Encoding::Json),
        batch: query.get("batch").is_some_and(|value| value == "1"),
        linked: false,
    };
    let token = bearer(request.headers())
        .or_else(|| query.get("token").map(AsRef::as_ref))
        .filter(|token| !token.is_empty());
    let now = clock::now();
    let id = uuid::Uuid::now_v7().simple().to_string();
    let policy = worker.policy.clone();
    let session = match worker.auth.identify(token, now.utc) {
        Ok(identity) => Session::new(now, &id, policy, identity, wire),
        Err(error) => {
            worker.metrics.refused("authentication");
            let code = error.close_code();
            Session::refused(now, &id, policy, wire, &error.into(), code)
        }
    };
    let remote = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let worker = worker.clone();
    let start: Start = Box::new(move |stream, early| {
        let connection = Connection { stream, early, records: None };
        SessionActor::spawn(session, worker, remote, connection, guard);
    });
    Ok((handshake.finish().drop_body(), start))
}

/// Browsers name the page's origin; other clients send none and are not held to the list.
fn check_origin(allowed: &[String], request: &Request) -> Result<(), Refused> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    if allowed.is_empty() || allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes()) {
        return Ok(());
    }
    let text = "this origin is not allowed";
    Err(Refused::new(StatusCode::FORBIDDEN, "origin", ErrorCode::PermissionDenied, text))
}

/// The first offered subprotocol that is known (RFC 6455 §4.2.2).
fn subprotocol(request: &Request) -> Option<Encoding> {
    request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|name| Encoding::from_subprotocol(name.trim()))
}

fn query(text: &str) -> HashMap<Cow<'_, str>, Cow<'_, str>> {
    form_urlencoded::parse(text.as_bytes()).collect()
}

async fn refuse(wire: &mut Http, refused: &Refused) -> io::Result<()> {
    let body = Bytes::from(crate::api::error_body(&refused.failure));
    let mut response = Response::new(refused.status);
    response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if refused.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if refused.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    wire.send(Message::Item((response.drop_body(), BodySize::Sized(body.len() as u64)))).await?;
    wire.send(Message::Chunk(Some(body))).await?;
    wire.send(Message::Chunk(None)).await?;
    wire.io_mut().shutdown().await
}
