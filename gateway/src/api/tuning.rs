//! `GET` and `PUT /api/v1/tuning`: what of this gateway's configuration is in force, and can be changed while it runs. Every
//! process has its own, so these are not handed to a node; but who may do it is asked of one.

use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use tickmesh_edge::tuning::wanted;

use super::log::allowed;
use crate::server::Shared;

/// What is in force.
pub(super) async fn show(
    gateway: web::Data<Shared>,
    client: web::ThinData<awc::Client>,
    request: HttpRequest,
) -> HttpResponse {
    if let Err(answer) = allowed(&gateway, &client, &request).await {
        return answer;
    }
    HttpResponse::Ok().json(gateway.live.shown())
}

/// Changes keys until the process ends or reads its configuration again.
pub(super) async fn change(
    gateway: web::Data<Shared>,
    client: web::ThinData<awc::Client>,
    request: HttpRequest,
    body: Bytes,
) -> HttpResponse {
    if let Err(answer) = allowed(&gateway, &client, &request).await {
        return answer;
    }
    match wanted(&gateway.live, &body) {
        Ok(()) => HttpResponse::Ok().json(gateway.live.shown()),
        Err(failure) => HttpResponse::BadRequest()
            .content_type("application/json")
            .body(tickmesh_edge::handshake::error_body(&failure)),
    }
}
