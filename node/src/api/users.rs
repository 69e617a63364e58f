//! `POST /api/v1/users/{id}/notify`.

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::{Identity, Role};
use tickmesh_protocol::message::{Message, Publish};
use tickmesh_protocol::room::RoomName;
use tickmesh_telemetry::trace::Active;

use super::{ApiError, Caller, WorkerData, count_publish, denied};
use crate::worker::Worker;
use crate::{clock, trace};

#[derive(Deserialize)]
struct Notice<'a> {
    event: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    message_id: Option<String>,
}

/// Writes a notice into the log of the user's own room, and tells all the user's sessions on every node: those that
/// follow the room by it, in order, the others directly.
pub(super) async fn notify(
    worker: WorkerData,
    Caller(caller): Caller,
    user_id: web::Path<String>,
    request: HttpRequest,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    let span = trace::http(&worker.policy.node_id, "/api/v1/users/{id}/notify", &request);
    let answer = accept(&worker, &caller, &user_id, &request, &body, span.as_ref()).await;
    trace::answered(span, &answer);
    answer
}

async fn accept(
    worker: &Worker,
    caller: &Identity,
    user_id: &str,
    request: &HttpRequest,
    body: &Bytes,
    span: Option<&Active>,
) -> Result<HttpResponse, ApiError> {
    let tells = matches!(caller.role, Role::Operator | Role::Publisher) || caller.anonymous_may_publish;
    if !tells {
        return Err(denied("role operator or publisher is needed"));
    }
    let room = RoomName::of_user(user_id)
        .ok_or_else(|| Failure::parameters("a user id has characters of A-Z a-z 0-9 _ . : -"))?;
    let text = std::str::from_utf8(body)
        .map_err(|error| Failure::new(ErrorCode::InvalidMessageFormat, error.to_string()))?;
    let notice: Notice<'_> = serde_json::from_str(text)
        .map_err(|error| Failure::new(ErrorCode::InvalidMessageFormat, error.to_string()))?;
    let timestamp = clock::now().utc;
    // The same rules as for any message.
    let message = json!({ "room": room, "event": notice.event, "data": notice.data,
        "message_id": notice.message_id, "timestamp": timestamp });
    let publish = Publish::parse(&message.to_string())?;
    count_publish(worker, caller, request)?;
    let Publish { event, data, .. } = publish.clone();
    let mut publish = vec![publish];
    trace::mark(span, &mut publish);
    let kept = worker.publish(publish).await.pop();
    let unanswered = || Failure::new(ErrorCode::InternalError, "the broker gave no answer");
    let position = kept.ok_or_else(unanswered)?.map_err(Failure::from)?;
    let message =
        Message { seq: position.seq, timestamp, accepted_at: timestamp, event, key: None, data, trace: None };
    worker.peers.notify(user_id, room, position.epoch.clone(), message).await;
    Ok(HttpResponse::Ok().json(position))
}
