//! Subscribers that are all dropped at the same moment, as when a network or a proxy comes back, and return at once: each asks for
//! what it missed, and none may miss anything.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::check::{Delivery, SequenceCheck, Violations};
use crate::client::{Closed, Connection};
use crate::clock::seconds;
use crate::opening::{Errors, Opener, wait_until};
use crate::report::{Latency, Report};
use crate::scan::{self, Envelope, Item};

/// Time for the first subscriptions.
const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(30);
/// How long is waited for those who have not come back when the measurement ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last message may take.
const LAST_MESSAGE: Duration = Duration::from_secs(10);
/// The shortest and the longest wait after a first attempt that was refused; doubled up to five times.
const BACKOFF_MS: std::ops::Range<u64> = 100..400;

/// What the response to `subscribe` says beyond the rest.
#[derive(Deserialize)]
struct Begun {
    epoch: String,
    seq: u64,
    recovered: bool,
    #[serde(default)]
    messages: Vec<Missed>,
}

#[derive(Deserialize)]
struct Missed {
    seq: u64,
}

/// One of them.
#[derive(Debug, Default)]
struct Returner {
    room: usize,
    epoch: String,
    check: Option<SequenceCheck>,
    /// Has its subscription, the second one after the drop.
    ready: bool,
    /// When it was back.
    back_ns: Option<u64>,
    unrecovered: bool,
    closed: Option<Closed>,
    error: Option<String>,
}

/// All of them, as the run sees them: they live on a thread of their own, so that what they cost when they all return is not taken
/// for what those who stayed had to wait.
pub(crate) struct ReturningGroup {
    orders: mpsc::Sender<Order>,
    all_back: Arc<AtomicBool>,
    /// What those who stayed waited before the drop, and until all were back.
    before: RefCell<Option<Latency>>,
    during: RefCell<Option<Latency>>,
}

/// What the run asks of the thread.
enum Order {
    /// Drop all connections.
    Drop,
    /// Say how it went, where these are the last `seq` of the rooms.
    Finish(Vec<u64>, oneshot::Sender<Outcome>),
}

/// How it went.
struct Outcome {
    members: u64,
    /// Seconds after the drop at which each was back, sorted.
    back: Vec<f64>,
    refused: Errors,
    unrecovered: u64,
    found: Violations,
    wrong: Errors,
}

impl ReturningGroup {
    /// Opens and subscribes so many, with the request of each room.
    ///
    /// # Errors
    /// When not all could.
    pub(crate) async fn open(opener: &Opener, count: usize, requests: Vec<String>) -> anyhow::Result<Self> {
        let (orders, inbox) = mpsc::channel(1);
        let (ready, opened) = oneshot::channel();
        let all_back = Arc::new(AtomicBool::new(false));
        let (told, targets) = (all_back.clone(), opener.targets.to_vec());
        let (clock, concurrency) = (opener.clock, opener.concurrency);
        std::thread::Builder::new().name("returning".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            let Ok(runtime) = runtime else { return };
            let opener = Opener { targets: targets.into(), clock, concurrency, receive_buffer: None };
            runtime.block_on(Crowd::new(opener, told).serve(count, requests, ready, inbox));
        })?;
        match opened.await {
            Ok(Ok(true)) => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(false)) | Err(_) => bail!("not all of those who shall return could subscribe"),
        }
        Ok(Self { orders, all_back, before: RefCell::default(), during: RefCell::default() })
    }

    /// Drops all connections. `latency` is of those who stay, and begins anew here and when all are back.
    pub(crate) async fn drop_all(self: Rc<Self>, latency: Rc<RefCell<Latency>>) {
        *self.before.borrow_mut() = Some(latency.replace(Latency::new()));
        // A thread that has ended is told of in the end.
        let _ = self.orders.send(Order::Drop).await;
        wait_until(PATIENCE, || self.all_back.load(Ordering::Relaxed)).await;
        *self.during.borrow_mut() = Some(latency.replace(Latency::new()));
    }

    /// Says how it went, where these are the last `seq` of the rooms, and `latency` that of those who stayed since all were back.
    pub(crate) async fn finish(&self, latency: &RefCell<Latency>, last: Vec<u64>, report: &mut Report) {
        let (answer, outcome) = oneshot::channel();
        let _ = self.orders.send(Order::Finish(last, answer)).await;
        let Ok(outcome) = outcome.await else {
            return report.check(false, "the thread of those who return has ended");
        };
        let Outcome { members, back, refused, unrecovered, found, wrong } = outcome;
        report.count("returning", "subscribers dropped at once", members);
        report.must_be_zero("not_back", "of them not back", members - back.len() as u64);
        report.number("half_back_s", "half of them back after", back.get(back.len() / 2).copied(), "s");
        report.number("all_back_s", "all of them back after", back.last().copied(), "s");
        let text: Vec<_> = refused.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let text = if text.is_empty() { "none".to_owned() } else { text.join("\n") };
        report.entry("refused_attempts", "attempts refused meanwhile", serde_json::json!(refused), text);
        report.must_be_zero("unrecovered", "of them not recovered", unrecovered);
        report.must_be_zero("returning_lost", "messages lost to them", found.lost);
        report.must_be_zero("returning_duplicated", "messages doubled to them", found.duplicated);
        report.must_be_zero("returning_out_of_order", "messages out of order to them", found.out_of_order);
        report.errors("returning_failed", "of them closed, or answered by an error", &wrong);
        for (key, label, latency) in [
            ("before_ms", "publish to receive for the others, before", &self.before),
            ("during_ms", "until all were back", &self.during),
        ] {
            if let Some(latency) = &*latency.borrow() {
                report.latency(key, label, latency);
            }
        }
        report.latency("after_ms", "and after that", &latency.borrow());
    }
}

