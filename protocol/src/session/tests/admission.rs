//! Connections that are not used are let go, where that is wanted; those that are used are not.

use super::super::admission::State;
use super::*;

fn stale_after(stale_ms: u64) -> Client {
    Client::with(Policy { stale_ms, ..policy() }, Identity::user("alice"))
}

/// Runs the clock to a time, with a client that answers all pings; gives what else it read.
fn live_until(client: &mut Client, end: u64) -> Vec<Value> {
    let mut seen = Vec::new();
    while let Some(next) = client.session.poll_timeout(client.now).filter(|next| *next <= T0.mono + end) {
        client.now = at(next - T0.mono);
        client.session.handle_timeout(client.now);
        seen.extend(client.read());
        client.session.handle_incoming(client.now, &Incoming::Pong(&client.now.mono.to_be_bytes()));
    }
    client.now = at(end);
    seen
}

#[test]
fn a_client_that_does_nothing_is_closed_with_4004_though_it_answers_pings() {
    let mut client = stale_after(300_000);
    assert!(live_until(&mut client, 100_000).is_empty());
    client.say(r#"{"type":"ping","timestamp":1}"#);
    client.read();
    assert!(live_until(&mut client, 399_999).is_empty(), "a message of its own starts the time anew");
    assert_eq!(live_until(&mut client, 400_000), [4004]);
    assert!(live_until(&mut stale_after(0), 90_000_000).is_empty(), "0 is never");
}

#[test]
fn who_follows_a_room_is_not_stale_until_it_leaves() {
    let mut client = stale_after(300_000);
    let ticket = client.subscribe("");
    client.reply(ticket, history("e", 1..=1, true));
    client.read();
    assert!(live_until(&mut client, 3_000_000).is_empty());
    client.say(r#"{"type":"unsubscribe","request_id":"u","room":"market_1"}"#);
    client.read();
    assert_eq!(live_until(&mut client, 3_300_000), [4004]);
}

#[test]
fn states_mean_something() {
    let mut client = stale_after(300_000);
    let state = |client: &Client| client.session.state(client.now, false);
    assert_eq!(state(&client), State::Active);
    live_until(&mut client, 60_000);
    assert_eq!(state(&client), State::Idle);
    live_until(&mut client, 150_000);
    assert_eq!(state(&client), State::Stale);
    assert_eq!(client.session.state(client.now, true), State::Broken, "its socket takes nothing");
    let ticket = client.subscribe("");
    client.reply(ticket, history("e", 1..=1, true));
    assert_eq!(state(&client), State::Active);
    live_until(&mut client, 600_000);
    assert_eq!(state(&client), State::Idle, "it follows a room");
    client.live(&batch_of("e", 2..=2));
    assert_eq!(state(&client), State::Active);
    client.now = at(600_000 + 30_000 + 7_501);
    assert_eq!(state(&client), State::Broken, "it answers no ping");
}

#[test]
fn who_is_shed_is_told_when_to_come_back_and_costs_no_more() {
    let mut client = Client::new();
    let ticket = client.subscribe("");
    client.reply(ticket, history("e", 1..=1, true));
    client.read();
    client.live(&batch_of("e", 2..=9));
    client.session.shed(client.now, 1_234);
    let seen = client.read();
    assert_eq!(seen[0]["event"], "going_away");
    assert_eq!(seen[0]["data"]["retry_after_ms"], 1_234);
    assert_eq!(seen[1..], [1013], "what waited is thrown away");
}

#[test]
fn a_new_policy_holds_at_once() {
    let mut client = Client::new();
    client.session.set_policy(Arc::new(Policy { max_subscriptions: 0, ..policy() }));
    client.say(r#"{"type":"subscribe","request_id":"s","room":"market_1"}"#);
    assert_eq!(client.read()[0]["error_details"]["max_subscriptions"], 0);
}
