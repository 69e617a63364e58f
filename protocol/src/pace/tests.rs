//! The controller against a thread that behaves as measured: it settles, and where it should.

use proptest::prelude::*;

use super::*;

const PERIOD: Duration = Duration::from_millis(300);
const TARGET: Duration = Duration::from_millis(50);
/// Seconds of a wake and of a message in it.
const WAKE_COST: f64 = 8e-6;
const MESSAGE_COST: f64 = 0.3e-6;

/// A thread with so many sessions that all get the same messages.
#[derive(Debug, Clone, Copy)]
struct Thread {
    sessions: f64,
    /// Messages a second, each a batch of its own.
    rate: f64,
    /// Load that has nothing to do with deliveries.
    other: f64,
    /// Publishers wait until so many messages have reached everybody before they send more.
    in_flight: Option<f64>,
}

impl Thread {
    fn steady(sessions: f64, rate: f64) -> Self {
        Self { sessions, rate, other: 0.0, in_flight: None }
    }

    /// Messages in a wake, and the time from one delivery to the next, under a window in seconds.
    fn cycle(&self, window: f64) -> (f64, f64) {
        let slower = 1.0 / (1.0 - self.other).max(0.05);
        let (wake, message) = (self.sessions * WAKE_COST * slower, self.sessions * MESSAGE_COST * slower);
        if let Some(in_flight) = self.in_flight {
            return (in_flight, window + wake + message * in_flight);
        }
        // Not busy until the next comes: waits for it.
        let merged = 1.0 + self.rate * window;
        if wake + message * merged <= 1.0 / self.rate {
            return (merged, window + 1.0 / self.rate);
        }
        let merged = self.rate * (window + wake) / (1.0 - (self.rate * message).min(0.99));
        (merged, window + wake + message * merged)
    }

    fn load(&self, window: f64) -> f64 {
        let (merged, cycle) = self.cycle(window);
        let busy = self.sessions * (WAKE_COST + MESSAGE_COST * merged) / cycle;
        (busy + self.other).min(1.0)
    }

    fn sample(&self, window: Duration) -> Sample {
        let window = window.as_secs_f64();
        let (merged, cycle) = self.cycle(window);
        let cycles = PERIOD.as_secs_f64() / cycle;
        let load = self.load(window);
        let busy = self.sessions * (WAKE_COST + MESSAGE_COST * merged);
        Sample {
            elapsed: PERIOD,
            demand: load,
            process: load * 0.9,
            delay: Duration::from_secs_f64(busy * load / 2.0),
            messages: (cycles * merged * self.sessions) as u64,
            offered: (cycles * merged * self.sessions) as u64,
            wakes: (cycles * self.sessions) as u64,
            reached: (cycles.min(1.0) * self.sessions) as u64,
        }
    }

    /// Runs so many periods; gives the windows, and why they changed.
    fn run(&self, pacer: &mut Pacer, periods: usize) -> Vec<(Duration, Option<Reason>)> {
        let step = |_| {
            let reason = pacer.observe(&self.sample(pacer.window()));
            (pacer.window(), reason)
        };
        (0..periods).map(step).collect()
    }
}

fn auto() -> Pacer {
    Pacer::new(Setting::Auto(TARGET))
}

#[test]
fn no_window_where_there_is_room() {
    let mut pacer = auto();
    // 50 messages a second to 500 sessions of this thread.
    let windows = Thread::steady(500.0, 50.0).run(&mut pacer, 100);
    assert!(windows.iter().all(|(window, _)| window.is_zero()), "{windows:?}");
}

#[test]
fn a_window_where_cpu_is_the_limit_and_none_again_afterwards() {
    let mut pacer = auto();
    let heavy = Thread::steady(500.0, 500.0);
    assert!(heavy.load(0.0) > 0.99, "{}", heavy.load(0.0));
    let windows = heavy.run(&mut pacer, 20);
    assert!(windows.iter().any(|(_, reason)| *reason == Some(Reason::Limit)));
    assert!(pacer.load() < HIGH, "{windows:?}");
    assert!(pacer.window() <= TARGET);
    let windows = Thread::steady(500.0, 50.0).run(&mut pacer, 10);
    assert!(pacer.window().is_zero(), "{windows:?}");
    assert!(windows.iter().any(|(_, reason)| *reason == Some(Reason::Room)));
}

#[test]
fn three_times_the_load_of_a_zero_window_fits() {
    // What fills the thread without a window.
    let rate = (1..).map(f64::from).find(|rate| Thread::steady(500.0, *rate).load(0.0) > 0.99).unwrap();
    let heavy = Thread::steady(500.0, 3.0 * rate);
    let mut pacer = auto();
    heavy.run(&mut pacer, 20);
    assert!(pacer.load() < HIGH, "{} at {rate} times 3, window {:?}", pacer.load(), pacer.window());
}

