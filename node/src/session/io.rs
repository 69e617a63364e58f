//! The input and output of one connection, as a future of its actor.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::{ActorContext, ActorFuture, Context};
use bytes::Bytes;
use tickmesh_edge::socket::{Patience, Socket};
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::frame::Assembler;
use tickmesh_protocol::link::{Records, ToNode};
use tickmesh_protocol::session::Reply;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::clock;

use super::{Connection, SessionActor, WRITE_AHEAD, WriteQueue};

/// Bytes read at a time: a connection that pipelines keeps others of its thread waiting for this much work.
const READ: usize = 16 * 1024;
/// Reads in a row before others of the thread have their turn.
const READS: usize = 4;
/// Chunks in one write: more do not make it cheaper.
const CHUNKS: usize = 64;
/// How long a closed connection may take to have its last bytes read.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    /// One buffer for all connections of the thread: an idle one needs none.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

pub(super) struct Io {
    stream: Socket,
    early: Bytes,
    assembler: Assembler,
    /// Where the client's connection is at a gateway: its messages come in records.
    records: Option<Records>,
    out: WriteQueue,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires; it may be early, never late.
    armed: Option<Instant>,
    patience: Patience,
    /// What of it applies now; the socket knows it too.
    stall_timeout: Duration,
    /// Since when the socket took nothing though there was something.
    stalled: Option<Instant>,
    phase: Phase,
    /// What came over the link makes no sense.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The close frame is written; the client has until then to take it.
    Lingering(Instant),
    /// The connection is lost, and taken down then.
    Lost(Instant),
}

/// The connection is over.
struct Over;

