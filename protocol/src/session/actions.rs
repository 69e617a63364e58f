//! What a client can ask for.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::close::CloseCode;
use crate::encode::{self, Stamp};
use crate::error::{ErrorCode, Failure};
use crate::identity::{Identity, Role};
use crate::link::Change;
use crate::market::Ask;
use crate::message::{
    Body, ClientMessage, Fields, History, MAX_HISTORY, Message, Publish, Replay, Subscribe, parameters,
};
use crate::outbox::{Kind, Mark};
use crate::room::RoomName;
use crate::trace::TraceContext;

use super::socketio::Answer;
use super::subscription::Subscription;
use super::{Command, Now, Purpose, Session, Waiting};

#[derive(Deserialize)]
struct AuthPayload {
    token: String,
}

#[derive(Deserialize)]
struct HistoryPayload {
    room: RoomName,
    since_seq: Option<u64>,
    limit: Option<u64>,
}

#[derive(Deserialize)]
struct PresencePayload {
    room: RoomName,
}

/// Messages of a history answer where the client names no limit.
const DEFAULT_HISTORY: u64 = 100;

impl Session {
    pub(super) fn handle_message(&mut self, now: Now, message: ClientMessage<'_>) {
        let ClientMessage { request_id, trace_id, body } = message;
        // Of Socket.IO clients it may be missing.
        let request_id = Some(&*request_id).filter(|id| !id.is_empty());
        let stamp = Stamp { server_time: now.utc, request_id, trace_id: trace_id.as_deref() };
        let result = match body {
            Body::Ping { timestamp } => {
                self.pong(timestamp, now.utc);
                Ok(())
            }
            Body::Request { action, payload } => self.request(now, stamp, &action, payload),
            Body::Subscribe(options) => self.subscribe(now, stamp, &options),
            Body::Unsubscribe(room) => self.unsubscribe(stamp, room),
        };
        if let Err(failure) = result {
            self.fail(stamp, &failure);
        }
    }

    fn request(&mut self, now: Now, stamp: Stamp<'_>, action: &str, payload: &str) -> Result<(), Failure> {
        match action {
            "echo" => self.respond_raw(stamp, payload, None),
            "time" => self.respond(stamp, &json!({ "server_time": now.utc })),
            "rooms" => {
                let mut rooms: Vec<_> = self.rooms().collect();
                rooms.sort_unstable();
                let rooms: Vec<_> =
                    rooms.into_iter().map(|(room, seq)| json!({ "room": room, "seq": seq })).collect();
                self.respond(stamp, &json!({ "rooms": rooms }));
            }
            "stats" => self.respond(stamp, &self.stats(now)),
            "auth" => {
                let AuthPayload { token } = serde_json::from_str(payload).map_err(parameters)?;
                self.command(wait(stamp, Purpose::Authenticate), Command::Authenticate(token));
            }
            "publish" => {
                let mut publish = Publish::parse(payload)?;
                publish.trace = stamp.trace_id.and_then(TraceContext::of_message).map(Box::new);
                if let Some(done) = self.number {
                    // It may be asked again at another node, and must not count twice.
                    publish.message_id.get_or_insert_with(|| format!("~{}.{}", self.id, done.first).into());
                }
                if !self.policy.classes.may_publish(&self.identity, &publish.room) {
                    return Err(denied("publish into", &publish.room));
                }
                self.count_publish(now)?;
                self.command(wait(stamp, Purpose::Publish), Command::Publish(publish));
            }
            "history" => self.history(stamp, payload)?,
            "presence" => self.presence(stamp, payload)?,
            other => {
                let Some(ask) = Ask::parse(other, payload) else {
                    let other: String = other.chars().take(64).collect();
                    let text = format!("there is no action `{other}`");
                    return Err(Failure::new(ErrorCode::InvalidAction, text));
                };
                let ask = ask?;
                ask.check(&self.identity, &self.policy.classes, &self.policy.market_prefix)?;
                let user_id = self.identity.user_id.clone();
                self.command(wait(stamp, Purpose::Ask), Command::Ask { user_id, ask });
            }
        }
        Ok(())
    }

    /// A user is here, who may have missed something.
    pub(super) fn ask_missed(&mut self, now: Now) {
        if self.policy.keeps_users && self.identity.role != Role::Anonymous {
            let stamp = Stamp { server_time: now.utc, request_id: None, trace_id: None };
            // This answers nothing that the client has asked.
            let number = self.number.take();
            let user_id = self.identity.user_id.clone();
            self.command(wait(stamp, Purpose::Missed(user_id.clone())), Command::Missed(user_id));
            self.number = number;
        }
    }

