//! One publisher of `bench publish`: sends a batch, waits until all of it is answered, and checks the positions that
//! it was answered.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::Write as _;
use std::rc::Rc;

use serde::Deserialize;

use crate::client::{Connection, Outgoing};
use crate::clock::Clock;
use crate::fanout::room_names;
use crate::http::HttpConnection;
use crate::opening::Errors;
use crate::positions::{OwnOrder, RoomPositions};
use crate::publisher::{data, pad_for};
use crate::report::Latency;
use crate::scan::{self, Item, Scanner};

/// One room of a run.
pub(crate) struct Room {
    name: String,
    pub(crate) positions: RefCell<RoomPositions>,
}

/// What all publishers of a run share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    scanner: Scanner,
    pub(crate) rooms: Vec<Room>,
    batch: usize,
    /// Text that fills a message up to its size.
    pad: String,
    /// No more batches are to be sent.
    pub(crate) stop: Cell<bool>,
    /// Batches sent earlier than this are not measured.
    pub(crate) measure_from_ns: Cell<u64>,
    pub(crate) latency: RefCell<Latency>,
    sent: Cell<u64>,
    pub(crate) accepted: Cell<u64>,
    /// Messages that were refused, or whose connection was lost.
    failed: Cell<u64>,
    /// Times that a `seq` was given again.
    pub(crate) repeated: Cell<u64>,
    /// Times that a publisher's `seq` was not above its last.
    pub(crate) out_of_order: Cell<u64>,
    pub(crate) errors: RefCell<Errors>,
    pub(crate) closed: RefCell<Errors>,
}

impl Shared {
    pub(crate) fn new(clock: Clock, rooms: usize, batch: usize, payload: usize) -> Self {
        let room = |name| Room { name, positions: RefCell::default() };
        Self {
            clock,
            scanner: Scanner::new(),
            rooms: room_names(rooms).into_iter().map(room).collect(),
            batch,
            pad: pad_for(payload, clock.now_ns()),
            stop: Cell::new(false),
            measure_from_ns: Cell::new(u64::MAX),
            latency: RefCell::new(Latency::new()),
            sent: Cell::new(0),
            accepted: Cell::new(0),
            failed: Cell::new(0),
            repeated: Cell::new(0),
            out_of_order: Cell::new(0),
            errors: RefCell::default(),
            closed: RefCell::default(),
        }
    }

    /// Messages that have neither been answered nor failed.
    pub(crate) fn outstanding(&self) -> u64 {
        self.sent.get() - self.accepted.get() - self.failed.get()
    }

    fn fail(&self, name: &str) {
        *self.errors.borrow_mut().entry(name.to_owned()).or_default() += 1;
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Failed,
    Accepted {
        /// By number, among those of the room.
        epoch: usize,
        seq: u64,
    },
}

/// One publisher's messages. They are numbered in the order in which it sends them; the number is the request's id,
/// and gives the room.
pub(crate) struct BatchPublisher {
    shared: Rc<Shared>,
    /// Number of the batch's first message.
    first: u64,
    sent_ns: u64,
    /// Of the batch's messages.
    fates: Vec<Fate>,
    waiting: usize,
    /// By room.
    order: Vec<OwnOrder>,
    text: Vec<u8>,
}

impl BatchPublisher {
    /// Publishers begin with different rooms.
    pub(crate) fn new(index: usize, shared: Rc<Shared>) -> Self {
        let order = vec![OwnOrder::default(); shared.rooms.len()];
        Self {
            shared,
            first: index as u64,
            sent_ns: 0,
            fates: Vec::new(),
            waiting: 0,
            order,
            text: Vec::new(),
        }
    }

    pub(crate) async fn run_websocket(mut self, mut connection: Connection) {
        self.queue(connection.out());
        let closed = poll_fn(|cx| {
            connection.poll_io(cx, |text, now, out| {
                self.receive(text, now);
                if self.waiting == 0 {
                    self.queue(out);
                }
            })
        })
        .await;
        self.lost(&closed.to_string());
    }

    pub(crate) async fn run_http(mut self, mut connection: HttpConnection) {
        while self.begin() {
            let mut body = std::mem::take(&mut self.text);
            self.put_body(&mut body);
            match connection.post(&body).await {
                Ok((status, answer)) => self.receive_results(status, answer),
                Err(error) => return self.lost(&error.to_string()),
            }
            self.text = body;
        }
    }

    /// Begins the next batch. False if there is to be none.
    fn begin(&mut self) -> bool {
        let shared = &self.shared;
        if shared.stop.get() {
            return false;
        }
        self.first += self.fates.len() as u64;
        self.fates.clear();
        self.fates.resize(shared.batch, Fate::Waiting);
        self.waiting = shared.batch;
        shared.sent.set(shared.sent.get() + shared.batch as u64);
        self.sent_ns = shared.clock.now_ns();
        true
    }

