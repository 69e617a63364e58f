//! `PUT /api/v1/tuning`: a change of what is in force, as an operator writes it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tickmesh_cluster::config::{ChangeError, Live};
use tickmesh_protocol::error::{ErrorCode, Failure};

/// Makes the change that a request's body asks for, an object of keys and their values: all of it, or nothing.
///
/// # Errors
/// `INVALID_ACTION` for a key that needs a restart, with `needs_restart` in its details; `INVALID_PARAMETERS` for all else.
pub fn wanted(live: &Live, body: &[u8]) -> Result<(), Failure> {
    let wanted: BTreeMap<String, Value> = serde_json::from_slice(body)
        .map_err(|error| Failure::parameters(format!("expected an object of keys and values: {error}")))?;
    let changed = live.change(&wanted);
    if changed.is_ok() {
        let keys: Vec<_> = wanted.keys().map(String::as_str).collect();
        tracing::info!(keys = keys.join(", "), "an operator changed the configuration that is in force");
    }
    changed.map_err(|error| {
        let failure = match &error {
            ChangeError::NeedsRestart(_) => Failure::new(ErrorCode::InvalidAction, error.to_string()),
            ChangeError::Unknown(_) | ChangeError::Bad { .. } => Failure::parameters(error.to_string()),
        };
        let needs_restart = matches!(error, ChangeError::NeedsRestart(_));
        let (ChangeError::Unknown(key) | ChangeError::NeedsRestart(key) | ChangeError::Bad { key, .. }) =
            error;
        failure.with_details(json!({ "key": key, "needs_restart": needs_restart }))
    })
}
