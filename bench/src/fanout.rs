//! `bench fanout`: publishers on one side, subscribers that check every message on the other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use crate::TargetArgs;
use crate::check::{Delivery, Violations};
use crate::client::Connection;
use crate::clock::{Clock, seconds};
use crate::lagging::LaggingGroup;
use crate::opening::{self, Errors, Opener, wait_until};
use crate::procstat::{CpuReading, Processes};
use crate::publisher::{Pace, Publisher, Publishing, pad_for};
use crate::report::{Latency, Progress, Report};
use crate::requests::Requests;
use crate::returning::ReturningGroup;
use crate::soak::Soak;
use crate::stalled::{self, StalledGroup};
use crate::subscriber::{Shared, Subscriber};

/// Arguments of `bench fanout`.
#[derive(Debug, clap::Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Subscribers
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) subs: usize,
    /// Rooms that the subscribers are spread over
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) rooms: usize,
    /// Messages per second in each room
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Publish as fast as the slowest subscriber receives
    #[arg(long, conflicts_with = "rate")]
    saturate: bool,
    /// With --saturate: messages that the slowest subscriber of a room may be behind
    #[arg(long, value_name = "N", default_value_t = 64)]
    inflight: u64,
    /// Size of a message's data
    #[arg(long, value_name = "BYTES", default_value_t = 150)]
    payload: usize,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "10s")]
    pub(crate) duration: Duration,
    /// How long to apply the load before measuring
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "1s")]
    warmup: Duration,
    /// Delivery that the subscribers ask for
    #[arg(long, value_enum, default_value_t = Delivery::All)]
    delivery: Delivery,
    /// With --delivery latest: most messages per second for each subscriber
    #[arg(long, value_name = "PER_SECOND")]
    max_rate: Option<f64>,
    /// Publishing connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) publishers: usize,
    /// Allow several notifications in one frame (batch=1)
    #[arg(long)]
    batch: bool,
    /// Additional subscribers that never read
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow: usize,
    /// Additional subscribers that read one byte per second
    #[arg(long, value_name = "N", default_value_t = 0)]
    trickle: usize,
    /// Additional subscribers to the latest value that read slower than they need to
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with_all = ["saturate", "no_publish"])]
    pub(crate) lagging: usize,
    /// With --lagging: the part of the needed speed at which they read, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    lagging_share: f64,
    /// Additional subscribers that all disconnect half-way through and reconnect at once
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with_all = ["saturate", "no_publish"])]
    returning: usize,
    /// Only subscribe; another program publishes. Prints "subscribed: N" when ready, on stderr with --json
    #[arg(long, requires_all = ["room", "messages"])]
    no_publish: bool,
    /// With --no-publish: the room to subscribe to
    #[arg(long, value_name = "ROOM", requires = "no_publish")]
    room: Option<String>,
    /// With --no-publish: messages that every subscriber must receive
    #[arg(long, value_name = "N", requires = "no_publish")]
    messages: Option<u64>,
    /// How long to wait for the last message (10s by default), or with --no-publish for all of them (60s)
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration)]
    timeout: Option<Duration>,
    /// Ends the measurement before its time.
    #[arg(skip)]
    pub(crate) until: Option<Rc<Cell<bool>>>,
    /// Clients that make requests meanwhile.
    #[arg(skip)]
    pub(crate) requests: Option<Rc<Requests>>,
    /// What else is done meanwhile, for hours.
    #[arg(skip)]
    pub(crate) soak: Option<Rc<Soak>>,
}

impl Default for FanoutArgs {
    /// As on a command line that names nothing.
    fn default() -> Self {
        Self {
            target: TargetArgs::at(crate::USUAL.into(), false),
            subs: 1000,
            rooms: 1,
            rate: 50.0,
            saturate: false,
            inflight: 64,
            payload: 150,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
            delivery: Delivery::All,
            max_rate: None,
            publishers: 1,
            batch: false,
            slow: 0,
            trickle: 0,
            lagging: 0,
            lagging_share: 0.1,
            returning: 0,
            no_publish: false,
            room: None,
            messages: None,
            timeout: None,
            until: None,
            requests: None,
            soak: None,
        }
    }
}

const LAST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
const NO_PUBLISH_TIMEOUT: Duration = Duration::from_secs(60);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// After the last expected message of another publisher, surplus ones are waited for this long.
const SURPLUS_WAIT: Duration = Duration::from_millis(300);

/// A run once everybody is subscribed.
struct Run {
    shared: Rc<Shared>,
    subscribers: Vec<Rc<RefCell<Subscriber>>>,
    server: Processes,
    opener: Opener,
    open_errors: Errors,
    stalled: Rc<StalledGroup>,
    lagging: Rc<LaggingGroup>,
    returning: Option<Rc<ReturningGroup>>,
}

