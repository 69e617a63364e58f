//! `GET /api/v1/alarms`: alarms on the cluster and their rules; `POST /api/v1/alarms/{id}/ack`.

use actix_web::{HttpResponse, web};
use serde_json::json;
use tickmesh_protocol::error::{ErrorCode, Failure};

use super::{ApiError, Caller, WorkerData};
use crate::alarms::{Acknowledged, evaluator_of};
use crate::clock;
use crate::peers::Question;

fn may(caller: &Caller) -> Result<(), ApiError> {
    if caller.0.anonymous_may_publish { Ok(()) } else { caller.may_operate() }
}

/// Alarms that fire and those that were over within the last hour, and all rules.
pub(super) async fn list(worker: WorkerData, caller: Caller) -> Result<HttpResponse, ApiError> {
    may(&caller)?;
    let alarms = worker.alarms.list(clock::now().utc).await.map_err(Failure::from)?;
    let config = worker.live.now();
    let on = config.alarms.enabled;
    let rules: Vec<_> = config
        .alarms
        .rule
        .iter()
        .map(|rule| {
            json!({
                "rule": rule.name, "severity": rule.severity, "enabled": on && rule.enabled,
                "threshold": rule.threshold, "clear": rule.clear, "unit": rule.name.unit(),
                "for_ms": rule.for_ms, "clear_for_ms": rule.clear_for_ms,
            })
        })
        .collect();
    let members = worker.peers.members();
    Ok(HttpResponse::Ok().json(json!({
        "alarms": alarms,
        "rules": rules,
        "evaluator": evaluator_of(&members),
    })))
}

/// The caller has seen an alarm: whoever looks after alarms notes it, here or on another node.
pub(super) async fn acknowledge(
    worker: WorkerData,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    may(&caller)?;
    let (id, user) = (id.into_inner(), caller.0.user_id);
    let mut answer = worker.alarms.acknowledge(id.clone(), user.clone()).await;
    if matches!(answer, Acknowledged::Elsewhere) {
        let question = Question::Acknowledge { alarm: id, user };
        let there = |answer: &Acknowledged| !matches!(answer, Acknowledged::Elsewhere);
        let asked = worker.peers.ask(&question, there).await;
        answer = asked.answers.into_iter().find(there).unwrap_or(Acknowledged::Elsewhere);
    }
    match answer {
        Acknowledged::Done(alarm) => Ok(HttpResponse::Ok().json(alarm)),
        Acknowledged::Unknown => Err(ApiError::absent(ErrorCode::InvalidParameters, "no such alarm fires")),
        Acknowledged::Elsewhere => {
            let text = "no node looks after alarms at the moment: try again in some seconds";
            Err(Failure::new(ErrorCode::ServiceUnavailable, text).into())
        }
    }
}
