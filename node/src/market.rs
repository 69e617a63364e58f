//! The recorded rooms of a node: what is published there is written to the time-series store, made into bars, and held
//! against price alerts.
//!
//! Each recorded room has one keeper among the nodes, the same from everybody's point of view; when it dies or drains another
//! takes over, from where the stores stand. All of it runs on a thread of its own, so that it takes no time from the
//! hubs; it hears live messages from the fan-out through a tap that never holds that up, and reads what it missed from
//! the rooms' logs.
//!
//! * [`floor`]: which rooms are kept here, and everything that waits for somebody · [`desk`]: one room
//! * `rows`, `bars`, `watches`: the three things that are done with its messages, each with a place of its own in the log

mod bars;
mod desk;
mod floor;
mod rows;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustc_hash::FxHashSet;
use tickmesh_cluster::broker::Broker;
use tickmesh_cluster::config::Config;
use tickmesh_market::bars::Rules;
use tickmesh_market::calendar::{Calendar, CalendarError};
use tickmesh_protocol::market::Symbol;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::room::{Classes, RoomName};
use tickmesh_store::Stores;
use tokio::sync::{mpsc, oneshot};

use crate::background;
use crate::fanout::{FanoutHandle, Tapped};
use crate::metrics::Metrics;
use crate::peers::Peers;

/// Things that are told to the thread and wait for it.
const NEWS: usize = 4_096;
/// Batches of live messages that wait for the thread; what is beyond is read from the logs.
pub(crate) const TAPPED: usize = 1_024;

/// What is told to the thread.
#[derive(Debug)]
enum News {
    /// Somebody published into a room that is recorded.
    Seen(RoomName),
    /// The same, told by another node.
    Told(RoomName),
    /// The alerts of a symbol are others now.
    Alerts(Symbol),
    /// Nothing is kept here any more; answered when what waits is written.
    Stop(oneshot::Sender<()>),
}

/// How the rest of the node reaches the thread. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct MarketHandle {
    news: mpsc::Sender<News>,
    /// Rooms that everybody was told of.
    known: Arc<RwLock<FxHashSet<RoomName>>>,
}

/// The receiving end of a handle.
#[derive(Debug)]
pub(crate) struct Inbox {
    news: mpsc::Receiver<News>,
    known: Arc<RwLock<FxHashSet<RoomName>>>,
}

/// A handle, before there is a thread.
pub(crate) fn handle() -> (MarketHandle, Inbox) {
    let (news, inbox) = mpsc::channel(NEWS);
    let known = Arc::default();
    (MarketHandle { news, known: Arc::clone(&known) }, Inbox { news: inbox, known })
}

impl MarketHandle {
    /// Somebody published into a recorded room here.
    pub(crate) fn published(&self, room: &RoomName) {
        if self.known.read().contains(room) {
            return;
        }
        // Where the thread has no room for it now, the next message is told again.
        if self.news.try_send(News::Seen(room.clone())).is_ok() {
            self.known.write().insert(room.clone());
        }
    }

    /// Another node told of a recorded room.
    pub(crate) fn told(&self, room: RoomName) {
        self.known.write().insert(room.clone());
        let _ = self.news.try_send(News::Told(room));
    }

    /// The alerts of a symbol were changed, here or elsewhere.
    pub(crate) fn alerts_changed(&self, symbol: Symbol) {
        // What is lost here is found by the next look at all alerts.
        let _ = self.news.try_send(News::Alerts(symbol));
    }

    /// Writes what waits, and keeps nothing any more.
    pub(crate) async fn stop(&self, patience: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.news.send(News::Stop(done)).await.is_ok() {
            let _ = tokio::time::timeout(patience, stopped).await;
        }
    }
}

/// What is configured.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    classes: Classes,
    prefix: String,
    calendar: Calendar,
    rules: Rules,
    batch: usize,
    flush: Duration,
    buffer: usize,
    hysteresis_bp: u64,
    lease: Duration,
}

impl Settings {
    /// Takes them from a configuration.
    pub(crate) fn new(config: &Config) -> Result<Self, CalendarError> {
        Ok(Self {
            classes: Classes::new(config.rooms.class.clone()),
            prefix: config.market.prefix.clone(),
            calendar: Calendar::new(&config.market.exchange)?,
            rules: Rules { late_ms: config.market.late_ms, max_jump_percent: config.market.max_jump_percent },
            batch: config.recorder.batch,
            flush: Duration::from_millis(config.recorder.flush_ms),
            buffer: config.recorder.buffer,
            hysteresis_bp: config.users.alert_hysteresis_bp,
            lease: Duration::from_millis(config.cluster.lease_ms),
        })
    }

    /// What a room's ticks are of, if it is recorded: what follows the market's prefix, or its class's where that is another.
    fn recorded(&self, room: &RoomName) -> Option<Symbol> {
        let class = self.classes.of(room);
        let symbol = || Symbol::of_room(&self.prefix, room).or_else(|| Symbol::of_room(&class.prefix, room));
        class.record.then(symbol).flatten()
    }

    /// Bars are made of it, and alerts look at it.
    fn is_market(&self, room: &RoomName) -> bool {
        Symbol::of_room(&self.prefix, room).is_some()
    }
}

/// Whether what is published there is recorded.
pub(crate) fn is_recorded(classes: &Classes, room: &RoomName) -> bool {
    classes.of(room).record
}

/// Whether a message may be put into the log of its room.
///
/// # Errors
/// What is recorded has figures that can be ticks, see [`tickmesh_market::tick::check`].
pub(crate) fn check(classes: &Classes, publish: &Publish) -> Result<(), tickmesh_protocol::error::Failure> {
    if is_recorded(classes, &publish.room) { tickmesh_market::tick::check(&publish.data) } else { Ok(()) }
}

/// What the thread works with.
pub(crate) struct Means {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) stores: Stores,
    pub(crate) fanout: FanoutHandle,
    pub(crate) peers: Arc<Peers>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Starts the thread. It ends when all handles are gone, or when it is stopped.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(settings: Settings, means: Means, inbox: Inbox, tapped: Tapped) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    background::spawn("market", move || runtime.block_on(floor::run(settings, means, inbox, tapped)))
}
