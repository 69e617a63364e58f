//! The rooms that are kept here, and everything that waits for somebody: logs, stores, subscribers.
//!
//! One task; every call to the outside is a job beside it, and each kind is under way once at most for a room, or at all.
//! Invariants: a room is kept by one node at a time: who gives it up writes first what waits, who gets it from a node that
//! lives waits a little; a node that stood still, or whose lease is lost, drops its rooms as they are.

mod asking;
mod keeping;
mod lane;
mod outgoing;
mod telling;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};
use tickmesh_cluster::broker::BrokerError;
use tickmesh_protocol::market::Symbol;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::placement::keeper;
use tickmesh_protocol::position::Position;
use tickmesh_protocol::room::RoomName;
use tickmesh_store::StoreError;
use tickmesh_store::relational::{Alert, AlertState, Hit};
use tickmesh_store::series::KeptBar;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::lane::Lane;
use self::telling::HitsWaiting;
use super::desk::{Desk, DeskKey, Read};
use super::{Inbox, Means, News, Settings};
use crate::fanout::Tapped;

/// How often it is looked at who keeps which room.
const LOOK: Duration = Duration::from_millis(250);
/// How often all rooms that have a log are looked at by one node, for those that nobody told of.
const LIST: Duration = Duration::from_secs(5);
/// How often bars are written.
const BARS: Duration = Duration::from_secs(1);
/// How often open bars are published.
const UPDATES: Duration = Duration::from_millis(250);
/// Wait before a store or log that failed is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// How often all alerts are looked at, for changes that nobody told of.
const ALERTS: Duration = Duration::from_secs(30);
/// Messages that wait to be published.
const WAITING: usize = 20_000;
/// Live batches that are looked at before anything else is.
const TURN: usize = 256;
/// Logs that are read, and rooms that ask a store where they stand, at a time.
const READING: usize = 32;
const ASKING: usize = 8;

type Job = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What came of a job.
enum Done {
    Joined(RoomName, Result<(), BrokerError>),
    Opened(DeskKey, Result<(Option<Position>, Vec<KeptBar>), StoreError>),
    Alerts(DeskKey, Result<Vec<Alert>, StoreError>),
    Read(DeskKey, Result<(Read, bool), BrokerError>),
    Appended(Vec<(DeskKey, usize)>, Result<(), StoreError>),
    BarsKept(Vec<(DeskKey, Vec<KeptBar>)>, Result<(), StoreError>),
    Published(Vec<Publish>, Vec<Result<Position, BrokerError>>),
    Fired(Vec<(Hit, AlertState)>, Result<Vec<Hit>, StoreError>),
    StatesKept(Vec<(u64, AlertState)>, Result<(), StoreError>),
    Told(Vec<(Hit, bool)>),
    ToldKept(Vec<u64>, Result<(), StoreError>),
    Untold(Vec<Hit>),
    Listed(bool, Vec<RoomName>),
    Nothing,
}

/// A recorded room.
struct Known {
    symbol: Symbol,
    desk: Option<Desk>,
    /// It is to be kept here, as far as nodes are known.
    mine: bool,
    joined: bool,
    turn: u64,
    since: Instant,
    /// Of the rows that wait, as many are in the sum of all.
    counted: usize,
    /// When a store that failed is asked again.
    open_again: Option<Instant>,
    alerts_again: Option<Instant>,
    read_again: Option<Instant>,
}

pub(super) struct Floor {
    settings: Settings,
    means: Means,
    rooms: FxHashMap<RoomName, Known>,
    /// Rooms that everybody was told of.
    known: Arc<RwLock<FxHashSet<RoomName>>>,
    jobs: FuturesUnordered<Job>,
    turns: u64,
    nodes: Vec<String>,
    /// When this node looked at all rooms last.
    listed: Option<Instant>,
    /// When a node came or drained last.
    unsettled: Option<Instant>,
    opens: Lane,
    loads: Lane,
    reads: Lane,
    /// Rooms in which something happened since it was looked at what came of it.
    touched: FxHashSet<RoomName>,
    /// Rows that wait for the store, in all rooms; and the rooms, the first that came first.
    waiting: usize,
    unwritten: Lane,
    appending: bool,
    append_after: Instant,
    /// Rooms with bars that wait for the store.
    unkept: Lane,
    keeping_bars: bool,
    bars_after: Instant,
    publishing: bool,
    publish_after: Instant,
    closes: VecDeque<Publish>,
    updates: Vec<Publish>,
    hits: HitsWaiting,
    stopping: Option<oneshot::Sender<()>>,
}

