//! From the broker to the hubs: one task per node.
//!
//! It drains what has arrived, checks per room that nothing is missing, has a hole filled from the log before
//! anything later goes on, and hands each room's messages as one batch to the hubs that asked for the room.
//!
//! A room that was quiet is looked at now and then: a lost last message shows by no later one. A room that nobody wants
//! any more is followed for a little longer: who reconnects finds it running.
//!
//! Invariants: the batches of a room that reach a hub follow each other without a gap, or start at a place that the
//! log could not join to what was before (sessions see that and announce `resync`). It must not know sessions.

mod tap;

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tickmesh_cluster::broker::{Broker, BrokerError, Event, Events};
use tickmesh_protocol::batch::{self, Batch};
use tickmesh_protocol::message::{History, Message, Replay};
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::RoomName;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub(crate) use tap::{TAP, Tap, Tapped, tap};

use crate::clock;
use crate::hub::HubSender;
use crate::metrics::{Busy, Metrics};
use crate::trace;

/// Events taken at a time.
const DRAIN: usize = 1_024;
/// Interests that wait for the task.
const CONTROL: usize = 4_096;
/// Messages of one room that are held while its log is read. What is beyond is read from the log as well.
const HELD: usize = 10_000;
/// Wait before a log that could not be read is tried again; doubled each time up to the longest.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// How often a part of the rooms is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Every room is looked at once in so many ticks: quiet ones are checked, deserted ones are left. A deserted room is
/// followed for up to twice this.
const TICKS: usize = 20;
/// How often it is told which rooms are busy.
const TELL: Duration = Duration::from_secs(1);
/// Logs that are read at the same time; the others wait.
const READS: usize = 64;

/// Index of a hub within its node.
pub type HubIndex = usize;

/// How hubs say which rooms they want.
#[derive(Debug, Clone)]
pub struct FanoutHandle {
    control: mpsc::Sender<Control>,
}

#[derive(Debug)]
enum Control {
    Join { room: RoomName, hub: HubIndex, turn: u64, reply: oneshot::Sender<Result<(), BrokerError>> },
    Leave { room: RoomName, hub: HubIndex, turn: u64 },
    Flush { reply: oneshot::Sender<()> },
}

