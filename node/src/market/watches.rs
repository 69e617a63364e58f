//! The alerts on one room's symbol, and what its ticks do to them.
//!
//! An alert's state says at which message it became so. Whoever takes over goes through the log again and leaves out, for each
//! alert, what is not newer than that: so it comes to the same, whoever looks and however often.

use std::collections::BTreeMap;

use tickmesh_market::tick::Tick;
use tickmesh_market::watch::{Step, Watch};
use tickmesh_protocol::message::Message;
use tickmesh_protocol::position::Position;
use tickmesh_store::relational::{Alert, AlertState, Hit};

/// The alerts of one symbol.
#[derive(Debug)]
pub(super) struct Watches {
    cursor: Position,
    alerts: BTreeMap<u64, (Alert, Watch)>,
    hysteresis_bp: u64,
    fired: Vec<(Hit, AlertState)>,
    changed: BTreeMap<u64, AlertState>,
}

impl Watches {
    /// Looks at all of the log that there is, for these alerts.
    pub(super) fn new(alerts: Vec<Alert>, cursor: Position, hysteresis_bp: u64) -> Self {
        let mut watches = Self {
            cursor,
            alerts: BTreeMap::new(),
            hysteresis_bp,
            fired: Vec::new(),
            changed: BTreeMap::new(),
        };
        watches.set(alerts);
        watches
    }

    pub(super) fn cursor(&self) -> &Position {
        &self.cursor
    }

    /// These are the alerts now; those that are known keep their state.
    pub(super) fn set(&mut self, alerts: Vec<Alert>) {
        let mut known = std::mem::take(&mut self.alerts);
        for alert in alerts.into_iter().filter(|alert| alert.active) {
            let held = known.remove(&alert.id).unwrap_or_else(|| {
                let AlertState { side, armed, .. } = alert.state;
                let watch = Watch::restored(alert.spec.clone(), self.hysteresis_bp, side, armed);
                (alert, watch)
            });
            self.alerts.insert(held.0.id, held);
        }
    }

    /// Takes the message after the cursor; `live` if it comes as it is published.
    pub(super) fn take(&mut self, at: &Position, message: &Message, tick: &Tick, live: bool) {
        self.cursor = at.clone();
        let mut over = Vec::new();
        for (alert, watch) in self.alerts.values_mut() {
            let seen = match &alert.state.at {
                Some(seen) => seen.epoch == at.epoch && seen.seq >= at.seq,
                // Nobody is told of what was before the alert.
                None => !live && message.timestamp < alert.created_at,
            };
            if seen {
                continue;
            }
            let Some(value) = tick.field(message, &alert.spec.field) else { continue };
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

    /// There is nothing before this position that could be taken.
    pub(super) fn skip(&mut self, to: Position) {
        self.cursor = to;
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
