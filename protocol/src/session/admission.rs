//! What a connection is worth keeping for: whether it is used, and what is done with one that is not, or that is too much.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::close::CloseCode;
use crate::encode;
use crate::error::Failure;

use super::{Now, Policy, Session};

/// Milliseconds without a message in either direction after which a connection is idle.
const IDLE_MS: u64 = 60_000;
/// Where nobody is closed for being stale, milliseconds after which one counts as stale.
const STALE_MS: u64 = 300_000;

/// How a connection does. Heartbeats are no messages here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// Messages went over it within the last minute.
    #[default]
    Active,
    /// None did, but its client answers, and follows a room or did something not long ago.
    Idle,
    /// None did for half as long as closes it (`limits.stale_s`), and its client follows no room.
    Stale,
    /// Its client did not answer a ping in time, or takes nothing of what waits for it.
    Broken,
}

impl State {
    /// All of them; each stands at the index that it is as a number.
    pub const ALL: [Self; 4] = [Self::Active, Self::Idle, Self::Stale, Self::Broken];

    /// A short label.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Session {
    /// What is in force for it.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Takes other limits, from now on. Times of heartbeats were told to the client and have to be the same.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// It began at another node.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// How it does; `blocked` says that its socket has taken nothing for a while.
    #[must_use]
    pub fn state(&self, now: Now, blocked: bool) -> State {
        let Policy { ping_interval_ms, ping_timeout_ms, .. } = *self.policy;
        // The answer to a ping takes a while.
        let answered = ping_interval_ms + ping_timeout_ms.saturating_sub(ping_interval_ms) / 4;
        let unused = now.mono.saturating_sub(self.last_used);
        if blocked || now.mono.saturating_sub(self.last_heard) > answered {
            State::Broken
        } else if unused < IDLE_MS && unused < self.stale_ms() / 2 {
            State::Active
        } else if unused >= self.stale_ms() / 2 && self.subscriptions.is_empty() {
            State::Stale
        } else {
            State::Idle
        }
    }

    fn stale_ms(&self) -> u64 {
        if self.policy.stale_ms > 0 { self.policy.stale_ms } else { STALE_MS }
    }

    /// When it is let go unless a message goes over it, in milliseconds on the monotonic clock.
    pub(super) fn unused_until(&self) -> Option<u64> {
        let waits = self.subscriptions.is_empty() && self.waiting.is_empty();
        (waits && self.policy.stale_ms > 0).then(|| self.last_used + self.policy.stale_ms)
    }

    /// Lets the client go: tells it why, and closes.
    pub fn refuse(&mut self, now: Now, failure: &Failure, code: CloseCode) {
        if self.ending.is_none() {
            self.reject(now, None, None, failure);
            self.close(code);
        }
    }

    /// Lets the client go because there is too little memory for all: what waits for it is thrown away, and it is told to
    /// come back after so many milliseconds (1013).
    pub fn shed(&mut self, now: Now, retry_after_ms: u64) {
        if self.ending.is_some() {
            return;
        }
        self.drop_live();
        self.send(&encode::going_away(self.wire.encoding, retry_after_ms, now.utc));
        self.close(CloseCode::Overloaded);
    }

    /// Forgets what waits for the client. It has to be closed behind it: there are holes now.
    fn drop_live(&mut self) {
        self.out.clear();
        self.due.clear();
        self.held.clear();
        self.shaper = None;
    }
}
