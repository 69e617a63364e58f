//! `GET` and `PUT /api/v1/log`: what this gateway writes to its log. Every process has its own, so these are not handed to a
//! node; but who may do it is asked of one, because nodes know which keys and tokens are void.

use actix_web::http::Method;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;
use tickmesh_telemetry::log::{self, LevelError};

use super::{ask, unavailable};
use crate::server::Shared;

/// Largest answer of a node that is read.
const MAX_ANSWER: usize = 64 * 1024;

#[derive(Deserialize)]
struct Me {
    operator: bool,
}

#[derive(Deserialize)]
struct Wanted {
    level: String,
}

/// Whether the caller is an operator, or may do everything anyway.
pub(super) async fn allowed(
    gateway: &Shared,
    client: &awc::Client,
    request: &HttpRequest,
) -> Result<(), HttpResponse> {
    let Some(node) = gateway.nodes.any() else { return Err(unavailable("there is no node")) };
    let asked = ask(gateway, client, &node, Method::GET, "/api/v1/me", request).send().await;
    let Ok(mut answer) = asked else { return Err(unavailable("the node did not answer")) };
    let status = answer.status();
    let Ok(body) = answer.body().limit(MAX_ANSWER).await else {
        return Err(unavailable("the node's answer was cut off"));
    };
    if !status.is_success() {
        return Err(HttpResponse::build(status).content_type("application/json").body(body));
    }
    match serde_json::from_slice(&body) {
        Ok(Me { operator: true }) => Ok(()),
        _ => Err(HttpResponse::Forbidden()
            .json(json!({ "error_code": "PERMISSION_DENIED", "error_message": "role operator is needed" }))),
    }
}

fn refused(error: &LevelError) -> HttpResponse {
    let (code, text) = match error {
        LevelError::Bad(_) => ("INVALID_PARAMETERS", format!("level: {error}")),
        LevelError::Fixed => ("INVALID_ACTION", error.to_string()),
    };
    HttpResponse::BadRequest().json(json!({ "error_code": code, "error_message": text }))
}

/// The filter that is in force.
pub(super) async fn level(
    gateway: web::Data<Shared>,
    client: web::ThinData<awc::Client>,
    request: HttpRequest,
) -> HttpResponse {
    if let Err(answer) = allowed(&gateway, &client, &request).await {
        return answer;
    }
    match log::level() {
        Some(level) => HttpResponse::Ok().json(json!({ "level": level })),
        None => refused(&LevelError::Fixed),
    }
}

/// Another filter, until the process ends or reads its configuration again.
pub(super) async fn set_level(
    gateway: web::Data<Shared>,
    client: web::ThinData<awc::Client>,
    request: HttpRequest,
    body: Bytes,
) -> HttpResponse {
    if let Err(answer) = allowed(&gateway, &client, &request).await {
        return answer;
    }
    let Wanted { level } = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return refused(&LevelError::Bad(error.to_string())),
    };
    match log::set_level(&level) {
        Ok(level) => HttpResponse::Ok().json(json!({ "level": level })),
        Err(error) => refused(&error),
    }
}
