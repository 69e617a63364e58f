//! What everything on Redis shares: addresses, the two connections of a process, and the scripts.
//!
//! A process has one connection for commands (`commands`) and one for what is pushed to it (`push`). Each is kept
//! by a task of its own that builds it anew when it breaks, and proves now and then that it works: the first by a
//! `PING`, the second by a message that the process publishes to itself.
//!
//! | key or channel | holds |
//! |---|---|
//! | `tm:{room}:log` | stream, ids `<seq>-0`: field `t` when it was appended, in UTC ms by Redis' clock; field `m` the message |
//! | `tm:{room}:meta` | hash: `epoch`, `seq`, `base` (where the epoch began), `id` (replication id under which it began) |
//! | `tm:{room}:id:<message_id>` | the `seq` that a `message_id` got, for the class's window |
//! | `tm:{room}:presence` | sorted set: attendees of rooms that announce them, by the time at which they expire |
//! | `tm:node:<id>`, `tm:gateway:<id>` | hash: `run` and `report` of a member; expires with its lease |
//! | `tm:leases` | hash: the keys of leases that may be there |
//! | channel `tm:{room}` | epoch, first `seq` and messages of each publish |
//! | channels `tm:members`, `tm:subs`, `tm:everybody`, `tm:member:<id>` | letters between processes |
//! | channel `tm:probe:<random>` | a process's messages to itself |
//!
//! `{}` is the hash tag of Redis Cluster, where all channels are sharded ones.
//!
//! Invariants: a call that gets no answer in time fails; while a connection is away, calls fail at once; nothing that
//! Redis holds or pushes, however odd, ends the process.

mod address;
mod commands;
mod push;
pub(crate) mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tickmesh_protocol::room::Classes;
use tokio::sync::mpsc;

pub(crate) use address::Connection;
pub use address::{Address, BadAddress};
pub(crate) use commands::Commands;
pub(crate) use push::{Push, Pushed};

use crate::broker::redis::RedisBroker;
use crate::broker::{self, BrokerError, Event, Inbox};
use crate::bus::redis::RedisBus;
use crate::bus::{self, MAIL, Mail};
use crate::members::redis::RedisMembers;
use crate::presence::redis::RedisPresence;

/// First wait before a connection is tried again, and the longest; each time it is doubled, less up to a half at random.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// The connections of a process.
#[derive(Clone)]
pub struct Redis {
    commands: Commands,
    push: Push,
    sharded: bool,
    timeout: Duration,
    health: Arc<Health>,
}

impl Redis {
    /// Begins to connect, on the present runtime, and goes on trying. What is published in rooms goes to `inbox`, letters
    /// to the member `id` to the mail.
    #[must_use]
    pub fn connect(address: Address, timeout: Duration, id: &str, inbox: Inbox) -> (Self, Mail) {
        let health = Arc::new(Health::default());
        let sharded = address.is_cluster();
        let commands = Commands::start(address.clone(), timeout, health.clone());
        let (letters, mail) = mpsc::channel(MAIL);
        let pushed = Arc::new(Router { inbox, letters, health: health.clone() });
        let channels = bus::redis::channels(id);
        let push = Push::start(address, commands.clone(), &channels, pushed, timeout, health.clone());
        (Self { commands, push, sharded, timeout, health }, mail)
    }

    /// Waits until Redis is there, but no longer than `patience`.
    ///
    /// # Errors
    /// When it is not.
    pub async fn ready(&self, patience: Duration) -> Result<(), BrokerError> {
        self.commands.wait(patience).await?;
        self.push.wait(patience).await;
        Ok(())
    }

    /// The logs of all rooms.
    #[must_use]
    pub fn broker(&self, classes: Classes) -> RedisBroker {
        let (commands, push, health) = (self.commands.clone(), self.push.clone(), self.health.clone());
        RedisBroker::new(commands, push, classes, self.sharded, self.timeout, health)
    }

    /// The leases.
    #[must_use]
    pub fn members(&self) -> RedisMembers {
        RedisMembers::new(self.commands.clone(), self.health.clone())
    }

    /// The register of attendees.
    #[must_use]
    pub fn presence(&self) -> RedisPresence {
        RedisPresence::new(self.commands.clone(), self.health.clone())
    }

    /// Letters to the others.
    #[must_use]
    pub fn bus(&self) -> RedisBus {
        RedisBus::new(self.commands.clone(), self.push.clone())
    }

    /// How the connections do.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

/// Takes what is pushed to whom it is for.
struct Router {
    inbox: Inbox,
    letters: mpsc::Sender<Vec<u8>>,
    health: Arc<Health>,
}

impl Pushed for Router {
    fn message(&self, channel: &str, payload: &[u8]) {
        if !channel.starts_with("tm:{") {
            let _ = self.letters.try_send(payload.to_vec());
            return;
        }
        // Were something ours and broken, the next message or look at the log would show the hole.
        if let Err(problem) = broker::redis::deliver(&self.inbox, channel, payload) {
            self.health.found_garbage(channel, &problem);
        }
    }

    fn restored(&self) {
        self.inbox.offer(Event::Missed);
    }
}

/// How the connections of a process do, for operators.
#[derive(Debug, Default)]
pub struct Health {
    commands: AtomicBool,
    push: AtomicBool,
    reconnects: AtomicU64,
    garbage: AtomicU64,
    echo_us: AtomicU64,
}

impl Health {
    /// Both connections work, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.commands.load(Ordering::Relaxed) && self.push.load(Ordering::Relaxed)
    }

    /// How often a connection was made anew.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Entries and messages that could not be made out.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.garbage.load(Ordering::Relaxed)
    }

    /// How long the last message of the process to itself took, in microseconds.
    #[must_use]
    pub fn echo_us(&self) -> u64 {
        self.echo_us.load(Ordering::Relaxed)
    }

    /// Counts something that could not be made out, and says where; not every time, when there is much of it.
    pub(crate) fn found_garbage(&self, place: &str, problem: &str) {
        if self.garbage.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
            tracing::error!(place, problem, "redis holds something that is not tickmesh's");
        }
    }
}

/// The name of a room's channel or key.
pub(crate) fn room_key(room: &str, suffix: &str) -> String {
    format!("tm:{{{room}}}{suffix}")
}

/// What an error of the driver means to a caller.
pub(crate) fn broker_error(error: &redis::RedisError) -> BrokerError {
    const AWAY: [&str; 14] = [
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
        "BUSY",
        "OOM",
        "NOREPLICAS",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOSCRIPT",
    ];
    if error.is_timeout() {
        return BrokerError::Timeout;
    }
    match error.code() {
        Some(code) if !AWAY.contains(&code) => BrokerError::Damaged(error.to_string()),
        _ if error.kind() == redis::ErrorKind::UnexpectedReturnType => {
            BrokerError::Damaged(error.to_string())
        }
        _ => BrokerError::Unavailable(error.to_string()),
    }
}

/// Waits between attempts to connect.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(FIRST_RETRY)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0.mul_f64(rand::random_range(0.5..=1.0))).await;
        self.0 = (self.0 * 2).min(LONGEST_RETRY);
    }
}
