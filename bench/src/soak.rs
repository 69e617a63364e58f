//! `bench soak`: mixed load for hours, and whether the server stays as it is: memory, file descriptors, threads.
//!
//! The load is all that the other measurements do apart: subscribers that check every message, slow readers, requests, and
//! clients of both protocols that come, publish, and leave in the midst of it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::TargetArgs;
use crate::client::{Closed, Connection, Target};
use crate::clock::Clock;
use crate::dialect::Proto;
use crate::fanout::{self, FanoutArgs};
use crate::opening::{self, Errors, wait_until};
use crate::procstat::{Figures, Processes};
use crate::report::Report;
use crate::requests::Requests;
use crate::scan::{self, Envelope, Item};

/// Samples that are taken, evenly spread.
const SAMPLES: u32 = 400;
/// The least time between two.
const LEAST: Duration = Duration::from_millis(250);
/// Growth between the second quarter and the last that counts as none: this part, and so many KiB, files and threads.
const PART: f64 = 0.05;
const KIB: f64 = 8_192.0;
const FILES: f64 = 16.0;
const THREADS: f64 = 1.0;
/// How long a client that comes and goes stays.
const STAY_MS: std::ops::Range<u64> = 50..2_000;
/// How long those that are left may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

/// One of them.
type Figure = fn(&Figures) -> f64;

/// Arguments of `bench soak`.
#[derive(Debug, clap::Args)]
pub struct SoakArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How long to apply the load
    #[arg(long = "for", value_name = "TIME", value_parser = crate::parse_duration, default_value = "1h")]
    duration: Duration,
    /// Subscribers that stay connected
    #[arg(long, value_name = "N", default_value_t = 300)]
    subs: usize,
    /// Rooms that the subscribers are spread over
    #[arg(long, value_name = "N", default_value_t = 10)]
    rooms: usize,
    /// Messages per second in each room
    #[arg(long, value_name = "PER_SECOND", default_value_t = 20.0)]
    rate: f64,
    /// Subscribers to the latest value that read at a tenth of the speed they need
    #[arg(long, value_name = "N", default_value_t = 20)]
    lagging: usize,
    /// Connections that make requests
    #[arg(long, value_name = "N", default_value_t = 20)]
    requesters: usize,
    /// Clients that connect, publish and disconnect again and again, half of them by Socket.IO
    #[arg(long, value_name = "N", default_value_t = 40)]
    coming: usize,
}

/// What is done beside the fan-out, and what is seen of the server meanwhile.
#[derive(Debug)]
pub(crate) struct Soak {
    server: Processes,
    clock: Clock,
    before: Figures,
    stop: Cell<bool>,
    /// Clients that come and go which have not left for good.
    coming: Cell<usize>,
    came: Cell<u64>,
    published: Cell<u64>,
    errors: RefCell<Errors>,
    samples: RefCell<Vec<Figures>>,
}

pub(crate) async fn run(args: SoakArgs) -> anyhow::Result<bool> {
    let targets = opening::resolve(&args.target, false).await?;
    let server = Processes::find(&args.target.pids, targets.iter().map(|target| target.addr));
    let Some(before) = server.figures() else {
        bail!("the server's process is not to be seen: give its --pid, on this machine");
    };
    let mut socketio = Vec::new();
    for url in &args.target.via {
        let root = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let root = format!("ws://{}", root.split(['/', '?']).next().unwrap_or(root));
        socketio.push(Target::resolve(&root, args.target.token.as_deref(), false, Proto::Socketio).await?);
    }
    let soak = Rc::new(Soak {
        server,
        clock: Clock::start(),
        before,
        stop: Cell::new(false),
        coming: Cell::new(args.coming),
        came: Cell::new(0),
        published: Cell::new(0),
        errors: RefCell::default(),
        samples: RefCell::default(),
    });
    let requests = Requests::open(&args.target, args.requesters).await?;
    let begun = Rc::new(Cell::new(false));
    let mut fanout = FanoutArgs::default();
    fanout.target = args.target;
    fanout.subs = args.subs;
    fanout.rooms = args.rooms;
    fanout.rate = args.rate;
    fanout.lagging = args.lagging;
    fanout.duration = args.duration;
    fanout.publishers = 2;
    fanout.requests = Some(requests.clone());
    fanout.soak = Some(soak.clone());
    let (started, duration, coming, beside) = (begun.clone(), args.duration, args.coming, soak.clone());
    tokio::task::spawn_local(async move {
        while !started.get() {
            sleep(Duration::from_millis(20)).await;
        }
        requests.begin();
        for number in 0..coming {
            let of = if number.is_multiple_of(2) { &targets } else { &socketio };
            let target = of[number / 2 % of.len()].clone();
            tokio::task::spawn_local(beside.clone().come_and_go(number, target));
        }
        beside.watch(duration).await;
    });
    fanout::run_observed(fanout, Some(begun)).await
}

