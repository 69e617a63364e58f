//! `GET` and `PUT /api/v1/tuning`: what of the configuration is in force, and can be changed while the node runs.

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use tickmesh_edge::tuning::wanted;

use super::{ApiError, Caller, WorkerData};

/// Operators, and everyone where `auth.anonymous = "full"`.
fn may(caller: &Caller) -> Result<(), ApiError> {
    if caller.0.anonymous_may_publish { Ok(()) } else { caller.may_operate() }
}

/// What is in force.
pub(super) async fn show(worker: WorkerData, caller: Caller) -> Result<HttpResponse, ApiError> {
    may(&caller)?;
    Ok(HttpResponse::Ok().json(worker.live.shown()))
}

/// Changes keys until the process ends or reads its configuration again.
pub(super) async fn change(
    worker: WorkerData,
    caller: Caller,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    may(&caller)?;
    wanted(&worker.live, &body)?;
    Ok(HttpResponse::Ok().json(worker.live.shown()))
}
