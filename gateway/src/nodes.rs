//! The nodes as this gateway sees them, where a session is placed, and which are to move.
//!
//! Who is there and what it has to do comes from the roster; whether it answers, and how fast, from a link to each that is
//! asked every second. Invariants: no session is placed on a node that drains or is silent; connections move at a bounded
//! pace, but from a dead node at once. A node that answers pings and yet fails sessions is passed over for a while, longer
//! each time. Which node it is among those that there are is decided by [`tickmesh_protocol::placement`].

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use tickmesh_cluster::members::{Kind, Report, Roster};
use tickmesh_edge::socket::Socket;
use tickmesh_protocol::link::{Records, ToGateway, ToNode};
use tickmesh_protocol::placement::{Candidate, Wanted, choose, surplus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::dial::Dialer;

/// How often a node is asked whether it lives, and how long it may be silent.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
/// How often moves are given out.
const TICK: Duration = Duration::from_millis(20);
/// Ticks between two looks at the balance.
const BALANCE_TICKS: u32 = 25;
/// So far from its share, in percent, may a node's connections be before some move.
const SLACK_PERCENT: u64 = 12;

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
    pub(crate) run: u64,
    pub(crate) address: String,
    zone: String,
    load: Mutex<Load>,
    /// Smoothed, in microseconds.
    round_trip: AtomicU64,
    state: watch::Sender<State>,
    draining: watch::Sender<bool>,
    answers: watch::Sender<bool>,
    /// It has answered before.
    met: AtomicBool,
    /// Connections that are on it.
    links: AtomicUsize,
    /// Until when it is passed over, and for how long the next time.
    passed_over: Mutex<Option<(Instant, Duration)>>,
    /// One permit for each connection that is to move away, or to see whether it should.
    pub(crate) moves: Arc<Semaphore>,
    /// Connections that have still to see whether they should.
    review: AtomicUsize,
}

/// What a node's last report says.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Connections that are not this gateway's.
    others: u64,
    cpu_percent: f64,
    queue_delay_ms: f64,
    quality_loss: f64,
}

/// A connection counted at its node.
pub(crate) struct Placed(Arc<Node>);

impl Node {
    fn new(report: &Report) -> Arc<Self> {
        Arc::new(Self {
            id: report.id.clone(),
            run: report.run,
            address: report.address.clone(),
            zone: report.zone.clone(),
            load: Mutex::default(),
            round_trip: AtomicU64::new(0),
            state: watch::channel(State::Dead).0,
            draining: watch::channel(report.draining).0,
            answers: watch::channel(false).0,
            met: AtomicBool::new(false),
            links: AtomicUsize::new(0),
            passed_over: Mutex::new(None),
            moves: Arc::new(Semaphore::new(0)),
            review: AtomicUsize::new(0),
        })
    }

    fn learn(&self, report: &Report) {
        let others = report.connections.saturating_sub(self.links() as u64);
        *self.load.lock() = Load {
            others,
            cpu_percent: report.cpu_percent,
            queue_delay_ms: report.queue_delay_ms,
            quality_loss: 100.0 - report.quality,
        };
    }

    /// Takes in how long an answer took; the last few count.
    fn answered_in(&self, time: Duration) {
        let (new, old) = (time.as_micros() as u64, self.round_trip.load(Ordering::Relaxed));
        let smooth = if old == 0 { new } else { (old * 3 + new) / 4 };
        self.round_trip.store(smooth, Ordering::Relaxed);
    }

    fn candidate(&self, now: Instant) -> Candidate<'_> {
        let load = *self.load.lock();
        Candidate {
            id: &self.id,
            zone: &self.zone,
            connections: load.others + self.links() as u64,
            cpu_percent: load.cpu_percent,
            queue_delay_ms: load.queue_delay_ms,
            quality_loss: load.quality_loss,
            round_trip_ms: self.round_trip.load(Ordering::Relaxed) as f64 / 1_000.0,
            passed_over: self.is_passed_over(now),
        }
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

