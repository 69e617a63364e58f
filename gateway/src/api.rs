//! What the gateway answers itself, and what it hands to a node.

use std::time::Duration;

use actix_web::http::header::{self, AUTHORIZATION, CONTENT_TYPE, X_FORWARDED_FOR};
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tickmesh_cluster::members::LeaseState;
use tickmesh_edge::metrics::Standing;

use crate::dial::Dialer;
use crate::server::Shared;

/// Longest wait for a node's answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests that are handed on at a time, by one thread.
pub(crate) const MAX_FORWARDED: usize = 100;
/// Largest answer that is handed on.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The routes.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(healthz))
        .route("/healthz", web::head().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/readyz", web::head().to(readyz))
        .route("/metrics", web::get().to(metrics))
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
fn not_ready(gateway: &Shared) -> Option<&'static str> {
    if gateway.connections.draining() {
        Some("draining")
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
    let unavailable = |text: &str| {
        HttpResponse::ServiceUnavailable()
            .json(json!({ "error_code": "SERVICE_UNAVAILABLE", "error_message": text }))
    };
    let Some(node) = gateway.nodes.any() else { return unavailable("there is no node") };
    let scheme = if gateway.nodes.dialer().tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}{}", node.address, request.uri());
    let mut forwarded = client.request(request.method().clone(), url).timeout(PATIENCE).no_decompress();
    for name in [AUTHORIZATION, CONTENT_TYPE] {
        if let Some(value) = request.headers().get(&name) {
            forwarded = forwarded.insert_header((name, value.clone()));
        }
    }
    if let Some(peer) = request.peer_addr() {
        let client = gateway.proxies.client(peer, request.headers());
        forwarded = forwarded.insert_header((X_FORWARDED_FOR, client.ip().to_string()));
    }
    match forwarded.send_body(body).await {
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
    }
}
