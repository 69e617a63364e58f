//! `bench rpc`: closed-loop `echo` requests. Every connection keeps a fixed number of requests under way and sends the
//! next one when an answer has come.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::TargetArgs;
use crate::client::{Closed, Connection, Outgoing};
use crate::clock::{Clock, seconds};
use crate::opening::{self, Errors, Opener, wait_until};
use crate::procstat::{CpuReading, Processes};
use crate::report::{Latency, Progress, Report};
use crate::scan::{self, Item, Scanner};

/// Arguments of `bench rpc`.
#[derive(Debug, clap::Args)]
pub struct RpcArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 100)]
    conns: usize,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "10s")]
    duration: Duration,
    /// How long to apply the load before measuring
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "2s")]
    warmup: Duration,
    /// Send this many requests and stop, without a warm-up
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Size of a request's payload
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    payload: usize,
    /// Requests of a connection that are under way at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    inflight: usize,
    /// How long to wait for the last answers
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "5s")]
    timeout: Duration,
}

/// What all connections of a run share.
struct Shared {
    clock: Clock,
    scanner: Scanner,
    inflight: usize,
    /// Text that the answers have to repeat, in quotes.
    pad: Vec<u8>,
    pad_finder: memchr::memmem::Finder<'static>,
    /// Requests that may still be sent.
    budget: Cell<u64>,
    /// Requests sent earlier than this are not measured.
    measure_from_ns: Cell<u64>,
    latency: RefCell<Latency>,
    sent: Cell<u64>,
    answers: Cell<u64>,
    failed: Cell<u64>,
    errors: RefCell<Errors>,
    closed: RefCell<Errors>,
    last_answer_ns: Cell<u64>,
}

impl Shared {
    fn new(args: &RpcArgs, clock: Clock) -> Self {
        let pad = format!("\"{}\"", "x".repeat(args.payload)).into_bytes();
        Self {
            clock,
            scanner: Scanner::new(),
            inflight: args.inflight.max(1),
            pad_finder: memchr::memmem::Finder::new(&pad).into_owned(),
            pad,
            budget: Cell::new(args.requests.unwrap_or(u64::MAX)),
            measure_from_ns: Cell::new(if args.requests.is_some() { 0 } else { u64::MAX }),
            latency: RefCell::new(Latency::new()),
            sent: Cell::new(0),
            answers: Cell::new(0),
            failed: Cell::new(0),
            errors: RefCell::default(),
            closed: RefCell::default(),
            last_answer_ns: Cell::new(0),
        }
    }

    /// Requests that have neither been answered nor failed.
    fn outstanding(&self) -> u64 {
        self.sent.get() - self.answers.get() - self.failed.get()
    }

    fn fail(&self, name: &str) {
        *self.errors.borrow_mut().entry(name.to_owned()).or_default() += 1;
    }
}

/// One connection's requests. A request's id is `slot-number`; a slot has one request under way at most.
struct Caller {
    shared: Rc<Shared>,
    slots: Vec<Option<Request>>,
    number: u64,
    text: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Request {
    number: u64,
    sent_ns: u64,
}

impl Caller {
    fn new(shared: Rc<Shared>) -> Self {
        let slots = vec![None; shared.inflight];
        Self { shared, slots, number: 0, text: Vec::new() }
    }

    async fn run(mut self, mut connection: Connection) {
        for slot in 0..self.slots.len() {
            self.send(slot, connection.out());
        }
        let closed: Closed =
            poll_fn(|cx| connection.poll_io(cx, |text, now, out| self.receive(text, now, out))).await;
        let shared = &self.shared;
        let under_way = self.slots.iter().flatten().count() as u64;
        shared.failed.set(shared.failed.get() + under_way);
        *shared.closed.borrow_mut().entry(closed.to_string()).or_default() += 1;
    }

    fn send(&mut self, slot: usize, out: &mut Outgoing) {
        let shared = &self.shared;
        let Some(budget) = shared.budget.get().checked_sub(1) else { return };
        shared.budget.set(budget);
        self.number += 1;
        self.text.clear();
        // Writing to a vector cannot fail.
        let _ = write!(
            self.text,
            r#"{{"type":"request","request_id":"{slot}-{}","action":"echo","payload":{{"pad":"#,
            self.number
        );
        self.text.extend_from_slice(&shared.pad);
        self.text.extend_from_slice(b"}}");
        out.text(&self.text);
        shared.sent.set(shared.sent.get() + 1);
        self.slots[slot] = Some(Request { number: self.number, sent_ns: shared.clock.now_ns() });
    }

    fn receive(&mut self, text: &[u8], now: u64, out: &mut Outgoing) {
        let shared = self.shared.clone();
        let answered = match shared.scanner.success_id(text) {
            Some(id) if shared.pad_finder.find(text).is_some() => self.take(id),
            Some(_) => {
                shared.fail("answer differs from the request");
                None
            }
            None => self.receive_other(text, out),
        };
        let Some((slot, request)) = answered else { return };
        shared.answers.set(shared.answers.get() + 1);
        shared.last_answer_ns.set(now);
        if request.sent_ns >= shared.measure_from_ns.get() {
            shared.latency.borrow_mut().record_ns(now.saturating_sub(request.sent_ns));
        }
        self.send(slot, out);
    }

