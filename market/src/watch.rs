//! When a price alert fires.
//!
//! A [`Watch`] holds what one alert has to know of the past: on which side of its value the field was, and whether it is
//! armed. Both are plain values, so that another process can go on with them.
//!
//! Invariants:
//! * Between two fires the condition was false, or the field crossed back, at least once.
//! * After a crossing has fired, the field may waver around the value, inside the band, without another fire.
//! * A watch restored with [`side`](Watch::side) and [`armed`](Watch::armed) does what the one they are of would have done.
//!
//! It must not know whose alert it is, when it fires, or who is told; `once` is for the caller.

use tickmesh_protocol::market::{AlertSpec, Op};

/// What a value does to a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is as before.
    Nothing,
    /// The side, or whether it is armed, is another: to be kept.
    Changed,
    /// The alert fires. The side, or whether it is armed, is another too.
    Fires,
}

/// One alert and its state.
///
/// `>`, `<`, `>=`, `<=` fire when the condition becomes true, also with the first value. Then they are disarmed until it is
/// false. They have no side.
///
/// `crosses` takes its side from the first value that is not the alert's, and fires when a later one is on the other side. A
/// value that is exactly the alert's is on neither: the side stays what it was until the field moves beyond. After it has
/// fired it is disarmed while the field is nearer to the alert's value than the band. The value that crosses counts: if it
/// lands outside the band, the watch stays armed. A change of side while disarmed does not fire, then or later.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    spec: AlertSpec,
    /// Distance from the alert's value that arms a crossing.
    band: f64,
    side: i8,
    armed: bool,
}

impl Watch {
    /// An alert that has seen nothing. The band of `crosses` is so many basis points (1/10000) of the alert's value on
    /// either side: none around 0, and none with 0 basis points.
    #[must_use]
    pub fn new(spec: AlertSpec, hysteresis_bp: u64) -> Self {
        Self::restored(spec, hysteresis_bp, 0, true)
    }

    /// An alert as it was left.
    #[must_use]
    pub fn restored(spec: AlertSpec, hysteresis_bp: u64, side: i8, armed: bool) -> Self {
        let band = hysteresis_bp as f64 / 10_000.0 * spec.value.abs();
        Self { spec, band, side: side.signum(), armed }
    }

    /// Takes in the next value of the field; one that is not finite counts as none.
    pub fn handle(&mut self, value: f64) -> Step {
        if !value.is_finite() {
            return Step::Nothing;
        }
        let before = (self.side, self.armed);
        let fires = match self.spec.op {
            Op::Above => self.becomes(value > self.spec.value),
            Op::Below => self.becomes(value < self.spec.value),
            Op::AtLeast => self.becomes(value >= self.spec.value),
            Op::AtMost => self.becomes(value <= self.spec.value),
            Op::Crosses => self.crosses(value),
        };
        if fires {
            Step::Fires
        } else if before != (self.side, self.armed) {
            Step::Changed
        } else {
            Step::Nothing
        }
    }

    /// Where the field was last: 1 above the alert's value, -1 below, 0 not known. Always 0 unless the alert is `crosses`.
    #[must_use]
    pub fn side(&self) -> i8 {
        self.side
    }

    /// It can fire.
    #[must_use]
    pub fn armed(&self) -> bool {
        self.armed
    }

    /// The alert.
    #[must_use]
    pub fn spec(&self) -> &AlertSpec {
        &self.spec
    }

    fn becomes(&mut self, holds: bool) -> bool {
        let fires = holds && self.armed;
        self.armed = !holds;
        fires
    }

