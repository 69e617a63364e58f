//! `/api/v1/sessions`: the sessions of all nodes.
//!
//! A node that has a lease and gives no answer in time is named in `unanswered`: what it holds is not in the answer.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use tickmesh_protocol::error::Failure;

use super::{ApiError, Caller, WorkerData};
use crate::peers::{Question, Sessions};
use crate::session::SessionInfo;

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
    let question = Question::Sessions(limit);
    let (here, asked) =
        tokio::join!(worker.local().sessions(limit), worker.peers.ask(&question, |_: &Sessions| false));
    let (mut total, mut sessions) = (0, Vec::new());
    for part in asked.answers.into_iter().chain([here]) {
        total += part.total;
        sessions.extend(part.sessions);
    }
    sessions.sort_by(|a, b| a.session_id.cmp(&b.session_id));
    sessions.truncate(limit);
    Ok(HttpResponse::Ok().json(json!({ "total": total, "sessions": sessions, "unanswered": asked.silent })))
}

/// One session.
pub(super) async fn one(
    worker: WorkerData,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    if let Some(session) = worker.local().session(&id).await {
        return Ok(HttpResponse::Ok().json(session));
    }
    let found = Option::<SessionInfo>::is_some;
    let asked = worker.peers.ask(&Question::Session(id.to_string()), found).await;
    match asked.answers.into_iter().flatten().next() {
        Some(session) => Ok(HttpResponse::Ok().json(session)),
        None => Err(not_found(&asked.silent)),
    }
}

/// Ends a session with close code 4005.
pub(super) async fn disconnect(
    worker: WorkerData,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    let done = || HttpResponse::Ok().json(json!({ "session_id": *id, "status": "disconnected" }));
    if worker.local().disconnect(&id).await {
        return Ok(done());
    }
    let asked = worker.peers.ask(&Question::Disconnect(id.to_string()), |ended| *ended).await;
    if asked.answers.contains(&true) { Ok(done()) } else { Err(not_found(&asked.silent)) }
}

/// Nobody who answered has it.
fn not_found(silent: &[String]) -> ApiError {
    if silent.is_empty() {
        return ApiError::not_found("there is no such session");
    }
    Failure::unavailable(format!("nodes that gave no answer: {}", silent.join(", "))).into()
}
