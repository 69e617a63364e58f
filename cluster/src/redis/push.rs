//! The connection for what Redis pushes, and the task that keeps it and its subscriptions.
//!
//! A TCP connection that is up proves nothing: the task publishes a message to a channel of its own every second, by way
//! of the other connection, and builds this one anew when the echo stays away.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, RedisResult, Value};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Address, Backoff, Commands, Connection, Health};
use crate::broker::BrokerError;

/// Requests that wait for the task.
const QUEUE: usize = 4_096;
/// Channels in one command.
const CHANNELS: usize = 512;
/// How often the process writes to itself, and how long the echo may take.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// Takes what is pushed. It is called by the driver's task: it must neither wait nor take long.
pub(crate) trait Pushed: Send + Sync + 'static {
    /// A message came on a channel.
    fn message(&self, channel: &str, payload: &[u8]);
    /// Messages may have been lost before this moment; all channels are subscribed again.
    fn restored(&self);
}

#[derive(Debug)]
enum Request {
    Subscribe { channel: String, reply: oneshot::Sender<Result<(), BrokerError>> },
    Unsubscribe { channel: String },
}

/// Where channels are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    requests: mpsc::Sender<Request>,
    connected: watch::Receiver<bool>,
    timeout: Duration,
}

impl Push {
    /// Starts the task with channels that are always wanted; it ends when all clones are gone.
    pub(crate) fn start(
        address: Address,
        commands: Commands,
        channels: &[String],
        pushed: Arc<dyn Pushed>,
        timeout: Duration,
        health: Arc<Health>,
    ) -> Self {
        let (sender, requests) = mpsc::channel(QUEUE);
        let probe = Arc::new(Probe {
            channel: format!("tm:probe:{:016x}", rand::random::<u64>()),
            unanswered: Mutex::new(None),
            health: health.clone(),
        });
        let mut wanted: HashSet<String> = channels.iter().cloned().collect();
        wanted.insert(probe.channel.clone());
        let (state, connected) = watch::channel(false);
        let keeper = Keeper { address, commands, requests, wanted, pushed, probe, timeout, health, state };
        tokio::spawn(keeper.run());
        Self { requests: sender, connected, timeout }
    }

    /// Waits for the connection.
    pub(crate) async fn wait(&self, patience: Duration) {
        let _ = timeout(patience, self.connected.clone().wait_for(|connected| *connected)).await;
    }

