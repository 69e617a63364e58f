//! The task through which all publishes of a process leave.
//!
//! While a round is under way, those that come meanwhile gather; then each room's messages leave in one call, and the
//! calls of all rooms together: many publishers share a round trip.
//!
//! Invariants: a room has one call under way at a time, so that what came first is appended first; a call has a bounded
//! size, so that no room keeps the server from the others for long.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use redis::{RedisResult, Script, Value};
use rustc_hash::FxHashMap;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::position::{Epoch, Position};
use tickmesh_protocol::room::{Classes, RoomName};
use tokio::sync::{mpsc, oneshot};

use super::wire::Body;
use super::{BrokerError, META_EXTRA_MS, fresh_epoch};
use crate::redis::{Commands, Connection, room_key, scripts};

/// Jobs that wait, and how many a round takes.
const QUEUE: usize = 1_024;
/// Messages and bytes in one call.
const CALL_MESSAGES: usize = 500;
const CALL_BYTES: usize = 1024 * 1024;

type Answer = Result<Position, BrokerError>;

/// Messages of one publisher, in order.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) messages: Vec<Publish>,
    pub(super) reply: oneshot::Sender<Vec<Answer>>,
}

/// A message on its way, and where its answer goes: index of the job and in the job.
struct Item {
    json: Vec<u8>,
    message_id: Option<Box<str>>,
    to: (usize, usize),
}

/// Starts the task; it ends when nobody can send to it.
pub(super) fn start(commands: Commands, classes: Classes, sharded: bool) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel(QUEUE);
    let publisher = Publisher { commands, classes, script: scripts::publish(), sharded };
    tokio::spawn(publisher.run(jobs));
    sender
}

struct Publisher {
    commands: Commands,
    classes: Classes,
    script: Script,
    sharded: bool,
}

impl Publisher {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut round = Vec::with_capacity(QUEUE);
        while jobs.recv_many(&mut round, QUEUE).await > 0 {
            self.round(&mut round).await;
        }
    }

    async fn round(&self, jobs: &mut Vec<Job>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut replies = Vec::with_capacity(jobs.len());
        let mut rooms: FxHashMap<RoomName, VecDeque<Item>> = FxHashMap::default();
        for (job, Job { messages, reply }) in jobs.drain(..).enumerate() {
            let unanswered = BrokerError::Unavailable("not sent".into());
            replies.push((reply, vec![Err(unanswered); messages.len()]));
            for (index, publish) in messages.into_iter().enumerate() {
                let trace = publish.trace.map(|trace| trace.to_string());
                let body = Body {
                    timestamp: publish.timestamp.unwrap_or(now),
                    accepted_at: publish.timestamp.map(|_| now),
                    event: publish.event,
                    key: publish.key,
                    data: &publish.data,
                    trace: trace.as_deref(),
                };
                let Ok(json) = serde_json::to_vec(&body) else { continue };
                let item = Item { json, message_id: publish.message_id, to: (job, index) };
                rooms.entry(publish.room).or_default().push_back(item);
            }
        }
        while !rooms.is_empty() {
            let calls = rooms.iter_mut().map(|(room, waiting)| self.call(room, take(waiting)));
            for (to, answer) in join_all(calls).await.into_iter().flatten() {
                replies[to.0].1[to.1] = answer;
            }
            rooms.retain(|_, waiting| !waiting.is_empty());
        }
        for (reply, answers) in replies {
            let _ = reply.send(answers);
        }
    }

    /// Sends messages to one room.
    async fn call(&self, room: &RoomName, items: Vec<Item>) -> Vec<((usize, usize), Answer)> {
        let result = match self.commands.get() {
            Ok(mut connection) => self.invoke(&mut connection, room, &items).await,
            Err(error) => Err(error),
        };
        match result {
            Ok((epoch, seqs)) => {
                let answers = seqs.into_iter().map(|seq| Ok(Position { epoch: epoch.clone(), seq }));
                items.iter().map(|item| item.to).zip(answers).collect()
            }
            Err(error) => items.iter().map(|item| (item.to, Err(error.clone()))).collect(),
        }
    }

    async fn invoke(
        &self,
        connection: &mut Connection,
        room: &RoomName,
        items: &[Item],
    ) -> Result<(Epoch, Vec<u64>), BrokerError> {
        let class = self.classes.of(room);
        let meta = room_key(room.as_str(), ":meta");
        let mut invocation = self.script.key(&meta);
        invocation.key(room_key(room.as_str(), ":log"));
        let ttl = class.history_ttl_s * 1_000;
        invocation
            .arg(fresh_epoch())
            .arg(ttl + META_EXTRA_MS)
            .arg(class.history_size)
            .arg(ttl)
            .arg(class.idempotency_window_s * 1_000)
            .arg(room_key(room.as_str(), ""))
            .arg(if self.sharded { "SPUBLISH" } else { "PUBLISH" });
        let mut keys = 2;
        for item in items {
            let key = match &item.message_id {
                Some(id) => {
                    invocation.key(room_key(room.as_str(), &format!(":id:{id}")));
                    keys += 1;
                    keys
                }
                None => 0,
            };
            invocation.arg(&item.json).arg(key);
        }
        let answer: RedisResult<Vec<Value>> = invocation.invoke_async(connection).await;
        let answer = answer.map_err(|error| self.commands.failed(&meta, &error))?;
        decode(&answer, items.len()).ok_or_else(|| BrokerError::Damaged("the script answered oddly".into()))
    }
}

/// As many of the first items as one call takes; at least one.
fn take(waiting: &mut VecDeque<Item>) -> Vec<Item> {
    let mut bytes = 0;
    let fits = waiting.iter().take(CALL_MESSAGES).take_while(|item| {
        let fits = bytes < CALL_BYTES;
        bytes += item.json.len();
        fits
    });
    let count = fits.count();
    waiting.drain(..count).collect()
}

fn decode(answer: &[Value], count: usize) -> Option<(Epoch, Vec<u64>)> {
    let (Value::BulkString(epoch), seqs) = answer.split_first()? else { return None };
    let seqs: Option<Vec<u64>> = seqs
        .iter()
        .map(|value| match value {
            Value::Int(seq) => u64::try_from(*seq).ok(),
            _ => None,
        })
        .collect();
    let seqs = seqs.filter(|seqs| seqs.len() == count)?;
    Some((Epoch::new(std::str::from_utf8(epoch).ok()?), seqs))
}
