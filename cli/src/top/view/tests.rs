//! What is on the screen, at several sizes.

use serde_json::{Value, json};

use super::super::fixture::{NOW, answers, log, small, vitals};
use super::super::row::Row;
use super::super::text::width;
use super::draw::Heights;
use super::*;

const VIA: &str = "http://127.0.0.1:8080";

fn view(answers: &Answers) -> View {
    let mut view = View::new(VIA, Sorting::by(Column::Kind));
    view.tell(answers, NOW);
    view
}

/// The lines of a screen of that size, without the space at their ends.
fn lines(view: &mut View, columns: usize, rows: usize) -> Vec<String> {
    let drawn: Vec<String> = view.draw(columns, rows, NOW).iter().map(Row::text).collect();
    assert_eq!(drawn.len(), rows);
    for line in &drawn {
        assert_eq!(width(line), columns, "{line:?} takes its width");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    drawn.iter().map(|line| line.trim_end().to_owned()).collect()
}

fn press(view: &mut View, keys: &str) {
    for key in keys.chars() {
        assert_eq!(view.key(KeyCode::Char(key).into()), Then::Draw, "{key}");
    }
}

/// The names in the order of the lines.
fn first_words(lines: &[String]) -> Vec<&str> {
    let names = lines[4..].iter().map(|line| line.split(' ').next().unwrap_or_default());
    names.take_while(|name| !["", "alarms", "busiest", "events"].contains(name)).collect()
}

fn many(count: usize) -> Answers {
    let node = |n: usize| {
        let change = json!({"cpu_percent": n, "draining": n.is_multiple_of(7), "connections": n * 1_000});
        vitals("node", &format!("node-{n:02}"), change)
    };
    answers(&(1..=count).map(node).collect::<Vec<_>>())
}

#[test]
fn a_small_cluster_at_80_by_24() {
    let shown = lines(&mut view(&small()), 80, 24);
    let expected = "\
tickmesh  2 nodes  1 gateway  1220 clients  1 not up                    09:41:49
2 alarms, 1 critical  worst p99 123ms b  published 200/s  delivered 100k/s

id kind▲   state    clients cpu%   mem mem% pub/s dlv/s  B/s   p99 delay qual
a  node    up          1200 42.5 80.0M 15.6   100 50.0k 8.6M 9.0ms 0.4ms 97.1
b  node    draining      20  7.0 80.0M 15.6   100 50.0k 8.6M 123ms 0.4ms 97.1
g1 gateway up          1100 42.5 80.0M 15.6     -     -    -     - 0.4ms 97.1
alarms that fire: 2
critical    12s  node c is lost
warning     12s  node b is slow
busiest rooms                                              msg/s    subs   dlv/s
market_EURUSD                                                 10    1000   10.0k
market_USDJPY                                                  2       3       6
events
09:41:42  node_lost       node c is lost
09:41:40  node_joined     node b has joined







q quit  ? help  ↑↓ scroll  ←→ sort  r reverse";
    assert_eq!(shown.join("\n"), expected, "\n{}", shown.join("\n"));
}

#[test]
fn a_small_cluster_at_160_by_50() {
    let shown = lines(&mut view(&small()), 160, 50);
    let expected = "\
tickmesh  2 nodes  1 gateway  1220 clients  1 not up  http://127.0.0.1:8080                                                                             09:41:49
2 alarms, 1 critical  worst p99 123ms b  published 200/s  delivered 100k/s  sent 17.2MB/s

id kind▲   state    clients cpu%   mem mem% pub/s dlv/s  B/s cfl/s   p50   p95   p99 delay qual since
a  node    up          1200 42.5 80.0M 15.6   100 50.0k 8.6M     0 1.2ms 4.0ms 9.0ms 0.4ms 97.1 1h00m
b  node    draining      20  7.0 80.0M 15.6   100 50.0k 8.6M     0 0.5ms 1.0ms 123ms 0.4ms 97.1 1h00m
g1 gateway up          1100 42.5 80.0M 15.6     -     -    -     -     -     -     - 0.4ms 97.1 1h00m
alarms that fire: 2
critical    12s  node c is lost
warning     12s  node b is slow
busiest rooms                                              msg/s    subs   dlv/s
market_EURUSD                                                 10    1000   10.0k
market_USDJPY                                                  2       3       6
events
09:41:42  node_lost       node c is lost
09:41:40  node_joined     node b has joined



";
    assert_eq!(shown[..20].join("\n"), expected, "\n{}", shown.join("\n"));
    assert!(shown[20..49].iter().all(String::is_empty));
}

#[test]
fn nobody_there_is_said_and_so_is_that_nobody_was_asked_yet() {
    let mut view = View::new(VIA, Sorting::by(Column::Kind));
    let shown = lines(&mut view, 80, 24).join("\n");
    assert!(shown.contains("asking http://127.0.0.1:8080 …") && !shown.contains("node"), "{shown}");
    for (columns, rows) in [(80, 24), (160, 50)] {
        view.tell(&answers(&[]), NOW);
        let shown = lines(&mut view, columns, rows);
        assert!(shown[0].starts_with("tickmesh  0 nodes  0 gateways  0 clients"), "{shown:?}");
        assert_eq!(shown[4], "nobody is there");
    }
}

#[test]
fn sixty_nodes_scroll_and_leave_room_for_the_rest() {
    let mut answers = many(60);
    answers.events = Some(log(
        "node_joined",
        (0..9).map(|_| (0, json!({"id": "x", "at": NOW, "text": "node x has joined"}))),
    ));
    let mut view = view(&answers);
    let shown = lines(&mut view, 80, 24);
    let at = |title: &str| shown.iter().position(|line| line.starts_with(title));
    let (rooms, events) = (at("busiest rooms"), at("events"));
    assert!(rooms.is_some() && events.is_some_and(|events| events < 22), "{shown:#?}");
    let names = first_words(&shown);
    assert_eq!((names.first(), names.len()), (Some(&"node-01"), rooms.unwrap_or(0) - 4));

    view.key(KeyCode::End.into());
    assert_eq!(first_words(&lines(&mut view, 80, 24)).last(), Some(&"node-60"));
    view.key(KeyCode::PageUp.into());
    view.key(KeyCode::Up.into());
    let above = format!("node-{:02}", 60 - 2 * names.len());
    assert_eq!(first_words(&lines(&mut view, 80, 24)).first(), Some(&&*above));
    // A larger screen has no empty lines below the last.
    view.key(KeyCode::End.into());
    let shown = lines(&mut view, 160, 50);
    assert_eq!(first_words(&shown).last(), Some(&"node-60"));
    assert!(first_words(&shown).len() > 30, "{shown:#?}");
    view.key(KeyCode::Home.into());
    assert_eq!(first_words(&lines(&mut view, 160, 50)).first(), Some(&"node-01"));

    // Fewer nodes than were scrolled by.
    view.key(KeyCode::End.into());
    view.tell(&many(2), NOW);
    assert_eq!(first_words(&lines(&mut view, 80, 24)), ["node-01", "node-02"]);
}

#[test]
fn keys_sort_and_the_same_key_turns_it_round() {
    let mut view = view(&many(9));
    let mut order = |keys: &str| {
        press(&mut view, keys);
        let shown = lines(&mut view, 80, 24);
        let first = first_words(&shown)[0].to_owned();
        (first, shown[3].clone())
    };
    assert!(order("").1.contains("kind▲"));
    let (first, title) = order("u");
    assert!(first == "node-09" && title.contains("cpu%▼"), "{first} {title}");
    let (first, title) = order("u");
    assert!(first == "node-01" && title.contains("cpu%▲"), "{first} {title}");
    assert_eq!(order("r").0, "node-09");
    assert_eq!(order("i").0, "node-01");
    assert_eq!(order("s").0, "node-07", "what drains is worse than what is up");
    // A column that had no room has it when it is sorted by.
    assert!(order("f").1.contains("cfl/s▼"));
    assert_eq!(order("x").1, order("").1, "a key that does nothing");
    view.key(KeyCode::Right.into());
    view.key(KeyCode::Left.into());
    view.key(KeyCode::Left.into());
    assert!(lines(&mut view, 80, 24)[3].contains("B/s▼"));
}

#[test]
fn new_figures_keep_the_order_that_was_chosen() {
    let mut view = view(&many(9));
    press(&mut view, "u");
    view.tell(&many(12), NOW);
    assert_eq!(first_words(&lines(&mut view, 80, 24))[0], "node-12");
}

#[test]
fn long_and_wide_names_are_cut_and_nothing_is_out_of_its_column() {
    let names = [
        "tickmesh-node-with-a-name-that-goes-on-and-on-and-on-7c9d8b-x2x9p".to_owned(),
        "上海节点".repeat(9),
        "е\u{301}".repeat(40),
        "👩‍👩‍👧‍👦-family".into(),
        "b".into(),
        "\u{1b}[31mred\u{1b}[0m".into(),
    ];
    let rooms = |name: &str| json!([{"room": name.repeat(5), "messages_per_s": 1e9, "subscribers": 1e7}]);
    let nodes: Vec<Value> = names
        .iter()
        .map(|name| {
            vitals(
                "node",
                name,
                json!({"top_rooms": rooms(name), "cpu_percent": 1e12, "queue_delay_ms": 1e9}),
            )
        })
        .collect();
    let mut answers = answers(&nodes);
    answers.events =
        Some(log("e".repeat(90).as_str(), names.iter().map(|name| (0, json!({"text": name.repeat(9)})))));
    let alarm =
        |name: &String| super::super::fixture::alarm(name, &name.repeat(2), "firing", &name.repeat(9));
    answers.alarms = Some(json!({"alarms": names.iter().map(alarm).collect::<Vec<_>>()}));
    for (columns, rows) in [(80, 24), (160, 50), (40, 12), (20, 5), (7, 3), (1, 1)] {
        let mut view = view(&answers);
        view.fail(&"上海 is away ".repeat(20), NOW);
        // That every line takes its width is asserted there.
        let shown = lines(&mut view, columns, rows);
        press(&mut view, "?");
        lines(&mut view, columns, rows);
        if columns < 80 {
            continue;
        }
        let state = shown[3].find("state").map(|byte| width(&shown[3][..byte])).expect("the column");
        for line in &shown[4..4 + names.len()] {
            let (mut at, mut before) = (0, 0);
            for (byte, _) in line.char_indices() {
                if width(&line[..byte]) == state {
                    (at, before) = (byte, state);
                    break;
                }
            }
            assert_eq!(before, state, "{line}");
            assert!(line[at..].starts_with("up "), "{line:?}: state in column {state}");
        }
        assert!(shown.iter().any(|line| line.starts_with("tickmes") && line.contains("x2x9p")), "{shown:#?}");
    }
}

#[test]
fn trouble_is_told_with_the_age_of_the_figures_until_it_is_over() {
    let mut view = view(&small());
    view.fail("http://127.0.0.1:8080/api/v1/cluster: connection refused", NOW - 4_000);
    view.fail("http://127.0.0.1:8080/api/v1/cluster: time-out", NOW);
    view.told_at = Some(NOW - 5_000);
    let shown = lines(&mut view, 120, 24);
    assert_eq!(shown[2], "since 09:41:45, figures of 5s ago: http://127.0.0.1:8080/api/v1/cluster: time-out");
    assert!(first_words(&shown).contains(&"b"), "what was known is still shown");
    view.tell(&small(), NOW);
    assert_eq!(lines(&mut view, 120, 24)[2], "");
}

#[test]
fn an_older_server_is_shown_as_far_as_it_tells() {
    let mut answers = small();
    (answers.vitals, answers.events, answers.alarms) = (None, None, None);
    let shown = lines(&mut view(&answers), 80, 24);
    assert_eq!(shown[1], "alarms -  published -/s  delivered 100k/s", "{shown:#?}");
    assert!(shown[2].contains("no vitals"), "{shown:#?}");
    assert_eq!(first_words(&shown), ["a", "b", "g1"]);
}

#[test]
fn help_names_every_key_and_quit_leaves_it_first() {
    let mut view = view(&small());
    press(&mut view, "?");
    for (columns, rows) in [(80, 24), (160, 50)] {
        let shown = lines(&mut view, columns, rows).join("\n");
        for column in Column::ALL {
            let entry = format!("{}  {}", column.key(), column.title());
            assert!(shown.contains(&entry), "{entry}: {shown}");
        }
    }
    press(&mut view, "q");
    assert!(lines(&mut view, 80, 24)[3].starts_with("id"));
    assert_eq!(view.key(KeyCode::Char('q').into()), Then::Quit);
    assert_eq!(view.key(KeyCode::Esc.into()), Then::Quit);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)), Then::Draw);
}

#[test]
fn lines_are_shared_out_with_no_title_alone() {
    for lines in 0..60 {
        for want in [
            Heights { processes: 2, alarms: 0, rooms: 0, events: 0 },
            Heights { processes: 61, alarms: 9, rooms: 21, events: 51 },
            Heights { processes: 4, alarms: 2, rooms: 2, events: 51 },
        ] {
            let got = Heights::share(lines, &want);
            let Heights { processes, alarms, rooms, events } = got;
            assert!(processes + alarms + rooms + events <= lines, "{lines}: {got:?}");
            assert!(processes <= want.processes && alarms <= want.alarms, "{lines}: {got:?}");
            assert!(![alarms, rooms, events].contains(&1), "{lines}: {got:?}");
            let all = want.processes + want.alarms + want.rooms + want.events;
            assert!(lines < 24 || processes + alarms + rooms + events == all.min(lines), "{lines}: {got:?}");
        }
    }
}