/// Runs until it is told to stop.
pub(super) async fn run(settings: Settings, means: Means, inbox: Inbox, mut tapped: Tapped) {
    let now = Instant::now();
    let flush = settings.flush;
    let Inbox { news: mut inbox, known } = inbox;
    let mut floor = Floor {
        settings,
        means,
        rooms: FxHashMap::default(),
        known,
        jobs: FuturesUnordered::new(),
        turns: 0,
        nodes: Vec::new(),
        listed: None,
        unsettled: None,
        opens: Lane::new(ASKING),
        loads: Lane::new(ASKING),
        reads: Lane::new(READING),
        touched: FxHashSet::default(),
        waiting: 0,
        unwritten: Lane::new(1),
        appending: false,
        append_after: now,
        unkept: Lane::new(1),
        keeping_bars: false,
        bars_after: now,
        publishing: false,
        publish_after: now,
        closes: VecDeque::new(),
        updates: Vec::new(),
        hits: HitsWaiting::new(now),
        stopping: None,
    };
    let every = |period| {
        let mut every = interval(period);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        every
    };
    let (mut look, mut list, mut flush) = (every(LOOK), every(LIST), every(flush));
    let (mut bars, mut updates, mut alerts) = (every(BARS), every(UPDATES), every(ALERTS));
    let mut sweep = every(telling::SWEEP);
    loop {
        let idle = Instant::now();
        let stood_still = |floor: &mut Floor| {
            // Who stood still does not know what happened meanwhile: others may have taken over. Some timer is due sooner, so
            // this is no wait for news; and what is done at a turn is bounded, so it is no work either.
            if idle.elapsed() > (floor.settings.lease / 2).max(4 * LOOK) {
                floor.drop_all();
            }
        };
        tokio::select! {
            news = inbox.recv() => match news {
                Some(news) => {
                    stood_still(&mut floor);
                    floor.news(news);
                }
                None => return,
            },
            Some(batch) = tapped.batches.recv() => {
                stood_still(&mut floor);
                let mut batches = vec![batch];
                while batches.len() < TURN
                    && let Ok(batch) = tapped.batches.try_recv()
                {
                    batches.push(batch);
                }
                for batch in &batches {
                    floor.batch(batch);
                }
                if tapped.missed() {
                    floor.check_all();
                }
                floor.outgoing();
            }
            Some(done) = floor.jobs.next(), if !floor.jobs.is_empty() => {
                stood_still(&mut floor);
                floor.done(done);
            }
            _ = look.tick() => {
                stood_still(&mut floor);
                floor.look();
                if floor.has_stopped() {
                    return;
                }
            }
            _ = list.tick() => floor.list(),
            _ = flush.tick() => {
                stood_still(&mut floor);
                floor.append(true);
            }
            _ = bars.tick() => {
                stood_still(&mut floor);
                floor.close_bars();
                floor.keep_bars();
            }
            _ = updates.tick() => {
                stood_still(&mut floor);
                floor.publish_updates();
            }
            _ = alerts.tick() => floor.load_alerts(None),
            _ = sweep.tick() => floor.sweep(),
        }
    }
}

impl Floor {
    fn news(&mut self, news: News) {
        match news {
            News::Seen(room) => {
                if let Some(symbol) = self.settings.recorded(&room) {
                    let peers = self.means.peers.clone();
                    let told = room.clone();
                    self.job(async move {
                        peers.recorded(told).await;
                        Done::Nothing
                    });
                    self.know(room, symbol);
                }
            }
            News::Told(room) => {
                if let Some(symbol) = self.settings.recorded(&room) {
                    self.know(room, symbol);
                }
            }
            News::Alerts(symbol) => self.load_alerts(Some(&symbol)),
            News::Stop(done) => self.stopping = Some(done),
        }
    }

    fn job(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }

    fn know(&mut self, room: RoomName, symbol: Symbol) {
        let new = !self.rooms.contains_key(&room);
        self.rooms.entry(room.clone()).or_insert_with(|| Known {
            symbol,
            desk: None,
            mine: keeper(room.as_str(), self.nodes.iter().map(String::as_str)) == Some(self.means.peers.id()),
            joined: false,
            turn: 0,
            since: Instant::now(),
            counted: 0,
            open_again: None,
            alerts_again: None,
            read_again: None,
        });
        if new {
            self.look_at(&room);
        }
    }

