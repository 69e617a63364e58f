//! `GET` and `PUT /api/v1/log`: what this process writes to its log.

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use serde::Deserialize;
use serde_json::json;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_telemetry::log::{self, LevelError};

use super::{ApiError, Caller};

#[derive(Deserialize)]
struct Wanted {
    level: String,
}

fn fixed() -> Failure {
    Failure::new(ErrorCode::InvalidAction, LevelError::Fixed.to_string())
}

/// Operators, and everyone where `auth.anonymous = "full"`.
fn may(caller: &Caller) -> Result<(), ApiError> {
    if caller.0.anonymous_may_publish { Ok(()) } else { caller.may_operate() }
}

/// The filter that is in force.
pub(super) async fn level(caller: Caller) -> Result<HttpResponse, ApiError> {
    may(&caller)?;
    Ok(HttpResponse::Ok().json(json!({ "level": log::level().ok_or_else(fixed)? })))
}

/// Another filter, until the process ends or reads its configuration again.
pub(super) async fn set_level(caller: Caller, body: Bytes) -> Result<HttpResponse, ApiError> {
    may(&caller)?;
    let Wanted { level } =
        serde_json::from_slice(&body).map_err(|error| Failure::parameters(error.to_string()))?;
    match log::set_level(&level) {
        Ok(level) => Ok(HttpResponse::Ok().json(json!({ "level": level }))),
        Err(LevelError::Fixed) => Err(fixed().into()),
        Err(error @ LevelError::Bad(_)) => Err(Failure::parameters(format!("level: {error}")).into()),
    }
}
