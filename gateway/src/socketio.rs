//! Socket.IO clients: a WebSocket, or requests that are made into one, is held like any other client's connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use actix_http::{HttpMessage, Request, ResponseBuilder};
use actix_web::web::{self, Bytes, ThinData};
use actix_web::{HttpRequest, HttpResponse};
use tickmesh_edge::handshake::{self, Http, Refused};
use tickmesh_edge::held::Upgrade;
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_edge::socket::Socket;
use tickmesh_edge::socketio::{self, Asked, Bad, Polls};
use tickmesh_protocol::encode::Encoding;
use tickmesh_protocol::link::{Open, VERSION};
use tickmesh_protocol::session::Handshake;

use crate::bridge::Bridge;
use crate::elsewhere;
use crate::server::{Keys, Worker, utc};

/// The routes.
pub(crate) fn routes(config: &mut web::ServiceConfig, origins: &[String]) {
    for path in [socketio::PATH, "/socket.io"] {
        let resource = web::resource(path).wrap(socketio::cors(origins)).route(web::route().to(request));
        config.service(resource);
    }
}

/// One request of a client on long-polling.
async fn request(worker: ThinData<Rc<Worker>>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let ThinData(worker) = worker;
    let (asked, remote, guard) = match socketio::judge(&request, &worker.proxies, &worker.connections) {
        Ok(Polls::New(asked, remote, guard)) => {
            if let Err(refusal) = worker.connections.turn(remote.ip()).await {
                worker.metrics.refused(refusal.cause());
                return Bad::Overload(refusal).response();
            }
            (asked, remote, guard)
        }
        Ok(Polls::Session(sid)) => {
            return match elsewhere::owner(&worker, &sid, request.headers()) {
                Some(address) => elsewhere::ask(&worker, &address, &request, body).await,
                None => {
                    socketio::serve(&worker.lines, &sid, request.method(), &body, worker.max_message).await
                }
            };
        }
        Err(bad) => {
            worker.metrics.refused(match bad {
                Bad::Overload(refusal) => refusal.cause(),
                _ => "handshake",
            });
            return bad.response();
        }
    };
    let handshake = socketio::begins(&elsewhere::mark(worker.run), true);
    let (socket, line) = worker.lines.hold(handshake.sid.clone(), worker.max_message);
    hold(worker, request.query_string(), handshake, asked, (socket, Bytes::new()), remote, guard);
    socketio::poll(&line).await
}

/// What becomes of a WebSocket.
pub(crate) enum Accepted {
    /// A session begins on it.
    Begins(Asked, SocketAddr, ConnectionGuard),
    /// It is to be the transport of a session on long-polling.
    Upgrades(Upgrade),
    /// The same, of a session that lives at the gateway with this address.
    Elsewhere(String, ConnectionGuard),
}

/// Judges a WebSocket handshake.
pub(crate) fn accept(worker: &Worker, request: &Request) -> Result<(ResponseBuilder, Accepted), Refused> {
    let asked = handshake::socketio(request)?;
    let response = handshake::websocket(request)?;
    handshake::check_origin(&worker.origins, request)?;
    let peer = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let remote = worker.proxies.client(peer, request.headers());
    let admit = || worker.connections.admit(Some(remote.ip()));
    if let Some(sid) = &asked.sid {
        if let Some(address) = elsewhere::owner(worker, sid, request.headers()) {
            return Ok((response, Accepted::Elsewhere(address, admit()?)));
        }
        let line = worker.lines.find(sid).ok_or_else(handshake::unknown_sid)?;
        return Ok((response, Accepted::Upgrades(line.upgrade())));
    }
    let guard = admit()?;
    Ok((response, Accepted::Begins(asked, remote, guard)))
}

/// Serves a WebSocket that was accepted.
pub(crate) async fn start(
    worker: Rc<Worker>,
    request: &Request,
    mut http: Http,
    response: ResponseBuilder,
    accepted: Accepted,
) -> std::io::Result<()> {
    if let Accepted::Elsewhere(address, guard) = accepted {
        return elsewhere::carry(&worker, &address, request, http, guard).await;
    }
    if let Accepted::Begins(_, remote, _) = &accepted
        && let Err(refusal) = worker.connections.turn(remote.ip()).await
    {
        worker.metrics.refused(refusal.cause());
        return handshake::refuse(&mut http, &refusal.into()).await;
    }
    let (socket, early) = handshake::accept(http, response).await?;
    match accepted {
        Accepted::Elsewhere(..) => {}
        Accepted::Upgrades(upgrade) => {
            actix_rt::spawn(async move {
                if let Err(error) = upgrade.run(socket, &early).await {
                    tracing::debug!(%error, "a client did not upgrade");
                }
            });
        }
        Accepted::Begins(asked, remote, guard) => {
            let query = request.uri().query().unwrap_or_default();
            let handshake = socketio::begins(&elsewhere::mark(worker.run), false);
            hold(worker, query, handshake, asked, (socket, early), remote, guard);
        }
    }
    Ok(())
}

fn hold(
    worker: Rc<Worker>,
    query: &str,
    handshake: Handshake,
    asked: Asked,
    (socket, early): (Socket, Bytes),
    remote: SocketAddr,
    guard: ConnectionGuard,
) {
    // Who it is turns out later, unless a token came with the connection.
    let key = match &worker.keys {
        Keys::None => None,
        Keys::User => worker.auth.screen(asked.token.as_deref(), utc()).ok().flatten().map(|who| who.user_id),
        Keys::Query(name) => {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        }
    };
    let open = Open {
        version: VERSION,
        session_id: uuid::Uuid::now_v7().simple().to_string(),
        encoding: Encoding::SocketIo,
        batch: asked.batch,
        max_bandwidth: 0,
        token: asked.token,
        remote: remote.to_string(),
        socketio: Some(handshake),
    };
    let bridge = Bridge::new(worker, socket, open, key, guard);
    actix_rt::spawn(async move { bridge.run(&early).await });
}