/// Readings at one moment.
#[derive(Clone, Copy)]
struct Mark {
    at_ns: u64,
    deliveries: u64,
    accepted: u64,
    cpu: CpuReading,
    rss_kib: Option<f64>,
}

impl Run {
    fn mark(&self) -> Mark {
        Mark {
            at_ns: self.shared.clock.now_ns(),
            deliveries: self.shared.deliveries.get(),
            accepted: self.shared.rooms.iter().map(|room| room.accepted.get()).sum(),
            cpu: CpuReading::now(&self.server),
            rss_kib: self.server.rss_kib(),
        }
    }

    /// True once every subscriber that is still connected has the last message of its room.
    fn all_have_last(&self) -> bool {
        self.subscribers.iter().all(|subscriber| {
            let subscriber = subscriber.borrow();
            subscriber.closed.is_some() || subscriber.has(self.shared.rooms[subscriber.room].last_seq.get())
        })
    }
}

pub(crate) async fn run(args: FanoutArgs) -> anyhow::Result<bool> {
    run_observed(args, None).await
}

/// The same; `begun` becomes true when the measurement begins.
pub(crate) async fn run_observed(args: FanoutArgs, begun: Option<Rc<Cell<bool>>>) -> anyhow::Result<bool> {
    if args.subs == 0 || args.rooms == 0 || args.publishers == 0 || args.inflight == 0 {
        bail!("--subs, --rooms, --publishers and --inflight must be at least 1");
    }
    if !(args.rate > 0.0 && args.rate.is_finite()) {
        bail!("--rate must be above 0");
    }
    if !(args.lagging_share > 0.0 && args.lagging_share.is_finite()) {
        bail!("--lagging-share must be above 0");
    }
    let run = subscribe(&args).await?;
    match args.messages {
        Some(messages) if args.no_publish => receive_only(&args, run, messages).await,
        _ => publish(&args, run, begun).await,
    }
}

/// Names of a run's own rooms: runs against one server must not see each other's messages.
pub(crate) fn room_names(rooms: usize) -> Vec<String> {
    let suffix: u32 = rand::random();
    (0..rooms).map(|number| format!("bench_{number}_{suffix:08x}")).collect()
}

/// Opens all subscribers and waits until they are subscribed.
async fn subscribe(args: &FanoutArgs) -> anyhow::Result<Run> {
    let clock = Clock::start();
    let targets = opening::resolve(&args.target, args.batch).await?;
    let listening = targets.iter().map(|target| target.addr).filter(|_| !args.target.relayed);
    let server = Processes::find(&args.target.pids, listening);
    let names = match &args.room {
        Some(room) => vec![room.clone()],
        None => room_names(args.rooms),
    };
    let rooms = names.len();
    let shared = Rc::new(Shared::new(clock, names, args.delivery, args.max_rate, !args.no_publish));
    let opener =
        Opener { targets: targets.into(), clock, concurrency: args.target.concurrency, receive_buffer: None };
    let subscribers: Vec<_> =
        (0..args.subs).map(|number| Rc::new(RefCell::new(Subscriber::new(number % rooms)))).collect();

    let opened = Rc::new(Cell::new(0usize));
    let (count, states, on_open) = (opened.clone(), subscribers.clone(), shared.clone());
    // Every room gets subscribers on every node.
    let pick = move |number: usize| number + number / rooms;
    let open_errors = opener
        .open_all(args.subs, pick, move |number, connection: Connection| {
            count.set(count.get() + 1);
            tokio::task::spawn_local(Subscriber::run(states[number].clone(), on_open.clone(), connection));
        })
        .await?;
    let lost = || subscribers.iter().filter(|subscriber| subscriber.borrow().closed.is_some()).count();
    wait_until(SUBSCRIBE_TIMEOUT, || shared.subscribed.get() + lost() >= opened.get()).await;
    if shared.subscribed.get() == 0 {
        bail!("nobody could subscribe: {:?}", shared.errors.borrow());
    }

    let stalled = StalledGroup::new(clock);
    let reluctant = Opener { receive_buffer: Some(stalled::RECEIVE_BUFFER), ..opener.clone() };
    for number in 0..args.slow + args.trickle {
        let target = &reluctant.targets[number % reluctant.targets.len()];
        let connection = Connection::open(target, clock, reluctant.receive_buffer).await?;
        stalled.add(connection, &shared.subscribe_request(number % rooms), number >= args.slow).await?;
    }
    let lagging = LaggingGroup::new(args.lagging_share, args.rate, args.payload);
    for number in 0..args.lagging {
        let target = &reluctant.targets[number % reluctant.targets.len()];
        let connection = Connection::open(target, clock, reluctant.receive_buffer).await?;
        lagging.add(connection, number % rooms, &shared.request(number % rooms, Delivery::Latest, None));
    }
    if !lagging.subscribed().await {
        bail!("not all slow readers could subscribe");
    }
    let returning = if args.returning > 0 {
        let requests = (0..rooms).map(|room| shared.request(room, Delivery::All, None)).collect();
        Some(Rc::new(ReturningGroup::open(&opener, args.returning, requests).await?))
    } else {
        None
    };
    Ok(Run { shared, subscribers, server, opener, open_errors, stalled, lagging, returning })
}