impl FanoutHandle {
    /// From the answer on, every later message of the room reaches the hub. `turn` grows with every call of a hub.
    ///
    /// # Errors
    /// When the broker is unavailable.
    pub async fn join(&self, room: RoomName, hub: HubIndex, turn: u64) -> Result<(), BrokerError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || BrokerError::Unavailable("the node is stopping".into());
        self.control.send(Control::Join { room, hub, turn, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Returns when everything that the broker has offered so far is in the hubs' queues.
    pub async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        if self.control.send(Control::Flush { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// The hub wants no more of the room, unless it joined again after this turn: the two may overtake each other.
    pub async fn leave(&self, room: RoomName, hub: HubIndex, turn: u64) {
        let _ = self.control.send(Control::Leave { room, hub, turn }).await;
    }
}

/// Starts the task on the present runtime. It ends when all handles or the broker's events are gone.
#[must_use]
pub(crate) fn start(
    broker: Arc<dyn Broker>,
    events: Events,
    hubs: Vec<HubSender>,
    tap: Option<Tap>,
    metrics: Arc<Metrics>,
    node: Arc<str>,
) -> FanoutHandle {
    let (control, commands) = mpsc::channel(CONTROL);
    let fanout = Fanout {
        broker,
        hubs,
        tap,
        metrics,
        node,
        rooms: FxHashMap::default(),
        reads: JoinSet::new(),
        places: Arc::new(Semaphore::new(READS)),
        round: Vec::new(),
        busy: Vec::new(),
        told: Instant::now(),
    };
    tokio::spawn(fanout.run(events, commands));
    FanoutHandle { control }
}

struct Fanout {
    broker: Arc<dyn Broker>,
    hubs: Vec<HubSender>,
    tap: Option<Tap>,
    metrics: Arc<Metrics>,
    /// Name of the node.
    node: Arc<str>,
    rooms: FxHashMap<RoomName, Room>,
    /// Calls to the broker that are under way.
    reads: JoinSet<(RoomName, Read)>,
    places: Arc<Semaphore>,
    /// Rooms that are still to be looked at in this round.
    round: Vec<RoomName>,
    /// Rooms in which something came since that was told, and when it was.
    busy: Vec<RoomName>,
    told: Instant,
}

#[derive(Debug)]
enum Read {
    Subscribed(Result<Position, BrokerError>),
    Log(Result<History, BrokerError>),
}

#[derive(Debug)]
struct Room {
    /// Hubs that want it, each with its latest turn.
    hubs: Vec<(HubIndex, u64)>,
    state: State,
    /// Something came, or somebody left, since the room was looked at.
    active: bool,
    /// Messages that came since that was told.
    came: u64,
}

#[derive(Debug)]
enum State {
    /// The broker was asked for live messages; what comes meanwhile is held.
    Joining { waiting: Vec<oneshot::Sender<Result<(), BrokerError>>>, held: Held },
    /// Everything up to here went to the hubs.
    Live(Position),
    /// What the log has after a position is being read.
    Repairing { from: Position, held: Held, retry: Duration },
}

/// Live messages that wait for a call to the broker.
#[derive(Debug, Default)]
struct Held {
    messages: Vec<(Epoch, Arc<Message>)>,
    /// More came than is held: the log has to be read once more.
    overflowed: bool,
}

impl Held {
    fn push(&mut self, epoch: Epoch, message: Arc<Message>) {
        if self.messages.len() < HELD {
            self.messages.push((epoch, message));
        } else {
            self.overflowed = true;
        }
    }
}

impl Fanout {
    async fn run(mut self, mut events: Events, mut commands: mpsc::Receiver<Control>) {
        let mut buffer = Vec::with_capacity(DRAIN);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.look_round().await,
                command = commands.recv() => match command {
                    Some(command) => self.control(command, &mut events).await,
                    None => return,
                },
                Some(done) = self.reads.join_next() => match done {
                    Ok((room, read)) => self.finished(room, read).await,
                    Err(error) => tracing::error!(%error, "a call to the broker panicked"),
                },
                open = events.receive(&mut buffer, DRAIN) => {
                    if !open {
                        return;
                    }
                    self.events(&mut buffer).await;
                }
            }
        }
    }

    async fn control(&mut self, command: Control, events: &mut Events) {
        match command {
            Control::Join { room, hub, turn, reply } => {
                if !self.rooms.contains_key(&room) {
                    self.ask(room.clone());
                    let state = State::Joining { waiting: Vec::new(), held: Held::default() };
                    self.rooms.insert(room.clone(), Room { hubs: Vec::new(), state, active: true, came: 0 });
                }
                let Some(entry) = self.rooms.get_mut(&room) else { return };
                match entry.hubs.iter_mut().find(|(have, _)| *have == hub) {
                    Some((_, latest)) => *latest = turn.max(*latest),
                    None => entry.hubs.push((hub, turn)),
                }
                match &mut entry.state {
                    State::Joining { waiting, .. } => waiting.push(reply),
                    State::Live(_) | State::Repairing { .. } => {
                        let _ = reply.send(Ok(()));
                    }
                }
            }
            Control::Leave { room, hub, turn } => {
                let Some(entry) = self.rooms.get_mut(&room) else { return };
                entry.hubs.retain(|(have, latest)| *have != hub || *latest > turn);
                entry.active = true;
            }
            Control::Flush { reply } => {
                let mut ready = Vec::new();
                events.take_ready(&mut ready);
                self.events(&mut ready).await;
                let _ = reply.send(());
            }
        }
    }

    /// Asks the broker for a room's live messages.
    fn ask(&mut self, room: RoomName) {
        let broker = self.broker.clone();
        self.reads.spawn(async move {
            let result = broker.subscribe(&room).await;
            (room, Read::Subscribed(result))
        });
    }

    /// Leaves the rooms that nobody wants, and checks those in which nothing came for a while: a part of all, in turn.
    async fn look_round(&mut self) {
        self.metrics.fanout.rooms.set(self.rooms.len() as u64);
        if self.told.elapsed() >= TELL {
            self.tell_busy();
        }
        if self.round.is_empty() {
            self.round = self.rooms.keys().cloned().collect();
        }
        let share = self.rooms.len().div_ceil(TICKS).min(self.round.len());
        for name in self.round.split_off(self.round.len() - share) {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            if std::mem::take(&mut room.active) {
                continue;
            }
            if room.hubs.is_empty() && !matches!(room.state, State::Joining { .. }) {
                self.rooms.remove(&name);
                self.broker.unsubscribe(&name).await;
            } else {
                self.check(&name);
            }
        }
    }

    /// Tells what came in which rooms.
    fn tell_busy(&mut self) {
        let within = self.told.elapsed();
        self.told = Instant::now();
        let rooms = self
            .busy
            .drain(..)
            .filter_map(|name| {
                let came = std::mem::take(&mut self.rooms.get_mut(&name)?.came);
                Some((name, came))
            })
            .collect();
        *self.metrics.fanout.busy.lock() = Busy { within, rooms };
    }

    /// Reads what a room's log has after a position.
    fn read(&mut self, room: RoomName, from: Position, delay: Duration) {
        let (broker, places) = (self.broker.clone(), self.places.clone());
        self.reads.spawn(async move {
            tokio::time::sleep(delay).await;
            let _place = places.acquire().await;
            let result = broker.history(&room, Replay::After(from)).await;
            (room, Read::Log(result))
        });
    }

    async fn finished(&mut self, name: RoomName, read: Read) {
        let Some(room) = self.rooms.get_mut(&name) else {
            // Everybody left while the broker was asked.
            self.broker.unsubscribe(&name).await;
            return;
        };
        match (read, &mut room.state) {
            (Read::Subscribed(result), State::Joining { waiting, held }) => {
                let (waiting, held) = (std::mem::take(waiting), std::mem::take(held));
                let answer = result.as_ref().map(|_| ()).map_err(Clone::clone);
                match result {
                    Ok(position) => room.state = State::Live(position),
                    Err(error) => {
                        tracing::warn!(room = %name, %error, "cannot follow a room");
                        self.rooms.remove(&name);
                    }
                }
                for reply in waiting {
                    let _ = reply.send(answer.clone());
                }
                self.resume(name, held).await;
            }
            (Read::Log(Ok(history)), State::Repairing { from, held, .. }) => {
                let (from, held) = (from.clone(), std::mem::take(held));
                room.state = State::Live(history.position.clone());
                let hubs = room.hubs.clone();
                self.repaired(&name, &hubs, &from, history).await;
                self.resume(name, held).await;
            }
            (Read::Log(Err(error)), State::Repairing { from, retry, .. }) => {
                tracing::debug!(room = %name, %error, "cannot read a log, will try again");
                let (from, delay) = (from.clone(), *retry);
                *retry = (delay * 2).min(LONGEST_RETRY);
                self.read(name, from, delay);
            }
            // The room was left and joined again meanwhile.
            (Read::Subscribed(_) | Read::Log(_), _) => {}
        }
    }

    /// Hands on what a log has that the hubs lack, or where it stands if that cannot be joined to what they have.
    async fn repaired(&self, name: &RoomName, hubs: &[(HubIndex, u64)], from: &Position, history: History) {
        let history = history.unseen_by(Some(from));
        if history.complete && history.messages.is_empty() {
            return;
        }
        self.metrics.repairs.inc();
        if !history.complete {
            tracing::warn!(room = %name, ?from, to = ?history.position, "messages are lost to the log");
            self.metrics.unrepaired.inc();
        }
        self.send(name, hubs, history.start(), history.messages).await;
    }

    /// Goes on with what was held.
    async fn resume(&mut self, room: RoomName, held: Held) {
        let overflowed = held.overflowed;
        self.advance(room.clone(), held.messages).await;
        if overflowed {
            self.check(&room);
        }
    }

    /// Reads what the log has beyond what is known of a room.
    fn check(&mut self, room: &RoomName) {
        let Some(entry) = self.rooms.get_mut(room) else { return };
        if let State::Live(position) = &entry.state {
            let from = position.clone();
            entry.state = State::Repairing { from: from.clone(), held: Held::default(), retry: RETRY };
            self.read(room.clone(), from, Duration::ZERO);
        }
    }

    async fn events(&mut self, buffer: &mut Vec<Event>) {
        let mut missed = false;
        // Most drains hold one room or few: its messages go on together.
        let mut grouped: FxHashMap<RoomName, Vec<(Epoch, Arc<Message>)>> = FxHashMap::default();
        for event in buffer.drain(..) {
            match event {
                Event::Message { room, epoch, message } => {
                    grouped.entry(room).or_default().push((epoch, message));
                }
                Event::Missed => missed = true,
            }
        }
        let now = clock::now().utc;
        for (room, messages) in grouped {
            if let Some((_, oldest)) = messages.first() {
                self.metrics.arrived(oldest, messages.len(), now);
            }
            self.advance(room, messages).await;
        }
        if missed {
            self.metrics.missed.inc();
            let rooms: Vec<_> = self.rooms.keys().cloned().collect();
            for room in rooms {
                self.check(&room);
            }
        }
    }

    /// Takes a room's next messages: those that follow go to the hubs; from a hole on, they are held.
    async fn advance(&mut self, name: RoomName, messages: Vec<(Epoch, Arc<Message>)>) {
        let Some(room) = self.rooms.get_mut(&name) else { return };
        let mut run: Vec<Arc<Message>> = Vec::with_capacity(messages.len());
        let mut hole = None;
        let mut start = None;
        room.active = true;
        for (epoch, message) in messages {
            match &mut room.state {
                State::Joining { held, .. } | State::Repairing { held, .. } => held.push(epoch, message),
                State::Live(position) => {
                    let same = position.epoch == epoch;
                    if same && message.seq <= position.seq {
                        continue;
                    }
                    if same && message.seq == position.seq + 1 {
                        start.get_or_insert_with(|| position.clone());
                        position.seq += 1;
                        run.push(message);
                        continue;
                    }
                    let from = position.clone();
                    let mut held = Held::default();
                    held.push(epoch, message);
                    hole = Some(from.clone());
                    room.state = State::Repairing { from, held, retry: RETRY };
                }
            }
        }
        if let Some(start) = start {
            if room.came == 0 {
                self.busy.push(name.clone());
            }
            room.came += run.len() as u64;
            let hubs = room.hubs.clone();
            self.send(&name, &hubs, start, run).await;
        }
        if let Some(from) = hole {
            self.read(name, from, Duration::ZERO);
        }
    }

    async fn send(
        &self,
        room: &RoomName,
        hubs: &[(HubIndex, u64)],
        start: Position,
        messages: Vec<Arc<Message>>,
    ) {
        self.metrics.fanned_out(room, &messages);
        let mut start = start;
        for part in batch::parts(messages) {
            let end = Position { epoch: start.epoch.clone(), seq: start.seq + part.len() as u64 };
            self.send_part(room, hubs, std::mem::replace(&mut start, end), part).await;
        }
    }

    async fn send_part(
        &self,
        room: &RoomName,
        hubs: &[(HubIndex, u64)],
        start: Position,
        messages: Vec<Arc<Message>>,
    ) {
        let (now, micros) = clock::precise();
        let clients = hubs.iter().any(|(hub, _)| *hub != TAP);
        let witness = clients.then(|| trace::delivery(&self.node, room, &messages)).flatten();
        let urgent = self.metrics.has_critical(room, &messages);
        let batch = Batch::handed(room.clone(), start, messages, now.utc, micros).urgent(urgent);
        let (batch, for_tap) = match witness {
            None => (Arc::new(batch), None),
            Some(witness) => {
                // What is written to clients is watched, and not how long it is recorded.
                let messages = batch.messages().iter().map(|message| message.shared().clone()).collect();
                let start = batch.start().clone();
                let for_tap = Batch::handed(room.clone(), start, messages, now.utc, micros);
                (Arc::new(batch.witnessed(witness)), Some(Arc::new(for_tap)))
            }
        };
        for (hub, _) in hubs {
            match (self.hubs.get(*hub), &self.tap) {
                (Some(hub), _) => hub.batch(batch.clone()).await,
                (None, Some(tap)) => tap.offer(for_tap.as_ref().unwrap_or(&batch)),
                (None, None) => {}
            }
        }
    }
}
