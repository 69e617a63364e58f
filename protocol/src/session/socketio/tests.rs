use std::sync::Arc;

use serde_json::value::RawValue;

use crate::batch::Batch;
use crate::frame::{Incoming, Opcode, decode_header, parse_close};
use crate::identity::Identity;
use crate::message::{History, Message};
use crate::position::{Epoch, Position};
use crate::room::{Classes, RoomName};
use crate::session::{Application, Handshake, Now, Policy, Rates, Reply, Session, Wire};

struct Client {
    session: Session,
    mono: u64,
}

impl Client {
    fn new(application: Application, ping_interval_ms: u64, ping_timeout_ms: u64) -> Self {
        let policy = Policy {
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
            ping_interval_ms,
            ping_timeout_ms,
            connect_timeout_ms: 900_000,
            market_prefix: "market_".into(),
            keeps_users: false,
        };
        let handshake = Handshake { sid: "e".into(), pid: "p".into(), upgrades: true };
        let now = Now { mono: 0, utc: 0 };
        let session =
            Session::socketio(now, "s", Arc::new(policy), &handshake, None, application, Wire::socketio());
        let mut client = Self { session, mono: 0 };
        assert!(client.read()[0].starts_with("0{"));
        client
    }

    fn now(&self) -> Now {
        Now { mono: self.mono, utc: self.mono }
    }

    fn say(&mut self, packet: &str) {
        self.session.handle_incoming(self.now(), &Incoming::Text(packet));
    }

    fn at(&mut self, mono: u64) -> Vec<String> {
        self.mono = mono;
        self.session.handle_timeout(self.now());
        self.read()
    }

    /// Everything that is to be written; a close frame as its code.
    fn read(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(bytes) = self.session.poll_transmit(self.now()) {
            let mut rest = &bytes[..];
            while let Ok(Some(header)) = decode_header(rest) {
                let (frame, behind) = rest.split_at(header.header_len + header.payload_len as usize);
                let payload = &frame[header.header_len..];
                seen.push(match header.opcode {
                    Opcode::Close => parse_close(payload).unwrap().unwrap_or_default().to_string(),
                    _ => String::from_utf8(payload.to_vec()).unwrap(),
                });
                rest = behind;
            }
        }
        seen
    }
}

#[test]
fn no_ping_is_sent_behind_one_that_is_not_answered() {
    let mut client = Client::new(Application::Tickmesh, 30_000, 60_000);
    assert_eq!(client.at(30_000), ["2"]);
    client.mono = 50_000;
    client.say("6");
    assert!(client.at(60_000).is_empty(), "it lives, and owes a pong");
    client.say("3");
    assert_eq!(client.at(90_000), ["2"]);
    assert_eq!(client.at(120_000), ["4004"], "nothing came since 60 000");
}

#[test]
fn the_suite_gets_its_event_behind_the_entry() {
    let mut client = Client::new(Application::SocketIoSuite, 300, 500);
    client.say(r#"40{"token":"123"}"#);
    client.say("40/custom");
    assert_eq!(client.read(), [r#"40{"sid":"s"}"#, r#"40/custom,{"sid":"s-c"}"#]);
    assert_eq!(client.session.poll_timeout(client.now()), Some(60));
    // What it says meanwhile is answered behind the event all the same.
    client.say(r#"42["message"]"#);
    let events = [r#"42["auth",{"token":"123"}]"#, r#"42/custom,["auth",{}]"#, r#"42["message-back"]"#];
    assert_eq!(client.read(), events);
    assert!(client.at(60).is_empty(), "each once");

    for _ in 0..3 {
        client.say("41/custom");
        client.say("40/custom");
    }
    assert_eq!(client.read().len(), 3);
    assert_eq!(client.at(120), [r#"42/custom,["auth",{}]"#], "no more than one waits");
}

#[test]
fn a_silent_client_of_the_suite_is_given_up_before_the_suite_looks() {
    let mut client = Client::new(Application::EngineIoSuite, 300, 500);
    assert_eq!(client.at(300), ["2"]);
    assert_eq!(client.session.poll_timeout(client.now()), Some(470));
    assert_eq!(client.at(470), ["4004"]);

    let mut client = Client::new(Application::EngineIoSuite, 300, 500);
    client.at(300);
    client.mono = 310;
    client.say("3");
    client.read();
    assert_eq!(client.at(600), ["2"]);
    assert_eq!(
        client.session.poll_timeout(client.now()),
        Some(810),
        "who answered has all the time that was announced"
    );
}

/// Enters with this packet, subscribes to `market_1` and `stream_1`, and is given two messages of each.
fn messages_after(connect: &str) -> Vec<String> {
    let mut client = Client::new(Application::Tickmesh, 30_000, 60_000);
    client.say(connect);
    let reply = |client: &mut Client, reply| {
        let (ticket, _) = client.session.poll_command().expect("asked");
        client.session.handle_reply(client.now(), ticket, reply);
    };
    reply(&mut client, Reply::Identity(Ok(Identity::user("ann"))));
    let start = || Position { epoch: Epoch::new("e"), seq: 0 };
    for event in [r#"42["subscribe",{"room":"market_1"}]"#, r#"42["subscribe_market_stream",{"symbol":"1"}]"#]
    {
        client.say(event);
        let history = History { position: start(), messages: Vec::new(), complete: true, began_at: 0 };
        reply(&mut client, Reply::History(Ok(history)));
    }
    client.read();
    for room in ["market_1", "stream_1"] {
        let message = |seq| {
            Arc::new(Message {
                seq,
                timestamp: 5,
                accepted_at: 0,
                event: "quote".into(),
                key: None,
                data: RawValue::from_string(format!(r#"{{"p":{seq}}}"#)).unwrap(),
                trace: None,
            })
        };
        let room = RoomName::new(room).unwrap();
        let batch = Batch::new(room, start(), vec![message(1), message(2)], 6);
        client.session.handle_batch(client.now(), &Arc::new(batch));
    }
    client.read()
}

#[test]
fn who_asks_for_it_gets_messages_that_come_together_as_one_event() {
    let streams = [
        r#"42["stream_data",{"symbol":"1","seq":1,"timestamp":5,"data":{"p":1}}]"#,
        r#"42["stream_data",{"symbol":"1","seq":2,"timestamp":5,"data":{"p":2}}]"#,
        r#"42["_offset","2:stream_1"]"#,
    ];
    let single = [
        r#"42["quote",{"room":"market_1","seq":1,"timestamp":5,"data":{"p":1}}]"#,
        r#"42["quote",{"room":"market_1","seq":2,"timestamp":5,"data":{"p":2}}]"#,
        r#"42["_offset","2:market_1"]"#,
    ];
    assert_eq!(messages_after("40"), [&single[..], &streams].concat());
    let together = [
        concat!(
            r#"42["batch",[{"event":"quote","room":"market_1","seq":1,"timestamp":5,"data":{"p":1}},"#,
            r#"{"event":"quote","room":"market_1","seq":2,"timestamp":5,"data":{"p":2}}]]"#
        ),
        r#"42["_offset","2:market_1"]"#,
    ];
    assert_eq!(messages_after(r#"40{"batch":true}"#), [&together[..], &streams].concat());
}