#[test]
fn publishers_that_wait_for_their_subscribers_are_not_held_up() {
    for in_flight in [2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 64.0] {
        let thread = Thread { in_flight: Some(in_flight), ..Thread::steady(500.0, 0.0) };
        let mut pacer = auto();
        let windows = thread.run(&mut pacer, 400);
        let open = windows.iter().filter(|(window, _)| !window.is_zero()).count();
        assert!(open <= 20, "{in_flight} in flight: {open} of 400 periods had a window");
    }
}

#[test]
fn other_work_opens_no_window() {
    // Requests fill the thread; a message now and then goes to a few.
    let mut pacer = auto();
    let windows = Thread { other: 0.95, ..Thread::steady(20.0, 5.0) }.run(&mut pacer, 50);
    assert!(windows.iter().all(|(window, _)| window.is_zero()), "{windows:?}");
}

#[test]
fn the_threads_own_delay_is_part_of_the_latency() {
    let mut pacer = auto();
    let heavy = Thread::steady(500.0, 500.0);
    // Others take what it leaves, so that it never has enough.
    let late =
        |delay, window| Sample { demand: 1.0, delay: Duration::from_millis(delay), ..heavy.sample(window) };
    for _ in 0..10 {
        pacer.observe(&late(5, pacer.window()));
    }
    assert!(pacer.window() > Duration::from_millis(15), "{:?}", pacer.window());
    let reason = pacer.observe(&late(45, pacer.window()));
    assert_eq!(reason, Some(Reason::Delay));
    assert!(pacer.window() <= Duration::from_millis(5), "{:?}", pacer.window());
}

#[test]
fn a_fixed_window_stays_and_a_new_setting_counts_at_once() {
    let mut pacer = Pacer::new(Setting::Fixed(TARGET));
    Thread::steady(500.0, 50.0).run(&mut pacer, 20);
    assert_eq!(pacer.window(), TARGET);
    assert_eq!(pacer.configure(Setting::Fixed(Duration::ZERO)), Some(Reason::Configured));
    assert!(pacer.window().is_zero());
    assert_eq!(pacer.configure(Setting::Auto(TARGET)), None, "the window is the same");
    let heavy = Thread::steady(500.0, 500.0);
    for _ in 0..10 {
        pacer.observe(&Sample { demand: 1.0, ..heavy.sample(pacer.window()) });
    }
    assert!(pacer.window() > Duration::from_millis(5), "{:?}", pacer.window());
    assert_eq!(pacer.configure(Setting::Auto(Duration::from_millis(5))), Some(Reason::Configured));
    assert_eq!(pacer.window(), Duration::from_millis(5));
}

proptest! {
    /// Whatever the load, it settles: no more than a late correction in the second half of a minute.
    #[test]
    fn a_steady_load_gets_a_steady_window(
        sessions in 1.0f64..5_000.0,
        rate in 1.0f64..3_000.0,
        other in 0.0f64..0.8,
    ) {
        let thread = Thread { other, ..Thread::steady(sessions, rate) };
        let mut pacer = auto();
        let windows = thread.run(&mut pacer, 200);
        let late = windows[100..].iter().filter(|(_, reason)| reason.is_some()).count();
        prop_assert!(late <= 1, "{late} late changes, {:?}", &windows[180..]);
        prop_assert!(pacer.window() <= TARGET);
        // Whoever has room without a window has none.
        if thread.load(0.0) < LOW {
            prop_assert!(pacer.window().is_zero());
        }
    }

    /// Loads that jump between two levels, and noise on all that is measured: the window changes with the levels, not all the time.
    #[test]
    fn noise_does_not_move_the_window(
        sessions in 100.0f64..2_000.0,
        rate in 10.0f64..1_000.0,
        noise in prop::collection::vec(0.93f64..1.07, 200),
    ) {
        let thread = Thread::steady(sessions, rate);
        let mut pacer = auto();
        let mut late = 0;
        for (n, noise) in noise.into_iter().enumerate() {
            let sample = thread.sample(pacer.window());
            let noisy = |count: u64| (count as f64 * noise) as u64;
            let sample = Sample {
                demand: (sample.demand * noise).min(1.0),
                offered: noisy(sample.offered),
                wakes: noisy(sample.wakes),
                messages: noisy(sample.messages),
                ..sample
            };
            let changed = pacer.observe(&sample).is_some();
            late += usize::from(changed && n >= 20);
        }
        prop_assert!(late <= 20, "{late} changes in 180 periods");
    }

    /// Nothing that is measured makes it panic or leave its bounds.
    #[test]
    fn any_measurement_is_taken(
        samples in prop::collection::vec(
            (0u64..2_000_000, -1.0f64..3.0, -1.0f64..3.0, 0u64..10_000_000, any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()),
            0..100,
        ),
    ) {
        let mut pacer = auto();
        for (micros, demand, process, delay, messages, offered, wakes, reached) in samples {
            pacer.observe(&Sample {
                elapsed: Duration::from_micros(micros),
                demand,
                process,
                delay: Duration::from_micros(delay),
                messages: messages.into(),
                offered: offered.into(),
                wakes: wakes.into(),
                reached: reached.into(),
            });
            prop_assert!(pacer.window() <= TARGET);
        }
    }
}
