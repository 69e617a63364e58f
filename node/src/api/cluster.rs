//! `GET /api/v1/cluster`: who is there; `POST /api/v1/nodes/{id}/drain` and `/resume`.

use actix_web::{HttpResponse, web};
use serde_json::json;
use tickmesh_cluster::members::{Kind, Report};
use tickmesh_protocol::error::{ErrorCode, Failure};

use super::{ApiError, Caller, WorkerData};

/// Nodes and gateways with their load.
pub(super) async fn cluster(worker: WorkerData, caller: Caller) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    let members = worker.peers.members();
    let of = |kind: Kind| members.iter().filter(|member| member.kind == kind).collect::<Vec<&Report>>();
    Ok(HttpResponse::Ok().json(json!({
        "node_id": worker.policy.node_id,
        "nodes": of(Kind::Node),
        "gateways": of(Kind::Gateway),
    })))
}

/// Has a node give its clients away and take no more, or take them again.
pub(super) async fn drain(
    worker: WorkerData,
    caller: Caller,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let anonymous_laptop = caller.0.anonymous_may_publish;
    if !anonymous_laptop {
        caller.may_operate()?;
    }
    let (id, what) = path.into_inner();
    let (draining, status) = match what.as_str() {
        "drain" => (true, "draining"),
        "resume" => (false, "up"),
        _ => {
            return Err(
                Failure::new(ErrorCode::InvalidAction, "a node can be told to drain or resume").into()
            );
        }
    };
    let known = |member: &Report| member.kind == Kind::Node && member.id == id;
    // This node knows itself, though it may never have reached the others.
    if id != worker.peers.id() && !worker.peers.members().iter().any(known) {
        return Err(ApiError::not_found("there is no such node"));
    }
    if id == worker.peers.id() {
        worker.connections.set_draining(draining);
        worker.peers.report_now().await;
    } else {
        worker.peers.drain(&id, draining).await;
    }
    Ok(HttpResponse::Accepted().json(json!({ "node_id": id, "status": status })))
}
