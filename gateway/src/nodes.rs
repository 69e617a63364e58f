//! The nodes as this gateway sees them, where a session is placed, and which are to move.
//!
//! Who is there comes from the roster; whether it answers, from a link to each that is asked every second. Invariants:
//! no session is placed on a node that drains or is silent; connections move at a bounded pace, but from a dead node at
//! once. A node that answers pings and yet fails sessions is passed over for a while, longer each time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use tickmesh_cluster::members::{Kind, Report, Roster};
use tickmesh_protocol::link::{Records, ToGateway, ToNode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::pool;

/// How often a node is asked whether it lives, and how long it may be silent.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
/// How often moves are given out.
const TICK: Duration = Duration::from_millis(20);
/// Ticks between two looks at the balance.
const BALANCE_TICKS: u32 = 25;
/// A node may have so many connections more than its share, in percent, before some move.
const SLACK_PERCENT: usize = 5;

/// How long a node that failed a session is passed over; doubled with each that fails, up to the longest.
const PASS_OVER: Duration = Duration::from_millis(250);
const LONGEST_PASS_OVER: Duration = Duration::from_secs(30);

/// How a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It answers.
    Alive,
    /// It is about to stop.
    Draining,
    /// It is silent, or its lease has ended.
    Dead,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    run: u64,
    pub(crate) address: String,
    state: watch::Sender<State>,
    draining: watch::Sender<bool>,
    answers: watch::Sender<bool>,
    /// Connections that are on it.
    links: AtomicUsize,
    /// Until when it is passed over, and for how long the next time.
    passed_over: Mutex<Option<(Instant, Duration)>>,
    /// One permit for each connection that is to move away.
    pub(crate) moves: Arc<Semaphore>,
}

/// A connection counted at its node.
pub(crate) struct Placed(Arc<Node>);

impl Node {
    fn new(report: &Report) -> Arc<Self> {
        Arc::new(Self {
            id: report.id.clone(),
            run: report.run,
            address: report.address.clone(),
            state: watch::channel(State::Dead).0,
            draining: watch::channel(report.draining).0,
            answers: watch::channel(false).0,
            links: AtomicUsize::new(0),
            passed_over: Mutex::new(None),
            moves: Arc::new(Semaphore::new(0)),
        })
    }

    /// A session could not begin or go on there, though it answers pings.
    pub(crate) fn failed(&self) {
        let now = Instant::now();
        let mut passed_over = self.passed_over.lock();
        match *passed_over {
            // Those that failed together count once.
            Some((until, _)) if until > now => {}
            Some((_, next)) => *passed_over = Some((now + next, (next * 2).min(LONGEST_PASS_OVER))),
            None => *passed_over = Some((now + PASS_OVER, PASS_OVER * 2)),
        }
    }

    /// A session goes on there.
    pub(crate) fn worked(&self) {
        *self.passed_over.lock() = None;
    }

    fn is_passed_over(&self, now: Instant) -> bool {
        self.passed_over.lock().is_some_and(|(until, _)| until > now)
    }

    /// Follows its state.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Counts a connection on it.
    pub(crate) fn place(self: &Arc<Self>) -> Placed {
        self.links.fetch_add(1, Ordering::Relaxed);
        Placed(self.clone())
    }

    fn links(&self) -> usize {
        self.links.load(Ordering::Relaxed)
    }

    fn is(&self, state: State) -> bool {
        *self.state.borrow() == state
    }