    fn has_stopped(&mut self) -> bool {
        if self.stopping.is_none() || self.rooms.values().any(|known| known.desk.is_some()) {
            return false;
        }
        if let Some(done) = self.stopping.take() {
            let _ = done.send(());
        }
        true
    }

    // ---- what comes ----

    fn batch(&mut self, batch: &tickmesh_protocol::batch::Batch) {
        let room = batch.room();
        let Some(desk) = self.rooms.get_mut(room).and_then(|known| known.desk.as_mut()) else { return };
        if desk.leaving.is_some() {
            return;
        }
        desk.offer(batch, &self.settings, &self.means.metrics.market);
        let lacks = desk.lacks();
        let room = room.clone();
        if lacks {
            self.read(&room);
        }
        self.touched.insert(room);
    }

    fn done(&mut self, done: Done) {
        let again = Instant::now() + RETRY;
        match done {
            // Live messages come from now on: what was published since the log was read last did not come.
            Done::Joined(room, Ok(())) => self.doubt(&room),
            Done::Joined(room, Err(error)) => {
                tracing::debug!(%room, %error, "a recorded room cannot be followed, will try again");
                if let Some(known) = self.rooms.get_mut(&room) {
                    known.joined = false;
                }
            }
            Done::Opened(key, result) => self.opened(&key, result, again),
            Done::Alerts(key, result) => {
                self.loads.over();
                self.ask();
                let hysteresis_bp = self.settings.hysteresis_bp;
                let Some(known) = self.of(&key) else { return };
                match (result, &mut known.desk) {
                    (Ok(alerts), Some(desk)) => {
                        desk.set_alerts(alerts, hysteresis_bp);
                        self.read(&key.room);
                    }
                    (Err(_), Some(desk)) if desk.watches.is_none() => known.alerts_again = Some(again),
                    _ => {}
                }
            }
            Done::Read(key, result) => self.was_read(&key, result, again),
            Done::Appended(rows, result) => self.appended(rows, result, again),
            Done::BarsKept(bars, result) => self.bars_kept(bars, result, again),
            Done::Published(messages, results) => self.published(messages, results, again),
            Done::Fired(hits, result) => self.was_fired(hits, result, again),
            Done::StatesKept(states, result) => self.states_kept(states, result, again),
            Done::Told(hits) => self.were_told(hits),
            Done::ToldKept(hits, result) => self.told_kept(hits, result, again),
            Done::Untold(hits) => self.untold(hits),
            Done::Nothing => {}
            Done::Listed(for_all, rooms) => {
                self.listed = Some(Instant::now());
                self.forget(&rooms);
                for room in rooms {
                    if !self.rooms.contains_key(&room) {
                        self.news(if for_all { News::Seen(room) } else { News::Told(room) });
                    }
                }
            }
        }
        self.outgoing();
    }

    /// The room with the desk that is meant, unless that was given up meanwhile.
    fn of(&mut self, key: &DeskKey) -> Option<&mut Known> {
        let known = self.rooms.get_mut(&key.room)?;
        known.desk.as_ref().is_some_and(|desk| desk.key == *key).then_some(known)
    }

    fn opened(
        &mut self,
        key: &DeskKey,
        result: Result<(Option<Position>, Vec<KeptBar>), StoreError>,
        again: Instant,
    ) {
        self.opens.over();
        self.ask();
        let settings = self.settings.clone();
        let Some(known) = self.of(key) else { return };
        let Some(desk) = known.desk.as_mut().filter(|desk| desk.rows.is_none()) else { return };
        match result {
            Ok((stored, bars)) => {
                desk.opened(stored, bars, &settings);
                self.read(&key.room);
            }
            Err(error) => {
                tracing::debug!(room = %key.room, %error, "a room cannot be recorded yet");
                known.open_again = Some(again);
            }
        }
    }

    fn was_read(&mut self, key: &DeskKey, result: Result<(Read, bool), BrokerError>, again: Instant) {
        self.reads.over();
        self.ask();
        let (settings, metrics) = (self.settings.clone(), self.means.metrics.market.clone());
        let Some(known) = self.of(key) else { return };
        let Some(desk) = known.desk.as_mut() else { return };
        match result {
            Ok((read, all)) => {
                desk.catch_up(&read, all, &settings, &metrics);
                self.touched.insert(key.room.clone());
                self.read(&key.room);
            }
            Err(error) => {
                tracing::debug!(room = %key.room, %error, "a log cannot be read, will try again");
                desk.give_up();
                known.read_again = Some(again);
            }
        }
    }
}
