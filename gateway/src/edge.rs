//! From an upgrade request to a held connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use actix_http::{Request, ResponseBuilder, StatusCode};
use bytes::BytesMut;
use tickmesh_edge::handshake::{self, Hello, Http, Refused};
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_protocol::error::ErrorCode;
use tickmesh_protocol::link::{Open, VERSION};
use tickmesh_protocol::relay::Relay;

use crate::bridge::Bridge;
use crate::server::Worker;

/// Serves one upgrade request.
pub(crate) async fn serve(worker: Rc<Worker>, request: Request, http: Http) -> Result<(), actix_web::Error> {
    if let Err(error) = answer(worker, &request, http).await {
        tracing::debug!(%error, peer = ?request.peer_addr(), "client left during its handshake");
    }
    Ok(())
}

async fn answer(worker: Rc<Worker>, request: &Request, mut http: Http) -> io::Result<()> {
    match accept(&worker, request) {
        Ok((response, hello, guard)) => {
            let (client, early) = handshake::accept(http, response).await?;
            let remote = request.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
            let open = Open {
                version: VERSION,
                session_id: uuid::Uuid::now_v7().simple().to_string(),
                encoding: hello.encoding,
                batch: hello.batch,
                token: hello.token,
                remote: remote.to_string(),
            };
            let relay = Relay::new(open, worker.max_message);
            worker.metrics.connections.inc();
            let bridge = Bridge {
                worker,
                client,
                relay,
                to_client: BytesMut::new(),
                pause: None,
                parting: None,
                _guard: guard,
            };
            actix_rt::spawn(async move { bridge.run(&early).await });
            Ok(())
        }
        Err(refused) => {
            worker.metrics.refused(refused.cause);
            handshake::refuse(&mut http, &refused).await
        }
    }
}

fn accept(worker: &Worker, request: &Request) -> Result<(ResponseBuilder, Hello, ConnectionGuard), Refused> {
    if request.path() != "/ws" {
        let text = "WebSocket connections are taken at /ws";
        return Err(Refused::new(StatusCode::NOT_FOUND, "path", ErrorCode::InvalidParameters, text));
    }
    let mut response = handshake::websocket(request)?;
    handshake::check_origin(&worker.origins, request)?;
    let guard = worker.connections.admit().map_err(|refusal| {
        let text = refusal.to_string();
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "overload", ErrorCode::ServiceUnavailable, text)
    })?;
    let hello = handshake::hello(request, &mut response);
    Ok((response, hello, guard))
}
