//! `bench idle`: connections that only exist. What does one cost the server, and how fast can they come?

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::TargetArgs;
use crate::client::Connection;
use crate::clock::{Clock, seconds};
use crate::opening::{self, Errors, Opener, wait_until};
use crate::procstat::{CpuReading, Processes};
use crate::report::{Progress, Report};
use crate::scan::{self, Item};

/// Arguments of `bench idle`.
#[derive(Debug, clap::Args)]
pub struct IdleArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 5000)]
    conns: usize,
    /// Room that every connection subscribes to
    #[arg(long, value_name = "ROOM", default_value = "bench_idle")]
    subscribe: String,
    /// Connect without subscribing
    #[arg(long)]
    no_subscribe: bool,
    /// How long to hold the connections before the server's memory is read
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "10s")]
    hold: Duration,
    /// How long to wait for the last subscription
    #[arg(long, value_name = "TIME", value_parser = crate::parse_duration, default_value = "30s")]
    timeout: Duration,
}

#[derive(Default)]
struct Shared {
    /// The message that subscribes; none if that is not asked for.
    subscribe: Option<String>,
    /// Connections that are as ready as they get.
    ready: Cell<usize>,
    last_ready_ns: Cell<u64>,
    errors: RefCell<Errors>,
    closed: RefCell<Errors>,
}

impl Shared {
    fn closed_count(&self) -> u64 {
        self.closed.borrow().values().sum()
    }
}

async fn hold(shared: Rc<Shared>, mut connection: Connection) {
    if let Some(text) = &shared.subscribe {
        connection.out().text(text.as_bytes());
    }
    // With a subscription its response makes a connection ready, otherwise the server's first words.
    let expected = if shared.subscribe.is_some() { "response" } else { "notification" };
    let mut ready = false;
    let closed = poll_fn(|cx| {
        connection.poll_io(cx, |text, now, _| {
            let parsed = scan::parse(text, |item| {
                let Item::Other(envelope) = item else { return };
                if envelope.kind == expected && !std::mem::replace(&mut ready, true) {
                    shared.ready.set(shared.ready.get() + 1);
                    shared.last_ready_ns.set(now);
                } else if envelope.kind == "error" {
                    let code = envelope.error_code.as_deref().unwrap_or("error without a code");
                    *shared.errors.borrow_mut().entry(code.to_owned()).or_default() += 1;
                }
            });
            if parsed.is_err() {
                *shared.errors.borrow_mut().entry("message is not JSON".to_owned()).or_default() += 1;
            }
        })
    })
    .await;
    *shared.closed.borrow_mut().entry(closed.to_string()).or_default() += 1;
}

pub(crate) async fn run(args: IdleArgs) -> anyhow::Result<bool> {
    let clock = Clock::start();
    let targets = opening::resolve(&args.target, false).await?;
    let server = Processes::find(&args.target.pids, targets.iter().map(|target| target.addr));
    let subscribe = (!args.no_subscribe).then(|| {
        serde_json::json!({"type": "subscribe", "request_id": "s", "room": args.subscribe}).to_string()
    });
    let shared = Rc::new(Shared { subscribe, ..Shared::default() });
    let opener =
        Opener { targets: targets.into(), clock, concurrency: args.target.concurrency, receive_buffer: None };

    let rss_before = server.rss_kib();
    let (cpu_before, begin_ns) = (CpuReading::now(&server), clock.now_ns());
    let opened = Rc::new(Cell::new(0usize));
    let (count, holder) = (opened.clone(), shared.clone());
    let open_errors = opener
        .open_all(
            args.conns,
            |number| number,
            move |_, connection| {
                count.set(count.get() + 1);
                tokio::task::spawn_local(hold(holder.clone(), connection));
            },
        )
        .await?;
    wait_until(args.timeout, || shared.ready.get() as u64 + shared.closed_count() >= opened.get() as u64)
        .await;
    let elapsed = seconds(begin_ns, shared.last_ready_ns.get());
    let cpu = CpuReading::now(&server).since(cpu_before);
    let rss_open = server.rss_kib();

    let progress = Progress::start("idle", args.hold);
    let status = || {
        format!(
            "{} connections",
            shared.ready.get() as u64 - shared.closed_count().min(shared.ready.get() as u64)
        )
    };
    let held_from = CpuReading::now(&server);
    progress.sleep_until(Instant::now() + args.hold, status, || true).await;
    drop(progress);
    let held = CpuReading::now(&server).since(held_from);
    let rss_held = server.rss_kib();

    let ready = shared.ready.get() as u64;
    let each = |rss: Option<f64>| Some((rss? - rss_before?) / ready as f64);
    let mut report = Report::new("idle");
    report.count("conns", "connections", args.conns as u64);
    report.text("room", "subscribed to", if args.no_subscribe { "nothing" } else { &args.subscribe });
    report.count("ready", "connections made ready", ready);
    report.number("connects_per_s", "connects per second", Some(ready as f64 / elapsed), "/s");
    report.number("server_rss_before_kib", "server memory before", rss_before, "KiB");
    report.number("server_rss_open_kib", "server memory once all are open", rss_open, "KiB");
    report.number("server_rss_held_kib", "server memory after holding", rss_held, "KiB");
    report.number("kib_per_conn_open", "per connection once open", each(rss_open), "KiB");
    report.number("kib_per_conn", "per connection after holding", each(rss_held), "KiB");
    report.cpu(cpu, elapsed, ready, "connect");
    let idle_cores = held.server.map(|cpu| cpu / args.hold.as_secs_f64());
    report.number("server_cores_holding", "server cores while holding", idle_cores, "");
    report.errors("errors", "errors", &shared.errors.borrow());
    report.errors("closed", "connections closed early", &shared.closed.borrow());
    report.errors("open_errors", "connections not opened", &open_errors);
    report.check(ready == args.conns as u64, "not all connections became ready");
    Ok(report.finish(args.target.json))
}
