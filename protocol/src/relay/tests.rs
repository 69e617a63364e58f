//! A simulation: a client, its relay, nodes and a log, with bytes that are cut and delayed anywhere, nodes that die, let go
//! or only seem dead at any moment, and a broker that is away now and then. A node that was given up goes on with what is on
//! its way to it, at its own pace, beside the one that has the session now: so links overtake each other. Whatever happens, the client sees every message of its
//! rooms once and in order, every request is answered once, and every publish counts once.

use std::collections::HashMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::batch::Batch;
use crate::encode::Encoding;
use crate::error::{ErrorCode, Failure};
use crate::frame::{Assembler, Opcode, put_masked};
use crate::identity::Identity;
use crate::link::Records;
use crate::message::{History, Message, Replay};
use crate::position::{Epoch, Position};
use crate::room::{Classes, RoomName};
use crate::session::{Command, Now, Policy, Rates, Reply, Session, Ticket, Wire};

const ROOMS: usize = 3;

/// The broker: one log for each room.
#[derive(Default)]
struct Logs {
    rooms: HashMap<RoomName, Vec<Arc<Message>>>,
    accepted: HashMap<String, u64>,
}

impl Logs {
    fn publish(&mut self, room: &RoomName, id: Option<&str>, data: Box<RawValue>) -> u64 {
        if let Some(seq) = id.and_then(|id| self.accepted.get(id)) {
            return *seq;
        }
        let log = self.rooms.entry(room.clone()).or_default();
        let seq = log.len() as u64 + 1;
        let key = Some(format!("{}", seq % 2).into());
        log.push(Arc::new(Message {
            seq,
            timestamp: 0,
            accepted_at: 0,
            event: "e".into(),
            key,
            data,
            trace: None,
        }));
        if let Some(id) = id {
            self.accepted.insert(id.to_owned(), seq);
        }
        seq
    }

    fn position(&self, room: &RoomName) -> Position {
        Position { epoch: Epoch::new("e"), seq: self.rooms.get(room).map_or(0, Vec::len) as u64 }
    }

    fn after(&self, room: &RoomName, seq: u64) -> Vec<Arc<Message>> {
        self.rooms.get(room).map(|log| log[seq as usize..].to_vec()).unwrap_or_default()
    }
}

/// A node with the session, and the bytes on their way to and from it.
struct Node {
    session: Option<Session>,
    records: Records,
    assembler: Assembler,
    to_node: BytesMut,
    to_gateway: BytesMut,
    decoder: Records,
    calls: Vec<(Ticket, Command)>,
    /// Rooms that it hears, with the last message that it gave the session.
    heard: HashMap<RoomName, u64>,
}

struct World {
    random: StdRng,
    now: Now,
    logs: Logs,
    node: Option<Node>,
    /// Nodes that were given up and do not know it.
    left: Vec<Node>,
    relay: Relay,
    to_client: BytesMut,
    client: Client,
}

/// What the client knows.
#[derive(Default)]
struct Client {
    frames: BytesMut,
    /// By room: the newest message, and the sum of what was received and conflated since the subscription.
    rooms: HashMap<String, (u64, u64, bool)>,
    asked: u64,
    answered: HashMap<String, u32>,
    kept: Vec<u64>,
}

fn policy() -> Arc<Policy> {
    Arc::new(Policy {
        node_id: "n".into(),
        classes: Classes::default(),
        max_message_bytes: 1_000,
        max_queue_bytes: 1_000_000,
        max_queue_age_ms: 0,
        min_ping_interval_ms: 5_000,
        max_subscriptions: 10,
        max_in_flight: 5,
        max_gate_messages: 3,
        rates: Rates::default(),
        stale_ms: 0,
        ping_interval_ms: 300,
        ping_timeout_ms: 1_000_000,
        connect_timeout_ms: 45_000,
        market_prefix: "market_".into(),
        keeps_users: false,
    })
}