    /// Anything that is not surely a success: an error, `connected`, or an answer written in another way.
    fn receive_other(&mut self, text: &[u8], out: &mut Outgoing) -> Option<(usize, Request)> {
        let shared = self.shared.clone();
        let mut answered = None;
        let parsed = scan::parse(text, |item| {
            let Item::Other(envelope) = item else { return };
            let id = envelope.request_id.as_deref().unwrap_or_default();
            match &*envelope.kind {
                "response" if shared.pad_finder.find(text).is_some() => answered = self.take(id.as_bytes()),
                "response" => shared.fail("answer differs from the request"),
                "error" => {
                    shared.fail(envelope.error_code.as_deref().unwrap_or("error without a code"));
                    if let Some((slot, _)) = self.take(id.as_bytes()) {
                        shared.failed.set(shared.failed.get() + 1);
                        self.send(slot, out);
                    }
                }
                _ => {}
            }
        });
        if parsed.is_err() {
            shared.fail("message is not JSON");
        }
        answered
    }

    /// Ends the request with this id.
    fn take(&mut self, id: &[u8]) -> Option<(usize, Request)> {
        let parsed = std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.split_once('-'))
            .and_then(|(slot, number)| Some((slot.parse::<usize>().ok()?, number.parse::<u64>().ok()?)));
        if let Some((slot, number)) = parsed
            && let Some(entry) = self.slots.get_mut(slot)
            && entry.is_some_and(|request| request.number == number)
        {
            return entry.take().map(|request| (slot, request));
        }
        self.shared.fail("answer without a request");
        None
    }
}

/// Readings at one moment.
struct Mark {
    at_ns: u64,
    answers: u64,
    cpu: CpuReading,
}

impl Mark {
    fn now(shared: &Shared, server: &Processes) -> Self {
        Self { at_ns: shared.clock.now_ns(), answers: shared.answers.get(), cpu: CpuReading::now(server) }
    }
}

pub(crate) async fn run(args: RpcArgs) -> anyhow::Result<bool> {
    let clock = Clock::start();
    let targets = opening::resolve(&args.target, false).await?;
    let server = Processes::find(&args.target.pids, targets.iter().map(|target| target.addr));
    let shared = Rc::new(Shared::new(&args, clock));
    let opener =
        Opener { targets: targets.into(), clock, concurrency: args.target.concurrency, receive_buffer: None };
    let connections = Rc::new(RefCell::new(Vec::new()));
    let opened = connections.clone();
    let open_errors = opener
        .open_all(args.conns, |number| number, move |_, connection| opened.borrow_mut().push(connection))
        .await?;
    let open = connections.borrow().len();

    let mut begin = Mark::now(&shared, &server);
    for connection in connections.take() {
        tokio::task::spawn_local(Caller::new(shared.clone()).run(connection));
    }
    let alive = || shared.closed.borrow().values().sum::<u64>() < open as u64;
    let progress = Progress::start(
        "rpc",
        if args.requests.is_some() { args.duration } else { args.warmup + args.duration },
    );
    let mut last = 0;
    let mut status = || {
        let answers = shared.answers.get();
        format!("{} answers/s", (answers - std::mem::replace(&mut last, answers)) * 10)
    };
    let end = if args.requests.is_some() {
        // As long as answers come it goes on; the time-out below is for the last ones.
        let mut before = u64::MAX;
        while alive() && shared.outstanding() + shared.budget.get() > 0 && before != shared.answers.get() {
            before = shared.answers.get();
            let step = Instant::now() + args.timeout;
            let go_on = || alive() && shared.outstanding() + shared.budget.get() > 0;
            progress.sleep_until(step, &mut status, go_on).await;
        }
        let end = Mark::now(&shared, &server);
        Mark { at_ns: shared.last_answer_ns.get(), ..end }
    } else {
        progress.sleep_until(Instant::now() + args.warmup, &mut status, alive).await;
        begin = Mark::now(&shared, &server);
        shared.measure_from_ns.set(begin.at_ns);
        progress.sleep_until(Instant::now() + args.duration, &mut status, alive).await;
        Mark::now(&shared, &server)
    };
    drop(progress);
    shared.budget.set(0);
    wait_until(args.timeout, || shared.outstanding() == 0).await;
    let rss = server.rss_kib();
    report(&args, &shared, &open_errors, &begin, &end, rss)
}

fn report(
    args: &RpcArgs,
    shared: &Shared,
    open_errors: &Errors,
    begin: &Mark,
    end: &Mark,
    rss_kib: Option<f64>,
) -> anyhow::Result<bool> {
    let answers = end.answers - begin.answers;
    let elapsed = seconds(begin.at_ns, end.at_ns);
    let total = shared.sent.get();
    let ratio = if total == 0 { 0.0 } else { shared.answers.get() as f64 / total as f64 };

    let mut report = Report::new("rpc");
    report.count("conns", "connections", args.conns as u64);
    report.count("inflight", "requests under way on each", shared.inflight as u64);
    report.count("payload_bytes", "payload bytes", args.payload as u64);
    report.number("seconds", "measured for", Some(elapsed), "s");
    report.count("answers", "answers measured", answers);
    report.number("answers_per_s", "answers per second", Some(answers as f64 / elapsed), "/s");
    report.count("requests_total", "requests with warm-up", total);
    report.number("success_ratio", "success ratio", Some(ratio), "");
    report.latency("latency_ms", "latency", &shared.latency.borrow());
    report.cpu(end.cpu.since(begin.cpu), elapsed, answers, "answer");
    report.number("server_rss_kib", "server memory", rss_kib, "KiB");
    report.errors("errors", "errors", &shared.errors.borrow());
    report.must_be_zero("timeouts", "requests never answered", shared.outstanding());
    report.errors("closed", "connections closed early", &shared.closed.borrow());
    report.errors("open_errors", "connections not opened", open_errors);
    report.check(answers > 0, "no answer at all");
    report.check(ratio == 1.0, "success ratio below 1");
    Ok(report.finish(args.target.json))
}
