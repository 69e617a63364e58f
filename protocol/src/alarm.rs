//! Alarms on the cluster itself: which rules there are, what they look at, and when one begins and ends.
//!
//! Pure: what is known of the processes and the time are arguments, what changed comes back as values. Who looks, how often,
//! and who is told is not known here.
//!
//! * `rules`: the rules and their defaults · `readings`: what each looks at · `engine`: pending, firing, resolved

mod engine;
mod readings;
mod rules;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use engine::Engine;
pub use readings::{Reading, Sample, readings};
pub use rules::{BadRule, Rule, RuleName, default_rules};

/// The event in [`ALERTS_ROOM`](crate::vitals::ALERTS_ROOM).
pub const ALARM_EVENT: &str = "alarm";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Severity {
    /// For the next hours.
    Warning,
    /// For somebody who is woken up.
    Critical,
}

impl Severity {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Warning, Self::Critical];

    /// `warning` or `critical`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How an alarm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// What it is about lasts.
    Firing,
    /// It is over.
    Resolved,
}

/// An alarm as everybody is told of it. A newer one with the same id replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The rule, and behind a colon the subject, if there is one.
    pub id: String,
    /// Which rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a process, or a process and its store (`a:users`); empty for the whole cluster.
    pub subject: String,
    /// How it stands.
    pub state: State,
    /// When it began to fire, in UTC milliseconds.
    pub since: u64,
    /// When this was told.
    pub at: u64,
    /// The figure when this was told.
    pub value: f64,
    /// What it is held against.
    pub threshold: f64,
    /// Of both.
    pub unit: String,
    /// In words.
    pub text: String,
    /// Who has seen it.
    #[serde(default)]
    pub acknowledged_by: Option<String>,
    /// When, in UTC milliseconds.
    #[serde(default)]
    pub acknowledged_at: Option<u64>,
    /// How often it has changed since it began: 1 when it begins, one more when its severity changes and when it is over.
    /// With `id` and `since` it names what webhooks are told of.
    #[serde(default)]
    pub change: u32,
}

impl Alarm {
    /// The id of a rule's alarm on a subject.
    #[must_use]
    pub fn id_of(rule: &str, subject: &str) -> String {
        if subject.is_empty() { rule.to_owned() } else { format!("{rule}:{subject}") }
    }

    /// Whether it lasts.
    #[must_use]
    pub fn is_firing(&self) -> bool {
        self.state == State::Firing
    }
}
