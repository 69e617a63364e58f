//! The broker on Redis, see [`crate::redis`] for keys and connections.
//!
//! Invariants: positions come from scripts alone, which run on the server that keeps the room; a room's messages leave
//! in one call at a time, so that a publisher's order holds; what is pushed goes to the node's bounded queue or is told
//! as missed.

mod publisher;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use redis::{RedisResult, Script, Value};
use tickmesh_protocol::message::{History, Message, Publish, Replay};
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::{Classes, RoomName};
use tokio::sync::{mpsc, oneshot};

use super::{Broker, BrokerError, Event, Inbox};
use crate::redis::{Commands, Connection, Health, Push, room_key, scripts};

use publisher::Job;

/// Entries of a log in one answer: a longer read takes several, so that others get their turn at the server.
const PAGE: usize = 5_000;
/// Most rooms that are listed.
const MAX_ROOMS: usize = 100_000;
/// Milliseconds that a room's position outlives its messages.
const META_EXTRA_MS: u64 = 86_400_000;

/// One node's connection.
pub struct RedisBroker {
    commands: Commands,
    push: Push,
    jobs: mpsc::Sender<Job>,
    classes: Classes,
    read: Script,
    timeout: Duration,
    health: Arc<Health>,
}

/// Queues the messages that came on a room's channel; says what is wrong with others.
pub(crate) fn deliver(inbox: &Inbox, channel: &str, payload: &[u8]) -> Result<(), String> {
    let (room, epoch, messages) = wire::decode(channel, payload)?;
    for message in messages {
        let (room, epoch) = (room.clone(), epoch.clone());
        inbox.offer(Event::Message { room, epoch, message: Arc::new(message) });
    }
    Ok(())
}

impl RedisBroker {
    /// Takes its place on the connections.
    #[must_use]
    pub(crate) fn new(
        commands: Commands,
        push: Push,
        classes: Classes,
        sharded: bool,
        timeout: Duration,
        health: Arc<Health>,
    ) -> Self {
        let jobs = publisher::start(commands.clone(), classes.clone(), sharded);
        Self { commands, push, jobs, classes, read: scripts::read(), timeout, health }
    }

    async fn page(
        &self,
        connection: &mut Connection,
        room: &RoomName,
        what: &str,
        number: u64,
        epoch: &str,
        most: usize,
    ) -> Result<Page, BrokerError> {
        let most = most.clamp(1, PAGE);
        let ttl = self.classes.of(room).history_ttl_s * 1_000;
        let place = room_key(room.as_str(), ":log");
        let answer: RedisResult<(String, u64, u64, u64, Vec<Value>)> = self
            .read
            .key(room_key(room.as_str(), ":meta"))
            .key(&place)
            .arg(fresh_epoch())
            .arg(ttl + META_EXTRA_MS)
            .arg(what)
            .arg(number)
            .arg(epoch)
            .arg(most)
            .invoke_async(connection)
            .await;
        let (epoch, seq, began_at, now, entries) =
            answer.map_err(|error| self.commands.failed(&place, &error))?;
        let full = entries.len() >= most;
        let newest_first = what == "last";
        let mut messages = Vec::with_capacity(entries.len());
        let mut last = None;
        for entry in &entries {
            match wire::entry(entry) {
                Ok((appended, message)) => {
                    last = Some(message.seq);
                    if appended + ttl >= now {
                        messages.push(message);
                    }
                }
                Err(problem) => self.health.found_garbage(&place, &problem),
            }
        }
        if newest_first {
            messages.reverse();
        }
        Ok(Page { position: Position { epoch: Epoch::new(&epoch), seq }, began_at, messages, last, full })
    }

    /// Everything after a sequence number up to where the log stands; `epoch` is empty for any.
    async fn after(
        &self,
        connection: &mut Connection,
        room: &RoomName,
        seq: u64,
        epoch: &str,
        limit: usize,
    ) -> Result<Page, BrokerError> {
        let mut page = self.page(connection, room, "after", seq, epoch, limit).await?;
        while page.full && page.messages.len() < limit {
            let Some(last) = page.last else { break };
            let (epoch, most) = (page.position.epoch.as_str(), limit - page.messages.len());
            let more = self.page(connection, room, "after", last, epoch, most).await?;
            if more.position.epoch != page.position.epoch {
                return Err(BrokerError::Unavailable("the log's life ended while it was read".into()));
            }
            page.position = more.position;
            (page.last, page.full) = (more.last, more.full);
            page.messages.extend(more.messages);
        }
        Ok(page)
    }
}

