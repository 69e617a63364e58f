//! A terminal: a program in a pseudo-terminal, and what is on its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::{DEADLINE, eventually};

/// A program that runs in a terminal. It is killed when it is dropped.
pub struct Terminal {
    child: Child,
    /// Where keys go in.
    keys: File,
    /// The program's side.
    line: OwnedFd,
    emulator: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Runs a program in a terminal of that size.
    ///
    /// # Panics
    /// When there is no pseudo-terminal, or the program cannot be started.
    #[must_use]
    pub fn run(command: &mut Command, columns: u16, rows: u16) -> Self {
        let open = || -> std::io::Result<(File, OwnedFd)> {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
            let ours = openpt(flags)?;
            grantpt(&ours)?;
            unlockpt(&ours)?;
            let line = ioctl_tiocgptpeer(&ours, flags)?;
            Ok((File::from(ours), line))
        };
        let (keys, line) = open().unwrap_or_else(|error| panic!("no pseudo-terminal: {error}"));
        let side = || line.try_clone().unwrap_or_else(|error| panic!("{error}"));
        let mut output = keys.try_clone().unwrap_or_else(|error| panic!("{error}"));
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&line, size).unwrap_or_else(|error| panic!("{error}"));
        let child = command.env("TERM", "xterm-256color").stdin(side()).stdout(side()).stderr(side()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let emulator = Arc::new(Mutex::new(vt100::Parser::new(cells(rows), cells(columns), 0)));
        let screen = emulator.clone();
        // Ends when nobody has the other side any more.
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                screen.lock().process(&bytes[..read]);
            }
        });
        Self { child, keys, line, emulator }
    }

    /// Types keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes it that large; the program is told.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.emulator.lock().screen_mut().set_size(cells(rows), cells(columns));
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.line, size).unwrap_or_else(|error| panic!("{error}"));
        self.signal("-WINCH");
    }

    /// What is on the screen.
    #[must_use]
    pub fn text(&self) -> String {
        self.emulator.lock().screen().contents()
    }

    /// Waits until the screen is as it should be.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn shows(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let text = self.text();
            if condition(&text) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "not within {DEADLINE:?}: {what}; the screen is\n{text}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the program has the screen for itself.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap_or_else(|error| panic!("{error}")).local_modes;
        let emulator = self.emulator.lock();
        let screen = emulator.screen();
        screen.alternate_screen()
            && screen.hide_cursor()
            && !modes.intersects(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Whether the terminal is as a shell expects it.
    #[must_use]
    pub fn restored(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap_or_else(|error| panic!("{error}")).local_modes;
        let emulator = self.emulator.lock();
        let screen = emulator.screen();
        !screen.alternate_screen()
            && !screen.hide_cursor()
            && modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Sends a signal, such as `-TERM`.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Waits until the program has ended. What it wrote last may not be on the screen yet.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().ok().flatten();
            let ended = status.is_some();
            async move { ended }
        })
        .await;
        status.unwrap_or_else(|| unreachable!("it was waited for"))
    }
}

/// A screen has at least one of each.
fn cells(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap_or(NonZeroU16::MIN)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
