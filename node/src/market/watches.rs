//! The alerts on one room's symbol, and what its ticks do to them.
//!
//! An alert's state says at which message it became so. Whoever takes over goes through the log again from there and leaves out,
//! for each alert, what is not newer than that: so it comes to the same, whoever looks and however often. A new alert begins
//! at the place in the log at which it was made.

use std::collections::BTreeMap;

use tickmesh_market::tick::Tick;
use tickmesh_market::watch::{Step, Watch};
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::Position;
use tickmesh_store::relational::{Alert, AlertState, Hit};

use super::desk::beginning;

/// The alerts of one symbol.
#[derive(Debug)]
pub(super) struct Watches {
    cursor: Position,
    /// Up to this number the log is as it was in the life before.
    began_at: u64,
    alerts: BTreeMap<u64, Watched>,
    /// Names of the fields that alerts are on, each once.
    fields: Vec<String>,
    hysteresis_bp: u64,
    fired: Vec<(Hit, AlertState)>,
    changed: BTreeMap<u64, AlertState>,
}

#[derive(Debug)]
struct Watched {
    alert: Alert,
    watch: Watch,
    /// Which of the fields.
    field: usize,
}

impl Watches {
    /// No alerts yet.
    pub(super) fn new(hysteresis_bp: u64) -> Self {
        Self {
            cursor: beginning(),
            began_at: 0,
            alerts: BTreeMap::new(),
            fields: Vec::new(),
            hysteresis_bp,
            fired: Vec::new(),
            changed: BTreeMap::new(),
        }
    }

    /// Up to where messages were taken; none where nobody waits for any.
    pub(super) fn cursor(&self) -> Option<&Position> {
        (!self.alerts.is_empty()).then_some(&self.cursor)
    }

    /// These are the alerts now; those that are known keep their state. Answers whether the cursor went back, to where a new
    /// one begins.
    pub(super) fn set(&mut self, alerts: Vec<Alert>) -> bool {
        let before = self.cursor().cloned();
        let mut known = std::mem::take(&mut self.alerts);
        self.fields.clear();
        let mut from = before.clone();
        for alert in alerts.into_iter().filter(|alert| alert.active) {
            let name = &alert.spec.field;
            let field = self.fields.iter().position(|field| field == name).unwrap_or_else(|| {
                self.fields.push(name.clone());
                self.fields.len() - 1
            });
            let watched = match known.remove(&alert.id) {
                Some(watched) => Watched { field, ..watched },
                None => {
                    from = Some(earlier(from, alert.state.at.as_ref()));
                    let AlertState { side, armed, .. } = alert.state;
                    let watch = Watch::restored(alert.spec.clone(), self.hysteresis_bp, side, armed);
                    Watched { alert, watch, field }
                }
            };
            self.alerts.insert(watched.alert.id, watched);
        }
        let moved = from != before;
        if let Some(from) = from {
            self.cursor = from;
        }
        moved
    }

    /// Takes the message after the cursor.
    pub(super) fn take(&mut self, at: &Position, message: &Message, tick: &Tick) {
        self.cursor = at.clone();
        if self.alerts.is_empty() {
            return;
        }
        let values = tick.fields(message, &self.fields);
        let mut over = Vec::new();
        for Watched { alert, watch, field } in self.alerts.values_mut() {
            let Some(value) = values.get(*field).copied().flatten() else { continue };
            let seen = alert.state.at.as_ref().is_some_and(|seen| {
                let seen_here = if seen.epoch == at.epoch { seen.seq } else { seen.seq.min(self.began_at) };
                at.seq <= seen_here
            });
            if seen {
                continue;
            }
            let step = watch.handle(value);
            if step == Step::Nothing {
                continue;
            }
            alert.state = AlertState { side: watch.side(), armed: watch.armed(), at: Some(at.clone()) };
            if step == Step::Changed {
                self.changed.insert(alert.id, alert.state.clone());
                continue;
            }
            self.changed.remove(&alert.id);
            let hit = Hit {
                hit_id: 0,
                alert_id: alert.id,
                user_id: alert.user_id.clone(),
                spec: alert.spec.clone(),
                reached: value,
                position: at.clone(),
                at: tick.at,
            };
            self.fired.push((hit, alert.state.clone()));
            if alert.spec.once {
                over.push(alert.id);
            }
        }
        for id in over {
            self.alerts.remove(&id);
        }
    }