    /// Puts together what is known.
    fn judge(&self, here: bool) {
        let state = match (here && *self.answers.borrow(), *self.draining.borrow()) {
            (false, _) => State::Dead,
            (true, true) => State::Draining,
            (true, false) => State::Alive,
        };
        let before = self.state.send_replace(state);
        if before != state {
            tracing::info!(node = self.id, ?before, ?state, "node");
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    known: Mutex<BTreeMap<String, Arc<Node>>>,
    secret: String,
    /// Connections that may move each second.
    pace: usize,
}

impl Nodes {
    /// Starts to follow the roster, on the present runtime.
    pub(crate) fn start(roster: Roster, secret: &str, pace: usize) -> Arc<Self> {
        let nodes = Arc::new(Self { known: Mutex::default(), secret: secret.to_owned(), pace });
        tokio::spawn(nodes.clone().run(roster));
        nodes
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// A node for a session: of two that are taken at random, the one with fewer connections. `not` is only taken where
    /// there is no other.
    pub(crate) fn choose(&self, not: Option<&str>) -> Option<Arc<Node>> {
        let known = self.known.lock();
        let now = Instant::now();
        let alive: Vec<_> = known.values().filter(|node| node.is(State::Alive)).collect();
        let sound: Vec<_> = alive.iter().filter(|node| !node.is_passed_over(now)).copied().collect();
        let others: Vec<_> = sound.iter().filter(|node| Some(node.id.as_str()) != not).copied().collect();
        let from = [&others, &sound, &alive].into_iter().find(|nodes| !nodes.is_empty())?;
        from.sample(&mut rand::rng(), 2).min_by_key(|node| node.links()).map(|node| (*node).clone())
    }

    /// Nodes on which sessions may be placed.
    pub(crate) fn alive(&self) -> usize {
        self.known.lock().values().filter(|node| node.is(State::Alive)).count()
    }

    /// Whether a session could move away from this node.
    pub(crate) fn has_other(&self, than: &str) -> bool {
        self.known.lock().values().any(|node| node.id != than && node.is(State::Alive))
    }

    /// Any node that answers, for requests.
    pub(crate) fn any(&self) -> Option<Arc<Node>> {
        let known = self.known.lock();
        let alive: Vec<_> = known.values().filter(|node| !node.is(State::Dead)).collect();
        alive.choose(&mut rand::rng()).map(|node| (*node).clone())
    }

    async fn run(self: Arc<Self>, roster: Roster) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = roster.changes();
        let mut ticks = 0u32;
        loop {
            tokio::select! {
                change = changes.recv() => if change.is_err() { changes = roster.changes() },
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.move_some(ticks.is_multiple_of(BALANCE_TICKS));
                    continue;
                }
            }
            self.follow(&roster.members());
        }
    }

    fn follow(self: &Arc<Self>, members: &[Report]) {
        let mut known = self.known.lock();
        known.retain(|id, node| {
            let here = members.iter().any(|member| member.id == *id && member.run == node.run);
            if !here {
                node.judge(false);
            }
            here
        });
        for report in members.iter().filter(|report| report.kind == Kind::Node) {
            let node = known.entry(report.id.clone()).or_insert_with(|| {
                let node = Node::new(report);
                tokio::spawn(watch_over(node.clone(), self.secret.clone()));
                node
            });
            node.draining.send_replace(report.draining);
            node.judge(true);
        }
    }

    /// Lets connections move: away from nodes that drain, and now and then from those with more than their share.
    fn move_some(&self, balance: bool) {
        let known = self.known.lock();
        let per_tick = (self.pace * TICK.as_millis() as usize / 1_000).max(1);
        let alive = known.values().filter(|node| node.is(State::Alive));
        let (count, total) = alive.fold((0, 0), |(count, total), node| (count + 1, total + node.links()));
        for node in known.values() {
            let waiting = node.moves.available_permits();
            let wanted = match *node.state.borrow() {
                State::Draining if count > 0 => node.links().min(per_tick),
                State::Alive if balance && count > 1 => {
                    let share = total.div_ceil(count);
                    let slack = share * SLACK_PERCENT / 100 + 1;
                    // What is above the share, spread over the time until the next look.
                    if node.links() > share + slack {
                        (node.links() - share).min(per_tick * BALANCE_TICKS as usize)
                    } else {
                        0
                    }
                }
                _ => 0,
            };
            node.moves.add_permits(wanted.saturating_sub(waiting));
        }
    }
}

/// Asks a node every second whether it lives, until its lease has ended.
async fn watch_over(node: Arc<Node>, secret: String) {
    // The last clone but this one goes when the node is forgotten.
    while Arc::strong_count(&node) > 1 {
        if let Ok(Ok(stream)) = timeout(SILENCE, pool::connect(&node.address, &secret)).await {
            ask(&node, stream).await;
        }
        node.answers.send_replace(false);
        node.judge(true);
        sleep(PING_INTERVAL / 4).await;
    }
}

async fn ask(node: &Arc<Node>, mut stream: TcpStream) {
    let mut input = [0; 256];
    while Arc::strong_count(node) > 1 {
        let asking = async {
            stream.write_all(&ToNode::Ping.encode()).await?;
            let mut records = Records::default();
            let mut answered = false;
            while !answered {
                let read = stream.read(&mut input).await?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                let sink = |record: ToGateway<'_>| {
                    answered |= record == ToGateway::Pong;
                    true
                };
                records.feed_gateway(&input[..read], sink).map_err(std::io::Error::other)?;
            }
            std::io::Result::Ok(())
        };
        match timeout(SILENCE, asking).await {
            Ok(Ok(())) => {
                if !node.answers.send_replace(true) {
                    node.judge(true);
                }
            }
            _ => return,
        }
        // A dead node's socket ends while nothing is asked: that is noticed at once.
        if timeout(PING_INTERVAL, stream.readable()).await.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, links: usize, state: State) -> Arc<Node> {
        let node = Node {
            id: id.into(),
            run: 1,
            address: String::new(),
            state: watch::channel(state).0,
            draining: watch::channel(false).0,
            answers: watch::channel(true).0,
            links: AtomicUsize::new(links),
            passed_over: Mutex::new(None),
            moves: Arc::new(Semaphore::new(0)),
        };
        Arc::new(node)
    }

