//! What a look at the cluster makes of its answers.

use serde_json::json;

use super::super::fixture::{NOW, answers, log, member, small, vitals};
use super::*;

fn ids(model: &Model) -> Vec<(&str, State)> {
    model.processes.iter().map(|process| (process.id.as_str(), process.state)).collect()
}

#[test]
fn a_cluster_is_summed_up_and_its_busiest_rooms_are_those_of_all_nodes() {
    let model = Model::of(&small());
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Draining), ("g1", State::Up)]);
    let totals = &model.totals;
    assert_eq!((totals.nodes, totals.gateways, totals.not_up), (2, 1, 1));
    assert_eq!(totals.clients, 1_220.0, "clients of gateways are connections of nodes");
    assert_eq!((totals.published_per_s, totals.delivered_per_s), (Some(200.0), Some(100_000.0)));
    assert_eq!(totals.worst_p99, Some((123.4, "b".into())));
    let rooms: Vec<_> =
        model.rooms.iter().map(|room| (room.name.as_str(), room.messages_per_s, room.subscribers)).collect();
    assert_eq!(rooms, [("market_EURUSD", 10.0, 1_000.0), ("market_USDJPY", 2.0, 3.0)]);
    let firing: Vec<_> = model.firing.iter().flatten().map(|alarm| alarm.id.as_str()).collect();
    assert_eq!(firing, ["node_lost:c", "latency:b"], "the critical first, the resolved not at all");
    let events: Vec<_> = model.events.iter().map(|event| (event.name.as_str(), event.id.as_str())).collect();
    assert_eq!(events, [("node_lost", "c"), ("node_joined", "b")], "the newest first");
    let b = &model.processes[1];
    assert!(b.memory_short);
    assert_eq!(b.memory_percent(), Some(15.625));
    assert_eq!(model.processes[2].clients, Some(1_100.0));
}

#[test]
fn who_is_not_heard_of_is_silent_as_a_member_and_else_gone() {
    let mut answers = answers(&[vitals("node", "a", json!({})), vitals("node", "silent", json!({}))]);
    answers.vitals = Some(log(
        "vitals",
        [
            (9_000, vitals("node", "a", json!({"connections": 1}))),
            (3_600, vitals("node", "silent", json!({}))),
            (3_600, vitals("node", "gone", json!({}))),
            (2_000, vitals("node", "joining", json!({"ready": false}))),
            (500, vitals("node", "a", json!({"connections": 2}))),
        ],
    ));
    let model = Model::of(&answers);
    assert_eq!(ids(&model), [("a", State::Up), ("joining", State::Unready), ("silent", State::Silent)]);
    assert_eq!(model.processes[0].clients, Some(2.0), "the newest counts");
    assert_eq!(model.totals.not_up, 2);
}

#[test]
fn a_server_without_vitals_shows_its_members() {
    let mut answers = Answers {
        cluster: json!({"nodes": [member("node", "a"), member("node", "b")], "gateways": [member("gateway", "g")]}),
        ..Answers::default()
    };
    answers.cluster["nodes"][1]["draining"] = true.into();
    let model = Model::of(&answers);
    assert!(!model.has_vitals);
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Draining), ("g", State::Up)]);
    let a = &model.processes[0];
    assert_eq!((a.clients, a.delivered_per_s, a.p99_ms), (Some(1_200.0), Some(50_000.0), None));
    assert_eq!((model.totals.published_per_s, model.firing), (None, None));

    // A room that nobody writes to any more, as after a downgrade, makes nobody silent and nobody there.
    let old = [(60_000, vitals("node", "a", json!({}))), (59_000, vitals("node", "z", json!({})))];
    answers.vitals = Some(log("vitals", old));
    let model = Model::of(&answers);
    assert!(!model.has_vitals);
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Draining), ("g", State::Up)]);
}

#[test]
fn what_cannot_be_read_is_passed_over() {
    let mut answers =
        answers(&[vitals("node", "a", json!({})), vitals("node", "b", json!({"cpu_percent": "much"}))]);
    answers.cluster["nodes"].as_array_mut().expect("a list").push(json!("no object"));
    answers.events = Some(json!("no log"));
    answers.alarms = Some(json!({"alarms": [17, {"state": "firing"}]}));
    let model = Model::of(&answers);
    // Of b there is what the list of members has.
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Up)]);
    assert_eq!((model.processes[1].p99_ms, model.processes[1].cpu_percent), (None, Some(42.5)));
    assert!(model.events.is_empty());
    assert_eq!(model.firing.map(|firing| firing.len()), Some(1));
    assert!(Model::of(&Answers::default()).processes.is_empty());
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let room = json!([{"room": "r\u{1b}[2J", "messages_per_s": 1.0, "subscribers": 1}]);
    let mut answers = answers(&[vitals("node", "a\u{1b}]0;x\u{7}", json!({"top_rooms": room}))]);
    answers.events = Some(log("e\n", [(1, json!({"id": "\r", "at": NOW, "text": "\u{9b}31m"}))]));
    let model = Model::of(&answers);
    assert_eq!(model.processes[0].id, "a·]0;x·");
    assert_eq!(model.rooms[0].name, "r·[2J");
    let event = &model.events[0];
    assert_eq!((&*event.name, &*event.id, &*event.text), ("e·", "·", "·31m"));
}
