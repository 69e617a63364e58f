//! Health, metrics and counters.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tickmesh_protocol::error::ErrorCode;

use super::{ApiError, Caller, SharedData, WorkerData};
use crate::clock;

/// The process is alive.
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// The node takes clients.
pub(super) async fn readyz(worker: WorkerData) -> HttpResponse {
    match worker.not_ready() {
        Some(reason) => HttpResponse::ServiceUnavailable().json(json!({ "status": reason })),
        None => HttpResponse::Ok().json(json!({ "status": "ready" })),
    }
}

/// The counters in the Prometheus exposition format.
pub(super) async fn metrics(node: SharedData, request: HttpRequest) -> HttpResponse {
    tickmesh_edge::metrics::answer(&request, &node.registry, node.standing())
}

/// What the system that this one replaces answered at this address.
pub(super) async fn socketio(worker: WorkerData) -> HttpResponse {
    let status = if worker.connections.draining() { "draining" } else { "active" };
    HttpResponse::Ok().json(json!({
        "status": status,
        "connections": worker.connections.open(),
        "server_time": clock::now().utc,
    }))
}

/// `/ws` without an upgrade.
pub(super) async fn upgrade_required() -> HttpResponse {
    HttpResponse::UpgradeRequired()
        .insert_header((header::UPGRADE, "websocket"))
        .json(json!({ "error_code": ErrorCode::InvalidMessageFormat,
            "error_message": "this address speaks WebSocket" }))
}

/// The counters of this node as JSON.
pub(super) async fn stats(worker: WorkerData, caller: Caller) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    let metrics = &worker.metrics;
    let now = clock::now().utc;
    Ok(HttpResponse::Ok().json(json!({
        "node_id": worker.policy.node_id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": now.saturating_sub(worker.started_at),
        "server_time": now,
        "draining": worker.connections.draining(),
        "connections": worker.connections.open(),
        "sessions": metrics.sessions(),
        "published_messages": metrics.published(),
        "publish_errors": metrics.publish_errors(),
        "fanout_messages": metrics.fanout.messages.get(),
        "deliveries": metrics.deliveries.get(),
        "sent_bytes": metrics.sent_bytes(),
        "broker_queue_overflows": metrics.missed.get(),
        "log_repairs": metrics.repairs.get(),
        "log_repairs_failed": metrics.unrepaired.get(),
        "memory": {
            "level": worker.memory.level(),
            "used_bytes": worker.memory.used(),
            "limit_bytes": worker.memory.limit(),
        },
        "tuning": worker.live.shown(),
    })))
}
