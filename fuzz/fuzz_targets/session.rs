//! A session that is told anything: it must answer or close, and stay within its bounds.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tickmesh_protocol::encode::Encoding;
use tickmesh_protocol::frame::Incoming;
use tickmesh_protocol::identity::Identity;
use tickmesh_protocol::message::History;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::Classes;
use tickmesh_protocol::session::{Command, Now, Policy, Presence, Reply, Session, Stitched, Wire};

fuzz_target!(|bytes: &[u8]| {
    let policy = Policy {
        node_id: "n".into(),
        classes: Classes::default(),
        max_message_bytes: 4_096,
        max_queue_bytes: 65_536,
        max_queue_age_ms: 0,
        min_ping_interval_ms: 5_000,
        max_subscriptions: 4,
        max_in_flight: 4,
        max_gate_messages: 4,
        rates: Default::default(),
        stale_ms: 0,
        ping_interval_ms: 30_000,
        ping_timeout_ms: 60_000,
        connect_timeout_ms: 45_000,
        market_prefix: "market_".into(),
        keeps_users: true,
    };
    let mut now = Now { mono: 0, utc: 1_700_000_000_000 };
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let policy = Arc::new(policy.clone());
        let mut session = Session::new(now, "s", policy.clone(), Identity::user("u"), Wire::direct(encoding));
        for part in bytes.split(|byte| *byte == 0) {
            now.mono += 1_000;
            match (encoding, std::str::from_utf8(part)) {
                (Encoding::Json, Ok(text)) => session.handle_incoming(now, &Incoming::Text(text)),
                _ => session.handle_incoming(now, &Incoming::Binary(part)),
            }
            while let Some((ticket, command)) = session.poll_command() {
                let position = Position { epoch: Epoch::new("e"), seq: 0 };
                let reply = match command {
                    Command::Subscribe { backfill: Some(_), .. } => Reply::Stitched(Ok(Stitched {
                        older: Vec::new(),
                        complete: true,
                        history: History { position, messages: Vec::new(), complete: true, began_at: 0 },
                    })),
                    Command::Subscribe { .. } | Command::History { .. } => Reply::History(Ok(History {
                        position,
                        messages: Vec::new(),
                        complete: true,
                        began_at: 0,
                    })),
                    Command::Publish(_) => Reply::Published(Ok(position)),
                    Command::Unpark(_) => Reply::Parked(None),
                    Command::Authenticate(_) | Command::Identify(_) => {
                        Reply::Identity(Ok(Identity::user("u")))
                    }
                    Command::Presence(_) => {
                        Reply::Presence(Ok(Presence { count: 1, users: vec!["u".into()] }))
                    }
                    Command::Ask { .. } => Reply::Data(Ok("{}".into())),
                    Command::Missed(_) => Reply::Missed(vec![r#"{"alert_id":1}"#.into()]),
                    Command::Unsubscribe(_) => continue,
                };
                session.handle_reply(now, ticket, reply);
            }
            session.handle_timeout(now);
            while let Some(sent) = session.poll_transmit(now) {
                assert!(!sent.is_empty());
            }
            assert_eq!(session.queued_bytes(), 0);
        }
        if !session.is_over() {
            let snapshot = session.snapshot();
            let again = Session::restore(now, policy, snapshot.clone(), false).snapshot();
            assert_eq!(snapshot, again);
        }
    }
});
