//! What a session asks others to do: calls to the hub, the broker and the verifier, and their answers.
//!
//! Invariants: one batch of publishes is under way at a time, so that a session's publishes keep their order, and those
//! that come meanwhile leave together; the number of calls is bounded by the session's own limit.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use futures_util::stream::{FuturesUnordered, Stream};
use rustc_hash::FxHashSet;
use tickmesh_protocol::error::Failure;
use tickmesh_protocol::message::Publish;
use tickmesh_protocol::room::RoomName;
use tickmesh_protocol::session::{Command, Reply, Ticket};
use tickmesh_telemetry::trace::Active;

use crate::hub::MemberKey;
use crate::market;
use crate::stitch::stitch;
use crate::trace;
use crate::worker::Worker;

type Answers = Vec<(Ticket, Reply)>;
type Call = Pin<Box<dyn Future<Output = Answers>>>;

/// The calls of one session.
#[derive(Default)]
pub(crate) struct Effects {
    /// None while there is none: most of the time.
    calls: Option<FuturesUnordered<Call>>,
    publishing: Option<Call>,
    queued: Vec<(Ticket, Publish, Option<Box<Active>>)>,
    answers: VecDeque<(Ticket, Reply)>,
    /// Rooms in which the hub knows the session.
    rooms: FxHashSet<RoomName>,
}

impl Effects {
    /// The rooms that are to be left when the session ends.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.iter()
    }

    fn call(&mut self, call: impl Future<Output = Answers> + 'static) {
        self.calls.get_or_insert_default().push(Box::pin(call));
    }

    /// Begins to do what a session asks.
    pub(crate) fn start(&mut self, worker: &Rc<Worker>, key: MemberKey, ticket: Ticket, command: Command) {
        match command {
            Command::Publish(mut publish) => match market::check(&worker.policy.classes, &publish) {
                Ok(()) => {
                    let span = trace::session(&worker.policy.node_id, &mut publish);
                    self.queued.push((ticket, publish, span));
                }
                Err(failure) => {
                    worker.metrics.refused_to_publish();
                    self.answers.push_back((ticket, Reply::Published(Err(failure))));
                }
            },
            Command::Unsubscribe(room) => {
                if self.rooms.remove(&room) {
                    worker.hub.leave(key, &room);
                }
            }
            Command::Subscribe { room, replay, backfill } => {
                self.rooms.insert(room.clone());
                let joined = worker.hub.join(key, &room);
                let worker = worker.clone();
                self.call(async move {
                    // Register first, then read: what comes between is held at the session's gate.
                    let broker = &worker.broker;
                    let reply = match (joined.await, backfill) {
                        (Err(error), _) => Reply::History(Err(error.into())),
                        (Ok(()), None) => {
                            Reply::History(broker.history(&room, replay).await.map_err(Failure::from))
                        }
                        (Ok(()), Some(backfill)) => {
                            let (broker, stores) = (broker.clone(), worker.stores.clone());
                            let stitched =
                                async move { stitch(&*broker, &stores, &room, replay, backfill).await };
                            Reply::Stitched(worker.reads.run(stitched).await)
                        }
                    };
                    vec![(ticket, reply)]
                });
            }
            Command::History { room, replay } => {
                let broker = worker.broker.clone();
                self.call(async move {
                    let result = broker.history(&room, replay).await;
                    vec![(ticket, Reply::History(result.map_err(Failure::from)))]
                });
            }
            Command::Presence(room) => {
                let worker = worker.clone();
                self.call(async move {
                    let presence = worker.presence(&room).await;
                    vec![(ticket, Reply::Presence(Ok(presence)))]
                });
            }
            Command::Ask { user_id, ask } => {
                let worker = worker.clone();
                self.call(async move { vec![(ticket, Reply::Data(worker.answer(&user_id, ask).await))] });
            }
            Command::Missed(user_id) => {
                let worker = worker.clone();
                self.call(async move { vec![(ticket, Reply::Missed(worker.missed(&user_id).await))] });
            }
            Command::Unpark(name) => {
                let worker = worker.clone();
                self.call(async move {
                    let parked = worker.peers.unpark(&name).await;
                    vec![(ticket, Reply::Parked(parked.map(Box::new)))]
                });
            }
            Command::Identify(credential) => {
                let result = worker.auth.identify(credential.as_deref(), crate::clock::now().utc);
                if result.is_err() {
                    worker.metrics.refused("authentication");
                }
                self.answers.push_back((ticket, Reply::Identity(result.map_err(Failure::from))));
            }
            Command::Authenticate(token) => {
                let result = worker.auth.verify(&token, crate::clock::now().utc);
                self.answers.push_back((ticket, Reply::Identity(result.map_err(Failure::from))));
            }
        }
    }

    /// The next answer.
    pub(crate) fn poll(&mut self, worker: &Rc<Worker>, cx: &mut TaskContext<'_>) -> Poll<(Ticket, Reply)> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                if self.answers.is_empty() {
                    self.answers = VecDeque::new();
                }
                return Poll::Ready(answer);
            }
            if self.publishing.is_none() && !self.queued.is_empty() {
                self.publishing = Some(publish(worker, std::mem::take(&mut self.queued)));
            }
            if let Some(call) = &mut self.publishing
                && let Poll::Ready(answers) = call.as_mut().poll(cx)
            {
                self.publishing = None;
                self.answers.extend(answers);
                continue;
            }
            let Some(calls) = &mut self.calls else { return Poll::Pending };
            match Pin::new(calls).poll_next(cx) {
                Poll::Ready(Some(answers)) => self.answers.extend(answers),
                Poll::Ready(None) => self.calls = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn publish(worker: &Rc<Worker>, queued: Vec<(Ticket, Publish, Option<Box<Active>>)>) -> Call {
    let worker = worker.clone();
    Box::pin(async move {
        let mut spans = Vec::new();
        let (tickets, messages): (Vec<_>, Vec<_>) = queued
            .into_iter()
            .map(|(ticket, publish, span)| {
                spans.extend(span);
                (ticket, publish)
            })
            .unzip();
        let results = worker.publish(messages).await;
        let replies = results.into_iter().map(|result| Reply::Published(result.map_err(Failure::from)));
        tickets.into_iter().zip(replies).collect()
    })
}