/// All of them, on their thread.
struct Crowd {
    opener: Opener,
    members: RefCell<Vec<Rc<RefCell<Returner>>>>,
    dropped: watch::Sender<bool>,
    dropped_ns: Cell<u64>,
    back: Cell<usize>,
    all_back: Arc<AtomicBool>,
    refused: RefCell<Errors>,
}

impl Crowd {
    fn new(opener: Opener, all_back: Arc<AtomicBool>) -> Rc<Self> {
        Rc::new(Self {
            opener,
            members: RefCell::default(),
            dropped: watch::Sender::new(false),
            dropped_ns: Cell::new(0),
            back: Cell::new(0),
            all_back,
            refused: RefCell::default(),
        })
    }

    async fn serve(
        self: Rc<Self>,
        count: usize,
        requests: Vec<String>,
        ready: oneshot::Sender<anyhow::Result<bool>>,
        mut inbox: mpsc::Receiver<Order>,
    ) {
        let opened = self.open(count, requests).await;
        let _ = ready.send(opened);
        while let Some(order) = inbox.recv().await {
            match order {
                Order::Drop => {
                    self.dropped_ns.set(self.opener.clock.now_ns());
                    self.dropped.send_replace(true);
                }
                Order::Finish(last, answer) => {
                    let _ = answer.send(self.finish(&last).await);
                }
            }
        }
    }

    /// False if not all could subscribe.
    async fn open(self: &Rc<Self>, count: usize, requests: Vec<String>) -> anyhow::Result<bool> {
        let (rooms, requests) = (requests.len(), Rc::new(requests));
        let member = |number| Rc::new(RefCell::new(Returner { room: number % rooms, ..Returner::default() }));
        let members: Vec<_> = (0..count).map(member).collect();
        *self.members.borrow_mut() = members.clone();
        let crowd = self.clone();
        let opened = move |number: usize, connection| {
            let (state, requests) = (members[number].clone(), requests.clone());
            tokio::task::spawn_local(crowd.clone().live(state, requests, number, connection));
        };
        let refused = self.opener.open_all(count, |number| number, opened).await?;
        let ready = || self.members.borrow().iter().all(|member| member.borrow().ready);
        Ok(refused.is_empty() && wait_until(SUBSCRIBE_DEADLINE, ready).await)
    }

    async fn live(
        self: Rc<Self>,
        state: Rc<RefCell<Returner>>,
        requests: Rc<Vec<String>>,
        number: usize,
        mut connection: Connection,
    ) {
        let room = state.borrow().room;
        let mut dropped = self.dropped.subscribe();
        connection.out().text(requests[room].as_bytes());
        let first =
            poll_fn(|cx| connection.poll_io(cx, |text, now, _| state.borrow_mut().receive(text, now)));
        tokio::select! {
            closed = first => {
                state.borrow_mut().closed = Some(closed);
                return;
            }
            _ = dropped.wait_for(|dropped| *dropped) => {}
        }
        drop(connection);
        let mut connection = self.open_again(number).await;
        let again = state.borrow_mut().come_back(&requests[room]);
        connection.out().text(again.as_bytes());
        let mut waited_for = true;
        let closed = poll_fn(|cx| {
            let result = connection.poll_io(cx, |text, now, _| state.borrow_mut().receive(text, now));
            if waited_for && state.borrow().back_ns.is_some() {
                waited_for = false;
                self.back.set(self.back.get() + 1);
                self.all_back.store(self.back.get() == self.members.borrow().len(), Ordering::Relaxed);
            }
            result
        })
        .await;
        state.borrow_mut().closed = Some(closed);
    }