    fn crosses(&mut self, value: f64) -> bool {
        let side = if value > self.spec.value {
            1
        } else if value < self.spec.value {
            -1
        } else {
            self.side
        };
        let fires = self.armed && self.side != 0 && side != self.side;
        self.side = side;
        let outside = (value - self.spec.value).abs() >= self.band;
        self.armed = outside || (self.armed && !fires);
        fires
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tickmesh_protocol::market::Symbol;

    use super::*;

    const OPS: [Op; 5] = [Op::Above, Op::Below, Op::AtLeast, Op::AtMost, Op::Crosses];

    fn watch(op: Op, value: f64, hysteresis_bp: u64) -> Watch {
        let symbol = Symbol::new("600519").unwrap();
        Watch::new(AlertSpec { symbol, field: "price".to_owned(), op, value, once: false }, hysteresis_bp)
    }

    /// Which of these values fire.
    fn fires(watch: &mut Watch, values: &[f64]) -> Vec<bool> {
        values.iter().map(|value| watch.handle(*value) == Step::Fires).collect()
    }

    #[test]
    fn conditions_fire_when_they_become_true() {
        let values = [100.0, 101.0, 102.0, 100.0, 99.0, 100.0, 101.0];
        for (op, expected) in [
            (Op::Above, [false, true, false, false, false, false, true]),
            (Op::AtLeast, [true, false, false, false, false, true, false]),
            (Op::Below, [false, false, false, false, true, false, false]),
            (Op::AtMost, [true, false, false, true, false, false, false]),
        ] {
            assert_eq!(fires(&mut watch(op, 100.0, 50), &values), expected, "{op:?}");
        }
    }

    #[test]
    fn what_is_to_be_kept_is_told() {
        let mut above = watch(Op::Above, 100.0, 0);
        let steps = [99.0, 101.0, 102.0, 100.0, 99.0].map(|value| above.handle(value));
        assert_eq!(steps, [Step::Nothing, Step::Fires, Step::Nothing, Step::Changed, Step::Nothing]);
        let mut crosses = watch(Op::Crosses, 100.0, 100);
        // Side; nothing; crossed; side while disarmed; armed.
        let steps = [98.0, 97.0, 100.5, 99.5, 99.0].map(|value| crosses.handle(value));
        assert_eq!(steps, [Step::Changed, Step::Nothing, Step::Fires, Step::Changed, Step::Changed]);
        assert_eq!((crosses.side(), crosses.armed(), crosses.spec().value), (-1, true, 100.0));
    }

    #[test]
    fn the_first_value_only_sets_the_side() {
        assert_eq!(
            fires(&mut watch(Op::Crosses, 100.0, 0), &[150.0, 101.0, 99.0, 101.0]),
            [false, false, true, true]
        );
        // Exactly on the value there is no side yet.
        assert_eq!(fires(&mut watch(Op::Crosses, 100.0, 0), &[100.0, 101.0, 99.0]), [false, false, true]);
    }

    #[test]
    fn to_touch_is_not_to_cross() {
        let values = [99.0, 100.0, 99.0, 100.0, 101.0, 100.0, 101.0];
        let expected = [false, false, false, false, true, false, false];
        assert_eq!(fires(&mut watch(Op::Crosses, 100.0, 0), &values), expected);
    }

    #[test]
    fn a_crossing_is_armed_by_the_band_on_either_side() {
        // 1 percent of 100.
        let values = [99.5, 100.5, 99.5, 100.5, 101.0, 99.9, 98.0, 100.1];
        let expected = [false, true, false, false, false, true, false, true];
        assert_eq!(fires(&mut watch(Op::Crosses, 100.0, 100), &values), expected);
        // One that leaps over the whole band stays armed.
        assert_eq!(fires(&mut watch(Op::Crosses, 100.0, 100), &[90.0, 110.0, 90.0]), [false, true, true]);
        // A change of side while disarmed is not made up for.
        assert_eq!(
            fires(&mut watch(Op::Crosses, 100.0, 100), &[99.5, 100.5, 98.0, 97.0]),
            [false, true, false, false]
        );
    }

    #[test]
    fn a_zero_value_has_no_band() {
        assert_eq!(fires(&mut watch(Op::Crosses, 0.0, 10_000), &[-1e-9, 1e-9, -1e-9]), [false, true, true]);
        assert_eq!(
            fires(&mut watch(Op::Crosses, -100.0, 100), &[-99.5, -100.5, -99.5]),
            [false, true, false]
        );
    }

    #[test]
    fn what_is_no_number_is_not_seen() {
        for op in OPS {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let mut watch = watch(op, 100.0, 0);
                let before = watch.clone();
                assert_eq!(watch.handle(bad), Step::Nothing);
                assert_eq!(watch, before);
                watch.handle(99.0);
                let before = watch.clone();
                assert_eq!(watch.handle(bad), Step::Nothing);
                assert_eq!(watch, before, "nor does it arm what is disarmed");
            }
        }
    }

