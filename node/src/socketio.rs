//! Socket.IO clients that reach this node directly: their sessions begin here, on a WebSocket or on long-polling.

use std::net::SocketAddr;
use std::rc::Rc;

use actix_web::web::{self, Bytes, ThinData};
use actix_web::{HttpRequest, HttpResponse};
use tickmesh_edge::limits::ConnectionGuard;
use tickmesh_edge::socket::Socket;
use tickmesh_edge::socketio::{self, Asked, Bad, Polls};
use tickmesh_protocol::session::{Application, Handshake, Session, Wire};

use crate::api::WorkerData;
use crate::clock;
use crate::session::{Connection, SessionActor};
use crate::worker::Worker;

/// The path of the test server of the Engine.IO protocol document.
pub(crate) const ENGINE_PATH: &str = "/engine.io/";

/// Who answers at a path; nobody at most.
pub(crate) fn application(worker: &Worker, path: &str) -> Option<Application> {
    match (path, worker.conformance) {
        (socketio::PATH, false) => Some(Application::Tickmesh),
        (socketio::PATH, true) => Some(Application::SocketIoSuite),
        (ENGINE_PATH, true) => Some(Application::EngineIoSuite),
        _ => None,
    }
}

/// The routes.
pub(crate) fn routes(config: &mut web::ServiceConfig, origins: &[String]) {
    for path in [socketio::PATH, "/socket.io", ENGINE_PATH] {
        let resource = web::resource(path).wrap(socketio::cors(origins)).route(web::route().to(request));
        config.service(resource);
    }
}

/// One request of a client on long-polling.
async fn request(worker: WorkerData, request: HttpRequest, body: Bytes) -> HttpResponse {
    let ThinData(worker) = worker;
    let path = if request.path() == "/socket.io" { socketio::PATH } else { request.path() };
    let Some(application) = application(&worker, path) else { return HttpResponse::NotFound().finish() };
    let max_payload = worker.policy.max_message_bytes;
    let (asked, remote, guard) = match socketio::judge(&request, &worker.proxies, &worker.connections) {
        Ok(Polls::New(asked, remote, guard)) => {
            if let Err(refusal) = worker.connections.turn(remote.ip()).await {
                worker.metrics.refused(refusal.cause());
                return Bad::Overload(refusal).response();
            }
            (asked, remote, guard)
        }
        Ok(Polls::Session(sid)) => {
            return socketio::serve(&worker.lines, &sid, request.method(), &body, max_payload).await;
        }
        Err(bad) => {
            worker.metrics.refused(match bad {
                Bad::Overload(refusal) => refusal.cause(),
                _ => "handshake",
            });
            return bad.response();
        }
    };
    let handshake = socketio::begins("", true);
    let (socket, line) = worker.lines.hold(handshake.sid.clone(), max_payload);
    begin(&worker, application, &handshake, asked, (socket, Bytes::new()), remote, guard);
    socketio::poll(&line).await
}

/// Begins a session.
pub(crate) fn begin(
    worker: &Rc<Worker>,
    application: Application,
    handshake: &Handshake,
    asked: Asked,
    (stream, early): (Socket, Bytes),
    remote: SocketAddr,
    guard: ConnectionGuard,
) {
    let id = uuid::Uuid::now_v7().simple().to_string();
    let policy = worker.policies.current();
    let wire = Wire { batch: asked.batch, ..Wire::socketio() };
    let session = Session::socketio(clock::now(), &id, policy, handshake, asked.token, application, wire);
    let connection = Connection { stream, early, records: None };
    SessionActor::spawn(session, worker.clone(), remote, connection, guard);
}