    /// Whether sessions may stay on it.
    pub(crate) fn is_alive(&self) -> bool {
        self.is(State::Alive)
    }

    fn is(&self, state: State) -> bool {
        *self.state.borrow() == state
    }

    /// Puts together what is known. Says whether the node is lost, without having said that it would go.
    fn judge(&self, here: bool) -> bool {
        let state = match (here && *self.answers.borrow(), *self.draining.borrow()) {
            (false, _) => State::Dead,
            (true, true) => State::Draining,
            (true, false) => State::Alive,
        };
        let before = self.state.send_replace(state);
        if before != state {
            tracing::info!(node = self.id, from = ?before, to = ?state, "the state of a node has changed");
        }
        if state != State::Dead {
            self.met.store(true, Ordering::Relaxed);
        }
        (before, state) == (State::Alive, State::Dead)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How sessions are placed.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Preferred.
    pub(crate) zone: String,
    /// Sessions have keys, by which they are placed.
    pub(crate) keyed: bool,
    /// Connections that may move each second.
    pub(crate) pace: usize,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    known: Mutex<BTreeMap<String, Arc<Node>>>,
    rules: Rules,
    dialer: Dialer,
    lost: AtomicU64,
}

impl Nodes {
    /// Starts to follow the roster, on the present runtime.
    pub(crate) fn start(roster: Roster, rules: Rules, dialer: Dialer) -> Arc<Self> {
        let nodes = Arc::new(Self { known: Mutex::default(), rules, dialer, lost: AtomicU64::new(0) });
        tokio::spawn(nodes.clone().run(roster));
        nodes
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// How many there are.
    pub(crate) fn known(&self) -> u64 {
        self.known.lock().len() as u64
    }

    /// How many are in this state.
    pub(crate) fn count(&self, state: State) -> u64 {
        self.known.lock().values().filter(|node| node.is(state)).count() as u64
    }

    /// Those that have a lease and answered before, but do not answer now.
    pub(crate) fn unreachable(&self) -> Vec<String> {
        let gone = |node: &&Arc<Node>| node.is(State::Dead) && node.met.load(Ordering::Relaxed);
        self.known.lock().values().filter(gone).map(|node| node.id.clone()).collect()
    }

    /// How often a node was lost, see [`Node::judge`].
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Connections that are on nodes.
    pub(crate) fn links(&self) -> u64 {
        self.known.lock().values().map(|node| node.links() as u64).sum()
    }

    fn judge(&self, node: &Node, here: bool) {
        if node.judge(here) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those on which sessions may be placed.
    pub(crate) fn placeable(&self) -> Vec<Arc<Node>> {
        self.known.lock().values().filter(|node| node.is_alive()).cloned().collect()
    }

    /// A node for a session with this key. `not` is only taken where there is no other.
    pub(crate) fn choose(&self, not: Option<&str>, key: Option<&str>) -> Option<Arc<Node>> {
        let nodes = self.placeable();
        let now = Instant::now();
        let candidates: Vec<_> = nodes.iter().map(|node| node.candidate(now)).collect();
        let at = choose(&candidates, Wanted { zone: &self.rules.zone, key, not }, rand::random())?;
        drop(candidates);
        nodes.into_iter().nth(at)
    }

    /// A node to which a session should move away from this one, because it cannot stay or belongs elsewhere.
    pub(crate) fn choose_next(&self, than: &Node, key: Option<&str>) -> Option<Arc<Node>> {
        if self.rules.keyed && than.is_alive() {
            // A session without a key may stay, one with a key belongs where its key does.
            key?;
            return self.choose(None, key).filter(|node| node.id != than.id);
        }
        self.choose(Some(&than.id), key).filter(|node| node.id != than.id)
    }

    /// Any node that answers, for requests; one that drains, and so is about to stop, only where there is no other.
    pub(crate) fn any(&self) -> Option<Arc<Node>> {
        let known = self.known.lock();
        let with = |state| known.values().filter(|node| node.is(state)).collect::<Vec<_>>();
        let one = |nodes: Vec<&Arc<Node>>| nodes.choose(&mut rand::rng()).map(|node| (*node).clone());
        one(with(State::Alive)).or_else(|| one(with(State::Draining)))
    }

    async fn run(self: Arc<Self>, roster: Roster) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = roster.changes();
        let mut ticks = 0u32;
        let mut before = Vec::new();
        loop {
            tokio::select! {
                change = changes.recv() => if change.is_err() { changes = roster.changes() },
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    if self.rules.keyed {
                        let runs: Vec<_> = self.placeable().iter().map(|node| node.run).collect();
                        if runs != before {
                            self.review();
                            before = runs;
                        }
                    }
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
                self.judge(node, false);
            }
            here
        });
        for report in members.iter().filter(|report| report.kind == Kind::Node) {
            let node = known.entry(report.id.clone()).or_insert_with(|| {
                let node = Node::new(report);
                tokio::spawn(watch_over(node.clone(), self.clone()));
                node
            });
            node.learn(report);
            node.draining.send_replace(report.draining);
            self.judge(node, true);
        }
    }