async fn publish(args: &FanoutArgs, run: Run, begun: Option<Rc<Cell<bool>>>) -> anyhow::Result<bool> {
    let shared = &run.shared;
    let connections = Rc::new(RefCell::new(Vec::new()));
    let opened = connections.clone();
    let refused = run
        .opener
        .open_all(args.publishers, |number| number, move |_, connection| opened.borrow_mut().push(connection))
        .await?;
    for (name, count) in refused {
        *shared.errors.borrow_mut().entry(format!("publisher: {name}")).or_default() += count;
    }
    let connections = connections.take();
    let start_ns = shared.clock.now_ns();
    let pace = if args.saturate {
        Pace::Saturate { inflight: args.inflight }
    } else {
        Pace::Rate { start_ns, interval_ns: 1e9 / (args.rate * shared.rooms.len() as f64) }
    };
    let publishing = Rc::new(Publishing {
        publishers: connections.len(),
        pace,
        pad: pad_for(args.payload, start_ns),
        stop: Cell::new(false),
        alive: Cell::new(connections.len()),
        lateness: RefCell::new(Latency::new()),
    });
    run.stalled.start();
    for (index, connection) in connections.into_iter().enumerate() {
        let publisher = Publisher::new(index, shared.clone(), publishing.clone())?;
        tokio::task::spawn_local(publisher.run(connection));
    }

    let endless = args.until.is_some();
    let progress = Progress::start("fanout", if endless { args.warmup } else { args.warmup + args.duration });
    let mut last = 0;
    let mut status = || {
        let deliveries = shared.deliveries.get();
        format!("{} deliveries/s", (deliveries - std::mem::replace(&mut last, deliveries)) * 10)
    };
    let ended = || args.until.as_ref().is_some_and(|until| until.get());
    let alive = || publishing.alive.get() > 0 && !ended();
    progress.sleep_until(Instant::now() + args.warmup, &mut status, alive).await;
    let begin = run.mark();
    shared.measure_from_ns.set(begin.at_ns);
    if let Some(begun) = begun {
        begun.set(true);
    }
    let until = Instant::now() + args.duration;
    if let Some(returning) = &run.returning {
        progress.sleep_until(Instant::now() + args.duration / 2, &mut status, alive).await;
        tokio::task::spawn_local(returning.clone().drop_all(shared.latency.clone()));
    }
    progress.sleep_until(until, &mut status, alive).await;
    let end = run.mark();
    drop(progress);

    publishing.stop.set(true);
    shared.wake_publishers();
    let timeout = args.timeout.unwrap_or(LAST_MESSAGE_TIMEOUT);
    let answered = wait_until(timeout, || publishing.alive.get() == 0).await;
    wait_until(timeout, || run.all_have_last()).await;
    let drained_ns = shared.clock.now_ns();

    let mut report = Report::new("fanout");
    let elapsed = seconds(begin.at_ns, end.at_ns);
    describe(args, &run, &mut report);
    report.text(
        "pace",
        "published",
        match pace {
            Pace::Saturate { inflight } => format!("saturating, at most {inflight} undelivered"),
            Pace::Rate { .. } => format!("{} messages/s in each room", args.rate),
        },
    );
    report.number("seconds", "measured for", Some(elapsed), "s");
    let published = (end.accepted - begin.accepted) as f64 / elapsed;
    report.number("published_per_s", "messages published per second", Some(published), "/s");
    delivered(&run, begin, end, &mut report);
    if !args.saturate {
        report.latency("send_lateness_ms", "of which sent late by the client", &publishing.lateness.borrow());
    }
    let drain = seconds(end.at_ns, drained_ns) * 1e3;
    report.number("drain_ms", "until the last message was everywhere", Some(drain), "ms");
    report.count(
        "accepted_total",
        "messages accepted in all",
        shared.rooms.iter().map(|r| r.accepted.get()).sum(),
    );
    report.check(answered, "some publishes were never answered");
    verdicts(
        &run,
        |subscriber| subscriber.verdict(shared.rooms[subscriber.room].last_seq.get()),
        &mut report,
    );
    run.stalled.finish(&mut report).await;
    let last_seq = |room: usize| shared.rooms[room].last_seq.get();
    run.lagging.finish(last_seq, &mut report).await;
    if let Some(returning) = &run.returning {
        let last = (0..shared.rooms.len()).map(last_seq).collect();
        returning.finish(&shared.latency, last, &mut report).await;
    }
    if let Some(requests) = &args.requests {
        requests.finish(&mut report).await;
    }
    if let Some(soak) = &args.soak {
        soak.finish(&mut report).await;
    }
    Ok(report.finish(args.target.json))
}

