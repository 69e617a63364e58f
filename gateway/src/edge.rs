//! From an upgrade request to a held connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use actix_http::{HttpMessage, Request, ResponseBuilder, StatusCode};
use tickmesh_edge::handshake::{self, Hello, Http, Refused};
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_protocol::encode;
use tickmesh_protocol::error::ErrorCode;
use tickmesh_protocol::link::{Open, VERSION};

use crate::bridge::{Bridge, part};
use crate::server::{Keys, Worker, utc};
use crate::socketio;

/// Serves one upgrade request.
pub(crate) async fn serve(worker: Rc<Worker>, request: Request, http: Http) -> Result<(), actix_http::Error> {
    if let Err(error) = answer(worker, &request, http).await {
        tracing::debug!(%error, peer = ?request.peer_addr(), "client left during its handshake");
    }
    Ok(())
}

async fn answer(worker: Rc<Worker>, request: &Request, mut http: Http) -> io::Result<()> {
    if request.path() == tickmesh_edge::socketio::PATH {
        return match socketio::accept(&worker, request) {
            Ok((response, accepted)) => socketio::start(worker, request, http, response, accepted).await,
            Err(refused) => {
                worker.metrics.refused(refused.cause);
                handshake::refuse(&mut http, &refused).await
            }
        };
    }
    let accepted = match accept(&worker, request) {
        Ok(accepted) => match worker.connections.turn(accepted.remote.ip()).await {
            Ok(()) => Ok(accepted),
            Err(refusal) => Err(refusal.into()),
        },
        Err(refused) => Err(refused),
    };
    match accepted {
        Ok(accepted) => hold(worker, request, accepted, http).await,
        Err(refused) => {
            worker.metrics.refused(refused.cause);
            handshake::refuse(&mut http, &refused).await
        }
    }
}

/// A client that is let in as far as this side of its token.
struct Accepted {
    response: ResponseBuilder,
    hello: Hello,
    remote: SocketAddr,
    guard: ConnectionGuard,
}

fn accept(worker: &Worker, request: &Request) -> Result<Accepted, Refused> {
    if request.path() != "/ws" {
        let text = "WebSocket connections are taken at /ws and /socket.io/";
        return Err(Refused::new(StatusCode::NOT_FOUND, "path", ErrorCode::InvalidParameters, text));
    }
    let mut response = handshake::websocket(request)?;
    handshake::check_origin(&worker.origins, request)?;
    let peer = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let remote = worker.proxies.client(peer, request.headers());
    let guard = worker.connections.admit(Some(remote.ip()))?;
    let hello = handshake::hello(request, &mut response)?;
    Ok(Accepted { response, hello, remote, guard })
}

async fn hold(worker: Rc<Worker>, request: &Request, accepted: Accepted, http: Http) -> io::Result<()> {
    let Accepted { response, hello, remote, guard } = accepted;
    let screened = worker.auth.screen(hello.token.as_deref(), utc());
    let (client, early) = handshake::accept(http, response).await?;
    let identity = match screened {
        Ok(identity) => identity,
        Err(error) => {
            // Told over the WebSocket, where browsers can see it, as a node would.
            worker.metrics.refused("authentication");
            let code = error.close_code();
            let last = encode::refusal(hello.encoding, &error.into(), code, utc());
            let patience = worker.patience.with(false);
            actix_rt::spawn(async move {
                part(client, &last, patience).await;
                drop(guard);
            });
            return Ok(());
        }
    };
    let key = match &worker.keys {
        Keys::None => None,
        Keys::User => identity.map(|identity| identity.user_id),
        Keys::Query(name) => query(request, name),
    };
    let open = Open {
        version: VERSION,
        session_id: uuid::Uuid::now_v7().simple().to_string(),
        encoding: hello.encoding,
        batch: hello.batch,
        max_bandwidth: hello.max_bandwidth,
        token: hello.token,
        remote: remote.to_string(),
        socketio: None,
    };
    let bridge = Bridge::new(worker, client, open, key, guard);
    actix_rt::spawn(async move { bridge.run(&early).await });
    Ok(())
}

fn query(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
