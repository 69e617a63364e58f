//! What is told of a session for operators: how long messages were on their way, and what went wrong.

use super::*;
use crate::outbox::Mark;

/// Messages that were accepted at these times in UTC milliseconds, and handed over at 77.
fn measured(first: u64, accepted: &[u64]) -> Arc<Batch> {
    let start = Position { epoch: Epoch::new("x"), seq: first - 1 };
    let messages = (first..).zip(accepted);
    let messages = messages
        .map(|(seq, accepted_at)| Arc::new(Message { accepted_at: *accepted_at, ..(*message(seq)).clone() }));
    Arc::new(Batch::handed(room(), start, messages.collect(), 6, 77))
}

/// The marks of all that is written next.
fn marks(client: &mut Client) -> Vec<Mark> {
    let mut marks = Vec::new();
    while client.session.poll_transmit(client.now).is_some() {
        marks.push(client.session.transmitted());
    }
    marks
}

fn occurrences(client: &mut Client) -> Vec<Occurrence> {
    std::iter::from_fn(|| client.session.poll_occurrence()).collect()
}

#[test]
fn messages_are_measured_from_the_oldest_of_their_batch_and_answers_are_not() {
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=2, true));
    client.live(&measured(3, &[40, 50]));
    let marks = marks(&mut client);
    assert_eq!(marks, [Mark::default(), Mark { messages: 2, accepted_at: 40, handed_at: 77 }]);
}

#[test]
fn messages_that_wait_because_the_client_wants_it_are_counted_and_not_timed() {
    for (options, second) in [(r#","delivery":"latest""#, 50), (r#","delivery":"latest","max_rate":1"#, 0)] {
        let mut client = Client::new();
        let ticket = client.subscribe(options);
        client.reply(ticket, history("x", 1..=2, true));
        client.read();
        let mut told = Vec::new();
        for (seq, accepted_at) in [(3, 40), (4, 50)] {
            client.live(&measured(seq, &[accepted_at]));
            if seq == 4 {
                // By then it may go out.
                client.now.mono += 1_000;
                client.session.handle_timeout(client.now);
            }
            told.extend(marks(&mut client).iter().map(|mark| (mark.messages, mark.accepted_at)));
        }
        // The first one waits for nothing, whatever the rate.
        assert_eq!(told, [(1, 40), (1, second)]);
    }
}

#[test]
fn towards_a_gateway_the_frames_are_measured_and_the_record_s_head_is_not() {
    let wire = Wire { linked: true, ..Wire::direct(Encoding::Json) };
    let session = Session::new(T0, "s1", Arc::new(policy()), Identity::user("alice"), wire);
    let mut client = Client { session, now: T0 };
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=2, true));
    marks(&mut client);
    client.live(&measured(3, &[40]));
    let measured: Vec<_> = marks(&mut client).iter().map(|mark| mark.messages).collect();
    assert_eq!(measured, [0, 1]);
}

#[test]
fn a_gateway_hears_when_all_of_a_session_goes_on_though_nothing_happens_in_it() {
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=2, true));
    client.read();
    let snapshot = client.session.snapshot();
    let policy = client.session.policy.clone();
    client.session = Session::restore(T0, policy.clone(), snapshot.clone(), true);
    assert_eq!(marks(&mut client).len(), 0, "its room is being read");
    let (ticket, _) = client.session.poll_command().unwrap();
    client.reply(ticket, nothing("x", 2));
    assert_eq!(marks(&mut client).len(), 1, "a record without frames");
    // One that follows nothing is there at once.
    let idle = Snapshot { subscriptions: Vec::new(), ..snapshot };
    client.session = Session::restore(T0, policy, idle, true);
    assert_eq!(marks(&mut client).len(), 1);
    assert_eq!(marks(&mut client).len(), 0, "told once");
}

#[test]
fn recoveries_errors_and_resyncs_are_told_once() {
    for complete in [true, false] {
        let mut client = Client::new();
        let ticket = client.subscribe(r#","recover":{"epoch":"x","seq":1}"#);
        client.reply(ticket, history("x", 2..=2, complete));
        assert_eq!(occurrences(&mut client), [Occurrence::Recovered { complete }]);
        client.live(&batch_of("another", 1..=1));
        assert_eq!(occurrences(&mut client), [Occurrence::Resync]);
        client.say(r#"{"type":"subscribe","request_id":"s","room":"user_bob"}"#);
        assert_eq!(occurrences(&mut client), [Occurrence::Failed(ErrorCode::PermissionDenied)]);
    }
    // Who follows a room for the first time recovers nothing.
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.reply(ticket, history("x", 1..=2, true));
    assert_eq!(occurrences(&mut client), []);
}
