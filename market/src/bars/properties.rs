use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{MINUTE, OFF, START, exchange};
use super::*;

/// A store that keeps every bar as it was last told, and checks what it is told.
#[derive(Debug, Default, PartialEq)]
struct Store(BTreeMap<(Period, u64), Bar>);

impl Store {
    fn take(&mut self, changes: &mut Vec<Change>) {
        for Change { period, bar, revised } in changes.drain(..) {
            assert!(bar.is_consistent(), "{bar:?}");
            let before = self.0.insert((period, bar.start), bar);
            assert_eq!(
                revised,
                before.is_some_and(|before| before.closed),
                "revised is what had been closed"
            );
            if let Some(before) = before {
                assert!(bar.ticks + u64::from(bar.closed) > before.ticks, "told without a change: {bar:?}");
                assert!(bar.closed || !before.closed, "opened again: {bar:?}");
            }
        }
        for period in Period::ALL {
            let mut bars = self.0.range((period, 0)..=(period, u64::MAX)).rev();
            assert!(bars.next().is_some());
            assert!(bars.all(|(_, bar)| bar.closed), "only the newest is open");
        }
    }

    fn run(exchange: &Exchange, rules: Rules, ticks: &[(u64, f64, f64)]) -> Self {
        let mut store = Self::default();
        let mut builder = BarBuilder::new(exchange.clone(), rules);
        let mut changes = Vec::new();
        for &(at, price, volume) in ticks {
            builder.handle_tick(at, price, volume, &mut changes).unwrap();
            for period in Period::ALL {
                assert!(changes.iter().any(|change| change.period == period), "every tick is in all periods");
            }
            store.take(&mut changes);
        }
        store
    }

    /// The bars of sorted ticks, by their definition.
    fn by_definition(exchange: &Exchange, ticks: &[(u64, f64, f64)]) -> Self {
        let mut store = Self::default();
        for period in Period::ALL {
            let mut groups: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
            for &(at, price, volume) in ticks {
                groups.entry(exchange.bucket(at, period).unwrap().start).or_default().push((price, volume));
            }
            let newest = groups.keys().last().copied();
            for (start, group) in groups {
                let prices = || group.iter().map(|(price, _)| *price);
                let bar = Bar {
                    start,
                    open: group[0].0,
                    high: prices().fold(0.0, f64::max),
                    low: prices().fold(f64::MAX, f64::min),
                    close: group[group.len() - 1].0,
                    volume: group.iter().map(|(_, volume)| volume).sum(),
                    turnover: group.iter().map(|(price, volume)| price * volume).sum(),
                    ticks: group.len() as u64,
                    closed: Some(start) != newest,
                };
                store.0.insert((period, start), bar);
            }
        }
        store
    }
}

/// Ticks in the order of their times, and how much later than that each arrives.
fn ticks(late_ms: u64) -> impl Strategy<Value = Vec<(u64, f64, f64, u64)>> {
    let step = prop_oneof![
        3 => 0u64..3,
        3 => 0u64..3000,
        2 => Just(30_000u64),
        2 => Just(MINUTE),
        1 => Just(15 * MINUTE),
        1 => 0..3 * 60 * MINUTE,
    ];
    // Quarters, so that sums do not depend on their order.
    let tick = (step, 1u32..400, 0u32..10, 0..=late_ms);
    prop::collection::vec(tick, 1..80).prop_map(|ticks| {
        let mut at = START;
        let one = |(step, price, volume, delay)| {
            at += step;
            (at, f64::from(price) / 4.0, f64::from(volume), delay)
        };
        ticks.into_iter().map(one).collect()
    })
}

fn late_and_ticks() -> impl Strategy<Value = (u64, Vec<(u64, f64, f64, u64)>)> {
    prop::sample::select(vec![0, 1, 1000, 90_000, 20 * MINUTE, 5 * 60 * MINUTE])
        .prop_flat_map(|late_ms| (Just(late_ms), ticks(late_ms)))
}

