//! The session machine against an invented clock and a log that the test holds.

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::batch::Batch;
use crate::identity::Role;
use crate::message::{History, Message, Replay};
use crate::position::{Epoch, Position};
use crate::room::Classes;

mod admission;
mod flow;
mod market;
mod measured;
mod rate;

const T0: Now = Now { mono: 1_000, utc: 1_700_000_000_000 };

fn at(ms: u64) -> Now {
    Now { mono: T0.mono + ms, utc: T0.utc + ms }
}

fn policy() -> Policy {
    Policy {
        node_id: "n1".into(),
        classes: Classes::default(),
        max_message_bytes: 1_000,
        max_queue_bytes: 10_000,
        max_queue_age_ms: 0,
        min_ping_interval_ms: 5_000,
        max_subscriptions: 3,
        max_in_flight: 4,
        max_gate_messages: 20,
        rates: Rates::default(),
        stale_ms: 0,
        ping_interval_ms: 30_000,
        ping_timeout_ms: 60_000,
        connect_timeout_ms: 45_000,
        market_prefix: "market_".into(),
        keeps_users: false,
    }
}

fn room() -> RoomName {
    RoomName::new("market_1").unwrap()
}

fn message(seq: u64) -> Arc<Message> {
    let data = RawValue::from_string(format!(r#"{{"p":{seq},"q":1}}"#)).unwrap();
    Arc::new(Message {
        seq,
        timestamp: 5,
        accepted_at: 0,
        event: "quote".into(),
        key: None,
        data,
        trace: None,
    })
}

fn batch_of(epoch: &str, seqs: std::ops::RangeInclusive<u64>) -> Arc<Batch> {
    let start = Position { epoch: Epoch::new(epoch), seq: seqs.start() - 1 };
    Arc::new(Batch::new(room(), start, seqs.map(message).collect(), 6))
}

fn history(epoch: &str, seqs: std::ops::RangeInclusive<u64>, complete: bool) -> Reply {
    let position = Position { epoch: Epoch::new(epoch), seq: *seqs.end() };
    Reply::History(Ok(History { position, messages: seqs.map(message).collect(), complete, began_at: 0 }))
}

/// There is nothing new behind this number.
fn nothing(epoch: &str, seq: u64) -> Reply {
    let position = Position { epoch: Epoch::new(epoch), seq };
    Reply::History(Ok(History { position, messages: Vec::new(), complete: true, began_at: 0 }))
}

/// A client of one session: says things, and reads what comes back.
struct Client {
    session: Session,
    now: Now,
}

impl Client {
    fn new() -> Self {
        Self::with(policy(), Identity::user("alice"))
    }

    fn with(policy: Policy, identity: Identity) -> Self {
        let session = Session::new(T0, "s1", Arc::new(policy), identity, Wire::direct(Encoding::Json));
        let mut client = Self { session, now: T0 };
        assert_eq!(client.read()[0]["event"], "connected");
        client
    }

    fn say(&mut self, json: &str) {
        self.session.handle_incoming(self.now, &Incoming::Text(json));
    }

    fn subscribe(&mut self, options: &str) -> Ticket {
        self.say(&format!(r#"{{"type":"subscribe","request_id":"s","room":"market_1"{options}}}"#));
        let (ticket, command) = self.session.poll_command().unwrap();
        assert!(matches!(command, Command::Subscribe { .. }));
        ticket
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.session.handle_reply(self.now, ticket, reply);
    }

    fn live(&mut self, batch: &Arc<Batch>) {
        self.session.handle_batch(self.now, batch);
    }

    /// Everything that is to be written, as JSON; a close frame as its code.
    fn read(&mut self) -> Vec<Value> {
        let mut wire = BytesMut::new();
        while let Some(bytes) = self.session.poll_transmit(self.now) {
            wire.extend_from_slice(&bytes);
        }
        let mut seen = Vec::new();
        let mut rest = &wire[..];
        while let Some(header) = frame::decode_header(rest).unwrap() {
            let end = header.header_len + header.payload_len as usize;
            let payload = &rest[header.header_len..end];
            match header.opcode {
                Opcode::Text => seen.push(serde_json::from_slice(payload).unwrap()),
                Opcode::Close => seen.push(frame::parse_close(payload).unwrap().into()),
                _ => {}
            }
            rest = &rest[end..];
        }
        assert!(rest.is_empty());
        seen
    }

    fn seqs(&mut self) -> Vec<u64> {
        self.read().iter().filter_map(|message| message["seq"].as_u64()).collect()
    }
}

#[test]
fn live_messages_wait_for_the_history_and_follow_it() {
    let mut client = Client::new();
    let ticket = client.subscribe(r#","history":2"#);
    client.live(&batch_of("x", 3..=5));
    client.live(&batch_of("x", 6..=6));
    assert!(client.read().is_empty());
    client.reply(ticket, history("x", 3..=4, true));
    let seen = client.read();
    assert_eq!(seen[0]["data"]["seq"], 4);
    assert_eq!(seen[0]["data"]["recovered"], false);
    assert_eq!(seen[0]["data"]["messages"][1]["data"]["p"], 4);
    assert_eq!([&seen[1]["seq"], &seen[2]["seq"]], [5, 6]);
}

#[test]
fn recovery_says_whether_it_is_whole() {
    for complete in [true, false] {
        let mut client = Client::new();
        let ticket = client.subscribe(r#","recover":{"epoch":"x","seq":2}"#);
        client.reply(ticket, history("x", 3..=4, complete));
        assert_eq!(client.read()[0]["data"]["recovered"], complete);
    }
}

#[test]
fn what_an_overfull_gate_dropped_is_read_again() {
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.live(&batch_of("x", 3..=15));
    client.live(&batch_of("x", 16..=30));
    client.reply(ticket, history("x", 1..=2, true));
    assert_eq!(client.read().len(), 1);
    let (ticket, command) = client.session.poll_command().unwrap();
    let Command::Subscribe { replay: Replay::After(from), .. } = command else { panic!("{command:?}") };
    assert_eq!(from.seq, 2);
    client.live(&batch_of("x", 31..=32));
    client.reply(ticket, history("x", 3..=31, true));
    assert_eq!(client.seqs(), (3..=32).collect::<Vec<_>>());
}

#[test]
fn a_new_epoch_or_a_hole_is_announced() {
    for (batch, start) in [(batch_of("y", 1..=2), 0), (batch_of("x", 8..=9), 7)] {
        let mut client = Client::new();
        let ticket = client.subscribe("");
        client.reply(ticket, history("x", 4..=5, true));
        client.live(&batch_of("x", 6..=6));
        client.live(&batch);
        let seen = client.read();
        assert_eq!(seen[2]["event"], "resync");
        assert_eq!(seen[2]["data"]["seq"], start);
        assert_eq!(seen[2]["data"]["epoch"], batch.start().epoch.as_str());
        assert_eq!([&seen[3]["seq"], &seen[4]["seq"]], [start + 1, start + 2]);
    }
}

#[test]
fn what_the_gate_holds_of_an_older_epoch_is_not_delivered() {
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.live(&batch_of("old", 7..=8));
    client.live(&batch_of("new", 1..=2));
    client.live(&batch_of("new", 3..=3));
    client.reply(ticket, history("new", 1..=2, true));
    let seen = client.read();
    assert_eq!((seen.len(), &seen[1]["seq"]), (2, &3.into()), "{seen:?}");
}

#[test]
fn leaving_while_the_history_is_read_answers_both() {
    let mut client = Client::new();
    let first = client.subscribe("");
    client.say(r#"{"type":"unsubscribe","request_id":"u","room":"market_1"}"#);
    assert!(matches!(client.session.poll_command(), Some((_, Command::Unsubscribe(_)))));
    let second = client.subscribe("");
    client.reply(first, history("x", 1..=1, true));
    client.reply(second, history("x", 1..=2, true));
    let seen = client.read();
    assert_eq!(seen[0]["data"]["status"], "unsubscribed");
    assert_eq!(seen[1]["error_code"], "SUBSCRIPTION_FAILED");
    assert_eq!(seen[2]["data"]["seq"], 2);
}

#[test]
fn a_slow_all_subscriber_is_closed_and_a_latest_one_is_not() {
    for (options, closed) in [("", Some(CloseCode::SlowConsumer)), (r#","delivery":"latest""#, None)] {
        let mut client = Client::new();
        let ticket = client.subscribe(options);
        client.reply(ticket, history("x", 1..=1, true));
        for seq in 2..=200 {
            client.live(&batch_of("x", seq..=seq));
            assert!(client.session.queued_bytes() < 11_000);
        }
        assert_eq!(client.session.reason(), closed.map(CloseCode::reason));
        let seen = client.read();
        match closed {
            Some(_) => assert_eq!(seen, [4003]),
            None => assert_eq!((&seen[1]["seq"], &seen[1]["conflated"]), (&200.into(), &198.into())),
        }
    }
}

#[test]
fn a_rate_limit_holds_and_gives_the_last_value() {
    let mut client = Client::new();
    let ticket = client.subscribe(r#","delivery":"latest","max_rate":2"#);
    client.reply(ticket, history("x", 1..=1, true));
    client.read();
    client.live(&batch_of("x", 2..=2));
    assert_eq!(client.seqs(), [2]);
    client.live(&batch_of("x", 3..=4));
    assert!(client.seqs().is_empty());
    assert_eq!(client.session.poll_timeout(client.now), Some(client.now.mono + 500));
    client.now = at(500);
    client.session.handle_timeout(client.now);
    assert_eq!(client.seqs(), [4]);
}

#[test]
fn requests_are_answered_or_refused_by_their_code() {
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=1, true));
    client.read();
    let cases = [
        (r#""type":"subscribe","room":"market_1""#, "ALREADY_SUBSCRIBED"),
        (r#""type":"subscribe","room":"user_bob""#, "PERMISSION_DENIED"),
        (r#""type":"unsubscribe","room":"market_2""#, "ROOM_NOT_FOUND"),
        (r#""type":"request","action":"fly""#, "INVALID_ACTION"),
        (r#""type":"request","action":"auth""#, "INVALID_PARAMETERS"),
        (
            r#""type":"request","action":"history","payload":{"room":"market_1","limit":0}"#,
            "INVALID_PARAMETERS",
        ),
        (r#""type":"request","action":"history","payload":{"room":"user_bob"}"#, "PERMISSION_DENIED"),
        (
            r#""type":"request","action":"publish","payload":{"room":"market_1","event":"e","data":1}"#,
            "PERMISSION_DENIED",
        ),
        (r#""type":"request","action":"get_market_data""#, "INVALID_PARAMETERS"),
    ];
    for (body, code) in cases {
        client.say(&format!(r#"{{"request_id":"r","trace_id":"t",{body}}}"#));
        let seen = client.read();
        assert_eq!(seen[0]["error_code"], code, "{body}");
        assert_eq!((&seen[0]["request_id"], &seen[0]["trace_id"]), (&"r".into(), &"t".into()));
    }
    client.say(r#"{"type":"request","request_id":"r","action":"echo","payload":{"a":[1.10]}}"#);
    assert_eq!(client.read()[0]["data"]["a"][0], 1.1);
}

#[test]
fn subscriptions_and_waiting_requests_have_a_limit() {
    let mut client = Client::new();
    for n in 0..4 {
        client.say(&format!(r#"{{"type":"subscribe","request_id":"r","room":"market_{n}"}}"#));
    }
    assert_eq!(client.read()[0]["error_code"], "SUBSCRIPTION_FAILED");
    assert!(client.session.wants_input());
    client.say(r#"{"type":"request","request_id":"r","action":"history","payload":{"room":"market_1"}}"#);
    assert!(!client.session.wants_input());
}

#[test]
fn answers_that_are_not_taken_stop_the_reading() {
    let mut client = Client::new();
    let mut said = 0;
    while client.session.wants_input() {
        client.say(r#"{"type":"request","request_id":"r","action":"echo","payload":"some text"}"#);
        said += 1;
        assert!(said < 1_000);
    }
    assert_eq!(client.read().len(), said);
    assert!(client.session.wants_input());
}

#[test]
fn silence_is_asked_about_and_then_ended() {
    let mut client = Client::new();
    // A connection of which nothing is known is asked early, a good one as seldom as it was told.
    assert_eq!(client.session.poll_timeout(T0), Some(T0.mono + 7_500));
    client.session.handle_timeout(at(7_500));
    let ping = client.session.poll_transmit(at(7_500)).unwrap();
    assert_eq!(ping[0], 0x89);
    client.session.handle_incoming(at(7_540), &Incoming::Pong(&ping[2..]));
    assert_eq!(client.session.round_trip_ms(), Some(40));
    assert_eq!(client.session.poll_occurrence(), Some(Occurrence::Rated(96)));
    assert_eq!(client.session.poll_timeout(at(7_540)), Some(T0.mono + 37_500));
    client.session.handle_timeout(at(37_500));
    client.session.handle_timeout(at(67_540));
    assert_eq!(client.session.reason(), Some(CloseCode::Idle.reason()));
}

#[test]
fn an_unsteady_connection_is_asked_more_often() {
    let mut client = Client::new();
    let mut asked = 0;
    while client.now.mono < at(300_000).mono {
        client.now = at(client.session.poll_timeout(client.now).unwrap() - T0.mono);
        client.session.handle_timeout(client.now);
        while let Some(ping) = client.session.poll_transmit(client.now) {
            assert_eq!(ping[0], 0x89);
            asked += 1;
            client.now = at(client.now.mono - T0.mono + if asked % 2 == 0 { 10 } else { 900 });
            client.session.handle_incoming(client.now, &Incoming::Pong(&ping[2..]));
        }
    }
    assert!(client.session.quality(client.now) < 80);
    assert!(asked >= 15, "{asked} pings in five minutes");
}

#[test]
fn a_token_ends_and_can_be_renewed() {
    let identity = Identity { expires_at: Some(T0.utc + 5_000), ..Identity::user("alice") };
    let mut client = Client::with(policy(), identity.clone());
    assert_eq!(client.session.poll_timeout(T0), Some(T0.mono + 5_000));
    let renew = |client: &mut Client, identity: Identity| {
        client.say(r#"{"type":"request","request_id":"a","action":"auth","payload":{"token":"t"}}"#);
        let (ticket, _) = client.session.poll_command().unwrap();
        client.reply(ticket, Reply::Identity(Ok(identity)));
        client.read()
    };
    let bob = renew(&mut client, Identity::user("bob"));
    assert_eq!(bob[0]["error_code"], "PERMISSION_DENIED");
    renew(&mut client, Identity { expires_at: Some(T0.utc + 9_000), ..identity });
    client.session.handle_timeout(at(5_000));
    assert_eq!(client.session.reason(), None);
    client.session.handle_timeout(at(9_000));
    assert_eq!(client.session.reason(), Some(CloseCode::TokenExpired.reason()));
    let seen = client.read();
    assert_eq!((&seen[0]["error_code"], &seen[1]), (&"AUTH_TOKEN_EXPIRED".into(), &4002.into()));
}

#[test]
fn a_renewed_token_that_allows_less_ends_what_it_does_not_allow() {
    let mut client = Client::with(policy(), Identity { role: Role::Operator, ..Identity::user("alice") });
    client.say(r#"{"type":"subscribe","request_id":"s","room":"user_bob"}"#);
    let (ticket, _) = client.session.poll_command().unwrap();
    client.reply(ticket, history("x", 1..=1, true));
    client.say(r#"{"type":"request","request_id":"a","action":"auth","payload":{"token":"t"}}"#);
    let (ticket, _) = client.session.poll_command().unwrap();
    client.reply(ticket, Reply::Identity(Ok(Identity::user("alice"))));
    assert_eq!(client.read().pop().unwrap()["error_code"], "PERMISSION_DENIED");
    assert!(matches!(client.session.poll_command(), Some((_, Command::Unsubscribe(_)))));
}

#[test]
fn the_wrong_frame_type_closes() {
    let mut client = Client::new();
    client.session.handle_incoming(T0, &Incoming::Binary(b"x"));
    assert_eq!(client.read(), [1003]);
}

#[test]
fn a_batch_connection_gets_arrays() {
    let mut client = Client::new();
    client.session.wire.batch = true;
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=1, true));
    client.read();
    client.live(&batch_of("x", 2..=4));
    let seen = client.read();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0][2]["seq"], 4);
}

proptest! {
    /// Promise 1 at the session: whatever the batches, the moment of the history, the speed of the reading and the
    /// moves to another node, an `all` subscriber sees every message once and in order.
    #[test]
    fn every_message_once_and_in_order(
        steps in prop::collection::vec((0u8..5, 1u64..6), 1..60),
        behind in 0u64..3,
    ) {
        let mut client = Client::with(Policy { max_queue_bytes: 1 << 20, ..policy() }, Identity::user("a"));
        let (mut published, mut delivered) = (10u64, 10u64);
        let mut ticket = Some(client.subscribe(""));
        let mut seen: Vec<u64> = Vec::new();
        let mut start = None;
        let read = |client: &mut Client, start: &mut Option<u64>, seen: &mut Vec<u64>| {
            for message in client.read() {
                match message["type"].as_str() {
                    Some("response") => *start = message["data"]["seq"].as_u64(),
                    _ => { prop_assert_ne!(&message["event"], "resync"); seen.extend(message["seq"].as_u64()) }
                }
            }
            Ok(())
        };
        for (step, count) in steps {
            ticket = ticket.or_else(|| client.session.poll_command().map(|(ticket, _)| ticket));
            match step {
                0 => published += count,
                1 | 2 if delivered < published => {
                    // Live batches may repeat what was there before.
                    let from = (delivered + 1).saturating_sub(behind).max(1);
                    let to = (delivered + count).min(published);
                    client.live(&batch_of("x", from..=to));
                    delivered = to;
                }
                3 => if let Some(ticket) = ticket.take() {
                    let from = match client.session.subscriptions[&room()].seq() { 0 => published, seq => seq };
                    client.reply(ticket, history("x", from + 1..=published, true));
                },
                4 if start.is_some() => {
                    read(&mut client, &mut start, &mut seen)?;
                    let snapshot = client.session.snapshot();
                    client.session = Session::restore(T0, client.session.policy.clone(), snapshot, false);
                    ticket = client.session.poll_command().map(|(ticket, _)| ticket);
                }
                _ => read(&mut client, &mut start, &mut seen)?,
            }
        }
        while let Some(next) = ticket.take() {
            let from = match client.session.subscriptions[&room()].seq() { 0 => published, seq => seq };
            client.reply(next, history("x", from + 1..=published, true));
            ticket = client.session.poll_command().map(|(ticket, _)| ticket);
        }
        if delivered < published {
            client.live(&batch_of("x", delivered + 1..=published));
        }
        read(&mut client, &mut start, &mut seen)?;
        let start = start.unwrap();
        prop_assert_eq!(seen, (start + 1..=published).collect::<Vec<_>>());
    }
}
