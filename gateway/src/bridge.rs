//! One client: its connection, its relay, and the link to the node that has its session.
//!
//! Invariants: a link is listened to only while it has the session; bytes for the client are bounded, and when they are
//! many the link is not read, so that the backlog stays at the node; a client that takes nothing is closed.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tickmesh_edge::guard::Action;
use tickmesh_edge::limits::{ConnectionGuard, RETRY_SPREAD_MS, SHED_LEAST_MS, SHED_SPREAD_MS};
use tickmesh_edge::metrics::{Transport, Way};
use tickmesh_edge::socket::Socket;
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::encode::{self, Encoding};
use tickmesh_protocol::frame::put_close;
use tickmesh_protocol::link::{Open, Records};
use tickmesh_protocol::relay::{Relay, Step};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::metrics::{Cause, LinkFailure, Traffic};
use crate::nodes::{Node, Placed, State};
use crate::server::{Worker, utc};

/// Bytes that may wait for the client, or for the node.
const MAX_WAITING: usize = 64 * 1024;
/// Bytes read at a time.
const READ: usize = 64 * 1024;
/// For how long a client is new: what it is told is that it is connected, and follows.
const NEW: Duration = Duration::from_secs(2);
/// How long a node may take to let go before it counts as lost.
const FREEZE: Duration = Duration::from_secs(1);
/// How long a client waits for a node before it is sent away.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait between attempts to find a node.
const RETRY: Duration = Duration::from_millis(20);
/// How long a closed connection may take to have its last bytes read.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    /// One buffer for all connections of the thread.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A held connection.
pub(crate) struct Bridge {
    worker: Rc<Worker>,
    client: Socket,
    counted: Counted,
    encoding: Encoding,
    relay: Relay,
    /// What the session is placed by, if not by load.
    key: Option<String>,
    to_client: BytesMut,
    /// Since when no node has the session, and why; until the next one says something.
    pause: Option<(Instant, Cause)>,
    /// When the client is sent away, once the gateway stops.
    parting: Option<Instant>,
    place: Option<ConnectionGuard>,
}

/// A client in the thread's counters.
struct Counted {
    traffic: Arc<Traffic>,
    way: Way,
    since: Instant,
    /// Bytes that wait for it or for its node.
    waiting: u64,
}

impl Counted {
    fn new(traffic: Arc<Traffic>, socketio: bool, client: &Socket) -> Self {
        let transport = if client.is_polling() { Transport::Polling } else { Transport::WebSocket };
        let way = Way { socketio, transport };
        traffic.clients.of(way).add(1);
        traffic.open.of(way).add(1);
        Self { traffic, way, since: Instant::now(), waiting: 0 }
    }

    fn waits(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if bytes != self.waiting {
            self.traffic.waiting_bytes.take(std::mem::replace(&mut self.waiting, bytes));
            self.traffic.waiting_bytes.add(bytes);
        }
    }

    fn received(&self, bytes: usize) {
        self.traffic.received_bytes.add(bytes as u64);
    }

    fn sent(&mut self, bytes: usize, client: &Socket) {
        self.traffic.sent_bytes.add(bytes as u64);
        if bytes > 0 && self.since.elapsed() >= NEW {
            self.traffic.writes.add(1);
        }
        // From long-polling to a WebSocket.
        if self.way.transport == Transport::Polling && !client.is_polling() {
            self.traffic.open.of(self.way).take(1);
            self.way.transport = Transport::WebSocket;
            self.traffic.open.of(self.way).add(1);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.traffic.open.of(self.way).take(1);
        self.waits(0);
    }
}

/// A link that is ours.
struct Link {
    socket: Socket,
    node: Arc<Node>,
    _placed: Placed,
}

/// How the time with a link ended.
enum End {
    /// The client is gone.
    Client,
    /// The client is to be closed when it has everything.
    Close,
    /// The node is lost, or does not want the session.
    Lost,
    /// The node let go, or did not in time; this is the next.
    Moved(Box<Link>),
}

impl Bridge {
    pub(crate) fn new(
        worker: Rc<Worker>,
        client: Socket,
        open: Open,
        key: Option<String>,
        guard: ConnectionGuard,
    ) -> Self {
        let encoding = open.encoding;
        let counted = Counted::new(worker.traffic.clone(), open.socketio.is_some(), &client);
        let relay = Relay::new(open, worker.max_message);
        let to_client = BytesMut::new();
        Self {
            worker,
            client,
            counted,
            encoding,
            relay,
            key,
            to_client,
            pause: None,
            parting: None,
            place: Some(guard),
        }
    }

