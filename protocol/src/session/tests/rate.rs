//! A client that asks too often is told so, and when to ask again; what it asked is not done.

use super::*;
use crate::rate::Limit;

fn limited() -> Client {
    let rates = Rates {
        requests: Limit { per_s: 100, burst: 5 },
        subscribes: Limit { per_s: 1, burst: 1 },
        publishes: Limit { per_s: 2, burst: 2 },
    };
    let identity = Identity { role: Role::Publisher, ..Identity::user("feed") };
    Client::with(Policy { rates, ..policy() }, identity)
}

fn publish(n: u32) -> String {
    let payload = r#"{"room":"market_1","event":"e","data":1}"#;
    format!(r#"{{"type":"request","request_id":"p{n}","action":"publish","payload":{payload}}}"#)
}

#[test]
fn requests_beyond_the_rate_are_refused_with_the_time_to_wait() {
    let mut client = limited();
    let echo = r#"{"type":"request","request_id":"r","action":"echo","trace_id":"t"}"#;
    (0..5).for_each(|_| client.say(echo));
    assert!(client.read().iter().all(|answer| answer["success"] == true));
    client.say(echo);
    let refused = client.read().remove(0);
    assert_eq!(refused["error_code"], "RATE_LIMIT_EXCEEDED");
    assert_eq!((&refused["request_id"], &refused["trace_id"]), (&"r".into(), &"t".into()));
    assert_eq!(refused["error_details"], serde_json::json!({ "limit": "requests", "retry_after_ms": 10 }));
    client.say("what");
    assert_eq!(client.read()[0]["error_code"], "RATE_LIMIT_EXCEEDED", "nonsense counts as well");
    client.now = at(10);
    client.say(echo);
    assert_eq!(client.read()[0]["success"], true);
}

#[test]
fn a_publish_that_is_refused_is_not_published() {
    let mut client = limited();
    (0..3).for_each(|n| client.say(&publish(n)));
    let commands = std::iter::from_fn(|| client.session.poll_command());
    assert_eq!(commands.filter(|(_, command)| matches!(command, Command::Publish(_))).count(), 2);
    let refused = client.read().remove(0);
    assert_eq!(
        (&refused["request_id"], &refused["error_details"]["limit"]),
        (&"p2".into(), &"publishes".into())
    );
    assert_eq!(refused["error_details"]["retry_after_ms"], 500);
}

#[test]
fn only_subscriptions_that_are_in_order_count() {
    let mut client = limited();
    let say = |client: &mut Client, room: &str| {
        client.say(&format!(r#"{{"type":"subscribe","request_id":"s","room":"{room}"}}"#));
        client.session.poll_command().is_some()
    };
    assert!(!say(&mut client, "user_bob"), "is not allowed");
    assert!(say(&mut client, "market_1"));
    assert!(!say(&mut client, "market_2"));
    let answers = client.read();
    assert_eq!(answers[0]["error_code"], "PERMISSION_DENIED");
    assert_eq!(answers[1]["error_code"], "RATE_LIMIT_EXCEEDED");
    client.now = at(1_000);
    assert!(say(&mut client, "market_2"));
}

#[test]
fn socketio_clients_are_told_in_their_own_way() {
    let rates = Rates { requests: Limit { per_s: 10, burst: 2 }, ..Rates::default() };
    let policy = Arc::new(Policy { rates, ..policy() });
    let handshake = Handshake { sid: "e".into(), pid: "p".into(), upgrades: false };
    let application = Application::Tickmesh;
    let mut session = Session::socketio(T0, "s", policy, &handshake, None, application, Wire::socketio());
    session.handle_incoming(T0, &Incoming::Text("40"));
    let (ticket, command) = session.poll_command().unwrap();
    assert!(matches!(command, Command::Identify(None)));
    session.handle_reply(T0, ticket, Reply::Identity(Ok(Identity::anonymous())));
    let mut said = move |packet: &str| {
        session.handle_incoming(T0, &Incoming::Text(packet));
        let mut bytes = BytesMut::new();
        std::iter::from_fn(|| session.poll_transmit(T0)).for_each(|part| bytes.extend_from_slice(&part));
        assert!(session.poll_command().is_none());
        String::from_utf8_lossy(&bytes).into_owned()
    };
    said(r#"42["ping",{}]"#);
    said(r#"42["ping",{}]"#);
    let refused = said(r#"427["request",{"request_id":"r","action":"time"}]"#);
    assert!(refused.contains(r#"42["response",{"#) && refused.contains("437["), "{refused}");
    assert!(
        refused.contains("RATE_LIMIT_EXCEEDED") && refused.contains(r#""retry_after_ms":100"#),
        "{refused}"
    );
    let refused = said(r#"42["subscribe_market_stream",{"symbol":"ACME"}]"#);
    assert!(
        refused.contains(r#"42["stream_error",{"#) && refused.contains("RATE_LIMIT_EXCEEDED"),
        "{refused}"
    );
    let refused = said(r#"42["whatever"]"#);
    assert!(refused.contains(r#"42["error",{"#) && refused.contains(r#""retry_after_ms":100"#), "{refused}");
}
