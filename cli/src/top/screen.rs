//! The terminal: keys and answers come in, the screen goes out.
//!
//! Invariant: whoever leaves this file leaves the terminal as it was: by return, by error, by a signal that can be caught,
//! by panic.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::columns::Sorting;
use super::model::Answers;
use super::now;
use super::view::{Then, View};
use super::watch::{self, Unanswered};
use crate::api::Api;

/// How often the clock and the ages are drawn anew, whatever is answered.
const REDRAW: Duration = Duration::from_secs(1);

/// The terminal while it is taken over.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                // Half of it may be done.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        // A panic's hook has done it before it wrote the panic, which another time would write over.
        if !std::thread::panicking() {
            let _ = ratatui::try_restore();
        }
    }
}

/// Shows the cluster until a key or a signal ends it.
pub(super) async fn run(api: Api, interval: Duration, sorting: Sorting) -> anyhow::Result<()> {
    let mut view = View::new(api.url(), sorting);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (tell, mut told) = mpsc::channel(1);
    let asking = actix_rt::spawn(ask(api, interval, tell));
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let mut screen = Screen::open().context("the terminal cannot be used")?;
    let mut keys = EventStream::new();
    let ended = async {
        let mut answered = false;
        loop {
            screen.0.draw(|frame| view.draw(frame, now())).context("the terminal cannot be drawn to")?;
            tokio::select! {
                key = keys.next() => match key {
                    Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                        if view.key(key) == Then::Quit {
                            return Ok(());
                        }
                    }
                    // A new size is seen when it is drawn.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error).context("the terminal cannot be read"),
                    None => return Ok(()),
                },
                answer = told.recv() => match answer.context("nobody asks any more")? {
                    Ok(answers) => {
                        answered = true;
                        view.tell(&answers, now());
                    }
                    Err(Unanswered::Denied(text)) if !answered => bail!(text),
                    Err(Unanswered::Denied(text) | Unanswered::Away(text)) => view.fail(&text, now()),
                },
                _ = redraw.tick() => {}
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
            }
        }
    }
    .await;
    asking.abort();
    ended
}

/// Looks again and again, and tells each time. It ends when nobody listens.
async fn ask(api: Api, interval: Duration, tell: mpsc::Sender<Result<Answers, Unanswered>>) {
    let mut times = tokio::time::interval(interval);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut processes = 0;
    loop {
        times.tick().await;
        let answer = watch::look(&api, processes).await;
        if let Ok(answers) = &answer {
            let count = |list: &str| answers.cluster[list].as_array().map_or(0, Vec::len);
            processes = count("nodes") + count("gateways");
        }
        if tell.send(answer).await.is_err() {
            return;
        }
    }
}
