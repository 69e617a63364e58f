//! The receiving side of `bench fanout`: one task for each subscriber, and what all of them share.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Waker;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::check::{Delivery, SequenceCheck, Violations};
use crate::client::{Closed, Connection};
use crate::clock::Clock;
use crate::flow::Progress;
use crate::opening::Errors;
use crate::report::Latency;
use crate::scan::{self, Envelope, Item, Scanner, Tick};

/// One room of a run.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) name: String,
    /// How far its subscribers are.
    progress: RefCell<Progress>,
    /// `seq` when the first subscriber came.
    start: Cell<Option<u64>>,
    /// Messages sent to it.
    pub(crate) sent: Cell<u64>,
    /// Messages that the server refused.
    pub(crate) refused: Cell<u64>,
    /// Messages that the server accepted.
    pub(crate) accepted: Cell<u64>,
    /// Highest `seq` that the server gave to a message.
    pub(crate) last_seq: Cell<u64>,
}

impl Room {
    /// Messages that the slowest subscriber has not received; those without an answer if nobody listens.
    pub(crate) fn undelivered(&self) -> u64 {
        let done = match self.progress.borrow().slowest() {
            Some(slowest) => slowest.saturating_sub(self.start.get().unwrap_or(0)),
            None => self.accepted.get(),
        };
        self.sent.get().saturating_sub(self.refused.get()).saturating_sub(done)
    }
}

/// What all tasks of a run share; they run on one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) scanner: Scanner,
    pub(crate) rooms: Vec<Room>,
    delivery: Delivery,
    max_rate: Option<f64>,
    /// Messages are those of this run: their fields may be searched for instead of parsed.
    own_messages: bool,
    /// Messages meant to be sent earlier than this are not measured.
    pub(crate) measure_from_ns: Cell<u64>,
    pub(crate) latency: Rc<RefCell<Latency>>,
    pub(crate) deliveries: Cell<u64>,
    pub(crate) first_delivery_ns: Cell<u64>,
    pub(crate) last_delivery_ns: Cell<u64>,
    /// Subscribers that have their response.
    pub(crate) subscribed: Cell<usize>,
    pub(crate) resyncs: Cell<u64>,
    pub(crate) errors: RefCell<Errors>,
    /// Publishers to wake when the slowest subscriber of a room has moved.
    pub(crate) publishers: RefCell<Vec<Waker>>,
}

impl Shared {
    pub(crate) fn new(
        clock: Clock,
        rooms: Vec<String>,
        delivery: Delivery,
        max_rate: Option<f64>,
        own_messages: bool,
    ) -> Self {
        Self {
            clock,
            scanner: Scanner::new(),
            rooms: rooms.into_iter().map(|name| Room { name, ..Room::default() }).collect(),
            delivery,
            max_rate,
            own_messages,
            measure_from_ns: Cell::new(u64::MAX),
            latency: Rc::new(RefCell::new(Latency::new())),
            deliveries: Cell::new(0),
            first_delivery_ns: Cell::new(0),
            last_delivery_ns: Cell::new(0),
            subscribed: Cell::new(0),
            resyncs: Cell::new(0),
            errors: RefCell::default(),
            publishers: RefCell::default(),
        }
    }

    pub(crate) fn fail(&self, name: &str) {
        *self.errors.borrow_mut().entry(name.to_owned()).or_default() += 1;
    }

    /// Lets publishers look again at what they may send.
    pub(crate) fn wake_publishers(&self) {
        self.publishers.borrow().iter().for_each(Waker::wake_by_ref);
    }

    pub(crate) fn subscribe_request(&self, room: usize) -> String {
        self.request(room, self.delivery, self.max_rate)
    }

    /// What subscribes in another way than this run's subscribers do.
    pub(crate) fn request(&self, room: usize, delivery: Delivery, max_rate: Option<f64>) -> String {
        let mut request = serde_json::json!({
            "type": "subscribe", "request_id": "s", "room": self.rooms[room].name,
        });
        if delivery == Delivery::Latest {
            request["delivery"] = "latest".into();
            if let Some(rate) = max_rate {
                request["max_rate"] = rate.into();
            }
        }
        request.to_string()
    }
}

/// One subscriber as the run sees it.
#[derive(Debug, Default)]
pub(crate) struct Subscriber {
    pub(crate) room: usize,
    /// From the response to `subscribe` on.
    check: Option<SequenceCheck>,
    /// Messages received since the subscription.
    received: u64,
    /// What was wrong before the present epoch of the room, or the subscription.
    earlier: Violations,
    pub(crate) closed: Option<Closed>,
    /// Longest latency of a measured message.
    pub(crate) worst_ns: u64,
}