async fn receive_only(args: &FanoutArgs, run: Run, messages: u64) -> anyhow::Result<bool> {
    let shared = &run.shared;
    let begin = run.mark();
    run.stalled.start();
    let ready = format!("subscribed: {}", shared.subscribed.get());
    if args.target.json {
        eprintln!("{ready}");
    } else {
        crate::out::line(ready);
    }
    let complete = || {
        let done = |subscriber: &Subscriber| subscriber.closed.is_some() || subscriber.received() >= messages;
        run.subscribers.iter().all(|subscriber| done(&subscriber.borrow()))
    };
    wait_until(args.timeout.unwrap_or(NO_PUBLISH_TIMEOUT), complete).await;
    let end = Mark { at_ns: shared.last_delivery_ns.get(), ..run.mark() };
    tokio::time::sleep(SURPLUS_WAIT).await;

    let mut report = Report::new("fanout");
    describe(args, &run, &mut report);
    report.count("messages", "messages expected by each", messages);
    let begin = Mark { at_ns: shared.first_delivery_ns.get(), ..begin };
    delivered(&run, begin, end, &mut report);
    let expected = |subscriber: &Subscriber| {
        let mut found = subscriber.verdict(0);
        // Holes in the sequence are missing from the count as well: count each once.
        found.lost = found.lost.max(messages.saturating_sub(subscriber.received()));
        found
    };
    verdicts(&run, expected, &mut report);
    let surplus =
        |subscriber: &Rc<RefCell<Subscriber>>| subscriber.borrow().received().saturating_sub(messages);
    report.must_be_zero("surplus", "messages more than expected", run.subscribers.iter().map(surplus).sum());
    run.stalled.finish(&mut report).await;
    Ok(report.finish(args.target.json))
}

fn describe(args: &FanoutArgs, run: &Run, report: &mut Report) {
    report.count("subs", "subscribers", args.subs as u64);
    report.count("rooms", "rooms", run.shared.rooms.len() as u64);
    report.text(
        "delivery",
        "delivery",
        match args.delivery {
            Delivery::All => "all",
            Delivery::Latest => "latest",
        },
    );
    if !args.no_publish {
        report.count("payload_bytes", "payload bytes", args.payload as u64);
    }
}

fn delivered(run: &Run, begin: Mark, end: Mark, report: &mut Report) {
    let elapsed = seconds(begin.at_ns, end.at_ns);
    let deliveries = end.deliveries - begin.deliveries;
    report.count("deliveries", "deliveries measured", deliveries);
    let per_second = deliveries as f64 / elapsed;
    report.number("deliveries_per_s", "deliveries per second", Some(per_second), "/s");
    report.latency("latency_ms", "publish to receive", &run.shared.latency.borrow());
    let mut worst = Latency::new();
    for subscriber in &run.subscribers {
        worst.record_ns(subscriber.borrow().worst_ns);
    }
    report.latency("worst_ms", "longest that each subscriber waited", &worst);
    report.cpu(end.cpu.since(begin.cpu), elapsed, deliveries, "delivery");
    report.number("server_rss_before_kib", "server memory when it began", begin.rss_kib, "KiB");
    report.number("server_rss_kib", "server memory", run.server.rss_kib(), "KiB");
    report.check(deliveries > 0, "no delivery at all");
}

/// What every subscriber saw of the promise, and how the connections fared.
fn verdicts(run: &Run, verdict: impl Fn(&Subscriber) -> Violations, report: &mut Report) {
    let mut found = Violations::default();
    let mut closed = Errors::new();
    for subscriber in &run.subscribers {
        let subscriber = subscriber.borrow();
        found.add(verdict(&subscriber));
        if let Some(reason) = &subscriber.closed {
            *closed.entry(reason.to_string()).or_default() += 1;
        }
    }
    let shared = &run.shared;
    report.count("deliveries_total", "deliveries in all", shared.deliveries.get());
    report.must_be_zero("lost", "messages lost", found.lost);
    report.must_be_zero("duplicated", "messages duplicated", found.duplicated);
    report.must_be_zero("out_of_order", "messages out of order", found.out_of_order);
    report.must_be_zero("resyncs", "room logs restarted", shared.resyncs.get());
    report.errors("errors", "errors", &shared.errors.borrow());
    report.errors("closed", "subscribers closed early", &closed);
    report.errors("open_errors", "connections not opened", &run.open_errors);
    let subscribed = shared.subscribed.get();
    report.count("subscribed", "subscribed", subscribed as u64);
    report.check(subscribed == run.subscribers.len(), "not everybody could subscribe");
}