    /// Queues the next batch; all of it leaves in one write, as far as the socket takes it.
    fn queue(&mut self, out: &mut Outgoing) {
        if !self.begin() {
            return;
        }
        let mut text = std::mem::take(&mut self.text);
        for number in self.first..self.first + self.fates.len() as u64 {
            text.clear();
            // Writing to a vector cannot fail.
            let _ =
                write!(text, r#"{{"type":"request","request_id":"{number}","action":"publish","payload":"#);
            self.put_message(number, &mut text);
            text.push(b'}');
            out.text(&text);
        }
        self.text = text;
    }

    fn put_body(&self, body: &mut Vec<u8>) {
        body.clear();
        body.extend_from_slice(br#"{"messages":["#);
        for number in self.first..self.first + self.fates.len() as u64 {
            if number > self.first {
                body.push(b',');
            }
            self.put_message(number, body);
        }
        body.extend_from_slice(b"]}");
    }

    fn put_message(&self, number: u64, text: &mut Vec<u8>) {
        let shared = &self.shared;
        // Writing to a vector cannot fail.
        let _ = write!(
            text,
            r#"{{"room":"{}","event":"tick","data":{}}}"#,
            shared.rooms[self.room_of(number)].name,
            data(self.sent_ns, &shared.pad),
        );
    }

    fn room_of(&self, number: u64) -> usize {
        (number % self.shared.rooms.len() as u64) as usize
    }

    /// A message of the WebSocket.
    fn receive(&mut self, text: &[u8], now: u64) {
        let shared = self.shared.clone();
        if let Some(id) = shared.scanner.success_id(text)
            && let Some(position) = shared.scanner.response_position(text)
        {
            return self.accepted(self.index_of(id), &position.epoch, position.seq, now);
        }
        let parsed = scan::parse(text, |item| {
            let Item::Other(envelope) = item else { return };
            let index = self.index_of(envelope.request_id.as_deref().unwrap_or_default().as_bytes());
            match (&*envelope.kind, envelope.position()) {
                ("response", Some(position)) => self.accepted(index, &position.epoch, position.seq, now),
                ("response", None) => self.refused(index, "publish answered without a position"),
                ("error", _) => {
                    self.refused(index, envelope.error_code.as_deref().unwrap_or("error without a code"));
                }
                _ => {}
            }
        });
        if parsed.is_err() {
            shared.fail("message is not JSON");
        }
    }

    /// The answer to a `POST`: one result for each message, or an error for all of them.
    fn receive_results(&mut self, status: u16, body: &[u8]) {
        let now = self.shared.clock.now_ns();
        let answer: HttpAnswer<'_> = serde_json::from_slice(body).unwrap_or_default();
        if answer.results.len() != self.fates.len() {
            let code = answer.error_code.unwrap_or_else(|| format!("HTTP status {status}").into());
            return (0..self.fates.len()).for_each(|index| self.refused(Some(index), &code));
        }
        for (index, result) in answer.results.into_iter().enumerate() {
            match (result.seq, result.epoch) {
                (Some(seq), Some(epoch)) => self.accepted(Some(index), &epoch, seq, now),
                _ => {
                    let code = result.error_code.as_deref().unwrap_or("error without a code");
                    self.refused(Some(index), code);
                }
            }
        }
    }

    /// The message of the batch that a request's id stands for, if it waits for its answer.
    fn index_of(&self, request_id: &[u8]) -> Option<usize> {
        let number: u64 = std::str::from_utf8(request_id).ok()?.parse().ok()?;
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        (self.fates.get(index) == Some(&Fate::Waiting)).then_some(index)
    }

    fn accepted(&mut self, index: Option<usize>, epoch: &str, seq: u64, now: u64) {
        let Some(index) = index else { return self.shared.fail("answer without a request") };
        let shared = &self.shared;
        let room = self.room_of(self.first + index as u64);
        let (epoch, new) = shared.rooms[room].positions.borrow_mut().insert(epoch, seq);
        shared.repeated.set(shared.repeated.get() + u64::from(!new));
        shared.accepted.set(shared.accepted.get() + 1);
        if self.sent_ns >= shared.measure_from_ns.get() {
            shared.latency.borrow_mut().record_ns(now.saturating_sub(self.sent_ns));
        }
        self.answered(index, Fate::Accepted { epoch, seq });
    }

    fn refused(&mut self, index: Option<usize>, code: &str) {
        self.shared.fail(code);
        if let Some(index) = index {
            self.shared.failed.set(self.shared.failed.get() + 1);
            self.answered(index, Fate::Failed);
        }
    }

    fn answered(&mut self, index: usize, fate: Fate) {
        self.fates[index] = fate;
        self.waiting -= 1;
        if self.waiting == 0 {
            self.check_order();
        }
    }

    /// Answers may come in any order; what counts is that of the messages.
    fn check_order(&mut self) {
        for (index, fate) in self.fates.iter().enumerate() {
            let Fate::Accepted { epoch, seq } = *fate else { continue };
            let room = self.room_of(self.first + index as u64);
            if !self.order[room].rises(epoch, seq) {
                self.shared.out_of_order.set(self.shared.out_of_order.get() + 1);
            }
        }
    }

    /// The connection is gone, and with it what has not been answered.
    fn lost(mut self, reason: &str) {
        if self.waiting > 0 {
            self.check_order();
        }
        let shared = &self.shared;
        shared.failed.set(shared.failed.get() + self.waiting as u64);
        *shared.closed.borrow_mut().entry(reason.to_owned()).or_default() += 1;
    }
}

/// The answer of the HTTP API, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
struct HttpAnswer<'a> {
    #[serde(borrow, default)]
    results: Vec<HttpResult<'a>>,
    #[serde(borrow, default)]
    error_code: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct HttpResult<'a> {
    seq: Option<u64>,
    #[serde(borrow, default)]
    epoch: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_code: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publisher of one room that waits for the answers to messages 0, 1 and 2.
    fn publisher() -> BatchPublisher {
        let mut publisher = BatchPublisher::new(0, Rc::new(Shared::new(Clock::start(), 1, 3, 150)));
        assert!(publisher.begin());
        publisher
    }

    fn answer(publisher: &mut BatchPublisher, id: u64, seq: u64) {
        let text = format!(
            r#"{{"type":"response","request_id":"{id}","success":true,"data":{{"seq":{seq},"epoch":"e"}}}}"#
        );
        publisher.receive(text.as_bytes(), publisher.shared.clock.now_ns());
    }

    fn found(publisher: &BatchPublisher) -> (u64, u64, u64, u64) {
        let shared = &publisher.shared;
        (shared.accepted.get(), shared.failed.get(), shared.repeated.get(), shared.out_of_order.get())
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let mut publisher = publisher();
        for (id, seq) in [(2, 9), (0, 5), (1, 6)] {
            assert!(publisher.waiting > 0);
            answer(&mut publisher, id, seq);
        }
        assert_eq!((publisher.waiting, found(&publisher)), (0, (3, 0, 0, 0)));
        assert!(publisher.begin());
        for (id, seq) in [(3, 10), (4, 12), (5, 11)] {
            answer(&mut publisher, id, seq);
        }
        assert_eq!(found(&publisher), (6, 0, 0, 1));
    }

    #[test]
    fn a_seq_is_given_once() {
        let mut publisher = publisher();
        for (id, seq) in [(0, 5), (1, 5), (2, 6)] {
            answer(&mut publisher, id, seq);
        }
        assert_eq!(found(&publisher), (3, 0, 1, 1));
    }

    #[test]
    fn an_answer_needs_a_request() {
        let mut publisher = publisher();
        for id in [0, 0, 3] {
            answer(&mut publisher, id, 5);
        }
        assert_eq!((publisher.waiting, found(&publisher)), (2, (1, 0, 0, 0)));
        assert_eq!(publisher.shared.errors.borrow()["answer without a request"], 2);
    }

    #[test]
    fn refusals_are_counted_by_code() {
        let mut publisher = publisher();
        let text = br#"{"type":"error","request_id":"1","error_code":"RATE_LIMIT_EXCEEDED"}"#;
        publisher.receive(text, 0);
        publisher.receive(br#"{"type":"response","request_id":"2","success":true,"data":{}}"#, 0);
        assert_eq!((publisher.waiting, found(&publisher)), (1, (0, 2, 0, 0)));
        let shared = publisher.shared.clone();
        publisher.lost("end of stream");
        assert_eq!((shared.failed.get(), shared.outstanding()), (3, 0));
        assert_eq!(shared.errors.borrow()["RATE_LIMIT_EXCEEDED"], 1);
    }

    #[test]
    fn a_post_is_answered_in_order_or_as_a_whole() {
        let mut publisher = publisher();
        let results = br#"{"results":[{"seq":7,"epoch":"e"},{"error_code":"X"},{"epoch":"e","seq":6}]}"#;
        publisher.receive_results(200, results);
        assert_eq!((publisher.waiting, found(&publisher)), (0, (2, 1, 0, 1)));
        for (status, body) in [(401, r#"{"error_code":"Y"}"#), (502, "<html>")] {
            assert!(publisher.begin());
            publisher.receive_results(status, body.as_bytes());
            assert_eq!(publisher.waiting, 0);
        }
        let errors = publisher.shared.errors.borrow();
        assert_eq!((errors["X"], errors["Y"], errors["HTTP status 502"]), (1, 3, 3));
    }

    #[test]
    fn a_body_is_json() {
        let publisher = publisher();
        let mut body = Vec::new();
        publisher.put_body(&mut body);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["messages"].as_array().unwrap().len(), 3);
        assert_eq!(body["messages"][2]["data"].to_string().len(), 150);
    }
}
