//! What every broker must do: one suite, run on each implementation. It panics where a guarantee is broken.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::value::RawValue;
use tickmesh_protocol::message::{History, Publish, Replay};
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::{Class, Classes, RoomName};
use tickmesh_protocol::trace::TraceContext;
use tokio::time::timeout;

use super::{Broker, Event, Events};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(10);

/// Makes connections to one shared broker that was set up with [`classes`].
#[async_trait]
pub trait Nodes: Sync {
    /// A new connection whose queue holds `capacity` events.
    async fn node(&self, capacity: usize) -> (Arc<dyn Broker>, Events);
}

/// The classes that the suite needs.
#[must_use]
pub fn classes() -> Classes {
    let class = |prefix: &str, history_size, ttl, window| Class {
        prefix: prefix.into(),
        history_size,
        history_ttl_s: ttl,
        idempotency_window_s: window,
        ..Class::default()
    };
    Classes::new(vec![
        class("", 100_000, 3_600, 60),
        class("short_", 10, 3_600, 60),
        class("brief_", 100, 1, 1),
    ])
}

/// A message whose data is the JSON text.
///
/// # Panics
/// When the room's name or the data is not valid.
#[must_use]
pub fn publish(room: &str, data: &str, message_id: Option<&str>) -> Publish {
    Publish {
        room: name(room),
        event: "e".into(),
        data: RawValue::from_string(data.to_owned()).expect("valid JSON"),
        message_id: message_id.map(Into::into),
        key: Some("k".into()),
        timestamp: Some(7),
        trace: None,
    }
}

fn name(room: &str) -> RoomName {
    RoomName::new(room).expect("a valid name")
}

async fn put(broker: &dyn Broker, room: &str, data: &str, id: Option<&str>) -> Position {
    broker.publish(vec![publish(room, data, id)]).await.remove(0).expect("published")
}

async fn read(broker: &dyn Broker, room: &str, replay: Replay) -> History {
    broker.history(&name(room), replay).await.expect("read")
}

fn seqs(history: &History) -> Vec<u64> {
    history.messages.iter().map(|message| message.seq).collect()
}

/// Runs every check, each on rooms of its own.
///
/// # Panics
/// When the broker breaks a guarantee.
pub async fn run(nodes: &dyn Nodes) {
    sequence_and_content(nodes).await;
    what_the_log_keeps(nodes).await;
    a_message_id_counts_once(nodes).await;
    live_messages_come_in_order(nodes).await;
    concurrent_publishers_make_one_order(nodes).await;
    no_hole_between_history_and_live(nodes).await;
    what_does_not_fit_is_told(nodes).await;
    a_trace_goes_with_its_message(nodes).await;
}

