//! Rules that every implementation keeps: how long texts are, and which state of an alert is the newer one.
//!
//! They are checked here, so that memory and database refuse the same with the same words; the database has the bounds as
//! constraints too. What only looks for something is not checked: there is nothing that is against the rules.

use super::{Alert, AlertState, ApiKey, AuditEvent, Hit, RevokedToken};
use crate::StoreError;
use tickmesh_protocol::market::AlertSpec;
use tickmesh_protocol::position::Position;

/// Longest id of a user, in bytes.
const MAX_USER: usize = 256;
/// Longest id of an API key, in bytes.
const MAX_KEY_ID: usize = 256;
/// Longest `jti` of a token, in bytes.
const MAX_JTI: usize = 1_024;
/// Longest name of a field, in bytes.
const MAX_FIELD: usize = 64;
/// Longest epoch, in bytes.
const MAX_EPOCH: usize = 256;
/// Longest text in an event of the audit, in bytes; what is longer is cut.
const MAX_AUDIT_TEXT: usize = 1_024;

/// A text with 1 to `most` bytes. NUL is refused: PostgreSQL has no text with it.
fn text(name: &str, value: &str, most: usize) -> Result<(), StoreError> {
    if (1..=most).contains(&value.len()) && !value.contains('\0') {
        Ok(())
    } else {
        Err(StoreError::Refused(format!("{name} has 1 to {most} bytes without NUL")))
    }
}

pub(super) fn user(id: &str) -> Result<(), StoreError> {
    text("a user id", id, MAX_USER)
}

pub(super) fn key(key: &ApiKey) -> Result<(), StoreError> {
    text("the id of a key", &key.id, MAX_KEY_ID)?;
    user(&key.user_id)?;
    let mut patterns = key.grants.subscribe.iter().chain(&key.grants.publish);
    if patterns.any(|pattern| pattern.0.contains('\0')) {
        return Err(StoreError::Refused("a pattern has no NUL".into()));
    }
    Ok(())
}

pub(super) fn token(token: &RevokedToken) -> Result<(), StoreError> {
    text("jti", &token.jti, MAX_JTI)
}

pub(super) fn spec(spec: &AlertSpec) -> Result<(), StoreError> {
    text("field", &spec.field, MAX_FIELD)?;
    finite("value", spec.value)
}

pub(super) fn state(state: &AlertState) -> Result<(), StoreError> {
    if !(-1..=1).contains(&state.side) {
        return Err(StoreError::Refused("the side of an alert is -1, 0 or 1".into()));
    }
    state.at.as_ref().map_or(Ok(()), position)
}

pub(super) fn hit(hit: &Hit) -> Result<(), StoreError> {
    finite("reached", hit.reached)?;
    position(&hit.position)
}

fn position(position: &Position) -> Result<(), StoreError> {
    if i64::try_from(position.seq).is_err() {
        return Err(StoreError::Refused("a sequence number has 63 bits".into()));
    }
    text("an epoch", position.epoch.as_str(), MAX_EPOCH)
}

fn finite(name: &str, value: f64) -> Result<(), StoreError> {
    if value.is_finite() { Ok(()) } else { Err(StoreError::Refused(format!("{name} is not finite"))) }
}

/// A text as the audit keeps it: no NUL, and cut. One event that somebody chose badly must not keep others of its batch out.
pub(super) fn audit_text(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(MAX_AUDIT_TEXT));
    text.shrink_to_fit();
    text
}

/// An event as the audit keeps it.
pub(super) fn audit_event(event: &AuditEvent) -> AuditEvent {
    AuditEvent {
        at: event.at,
        event: audit_text(&event.event),
        session_id: audit_text(&event.session_id),
        user_id: audit_text(&event.user_id),
        node_id: audit_text(&event.node_id),
        remote: audit_text(&event.remote),
        reason: audit_text(&event.reason),
    }
}

/// Whether a state takes the place of one that is kept: not if it is older. Of states in different epochs nobody knows
/// which is older; the one that comes last counts.
pub(super) fn replaces(new: &AlertState, kept: &AlertState) -> bool {
    match (&new.at, &kept.at) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(new), Some(kept)) => new.epoch != kept.epoch || new.seq >= kept.seq,
    }
}

/// A hit as it is kept: whose it is and what it is about is what its alert says.
pub(super) fn hit_of(alert: &Alert, hit: &Hit, hit_id: u64) -> Hit {
    let (user_id, spec) = (alert.user_id.clone(), alert.spec.clone());
    Hit { hit_id, user_id, spec, ..hit.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_audit_are_cut_between_characters() {
        let cut = audit_text(&"é".repeat(600).replacen('é', "\0", 1));
        assert_eq!(cut.len(), MAX_AUDIT_TEXT - 1, "three bytes, then pairs");
        assert!(cut.starts_with("\u{fffd}é"));
    }
}
