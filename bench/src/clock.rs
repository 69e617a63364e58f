//! Time of a run in nanoseconds, and an alarm that is finer than the runtime's timers.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A run starts at this reading, so that readings have 13 digits for the first two and a half hours and messages that
/// carry one are all of a size.
const START_NS: u64 = 1_000_000_000_000;

/// Monotonic clock of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { base: Instant::now() }
    }

    /// Nanoseconds on this run's scale; never 0.
    pub(crate) fn now_ns(self) -> u64 {
        START_NS + self.base.elapsed().as_nanos() as u64
    }
}

/// Seconds between two readings.
pub(crate) fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

/// Wakes a task at a reading of the clock, to some 50 µs. The runtime's own timers are rounded up to a millisecond,
/// which would be counted as latency of the server.
#[derive(Debug)]
pub(crate) struct Alarm {
    clock: Clock,
    timer: AsyncFd<OwnedFd>,
    armed_for: Option<u64>,
}

impl Alarm {
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd stays open while it is registered"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { clock, timer, armed_for: None })
    }

    /// Ready once the clock reads `deadline_ns`.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, deadline_ns: u64) -> Poll<io::Result<()>> {
        loop {
            let now = self.clock.now_ns();
            if now >= deadline_ns {
                return Poll::Ready(Ok(()));
            }
            if self.armed_for != Some(deadline_ns) {
                self.arm(Duration::from_nanos(deadline_ns - now))?;
                self.armed_for = Some(deadline_ns);
            }
            ready!(self.timer.poll_read_ready(cx))?.clear_ready();
            // Either the timer expired, and the clock says so now, or this was an expiry of an earlier deadline that
            // arming again has already reset: arm once more in both cases.
            self.armed_for = None;
        }
    }

    fn arm(&self, after: Duration) -> io::Result<()> {
        let value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
