//! Market data, watchlists and alerts over HTTP: the same questions, rules and answers as the actions of a session.

use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::market::{AlertSpec, Ask, MarketFields, Symbol};

use super::{ApiError, Caller, WorkerData};

type Answer = Result<HttpResponse, ApiError>;

async fn answer(worker: &WorkerData, Caller(caller): Caller, ask: Ask) -> Answer {
    ask.check(&caller, &worker.policy.classes, &worker.policy.market_prefix)?;
    let body = worker.answer(&caller.user_id, ask).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(body))
}

fn text(body: &Bytes) -> Result<&str, Failure> {
    std::str::from_utf8(body)
        .map_err(|error| Failure::new(ErrorCode::InvalidMessageFormat, error.to_string()))
}

/// `GET /market/{symbol}?data_type=..`
pub(super) async fn data(
    worker: WorkerData,
    caller: Caller,
    symbol: web::Path<String>,
    query: Result<web::Query<MarketFields>, actix_web::Error>,
) -> Answer {
    let mut fields = query.map_err(|error| Failure::parameters(error.to_string()))?.into_inner();
    fields.symbol = Some(symbol.into_inner());
    let query = fields.checked()?;
    answer(&worker, caller, Ask::MarketData(query)).await
}

/// `GET /watchlist`
pub(super) async fn watchlist(worker: WorkerData, caller: Caller) -> Answer {
    answer(&worker, caller, Ask::Watchlist).await
}

#[derive(Deserialize)]
struct Watched {
    symbol: String,
}

/// `POST /watchlist` `{"symbol"}`
pub(super) async fn watch(worker: WorkerData, caller: Caller, body: Bytes) -> Answer {
    let watched: Watched =
        serde_json::from_str(text(&body)?).map_err(|error| Failure::parameters(error.to_string()))?;
    answer(&worker, caller, Ask::Watch(Symbol::new(&watched.symbol)?)).await
}

/// `DELETE /watchlist/{symbol}`
pub(super) async fn unwatch(worker: WorkerData, caller: Caller, symbol: web::Path<String>) -> Answer {
    answer(&worker, caller, Ask::Unwatch(Symbol::new(&symbol)?)).await
}

/// `GET /alerts`
pub(super) async fn alerts(worker: WorkerData, caller: Caller) -> Answer {
    answer(&worker, caller, Ask::Alerts).await
}

/// `POST /alerts` `{"symbol","field","op","value","once"?}`
pub(super) async fn create_alert(worker: WorkerData, caller: Caller, body: Bytes) -> Answer {
    let spec = AlertSpec::parse(text(&body)?)?;
    answer(&worker, caller, Ask::CreateAlert(spec)).await
}

fn id(path: &str) -> Result<u64, Failure> {
    path.parse().map_err(|_| Failure::parameters("an id is a number"))
}

/// `DELETE /alerts/{id}`
pub(super) async fn delete_alert(worker: WorkerData, caller: Caller, path: web::Path<String>) -> Answer {
    answer(&worker, caller, Ask::DeleteAlert(id(&path)?)).await
}

/// `POST /alerts/hits/{id}/ack`
pub(super) async fn acknowledge(worker: WorkerData, caller: Caller, path: web::Path<String>) -> Answer {
    answer(&worker, caller, Ask::AcknowledgeHit(id(&path)?)).await
}
