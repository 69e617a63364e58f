//! From figures to alarms: a rule's condition has to last before it fires, and its opposite before it is over.
//!
//! Invariants: an alarm fires once until it is over; what was not looked at for a while is no figure, neither good nor bad.

use std::collections::BTreeMap;

use super::readings::{Reading, Sample, readings};
use super::rules::{Rule, RuleName};
use super::{Alarm, State};

/// Figures further apart than this do not belong to one stretch, in milliseconds; and what has had none for so long is not
/// there any more.
const GAP_MS: u64 = 10_000;

/// What is known of one rule and subject.
#[derive(Debug, Default)]
struct Watch {
    /// When there was a figure last.
    seen: u64,
    /// Since when all figures have been beyond the threshold, and since when all have been good.
    breached: Option<u64>,
    cleared: Option<u64>,
    /// The newest figure.
    value: f64,
    firing: Option<Alarm>,
}

/// All alarms, and what may become some.
#[derive(Debug, Default)]
pub struct Engine {
    watches: BTreeMap<(RuleName, String), Watch>,
}

impl Engine {
    /// Goes on with an alarm as somebody else told it; `at` is now. That what it is about is not there (any more) shows only
    /// some time later.
    pub fn adopt(&mut self, alarm: Alarm, at: u64) {
        let Some(rule) = RuleName::find(&alarm.rule) else { return };
        let watch = self.watches.entry((rule, alarm.subject.clone())).or_default();
        watch.seen = watch.seen.max(at);
        watch.firing = alarm.is_firing().then_some(alarm);
    }

    /// Begins anew to watch how long something lasts, because nothing was known for a while but that of who was cut off.
    /// Alarms that fire go on.
    pub fn resume(&mut self, at: u64) {
        for ((name, _), watch) in &mut self.watches {
            if *name != RuleName::RedisAway {
                (watch.seen, watch.breached, watch.cleared) = (at, None, None);
            }
        }
    }

    /// The alarm of this id, if it fires.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Alarm> {
        self.firing().find(|alarm| alarm.id == id)
    }

    /// Takes in what was known at a moment of the past, so that what lasts since then is known. Changes no alarm.
    pub fn remember(&mut self, rules: &[Rule], sample: &Sample<'_>) {
        for reading in readings(sample) {
            if let Some(rule) = rules.iter().find(|rule| rule.enabled && rule.name == reading.rule) {
                self.take(rule, reading, sample.at);
            }
        }
    }

    /// Takes in what is known now, and tells what changed: alarms that begin, are of another severity, or are over.
    pub fn look(&mut self, rules: &[Rule], sample: &Sample<'_>) -> Vec<Alarm> {
        self.remember(rules, sample);
        let mut told = Vec::new();
        self.watches.retain(|(name, subject), watch| {
            // Who is cut off knows nothing of others, and must not think that they are well or gone.
            if sample.cut_off.is_some_and(|me| *name != RuleName::RedisAway || subject != me) {
                return true;
            }
            let rule = rules.iter().find(|rule| rule.enabled && rule.name == *name);
            let there = sample.at.saturating_sub(watch.seen) < GAP_MS;
            told.extend(watch.step(rule, subject, there, sample.at));
            watch.firing.is_some() || (rule.is_some() && there)
        });
        told
    }

    /// Alarms that fire.
    pub fn firing(&self) -> impl Iterator<Item = &Alarm> {
        self.watches.values().filter_map(|watch| watch.firing.as_ref())
    }

    /// Somebody has seen an alarm that fires: what to tell of it. None where there is no such alarm. The first who has seen
    /// it stays named.
    pub fn acknowledge(&mut self, id: &str, user: &str, at: u64) -> Option<Alarm> {
        let alarm =
            self.watches.values_mut().filter_map(|watch| watch.firing.as_mut()).find(|one| one.id == id)?;
        if alarm.acknowledged_by.is_none() {
            (alarm.acknowledged_by, alarm.acknowledged_at) = (Some(user.to_owned()), Some(at));
            alarm.at = at;
        }
        Some(alarm.clone())
    }

    fn take(&mut self, rule: &Rule, reading: Reading, at: u64) {
        let Reading { rule: name, subject, value } = reading;
        let watch = self.watches.entry((name, subject)).or_default();
        if at.saturating_sub(watch.seen) >= GAP_MS {
            (watch.breached, watch.cleared) = (None, None);
        }
        watch.seen = watch.seen.max(at);
        let since = |held: Option<u64>, holds: bool| holds.then(|| held.unwrap_or(at));
        watch.breached = since(watch.breached, rule.is_breached_by(value));
        watch.cleared = since(watch.cleared, rule.is_cleared_by(value));
        watch.value = value;
    }
}

impl Watch {
    /// What changes now. Without a rule (any more) nothing fires; who is not there (any more) is not in a bad state.
    fn step(&mut self, rule: Option<&Rule>, subject: &str, there: bool, at: u64) -> Option<Alarm> {
        let lasts =
            |since: Option<u64>, for_ms: u64| since.is_some_and(|since| at.saturating_sub(since) >= for_ms);
        match (&mut self.firing, rule) {
            (None, Some(rule)) if there && lasts(self.breached, rule.for_ms) => {
                let alarm = begun(rule, subject, self.value, at);
                self.firing = Some(alarm.clone());
                Some(alarm)
            }
            (Some(alarm), rule) => {
                let over = !there || rule.is_none_or(|rule| lasts(self.cleared, rule.clear_for_ms));
                let severity = rule.map_or(alarm.severity, |rule| rule.severity);
                if !over && severity == alarm.severity {
                    return None;
                }
                (alarm.at, alarm.change, alarm.severity) = (at, alarm.change + 1, severity);
                if there {
                    alarm.value = self.value;
                }
                if !over {
                    return Some(alarm.clone());
                }
                alarm.state = State::Resolved;
                self.firing.take()
            }
            _ => None,
        }
    }
}

fn begun(rule: &Rule, subject: &str, value: f64, at: u64) -> Alarm {
    Alarm {
        id: Alarm::id_of(rule.name.name(), subject),
        rule: rule.name.name().to_owned(),
        severity: rule.severity,
        subject: subject.to_owned(),
        state: State::Firing,
        since: at,
        at,
        value: (value * 10.0).round() / 10.0,
        threshold: rule.threshold,
        unit: rule.name.unit().to_owned(),
        text: rule.name.text(subject, value),
        acknowledged_by: None,
        acknowledged_at: None,
        change: 1,
    }
}
