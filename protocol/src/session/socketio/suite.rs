//! The test servers of the protocol documents, in so far as they are not what clients of rooms get
//! (<https://socket.io/docs/v4/socket-io-protocol/#test-suite>).

use bytes::{Bytes, BytesMut};

use crate::outbox::Kind as Sort;
use crate::socketio::packet::{self, Kind, Packet};

use super::super::{Now, Session};
use super::answer::put_packet;
use super::{Application, Face};

/// How long the event waits that follows an entry: the suite listens for the one when it has seen the other, and would miss
/// what it read together with it. Well below the ping interval, after which it takes a ping for the event.
const AUTH_DELAY_MS: u64 = 60;
/// How much sooner than announced a client on long-polling is given up that never said anything: the suite asks at the very
/// millisecond.
const EARLY_MS: u64 = 30;

/// An event that waits for its time, in milliseconds on the monotonic clock. One for each namespace at most.
#[derive(Debug)]
pub(super) struct Later {
    at: u64,
    namespace: Box<str>,
    text: String,
}

impl Face {
    /// How much sooner than the policy says this client is given up.
    pub(in crate::session) fn early_ms(&self) -> u64 {
        if self.mute && self.application != Application::Tickmesh { EARLY_MS } else { 0 }
    }
}

impl Session {
    pub(super) fn enter_suite(&mut self, now: Now, packet: &Packet<'_>) {
        let Some(face) = &mut self.face else { return };
        let namespace = packet.namespace;
        face.entered.push(namespace.into());
        face.enter_by = None;
        let auth = format!(r#"["auth",{}]"#, packet.data.unwrap_or("{}"));
        let text = packet::message(Kind::Event, 0, namespace, None, &auth);
        face.later.push(Later { at: now.mono + AUTH_DELAY_MS, namespace: namespace.into(), text });
        let sid = format!(r#"{{"sid":"{}{}"}}"#, self.id, if namespace == "/" { "" } else { "-c" });
        self.send(packet::message(Kind::Connect, 0, namespace, None, &sid).as_bytes());
    }

    /// When the next event is due.
    pub(in crate::session) fn suite_deadline(&self) -> Option<u64> {
        self.face.as_ref()?.later.iter().map(|later| later.at).min()
    }

    /// Sends the events that are due at this time.
    pub(in crate::session) fn send_later(&mut self, until: u64) {
        if self.ending.is_some() {
            return;
        }
        let Some(face) = &mut self.face else { return };
        let due: Vec<Later> = face.later.extract_if(.., |later| later.at <= until).collect();
        for later in due {
            self.send(later.text.as_bytes());
        }
    }

    pub(super) fn leave_suite(&mut self, namespace: &str) {
        if let Some(face) = &mut self.face {
            face.later.retain(|later| *later.namespace != *namespace);
        }
    }

    pub(super) fn answer_suite(
        &mut self,
        name: &str,
        arguments: &[&str],
        packet: &Packet<'_>,
        attachments: Vec<Bytes>,
    ) {
        // Who does not wait for it gets it first all the same.
        self.send_later(u64::MAX);
        let (kind, data) = match (name, packet.id) {
            ("message", _) => (
                Kind::Event,
                format!(
                    r#"["message-back"{}{}]"#,
                    if arguments.is_empty() { "" } else { "," },
                    arguments.join(",")
                ),
            ),
            ("message-with-ack", Some(_)) => (Kind::Ack, format!("[{}]", arguments.join(","))),
            _ => return,
        };
        let id = packet.id.filter(|_| kind == Kind::Ack);
        let mut out = BytesMut::new();
        put_packet(&mut out, kind, packet.namespace, id, &data, &attachments);
        self.push(out.freeze(), Sort::Answer, None, None);
    }
}
