//! `/api/v1/sessions`: the sessions of this node.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use tickmesh_protocol::error::Failure;

use super::{ApiError, Caller, WorkerData};
use crate::hub::Request;

/// Sessions in one answer where the caller names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Most sessions in one answer.
const MAX_LIMIT: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct ListQuery {
    limit: Option<usize>,
}

/// Some sessions, and how many there are.
pub(super) async fn list(
    worker: WorkerData,
    caller: Caller,
    query: Result<web::Query<ListQuery>, actix_web::Error>,
) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    let query = query.map_err(|error| Failure::parameters(error.to_string()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Failure::parameters(format!("limit is {limit}; allowed is 1 to {MAX_LIMIT}")).into());
    }
    let mut sessions = Vec::new();
    for hub in &worker.hubs {
        let left = limit - sessions.len();
        sessions.extend(hub.ask(|reply| Request::Sessions(left, reply)).await.unwrap_or_default());
        sessions.truncate(limit);
    }
    Ok(HttpResponse::Ok().json(json!({ "total": worker.connections.open(), "sessions": sessions })))
}

/// One session.
pub(super) async fn one(
    worker: WorkerData,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    for hub in &worker.hubs {
        if let Some(Some(session)) = hub.ask(|reply| Request::Session(id.to_string(), reply)).await {
            return Ok(HttpResponse::Ok().json(session));
        }
    }
    Err(ApiError::not_found("there is no such session"))
}

/// Ends a session with close code 4005.
pub(super) async fn disconnect(
    worker: WorkerData,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    for hub in &worker.hubs {
        if hub.ask(|reply| Request::Disconnect(id.to_string(), reply)).await == Some(true) {
            return Ok(HttpResponse::Ok().json(json!({ "session_id": *id, "status": "disconnected" })));
        }
    }
    Err(ApiError::not_found("there is no such session"))
}