fn exchanges() -> impl Strategy<Value = Exchange> {
    prop::sample::select(vec![
        exchange(&[]),
        exchange(&["09:00-09:30", "10:00-11:00", "11:15-24:00"]),
        exchange(&["00:00-02:00", "09:00-09:01", "09:02-10:00", "20:00-24:00"]),
    ])
}

proptest! {
    #[test]
    fn bars_do_not_depend_on_the_order_of_arrival((late_ms, ticks) in late_and_ticks(), exchange in exchanges()) {
        let mut ticks = ticks;
        ticks.retain(|(at, ..)| exchange.bucket(*at, Period::Minute).is_some());
        ticks.sort_by_key(|(at, .., delay)| at + delay);
        let arriving: Vec<_> = ticks.into_iter().map(|(at, price, volume, _)| (at, price, volume)).collect();
        let mut sorted = arriving.clone();
        sorted.sort_by_key(|(at, ..)| *at);
        let rules = Rules { late_ms, max_jump_percent: 0 };
        let expected = Store::by_definition(&exchange, &sorted);
        prop_assert_eq!(&Store::run(&exchange, rules, &sorted), &expected);
        prop_assert_eq!(&Store::run(&exchange, rules, &arriving), &expected);
    }

    #[test]
    fn another_process_continues_without_a_seam(ticks in ticks(0), seam in 0usize..80, all: bool) {
        let exchange = exchange(&[]);
        let ticks: Vec<_> = ticks.into_iter().map(|(at, price, volume, _)| (at, price, volume)).collect();
        let (before, after) = ticks.split_at(seam.min(ticks.len()));
        let mut store = Store::run(&exchange, OFF, before);
        let mut builder = BarBuilder::new(exchange.clone(), OFF);
        for ((period, _), bar) in &store.0 {
            if all || !bar.closed {
                prop_assert!(builder.restore(*period, *bar));
            }
        }
        let mut changes = Vec::new();
        for &(at, price, volume) in after {
            prop_assert_eq!(builder.handle_tick(at, price, volume, &mut changes), Ok(()));
            store.take(&mut changes);
        }
        prop_assert_eq!(store, Store::by_definition(&exchange, &ticks));
    }

    #[test]
    fn short_bars_merge_into_long_ones(ticks in ticks(0), reversed: bool) {
        let exchange = exchange(&[]);
        let ticks: Vec<_> = ticks.into_iter().map(|(at, price, volume, _)| (at, price, volume)).collect();
        let store = Store::by_definition(&exchange, &ticks);
        for ((period, start), long) in &store.0 {
            let end = exchange.bucket(*start, *period).unwrap().end;
            let mut minutes: Vec<_> =
                store.0.range((Period::Minute, *start)..(Period::Minute, end)).map(|(_, bar)| *bar).collect();
            if reversed {
                minutes.reverse();
            }
            let mut merged = minutes[0];
            minutes[1..].iter().for_each(|bar| merged.merge(bar));
            prop_assert_eq!(merged, Bar { start: merged.start, ..*long });
        }
    }

    #[test]
    fn any_input_is_survived(
        ticks in prop::collection::vec((any::<u64>(), any::<f64>(), any::<f64>(), any::<bool>()), 0..40),
        late_ms: u64, max_jump_percent: u64,
    ) {
        let mut builder = BarBuilder::new(exchange(&["09:00-24:00"]), Rules { late_ms, max_jump_percent });
        let mut out = Vec::new();
        for (at, price, volume, near) in ticks {
            let at = if near { START + at % (100 * MINUTE) } else { at };
            let _ = builder.handle_tick(at, price.abs(), volume.abs(), &mut out);
            builder.handle_time(at, &mut out);
            let bar = Bar {
                start: at, open: price, high: price, low: price, close: price, volume, turnover: volume, ticks: at, closed: near,
            };
            builder.restore(Period::Minute, bar);
        }
        prop_assert!(out.iter().all(|change| change.bar.is_consistent()));
    }
}