async fn sequence_and_content(nodes: &dyn Nodes) {
    let (a, _a_events) = nodes.node(100).await;
    let (b, _b_events) = nodes.node(100).await;
    let first = put(&*a, "content", r#"{"p": 1.1200}"#, None).await;
    let second = put(&*b, "content", "[null]", None).await;
    assert_eq!((first.seq, second.seq), (1, 2));
    assert_eq!(first.epoch, second.epoch);
    let batch =
        vec![publish("content", "3", None), publish("content2", "1", None), publish("content", "4", None)];
    let answers: Vec<u64> =
        a.publish(batch).await.into_iter().map(|answer| answer.expect("published").seq).collect();
    assert_eq!(answers, [3, 1, 4]);
    let history = read(&*b, "content", Replay::Last(10)).await;
    assert_eq!((history.position.seq, seqs(&history), history.complete), (4, vec![1, 2, 3, 4], true));
    let message = &history.messages[0];
    assert_eq!(message.data.get(), r#"{"p": 1.1200}"#, "data keeps its bytes");
    assert_eq!((&*message.event, message.key.as_deref(), message.timestamp), ("e", Some("k"), 7));
    let rooms = b.rooms().await.expect("rooms");
    assert!(rooms.iter().any(|(room, position)| room.as_str() == "content" && position.seq == 4));
}

async fn what_the_log_keeps(nodes: &dyn Nodes) {
    let (broker, _events) = nodes.node(100).await;
    for n in 1..=25 {
        put(&*broker, "short_1", &n.to_string(), None).await;
    }
    let all = read(&*broker, "short_1", Replay::Last(100)).await;
    assert_eq!((seqs(&all), all.position.seq), ((16..=25).collect(), 25), "trimmed to the class's size");
    let at = |seq| Replay::After(Position { epoch: all.position.epoch.clone(), seq });
    for (from, expected, complete) in
        [(25, vec![], true), (20, (21..=25).collect(), true), (15, (16..=25).collect(), true)]
    {
        let part = read(&*broker, "short_1", at(from)).await;
        assert_eq!((seqs(&part), part.complete), (expected, complete), "after {from}");
    }
    for from in [0, 14] {
        let part = read(&*broker, "short_1", at(from)).await;
        assert_eq!((seqs(&part), part.complete), ((16..=25).collect(), false), "after {from}, trimmed");
    }
    assert!(!read(&*broker, "short_1", at(26)).await.complete, "a position that never was");
    let other = Replay::After(Position { epoch: Epoch::new("other"), seq: 20 });
    let part = read(&*broker, "short_1", other).await;
    assert_eq!((seqs(&part), part.complete), ((16..=25).collect(), false), "another epoch");
    let page = read(&*broker, "short_1", Replay::Since { seq: 17, limit: 3 }).await;
    assert_eq!((seqs(&page), page.position.seq, page.complete), (vec![18, 19, 20], 25, true));
    assert_eq!(seqs(&read(&*broker, "short_1", Replay::Last(2)).await), [24, 25]);
    assert!(read(&*broker, "short_1", Replay::Nothing).await.messages.is_empty());

    put(&*broker, "brief_1", "1", None).await;
    timeout(DEADLINE, async {
        while !read(&*broker, "brief_1", Replay::Last(10)).await.messages.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the time-to-live of a message ends");
    let gone = read(&*broker, "brief_1", Replay::Last(10)).await;
    assert_eq!((gone.position.seq, gone.complete), (1, false), "the position outlives the messages");
    assert_eq!(put(&*broker, "brief_1", "2", None).await.seq, 2);
}

async fn a_message_id_counts_once(nodes: &dyn Nodes) {
    let (a, _a_events) = nodes.node(100).await;
    let (b, _b_events) = nodes.node(100).await;
    let first = put(&*a, "once", "1", Some("x")).await;
    put(&*a, "once", "2", Some("y")).await;
    assert_eq!(put(&*b, "once", "3", Some("x")).await, first);
    assert_eq!(put(&*b, "other", "3", Some("x")).await.seq, 1, "ids are per room");
    let batch = vec![publish("once", "4", Some("z")), publish("once", "5", Some("z"))];
    let answers = a.publish(batch).await;
    assert_eq!(answers[0], answers[1], "also within a batch");
    assert_eq!(read(&*a, "once", Replay::Nothing).await.position.seq, 3);
    let first = put(&*a, "brief_2", "1", Some("x")).await;
    timeout(DEADLINE, async {
        while put(&*a, "brief_2", "1", Some("x")).await == first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the window ends");
}

async fn live_messages_come_in_order(nodes: &dyn Nodes) {
    let (a, mut events) = nodes.node(10_000).await;
    let (b, _b_events) = nodes.node(100).await;
    put(&*b, "live", "1", None).await;
    let start = a.subscribe(&name("live")).await.expect("subscribed");
    assert_eq!(a.subscribe(&name("live")).await.expect("subscribed again"), start);
    assert_eq!(start.seq, 1);
    put(&*b, "unheard", "1", None).await;
    for n in 2..=500 {
        put(if n % 2 == 0 { &*a } else { &*b }, "live", &n.to_string(), None).await;
    }
    assert_eq!(live(&mut events, "live", 500).await, (2..=500).collect::<Vec<_>>());
    a.unsubscribe(&name("live")).await;
    a.subscribe(&name("quiet")).await.expect("subscribed");
    put(&*b, "live", "0", None).await;
    put(&*b, "quiet", "0", None).await;
    assert_eq!(live(&mut events, "quiet", 1).await, [1], "an unsubscribed room is silent");
}

async fn concurrent_publishers_make_one_order(nodes: &dyn Nodes) {
    let (reader, mut events) = nodes.node(10_000).await;
    reader.subscribe(&name("busy")).await.expect("subscribed");
    let mut publishers = tokio::task::JoinSet::new();
    for p in 0..4 {
        let (broker, publisher_events) = nodes.node(10_000).await;
        publishers.spawn(async move {
            let mut last = 0;
            for n in 0..50 {
                let batch = (0..5).map(|i| publish("busy", &format!("[{p},{}]", n * 5 + i), None)).collect();
                for answer in broker.publish(batch).await {
                    let seq = answer.expect("published").seq;
                    assert!(seq > last, "one publisher's messages keep their order");
                    last = seq;
                }
            }
            drop(publisher_events);
        });
    }
    while let Some(result) = publishers.join_next().await {
        result.expect("publisher");
    }
    assert_eq!(live(&mut events, "busy", 1_000).await, (1..=1_000).collect::<Vec<_>>());
    let history = read(&*reader, "busy", Replay::Last(1_000)).await;
    let mut next = [0u64; 4];
    for message in &history.messages {
        let [p, n]: [u64; 2] = serde_json::from_str(message.data.get()).expect("as published");
        assert_eq!(n, next[p as usize], "each publisher's own order");
        next[p as usize] += 1;
    }
}

async fn no_hole_between_history_and_live(nodes: &dyn Nodes) {
    let (writer, _writer_events) = nodes.node(10_000).await;
    let writing = tokio::spawn(async move {
        for n in 0..2_000 {
            put(&*writer, "moving", &n.to_string(), None).await;
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..10 {
        let (reader, mut events) = nodes.node(10_000).await;
        let start = reader.subscribe(&name("moving")).await.expect("subscribed").seq;
        let history = read(&*reader, "moving", Replay::Last(100_000)).await;
        let mut seen = seqs(&history);
        assert_eq!(seen, (1..=history.position.seq).collect::<Vec<_>>());
        assert!(history.position.seq >= start);
        let target = history.position.seq.max(start) + 50;
        if target < 1_900 {
            seen.extend(
                live(&mut events, "moving", target)
                    .await
                    .into_iter()
                    .filter(|seq| *seq > history.position.seq),
            );
            assert_eq!(
                seen,
                (1..=seen.len() as u64).collect::<Vec<_>>(),
                "joined without hole or repetition"
            );
        }
        tokio::task::yield_now().await;
    }
    writing.await.expect("writer");
}

async fn what_does_not_fit_is_told(nodes: &dyn Nodes) {
    let (writer, _writer_events) = nodes.node(10_000).await;
    let (reader, mut events) = nodes.node(4).await;
    reader.subscribe(&name("flood")).await.expect("subscribed");
    // A single batch: a publisher that waits between its messages might let the reader's broker catch up.
    let batch = (0..200).map(|n| publish("flood", &n.to_string(), None)).collect();
    writer.publish(batch).await.into_iter().for_each(|answer| assert!(answer.is_ok()));
    let mut buffer = Vec::new();
    timeout(DEADLINE, async {
        while !buffer.iter().any(|event| matches!(event, Event::Missed)) {
            assert!(events.receive(&mut buffer, 100).await);
        }
    })
    .await
    .expect("the loss is told");
    assert!(events.dropped() > 0);
    let history = read(&*reader, "flood", Replay::Last(1_000)).await;
    assert_eq!(seqs(&history), (1..=200).collect::<Vec<_>>(), "and can be repaired");
}

async fn a_trace_goes_with_its_message(nodes: &dyn Nodes) {
    let (writer, _writer_events) = nodes.node(100).await;
    let (reader, mut events) = nodes.node(100).await;
    reader.subscribe(&name("traced")).await.expect("subscribed");
    let trace = TraceContext { trace_id: 1 << 127 | 5, parent_id: 9, sampled: Some(true) };
    let traced = Publish { trace: Some(Box::new(trace)), ..publish("traced", "1", None) };
    let batch = vec![publish("traced", "0", None), traced];
    writer.publish(batch).await.into_iter().for_each(|answer| assert!(answer.is_ok()));
    let mut seen = Vec::new();
    timeout(DEADLINE, async {
        while seen.len() < 2 {
            let mut buffer = Vec::new();
            assert!(events.receive(&mut buffer, 100).await);
            seen.extend(buffer.into_iter().filter_map(|event| match event {
                Event::Message { message, .. } => Some(message),
                Event::Missed => None,
            }));
        }
    })
    .await
    .expect("live messages come");
    let kept = read(&*reader, "traced", Replay::Last(2)).await.messages;
    for messages in [seen, kept] {
        let traces: Vec<_> = messages.iter().map(|message| message.trace.as_deref().copied()).collect();
        assert_eq!(traces, [None, Some(trace)]);
    }
}

/// The live messages of a room up to a sequence number.
async fn live(events: &mut Events, room: &str, until: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    let reading = async {
        while seen.last().is_none_or(|last| *last < until) {
            let mut buffer = Vec::new();
            assert!(events.receive(&mut buffer, 1_000).await, "the broker is there");
            for event in buffer {
                match event {
                    Event::Message { room: of, message, .. } if of.as_str() == room => seen.push(message.seq),
                    Event::Message { .. } => {}
                    Event::Missed => panic!("nothing is missed"),
                }
            }
        }
    };
    timeout(DEADLINE, reading).await.expect("live messages come");
    seen
}
