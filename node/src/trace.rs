//! What of a node's work shows in traces: a publish over HTTP or WebSocket, its way to the broker, and what every node writes
//! to its clients because of it.
//!
//! Invariant: whatever is not sampled costs a look at a pointer that is null.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::{HttpRequest, HttpResponse};
use tickmesh_cluster::broker::BrokerError;
use tickmesh_protocol::batch::Witness;
use tickmesh_protocol::message::{Message, Publish};
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::trace::TraceContext;
use tickmesh_telemetry::trace::{self, Active, Kind};

use crate::api::ApiError;

/// Rooms of one request whose messages carry its trace: the first message of each.
const MAX_ROOMS: usize = 16;
/// Spans of one batch; what else is sampled in it becomes a link of the first.
const MAX_SPANS: usize = 8;

/// The span of an HTTP request, if it is sampled. `route` is the path as it is configured.
pub(crate) fn http(node: &str, route: &'static str, request: &HttpRequest) -> Option<Active> {
    let asked = || request.headers().get("traceparent")?.to_str().ok().and_then(TraceContext::parse);
    if !trace::enabled() {
        return None;
    }
    let method = trace::method(request.method().as_str());
    let span = trace::request(asked(), || format!("{method} {route}"))?;
    span.set("tickmesh.node", node.to_owned());
    span.set("http.request.method", method);
    span.set("http.route", route);
    Some(span)
}

/// Says how such a request was answered, and ends its span.
pub(crate) fn answered(span: Option<Active>, answer: &Result<HttpResponse, ApiError>) {
    let Some(span) = span else { return };
    let status = match answer {
        Ok(response) => response.status(),
        Err(error) => actix_web::ResponseError::status_code(error),
    };
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.to_string());
    }
}

/// The span of a client's publish over a WebSocket, if it is sampled.
pub(crate) fn session(node: &str, publish: &mut Publish) -> Option<Box<Active>> {
    let span = trace::request(publish.trace.take().map(|asked| *asked), || "request publish".into())?;
    span.set("tickmesh.node", node.to_owned());
    publish.trace = Some(Box::new(span.context()));
    Some(Box::new(span))
}

/// Has the messages of a request carry its trace.
pub(crate) fn mark(span: Option<&Active>, messages: &mut [Publish]) {
    let Some(span) = span else { return };
    span.set("messaging.batch.message_count", messages.len() as i64);
    let mut rooms: Vec<RoomName> = Vec::new();
    for publish in messages {
        if rooms.len() < MAX_ROOMS && !rooms.contains(&publish.room) {
            rooms.push(publish.room.clone());
            publish.trace = Some(Box::new(span.context()));
        }
    }
}

/// Spans of messages on their way to the broker, by index.
#[derive(Debug, Default)]
pub(crate) struct Sends(Vec<(usize, Active)>);

/// Begins them, and has what comes of the messages be a part of them.
pub(crate) fn sends(node: &str, messages: &mut [Publish]) -> Sends {
    let mut sends = Vec::new();
    for (index, publish) in messages.iter_mut().enumerate() {
        let Some(at) = publish.trace.take() else { continue };
        let Some(span) = Active::begin(*at, Kind::Producer, "publish".into()) else { continue };
        span.set("messaging.system", "tickmesh");
        span.set("messaging.operation.name", "publish");
        span.set("messaging.destination.name", publish.room.to_string());
        span.set("tickmesh.node", node.to_owned());
        publish.trace = Some(Box::new(span.context()));
        sends.push((index, span));
    }
    Sends(sends)
}

impl Sends {
    /// The broker has answered.
    pub(crate) fn answered(self, results: &[Result<Position, BrokerError>]) {
        for (index, span) in self.0 {
            match results.get(index) {
                Some(Ok(position)) => span.set("tickmesh.seq", position.seq as i64),
                Some(Err(error)) => span.fail(error.to_string()),
                None => span.fail("no answer"),
            }
        }
    }
}

/// The spans of a batch on its way to a node's clients: each from its arrival until the last session has written it.
#[derive(Debug)]
struct Delivery {
    spans: Vec<Active>,
    sessions: AtomicU64,
    /// Of these, sessions whose sockets did not take everything at once.
    blocked: AtomicU64,
}

/// Begins them, if anything among the messages is sampled.
pub(crate) fn delivery(node: &str, room: &RoomName, messages: &[Arc<Message>]) -> Option<Arc<dyn Witness>> {
    if !trace::enabled() {
        return None;
    }
    let mut spans: Vec<Active> = Vec::new();
    for message in messages {
        let Some(at) = message.trace.as_deref().filter(|at| at.sampled == Some(true)) else { continue };
        if let (true, Some(first)) = (spans.len() >= MAX_SPANS, spans.first()) {
            first.link(*at);
            continue;
        }
        let Some(span) = Active::begin(*at, Kind::Consumer, "deliver".into()) else { continue };
        span.set("messaging.system", "tickmesh");
        span.set("messaging.operation.name", "deliver");
        span.set("messaging.destination.name", room.to_string());
        span.set("messaging.batch.message_count", messages.len() as i64);
        span.set("tickmesh.node", node.to_owned());
        span.set("tickmesh.seq", message.seq as i64);
        spans.push(span);
    }
    if spans.is_empty() {
        return None;
    }
    Some(Arc::new(Delivery { spans, sessions: AtomicU64::new(0), blocked: AtomicU64::new(0) }))
}

impl Witness for Delivery {
    fn written(&self, whole: bool) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.blocked.fetch_add(u64::from(!whole), Ordering::Relaxed);
        // A batch may be remembered for longer, by a session that is still reading its history.
        self.spans.iter().for_each(Active::touch);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let count = |counter: &mut AtomicU64| *counter.get_mut() as i64;
        let (sessions, blocked) = (count(&mut self.sessions), count(&mut self.blocked));
        for span in &self.spans {
            span.set("tickmesh.sessions", sessions);
            span.set("tickmesh.sessions_blocked", blocked);
        }
    }
}