    /// Tries until it is let in.
    async fn open_again(&self, number: usize) -> Connection {
        let target = &self.opener.targets[number % self.opener.targets.len()];
        let mut refused = 0u32;
        loop {
            match Connection::open(target, self.opener.clock, None).await {
                Ok(connection) => return connection,
                Err(error) => *self.refused.borrow_mut().entry(error.to_string()).or_default() += 1,
            }
            let wait = rand::random_range(BACKOFF_MS) << refused.min(5);
            refused += 1;
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    async fn finish(&self, last: &[u64]) -> Outcome {
        let members = self.members.borrow().clone();
        let settled = |member: &Returner| {
            let has_last = member.check.as_ref().is_some_and(|check| check.last() >= last[member.room]);
            member.closed.is_some() || (member.back_ns.is_some() && has_last)
        };
        wait_until(LAST_MESSAGE, || members.iter().all(|member| settled(&member.borrow()))).await;
        let (mut found, mut wrong) = (Violations::default(), Errors::new());
        let (mut back, mut unrecovered) = (Vec::new(), 0);
        for member in &members {
            let member = member.borrow();
            found
                .add(member.check.as_ref().map(|check| check.verdict(last[member.room])).unwrap_or_default());
            back.extend(member.back_ns.map(|at| seconds(self.dropped_ns.get(), at)));
            unrecovered += u64::from(member.unrecovered);
            for what in member.closed.iter().map(ToString::to_string).chain(member.error.clone()) {
                *wrong.entry(what).or_default() += 1;
            }
        }
        back.sort_by(f64::total_cmp);
        let refused = self.refused.borrow().clone();
        Outcome { members: members.len() as u64, back, refused, unrecovered, found, wrong }
    }
}

impl Returner {
    /// What subscribes again, with what was missed.
    fn come_back(&mut self, request: &str) -> String {
        self.ready = false;
        let Some(check) = &self.check else { return request.to_owned() };
        let position = serde_json::json!({"epoch": self.epoch, "seq": check.last()});
        match request.strip_suffix('}') {
            Some(open) => format!(r#"{open},"recover":{position}}}"#),
            None => request.to_owned(),
        }
    }

    fn receive(&mut self, text: &[u8], now: u64) {
        let parsed = scan::parse(text, |item| match item {
            Item::Tick(tick) => match &mut self.check {
                Some(check) => check.observe(tick.seq, 0),
                None => self.error = Some("a message before the subscription".to_owned()),
            },
            Item::Other(envelope) => self.other(envelope, now),
        });
        if parsed.is_err() {
            self.error = Some("message is not JSON".to_owned());
        }
    }

    fn other(&mut self, envelope: &Envelope<'_>, now: u64) {
        match (&*envelope.kind, &*envelope.event) {
            ("response", _) => match envelope.data_as::<Begun>() {
                Some(begun) => self.begin(begun, now),
                None => self.error = Some("subscribe response without a position".to_owned()),
            },
            ("error", _) => self.error = Some(envelope.error_code.as_deref().unwrap_or("error").to_owned()),
            ("notification", "resync") => self.error = Some("resync".to_owned()),
            _ => {}
        }
    }

    fn begin(&mut self, begun: Begun, now: u64) {
        self.ready = true;
        let Some(check) = &mut self.check else {
            self.check = Some(SequenceCheck::new(Delivery::All, begun.seq));
            self.epoch = begun.epoch;
            return;
        };
        self.back_ns = Some(now);
        self.unrecovered = !begun.recovered || begun.epoch != self.epoch;
        for message in &begun.messages {
            check.observe(message.seq, 0);
        }
        // Where the response says that it stands, all that came before has come.
        if begun.seq != check.last() {
            self.unrecovered = true;
        }
    }
}
