//! `tickmesh feed`: publishes a file of ticks in its own timing; and the demo feed of `tickmesh dev`.
//!
//! Reading ([`ticks`]), timing ([`schedule`]) and publishing ([`sink`]) do not know each other.

mod schedule;
mod sink;
mod ticks;

use std::cell::Cell;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tickmesh_cluster::broker::Broker;

use crate::args::FeedArgs;
use crate::config::Unusable;
use crate::serve::StopSignals;
use schedule::Schedule;
use sink::{BrokerSink, HttpSink, Sink};
use ticks::{BadRow, Tick};

/// The ticks of `tickmesh dev`; `data/README.md` names their sources.
const DEMO: &str = include_str!("../data/demo.csv");
/// Ticks published at a time; each is two messages.
const BATCH: usize = 250;
/// Pause between the end of a file and its next round.
const ROUND_GAP: Duration = Duration::from_secs(1);

/// `tickmesh feed`
pub(crate) fn run(args: &FeedArgs) -> anyhow::Result<()> {
    if !(args.speed.is_finite() && args.speed >= 0.0) {
        return Err(Unusable(format!("--speed {}: expected a number from 0", args.speed)).into());
    }
    let file = std::fs::File::open(&args.file)
        .map_err(|error| Unusable(format!("--file {}: {error}", args.file.display())))?;
    let ticks = read(file, |bad| eprintln!("{}: {bad}, skipped", args.file.display()))
        .map_err(|error| Unusable(format!("--file {}: {error}", args.file.display())))?;
    let mut sink = HttpSink::new(&args.to, args.token.as_deref())?;
    actix_rt::System::new().block_on(async {
        let stop = StopSignals::new()?;
        let bar = if args.quiet { ProgressBar::hidden() } else { progress(ticks.good.len() as u64) };
        let begun = Instant::now();
        let published = Cell::new(0);
        let interrupted = tokio::select! {
            fed = feed(&ticks.good, args.speed, args.looped, &mut sink, &bar, &published) => { fed?; false }
            () = stop.wait() => !args.looped,
        };
        bar.finish_and_clear();
        if !args.quiet {
            println!(
                "{} rows, {} messages published, {} rows skipped, in {:.1} s",
                ticks.good.len() + ticks.bad,
                published.get(),
                ticks.bad,
                begun.elapsed().as_secs_f64()
            );
        }
        anyhow::ensure!(!interrupted, "interrupted");
        Ok(())
    })
}

/// The demo feed: round and round until its task is ended.
pub(crate) async fn demo(broker: Arc<dyn Broker>) {
    let ticks = match read(DEMO.as_bytes(), |bad| tracing::warn!("demo feed: {bad}")) {
        Ok(ticks) => ticks,
        Err(error) => return tracing::error!("demo feed: {error}"),
    };
    let mut sink = BrokerSink(broker);
    let result = feed(&ticks.good, 1.0, true, &mut sink, &ProgressBar::hidden(), &Cell::new(0)).await;
    if let Err(error) = result {
        tracing::error!("demo feed ended: {error:#}");
    }
}

struct Ticks {
    good: Vec<Tick>,
    bad: usize,
}

fn read(input: impl Read, mut report: impl FnMut(&BadRow)) -> anyhow::Result<Ticks> {
    let mut read = Ticks { good: Vec::new(), bad: 0 };
    for row in ticks::parse(input)? {
        match row {
            Ok(tick) => read.good.push(tick),
            Err(bad) => {
                report(&bad);
                read.bad += 1;
            }
        }
    }
    Ok(read)
}

/// Publishes the ticks when they are due, and counts the messages.
async fn feed(
    ticks: &[Tick],
    speed: f64,
    looped: bool,
    sink: &mut dyn Sink,
    bar: &ProgressBar,
    published: &Cell<u64>,
) -> anyhow::Result<()> {
    // Marks the messages of this run: sending them again after a lost answer does not double them.
    let run = format!("{:016x}", rand::random::<u64>());
    for round in 0u64.. {
        let (begun, mut rest) = (Instant::now(), ticks);
        let schedule = Schedule::new(ticks.first().map_or(0, |tick| tick.ts_ms), speed);
        while let Some(next) = rest.first() {
            let wait = schedule.due(next.ts_ms).saturating_sub(begun.elapsed());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let now = begun.elapsed();
            let due =
                rest.iter().take(BATCH).take_while(|tick| schedule.due(tick.ts_ms) <= now).count().max(1);
            let (batch, later) = rest.split_at(due);
            let messages: Vec<_> = batch
                .iter()
                .flat_map(|tick| tick.messages(&format!("{run}-{round}-{}", tick.line)))
                .collect();
            sink.publish(&messages).await?;
            published.set(published.get() + messages.len() as u64);
            rest = later;
            bar.inc(due as u64);
            let behind = now.saturating_sub(schedule.due(next.ts_ms));
            bar.set_message(format!("{} ms behind", behind.as_millis()));
        }
        if !looped || ticks.is_empty() {
            break;
        }
        tokio::time::sleep(ROUND_GAP).await;
        bar.set_position(0);
    }
    Ok(())
}

/// On standard error, where that is a terminal.
fn progress(rows: u64) -> ProgressBar {
    let style = "{elapsed_precise} {wide_bar} {pos}/{len} rows  {per_sec}  {msg}";
    ProgressBar::new(rows)
        .with_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()))
}
