//! The HTTP API of a node.
//!
//! Every error is JSON, `{"error_code","error_message"}`, with the status that belongs to the code.

mod alarms;
mod cluster;
mod credentials;
mod log;
mod market;
mod publish;
mod rooms;
mod sessions;
mod status;
mod tuning;
mod users;

use std::future::{Ready, ready};
use std::rc::Rc;

use actix_web::dev::Payload;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, web};
use tickmesh_edge::handshake::{bearer, error_body, retry_after};
use tickmesh_edge::rate::millis;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::{Identity, Role};
use tickmesh_protocol::session::too_fast;

use crate::clock;
use crate::worker::{Shared, Worker};

pub(crate) type WorkerData = web::ThinData<Rc<Worker>>;
pub(crate) type SharedData = web::Data<Shared>;

/// The route of the counters, here or on a listener of its own.
pub(crate) fn metrics_route(config: &mut web::ServiceConfig) {
    config.route("/metrics", web::get().to(status::metrics));
}

/// All other routes.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        // Some load balancers ask with HEAD.
        .route("/healthz", web::get().to(status::healthz))
        .route("/healthz", web::head().to(status::healthz))
        .route("/readyz", web::get().to(status::readyz))
        .route("/readyz", web::head().to(status::readyz))
        .route("/api/socketio-status", web::get().to(status::socketio))
        .route("/ws", web::get().to(status::upgrade_required))
        .service(
            web::scope("/api/v1")
                .route("/publish", web::post().to(publish::publish))
                .route("/rooms", web::get().to(rooms::list))
                .route("/rooms/{room}", web::get().to(rooms::one))
                .route("/rooms/{room}/history", web::get().to(rooms::history))
                .route("/rooms/{room}/presence", web::get().to(rooms::presence))
                .route("/users/{id}/notify", web::post().to(users::notify))
                .route("/nodes/{id}/{what}", web::post().to(cluster::drain))
                .route("/cluster", web::get().to(cluster::cluster))
                .route("/sessions", web::get().to(sessions::list))
                .route("/sessions/{id}", web::get().to(sessions::one))
                .route("/sessions/{id}", web::delete().to(sessions::disconnect))
                .route("/market/{symbol}", web::get().to(market::data))
                .route("/watchlist", web::get().to(market::watchlist))
                .route("/watchlist", web::post().to(market::watch))
                .route("/watchlist/{symbol}", web::delete().to(market::unwatch))
                .route("/alerts", web::get().to(market::alerts))
                .route("/alerts", web::post().to(market::create_alert))
                .route("/alerts/{id}", web::delete().to(market::delete_alert))
                .route("/alerts/hits/{id}/ack", web::post().to(market::acknowledge))
                .route("/keys", web::get().to(credentials::list_keys))
                .route("/keys", web::post().to(credentials::create_key))
                .route("/keys/{id}", web::delete().to(credentials::revoke_key))
                .route("/tokens/revoke", web::post().to(credentials::revoke_token))
                .route("/me", web::get().to(credentials::me))
                .route("/log", web::get().to(log::level))
                .route("/log", web::put().to(log::set_level))
                .route("/tuning", web::get().to(tuning::show))
                .route("/tuning", web::put().to(tuning::change))
                .route("/alarms", web::get().to(alarms::list))
                .route("/alarms/{id}/ack", web::post().to(alarms::acknowledge))
                .route("/audit", web::get().to(credentials::audit))
                .route("/stats", web::get().to(status::stats)),
        );
}

pub(crate) async fn not_found(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let text = format!("there is no {} {}", request.method(), request.path());
    Err(ApiError::absent(ErrorCode::InvalidAction, &text))
}

/// A failure as an HTTP answer.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub(crate) struct ApiError {
    status: StatusCode,
    failure: Failure,
}

impl ApiError {
    fn not_found(message: &str) -> Self {
        Self::absent(ErrorCode::RoomNotFound, message)
    }

    /// 404 with another code than that of rooms.
    fn absent(code: ErrorCode, message: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, failure: Failure::new(code, message) }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self { status: status_of(failure.code), failure }
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::AuthRequired | ErrorCode::AuthFailed | ErrorCode::AuthTokenExpired => {
            StatusCode::UNAUTHORIZED
        }
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::RoomNotFound => StatusCode::NOT_FOUND,
        ErrorCode::RateLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(ms) = retry_after_ms(&self.failure) {
            response.insert_header((header::RETRY_AFTER, retry_after(ms)));
        }
        response.insert_header((header::CONTENT_TYPE, "application/json")).body(error_body(&self.failure))
    }
}

/// When a failure says that it may be tried again.
fn retry_after_ms(failure: &Failure) -> Option<u64> {
    failure.details.as_ref()?.get("retry_after_ms")?.as_u64()
}

/// Counts a message that is published over HTTP: for its user or API key, or for the address of who has none.
fn count_publish(worker: &Worker, caller: &Identity, request: &HttpRequest) -> Result<(), Failure> {
    let who = || match caller.role {
        Role::Anonymous => request.peer_addr().map_or_else(String::new, |peer| {
            // No name of a user has a space.
            format!("from {}", worker.proxies.client(peer, request.headers()).ip())
        }),
        _ => caller.user_id.clone(),
    };
    worker.publish_pace.take(who).map_err(|wait| too_fast("publishes", millis(wait)))
}

/// Who calls.
pub(crate) struct Caller(pub(crate) Identity);

impl Caller {
    /// Operators, publishers, and everyone where `auth.anonymous = "full"`.
    fn may_look(&self) -> Result<(), ApiError> {
        let looks = matches!(self.0.role, Role::Operator | Role::Publisher) || self.0.anonymous_may_publish;
        if looks { Ok(()) } else { Err(denied("role operator or publisher is needed")) }
    }

    /// Operators only.
    fn may_operate(&self) -> Result<(), ApiError> {
        if self.0.role == Role::Operator { Ok(()) } else { Err(denied("role operator is needed")) }
    }
}

fn denied(message: &str) -> ApiError {
    Failure::new(ErrorCode::PermissionDenied, message).into()
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(web::ThinData(worker)) = request.app_data::<WorkerData>() else {
            return ready(Err(Failure::new(ErrorCode::InternalError, "no worker").into()));
        };
        let identity = worker.auth.identify(bearer(request.headers()), clock::now().utc);
        ready(identity.map(Caller).map_err(|error| Failure::from(error).into()))
    }
}