    /// Serves the client to its end.
    pub(crate) async fn run(mut self, early: &[u8]) {
        self.counted.received(early.len());
        let mut end = match self.relay.handle_client(early, &mut BytesMut::new()) {
            Ok(()) => End::Lost,
            Err(error) => self.close(error.close_code()),
        };
        let mut avoid: Option<String> = None;
        loop {
            let link = match end {
                End::Client => return,
                End::Close => break,
                End::Moved(link) => *link,
                End::Lost => match self.find(avoid.as_deref()).await {
                    Some(link) => link,
                    None => {
                        let stopping = *self.worker.stopping.borrow();
                        end = if stopping {
                            self.go_away()
                        } else {
                            self.worker.metrics.refused("no node");
                            self.close(CloseCode::Overloaded)
                        };
                        continue;
                    }
                },
            };
            let node = link.node.id.clone();
            end = self.live(link).await;
            if matches!(end, End::Lost) {
                self.relay.detach();
                avoid = Some(node);
                self.pause.get_or_insert_with(|| (Instant::now(), Cause::Takeover));
            }
        }
        part(self.client, &self.to_client, self.worker.patience.with(false)).await;
    }

    /// A link to a node that takes sessions, as long as the client may be made to wait for it.
    async fn find(&self, avoid: Option<&str>) -> Option<Link> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !*self.worker.stopping.borrow() {
            if let Some(link) = self.worker.link(avoid, self.key.as_deref()).await {
                return Some(link);
            }
            sleep(RETRY).await;
        }
        None
    }

    /// The client is gone: its place is free at once, and the rest goes when its turn comes.
    async fn lost(&mut self) -> End {
        self.place = None;
        if let Some(at) = self.worker.exits.turn(Instant::now()) {
            sleep_until(at).await;
        }
        End::Client
    }

    fn close(&mut self, code: CloseCode) -> End {
        put_close(&mut self.to_client, code.code(), code.reason());
        End::Close
    }

    /// The client is to come back, somewhere else and not at the same time as all others.
    fn go_away(&mut self) -> End {
        self.send_away(rand::random_range(0..=RETRY_SPREAD_MS), CloseCode::GoingAway)
    }

    /// It is to come back when there may be memory for it.
    fn shed(&mut self) -> End {
        self.send_away(SHED_LEAST_MS + rand::random_range(0..=SHED_SPREAD_MS), CloseCode::Overloaded)
    }

    fn send_away(&mut self, retry_after: u64, code: CloseCode) -> End {
        let hint = encode::going_away(self.encoding, retry_after, utc());
        self.to_client.extend_from_slice(&encode::frame_json(&hint, self.encoding));
        self.close(code)
    }

