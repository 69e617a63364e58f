//! Subscribers that hardly read or do not read at all: they must not move the others, and the server must end them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Closed, Connection};
use crate::clock::{Clock, seconds};
use crate::opening::Errors;
use crate::procstat;
use crate::report::Report;
use crate::scan::{self, Item};

/// The kernel's receive buffer of such a subscriber, in bytes: small, so that the server notices soon.
pub(crate) const RECEIVE_BUFFER: u32 = 4096;
/// Time for a subscription.
const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(10);
/// Reading what is left takes no longer than this for each connection.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// How often the sockets' state is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// One such subscriber.
struct Stalled {
    connection: Connection,
    /// Its address and the server's.
    ends: (SocketAddr, SocketAddr),
    /// Reads a byte a second.
    trickle: bool,
    closed_ns: Option<u64>,
}

/// All of them.
pub(crate) struct StalledGroup {
    clock: Clock,
    members: RefCell<Vec<Stalled>>,
    /// Since when messages come.
    start_ns: Cell<u64>,
    stop: Cell<bool>,
}

impl StalledGroup {
    pub(crate) fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            clock,
            members: RefCell::default(),
            start_ns: Cell::new(clock.now_ns()),
            stop: Cell::new(false),
        })
    }

    /// Subscribes and then stops reading.
    pub(crate) async fn add(
        &self,
        mut connection: Connection,
        subscribe: &str,
        trickle: bool,
    ) -> anyhow::Result<()> {
        connection.out().text(subscribe.as_bytes());
        let subscribed = poll_fn(|cx| {
            let mut done = false;
            let closed = connection.poll_io(cx, |text, _, _| {
                let look = |item: Item<'_>| {
                    done |= matches!(item, Item::Other(envelope) if envelope.kind == "response");
                };
                done |= scan::parse(text, look).is_err();
            });
            match closed {
                Poll::Ready(closed) => Poll::Ready(Err(closed)),
                Poll::Pending if done => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        });
        tokio::time::timeout(SUBSCRIBE_DEADLINE, subscribed).await??;
        let ends = (connection.local_addr()?, connection.peer_addr()?);
        self.members.borrow_mut().push(Stalled { connection, ends, trickle, closed_ns: None });
        Ok(())
    }

    /// Lets time count from now, and watches for closes until [`finish`](Self::finish).
    pub(crate) fn start(self: &Rc<Self>) {
        self.start_ns.set(self.clock.now_ns());
        if !self.members.borrow().is_empty() {
            tokio::task::spawn_local(self.clone().watch());
        }
    }

    async fn watch(self: Rc<Self>) {
        let mut rounds = 0u32;
        while !self.stop.get() {
            tokio::time::sleep(WATCH_INTERVAL).await;
            // A socket that is not read does not tell that the other side closed it; the kernel's table does. It is
            // long, so it is read on another thread.
            let Ok(sockets) = tokio::task::spawn_blocking(procstat::tcp_sockets).await else { return };
            rounds += 1;
            let now = self.clock.now_ns();
            for member in self.members.borrow_mut().iter_mut().filter(|member| member.closed_ns.is_none()) {
                let ended = rounds.is_multiple_of(4)
                    && member.trickle
                    && member.connection.trickle().is_some_and(|read| read.is_err());
                if ended || !procstat::established(&sockets, member.ends.0, member.ends.1) {
                    member.closed_ns = Some(now);
                }
            }
        }
    }

    /// Reads what is left, for the close codes, and reports.
    pub(crate) async fn finish(&self, report: &mut Report) {
        self.stop.set(true);
        let members = self.members.take();
        for (trickle, key, label) in
            [(false, "slow", "subscribers that never read"), (true, "trickle", "subscribers at 1 byte/s")]
        {
            let count = members.iter().filter(|member| member.trickle == trickle).count();
            if count == 0 {
                continue;
            }
            let mut after: Vec<f64> = members
                .iter()
                .filter(|member| member.trickle == trickle)
                .filter_map(|member| Some(seconds(self.start_ns.get(), member.closed_ns?)))
                .collect();
            after.sort_by(f64::total_cmp);
            let span = match (after.first(), after.last()) {
                (Some(first), Some(last)) => format!(", after {first:.1} to {last:.1} s"),
                _ => String::new(),
            };
            let text = format!("{count}, of which the server closed {}{span}", after.len());
            let value = json!({"count": count, "closed": after.len(), "closed_after_s": after});
            report.entry(key, label, value, text);
        }
        let mut reading: JoinSet<String> = JoinSet::new();
        for member in members.into_iter().filter(|member| member.closed_ns.is_some()) {
            reading.spawn_local(last_words(member.connection));
        }
        let mut codes = Errors::new();
        for code in reading.join_all().await {
            *codes.entry(code).or_default() += 1;
        }
        if !codes.is_empty() {
            let text: Vec<_> = codes.iter().map(|(code, count)| format!("{code}: {count}")).collect();
            report.entry("stalled_closes", "how they were closed", Value::from_iter(codes), text.join("\n"));
        }
    }
}

/// How a connection ended, after all that was still on its way.
async fn last_words(mut connection: Connection) -> String {
    let closed: Result<Closed, _> =
        tokio::time::timeout(DRAIN_DEADLINE, poll_fn(|cx| connection.poll_io(cx, |_, _, _| {}))).await;
    closed.map_or_else(|_| "no close frame".to_owned(), |closed| closed.to_string())
}