    /// Asks for a channel; when this returns, whatever is published to it from now on is pushed.
    pub(crate) async fn subscribe(&self, channel: String) -> Result<(), BrokerError> {
        let (reply, answer) = oneshot::channel();
        let gone = || BrokerError::Unavailable("the connection was closed".into());
        let asking = async {
            self.requests.send(Request::Subscribe { channel, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        timeout(self.timeout, asking).await.map_err(|_| BrokerError::Timeout)?
    }

    /// Gives a channel up; in order with [`subscribe`](Self::subscribe).
    pub(crate) async fn unsubscribe(&self, channel: String) {
        let _ = self.requests.send(Request::Unsubscribe { channel }).await;
    }
}

/// The process's messages to itself.
struct Probe {
    channel: String,
    /// When the first was sent that no echo answered.
    unanswered: Mutex<Option<Instant>>,
    health: Arc<Health>,
}

impl Probe {
    fn echoed(&self) {
        if let Some(sent) = self.unanswered.lock().take() {
            self.health.echo_us.store(sent.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
    }

    fn is_overdue(&self) -> bool {
        self.unanswered.lock().is_some_and(|sent| sent.elapsed() > PROBE_PATIENCE)
    }
}

struct Keeper {
    address: Address,
    commands: Commands,
    requests: mpsc::Receiver<Request>,
    wanted: HashSet<String>,
    pushed: Arc<dyn Pushed>,
    probe: Arc<Probe>,
    timeout: Duration,
    health: Arc<Health>,
    state: watch::Sender<bool>,
}

/// How the time of a connection ended.
enum End {
    Broken(String),
    /// Nobody needs it any more.
    Closed,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut first = true;
        loop {
            let Some((connection, lost)) = self.establish(&mut backoff).await else { return };
            self.health.push.store(true, Ordering::Relaxed);
            *self.probe.unanswered.lock() = None;
            self.state.send_replace(true);
            if !std::mem::take(&mut first) {
                self.pushed.restored();
            }
            let began = Instant::now();
            let end = self.serve(connection, &lost).await;
            self.health.push.store(false, Ordering::Relaxed);
            self.state.send_replace(false);
            let End::Broken(reason) = end else { return };
            self.health.reconnects.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(redis = ?self.address, reason, "the push connection to redis is lost");
            if began.elapsed() > PROBE_PATIENCE {
                backoff = Backoff::new();
            }
            backoff.wait().await;
        }
    }

    /// Connects and subscribes, as often as it takes. New requests are refused meanwhile.
    async fn establish(&mut self, backoff: &mut Backoff) -> Option<(Connection, Arc<Notify>)> {
        let (address, timeout) = (self.address.clone(), self.timeout);
        loop {
            let lost = Arc::new(Notify::new());
            let sender = self.sender(lost.clone());
            let asked: Vec<String> = self.wanted.iter().cloned().collect();
            let subscribed = asked.clone();
            let connecting = async {
                let mut connection = address.connect(timeout, Some(sender)).await?;
                for channels in subscribed.chunks(CHANNELS) {
                    connection.subscribe(channels).await?;
                }
                RedisResult::Ok(connection)
            };
            tokio::pin!(connecting);
            let result = loop {
                tokio::select! {
                    result = &mut connecting => break result,
                    request = self.requests.recv() => self.refuse(request?),
                }
            };
            match result {
                Ok(mut connection) => {
                    let left: Vec<_> = asked.into_iter().filter(|name| !self.wanted.contains(name)).collect();
                    if left.is_empty() || connection.unsubscribe(&left).await.is_ok() {
                        return Some((connection, lost));
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot make the push connection"),
            }
            let waiting = backoff.wait();
            tokio::pin!(waiting);
            loop {
                tokio::select! {
                    () = &mut waiting => break,
                    request = self.requests.recv() => self.refuse(request?),
                }
            }
        }
    }

    fn refuse(&mut self, request: Request) {
        match request {
            Request::Subscribe { reply, .. } => {
                let _ = reply.send(Err(BrokerError::Unavailable("redis cannot be reached".into())));
            }
            Request::Unsubscribe { channel } => {
                self.wanted.remove(&channel);
            }
        }
    }

    fn sender(&self, lost: Arc<Notify>) -> Arc<dyn AsyncPushSender> {
        let (pushed, probe, health) = (self.pushed.clone(), self.probe.clone(), self.health.clone());
        Arc::new(move |info: PushInfo| {
            match info.kind {
                PushKind::Message | PushKind::SMessage => match &info.data[..] {
                    [Value::BulkString(channel), Value::BulkString(payload)] => {
                        match std::str::from_utf8(channel) {
                            Ok(channel) if channel == probe.channel => probe.echoed(),
                            Ok(channel) => pushed.message(channel, payload),
                            Err(_) => health.found_garbage("a channel's name", "not UTF-8"),
                        }
                    }
                    _ => health.found_garbage("a pushed message", "neither channel nor payload"),
                },
                PushKind::Disconnection => lost.notify_one(),
                _ => {}
            }
            Ok::<(), SendError>(())
        })
    }

    async fn serve(&mut self, mut connection: Connection, lost: &Notify) -> End {
        let mut tick = interval(PROBE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut requests = Vec::with_capacity(CHANNELS);
        loop {
            let done = tokio::select! {
                () = lost.notified() => return End::Broken("the connection was closed".into()),
                _ = tick.tick() => {
                    if self.probe.is_overdue() {
                        return End::Broken("the echo of a probe stays away".into());
                    }
                    self.send_probe();
                    Ok(())
                }
                count = self.requests.recv_many(&mut requests, CHANNELS) => {
                    if count == 0 {
                        return End::Closed;
                    }
                    self.handle(&mut connection, &mut requests).await
                }
            };
            if let Err(error) = done {
                return End::Broken(error.to_string());
            }
        }
    }

    fn send_probe(&self) {
        let (commands, probe) = (self.commands.clone(), self.probe.clone());
        // What is away altogether is not this connection's fault.
        let Ok(mut connection) = commands.get() else {
            *probe.unanswered.lock() = None;
            return;
        };
        probe.unanswered.lock().get_or_insert_with(Instant::now);
        tokio::spawn(async move {
            if let Err(error) = connection.publish(&probe.channel, b"").await {
                *probe.unanswered.lock() = None;
                commands.failed(&probe.channel, &error);
            }
        });
    }

    /// Handles requests in order; those of one kind that follow each other share a command.
    async fn handle(&mut self, connection: &mut Connection, requests: &mut Vec<Request>) -> RedisResult<()> {
        let (mut joining, mut leaving, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        let mut result = Ok(());
        let mut requests = requests.drain(..).peekable();
        while let Some(request) = requests.next() {
            match request {
                Request::Subscribe { channel, reply } => {
                    if self.wanted.insert(channel.clone()) {
                        joining.push(channel);
                    }
                    replies.push(reply);
                    if matches!(requests.peek(), Some(Request::Subscribe { .. })) {
                        continue;
                    }
                    let channels = std::mem::take(&mut joining);
                    if result.is_ok() && !channels.is_empty() {
                        result = connection.subscribe(&channels).await;
                    }
                    if result.is_err() {
                        for channel in &channels {
                            self.wanted.remove(channel);
                        }
                    }
                    for reply in replies.drain(..) {
                        let _ = reply.send(result.as_ref().copied().map_err(super::broker_error));
                    }
                }
                Request::Unsubscribe { channel } => {
                    if self.wanted.remove(&channel) {
                        leaving.push(channel);
                    }
                    if matches!(requests.peek(), Some(Request::Unsubscribe { .. })) {
                        continue;
                    }
                    let channels = std::mem::take(&mut leaving);
                    if result.is_ok() && !channels.is_empty() {
                        result = connection.unsubscribe(&channels).await;
                    }
                }
            }
        }
        result
    }
}
