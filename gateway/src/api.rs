//! What the gateway answers itself, and what it hands to a node.

mod log;
mod tuning;

use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{self, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, X_FORWARDED_FOR};
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tickmesh_cluster::members::LeaseState;
use tickmesh_edge::metrics::Standing;
use tickmesh_protocol::trace::TraceContext;
use tickmesh_telemetry::trace::{self, Active};

use crate::dial::Dialer;
use crate::nodes::Node;
use crate::server::Shared;

/// Longest wait for a node's answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests that are handed on at a time, by one thread.
pub(crate) const MAX_FORWARDED: usize = 100;
/// Largest answer that is handed on.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// What nodes serve under `/api/v1`, as far as it names spans.
const RESOURCES: [&str; 10] =
    ["publish", "rooms", "users", "sessions", "nodes", "market", "watchlist", "alerts", "alarms", "cluster"];
/// Of W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The routes.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(healthz))
        .route("/healthz", web::head().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/readyz", web::head().to(readyz))
        .route("/metrics", web::get().to(metrics))
        .route("/api/v1/log", web::get().to(log::level))
        .route("/api/v1/log", web::put().to(log::set_level))
        .route("/api/v1/tuning", web::get().to(tuning::show))
        .route("/api/v1/tuning", web::put().to(tuning::change))
        .service(web::scope("/api").default_service(web::to(forward)));
}

pub(crate) async fn not_found(request: HttpRequest) -> HttpResponse {
    let text = format!("there is no {} {}", request.method(), request.path());
    HttpResponse::NotFound().json(json!({ "error_code": "INVALID_ACTION", "error_message": text }))
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Takes clients, and has a node for them.
async fn readyz(gateway: web::Data<Shared>) -> HttpResponse {
    match not_ready(&gateway) {
        Some(reason) => HttpResponse::ServiceUnavailable().json(json!({ "status": reason })),
        None => HttpResponse::Ok().json(json!({ "status": "ready" })),
    }
}

/// Why it is not ready for clients, if it is not.
pub(crate) fn not_ready(gateway: &Shared) -> Option<&'static str> {
    if gateway.connections.draining() {
        Some("draining")
    } else if gateway.connections.short_of_memory() {
        Some("memory is short")
    } else if gateway.roster.lease() != LeaseState::Held {
        Some("no lease in the cluster")
    } else if gateway.nodes.choose(None, None).is_none() {
        Some("no node")
    } else {
        None
    }
}

async fn metrics(gateway: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let standing =
        Standing::new(not_ready(&gateway).is_none(), gateway.connections.draining(), &gateway.roster);
    tickmesh_edge::metrics::answer(&request, &gateway.registry, standing)
}

/// What asks other processes, on one thread, over this many connections at most (0: any number).
pub(crate) fn client(dialer: &Dialer, limit: usize) -> awc::Client {
    let connector = awc::Connector::new().limit(limit);
    match &dialer.tls {
        None => awc::Client::builder().connector(connector).finish(),
        Some(tls) => awc::Client::builder().connector(connector.rustls_0_23(tls.config())).finish(),
    }
}

/// Any node answers for the whole cluster.
async fn forward(
    gateway: web::Data<Shared>,
    client: web::ThinData<awc::Client>,
    request: HttpRequest,
    body: Bytes,
) -> HttpResponse {
    let span = begin(&gateway, &request);
    let Some(node) = gateway.nodes.any() else { return end(span, unavailable("there is no node")) };
    let path = request.uri().to_string();
    let mut forwarded = ask(&gateway, &client, &node, request.method().clone(), &path, &request);
    if let Some(parent) = parent(span.as_ref(), &request) {
        forwarded = forwarded.insert_header((TRACEPARENT, parent));
    }
    let answer = match forwarded.send_body(body).await {
        Ok(mut answer) => {
            let mut response = HttpResponse::build(answer.status());
            for name in [CONTENT_TYPE, header::WWW_AUTHENTICATE, header::RETRY_AFTER] {
                if let Some(value) = answer.headers().get(&name) {
                    response.insert_header((name, value.clone()));
                }
            }
            match answer.body().limit(MAX_ANSWER).await {
                Ok(body) => response.body(body),
                Err(_) => unavailable("the node's answer was cut off"),
            }
        }
        Err(error) => {
            tracing::debug!(node = node.id, %error, "a request was not answered");
            unavailable("the node did not answer; whether it did what was asked is not known")
        }
    };
    end(span, answer)
}

fn unavailable(text: &str) -> HttpResponse {
    HttpResponse::ServiceUnavailable()
        .json(json!({ "error_code": "SERVICE_UNAVAILABLE", "error_message": text }))
}

/// A request to a node in the name of a client.
fn ask(
    gateway: &Shared,
    client: &awc::Client,
    node: &Node,
    method: Method,
    path: &str,
    request: &HttpRequest,
) -> awc::ClientRequest {
    let scheme = if gateway.nodes.dialer().tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", node.address);
    let mut asked = client.request(method, url).timeout(PATIENCE).no_decompress();
    for name in [AUTHORIZATION, CONTENT_TYPE, TRACESTATE] {
        if let Some(value) = request.headers().get(&name) {
            asked = asked.insert_header((name, value.clone()));
        }
    }
    if let Some(peer) = request.peer_addr() {
        let client = gateway.proxies.client(peer, request.headers());
        asked = asked.insert_header((X_FORWARDED_FOR, client.ip().to_string()));
    }
    asked
}

/// The span of a request that is handed on, if it is sampled.
fn begin(gateway: &Shared, request: &HttpRequest) -> Option<Active> {
    if !trace::enabled() {
        return None;
    }
    let asked = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let method = trace::method(request.method().as_str());
    // Which route it is only the node knows; the rest of the path may name anything.
    let name = || match request.path().strip_prefix("/api/v1/").and_then(|rest| rest.split('/').next()) {
        Some(resource) if RESOURCES.contains(&resource) => format!("{method} /api/v1/{resource}"),
        _ => format!("{method} /api"),
    };
    let span = trace::request(asked.and_then(TraceContext::parse), name)?;
    span.set("tickmesh.gateway", gateway.id.clone());
    span.set("http.request.method", method);
    Some(span)
}

fn end(span: Option<Active>, answer: HttpResponse) -> HttpResponse {
    if let Some(span) = span {
        span.set("http.response.status_code", i64::from(answer.status().as_u16()));
        if answer.status().is_server_error() {
            span.fail(answer.status().to_string());
        }
    }
    answer
}

/// What the node is told of the trace: the place of this span, or else what the client said; and if it said nothing, that it
/// was decided against, so that the node does not decide again.
fn parent(span: Option<&Active>, request: &HttpRequest) -> Option<HeaderValue> {
    let made = match (span, request.headers().get(TRACEPARENT)) {
        (Some(span), _) => span.context(),
        (None, Some(given)) => return Some(given.clone()),
        (None, None) if trace::enabled() => trace::unsampled(),
        (None, None) => return None,
    };
    HeaderValue::try_from(made.to_string()).ok()
}
