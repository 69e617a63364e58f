//! How long a worker thread waits for more before it delivers: the flush window and its controller.
//!
//! What a delivery costs is mostly the waking and the write, which messages that go together share. So waiting makes
//! deliveries cheaper, and only that: where there is CPU left it would be delay for nothing. The controller measures
//! the thread for a while under one window, foretells from it what the load would be under another, and takes the
//! shortest window under which there is room.
//!
//! Foretelling is what keeps it still: a window is not narrowed because the load is low *with* it, but only if the load
//! would be low *without*. Between two marks, [`LOW`] and
//! [`HIGH`] or, once there is a window, [`STILL_HIGH`], nothing is changed.
//!
//! It must not know clocks, threads or sessions: what was measured is an argument.

#[cfg(test)]
mod tests;

use std::time::Duration;

/// Load above which there begins to be a window.
pub const HIGH: f64 = 0.80;
/// Load above which it is widened: a thread at its limit does not show how far beyond it is, so a first step is short.
pub const STILL_HIGH: f64 = 0.60;
/// Load that a new window aims at.
pub const AIM: f64 = 0.50;
/// Load below which a narrower window is looked for.
pub const LOW: f64 = 0.30;
/// Messages in one wake beyond which merging more saves hardly anything.
pub const ENOUGH: f64 = 64.0;

/// What a message costs beside the wake that carries it, in wakes.
const PER_MESSAGE: f64 = 0.012;
/// Seconds of CPU that a wake costs at least: where all wakes together would be a small part of the load, waiting does not help.
const WAKE: f64 = 5e-6;
/// That part.
const WORTH: f64 = 0.1;
/// The shortest window: timers know no shorter time.
const SHORTEST: Duration = Duration::from_millis(1);
/// A window is widened at most to this, or to four times what it was.
const FIRST: Duration = Duration::from_millis(10);
/// Part of its messages that a thread may lose by a window. Who loses more has publishers that wait for their subscribers,
/// and whom a wait holds up.
const LOSS: f64 = 0.15;
/// Decisions after the first wait in which that is looked at: later the load is another one.
const WATCH: u32 = 10;
/// How long a window that held up publishers is not tried again, at first and at most; doubled each time.
const REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(120);

/// How the window is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Always this.
    Fixed(Duration),
    /// As short as there is room for, and never longer than this.
    Auto(Duration),
}

/// What was measured of one thread under one window. It should span several tenths of a second: what comes once in it
/// tells nothing about merging.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// For how long.
    pub elapsed: Duration,
    /// Part of that time in which the thread ran, or would have run but for others on its core. 0 to 1.
    pub demand: f64,
    /// Part of the CPU that the process may use which it used. 0 to 1.
    pub process: f64,
    /// How late, on average, something that was due came to run.
    pub delay: Duration,
    /// Messages handed to sessions, once for each session.
    pub messages: u64,
    /// Times that a session would have been woken without any merging.
    pub offered: u64,
    /// Times that a session was woken.
    pub wakes: u64,
    /// Sessions that were woken: how often that would have been with a window as long as the sample.
    pub reached: u64,
}

/// Why a window was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Wider: CPU is the limit.
    Limit,
    /// Narrower: there is room with less.
    Room,
    /// Narrower: more than enough messages go together.
    Merged,
    /// Narrower: the thread's own delay leaves less of the latency that is aimed at.
    Delay,
    /// Closed: publishers wait for their subscribers, and the window held them up.
    HeldUp,
    /// The configuration changed.
    Configured,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Limit, Self::Room, Self::Merged, Self::Delay, Self::HeldUp, Self::Configured];

    /// A short label, for operators.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "cpu limit",
            Self::Room => "room",
            Self::Merged => "merged",
            Self::Delay => "delay",
            Self::HeldUp => "held up",
            Self::Configured => "configured",
        }
    }
}

/// The controller of one thread's window; see the module's documentation.
#[derive(Debug)]
pub struct Pacer {
    setting: Setting,
    window: Duration,
    load: f64,
    /// Messages a second before there was a window, and for how many decisions more they are compared.
    before: Option<(f64, u32)>,
    /// Decisions in a row in which too many of them were missing.
    lost: u32,
    /// For how long no window is tried.
    resting: Duration,
    next_rest: Duration,
}

/// What a sample says: seconds and rates.
struct Measured {
    load: f64,
    delay: f64,
    messages: f64,
    offered: f64,
    wakes: f64,
    /// Batches that come for one session in a second, beyond the one that a wake is for.
    arrivals: f64,
    /// The window that all of it is of, in seconds.
    window: f64,
}

impl Measured {
    /// Wakes a second under another window, in seconds.
    fn wakes_under(&self, window: f64) -> f64 {
        let merging = |window: f64| 1.0 + self.arrivals * window;
        (self.wakes * merging(self.window) / merging(window)).min(self.offered.max(self.wakes))
    }

    fn cost(&self, wakes: f64) -> f64 {
        wakes + PER_MESSAGE * self.messages
    }

    /// The load under another window, as if deliveries were all of it: what else there is makes the change smaller than
    /// foretold, so that steps are too short rather than too long.
    fn load_under(&self, window: f64) -> f64 {
        let now = self.cost(self.wakes);
        if now > 0.0 { self.load * self.cost(self.wakes_under(window)) / now } else { self.load }
    }

