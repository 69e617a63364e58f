//! Subscribers to the latest value that read slower than messages come: each has to end on the newest value, with sums that
//! come out, and must not move the others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::check::{Delivery, SequenceCheck, Violations};
use crate::client::Connection;
use crate::opening::{Errors, wait_until};
use crate::report::Report;
use crate::scan::{self, Envelope, Item};

/// How often such a subscriber reads.
const EVERY: Duration = Duration::from_millis(200);
/// A message on the wire is its payload and about this.
const HEAD: f64 = 150.0;
/// How long, once no more is published and they read as others do, the newest value may take.
const LAST_VALUE: Duration = Duration::from_secs(10);
/// Time for the subscriptions.
const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(10);

/// One of them.
#[derive(Debug, Default)]
struct Lagging {
    room: usize,
    check: Option<SequenceCheck>,
    received: u64,
    conflated: u64,
    resyncs: u64,
    closed: Option<String>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct LaggingGroup {
    /// Bytes that each reads at a time; all there are once that is 0.
    sip: Cell<usize>,
    members: RefCell<Vec<Rc<RefCell<Lagging>>>>,
}

impl LaggingGroup {
    /// Reads `share` of what `rate` messages a second, with payloads of so many bytes, need.
    pub(crate) fn new(share: f64, rate: f64, payload: usize) -> Rc<Self> {
        let per_second = share * rate * (payload as f64 + HEAD);
        let sip = (per_second * EVERY.as_secs_f64()).max(1.0) as usize;
        Rc::new(Self { sip: Cell::new(sip), members: RefCell::default() })
    }

    /// Subscribes with `request` on a connection of its own.
    pub(crate) fn add(self: &Rc<Self>, mut connection: Connection, room: usize, request: &str) {
        connection.out().text(request.as_bytes());
        let state = Rc::new(RefCell::new(Lagging { room, ..Lagging::default() }));
        self.members.borrow_mut().push(state.clone());
        tokio::task::spawn_local(self.clone().read(connection, state));
    }

    /// Waits until all have their subscriptions. False if some have not in time.
    pub(crate) async fn subscribed(&self) -> bool {
        let subscribed = |member: &Rc<RefCell<Lagging>>| member.borrow().check.is_some();
        wait_until(SUBSCRIBE_DEADLINE, || self.members.borrow().iter().all(subscribed)).await
    }

    async fn read(self: Rc<Self>, mut connection: Connection, state: Rc<RefCell<Lagging>>) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closed = loop {
            tick.tick().await;
            let mut member = state.borrow_mut();
            let amount = match self.sip.get() {
                0 => usize::MAX,
                // Only what comes after the subscription is read slowly.
                _ if member.check.is_none() => usize::MAX,
                sip => sip,
            };
            if let Err(closed) = connection.sip(amount, |text| member.receive(text)) {
                break closed;
            }
        };
        state.borrow_mut().closed = Some(closed.to_string());
    }

    /// Has all read what is left, and says what they saw, where `last_seq` is the last of each room.
    pub(crate) async fn finish(&self, last_seq: impl Fn(usize) -> u64, report: &mut Report) {
        let members = self.members.take();
        if members.is_empty() {
            return;
        }
        self.sip.set(0);
        let done = |member: &Lagging| {
            member.closed.is_some()
                || member.check.as_ref().is_some_and(|check| check.last() >= last_seq(member.room))
        };
        wait_until(LAST_VALUE, || members.iter().all(|member| done(&member.borrow()))).await;
        let (mut found, mut closed) = (Violations::default(), Errors::new());
        let (mut received, mut conflated, mut resyncs) = (0, 0, 0);
        for member in &members {
            let member = member.borrow();
            match &member.check {
                Some(check) => found.add(check.verdict(last_seq(member.room))),
                None => *closed.entry("no subscription".to_owned()).or_default() += 1,
            }
            received += member.received;
            conflated += member.conflated;
            resyncs += member.resyncs;
            if let Some(reason) = &member.closed {
                *closed.entry(reason.clone()).or_default() += 1;
            }
        }
        report.count("lagging", "subscribers to the latest value that read too slowly", members.len() as u64);
        report.count("lagging_received", "messages that they received", received);
        report.count("lagging_conflated", "messages that these replaced", conflated);
        report.must_be_zero("lagging_lost", "messages that no sum accounts for", found.lost);
        report.must_be_zero("lagging_doubled", "messages that sums count twice", found.duplicated);
        report.must_be_zero("lagging_out_of_order", "messages out of order for them", found.out_of_order);
        report.must_be_zero("lagging_resyncs", "resyncs for them", resyncs);
        report.errors("lagging_closed", "of them closed early", &closed);
    }
}

impl Lagging {
    fn receive(&mut self, text: &[u8]) {
        let parsed = scan::parse(text, |item| match item {
            Item::Tick(tick) => {
                self.received += 1;
                self.conflated += tick.conflated;
                if let Some(check) = &mut self.check {
                    check.observe(tick.seq, tick.conflated);
                }
            }
            Item::Other(envelope) => self.other(envelope),
        });
        if parsed.is_err() {
            self.closed = Some("message is not JSON".to_owned());
        }
    }

    fn other(&mut self, envelope: &Envelope<'_>) {
        match (&*envelope.kind, &*envelope.event) {
            ("response", _) if self.check.is_none() => {
                self.check = envelope.data().seq.map(|seq| SequenceCheck::new(Delivery::Latest, seq));
            }
            ("notification", "resync") => self.resyncs += 1,
            _ => {}
        }
    }
}
