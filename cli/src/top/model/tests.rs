//! What a look at the cluster makes of its answers.

use serde_json::json;

use super::super::fixture::{NOW, answers, log, member, small, vitals};
use super::*;

fn ids(model: &Model) -> Vec<(&str, State)> {
    model.processes.iter().map(|process| (process.id.as_str(), process.state)).collect()
}

/// The first look.
fn look(answers: &Answers) -> Model {
    Model::of(answers, &mut Liveness::default(), NOW)
}

#[test]
fn a_cluster_is_summed_up_and_its_busiest_rooms_are_those_of_all_nodes() {
    let model = look(&small());
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

/// Answers with these members, in whose log these processes told something: number, milliseconds that the sender's clock is ahead
/// of the answering one's, and whose it is.
fn told(members: &[&str], messages: &[(u64, i64, &str)]) -> Answers {
    let members: Vec<_> = members.iter().map(|id| vitals("node", id, json!({}))).collect();
    let mut answers = answers(&members);
    let mut vitals = log("vitals", messages.iter().map(|(.., id)| (0, vitals("node", id, json!({})))));
    for (at, (seq, ahead, _)) in messages.iter().enumerate() {
        let message = &mut vitals["messages"][at];
        (message["seq"], message["timestamp"]) = ((*seq).into(), NOW.saturating_add_signed(*ahead).into());
    }
    answers.vitals = Some(vitals);
    answers
}

#[test]
fn who_is_not_heard_of_is_silent_as_a_member_and_else_gone() {
    let members = ["a", "b", "silent"];
    let mut liveness = Liveness::default();
    let first = [(1, 0, "silent"), (2, 0, "gone"), (3, 0, "b"), (4, 0, "a")];
    let model = Model::of(&told(&members, &first), &mut liveness, NOW);
    assert_eq!(
        ids(&model),
        [("a", State::Up), ("b", State::Up), ("gone", State::Up), ("silent", State::Up)],
        "what is among the newest messages is new to who looks first"
    );
    // Until then nobody else tells anything, as a look may come between.
    let model = Model::of(&told(&members, &first), &mut liveness, NOW + 2_999);
    assert_eq!(model.totals.not_up, 0);
    let mut answers = told(&members, &[&first[..], &[(5, 0, "b"), (6, 0, "joining"), (7, 0, "a")]].concat());
    let messages = answers.vitals.as_mut().expect("a log");
    messages["messages"][5]["data"]["ready"] = false.into();
    messages["messages"][6]["data"]["connections"] = 2.into();
    let model = Model::of(&answers, &mut liveness, NOW + 3_000);
    assert_eq!(
        ids(&model),
        [("a", State::Up), ("b", State::Up), ("joining", State::Unready), ("silent", State::Silent)]
    );
    assert_eq!(model.processes[0].clients, Some(2.0), "the newest counts");
    assert_eq!(model.totals.not_up, 2);
    // Its last message is none of the newest any more: it is silent still.
    let later = [(8, 0, "b"), (9, 0, "a")];
    let model = Model::of(&told(&members, &later), &mut liveness, NOW + 4_000);
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Up), ("silent", State::Silent)]);
}

#[test]
fn no_senders_clock_makes_anybody_silent_or_keeps_anybody_alive() {
    let members = ["a", "ahead", "behind"];
    let of = |round: u64, who: &[(i64, &'static str)]| -> Vec<_> {
        who.iter().zip(1..).map(|((ahead, id), n)| (3 * round + n, *ahead, *id)).collect()
    };
    let all = [(0, "a"), (60_000, "ahead"), (-60_000, "behind")];
    let mut liveness = Liveness::default();
    for round in 0..5 {
        let now = NOW + round * 1_000;
        let model = Model::of(&told(&members, &of(round, &all)), &mut liveness, now);
        assert_eq!(ids(&model), members.map(|id| (id, State::Up)), "round {round}");
    }
    // The one that is ahead tells no more, and its last message is newer than all others by its clock.
    for round in 5..10 {
        let messages = [of(4, &all), of(round, &[all[0], all[2]])].concat();
        let model = Model::of(&told(&members, &messages), &mut liveness, NOW + round * 1_000);
        let ahead = if round < 7 { State::Up } else { State::Silent };
        assert_eq!(ids(&model), [("a", State::Up), ("ahead", ahead), ("behind", State::Up)], "round {round}");
    }
}

#[test]
fn the_first_look_tells_by_the_order_of_the_log_who_is_silent() {
    let rounds = (10..15).flat_map(|n| [(2 * n, 0, "a"), (2 * n + 1, 0, "b")]);
    let messages: Vec<_> = [(1, 0, "gone"), (2, 0, "silent")].into_iter().chain(rounds).collect();
    let mut liveness = Liveness::default();
    for now in [NOW, NOW + 1_000] {
        let model = Model::of(&told(&["a", "b", "silent"], &messages), &mut liveness, now);
        assert_eq!(ids(&model), [("a", State::Up), ("b", State::Up), ("silent", State::Silent)]);
    }
    // A log that begins anew counts from 1 again.
    let mut answers = told(&["a", "b", "silent"], &[(1, 0, "silent"), (2, 0, "a"), (3, 0, "b")]);
    answers.vitals.as_mut().expect("a log")["epoch"] = "f".into();
    let model = Model::of(&answers, &mut liveness, NOW + 60_000);
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Up), ("silent", State::Up)]);
}

#[test]
fn a_server_without_vitals_shows_its_members() {
    let mut answers = Answers {
        cluster: json!({"nodes": [member("node", "a"), member("node", "b")], "gateways": [member("gateway", "g")]}),
        ..Answers::default()
    };
    answers.cluster["nodes"][1]["draining"] = true.into();
    let model = look(&answers);
    assert!(!model.has_vitals);
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Draining), ("g", State::Up)]);
    let a = &model.processes[0];
    assert_eq!((a.clients, a.delivered_per_s, a.p99_ms), (Some(1_200.0), Some(50_000.0), None));
    assert_eq!((model.totals.published_per_s, model.firing), (None, None));

    // A room that nobody writes to any more, as after a downgrade, makes nobody silent and nobody there.
    let old = [(60_000, vitals("node", "a", json!({}))), (59_000, vitals("node", "z", json!({})))];
    answers.vitals = Some(log("vitals", old));
    let model = look(&answers);
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
    let model = look(&answers);
    // Of b there is what the list of members has.
    assert_eq!(ids(&model), [("a", State::Up), ("b", State::Up)]);
    assert_eq!((model.processes[1].p99_ms, model.processes[1].cpu_percent), (None, Some(42.5)));
    assert!(model.events.is_empty());
    assert_eq!(model.firing.map(|firing| firing.len()), Some(1));
    assert!(look(&Answers::default()).processes.is_empty());
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let room = json!([{"room": "r\u{1b}[2J", "messages_per_s": 1.0, "subscribers": 1}]);
    let mut answers = answers(&[vitals("node", "a\u{1b}]0;x\u{7}", json!({"top_rooms": room}))]);
    answers.events = Some(log("e\n", [(1, json!({"id": "\r", "at": NOW, "text": "\u{9b}31m"}))]));
    let model = look(&answers);
    assert_eq!(model.processes[0].id, "a·]0;x·");
    assert_eq!(model.rooms[0].name, "r·[2J");
    let event = &model.events[0];
    assert_eq!((&*event.name, &*event.id, &*event.text), ("e·", "·", "·31m"));
}