    /// Tells the client what this user missed, if it is still theirs. To who follows the user's room these are notices of no
    /// room: they have no place in the order of its messages.
    pub(super) fn missed(&mut self, now: Now, user_id: &str, hits: &[String]) {
        let here = self.identity.role != Role::Anonymous && self.identity.user_id == user_id;
        let Some(room) = RoomName::of_user(user_id).filter(|_| here && !self.is_outside()) else { return };
        let room = if self.subscriptions.contains_key(&room) { "" } else { room.as_str() };
        for hit in hits {
            let Ok(data) = serde_json::from_str::<Box<RawValue>>(hit) else { continue };
            self.counters.notifications_out += 1;
            let json = match &self.face {
                Some(_) => encode::socketio_message(room, "alert", 0, now.utc, &data),
                None => encode::notice(room, "alert", 0, now.utc, &data),
            };
            self.push(encode::frame_json(&json, self.wire.encoding), Kind::Live(Mark::default()), None, None);
        }
    }

    fn history(&mut self, stamp: Stamp<'_>, payload: &str) -> Result<(), Failure> {
        let HistoryPayload { room, since_seq, limit } = serde_json::from_str(payload).map_err(parameters)?;
        if !self.policy.classes.may_subscribe(&self.identity, &room) {
            return Err(denied("read", &room));
        }
        let replay = history_replay(since_seq, limit)?;
        let purpose = Purpose::History { room: room.clone() };
        self.command(wait(stamp, purpose), Command::History { room, replay });
        Ok(())
    }

    fn presence(&mut self, stamp: Stamp<'_>, payload: &str) -> Result<(), Failure> {
        let PresencePayload { room } = serde_json::from_str(payload).map_err(parameters)?;
        self.policy.classes.check_presence(&self.identity, &room)?;
        self.command(wait(stamp, Purpose::Presence), Command::Presence(room));
        Ok(())
    }

    pub(super) fn subscribe(
        &mut self,
        now: Now,
        stamp: Stamp<'_>,
        options: &Subscribe,
    ) -> Result<(), Failure> {
        let room = &options.room;
        if !self.policy.classes.may_subscribe(&self.identity, room) {
            return Err(denied("subscribe to", room));
        }
        if self.subscriptions.contains_key(room) {
            let failure = Failure::new(ErrorCode::AlreadySubscribed, "the session follows this room already");
            return Err(failure.with_details(json!({ "room": room })));
        }
        let limit = self.policy.max_subscriptions;
        if self.subscriptions.len() >= limit {
            let failure = Failure::new(ErrorCode::SubscriptionFailed, "too many subscriptions");
            return Err(failure.with_details(json!({ "room": room, "max_subscriptions": limit })));
        }
        self.count_subscribe(now)?;
        let mut subscription = Subscription::new(options, self.next_slot, self.answers_stream());
        self.next_slot += 1;
        let purpose = Purpose::Subscribe { room: room.clone(), respond: true };
        let (replay, backfill) = (options.replay.clone(), options.backfill);
        let command = Command::Subscribe { room: room.clone(), replay, backfill };
        subscription.await_reply(self.command(wait(stamp, purpose), command));
        self.subscriptions.insert(room.clone(), Box::new(subscription));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, stamp: Stamp<'_>, room: RoomName) -> Result<(), Failure> {
        let Some(subscription) = self.subscriptions.remove(&room) else {
            let failure = Failure::new(ErrorCode::RoomNotFound, "the session does not follow this room");
            return Err(failure.with_details(json!({ "room": room })));
        };
        self.left(&room);
        self.stopped(subscription.slot());
        let data = json!({ "room": room, "status": "unsubscribed" });
        self.respond_raw(stamp, &data.to_string(), Some(Change::Left(subscription.slot())));
        self.forget(room);
        Ok(())
    }

    /// Forgets what of the room was to be sent.
    pub(super) fn left(&mut self, room: &RoomName) {
        self.unschedule(room);
        if let Some(shaper) = &mut self.shaper {
            shaper.forget(room);
        }
    }

    /// Forgets when the room's conflated messages were due: a new subscription schedules its own.
    pub(super) fn unschedule(&mut self, room: &RoomName) {
        self.due.retain(|due| due != room);
        self.held.retain(|held| held.0.1 != *room);
    }

