//! `tickmesh top`: the cluster in a terminal, or as plain lines where there is none.
//!
//! [`model`] says what is known, [`columns`] and [`text`] how it reads, [`view`] what is on the screen, in [`row`]s,
//! [`plain`] what is in the lines without one; [`watch`] asks the cluster and [`screen`] owns the terminal.
//!
//! Invariants: the terminal is as it was when the process ends, however it ends (SIGKILL aside); no key waits for an answer.

mod columns;
#[cfg(test)]
mod fixture;
mod model;
mod plain;
mod row;
mod screen;
mod text;
mod view;
mod watch;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;

pub(crate) use columns::Column;

use crate::api::Api;
use crate::args::TopArgs;
use crate::reach;
use columns::Sorting;
use model::{Liveness, Model};
use plain::Plain;
use watch::Unanswered;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the cluster until it is told to stop.
pub(crate) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let sorting = Sorting { column: args.sort, reversed: args.reverse };
    actix_rt::System::new().block_on(async {
        let api = Api::via(&args.server, PATIENCE)?;
        if args.once || !io::stdout().is_terminal() {
            lines(&api, args, sorting).await
        } else {
            screen::run(api, args.interval, sorting).await
        }
    })
}

/// Writes a block each interval. Who reads no more has seen enough.
async fn lines(api: &Api, args: &TopArgs, sorting: Sorting) -> anyhow::Result<()> {
    let mut plain = Plain::new(sorting);
    let mut times = tokio::time::interval(args.interval);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut liveness = Liveness::default();
    let mut members = 0;
    let mut answered = false;
    loop {
        times.tick().await;
        let look = watch::look(api, members);
        let looked = if args.once {
            reach::first(api.url(), look, |error| matches!(error, Unanswered::Denied(_))).await?
        } else {
            look.await
        };
        match looked {
            Ok(answers) => {
                answered = true;
                let told_at = now();
                let mut model = Model::of(&answers, &mut liveness, told_at);
                members = model.processes.len();
                if let Some(trouble) = &answers.trouble {
                    eprintln!("tickmesh: {}", text::clean(trouble));
                }
                match plain.write(&mut io::stdout().lock(), &mut model, told_at) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
            }
            Err(Unanswered::Denied(text)) if !answered => bail!(text),
            Err(Unanswered::Denied(text) | Unanswered::Away(text)) if args.once => bail!(text),
            Err(Unanswered::Denied(text) | Unanswered::Away(text)) => {
                eprintln!("tickmesh: {}", text::clean(&text));
            }
        }
        if args.once {
            return Ok(());
        }
    }
}

/// UTC milliseconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}
