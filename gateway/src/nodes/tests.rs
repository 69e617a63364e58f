use super::*;

fn nodes(all: &[(&str, usize, State)], keyed: bool) -> Nodes {
    let node = |id: &str, links: usize, state| {
        let report = Report {
            id: id.into(),
            kind: Kind::Node,
            run: links as u64,
            address: String::new(),
            version: String::new(),
            started_at: 0,
            draining: false,
            connections: 0,
            cpu_percent: 0.0,
            memory_bytes: 0,
            messages_per_s: 0.0,
            zone: String::new(),
            queue_delay_ms: 0.0,
            quality: 100.0,
        };
        let node = Node::new(&report);
        node.state.send_replace(state);
        node.links.store(links, Ordering::Relaxed);
        node
    };
    let known = all.iter().map(|(id, links, state)| ((*id).to_owned(), node(id, *links, *state)));
    Nodes {
        lost: AtomicU64::new(0),
        known: Mutex::new(known.collect()),
        rules: Rules { zone: String::new(), keyed, pace: 500 },
        dialer: Dialer { secret: Default::default(), tls: None },
    }
}

#[test]
fn sessions_go_where_there_are_few_and_never_where_they_cannot_stay() {
    let all =
        [("a", 5, State::Alive), ("b", 3, State::Alive), ("c", 0, State::Draining), ("d", 0, State::Dead)];
    let nodes = nodes(&all, false);
    let choose = |not| nodes.choose(not, None).unwrap();
    for _ in 0..50 {
        assert_eq!(choose(None).id, "b");
        assert_eq!(choose(Some("b")).id, "a");
    }
    let b = choose(None);
    assert_eq!(nodes.choose_next(&b, None).unwrap().id, "a");
    b.failed();
    assert_eq!(choose(None).id, "a", "one that failed is passed over");
    b.worked();
    assert_eq!(choose(Some("a")).id, "b");
    let alone = self::nodes(&[("a", 5, State::Alive), ("c", 0, State::Draining)], false);
    let a = alone.choose(Some("a"), None).unwrap();
    assert_eq!(a.id, "a", "better than none");
    assert!(alone.choose_next(&a, None).is_none());
    a.state.send_replace(State::Dead);
    assert_eq!(
        alone.any().unwrap().id,
        "c",
        "requests are answered by one that drains, if there is no other"
    );
    for _ in 0..50 {
        assert!(["a", "b"].contains(&nodes.any().unwrap().id.as_str()));
    }
}

#[test]
fn what_is_above_a_nodes_share_moves_and_a_draining_node_empties_at_a_pace() {
    let all = [("a", 300, State::Alive), ("b", 0, State::Alive), ("c", 100, State::Draining)];
    let nodes = nodes(&all, false);
    nodes.move_some(true);
    let moves = |id: &str| nodes.known.lock()[id].moves.available_permits();
    assert_eq!((moves("a"), moves("b"), moves("c")), (150, 0, 10));
    nodes.move_some(false);
    assert_eq!(moves("c"), 10, "no more than are waiting to move already");
}

#[test]
fn sessions_with_keys_move_only_where_their_key_belongs() {
    let nodes = nodes(&[("a", 300, State::Alive), ("b", 300, State::Alive)], true);
    let home = nodes.choose(None, Some("ann")).unwrap();
    let other = nodes.choose(Some(&home.id), None).unwrap();
    assert!(nodes.choose_next(&home, Some("ann")).is_none());
    assert_eq!(nodes.choose_next(&other, Some("ann")).unwrap().id, home.id);
    assert!(nodes.choose_next(&other, None).is_none(), "without a key it may stay");
    home.state.send_replace(State::Draining);
    assert_eq!(nodes.choose_next(&home, Some("ann")).unwrap().id, other.id);
    nodes.review();
    nodes.move_some(true);
    assert_eq!(other.moves.available_permits(), 10, "each sees at the same pace whether it should move");
    assert_eq!(other.review.load(Ordering::Relaxed), 290);
}

#[test]
fn a_node_that_answered_once_and_does_not_now_is_told_of_as_long_as_it_has_a_lease() {
    let nodes = nodes(&[("a", 0, State::Dead), ("b", 0, State::Dead), ("new", 0, State::Dead)], false);
    let node = |id: &str| nodes.known.lock()[id].clone();
    let answers = |id: &str, answers| {
        node(id).answers.send_replace(answers);
        nodes.judge(&node(id), true);
    };
    answers("a", true);
    answers("b", true);
    assert!(nodes.unreachable().is_empty(), "one that has just come has not been met");
    answers("a", false);
    assert_eq!(nodes.unreachable(), ["a"]);
    answers("b", false);
    answers("a", true);
    assert_eq!(nodes.unreachable(), ["b"]);
    nodes.known.lock().remove("b");
    assert!(nodes.unreachable().is_empty());
}