    /// Few values, so that they often meet the alert's, 100.
    fn path() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            4 => (980u32..=1020).prop_map(|tenths| f64::from(tenths) / 10.0),
            4 => (99u32..=101).prop_map(f64::from),
            1 => any::<f64>(),
        ];
        prop::collection::vec(value, 0..60)
    }

    proptest! {
        #[test]
        fn conditions_fire_as_often_as_they_become_true(path in path()) {
            type Holds = fn(f64) -> bool;
            let conditions: [(Op, Holds); 4] = [
                (Op::Above, |value| value > 100.0),
                (Op::Below, |value| value < 100.0),
                (Op::AtLeast, |value| value >= 100.0),
                (Op::AtMost, |value| value <= 100.0),
            ];
            for (op, holds) in conditions {
                let mut held = false;
                let becomes = |value: &f64| {
                    let before = if value.is_finite() { std::mem::replace(&mut held, holds(*value)) } else { held };
                    value.is_finite() && !before && holds(*value)
                };
                let expected: Vec<bool> = path.iter().map(becomes).collect();
                prop_assert_eq!(fires(&mut watch(op, 100.0, 50), &path), expected);
            }
        }

        #[test]
        fn wavering_inside_the_band_fires_once(
            value in prop_oneof![0.01f64..1e6, -1e6f64..-0.01],
            bp in 1u64..1000,
            above: bool,
            parts in prop::collection::vec(-0.999f64..0.999, 1..60),
        ) {
            let band = value.abs() * bp as f64 / 10_000.0;
            let side = if above { 1.0 } else { -1.0 };
            let mut watch = watch(Op::Crosses, value, bp);
            watch.handle(value + side * 2.0 * band);
            // The crossing, then anything inside the band.
            prop_assert_eq!(watch.handle(value - side * band / 2.0), Step::Fires);
            let path: Vec<f64> = parts.iter().map(|part| value + part * band).collect();
            prop_assert!(!fires(&mut watch, &path).contains(&true));
            // Away and back again.
            watch.handle(value + side * 2.0 * band);
            prop_assert_eq!(watch.handle(value - side * band / 2.0), Step::Fires);
        }

        #[test]
        fn without_a_band_every_change_of_side_fires(path in path()) {
            let sides: Vec<bool> = path
                .iter()
                .filter(|value| value.is_finite() && **value != 100.0)
                .map(|value| *value > 100.0)
                .collect();
            let changes = sides.windows(2).filter(|pair| pair[0] != pair[1]).count();
            let fired = fires(&mut watch(Op::Crosses, 100.0, 0), &path).into_iter().filter(|fires| *fires).count();
            prop_assert_eq!(fired, changes);
        }

        #[test]
        fn a_restored_one_goes_on_as_if_nothing_had_happened(path in path(), bp in 0u64..300) {
            for op in OPS {
                let mut whole = watch(op, 100.0, bp);
                // As kept: written only when a step says so.
                let mut kept = (whole.side(), whole.armed());
                for value in &path {
                    let mut restored = Watch::restored(whole.spec().clone(), bp, kept.0, kept.1);
                    let step = whole.handle(*value);
                    prop_assert_eq!(restored.handle(*value), step);
                    prop_assert_eq!(&restored, &whole);
                    if step != Step::Nothing {
                        prop_assert!(kept != (whole.side(), whole.armed()));
                        kept = (whole.side(), whole.armed());
                    }
                }
            }
        }
    }
}
