//! Slow clients: how long a message may wait, and bandwidth that is shared by rooms.

use super::*;
use crate::message::Message;

const RATE: u64 = 4_000;

/// A client that wants no more than [`RATE`].
fn limited() -> Client {
    let wire = Wire { max_bandwidth: RATE, ..Wire::direct(Encoding::Json) };
    let policy = Policy { max_queue_bytes: 1 << 20, ..policy() };
    let session = Session::new(T0, "s1", Arc::new(policy), Identity::user("alice"), wire);
    let mut client = Client { session, now: T0 };
    assert_eq!(client.read()[0]["event"], "connected");
    client
}

fn follow(client: &mut Client, name: &str, options: &str) {
    client.say(&format!(r#"{{"type":"subscribe","request_id":"s","room":"{name}"{options}}}"#));
    let (ticket, _) = client.session.poll_command().unwrap();
    client.reply(ticket, nothing("e", 0));
}

fn message_in(name: &str, seq: u64, key: &str, size: usize) -> Arc<Batch> {
    let data = format!(r#""{}""#, "x".repeat(size));
    let message = Message {
        key: Some(key.into()),
        data: RawValue::from_string(data).unwrap(),
        ..(*message(seq)).clone()
    };
    let start = Position { epoch: Epoch::new("e"), seq: seq - 1 };
    Arc::new(Batch::new(RoomName::new(name).unwrap(), start, vec![Arc::new(message)], 6))
}

#[test]
fn a_message_that_waits_for_too_long_closes_the_connection() {
    let policy = Policy { max_queue_age_ms: 1_000, ..policy() };
    let mut client = Client::with(policy, Identity::user("alice"));
    let ticket = client.subscribe("");
    client.reply(ticket, nothing("e", 0));
    client.read();
    client.live(&batch_of("e", 1..=1));
    client.now = at(900);
    client.live(&batch_of("e", 2..=2));
    client.session.handle_timeout(client.now);
    assert!(!client.session.is_over());
    // What is older is taken in time, so the next one has all of its own.
    assert!(client.session.poll_transmit(client.now).is_some());
    assert_eq!(client.session.poll_timeout(client.now), Some(at(1_900).mono));
    client.now = at(1_899);
    client.session.handle_timeout(client.now);
    assert!(!client.session.is_over());
    client.now = at(1_900);
    client.session.handle_timeout(client.now);
    assert_eq!(client.read(), [4003]);
}

#[test]
fn a_table_of_newest_values_holds_no_more_than_its_keys_however_long_nobody_reads() {
    let policy = Policy { max_queue_age_ms: 1_000, ..policy() };
    let mut client = Client::with(policy, Identity::user("alice"));
    follow(&mut client, "market_1", r#","delivery":"latest""#);
    client.read();
    for seq in 1..=10_000 {
        client.now = at(seq);
        client.live(&message_in("market_1", seq, if seq % 2 == 0 { "a" } else { "b" }, 20));
        client.session.handle_timeout(client.now);
        assert!(client.session.queued_bytes() < 1_000, "{}", client.session.queued_bytes());
    }
    let sent = client.read();
    assert_eq!(sent.len(), 2);
    let sum: u64 = sent.iter().map(|one| 1 + one["conflated"].as_u64().unwrap_or(0)).sum();
    assert_eq!((sum, &sent[1]["seq"]), (10_000, &10_000.into()));
}

#[test]
fn answers_do_not_wait_for_bandwidth() {
    let mut client = limited();
    follow(&mut client, "market_1", "");
    client.read();
    for seq in 1..=50 {
        client.live(&message_in("market_1", seq, "k", 500));
    }
    client.read();
    client.say(r#"{"type":"request","request_id":"r","action":"echo","payload":{}}"#);
    assert_eq!(client.read()[0]["request_id"], "r");
    assert!(client.session.queued_bytes() > 10_000, "the rest waits");
    assert_eq!(client.session.quality(client.now), 100, "as the client wants it");
}

#[test]
fn who_leaves_a_room_hears_no_more_of_it() {
    let mut client = limited();
    follow(&mut client, "market_1", "");
    for seq in 1..=50 {
        client.live(&message_in("market_1", seq, "k", 500));
    }
    client.read();
    client.say(r#"{"type":"unsubscribe","request_id":"u","room":"market_1"}"#);
    assert_eq!(client.read().len(), 1);
    client.now = at(60_000);
    assert!(client.read().is_empty());
    assert_eq!(client.session.queued_bytes(), 0);
}

#[test]
fn a_log_that_starts_anew_is_told_behind_what_waited() {
    let mut client = limited();
    follow(&mut client, "market_1", "");
    client.read();
    for seq in 1..=20 {
        client.live(&message_in("market_1", seq, "k", 500));
    }
    client.live(&batch_of("other", 3..=3));
    let sent = client.read();
    let seqs: Vec<_> = sent.iter().map(|one| one["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=20).chain([2]).collect::<Vec<_>>());
    assert_eq!(sent[20]["event"], "resync");
    client.now = at(60_000);
    assert_eq!(client.seqs(), [3]);
}

#[test]
fn who_is_sent_away_gets_what_waits_and_the_last_value() {
    let mut client = limited();
    follow(&mut client, "market_1", "");
    follow(&mut client, "market_2", r#","delivery":"latest""#);
    client.read();
    for seq in 1..=30 {
        client.live(&message_in("market_1", seq, "k", 500));
        client.live(&message_in("market_2", seq, "k", 500));
    }
    client.session.go_away(client.now, 5);
    let sent = client.read();
    let of = |name: &str| sent.iter().filter(|one| one["room"] == name).collect::<Vec<_>>();
    assert_eq!((of("market_1").len(), of("market_2").len()), (30, 1));
    assert_eq!((&of("market_2")[0]["seq"], &of("market_2")[0]["conflated"]), (&30.into(), &29.into()));
    assert_eq!(sent[sent.len() - 1], 1001);
}

proptest! {
    /// Whatever is published when: rooms with `all` lack nothing and keep their order, sums of `latest` come out, and no more is sent
    /// than was asked for.
    #[test]
    fn bandwidth_changes_no_promise(
        steps in prop::collection::vec((0usize..3, 1usize..400, 0u64..80), 1..120),
    ) {
        let mut client = limited();
        let names = ["market_1", "market_2", "market_3"];
        for (name, options) in names.iter().zip(["", "", r#","delivery":"latest""#]) {
            follow(&mut client, name, options);
        }
        client.read();
        client.now = at(10_000);
        let (mut published, mut last, mut sum) = ([0u64; 3], [0u64; 3], 0);
        let mut sent: Vec<(u64, usize)> = Vec::new();
        let mut take = |client: &mut Client, last: &mut [u64; 3], sum: &mut u64| {
            for one in client.read() {
                let Some(room) = names.iter().position(|name| one["room"] == *name) else { continue };
                let seq = one["seq"].as_u64().unwrap();
                if room < 2 {
                    assert_eq!(seq, last[room] + 1);
                } else {
                    assert!(seq > last[room]);
                    *sum += 1 + one["conflated"].as_u64().unwrap_or(0);
                }
                last[room] = seq;
                sent.push((client.now.mono, one.to_string().len()));
            }
        };
        for (room, size, pass) in steps {
            published[room] += 1;
            client.live(&message_in(names[room], published[room], if size % 2 == 0 { "a" } else { "b" }, size));
            take(&mut client, &mut last, &mut sum);
            let until = client.now.mono + pass;
            // As the shell does it: it wakes when it was told to.
            while let Some(next) = client.session.poll_timeout(client.now).filter(|next| *next <= until) {
                client.now = at(next - T0.mono);
                client.session.handle_timeout(client.now);
                take(&mut client, &mut last, &mut sum);
            }
            client.now = at(until - T0.mono);
        }
        let mut spoke = client.now.mono;
        for _ in 0..20_000 {
            let Some(next) = client.session.poll_timeout(client.now) else { break };
            client.now = at((next - T0.mono).min(client.now.mono - T0.mono + 50));
            client.session.handle_timeout(client.now);
            if client.now.mono > spoke + 10_000 {
                spoke = client.now.mono;
                client.say(r#"{"type":"ping","timestamp":1}"#);
            }
            take(&mut client, &mut last, &mut sum);
        }
        prop_assert_eq!(last, published);
        prop_assert_eq!(sum, published[2]);
        prop_assert_eq!(client.session.queued_bytes(), 0);
        for (n, (from, _)) in sent.iter().enumerate() {
            let mut bytes = 0;
            for (at, size) in &sent[n..] {
                bytes += *size as u64;
                prop_assert!(bytes <= (at - from) * RATE / 1_000 + 3_500, "{bytes} in {} ms", at - from);
            }
        }
    }
}