impl Soak {
    async fn watch(&self, duration: Duration) {
        let every = (duration / SAMPLES).max(LEAST);
        while !self.stop.get() {
            let figures = self.server.figures();
            self.samples.borrow_mut().extend(figures);
            sleep(every).await;
        }
    }

    /// One client after the other, until it is over.
    async fn come_and_go(self: Rc<Self>, number: usize, target: Target) {
        while !self.stop.get() {
            let stay = Instant::now() + Duration::from_millis(rand::random_range(STAY_MS));
            match Connection::open(&target, self.clock, None).await {
                Ok(connection) => {
                    self.came.set(self.came.get() + 1);
                    if let Err(closed) = self.visit(number, stay, connection).await {
                        self.fail(&closed.to_string());
                    }
                }
                Err(error) => self.fail(&error.to_string()),
            }
            sleep_until(stay).await;
        }
        self.coming.set(self.coming.get() - 1);
    }

    /// Subscribes, publishes and asks, and goes without a word.
    async fn visit(&self, number: usize, until: Instant, mut connection: Connection) -> Result<(), Closed> {
        let room = format!("bench_soak_{}", number % 5);
        connection
            .out()
            .text(json!({"type": "subscribe", "request_id": "s", "room": room}).to_string().as_bytes());
        let messages = rand::random_range(0..20u32);
        for message in 0..messages {
            let payload =
                json!({"room": room, "event": "tick", "data": {"number": message, "pad": "x".repeat(150)}});
            let publish = json!({"type": "request", "request_id": format!("p{message}"), "action": "publish", "payload": payload});
            connection.out().text(publish.to_string().as_bytes());
        }
        let answered = Cell::new(0);
        let receive = poll_fn(|cx| {
            connection.poll_io(cx, |text, _, _| {
                let parsed = scan::parse(text, |item| {
                    let Item::Other(envelope) = item else { return };
                    match &*envelope.kind {
                        "response" if answers_publish(envelope) => answered.set(answered.get() + 1),
                        "error" => self.fail(envelope.error_code.as_deref().unwrap_or("error")),
                        _ => {}
                    }
                });
                if parsed.is_err() {
                    self.fail("message is not JSON");
                }
            })
        });
        let ended = timeout_at(until, receive).await;
        self.published.set(self.published.get() + u64::from(messages.min(answered.get())));
        ended.map_or(Ok(()), Err)
    }

    fn fail(&self, what: &str) {
        *self.errors.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }

    /// Ends it, and says whether the server stayed as it was. All connections but those that come and go are closed by then.
    pub(crate) async fn finish(&self, report: &mut Report) {
        self.stop.set(true);
        wait_until(LEAVING, || self.coming.get() == 0).await;
        report.count("visits", "clients that came and went", self.came.get());
        report.count("visits_published", "messages that they published", self.published.get());
        report.errors("visits_failed", "what they were refused", &self.errors.borrow());
        let samples = self.samples.take();
        report.count("samples", "looks at the server", samples.len() as u64);
        report.check(samples.len() >= 8, "too short to see whether anything grows");
        if samples.len() < 8 {
            return;
        }
        let quarter = samples.len() / 4;
        let mean = |samples: &[Figures], figure: Figure| {
            samples.iter().map(figure).sum::<f64>() / samples.len() as f64
        };
        let figures: [(&str, &str, Figure, f64, &str); 3] = [
            ("rss_kib", "resident memory", |f| f.rss_kib, KIB, "KiB"),
            ("open_files", "file descriptors", |f| f.files, FILES, ""),
            ("threads", "threads", |f| f.threads, THREADS, ""),
        ];
        for (key, label, figure, allowance, unit) in figures {
            let early = mean(&samples[quarter..2 * quarter], figure);
            let late = mean(&samples[samples.len() - quarter..], figure);
            report.number(
                &format!("{key}_before"),
                &format!("{label}, before"),
                Some(figure(&self.before)),
                unit,
            );
            report.number(&format!("{key}_early"), &format!("{label}, second quarter"), Some(early), unit);
            report.number(&format!("{key}_late"), &format!("{label}, last quarter"), Some(late), unit);
            let grew = late > early * (1.0 + PART) + allowance;
            report.check(!grew, &format!("{label} grew from {early:.0} to {late:.0} {unit}"));
        }
    }
}

/// Whether it answers one of the messages that a visit publishes: the subscription is answered, too.
fn answers_publish(response: &Envelope<'_>) -> bool {
    response.request_id.as_deref().is_some_and(|id| id.starts_with('p'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_subscription_is_none_to_a_message() {
        let answers = |id: &str| {
            let text =
                format!(r#"{{"type":"response","request_id":{id},"success":true,"data":{{"seq":4}}}}"#);
            answers_publish(&serde_json::from_str(&text).unwrap())
        };
        assert_eq!([r#""p0""#, r#""p19""#, r#""s""#, "null"].map(answers), [true, true, false, false]);
    }
}