impl Subscriber {
    pub(crate) fn new(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Messages received since the subscription.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Has the message with this `seq`, or a later one.
    pub(crate) fn has(&self, seq: u64) -> bool {
        self.check.as_ref().is_some_and(|check| check.last() >= seq)
    }

    /// The verdict, when `final_seq` is the last `seq` of the room.
    pub(crate) fn verdict(&self, final_seq: u64) -> Violations {
        let mut found = self.check.as_ref().map(|check| check.verdict(final_seq)).unwrap_or_default();
        found.add(self.earlier);
        found
    }

    /// Receives until the connection ends.
    pub(crate) async fn run(state: Rc<RefCell<Self>>, shared: Rc<Shared>, mut connection: Connection) {
        let room = state.borrow().room;
        connection.out().text(shared.subscribe_request(room).as_bytes());
        let room = &shared.rooms[room];
        // Where the room believes this subscriber to be.
        let mut told: Option<u64> = None;
        let closed = poll_fn(|cx| {
            let mut subscriber = state.borrow_mut();
            let received = subscriber.received();
            let result = connection.poll_io(cx, |text, now, _| subscriber.receive(text, now, &shared));
            let news = subscriber.received() - received;
            if news > 0 {
                shared.deliveries.set(shared.deliveries.get() + news);
            }
            // Once for all messages of this wake-up.
            let position = subscriber.check.as_ref().map(SequenceCheck::last);
            if let Some(position) = position.filter(|_| position != told) {
                let mut progress = room.progress.borrow_mut();
                let moved = match told {
                    Some(from) => progress.advance(from, position),
                    None => {
                        room.start.set(Some(room.start.get().unwrap_or(position)));
                        progress.join(position);
                        false
                    }
                };
                told = Some(position);
                drop(progress);
                if moved {
                    shared.wake_publishers();
                }
            }
            result
        })
        .await;
        state.borrow_mut().closed = Some(closed);
        if let Some(position) = told
            && room.progress.borrow_mut().leave(position)
        {
            shared.wake_publishers();
        }
    }

    fn receive(&mut self, text: &[u8], now: u64, shared: &Shared) {
        let each = |item: Item<'_>| match item {
            Item::Tick(tick) => self.tick(tick, now, shared),
            Item::Other(envelope) => self.other(envelope, shared),
        };
        let parsed =
            if shared.own_messages { shared.scanner.scan(text, each) } else { scan::parse(text, each) };
        if parsed.is_err() {
            shared.fail("message is not JSON");
        }
    }

    fn tick(&mut self, tick: Tick, now: u64, shared: &Shared) {
        let Some(check) = &mut self.check else {
            self.earlier.out_of_order += 1;
            return;
        };
        self.received += 1;
        check.observe(tick.seq, tick.conflated);
        shared.last_delivery_ns.set(now);
        if shared.first_delivery_ns.get() == 0 {
            shared.first_delivery_ns.set(now);
        }
        match (tick.sent_ns.filter(|_| shared.own_messages), tick.timestamp_ms) {
            (Some(sent_ns), _) if sent_ns >= shared.measure_from_ns.get() => {
                let latency = now.saturating_sub(sent_ns);
                self.worst_ns = self.worst_ns.max(latency);
                shared.latency.borrow_mut().record_ns(latency);
            }
            (None, Some(timestamp_ms)) if !shared.own_messages => {
                let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
                shared
                    .latency
                    .borrow_mut()
                    .record_ns(utc.saturating_sub(timestamp_ms).saturating_mul(1_000_000));
            }
            _ => {}
        }
    }

    fn other(&mut self, envelope: &Envelope<'_>, shared: &Shared) {
        match (&*envelope.kind, &*envelope.event) {
            ("response", _) if self.check.is_none() => match envelope.data().seq {
                Some(seq) => {
                    self.check = Some(SequenceCheck::new(shared.delivery, seq));
                    shared.subscribed.set(shared.subscribed.get() + 1);
                }
                None => shared.fail("subscribe response without a seq"),
            },
            ("notification", "resync") => {
                shared.resyncs.set(shared.resyncs.get() + 1);
                if let Some(check) = &self.check {
                    self.earlier.add(check.verdict(check.last()));
                }
                let seq = envelope.data().seq.unwrap_or(0);
                self.check = Some(SequenceCheck::new(shared.delivery, seq));
            }
            ("error", _) => shared.fail(envelope.error_code.as_deref().unwrap_or("error without a code")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIBED: &str = r#"{"type":"response","request_id":"s","success":true,"data":{"room":"r","epoch":"e","seq":4,"messages":[]}}"#;

    fn message(seq: u64) -> String {
        format!(r#"{{"type":"notification","room":"r","event":"tick","seq":{seq},"data":{{"sent_ns":1}}}}"#)
    }

    fn after(texts: &[String]) -> (Subscriber, Shared) {
        let shared = Shared::new(Clock::start(), vec!["r".to_owned()], Delivery::All, None, true);
        let mut subscriber = Subscriber::new(0);
        for text in texts {
            subscriber.receive(text.as_bytes(), shared.clock.now_ns(), &shared);
        }
        (subscriber, shared)
    }

    #[test]
    fn the_response_says_where_the_sequence_begins() {
        let (subscriber, shared) = after(&[SUBSCRIBED.to_owned(), message(5), message(6)]);
        assert_eq!((subscriber.received(), shared.subscribed.get()), (2, 1));
        assert_eq!(subscriber.verdict(6), Violations::default());
        assert_eq!(subscriber.verdict(7).lost, 1);
        assert!(subscriber.has(6) && !subscriber.has(7));
    }

    #[test]
    fn a_message_before_the_response_is_out_of_order() {
        let (subscriber, _) = after(&[message(4), SUBSCRIBED.to_owned(), message(5)]);
        assert_eq!(subscriber.verdict(5).out_of_order, 1);
    }

    #[test]
    fn a_restarted_log_counts_anew_and_keeps_what_was_wrong() {
        let resync =
            r#"{"type":"notification","room":"r","event":"resync","seq":0,"data":{"epoch":"f","seq":0}}"#;
        let (subscriber, shared) =
            after(&[SUBSCRIBED.to_owned(), message(5), message(7), resync.to_owned(), message(1)]);
        assert_eq!((subscriber.received(), shared.resyncs.get()), (3, 1));
        let found = subscriber.verdict(1);
        assert_eq!((found.lost, found.duplicated, found.out_of_order), (1, 0, 0));
    }

    #[test]
    fn errors_are_counted_by_code() {
        let denied = r#"{"type":"error","request_id":"s","error_code":"PERMISSION_DENIED"}"#;
        let (_, shared) = after(&[denied.to_owned(), "{".to_owned()]);
        let errors = shared.errors.borrow();
        assert_eq!((errors["PERMISSION_DENIED"], errors["message is not JSON"]), (1, 1));
    }
}
