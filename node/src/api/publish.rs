//! `POST /api/v1/publish`.

use actix_web::http::{StatusCode, header};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tickmesh_edge::handshake::retry_after;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::Identity;
use tickmesh_protocol::message::Publish;
use tickmesh_telemetry::trace::Active;

use super::{ApiError, Caller, WorkerData, count_publish, retry_after_ms, status_of};
use crate::worker::Worker;
use crate::{market, trace};

#[derive(Deserialize)]
struct Many<'a> {
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

/// Publishes one message, or several in order. One that is refused does not hold up the others.
pub(super) async fn publish(
    worker: WorkerData,
    Caller(caller): Caller,
    request: HttpRequest,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    let span = trace::http(&worker.policy.node_id, "/api/v1/publish", &request);
    let answer = accept(&worker, &caller, &request, &body, span.as_ref()).await;
    trace::answered(span, &answer);
    answer
}

async fn accept(
    worker: &Worker,
    caller: &Identity,
    request: &HttpRequest,
    body: &Bytes,
    span: Option<&Active>,
) -> Result<HttpResponse, ApiError> {
    let format = |message: String| Failure::new(ErrorCode::InvalidMessageFormat, message);
    let text = std::str::from_utf8(body).map_err(|error| format(error.to_string()))?;
    let many: Many<'_> = serde_json::from_str(text).map_err(|error| format(error.to_string()))?;
    let texts: Vec<&str> = match &many.messages {
        Some(messages) => messages.iter().map(|message| message.get()).collect(),
        None => vec![text],
    };
    let most = worker.live.now().limits.max_publish_batch;
    if texts.len() > most {
        let text = format!("{} messages; at most {most} at a time", texts.len());
        return Err(Failure::parameters(text).into());
    }
    let check = |text: &str| {
        let publish = Publish::parse(text)?;
        if !worker.policy.classes.may_publish(caller, &publish.room) {
            return Err(Failure::new(ErrorCode::PermissionDenied, "may not publish into this room"));
        }
        market::check(&worker.policy.classes, &publish)?;
        count_publish(worker, caller, request)?;
        Ok(publish)
    };
    let mut good = Vec::with_capacity(texts.len());
    let checked: Vec<Result<(), Failure>> =
        texts.into_iter().map(|text| check(text).map(|publish| good.push(publish))).collect();
    checked.iter().filter(|message| message.is_err()).for_each(|_| worker.metrics.refused_to_publish());
    let rooms: Vec<_> = good.iter().map(|publish| publish.room.clone()).collect();
    trace::mark(span, &mut good);
    let mut answers = worker.publish(good).await.into_iter().zip(rooms);
    let mut worst = StatusCode::OK;
    let mut wait = None;
    let mut kept = 0;
    let mut results: Vec<Value> = Vec::with_capacity(checked.len());
    for message in checked {
        let answer = message.and_then(|()| match answers.next() {
            Some((answer, room)) => {
                answer.map(|position| (position, worker.peers.subscribers(&room))).map_err(Failure::from)
            }
            None => Err(Failure::new(ErrorCode::InternalError, "the broker gave no answer")),
        });
        results.push(match answer {
            Ok((position, subscribers)) => {
                kept += 1;
                json!({ "seq": position.seq, "epoch": position.epoch, "subscribers": subscribers })
            }
            Err(failure) => {
                worst = worst.max(status_of(failure.code));
                wait = wait.max(retry_after_ms(&failure));
                let mut answer = json!({ "error_code": failure.code, "error_message": failure.message });
                if let Some(details) = failure.details {
                    answer["error_details"] = details;
                }
                answer
            }
        });
    }
    // Some kept is an answer of its own; none kept is an error as a whole.
    let status = if kept > 0 || results.is_empty() { StatusCode::OK } else { worst };
    let mut response = HttpResponse::build(status);
    if let Some(ms) = wait.filter(|_| status == StatusCode::TOO_MANY_REQUESTS) {
        response.insert_header((header::RETRY_AFTER, retry_after(ms)));
    }
    Ok(response.json(json!({ "results": results })))
}