    /// Hands on in both directions until something ends it.
    async fn live(&mut self, link: Link) -> End {
        let Link { socket: mut node, node: at, _placed } = link;
        let mut to_node = BytesMut::new();
        self.relay.attach(&mut to_node);
        let mut records = Records::default();
        let mut state = at.state();
        let (mut stopping, mut shedding) = (self.worker.stopping.clone(), self.worker.shedding.clone());
        let moving = at.moves.clone().acquire_owned();
        tokio::pin!(moving);
        let mut preparing: Option<Pin<Box<dyn Future<Output = Option<Link>>>>> = None;
        let mut target: Option<(Link, Instant)> = None;
        let mut stalled: Option<Instant> = None;
        let mut worked = false;
        if *state.borrow_and_update() == State::Dead {
            return End::Lost;
        }
        let mut patience = self.worker.patience.with(false);
        loop {
            let wanted = self.worker.patience.with(self.relay.only_latest());
            if wanted != patience {
                patience = wanted;
                self.client.set_patience(self.worker.patience, self.relay.only_latest());
            }
            let waiting = self.to_client.len();
            let Ok(client_has_all) = drain(&mut self.client, &mut self.to_client, &mut stalled) else {
                return self.lost().await;
            };
            self.counted.sent(waiting - self.to_client.len(), &self.client);
            let Ok(node_has_all) = drain(&mut node, &mut to_node, &mut None) else { return lost(target) };
            self.counted.waits(self.to_client.capacity() + to_node.capacity());
            let give_up = [target.as_ref().map(|(_, at)| *at), stalled.map(|at| at + patience), self.parting];
            let give_up = give_up.into_iter().flatten().min();
            let hears_client = self.relay.wants_input() && to_node.len() < MAX_WAITING;
            tokio::select! {
                ready = self.client.readable(), if hears_client => {
                    let Ok(Some(read)) = ready.and_then(|()| receive(&mut self.client)) else {
                        return self.lost().await;
                    };
                    self.counted.received(read.len());
                    if let Err(error) = self.relay.handle_client(&read, &mut to_node) {
                        return self.close(error.close_code());
                    }
                }
                ready = node.readable(), if self.to_client.len() < MAX_WAITING => {
                    let Ok(Some(read)) = ready.and_then(|()| receive(&mut node)) else {
                        if !worked {
                            at.failed();
                        }
                        return lost(target);
                    };
                    if target.is_none() && !read.is_empty() && let Some((since, cause)) = self.pause.take() {
                        self.worker.metrics.paused(cause, since.elapsed());
                    }
                    let (relay, to_client) = (&mut self.relay, &mut self.to_client);
                    let mut step = Step::Continue;
                    let fed = records.feed_gateway(&read, |record| {
                        step = relay.handle_node(record, to_client);
                        step == Step::Continue
                    });
                    if let Err(error) = fed {
                        tracing::warn!(node = at.id, %error, "a node sent no records");
                        self.worker.metrics.bad_links.inc();
                        at.failed();
                        return lost(target);
                    }
                    if !worked && !read.is_empty() && !matches!(step, Step::Refused(_)) {
                        worked = true;
                        at.worked();
                    }
                    match step {
                        Step::Continue => {}
                        Step::Ended => return End::Close,
                        Step::Frozen => return lost(target),
                        Step::Refused(reason) => {
                            tracing::debug!(node = at.id, reason, "a node refused a session");
                            self.worker.metrics.link_failed(LinkFailure::Refused);
                            at.failed();
                            sleep(RETRY).await;
                            return End::Lost;
                        }
                    }
                }
                _ = self.client.writable(), if !client_has_all => {}
                _ = node.writable(), if !node_has_all => {}
                _ = state.changed() => if *state.borrow_and_update() == State::Dead { return lost(target) },
                permit = &mut moving, if target.is_none() && preparing.is_none() => {
                    if let Ok(permit) = permit {
                        permit.forget();
                    }
                    // Everything goes on while the next link is made.
                    let (worker, than, key) = (self.worker.clone(), at.clone(), self.key.clone());
                    preparing = Some(Box::pin(async move { worker.next(&than, key.as_deref()).await }));
                }
                link = ready(&mut preparing), if preparing.is_some() => {
                    preparing = None;
                    if let Some(link) = link {
                        target = Some((link, Instant::now() + FREEZE));
                        self.relay.freeze(&mut to_node);
                        self.pause.get_or_insert_with(|| (Instant::now(), Cause::Move));
                    } else {
                        moving.set(at.moves.clone().acquire_owned());
                    }
                }
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => {
                    if stalled.is_some_and(|at| at.elapsed() >= patience) {
                        self.worker.traffic.slow.add(1);
                        return self.lost().await;
                    }
                    if self.parting.is_some_and(|at| at <= Instant::now()) {
                        return self.go_away();
                    }
                    // What the node still sends is not listened to any more.
                    return lost(target);
                }
                Ok(()) = shedding.changed() => {
                    let round = *shedding.borrow_and_update();
                    let heavy = self.to_client.len() >= MAX_WAITING / 2;
                    if !round.closes(heavy) {
                        continue;
                    }
                    self.worker.memory.did(Action::Shed, 1);
                    // Who is behind by so much is not told: that would have to wait behind it.
                    return if heavy { self.lost().await } else { self.shed() };
                }
                _ = stopping.changed(), if self.parting.is_none() => {
                    self.parting = Some(Instant::now() + self.worker.parting());
                }
            }
        }
    }
}