    /// There is nothing before this position that could be taken; up to `began_at` its log is as it was in the life before.
    pub(super) fn skip(&mut self, to: Position, began_at: u64) {
        self.cursor = to;
        self.began_at = began_at;
    }

    /// What fired since this was asked last.
    pub(super) fn poll_fired(&mut self) -> Vec<(Hit, AlertState)> {
        std::mem::take(&mut self.fired)
    }

    /// Where alerts stand now that did not fire but changed since this was asked last.
    pub(super) fn poll_changed(&mut self) -> Vec<(u64, AlertState)> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }
}

/// The earlier of two places; of places in different lives of the log nobody can tell here, and all of it is gone through.
fn earlier(a: Option<Position>, b: Option<&Position>) -> Position {
    match (a, b) {
        (None, Some(b)) => b.clone(),
        (Some(a), Some(b)) if a.epoch == b.epoch => Position { seq: a.seq.min(b.seq), ..a },
        _ => beginning(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use tickmesh_protocol::market::{AlertSpec, Op, Symbol};
    use tickmesh_protocol::position::Epoch;

    use super::*;

    fn at(epoch: &str, seq: u64) -> Position {
        Position { epoch: Epoch::new(epoch), seq }
    }

    fn alert(id: u64, field: &str, since: Option<Position>) -> Alert {
        let symbol = Symbol::new("A").unwrap();
        let spec = AlertSpec { symbol, field: field.into(), op: Op::Above, value: 10.0, once: false };
        let state = AlertState { side: 0, armed: true, at: since };
        Alert { id, user_id: "u".into(), spec, created_at: 0, active: true, state }
    }

    /// Goes on through a log whose prices are these, and tells which messages fired.
    fn go(watches: &mut Watches, epoch: &str, prices: &[f64]) -> Vec<(u64, u64)> {
        for seq in watches.cursor.seq + 1..=prices.len() as u64 {
            let price = prices[seq as usize - 1];
            let data = RawValue::from_string(format!(r#"{{"price":{price},"heat":{price}}}"#)).unwrap();
            let message = Message {
                seq,
                timestamp: 0,
                accepted_at: 0,
                event: "q".into(),
                key: None,
                data,
                trace: None,
            };
            watches.take(&at(epoch, seq), &message, &Tick::read(&message));
        }
        watches.poll_fired().iter().map(|(hit, _)| (hit.alert_id, hit.position.seq)).collect()
    }

    #[test]
    fn a_new_alert_counts_from_where_it_was_made_also_what_was_taken_before_it_was_known() {
        let prices = [11.0, 9.0, 11.0, 9.0, 11.0];
        let mut watches = Watches::new(0);
        assert_eq!(watches.cursor(), None, "nobody waits for anything");
        assert!(watches.set(vec![alert(1, "price", Some(at("e", 3)))]));
        assert_eq!(go(&mut watches, "e", &prices), [(1, 5)]);
        // Made at 2, heard of now.
        assert!(watches.set(vec![alert(1, "price", None), alert(2, "heat", Some(at("e", 2)))]));
        assert_eq!(watches.cursor(), Some(&at("e", 2)));
        assert_eq!(go(&mut watches, "e", &prices), [(2, 3), (2, 5)], "and the other not again");
        // Before the room had its first message.
        assert!(watches.set(vec![alert(3, "price", None)]));
        assert_eq!(go(&mut watches, "e", &prices), [(3, 1), (3, 3), (3, 5)]);
        assert!(!watches.set(vec![alert(3, "price", None)]), "known");
        watches.set(Vec::new());
        assert_eq!(watches.cursor(), None);
    }

    #[test]
    fn what_fired_does_not_fire_again_in_the_next_life_of_the_log() {
        let prices = [9.0, 11.0, 9.0, 11.0, 9.0, 11.0];
        let state = AlertState { side: 0, armed: false, at: Some(at("old", 4)) };
        for (began_at, expected) in [(4, vec![(1, 6)]), (0, vec![(1, 2), (1, 4), (1, 6)])] {
            let mut watches = Watches::new(0);
            watches.set(vec![Alert { state: state.clone(), ..alert(1, "price", None) }]);
            watches.skip(at("new", 0), began_at);
            assert_eq!(go(&mut watches, "new", &prices), expected, "{began_at}");
        }
    }
}
