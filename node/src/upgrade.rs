//! From an HTTP upgrade request to the actor that owns the socket.
//!
//! The socket is taken out of the HTTP server here. What is wrong with the request itself is answered by an HTTP status;
//! what is wrong with the token is told over the WebSocket, where browsers can see it (close codes 4001 and 4002).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use actix_http::{HttpMessage, Request, ResponseBuilder, StatusCode};
use bytes::Bytes;
use tickmesh_edge::handshake::{self, Hello, Http, RUN_HEADER, Refused, bearer};
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_edge::socket::Socket;
use tickmesh_protocol::error::ErrorCode;
use tickmesh_protocol::session::{Application, Session, Wire};

use crate::clock;
use crate::link;
use crate::session::{Connection, SessionActor};
use crate::socketio;
use crate::worker::Worker;

/// Serves one upgrade request.
pub(crate) async fn serve(worker: Rc<Worker>, request: Request, http: Http) -> Result<(), actix_http::Error> {
    if let Err(error) = answer(worker, &request, http).await {
        tracing::debug!(%error, peer = ?request.peer_addr(), "client left during its handshake");
    }
    Ok(())
}

async fn answer(worker: Rc<Worker>, request: &Request, mut http: Http) -> io::Result<()> {
    let judged = match accept(&worker, request) {
        Ok(Judged { newcomer: Some(address), response, begin }) => {
            match worker.connections.turn(address).await {
                Ok(()) => Ok((response, begin)),
                Err(refusal) => Err(refusal.into()),
            }
        }
        Ok(Judged { response, begin, .. }) => Ok((response, begin)),
        Err(refused) => Err(refused),
    };
    match judged {
        Ok((response, begin)) => {
            let start = begin();
            let (stream, early) = handshake::accept(http, response).await?;
            start(stream, early);
            Ok(())
        }
        Err(refused) => {
            worker.metrics.refused(refused.cause);
            handshake::refuse(&mut http, &refused).await
        }
    }
}

type Start = Box<dyn FnOnce(Socket, Bytes)>;

/// What becomes of a request that is in order.
struct Judged {
    response: ResponseBuilder,
    /// The address of a client that has to wait for its turn.
    newcomer: Option<IpAddr>,
    /// What costs something, once it has its turn.
    begin: Box<dyn FnOnce() -> Start>,
}

fn accept(worker: &Rc<Worker>, request: &Request) -> Result<Judged, Refused> {
    if let Some(application) = socketio::application(worker, request.path()) {
        return accept_socketio(worker, request, application);
    }
    let is_link = request.path() == "/link" && !worker.secret.expose().is_empty();
    if request.path() != "/ws" && !is_link {
        let text = "WebSocket connections are taken at /ws and /socket.io/";
        return Err(Refused::new(StatusCode::NOT_FOUND, "path", ErrorCode::InvalidParameters, text));
    }
    let mut response = handshake::websocket(request)?;
    if is_link {
        if !link::is_secret(worker.secret.expose(), bearer(request.headers())) {
            let text = "links need the cluster's secret";
            return Err(Refused::new(StatusCode::UNAUTHORIZED, "link", ErrorCode::AuthFailed, text));
        }
        // A gateway that still has sessions of the life before this one, at the same address, is not to bring them before
        // this one has joined the cluster.
        let wanted = request.headers().get(RUN_HEADER).map(|run| run.to_str().unwrap_or_default());
        if wanted.is_some_and(|run| run != worker.run.to_string()) {
            let text = "this is another run of the node";
            return Err(Refused::new(
                StatusCode::MISDIRECTED_REQUEST,
                "link",
                ErrorCode::InvalidParameters,
                text,
            ));
        }
        let worker = worker.clone();
        let start: Start = Box::new(move |stream, early| {
            actix_rt::spawn(link::serve(worker, stream, early));
        });
        return Ok(Judged { response, newcomer: None, begin: Box::new(move || start) });
    }
    handshake::check_origin(&worker.origins, request)?;
    let peer = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let remote = worker.proxies.client(peer, request.headers());
    let hello = handshake::hello(request, &mut response)?;
    let guard = worker.connections.admit(Some(remote.ip()))?;
    let worker = worker.clone();
    let begin = Box::new(move || welcome(worker, hello, remote, guard));
    Ok(Judged { response, newcomer: Some(remote.ip()), begin })
}

/// Begins the session of a client that has its turn.
fn welcome(worker: Rc<Worker>, hello: Hello, remote: SocketAddr, guard: ConnectionGuard) -> Start {
    let Hello { encoding, batch, max_bandwidth, .. } = hello;
    let wire = Wire { encoding, batch, max_bandwidth, linked: false };
    let now = clock::now();
    let id = uuid::Uuid::now_v7().simple().to_string();
    let policy = worker.policies.current();
    let session = match worker.auth.identify(hello.token.as_deref(), now.utc) {
        Ok(identity) => Session::new(now, &id, policy, identity, wire),
        Err(error) => {
            worker.metrics.refused("authentication");
            let code = error.close_code();
            Session::refused(now, &id, policy, wire, &error.into(), code)
        }
    };
    Box::new(move |stream, early| {
        let connection = Connection { stream, early, records: None };
        SessionActor::spawn(session, worker, remote, connection, guard);
    })
}

fn accept_socketio(
    worker: &Rc<Worker>,
    request: &Request,
    application: Application,
) -> Result<Judged, Refused> {
    let asked = handshake::socketio(request)?;
    let response = handshake::websocket(request)?;
    handshake::check_origin(&worker.origins, request)?;
    if let Some(sid) = asked.sid {
        let upgrade = worker.lines.find(&sid).ok_or_else(handshake::unknown_sid)?.upgrade();
        let start: Start = Box::new(move |stream, early| {
            actix_rt::spawn(async move {
                if let Err(error) = upgrade.run(stream, &early).await {
                    tracing::debug!(%error, "a client did not upgrade");
                }
            });
        });
        return Ok(Judged { response, newcomer: None, begin: Box::new(move || start) });
    }
    let peer = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let remote = worker.proxies.client(peer, request.headers());
    let guard = worker.connections.admit(Some(remote.ip()))?;
    let worker = worker.clone();
    let start: Start = Box::new(move |stream, early| {
        let begins = tickmesh_edge::socketio::begins("", false);
        socketio::begin(&worker, application, &begins, asked, (stream, early), remote, guard);
    });
    Ok(Judged { response, newcomer: Some(remote.ip()), begin: Box::new(move || start) })
}
