//! `GET /api/v1/cluster`: who is there.

use actix_web::HttpResponse;
use serde_json::json;
use tickmesh_cluster::members::{Kind, Report};

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
