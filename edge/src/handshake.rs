//! From an HTTP upgrade request to what is known of the client, or to the status that refuses it (RFC 6455 §4.2).

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use actix_codec::Framed;
use actix_http::body::BodySize;
use actix_http::h1::{Codec, Message};
use actix_http::header::{self, AUTHORIZATION, HeaderMap, HeaderValue};
use actix_http::{ConnectionType, HttpMessage, Request, Response, ResponseBuilder, StatusCode, ws};
use bytes::Bytes;
use futures_util::SinkExt;
use serde_json::json;
use tickmesh_protocol::encode::Encoding;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::shape::check_bandwidth;
use tokio::io::AsyncWriteExt;

use crate::limits::Refusal;
use crate::socket::Socket;
use crate::socketio::{Asked, Bad, asked_websocket};

/// Header with which a gateway says which run of a node its link is for.
pub const RUN_HEADER: &str = "x-tickmesh-run";

/// A connection that still speaks HTTP.
pub type Http = Framed<Socket, Codec>;

/// A request that gets an HTTP status instead of a WebSocket.
#[derive(Debug)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// A short name, for counting.
    pub cause: &'static str,
    /// What the body says.
    pub failure: Failure,
    /// The whole body, where that is not for us to write.
    pub body: Option<Box<str>>,
    /// Milliseconds after which it may be tried again, where that may help.
    pub retry_after_ms: Option<u64>,
}

impl Refused {
    /// A refusal.
    #[must_use]
    pub fn new(status: StatusCode, cause: &'static str, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, cause, failure: Failure::new(code, message), body: None, retry_after_ms: None }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let retry_after_ms = refusal.retry_after_ms();
        let failure = Failure::new(refusal.code(), refusal.to_string());
        Self {
            status: status_of(refusal),
            cause: refusal.cause(),
            failure: failure.with_details(json!({ "retry_after_ms": retry_after_ms })),
            body: None,
            retry_after_ms: Some(retry_after_ms),
        }
    }
}

/// The status for a connection that is not taken.
pub(crate) fn status_of(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::TooFast(_) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The value of `Retry-After` for so many milliseconds: whole seconds, at least one (RFC 9110 §10.2.3).
#[must_use]
pub fn retry_after(ms: u64) -> HeaderValue {
    HeaderValue::from(ms.div_ceil(1_000).max(1))
}

/// What a client wants, and who it says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The first subprotocol of its offer that is known; without any, JSON.
    pub encoding: Encoding,
    /// `batch=1`.
    pub batch: bool,
    /// `max_bandwidth=`, in bytes a second; 0 for any.
    pub max_bandwidth: u64,
    /// From the `Authorization` header, or else the query.
    pub token: Option<String>,
}

/// Checks that a request is a WebSocket handshake, and begins the response.
///
/// # Errors
/// With the status that the RFC asks for.
pub fn websocket(request: &Request) -> Result<ResponseBuilder, Refused> {
    ws::handshake(request.head()).map_err(|error| {
        let status = match error {
            ws::HandshakeError::GetMethodRequired => StatusCode::METHOD_NOT_ALLOWED,
            ws::HandshakeError::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        };
        Refused::new(status, "handshake", ErrorCode::InvalidParameters, error.to_string())
    })
}

/// What a Socket.IO client's WebSocket handshake asks for.
///
/// # Errors
/// 400, with Engine.IO's words, for another version or transport.
pub fn socketio(request: &Request) -> Result<Asked, Refused> {
    asked_websocket(request).map_err(refused_by_engine)
}

/// A session that is not there.
#[must_use]
pub fn unknown_sid() -> Refused {
    refused_by_engine(Bad::Sid)
}

fn refused_by_engine(bad: Bad) -> Refused {
    let refused = Refused::new(StatusCode::BAD_REQUEST, "handshake", ErrorCode::InvalidParameters, "");
    Refused { body: Some(bad.body().into()), ..refused }
}

/// Browsers name the page's origin; other clients send none and are not held to the list.
///
/// # Errors
/// 403 where the origin is not in a list that is not empty.
pub fn check_origin(allowed: &[String], request: &Request) -> Result<(), Refused> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    if allowed.is_empty() || allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes()) {
        return Ok(());
    }
    let text = "this origin is not allowed";
    Err(Refused::new(StatusCode::FORBIDDEN, "origin", ErrorCode::PermissionDenied, text))
}

/// Reads what the client wants, and names the chosen subprotocol in the response.
///
/// # Errors
/// 400 for a bandwidth that nobody can be held to.
pub fn hello(request: &Request, response: &mut ResponseBuilder) -> Result<Hello, Refused> {
    let encoding = subprotocol(request);
    if let Some(name) = encoding.and_then(Encoding::subprotocol) {
        let name = HeaderValue::from_static(name);
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, name));
    }
    let query: HashMap<Cow<'_, str>, Cow<'_, str>> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).collect();
    let max_bandwidth = match query.get("max_bandwidth") {
        None => 0,
        Some(text) => {
            // What is no number is out of bounds as well.
            let rate = text.parse().unwrap_or(0);
            check_bandwidth(rate).map_err(|failure| Refused {
                status: StatusCode::BAD_REQUEST,
                cause: "handshake",
                failure,
                body: None,
                retry_after_ms: None,
            })?;
            rate
        }
    };
    let token = bearer(request.headers()).or_else(|| query.get("token").map(AsRef::as_ref));
    Ok(Hello {
        encoding: encoding.unwrap_or(Encoding::Json),
        batch: query.get("batch").is_some_and(|value| value == "1"),
        max_bandwidth,
        token: token.filter(|token| !token.is_empty()).map(str::to_owned),
    })
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

/// The credential of an `Authorization: Bearer` header (RFC 6750 §2.1).
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

/// The JSON of an error.
#[must_use]
pub fn error_body(failure: &Failure) -> String {
    let mut body = json!({ "error_code": failure.code, "error_message": failure.message });
    if let Some(details) = &failure.details {
        body["error_details"] = details.clone();
    }
    body.to_string()
}

/// Answers a refused request, and closes.
///
/// # Errors
/// When the client is gone.
pub async fn refuse(http: &mut Http, refused: &Refused) -> io::Result<()> {
    let body = refused.body.as_deref().map_or_else(|| error_body(&refused.failure), str::to_owned);
    let body = Bytes::from(body);
    let mut response = Response::new(refused.status);
    response.head_mut().set_connection_type(ConnectionType::Close);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(ms) = refused.retry_after_ms {
        headers.insert(header::RETRY_AFTER, retry_after(ms));
    }
    if refused.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    http.send(Message::Item((response.drop_body(), BodySize::Sized(body.len() as u64)))).await?;
    http.send(Message::Chunk(Some(body))).await?;
    http.send(Message::Chunk(None)).await?;
    http.io_mut().shutdown().await
}

/// Answers a request that was accepted, and gives its socket, with what the client sent behind the request.
///
/// # Errors
/// When the client is gone.
pub async fn accept(mut http: Http, mut response: ResponseBuilder) -> io::Result<(Socket, Bytes)> {
    http.send(Message::Item((response.finish().drop_body(), BodySize::None))).await?;
    let parts = http.into_parts();
    // A copy, of nothing mostly: the buffer itself has room for a whole request, and would stay as long as the client.
    Ok((parts.io, Bytes::copy_from_slice(&parts.read_buf)))
}