    /// The window, in seconds, under which there are so many wakes a second.
    fn window_for(&self, wakes: f64) -> f64 {
        if self.arrivals <= 0.0 || wakes <= 0.0 {
            return f64::INFINITY;
        }
        let merging = (1.0 + self.arrivals * self.window) * self.wakes / wakes;
        ((merging - 1.0) / self.arrivals).max(0.0)
    }

    /// The window under which the load is this.
    fn window_at(&self, load: f64) -> f64 {
        let cost = self.cost(self.wakes) * load / self.load.max(f64::MIN_POSITIVE);
        self.window_for(cost - PER_MESSAGE * self.messages)
    }

    /// The shortest window under which enough messages share a wake.
    fn enough(&self) -> f64 {
        self.window_for(self.messages / ENOUGH)
    }

    /// Deliveries are enough of the load, and close enough to each other, for a window to help.
    fn worth_waiting(&self, longest: f64) -> bool {
        let share = self.offered * WAKE >= WORTH * self.load;
        share && self.arrivals * longest >= 0.2
    }
}

impl Pacer {
    /// A controller; `Auto` begins with no window.
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        let window = match setting {
            Setting::Fixed(window) => window,
            Setting::Auto(_) => Duration::ZERO,
        };
        Self { setting, window, load: 0.0, before: None, lost: 0, resting: Duration::ZERO, next_rest: REST }
    }

    /// How long to wait for more after the first message.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The load that the last decision went by, 0 to 1.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.load
    }

    /// Takes another setting; says whether the window changed.
    pub fn configure(&mut self, setting: Setting) -> Option<Reason> {
        if setting == self.setting {
            return None;
        }
        let before = self.window;
        *self = Self { load: self.load, ..Self::new(setting) };
        if let Setting::Auto(target) = setting {
            // From where it is: what was needed so far is needed still.
            self.window = before.min(target);
        }
        (self.window != before).then_some(Reason::Configured)
    }

    /// Takes what was measured since the last call; says why the window was changed, if it was.
    pub fn observe(&mut self, sample: &Sample) -> Option<Reason> {
        let seconds = sample.elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let rate = |count: u64| count as f64 / seconds;
        let measured = Measured {
            load: sample.demand.max(sample.process).clamp(0.0, 1.0),
            delay: sample.delay.as_secs_f64(),
            messages: rate(sample.messages),
            offered: rate(sample.offered),
            wakes: rate(sample.wakes),
            arrivals: match sample.reached {
                0 => 0.0,
                reached => (sample.offered as f64 / reached as f64 - 1.0).max(0.0) / seconds,
            },
            window: self.window.as_secs_f64(),
        };
        self.load = measured.load;
        self.resting = self.resting.saturating_sub(sample.elapsed);
        let Setting::Auto(target) = self.setting else { return None };
        let (window, reason) = self.decide(&measured, target.as_secs_f64())?;
        // Whole microseconds, and none that a timer cannot keep.
        let window = Duration::from_micros((window * 1e6) as u64);
        let window = if window < SHORTEST / 2 { Duration::ZERO } else { window.max(SHORTEST) };
        if window == self.window {
            return None;
        }
        if self.window.is_zero() {
            self.before = Some((measured.messages, WATCH));
        } else if window.is_zero() {
            self.before = None;
        }
        self.window = window;
        Some(reason)
    }

    fn decide(&mut self, measured: &Measured, target: f64) -> Option<(f64, Reason)> {
        let now = measured.window;
        let before = self.before.take();
        self.before = before.filter(|(_, left)| *left > 1).map(|(before, left)| (before, left - 1));
        let is_lost = before.is_some_and(|(before, _)| measured.messages < (1.0 - LOSS) * before);
        self.lost = if is_lost { self.lost + 1 } else { 0 };
        // Once may be chance.
        if self.lost >= 2 {
            self.lost = 0;
            self.resting = self.next_rest;
            self.next_rest = (2 * self.next_rest).min(LONGEST_REST);
            return Some((0.0, Reason::HeldUp));
        }
        // The thread's own delay is part of the latency that is aimed at.
        let longest = (target - measured.delay).max(0.0);
        if now > 1.1 * longest + SHORTEST.as_secs_f64() {
            return Some((longest, Reason::Delay));
        }
        let enough = measured.enough();
        if now > 0.0 && enough < 0.8 * now {
            return Some((enough, Reason::Merged));
        }
        let high = if now > 0.0 { STILL_HIGH } else { HIGH };
        if measured.load > high {
            if !self.resting.is_zero() || !measured.worth_waiting(longest) {
                return None;
            }
            let first = FIRST.as_secs_f64().max(4.0 * now);
            let wider = measured.window_at(AIM).min(enough).min(longest).min(first);
            let wider = wider.max(if enough > 0.0 { SHORTEST.as_secs_f64() } else { 0.0 });
            return (wider > 1.1 * now).then_some((wider, Reason::Limit));
        }
        if measured.load < LOW && now > 0.0 {
            if measured.load_under(0.0) <= AIM {
                return Some((0.0, Reason::Room));
            }
            let narrower = measured.window_at(AIM).max(now / 2.0).max(SHORTEST.as_secs_f64());
            return (narrower < 0.9 * now).then_some((narrower, Reason::Room));
        }
        if now == 0.0 && measured.load < LOW {
            self.next_rest = REST;
        }
        None
    }
}
