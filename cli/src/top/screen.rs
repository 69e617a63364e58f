//! The terminal: keys and answers come in, the screen goes out.
//!
//! Invariant: whoever leaves this file leaves the terminal as it was: by return, by error, by a signal that can be caught,
//! by panic.

use std::io::{self, Write as _};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, EventStream, KeyEventKind};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::columns::Sorting;
use super::model::Answers;
use super::now;
use super::row::Row;
use super::view::{Then, View};
use super::watch::{self, Unanswered};
use crate::api::Api;

/// How often the clock and the ages are drawn anew, whatever is answered.
const REDRAW: Duration = Duration::from_secs(1);

/// The terminal while it is taken over.
struct Screen {
    size: (u16, u16),
    /// What it shows: lines that stay as they are need not be written.
    shown: Vec<Row>,
}

impl Screen {
    fn open() -> io::Result<Self> {
        // A panic is to be read on the terminal as it was.
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let _ = restore();
                told(panic);
            }));
        });
        enable_raw_mode()?;
        let screen = Self { size: (0, 0), shown: Vec::new() };
        // From here on the terminal is given back when this ends.
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Shows what the view has for the terminal as large as it is now.
    fn draw(&mut self, view: &mut View, now: u64) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let size = size()?;
        if size != self.size {
            self.size = size;
            self.shown.clear();
            queue!(out, Clear(ClearType::All))?;
        }
        let rows = view.draw(size.0.into(), size.1.into(), now);
        for (y, row) in rows.iter().enumerate().filter(|(y, row)| self.shown.get(*y) != Some(row)) {
            queue!(out, MoveTo(0, y as u16))?;
            row.write(&mut out)?;
        }
        self.shown = rows;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A panic's hook has done it before it wrote the panic, which another time would write over.
        if !std::thread::panicking() {
            let _ = restore();
        }
    }
}

fn restore() -> io::Result<()> {
    let raw = disable_raw_mode();
    execute!(io::stdout(), LeaveAlternateScreen, Show)?;
    raw
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
            screen.draw(&mut view, now()).context("the terminal cannot be drawn to")?;
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