/// Writes what is left, and lets the client read it.
pub(crate) async fn part(mut client: Socket, last: &[u8], patience: Duration) {
    let write = async {
        client.write_all(last).await?;
        client.shutdown().await?;
        io::Result::Ok(())
    };
    if !matches!(timeout(patience, write).await, Ok(Ok(()))) {
        return;
    }
    // Closing a socket with unread bytes would reset it, and the client might lose the close frame.
    let _ = timeout(LINGER, async {
        while let Ok(()) = client.readable().await {
            if !matches!(receive(&mut client), Ok(Some(_))) {
                return;
            }
        }
    })
    .await;
}

impl Worker {
    /// A link to a node that takes sessions.
    async fn link(&self, avoid: Option<&str>, key: Option<&str>) -> Option<Link> {
        self.link_to(self.nodes.choose(avoid, key)?).await
    }

    /// A link to the node to which a session of this one should move.
    async fn next(&self, than: &Node, key: Option<&str>) -> Option<Link> {
        self.link_to(self.nodes.choose_next(than, key)?).await
    }

    async fn link_to(&self, node: Arc<Node>) -> Option<Link> {
        let placed = node.place();
        match self.pool.link(&node).await {
            Ok(socket) => Some(Link { socket, node, _placed: placed }),
            Err(error) => {
                tracing::debug!(node = node.id, %error, "no link");
                self.metrics.link_failed(LinkFailure::Connect);
                node.failed();
                None
            }
        }
    }
}

/// The end of a future that is there.
async fn ready<T>(future: &mut Option<Pin<Box<dyn Future<Output = T>>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The node is left: for the target, if there is one.
fn lost(target: Option<(Link, Instant)>) -> End {
    target.map_or(End::Lost, |(link, _)| End::Moved(Box::new(link)))
}

/// Writes what the socket takes, and says whether that was all; `stalled` is since when it takes nothing though there is
/// something.
fn drain(socket: &mut Socket, bytes: &mut BytesMut, stalled: &mut Option<Instant>) -> io::Result<bool> {
    let mut written = || {
        while !bytes.is_empty() {
            let taken = socket.try_write(bytes)?;
            bytes.advance(taken);
            *stalled = None;
        }
        socket.try_flush()
    };
    match written() {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            stalled.get_or_insert_with(Instant::now);
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    if bytes.capacity() > 0 {
        *bytes = BytesMut::new();
    }
    *stalled = None;
    Ok(true)
}

/// What can be read now, perhaps nothing; `None` at the end.
fn receive(socket: &mut Socket) -> io::Result<Option<Vec<u8>>> {
    SCRATCH.with_borrow_mut(|scratch| match socket.try_read(scratch) {
        Ok(0) => Ok(None),
        Ok(read) => Ok(Some(scratch[..read].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    })
}