impl World {
    fn new(seed: u64) -> Self {
        let open = Open {
            version: link::VERSION,
            session_id: "s".into(),
            encoding: Encoding::Json,
            batch: false,
            max_bandwidth: 0,
            token: None,
            remote: "client".into(),
            socketio: None,
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            now: Now { mono: 1, utc: 1_000 },
            logs: Logs::default(),
            node: None,
            left: Vec::new(),
            relay: Relay::new(open, 1_000),
            to_client: BytesMut::new(),
            client: Client::default(),
        }
    }

    fn say(&mut self, text: &str) {
        let mut frames = BytesMut::new();
        put_masked(&mut frames, Opcode::Text, text.as_bytes(), [1, 2, 3, 4]);
        let mut out = BytesMut::new();
        // In pieces, as a socket may give them.
        let cut = self.random.random_range(0..=frames.len());
        self.relay.handle_client(&frames[..cut], &mut out).unwrap();
        self.relay.handle_client(&frames[cut..], &mut out).unwrap();
        if let Some(node) = &mut self.node {
            node.to_node.extend_from_slice(&out);
        }
    }

    fn ask(&mut self) {
        if !self.relay.wants_input() || self.client.asked - (self.client.answered.len() as u64) > 20 {
            return;
        }
        self.client.asked += 1;
        let id = self.client.asked;
        let room = self.random.random_range(0..ROOMS);
        let text = match self.random.random_range(0..4) {
            0 => format!(r#"{{"type":"request","request_id":"{id}","action":"echo","payload":{id}}}"#),
            1 => format!(
                r#"{{"type":"request","request_id":"{id}","action":"history","payload":{{"room":"r{room}"}}}}"#
            ),
            2 => {
                self.client.kept.push(id);
                format!(
                    r#"{{"type":"request","request_id":"{id}","action":"publish","payload":{{"room":"r{room}","event":"e","data":{id}}}}}"#
                )
            }
            // The last room is followed conflated. Some are refused, being followed already.
            _ if room == ROOMS - 1 => {
                format!(r#"{{"type":"subscribe","request_id":"{id}","room":"r{room}","delivery":"latest"}}"#)
            }
            _ => format!(r#"{{"type":"subscribe","request_id":"{id}","room":"r{room}"}}"#),
        };
        self.say(&text);
    }

    fn attach(&mut self) {
        let mut node = Node {
            session: None,
            records: Records::default(),
            assembler: Assembler::new(1_000),
            to_node: BytesMut::new(),
            to_gateway: BytesMut::new(),
            decoder: Records::default(),
            calls: Vec::new(),
            heard: HashMap::new(),
        };
        self.relay.attach(&mut node.to_node);
        self.node = Some(node);
    }

    /// Some bytes arrive at the node.
    fn node_reads(&mut self, node: &mut Node) {
        let count = self.random.random_range(0..=node.to_node.len());
        let bytes = node.to_node.split_to(count);
        let Node { session, records, assembler, .. } = node;
        let now = self.now;
        records
            .feed_node(&bytes, |record| {
                match record {
                    ToNode::Open(open) => {
                        let wire = Wire { batch: open.batch, linked: true, ..Wire::direct(open.encoding) };
                        let identity = Identity { anonymous_may_publish: true, ..Identity::user("u") };
                        let identity = Identity { role: crate::identity::Role::Publisher, ..identity };
                        *session = Some(Session::new(now, &open.session_id, policy(), identity, wire));
                    }
                    ToNode::Attach(attach) => {
                        *session = Some(Session::restore(now, policy(), attach.snapshot, true));
                    }
                    ToNode::Up(number, frames) => {
                        let session = session.as_mut().expect("a session");
                        assembler
                            .feed(frames, |incoming| {
                                session.handle_numbered(now, number, &incoming);
                                true
                            })
                            .expect("frames");
                    }
                    ToNode::Freeze => session.as_mut().expect("a session").freeze(),
                    ToNode::Ping => {}
                }
                true
            })
            .expect("records");
    }

    /// The node does what its session asks for, at some time.
    fn work(&mut self, node: &mut Node) {
        let Some(session) = &mut node.session else { return };
        while let Some(call) = session.poll_command() {
            match call {
                (ticket, Command::Subscribe { room, replay, backfill }) => {
                    let position = self.logs.position(&room);
                    node.heard.insert(room.clone(), position.seq);
                    node.calls.push((ticket, Command::Subscribe { room, replay, backfill }));
                }
                (_, Command::Unsubscribe(room)) => {
                    node.heard.remove(&room);
                }
                call => node.calls.push(call),
            }
        }
        if !node.calls.is_empty() && self.random.random_bool(0.5) {
            // Publishes keep their order, other calls need not.
            let at = self.random.random_range(0..node.calls.len());
            let first = |call: &(Ticket, Command)| matches!(call.1, Command::Publish(_));
            let at =
                if first(&node.calls[at]) { node.calls.iter().position(first).unwrap_or(at) } else { at };
            let (ticket, command) = node.calls.remove(at);
            let away = self.random.random_bool(0.1);
            let failure = || Failure::new(ErrorCode::ServiceUnavailable, "away");
            let reply = match command {
                Command::Publish(publish) => {
                    // Kept or not, the answer may be lost.
                    let seq = self.logs.publish(&publish.room, publish.message_id.as_deref(), publish.data);
                    Reply::Published(Ok(Position { epoch: Epoch::new("e"), seq }))
                }
                Command::Subscribe { room, replay, .. } | Command::History { room, replay } => {
                    let position = self.logs.position(&room);
                    let after = match &replay {
                        Replay::After(from) => from.seq,
                        Replay::Nothing => position.seq,
                        _ => 0,
                    };
                    let messages = self.logs.after(&room, after);
                    let history = History { position, messages, complete: true, began_at: 0 };
                    Reply::History(if away { Err(failure()) } else { Ok(history) })
                }
                _ => return,
            };
            session.handle_reply(self.now, ticket, reply);
        }
        // Live messages, some at a time.
        for (room, heard) in &mut node.heard {
            let new = self.logs.after(room, *heard);
            let count = self.random.random_range(0..=new.len());
            if count > 0 {
                let start = Position { epoch: Epoch::new("e"), seq: *heard };
                *heard += count as u64;
                let batch = Batch::new(room.clone(), start, new[..count].to_vec(), self.now.utc);
                session.handle_batch(self.now, &Arc::new(batch));
            }
        }
        session.handle_timeout(self.now);
        while self.random.random_bool(0.7)
            && let Some(bytes) = session.poll_transmit(self.now)
        {
            node.to_gateway.extend_from_slice(&bytes);
        }
    }

    /// Some bytes arrive at the gateway; true if the node has let go.
    fn gateway_reads(&mut self) -> bool {
        let Some(node) = &mut self.node else { return false };
        let count = self.random.random_range(0..=node.to_gateway.len());
        let bytes = node.to_gateway.split_to(count);
        let (relay, out) = (&mut self.relay, &mut self.to_client);
        let mut frozen = false;
        let sink = |record: ToGateway<'_>| {
            match relay.handle_node(record, out) {
                Step::Continue => {}
                Step::Frozen => frozen = true,
                other => panic!("{other:?}"),
            }
            true
        };
        node.decoder.feed_gateway(&bytes, sink).expect("records");
        frozen
    }

    fn step(&mut self, calm: bool) {
        self.now.mono += self.random.random_range(0..20);
        self.now.utc = self.now.mono + 1_000;
        if self.node.is_none() {
            self.attach();
        }
        if !calm {
            match self.random.random_range(0..40) {
                // It dies: what was on its way is lost, at any byte.
                0 => {
                    let node = self.node.take();
                    // Or it was only silent.
                    self.left.extend(node.filter(|_| self.random.random_bool(0.5)));
                    self.relay.detach();
                    return;
                }
                1 => {
                    let node = self.node.as_mut().expect("a node");
                    self.relay.freeze(&mut node.to_node);
                }
                2..=9 => self.ask(),
                10..=14 => {
                    let room = RoomName::new(&format!("r{}", self.random.random_range(0..ROOMS))).unwrap();
                    self.logs.publish(&room, None, RawValue::from_string("0".into()).unwrap());
                }
                _ => {}
            }
        }
        if let Some(mut node) = self.node.take() {
            self.node_reads(&mut node);
            self.work(&mut node);
            self.node = Some(node);
        }
        for mut node in std::mem::take(&mut self.left) {
            if self.random.random_bool(0.3) {
                self.node_reads(&mut node);
                self.work(&mut node);
                // Nobody hears it.
                node.to_gateway.clear();
            }
            if !self.random.random_bool(0.02) {
                self.left.push(node);
            }
        }
        if self.gateway_reads() {
            self.node = None;
        }
        let frames = self.to_client.split();
        self.client.read(&frames);
    }
}

impl Client {
    fn read(&mut self, bytes: &[u8]) {
        self.frames.extend_from_slice(bytes);
        while let Some(header) = decode_header(&self.frames).expect("a frame") {
            let length = header.header_len + header.payload_len as usize;
            assert!(self.frames.len() >= length, "the gateway hands on whole frames");
            let frame = self.frames.split_to(length);
            if header.opcode == Opcode::Text {
                self.message(&serde_json::from_slice(&frame[header.header_len..]).expect("JSON"));
            }
        }
    }

    fn message(&mut self, message: &Value) {
        if let Some(id) = message["request_id"].as_str() {
            *self.answered.entry(id.to_owned()).or_default() += 1;
        }
        let data = &message["data"];
        if message["type"] == "response" && data["recovered"].is_boolean() {
            let room = data["room"].as_str().unwrap().to_owned();
            let seq = data["seq"].as_u64().unwrap();
            let latest = room == format!("r{}", ROOMS - 1);
            assert!(self.rooms.insert(room, (seq, seq, latest)).is_none(), "subscribed once");
        }
        if message["type"] == "notification" && message["room"] != "" {
            let (at, sum, latest) = self.rooms.get_mut(message["room"].as_str().unwrap()).expect("a room");
            let seq = message["seq"].as_u64().unwrap();
            assert_ne!(message["event"], "resync", "nothing was lost: {message}");
            assert!(if *latest { seq > *at } else { seq == *at + 1 }, "{seq} after {at}: {message}");
            *sum += 1 + message["conflated"].as_u64().unwrap_or(0);
            *at = seq;
        }
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..400 {
        world.step(false);
    }
    for _ in 0..600 {
        world.step(true);
    }
    for id in 1..=world.client.asked {
        let count = world.client.answered.get(&id.to_string()).copied().unwrap_or(0);
        assert_eq!(count, 1, "request {id}");
    }
    for (room, (at, sum, _)) in &world.client.rooms {
        let end = world.logs.position(&RoomName::new(room).unwrap()).seq;
        assert_eq!((*at, *sum), (end, end), "{room} is complete, and conflated adds up");
    }
    let published: Vec<u64> =
        world.logs.rooms.values().flatten().filter_map(|m| m.data.get().parse().ok()).collect();
    for id in &world.client.kept {
        assert_eq!(published.iter().filter(|have| *have == id).count(), 1, "publish {id} counts once");
    }
}

/// Slow: 300 simulated lives; `SEEDS` says how many.
#[test]
fn whatever_happens_to_nodes_the_client_misses_nothing_and_gets_nothing_twice() {
    let first: u64 =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let count: u64 = std::env::var("SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    for n in 0..count {
        let seed = first.wrapping_add(n);
        println!("seed {seed}");
        simulate(seed);
    }
}