/// An answer of the read script.
struct Page {
    position: Position,
    began_at: u64,
    messages: Vec<Message>,
    /// Of the entry that was read last, also where its time is over.
    last: Option<u64>,
    full: bool,
}

impl Page {
    /// What the log has without a hole up to its position.
    fn history(self, after: u64, limit: usize, epoch_holds: bool) -> History {
        let end = self.position.seq;
        self.history_to(end, after, limit, epoch_holds)
    }

    /// What it has without a hole up to the last message that was read, where there may be more behind it.
    fn part(self, after: u64, limit: usize) -> History {
        let last = self.messages.last().filter(|_| self.full);
        let end = last.map_or(self.position.seq, |last| last.seq);
        self.history_to(end, after, limit, true)
    }

    fn history_to(mut self, end: u64, after: u64, limit: usize, epoch_holds: bool) -> History {
        let mut next = end + 1;
        let mut whole = self.messages.len();
        for (at, message) in self.messages.iter().enumerate().rev() {
            // A tail that is missing leaves nothing: what is before it does not reach the end.
            if message.seq + 1 != next {
                break;
            }
            (next, whole) = (message.seq, at);
        }
        self.messages.drain(..whole);
        self.messages.truncate(limit);
        let complete = epoch_holds && (after >= end || after + 1 >= next);
        let messages = self.messages.into_iter().map(Arc::new).collect();
        History { position: self.position, messages, complete, began_at: self.began_at }
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(&self, messages: Vec<Publish>) -> Vec<Result<Position, BrokerError>> {
        let count = messages.len();
        let (reply, answer) = oneshot::channel();
        let publishing = async {
            self.commands.get()?;
            let gone = |_| BrokerError::Unavailable("the connection was closed".into());
            self.jobs.send(Job { messages, reply }).await.map_err(|_| gone(()))?;
            answer.await.map_err(|_| gone(()))
        };
        // A round may be under way; the driver ends that and the next one in time.
        match tokio::time::timeout(self.timeout * 2, publishing).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => vec![Err(error); count],
            Err(_) => vec![Err(BrokerError::Timeout); count],
        }
    }

    async fn subscribe(&self, room: &RoomName) -> Result<Position, BrokerError> {
        self.push.subscribe(room_key(room.as_str(), "")).await?;
        Ok(self.history(room, Replay::Nothing).await?.position)
    }

    async fn unsubscribe(&self, room: &RoomName) {
        self.push.unsubscribe(room_key(room.as_str(), "")).await;
    }

    async fn history(&self, room: &RoomName, replay: Replay) -> Result<History, BrokerError> {
        let connection = &mut self.commands.get()?;
        Ok(match replay {
            Replay::Nothing => {
                let page = self.page(connection, room, "none", 0, "", PAGE).await?;
                let seq = page.position.seq;
                page.history(seq, 0, true)
            }
            Replay::Last(count) => {
                let page = self.page(connection, room, "last", count as u64, "", PAGE).await?;
                let after = page.position.seq.saturating_sub(count as u64);
                page.history(after, count, true)
            }
            Replay::Since { seq, limit } => {
                let page = self.after(connection, room, seq, "", limit).await?;
                page.part(seq, limit)
            }
            Replay::After(from) => {
                let page = self.after(connection, room, from.seq, from.epoch.as_str(), usize::MAX).await?;
                let same = page.position.epoch == from.epoch && from.seq <= page.position.seq;
                page.history(if same { from.seq } else { 0 }, usize::MAX, same)
            }
        })
    }

    async fn rooms(&self) -> Result<Vec<(RoomName, Position)>, BrokerError> {
        let mut connection = self.commands.get()?;
        let names =
            connection.room_names(MAX_ROOMS).await.map_err(|error| self.commands.failed("SCAN", &error))?;
        let asked = names.into_iter().map(|room| {
            let mut connection = connection.clone();
            async move {
                let mut command = redis::cmd("HMGET");
                command.arg(room_key(room.as_str(), ":meta")).arg("epoch").arg("seq");
                let held: RedisResult<(Option<String>, Option<u64>)> =
                    command.query_async(&mut connection).await;
                match held {
                    Ok((Some(epoch), Some(seq))) => Some((room, Position { epoch: Epoch::new(&epoch), seq })),
                    _ => None,
                }
            }
        });
        let rooms: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(256).collect().await;
        Ok(rooms.into_iter().flatten().collect())
    }
}

/// A name that no log had before.
fn fresh_epoch() -> String {
    format!("{:016x}", rand::random::<u64>())
}
