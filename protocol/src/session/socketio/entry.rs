//! How a Socket.IO client enters the namespace, perhaps to where it was, and leaves it.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

use crate::encode::Stamp;
use crate::error::Failure;
use crate::frame::{self, Opcode};
use crate::identity::Identity;
use crate::link::Change;
use crate::message::parameters;
use crate::outbox::Kind as Sort;
use crate::room::RoomName;
use crate::shape::check_bandwidth;
use crate::socketio::packet::{self, Kind, Packet};

use super::super::actions::wait;
use super::super::recovery::Sent;
use super::super::{Command, Now, Occurrence, Parked, Purpose, Session};
use super::Application;

/// A client's wish to enter.
#[derive(Debug)]
pub(in crate::session) struct Entry {
    pid: Option<String>,
    offset: Option<String>,
    batch: bool,
    max_bandwidth: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConnectPayload {
    token: Option<String>,
    batch: bool,
    max_bandwidth: Option<u64>,
    pid: Option<String>,
    offset: Option<String>,
}

impl Session {
    pub(super) fn handle_connect(&mut self, now: Now, packet: &Packet<'_>) {
        let Some(face) = &mut self.face else { return };
        let namespace = packet.namespace;
        if !face.knows(namespace) {
            let refusal =
                packet::message(Kind::ConnectError, 0, namespace, None, r#"{"message":"Invalid namespace"}"#);
            return self.send(refusal.as_bytes());
        }
        if face.entering || face.has_entered(namespace) {
            return;
        }
        if face.application == Application::SocketIoSuite {
            return self.enter_suite(now, packet);
        }
        let payload: ConnectPayload = match serde_json::from_str(packet.data.unwrap_or("{}")) {
            Ok(payload) => payload,
            Err(error) => return self.refuse_entry(&parameters(error)),
        };
        if let Some(rate) = payload.max_bandwidth
            && let Err(failure) = check_bandwidth(rate)
        {
            return self.refuse_entry(&failure);
        }
        let credential = payload.token.filter(|token| !token.is_empty()).or_else(|| face.credential.clone());
        face.entering = true;
        let entry = Entry {
            pid: payload.pid,
            offset: payload.offset,
            batch: payload.batch,
            max_bandwidth: payload.max_bandwidth,
        };
        let stamp = Stamp { server_time: now.utc, request_id: None, trace_id: None };
        self.command(wait(stamp, Purpose::Connect(entry)), Command::Identify(credential));
    }

    /// The credential was judged.
    pub(in crate::session) fn identified(
        &mut self,
        now: Now,
        stamp: Stamp<'_>,
        entry: Entry,
        result: Result<Identity, Failure>,
    ) {
        match result {
            Err(failure) => {
                self.failed(failure.code);
                self.refuse_entry(&failure);
            }
            Ok(identity) => match entry.pid.clone() {
                Some(pid) if entry.offset.is_some() => {
                    let purpose = Purpose::Resume(entry, Box::new(identity));
                    self.command(wait(stamp, purpose), Command::Unpark(pid));
                }
                _ => self.enter(now, &entry, identity, None),
            },
        }
    }

    fn refuse_entry(&mut self, failure: &Failure) {
        let Some(face) = &mut self.face else { return };
        face.entering = false;
        let data = json!({ "message": failure.message, "data": { "error_code": failure.code } });
        self.send(packet::message(Kind::ConnectError, 0, "/", None, &data.to_string()).as_bytes());
    }

    /// The client is let in, and back to where it was if that is known.
    pub(in crate::session) fn enter(
        &mut self,
        now: Now,
        entry: &Entry,
        identity: Identity,
        parked: Option<Parked>,
    ) {
        let offset = entry.offset.as_deref().unwrap_or_default();
        let recovered = parked
            .filter(|parked| parked.snapshot.identity.user_id == identity.user_id)
            .and_then(|parked| parked.reached(offset));
        if entry.offset.is_some() {
            self.occurrences.push(Occurrence::Recovered { complete: recovered.is_some() });
        }
        self.identity = identity;
        self.wire.batch |= entry.batch;
        if let Some(rate) = entry.max_bandwidth {
            self.limit_bandwidth(rate);
        }
        if let Some(face) = &mut self.face {
            face.entering = false;
            face.enter_by = None;
            face.credential = None;
            if recovered.is_some() {
                face.pid = entry.pid.clone();
            }
            face.entered.push("/".into());
        }
        let classes = &self.policy.classes;
        let may = |room: &RoomName| classes.may_subscribe(&self.identity, room);
        let held: Vec<_> = recovered.into_iter().flatten().filter(|held| may(&held.room)).collect();
        for held in held {
            self.follow(held);
        }
        let mut sid = json!({ "sid": &*self.id });
        if let Some(pid) = self.face.as_ref().and_then(|face| face.pid.as_deref()) {
            sid["pid"] = pid.into();
        }
        let hello = packet::message(Kind::Connect, 0, "/", None, &sid.to_string());
        let status =
            json!(["connect_response", { "status": "connected", "sid": &*self.id, "server_time": now.utc }]);
        let status = packet::message(Kind::Event, 0, "/", None, &status.to_string());
        let began = self.wire.linked.then(|| Change::Began(Box::new(self.snapshot())));
        let mut out = BytesMut::with_capacity(hello.len() + status.len() + 8);
        frame::put_frame(&mut out, Opcode::Text, hello.as_bytes());
        frame::put_frame(&mut out, Opcode::Text, status.as_bytes());
        self.push(out.freeze(), Sort::Answer, None, began);
        self.ask_missed(now);
    }

    pub(super) fn handle_disconnect(&mut self, now: Now, namespace: &str) {
        let timeout = self.policy.connect_timeout_ms;
        let Some(face) = &mut self.face else { return };
        face.entered.retain(|entered| **entered != *namespace);
        if face.entered.is_empty() {
            // Clients close the connection when they have left all namespaces.
            face.enter_by = Some(now.mono + timeout);
        }
        if face.application != Application::Tickmesh {
            return self.leave_suite(namespace);
        }
        if namespace != "/" {
            return;
        }
        (face.pid, face.sent) = (None, Sent::default());
        let rooms: Vec<RoomName> = self.subscriptions.keys().cloned().collect();
        for room in rooms {
            self.subscriptions.remove(&room);
            self.left(&room);
            self.forget(room);
        }
        self.identity = Identity::anonymous();
        let began = self.wire.linked.then(|| Change::Began(Box::new(self.snapshot())));
        self.push(Bytes::new(), Sort::Answer, None, began);
    }
}