    fn nodes(all: &[(&str, usize, State)]) -> Nodes {
        let known =
            all.iter().map(|(id, links, state)| ((*id).to_owned(), node(id, *links, *state))).collect();
        Nodes { known: Mutex::new(known), secret: String::new(), pace: 500 }
    }

    #[test]
    fn sessions_go_where_there_are_few_and_never_where_they_cannot_stay() {
        let nodes = nodes(&[
            ("a", 5, State::Alive),
            ("b", 3, State::Alive),
            ("c", 0, State::Draining),
            ("d", 0, State::Dead),
        ]);
        for _ in 0..50 {
            assert_eq!(nodes.choose(None).unwrap().id, "b");
            assert_eq!(nodes.choose(Some("b")).unwrap().id, "a");
        }
        assert!(nodes.has_other("a"));
        let b = nodes.known.lock()["b"].clone();
        b.failed();
        assert_eq!(nodes.choose(None).unwrap().id, "a", "one that failed is passed over");
        b.worked();
        assert_eq!(nodes.choose(Some("a")).unwrap().id, "b");
        let alone = self::nodes(&[("a", 5, State::Alive), ("c", 0, State::Draining)]);
        assert_eq!(alone.choose(Some("a")).unwrap().id, "a", "better than none");
        assert!(!alone.has_other("a"));
    }

    #[test]
    fn what_is_above_a_nodes_share_moves_and_a_draining_node_empties_at_a_pace() {
        let nodes = nodes(&[("a", 300, State::Alive), ("b", 0, State::Alive), ("c", 100, State::Draining)]);
        nodes.move_some(true);
        let moves = |id: &str| nodes.known.lock()[id].moves.available_permits();
        assert_eq!((moves("a"), moves("b"), moves("c")), (150, 0, 10));
        nodes.move_some(false);
        assert_eq!(moves("c"), 10, "no more than are waiting to move already");
    }
}