    /// A token was checked: takes its identity, and ends what that may not follow.
    pub(super) fn renewed(&mut self, now: Now, stamp: Stamp<'_>, identity: Identity) {
        if self.identity.role != Role::Anonymous && self.identity.user_id != identity.user_id {
            let failure = Failure::new(ErrorCode::PermissionDenied, "the token is of another user");
            return self.fail(stamp, &failure);
        }
        let is_new = self.identity.role == Role::Anonymous;
        self.identity = identity;
        if is_new {
            self.ask_missed(now);
        }
        let data = json!({ "user_id": self.identity.user_id, "expires_at": self.identity.expires_at });
        let change = Change::Identity(Box::new(self.identity.clone()));
        self.respond_raw(stamp, &data.to_string(), Some(change));
        let classes = &self.policy.classes;
        let lost: Vec<RoomName> = self
            .subscriptions
            .keys()
            .filter(|room| !classes.may_subscribe(&self.identity, room))
            .cloned()
            .collect();
        for room in lost {
            let left = self.subscriptions.remove(&room).map(|left| Change::Left(left.slot()));
            self.left(&room);
            let stamp = Stamp { server_time: now.utc, request_id: None, trace_id: None };
            self.tell_error(stamp, &denied("follow", &room), left);
            self.forget(room);
        }
    }

    fn stats(&self, now: Now) -> serde_json::Value {
        let counters = self.counters;
        json!({
            "session_id": self.id,
            "node_id": self.policy.node_id,
            "connected_at": self.connected_utc,
            "connected_ms": now.utc.saturating_sub(self.connected_utc),
            "subscriptions": self.subscriptions.len(),
            "messages_in": counters.messages_in,
            "notifications_out": counters.notifications_out,
            "bytes_out": counters.bytes_out,
            "conflated": counters.conflated,
            "errors": counters.errors,
            "queued_bytes": self.queued_bytes(),
            "round_trip_ms": self.round_trip_ms,
            "smoothed_round_trip_ms": self.quality.smoothed().map(|(smoothed, _)| smoothed),
            "round_trip_variation_ms": self.quality.smoothed().map(|(_, variation)| variation),
            "quality": self.quality(now),
        })
    }

    /// An operator ends the connection.
    pub fn disconnect(&mut self) {
        self.close(CloseCode::Disconnected);
    }
}

pub(super) fn wait(stamp: Stamp<'_>, purpose: Purpose) -> Waiting {
    Waiting {
        request_id: stamp.request_id.unwrap_or_default().into(),
        trace_id: stamp.trace_id.map(Into::into),
        purpose,
        number: None,
        answer: Answer::default(),
    }
}

fn denied(what: &str, room: &RoomName) -> Failure {
    Failure::new(ErrorCode::PermissionDenied, format!("may not {what} this room"))
        .with_details(json!({ "room": room }))
}

/// Which part of the log `history` with these parameters is.
///
/// # Errors
/// When the limit is 0 or above [`MAX_HISTORY`].
pub fn history_replay(since_seq: Option<u64>, limit: Option<u64>) -> Result<Replay, Failure> {
    let limit = limit.unwrap_or(DEFAULT_HISTORY);
    if !(1..=MAX_HISTORY as u64).contains(&limit) {
        return Err(Failure::parameters(format!("limit is {limit}; allowed is 1 to {MAX_HISTORY}")));
    }
    Ok(match since_seq {
        Some(seq) => Replay::Since { seq, limit: limit as usize },
        None => Replay::Last(limit as usize),
    })
}

/// The `data` of an answer that carries messages of a room; `recovered` is told to subscribers only.
#[must_use]
pub fn history_data(
    room: &RoomName,
    history: &History,
    server_time: u64,
    recovered: Option<bool>,
    fields: Option<&Fields>,
) -> String {
    let mut out = format!(
        r#"{{"room":"{room}","epoch":{},"seq":{},"#,
        serde_json::json!(history.position.epoch),
        history.position.seq
    );
    if let Some(recovered) = recovered {
        out.push_str(if recovered { r#""recovered":true,"# } else { r#""recovered":false,"# });
    }
    out.push_str(r#""messages":["#);
    put_notifications(&mut out, room, &history.messages, server_time, fields);
    out.push_str("]}");
    out
}

/// Adds to such data what comes before its messages.
pub(super) fn put_backfill(
    data: &mut String,
    room: &RoomName,
    older: &[Arc<Message>],
    complete: bool,
    server_time: u64,
    fields: Option<&Fields>,
) {
    data.pop();
    data.push_str(if complete { r#","backfill_complete":true"# } else { r#","backfill_complete":false"# });
    data.push_str(r#","backfill":["#);
    put_notifications(data, room, older, server_time, fields);
    data.push_str("]}");
}

fn put_notifications(
    out: &mut String,
    room: &RoomName,
    messages: &[Arc<Message>],
    server_time: u64,
    fields: Option<&Fields>,
) {
    for (n, message) in messages.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        let json = encode::notification(room, message, server_time, fields);
        // Notifications are made from strings and JSON text.
        out.push_str(std::str::from_utf8(&json).unwrap_or("null"));
    }
}