    /// The nodes are others: every session with a key sees whether it is still where it belongs.
    fn review(&self) {
        for node in self.known.lock().values() {
            node.review.store(node.links(), Ordering::Relaxed);
        }
    }

    /// Lets connections move: away from nodes that drain, and now and then from those with more than their share.
    fn move_some(&self, balance: bool) {
        let known = self.known.lock();
        let per_tick = (self.rules.pace * TICK.as_millis() as usize / 1_000).max(1);
        let now = Instant::now();
        let alive: Vec<_> = known.values().filter(|node| node.is_alive()).collect();
        let own: Vec<_> = alive
            .iter()
            .map(|node| Candidate { connections: node.links() as u64, ..node.candidate(now) })
            .collect();
        let above = if balance && !self.rules.keyed {
            surplus(&own, &self.rules.zone, SLACK_PERCENT)
        } else {
            vec![0; alive.len()]
        };
        for (node, above) in alive.iter().zip(above) {
            let reviewed = node.review.load(Ordering::Relaxed).min(per_tick);
            node.review.fetch_sub(reviewed, Ordering::Relaxed);
            // What is above the share, spread over the time until the next look.
            allow(node, (above as usize).min(per_tick * BALANCE_TICKS as usize) + reviewed);
        }
        if !alive.is_empty() {
            for node in known.values().filter(|node| node.is(State::Draining)) {
                allow(node, node.links().min(per_tick));
            }
        }
    }
}

/// Lets so many connections of a node move, those that may already among them.
fn allow(node: &Node, wanted: usize) {
    node.moves.add_permits(wanted.saturating_sub(node.moves.available_permits()));
}

/// Asks a node every second whether it lives, until its lease has ended.
async fn watch_over(node: Arc<Node>, nodes: Arc<Nodes>) {
    // The last clone but this one goes when the node is forgotten.
    while Arc::strong_count(&node) > 1 {
        if let Ok(link) = nodes.dialer.link(&node.address, node.run).await {
            ask(&node, link).await;
        }
        node.answers.send_replace(false);
        nodes.judge(&node, true);
        sleep(PING_INTERVAL / 4).await;
    }
}

async fn ask(node: &Arc<Node>, mut link: Socket) {
    let mut input = [0; 256];
    while Arc::strong_count(node) > 1 {
        let asked = Instant::now();
        let asking = async {
            link.write_all(&ToNode::Ping.encode()).await?;
            link.flush().await?;
            let mut records = Records::default();
            let mut answered = false;
            while !answered {
                let read = link.read(&mut input).await?;
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
                node.answered_in(asked.elapsed());
                if !node.answers.send_replace(true) {
                    node.judge(true);
                }
            }
            _ => return,
        }
        // A dead node's socket ends while nothing is asked: that is noticed at once. (Under TLS there may be something of
        // no meaning.)
        let end = asked + PING_INTERVAL;
        while let Ok(Ok(())) = tokio::time::timeout_at(end, link.readable()).await {
            match link.try_read(&mut input) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}
