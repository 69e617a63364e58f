//! What a session makes of market data and of what is kept for users.

use super::*;
use crate::market::{Ask, Backfill};

/// What is told of missed hits: rooms, numbers and the hits' ids.
fn hits(seen: &[Value]) -> Vec<(&str, u64, u64)> {
    assert!(seen.iter().all(|hit| hit["event"] == "alert"), "{seen:?}");
    seen.iter()
        .map(|hit| {
            let id = hit["data"]["hit_id"].as_u64().unwrap();
            (hit["room"].as_str().unwrap(), hit["seq"].as_u64().unwrap(), id)
        })
        .collect()
}

fn missed() -> Reply {
    Reply::Missed(vec![r#"{"hit_id":1,"value":1.10}"#.into(), r#"{"hit_id":2}"#.into()])
}

fn keeping_users() -> Policy {
    Policy { keeps_users: true, ..policy() }
}

fn stitched(older: std::ops::Range<u64>, newer: std::ops::RangeInclusive<u64>, complete: bool) -> Reply {
    let position = Position { epoch: Epoch::new("x"), seq: *newer.end() };
    let history = History { position, messages: newer.map(message).collect(), complete: true, began_at: 0 };
    Reply::Stitched(Ok(Stitched { older: older.map(message).collect(), complete, history }))
}

fn seqs(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|message| message["seq"].as_u64().unwrap()).collect()
}

#[test]
fn rows_of_the_store_come_before_the_messages_and_the_stream_goes_on_after_them() {
    let mut client = Client::new();
    let options = r#","backfill":{"start":7,"limit":50},"fields":["p"]"#;
    client.say(&format!(r#"{{"type":"subscribe","request_id":"s","room":"market_1"{options}}}"#));
    let (ticket, command) = client.session.poll_command().unwrap();
    let Command::Subscribe { backfill, .. } = command else { panic!("{command:?}") };
    assert_eq!(backfill, Some(Backfill { start: 7, limit: 50 }));
    // What is published meanwhile is in the answer's log in part, and waits.
    client.live(&batch_of("x", 6..=8));
    client.reply(ticket, stitched(1..5, 5..=7, false));
    let seen = client.read();
    let data = &seen[0]["data"];
    assert_eq!(seqs(&data["backfill"]), [1, 2, 3, 4]);
    assert_eq!(seqs(&data["messages"]), [5, 6, 7]);
    assert_eq!(data["backfill_complete"], false);
    assert_eq!(data["backfill"][0]["data"], serde_json::json!({"p": 1}), "fields apply to rows, too");
    assert_eq!(seen[1]["seq"], 8, "no message twice, none missing");
    client.live(&batch_of("x", 9..=9));
    assert_eq!(client.seqs(), [9]);
}

#[test]
fn a_store_that_is_away_refuses_the_backfill_and_the_room_can_be_asked_for_again() {
    let mut client = Client::new();
    let ticket = client.subscribe(r#","backfill":{"start":0}"#);
    client.reply(ticket, Reply::Stitched(Err(Failure::unavailable("the store is away"))));
    assert_eq!(client.read()[0]["error_code"], "SERVICE_UNAVAILABLE");
    assert!(matches!(client.session.poll_command(), Some((_, Command::Unsubscribe(_)))));
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=2, true));
    assert_eq!(client.read()[0]["success"], true);
}

#[test]
fn bad_backfills_are_refused() {
    let mut client = Client::new();
    for bad in [r#"{}"#, r#"{"start":-1}"#, r#"{"start":0,"limit":0}"#, r#"{"start":0,"limit":10001}"#, "7"] {
        client.say(&format!(r#"{{"type":"subscribe","request_id":"s","room":"market_1","backfill":{bad}}}"#));
        assert_eq!(client.read()[0]["error_code"], "INVALID_PARAMETERS", "{bad}");
        assert!(client.session.poll_command().is_none());
    }
}

#[test]
fn asks_are_for_those_who_may_and_their_answers_carry_the_request() {
    let alert = |symbol: &str| {
        let payload = format!(r#"{{"symbol":"{symbol}","field":"price","op":">","value":1}}"#);
        format!(r#"{{"type":"request","request_id":"r","action":"alert.create","payload":{payload}}}"#)
    };
    let mut nobody = Client::with(policy(), Identity::anonymous());
    nobody.say(&alert("1"));
    assert_eq!(nobody.read()[0]["error_code"], "AUTH_REQUIRED");

    // A prefix whose rooms this user may not follow.
    let mut client =
        Client::with(Policy { market_prefix: "user_".into(), ..policy() }, Identity::user("alice"));
    client.say(&alert("bob"));
    assert_eq!(client.read()[0]["error_code"], "PERMISSION_DENIED");
    client
        .say(r#"{"type":"request","request_id":"r","action":"get_market_data","payload":{"symbol":"bob","data_type":"tick"}}"#);
    assert_eq!(client.read()[0]["error_code"], "PERMISSION_DENIED");
    assert!(client.session.poll_command().is_none());

    let mut client = Client::new();
    client.say(&alert("1"));
    let (ticket, command) = client.session.poll_command().unwrap();
    let Command::Ask { user_id, ask: Ask::CreateAlert(spec) } = command else { panic!("{command:?}") };
    assert_eq!((&*user_id, spec.symbol.as_str(), spec.once), ("alice", "1", false));
    client.reply(ticket, Reply::Data(Ok(r#"{"id":7,"price":1.10}"#.into())));
    let answer = &client.read()[0];
    assert_eq!((&answer["request_id"], &answer["data"]["id"]), (&"r".into(), &7.into()));
    client.say(&alert("2"));
    let (ticket, _) = client.session.poll_command().unwrap();
    client.reply(ticket, Reply::Data(Err(Failure::unavailable("the store is away"))));
    assert_eq!(client.read()[0]["error_code"], "SERVICE_UNAVAILABLE");
}

#[test]
fn users_are_told_what_they_missed_once_for_each_connection() {
    let mut client = Client::with(keeping_users(), Identity::user("alice"));
    let (ticket, command) = client.session.poll_command().unwrap();
    assert!(matches!(&command, Command::Missed(user) if user == "alice"), "{command:?}");
    client.reply(ticket, missed());
    assert_eq!(hits(&client.read()), [("user_alice", 0, 1), ("user_alice", 0, 2)]);
    assert!(client.session.poll_command().is_none());

    // Nobody has missed anything; and who moves to another node is not told again.
    let mut nobody = Client::with(keeping_users(), Identity::anonymous());
    assert!(nobody.session.poll_command().is_none());
    let snapshot = client.session.snapshot();
    let mut moved = Session::restore(client.now, Arc::new(keeping_users()), snapshot, false);
    assert!(moved.poll_command().is_none());
}

#[test]
fn who_renews_a_token_is_not_told_again_and_who_shows_the_first_one_is() {
    let auth = r#"{"type":"request","request_id":"a","action":"auth","payload":{"token":"t"}}"#;
    for (before, asked) in [(Identity::user("alice"), false), (Identity::anonymous(), true)] {
        let mut client = Client::with(keeping_users(), before);
        while client.session.poll_command().is_some() {}
        client.say(auth);
        let (ticket, _) = client.session.poll_command().unwrap();
        client.reply(ticket, Reply::Identity(Ok(Identity::user("alice"))));
        assert_eq!(client.read()[0]["success"], true);
        let command = client.session.poll_command();
        assert_eq!(matches!(command, Some((_, Command::Missed(_)))), asked, "{command:?}");
    }
}

#[test]
fn missed_hits_are_no_messages_of_a_room_that_is_followed() {
    let mut client = Client::with(keeping_users(), Identity::user("alice"));
    let (asked, _) = client.session.poll_command().unwrap();
    client.say(r#"{"type":"subscribe","request_id":"s","room":"user_alice"}"#);
    let (ticket, _) = client.session.poll_command().unwrap();
    // Before the answer and behind it.
    client.reply(asked, missed());
    assert_eq!(hits(&client.read()), [("", 0, 1), ("", 0, 2)]);
    client.reply(ticket, history("x", 1..=2, true));
    assert_eq!(client.read()[0]["data"]["seq"], 2);

    let mut client = Client::with(keeping_users(), Identity::user("alice"));
    let (asked, _) = client.session.poll_command().unwrap();
    client.say(r#"{"type":"subscribe","request_id":"s","room":"user_alice"}"#);
    let (ticket, _) = client.session.poll_command().unwrap();
    client.reply(ticket, history("x", 1..=2, true));
    client.read();
    client.reply(asked, missed());
    assert_eq!(hits(&client.read()), [("", 0, 1), ("", 0, 2)]);
}

#[test]
fn missed_hits_have_the_shape_of_live_ones_for_socket_io_and_are_told_to_their_user() {
    let handshake = Handshake { sid: "e".into(), pid: "p".into(), upgrades: false };
    let session = Session::socketio(
        T0,
        "s",
        Arc::new(keeping_users()),
        &handshake,
        None,
        Application::Tickmesh,
        Wire::socketio(),
    );
    let mut client = Socket { session };
    let enter = |client: &mut Socket, user: &str| {
        while client.session.poll_command().is_some() {}
        client.say("40");
        let (ticket, _) = client.session.poll_command().unwrap();
        client.session.handle_reply(T0, ticket, Reply::Identity(Ok(Identity::user(user))));
        client.read();
        let (ticket, command) = client.session.poll_command().unwrap();
        assert!(matches!(&command, Command::Missed(of) if of == user), "{command:?}");
        ticket
    };
    let asked = enter(&mut client, "alice");
    client.session.handle_reply(T0, asked, missed());
    let shape = |room: &str, data: &str| {
        format!(r#"42["alert",{{"room":"{room}","seq":0,"timestamp":{},"data":{data}}}]"#, T0.utc)
    };
    let data = [r#"{"hit_id":1,"value":1.10}"#, r#"{"hit_id":2}"#];
    assert_eq!(client.read(), data.map(|data| shape("user_alice", data)));

    // Who has left meanwhile, or is somebody else now, is told nothing.
    client.say("41");
    let asked = enter(&mut client, "alice");
    client.say("41");
    client.session.handle_reply(T0, asked, missed());
    assert!(client.read().is_empty());
    let asked = enter(&mut client, "alice");
    client.say("41");
    enter(&mut client, "bob");
    client.session.handle_reply(T0, asked, missed());
    assert!(client.read().is_empty());
}

/// A Socket.IO client of one session.
struct Socket {
    session: Session,
}

impl Socket {
    fn say(&mut self, packet: &str) {
        self.session.handle_incoming(T0, &Incoming::Text(packet));
    }

    /// The packets that are to be written.
    fn read(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(bytes) = self.session.poll_transmit(T0) {
            let mut rest = &bytes[..];
            while let Some(header) = frame::decode_header(rest).unwrap() {
                let (frame, behind) = rest.split_at(header.header_len + header.payload_len as usize);
                seen.push(String::from_utf8(frame[header.header_len..].to_vec()).unwrap());
                rest = behind;
            }
        }
        seen
    }
}
