//! `bench publish`: closed-loop publishes. Every publisher sends a batch of messages, over its WebSocket or in one
//! `POST`, and the next batch when all of it is answered. Nobody subscribes: it is the way into the logs that is
//! measured.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use crate::TargetArgs;
use crate::batches::{BatchPublisher, Shared};
use crate::client::Target;
use crate::clock::{Clock, seconds};
use crate::http::HttpConnection;
use crate::opening::{self, Errors, Opener, wait_until};
use crate::procstat::{CpuReading, Processes};
use crate::report::{Progress, Report};

/// Where `--http` posts to.
const PUBLISH_PATH: &str = "/api/v1/publish";

/// Arguments of `bench publish`.
#[derive(Debug, clap::Args)]
pub struct PublishArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Publishing connections
    #[arg(long, value_name = "N", default_value_t = 4)]
    publishers: usize,
    /// Messages that a publisher sends at a time; the next follow when all are answered
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Rooms, which every publisher publishes into in turn
    #[arg(long, value_name = "N", default_value_t = 20)]
    rooms: usize,
    /// Size of a message's data
    #[arg(long, value_name = "BYTES", default_value_t = 150)]
    payload: usize,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "10s")]
    duration: Duration,
    /// How long to apply the load before measuring
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "1s")]
    warmup: Duration,
    /// Publish by POST /api/v1/publish on keep-alive connections instead of WebSockets
    #[arg(long)]
    http: bool,
    /// How long to wait for the last answers
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "5s")]
    timeout: Duration,
}

/// Readings at one moment.
struct Mark {
    at_ns: u64,
    accepted: u64,
    cpu: CpuReading,
}

impl Mark {
    fn now(shared: &Shared, server: &Processes) -> Self {
        let (at_ns, accepted) = (shared.clock.now_ns(), shared.accepted.get());
        Self { at_ns, accepted, cpu: CpuReading::now(server) }
    }
}

pub(crate) async fn run(args: PublishArgs) -> anyhow::Result<bool> {
    if args.publishers == 0 || args.batch == 0 || args.rooms == 0 {
        bail!("--publishers, --batch and --rooms must be at least 1");
    }
    let clock = Clock::start();
    let targets = opening::resolve(&args.target, false).await?;
    let server = Processes::find(&args.target.pids, targets.iter().map(|target| target.addr));
    let shared = Rc::new(Shared::new(clock, args.rooms, args.batch, args.payload));
    let (open, open_errors) = if args.http {
        start_http(&args, &shared, &targets).await?
    } else {
        start(&args, &shared, targets).await?
    };

    let alive = || shared.closed.borrow().values().sum::<u64>() < open;
    let progress = Progress::start("publish", args.warmup + args.duration);
    let mut last = 0;
    let mut status = || {
        let accepted = shared.accepted.get();
        format!("{} publishes/s", (accepted - std::mem::replace(&mut last, accepted)) * 10)
    };
    progress.sleep_until(Instant::now() + args.warmup, &mut status, alive).await;
    let begin = Mark::now(&shared, &server);
    shared.measure_from_ns.set(begin.at_ns);
    progress.sleep_until(Instant::now() + args.duration, &mut status, alive).await;
    let end = Mark::now(&shared, &server);
    drop(progress);
    shared.stop.set(true);
    wait_until(args.timeout, || shared.outstanding() == 0).await;
    let rss = server.rss_kib();
    Ok(report(&args, &shared, &open_errors, &begin, &end, rss))
}

/// Opens the WebSockets, and lets the publishers go once all are there. Returns their number and the failures.
async fn start(
    args: &PublishArgs,
    shared: &Rc<Shared>,
    targets: Vec<Target>,
) -> anyhow::Result<(u64, Errors)> {
    let clock = shared.clock;
    let opener =
        Opener { targets: targets.into(), clock, concurrency: args.target.concurrency, receive_buffer: None };
    let connections = Rc::new(RefCell::new(Vec::new()));
    let opened = connections.clone();
    let errors = opener
        .open_all(args.publishers, |number| number, move |_, connection| opened.borrow_mut().push(connection))
        .await?;
    let connections = connections.take();
    let open = connections.len() as u64;
    for (index, connection) in connections.into_iter().enumerate() {
        tokio::task::spawn_local(BatchPublisher::new(index, shared.clone()).run_websocket(connection));
    }
    Ok((open, errors))
}

/// The same with `--http`.
async fn start_http(
    args: &PublishArgs,
    shared: &Rc<Shared>,
    targets: &[Target],
) -> anyhow::Result<(u64, Errors)> {
    let mut connections = Vec::with_capacity(args.publishers);
    let mut errors = Errors::new();
    for target in targets.iter().cycle().take(args.publishers) {
        match HttpConnection::open(target, PUBLISH_PATH).await {
            Ok(connection) => connections.push(connection),
            Err(error) if connections.is_empty() => {
                bail!("cannot open a connection to {}: {error}", target.addr);
            }
            Err(error) => *errors.entry(error.to_string()).or_default() += 1,
        }
    }
    let open = connections.len() as u64;
    for (index, connection) in connections.into_iter().enumerate() {
        tokio::task::spawn_local(BatchPublisher::new(index, shared.clone()).run_http(connection));
    }
    Ok((open, errors))
}

fn report(
    args: &PublishArgs,
    shared: &Shared,
    open_errors: &Errors,
    begin: &Mark,
    end: &Mark,
    rss_kib: Option<f64>,
) -> bool {
    let accepted = end.accepted - begin.accepted;
    let elapsed = seconds(begin.at_ns, end.at_ns);

    let mut report = Report::new("publish");
    report.text("over", "published over", if args.http { "http" } else { "websocket" });
    report.count("publishers", "publishers", args.publishers as u64);
    report.count("batch", "messages at a time of each", args.batch as u64);
    report.count("rooms", "rooms", args.rooms as u64);
    report.count("payload_bytes", "payload bytes", args.payload as u64);
    report.number("seconds", "measured for", Some(elapsed), "s");
    report.count("accepted", "publishes measured", accepted);
    report.number("publishes_per_s", "publishes accepted per second", Some(accepted as f64 / elapsed), "/s");
    report.count("accepted_total", "publishes accepted with warm-up", shared.accepted.get());
    report.latency("latency_ms", "batch sent to each answer", &shared.latency.borrow());
    report.cpu(end.cpu.since(begin.cpu), elapsed, accepted, "publish");
    report.number("server_rss_kib", "server memory", rss_kib, "KiB");
    let restarts = shared.rooms.iter().map(|room| room.positions.borrow().restarts()).sum();
    report.count("restarts", "room logs restarted", restarts);
    report.must_be_zero("seq_repeated", "seqs given again", shared.repeated.get());
    report.must_be_zero("seq_out_of_order", "seqs of a publisher out of order", shared.out_of_order.get());
    report.errors("errors", "errors", &shared.errors.borrow());
    report.must_be_zero("timeouts", "publishes never answered", shared.outstanding());
    report.errors("closed", "connections closed early", &shared.closed.borrow());
    report.errors("open_errors", "connections not opened", open_errors);
    report.check(accepted > 0, "no publish accepted at all");
    report.finish(args.target.json)
}
