//! `GET /api/v1/rooms` and below.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::message::Replay;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::{history_data, history_replay};
use tickmesh_protocol::vitals;

use super::{ApiError, Caller, WorkerData, denied};
use crate::clock;

/// All rooms that have a log, but those in which the cluster tells of itself: they are there always, and nobody's.
pub(super) async fn list(worker: WorkerData, caller: Caller) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    let counts = worker.peers.followed();
    let mut rooms = worker.broker.rooms().await.map_err(Failure::from)?;
    rooms.retain(|(room, _)| !vitals::ROOMS.contains(&room.as_str()));
    rooms.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let rooms: Vec<_> = rooms
        .into_iter()
        .map(|(room, position)| {
            let subscribers = counts.get(&room).copied().unwrap_or(0);
            json!({ "room": room, "epoch": position.epoch, "seq": position.seq, "subscribers": subscribers })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "rooms": rooms })))
}

fn room_name(text: &str) -> Result<RoomName, ApiError> {
    RoomName::new(text).map_err(|error| Failure::parameters(error.to_string()).into())
}

/// One room.
pub(super) async fn one(
    worker: WorkerData,
    caller: Caller,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may_look()?;
    let room = room_name(&path)?;
    let position = worker.broker.history(&room, Replay::Nothing).await.map_err(Failure::from)?.position;
    let nodes = worker.peers.subscribers_by_node(&room);
    if position.seq == 0 && nodes.is_empty() {
        return Err(ApiError::not_found("nobody uses this room"));
    }
    Ok(HttpResponse::Ok().json(json!({
        "room": room,
        "epoch": position.epoch,
        "seq": position.seq,
        "subscribers": nodes.iter().map(|(_, count)| count).sum::<u64>(),
        "nodes": nodes.into_iter().collect::<BTreeMap<_, _>>(),
    })))
}

/// Who is in a room.
pub(super) async fn presence(
    worker: WorkerData,
    Caller(caller): Caller,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let room = room_name(&path)?;
    worker.policy.classes.check_presence(&caller, &room)?;
    Ok(HttpResponse::Ok().json(worker.presence(&room).await))
}

#[derive(Deserialize)]
pub(super) struct HistoryQuery {
    since_seq: Option<u64>,
    limit: Option<u64>,
}

/// Messages of a room's log.
pub(super) async fn history(
    worker: WorkerData,
    Caller(caller): Caller,
    path: web::Path<String>,
    query: Result<web::Query<HistoryQuery>, actix_web::Error>,
) -> Result<HttpResponse, ApiError> {
    let room = room_name(&path)?;
    if !worker.policy.classes.may_subscribe(&caller, &room) {
        return Err(denied("may not read this room"));
    }
    let query = query.map_err(|error| Failure::parameters(error.to_string()))?;
    let replay: Replay = history_replay(query.since_seq, query.limit)?;
    let history = worker.broker.history(&room, replay).await.map_err(Failure::from)?;
    if history.position.seq == 0 {
        let failure = Failure::new(ErrorCode::RoomNotFound, "nobody has published into this room");
        return Err(failure.into());
    }
    let body = history_data(&room, &history, clock::now().utc, None, None);
    Ok(HttpResponse::Ok().content_type("application/json").body(body))
}