impl Io {
    pub(super) fn new(
        connection: Connection,
        max_message: usize,
        patience: Patience,
        only_latest: bool,
    ) -> Self {
        let Connection { stream, early, records } = connection;
        let stall_timeout = patience.with(only_latest);
        if only_latest {
            stream.set_patience(patience, only_latest);
        }
        Self {
            stream,
            early,
            assembler: Assembler::new(max_message),
            records,
            out: WriteQueue::default(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            patience,
            stall_timeout,
            stalled: None,
            phase: Phase::Open,
            broken: false,
        }
    }

    fn turn(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        if let Phase::Lost(until) = self.phase {
            return self.wait(until, cx);
        }
        self.time(act, cx)?;
        if let Phase::Lingering(_) = self.phase {
            return self.linger(cx);
        }
        if self.broken {
            return Err(Over);
        }
        self.read(act, cx)?;
        let held_back = !act.session.wants_input();
        loop {
            run_commands(act, cx);
            self.write(act, cx)?;
            // Answers that were taken may let the client speak again: first with what was read already.
            if !act.session.wants_input() || !self.has_rest() || self.feed(act, &mut []) == 0 {
                break;
            }
        }
        if held_back && act.session.wants_input() {
            // Nobody waits for the socket to become readable: it was not read.
            cx.waker().wake_by_ref();
        }
        if act.session.is_over() && self.out.chunks.is_empty() {
            return self.finish(act, cx);
        }
        self.time(act, cx)
    }

    /// Goes by what the client follows now.
    fn be_patient(&mut self, act: &SessionActor) {
        let only_latest = act.session.only_latest();
        let patience = self.patience.with(only_latest);
        if patience != self.stall_timeout {
            self.stall_timeout = patience;
            self.stream.set_patience(self.patience, only_latest);
        }
    }

    fn has_rest(&self) -> bool {
        self.records.as_ref().map_or(self.assembler.has_rest(), Records::has_rest)
    }

    /// Gives the session what a gateway sent of its client.
    fn feed_records(&mut self, act: &mut SessionActor, input: &[u8]) -> usize {
        let Some(records) = &mut self.records else { return 0 };
        let now = clock::now();
        let session = &mut act.session;
        let (assembler, broken) = (&mut self.assembler, &mut self.broken);
        let mut messages = 0;
        let fed = records.feed_node(input, |record| {
            match record {
                ToNode::Up(number, frames) => {
                    let before = messages;
                    let fed = assembler.feed(frames, |incoming| {
                        messages += 1;
                        session.handle_numbered(now, number, &incoming);
                        true
                    });
                    match fed {
                        Ok(()) => *broken |= messages != before + 1 && !session.is_over(),
                        Err(error) => session.handle_frame_error(error),
                    }
                }
                ToNode::Freeze => session.freeze(),
                ToNode::Ping => {}
                ToNode::Open(_) | ToNode::Attach(_) => *broken = true,
            }
            session.wants_input() && !*broken
        });
        if let Err(error) = fed {
            tracing::warn!(session = %session.id(), %error, "a gateway sent no records");
            self.broken = true;
        }
        self.be_patient(act);
        messages
    }

    /// Gives the session the messages in the input, and says how many there were.
    fn feed(&mut self, act: &mut SessionActor, input: &mut [u8]) -> usize {
        if self.records.is_some() {
            return self.feed_records(act, input);
        }
        let now = clock::now();
        let session = &mut act.session;
        let mut messages = 0;
        let fed = self.assembler.feed(input, |incoming| {
            messages += 1;
            session.handle_incoming(now, &incoming);
            session.wants_input()
        });
        if let Err(error) = fed {
            session.handle_frame_error(error);
        }
        self.be_patient(act);
        messages
    }

    fn read(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        if act.session.wants_input() && self.records.as_ref().is_some_and(Records::has_rest) {
            self.feed(act, &mut []);
        }
        if !self.early.is_empty() {
            let mut early = Vec::from(std::mem::take(&mut self.early));
            act.worker.traffic.received_bytes.add(early.len() as u64);
            self.feed(act, &mut early);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..READS {
                if !act.session.wants_input() {
                    return Ok(());
                }
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        act.worker.traffic.received_bytes.add(buffer.filled().len() as u64);
                        self.feed(act, buffer.filled_mut());
                        run_commands(act, cx);
                    }
                    // The client is gone, or its half of the connection is: nobody reads answers.
                    Poll::Ready(_) => return Err(Over),
                }
            }
            cx.waker().wake_by_ref();
            Ok(())
        })
    }

    /// Writes all that the socket takes, and tells those who wait for it.
    fn write(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        let result = self.write_out(act, cx);
        if !act.witnesses.is_empty() {
            let whole = result.is_ok() && self.stalled.is_none();
            act.witnesses.drain(..).for_each(|witness| witness.written(whole));
        }
        result
    }

    fn write_out(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        let (now, micros) = clock::precise();
        let ahead = act.session.write_ahead(now, WRITE_AHEAD);
        loop {
            while self.out.bytes < ahead && self.out.chunks.len() < CHUNKS {
                match act.session.poll_transmit(now) {
                    Some(chunk) => self.out.push(chunk, act.session.transmitted()),
                    None => break,
                }
            }
            match self.flush(cx) {
                Poll::Ready(Ok(0)) => return self.push_out(cx),
                Poll::Ready(Ok(taken)) => {
                    let (traffic, mut messages) = (&act.worker.traffic, 0);
                    self.out.advance(taken, |mark| {
                        messages += u64::from(mark.messages);
                        traffic.wrote(mark, now, micros);
                    });
                    traffic.write_of(messages);
                    traffic.sent_bytes.add(taken as u64);
                    if self.stalled.take().is_some() {
                        act.session.handle_progress(now);
                    }
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(session = %act.session.id(), %error, "cannot write");
                    return Err(Over);
                }
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            }
        }
    }

    /// Everything was given to the socket; some of it may still wait inside.
    fn push_out(&mut self, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.stalled = None,
            Poll::Ready(Err(_)) => return Err(Over),
            Poll::Pending => {
                self.stalled.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        match self.out.chunks.make_contiguous() {
            [] => Poll::Ready(Ok(0)),
            [(only, _)] => stream.poll_write(cx, only),
            chunks => {
                let mut slices = [IoSlice::new(&[]); CHUNKS];
                let count = chunks.len().min(CHUNKS);
                for (slice, (chunk, _)) in slices.iter_mut().zip(chunks.iter()) {
                    *slice = IoSlice::new(chunk);
                }
                stream.poll_write_vectored(cx, &slices[..count])
            }
        }
    }

    /// Lets the session and this shell do what time calls for, and sets the timer for the next such moment.
    fn time(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        loop {
            let now = clock::now();
            let session = act.session.poll_timeout(now);
            if session.is_some_and(|at| at <= now.mono) {
                act.session.handle_timeout(now);
                self.write(act, cx)?;
                continue;
            }
            let stalled = self.stalled.map(|since| since + self.stall_timeout);
            let lingering = match self.phase {
                Phase::Lingering(until) => Some(until),
                Phase::Open | Phase::Lost(_) => None,
            };
            let session = session.map(clock::instant);
            // The session's deadline is not among these: it may pass between `now` above and here, and is then simply
            // due in the next turn of this loop.
            let end = [stalled, lingering].into_iter().flatten().min();
            if end.is_some_and(|end| end <= Instant::now()) {
                // What is left is a client that takes nothing: there is no way to tell it anything.
                if stalled.is_some_and(|at| at <= Instant::now()) && self.phase == Phase::Open {
                    act.session.close(CloseCode::SlowConsumer);
                }
                return Err(Over);
            }
            let Some(next) = [session, end].into_iter().flatten().min() else { return Ok(()) };
            // An early timer is not moved: most deadlines only move away while it sleeps.
            if self.armed.is_none_or(|armed| armed > next) {
                self.armed = Some(next);
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.armed = None;
        }
    }

    /// The connection is over: it is taken down when its turn comes.
    fn depart(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        if let Phase::Lost(_) = self.phase {
            return Err(Over);
        }
        let Some(until) = act.worker.exits.turn(Instant::now()) else { return Err(Over) };
        act.lose();
        (self.phase, self.out) = (Phase::Lost(until), WriteQueue::default());
        self.timer.as_mut().reset(until);
        self.wait(until, cx)
    }

    fn wait(&mut self, until: Instant, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        if self.timer.as_mut().poll(cx).is_ready() || until <= Instant::now() { Err(Over) } else { Ok(()) }
    }

    /// Everything is written: says so to the peer, and waits until it has read it.
    fn finish(&mut self, act: &mut SessionActor, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        if Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
            self.phase = Phase::Lingering(Instant::now() + LINGER);
            self.stalled = None;
            self.time(act, cx)?;
            return self.linger(cx);
        }
        Ok(())
    }

    /// Reads on and forgets: closing a socket with unread bytes would reset it, and the peer might lose the close frame.
    fn linger(&mut self, cx: &mut TaskContext<'_>) -> Result<(), Over> {
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..READS {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Err(Over),
                }
            }
            cx.waker().wake_by_ref();
            Ok(())
        })
    }
}

/// Has others do what the session asks for, and gives it their answers.
fn run_commands(act: &mut SessionActor, cx: &mut TaskContext<'_>) {
    loop {
        if let Some(key) = act.key {
            while let Some((ticket, command)) = act.session.poll_command() {
                act.effects.start(&act.worker, key, ticket, command);
            }
        }
        match act.effects.poll(&act.worker, cx) {
            Poll::Ready((ticket, reply)) => {
                let identified = matches!(reply, Reply::Identity(Ok(_)));
                act.session.handle_reply(clock::now(), ticket, reply);
                if identified && let Some(key) = act.key {
                    act.worker.hub.identify(key, act.session.identity());
                    act.claim();
                }
            }
            Poll::Pending => return,
        }
    }
}

impl ActorFuture<SessionActor> for Io {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        act: &mut SessionActor,
        ctx: &mut Context<SessionActor>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        act.worker.policies.apply(&mut act.session);
        let turn = self.turn(act, cx).or_else(|Over| self.depart(act, cx));
        act.stalled = self.stalled;
        act.count(&self.stream);
        match turn {
            Ok(()) => Poll::Pending,
            Err(Over) => {
                ctx.stop();
                Poll::Ready(())
            }
        }
    }
}
