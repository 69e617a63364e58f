//! Clients that make requests while a server is disturbed: each request must be answered exactly once, by what was asked for or
//! by an error that says why not.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::TargetArgs;
use crate::client::{Connection, Target};
use crate::clock::Clock;
use crate::opening::{Errors, resolve, wait_until};
use crate::report::{Latency, Report};

/// Time between two requests of a client.
const EVERY: Duration = Duration::from_millis(100);
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Debug)]
pub(crate) struct Requests {
    clock: Clock,
    waiting: RefCell<Vec<Connection>>,
    stop: Cell<bool>,
    sent: Cell<u64>,
    answered: Cell<u64>,
    doubled: Cell<u64>,
    wrong: Cell<u64>,
    errors: RefCell<Errors>,
    closed: RefCell<Errors>,
    latency: RefCell<Latency>,
}

/// One client: its requests, with when they were sent, until they are answered.
struct Caller {
    all: Rc<Requests>,
    number: u64,
    under_way: HashMap<u64, u64>,
}

impl Requests {
    /// Opens so many connections.
    pub(crate) async fn open(target: &TargetArgs, clients: usize) -> anyhow::Result<Rc<Self>> {
        let clock = Clock::start();
        let targets: Vec<Target> = resolve(target, false).await?;
        let mut connections = Vec::with_capacity(clients);
        for target in targets.iter().cycle().take(clients) {
            connections.push(Connection::open(target, clock, None).await?);
        }
        Ok(Rc::new(Self {
            clock,
            waiting: RefCell::new(connections),
            stop: Cell::new(false),
            sent: Cell::new(0),
            answered: Cell::new(0),
            doubled: Cell::new(0),
            wrong: Cell::new(0),
            errors: RefCell::default(),
            closed: RefCell::default(),
            latency: RefCell::new(Latency::new()),
        }))
    }

    /// Begins to ask.
    pub(crate) fn begin(self: &Rc<Self>) {
        for connection in self.waiting.take() {
            let caller = Caller { all: self.clone(), number: 0, under_way: HashMap::new() };
            tokio::task::spawn_local(caller.run(connection));
        }
    }

    /// Waits for the last answers, and says how it went.
    pub(crate) async fn finish(&self, report: &mut Report) {
        self.stop.set(true);
        wait_until(LAST_ANSWERS, || self.answered.get() >= self.sent.get()).await;
        report.count("requests", "requests", self.sent.get());
        report.latency("request_ms", "request to answer", &self.latency.borrow());
        let refused = self.errors.borrow();
        let text: Vec<_> = refused.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        let text = if text.is_empty() { "none".to_owned() } else { text.join("\n") };
        report.entry("request_errors", "requests answered by an error", json!(*refused), text);
        report.must_be_zero("unanswered", "requests not answered", self.sent.get() - self.answered.get());
        report.must_be_zero("answered_twice", "answers to no open request", self.doubled.get());
        report.must_be_zero("answered_wrongly", "answers to something else", self.wrong.get());
        report.errors("requesters_closed", "requesting clients disconnected", &self.closed.borrow());
    }
}

impl Caller {
    async fn run(mut self, mut connection: Connection) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closed = poll_fn(|cx| {
            while tick.poll_tick(cx).is_ready() {
                if !self.all.stop.get() {
                    // Now and then several at once.
                    for _ in 0..if self.number.is_multiple_of(10) { 4 } else { 1 } {
                        let request = self.next();
                        connection.out().text(request.as_bytes());
                    }
                }
            }
            match connection.poll_io(cx, |text, now, _| self.receive(text, now)) {
                Poll::Ready(closed) => Poll::Ready(closed),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        *self.all.closed.borrow_mut().entry(closed.to_string()).or_default() += 1;
    }

    fn next(&mut self) -> String {
        self.number += 1;
        let number = self.number;
        self.all.sent.set(self.all.sent.get() + 1);
        self.under_way.insert(number, self.all.clock.now_ns());
        let (action, payload) = if number.is_multiple_of(2) {
            ("echo", json!({ "number": number }))
        } else {
            ("history", json!({ "room": "bench_requests", "limit": 1 + number % 1_000 }))
        };
        json!({"type": "request", "request_id": number.to_string(), "action": action, "payload": payload})
            .to_string()
    }

    fn receive(&mut self, text: &[u8], now: u64) {
        let all = &self.all;
        let count = |counter: &Cell<u64>| counter.set(counter.get() + 1);
        let Ok(message) = serde_json::from_slice::<Value>(text) else { return count(&all.wrong) };
        let answer = matches!(message["type"].as_str(), Some("response" | "error"));
        if !answer {
            return;
        }
        let id = message["request_id"].as_str().and_then(|id| id.parse::<u64>().ok());
        let Some(sent) = id.and_then(|id| self.under_way.remove(&id)) else { return count(&all.doubled) };
        count(&all.answered);
        all.latency.borrow_mut().record_ns(now.saturating_sub(sent));
        let number = id.unwrap_or_default();
        if message["type"] == "error" {
            let code = message["error_code"].as_str().unwrap_or("error without a code").to_owned();
            *all.errors.borrow_mut().entry(code).or_default() += 1;
            return;
        }
        let right = if number.is_multiple_of(2) {
            message["data"]["number"] == number
        } else {
            message["data"]["messages"].is_array()
        };
        if !right {
            count(&all.wrong);
        }
    }
}
