//! `tickmesh feed`: publishes a file of ticks in its own timing; and the demo feed of `tickmesh dev`.
//!
//! Reading ([`ticks`]), timing ([`schedule`]) and publishing ([`sink`]) do not know each other.

mod schedule;
mod sink;
mod ticks;

use std::cell::Cell;
use std::io::Read;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tickmesh_node::{Publisher, clock};

use crate::args::FeedArgs;
use crate::config::Unusable;
use crate::serve::StopSignals;
use schedule::{Schedule, Times};
use sink::{HttpSink, NodeSink, Sink};
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
    let ticks = match &args.file {
        Some(path) => {
            let unusable =
                |error: &dyn std::fmt::Display| Unusable(format!("--file {}: {error}", path.display()));
            let file = std::fs::File::open(path).map_err(|error| unusable(&error))?;
            read(file, |bad| eprintln!("{}: {bad}, skipped", path.display()))
                .map_err(|error| unusable(&error))?
        }
        None => read(DEMO.as_bytes(), |bad| eprintln!("demo feed: {bad}, skipped"))?,
    };
    // Recorded once, the demo's happen now.
    let times = if args.demo { Times::Now } else { Times::File };
    let mut sink = HttpSink::new(&args.server.via, args.server.token.as_deref())?;
    actix_rt::System::new().block_on(async {
        let stop = StopSignals::new()?;
        let bar = if args.quiet { ProgressBar::hidden() } else { progress(ticks.good.len() as u64) };
        let begun = Instant::now();
        let published = Cell::new(0);
        let interrupted = tokio::select! {
            fed = feed(&ticks.good, args.speed, args.looped, times, &mut sink, &bar, &published) => { fed?; false }
            () = stop.wait() => !args.looped,
        };
        bar.finish_and_clear();
        if !args.quiet {
            tickmesh_bench::out::line(format_args!("{} rows, {} messages published, {} rows skipped, in {:.1} s",
                ticks.good.len() + ticks.bad,
                published.get(),
                ticks.bad,
                begun.elapsed().as_secs_f64()));
        }
        anyhow::ensure!(!interrupted, "interrupted");
        Ok(())
    })
}

/// The demo feed: round and round until its task is ended, each as if it happened now.
pub(crate) async fn demo(publisher: Publisher) {
    let ticks = match read(DEMO.as_bytes(), |bad| tracing::warn!("demo feed: {bad}")) {
        Ok(ticks) => ticks,
        Err(error) => return tracing::error!("demo feed: {error}"),
    };
    let mut sink = NodeSink(publisher);
    let (bar, published) = (ProgressBar::hidden(), Cell::new(0));
    let result = feed(&ticks.good, 1.0, true, Times::Now, &mut sink, &bar, &published).await;
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
    times: Times,
    sink: &mut dyn Sink,
    bar: &ProgressBar,
    published: &Cell<u64>,
) -> anyhow::Result<()> {
    // Marks the messages of this run: sending them again after a lost answer does not double them.
    let run = format!("{:016x}", rand::random::<u64>());
    let at = || ticks.iter().map(|tick| tick.ts_ms);
    let (Some(first), Some(earliest), Some(latest)) = (at().next(), at().min(), at().max()) else {
        return Ok(());
    };
    for round in 0u64.. {
        let (begun, mut rest) = (Instant::now(), ticks);
        let schedule = Schedule::new(first, speed);
        let shift = times.shift(round, first, (earliest, latest), clock::now().utc);
        while let Some(next) = rest.first() {
            let wait = schedule.due(next.ts_ms).saturating_sub(begun.elapsed());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let now = begun.elapsed();
            let due =
                rest.iter().take(BATCH).take_while(|tick| schedule.due(tick.ts_ms) <= now).count().max(1);
            let (batch, later) = rest.split_at(due);
            let mut messages = Vec::with_capacity(2 * batch.len());
            for tick in batch {
                let id = format!("{run}-{round}-{}", tick.line);
                messages.extend(tick.messages(&id, tick.ts_ms.saturating_add_signed(shift))?);
            }
            sink.publish(&messages).await?;
            published.set(published.get() + messages.len() as u64);
            rest = later;
            bar.inc(due as u64);
            let behind = now.saturating_sub(schedule.due(next.ts_ms));
            bar.set_message(format!("{} ms behind", behind.as_millis()));
        }
        if !looped {
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::Value;

    use super::*;

    /// Takes so many messages.
    struct Taking(Vec<u64>, usize);

    #[async_trait(?Send)]
    impl Sink for Taking {
        async fn publish(&mut self, messages: &[ticks::Message<'_>]) -> anyhow::Result<()> {
            for message in messages {
                let data: Value = serde_json::from_str(message.data.get())?;
                self.0.push(data["ts"].as_u64().unwrap());
            }
            anyhow::ensure!(self.0.len() < self.1, "enough");
            Ok(())
        }
    }

    const HEADER: &str =
        "ts_ms,symbol,exchange,event,price,volume,bid_price,bid_volume,ask_price,ask_volume\n";

    #[tokio::test]
    async fn further_rounds_are_published_under_later_times() {
        let file = format!("{HEADER}5000,A,X,trade,1,,,,,\n5400,A,X,trade,1,,,,,\n");
        let ticks = read(file.as_bytes(), |bad| panic!("{bad}")).unwrap().good;
        for (times, rounds) in [(Times::File, 3), (Times::Now, 2)] {
            let mut sink = Taking(Vec::new(), 4 * rounds);
            let (bar, published) = (ProgressBar::hidden(), Cell::new(0));
            let begun = clock::now().utc;
            let fed = feed(&ticks, 0.0, true, times, &mut sink, &bar, &published).await;
            assert_eq!(fed.unwrap_err().to_string(), "enough");
            let at: Vec<u64> = sink.0.into_iter().step_by(2).collect();
            assert!(at.is_sorted_by(|earlier, later| earlier < later), "{at:?}");
            match times {
                Times::File => assert_eq!(at, [5_000, 5_400, 6_400, 6_800, 7_800, 8_200]),
                Times::Now => assert!(at[0] >= begun && at[2] <= clock::now().utc, "{at:?} from {begun}"),
            }
        }
    }
}
