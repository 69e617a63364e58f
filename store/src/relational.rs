//! What is kept for users and operators: API keys and revoked tokens, watchlists, price alerts and their hits, the audit of
//! sessions.

pub mod memory;
pub mod postgres;
mod rules;
#[cfg(any(test, feature = "conformance"))]
pub mod suite;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tickmesh_protocol::identity::{Grants, Role};
use tickmesh_protocol::market::{AlertSpec, Symbol};
use tickmesh_protocol::position::Position;

use crate::StoreError;

/// Everything of one database.
#[derive(Clone)]
pub struct Relational {
    /// API keys and revoked tokens.
    pub credentials: Arc<dyn Credentials>,
    /// Saved symbols.
    pub watchlists: Arc<dyn Watchlists>,
    /// Price alerts.
    pub alerts: Arc<dyn Alerts>,
    /// What they fired.
    pub hits: Arc<dyn Hits>,
    /// Sessions that came and went.
    pub audit: Arc<dyn Audit>,
}

/// SHA-256 of an API key. Keys are 256 random bits, so that nothing slower is needed to keep them from being guessed.
pub type KeyHash = [u8; 32];

/// An API key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names it to operators; a random text.
    pub id: String,
    /// Of the key.
    #[serde(skip)]
    pub hash: KeyHash,
    /// Who uses it: the user id of what it does.
    pub user_id: String,
    /// What its bearer is.
    pub role: Role,
    /// Rooms beyond the classes; called as in tokens.
    #[serde(rename = "rooms")]
    pub grants: Grants,
    /// UTC milliseconds.
    pub created_at: u64,
    /// UTC milliseconds after which it is void; none for never.
    pub expires_at: Option<u64>,
}

/// A token that is void though it has not expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// The token's claim `jti` (RFC 7519 §4.1.7).
    pub jti: String,
    /// UTC milliseconds at which it would have expired; afterwards nobody has to remember it.
    pub expires_at: u64,
}

/// API keys and revoked tokens. There are few; nodes hold all of them.
///
/// # Guarantees
///
/// * A key or revocation that was answered with `Ok` is in every later list, until it is removed or, for a revocation, its
///   token has expired. Adding what is there, or removing what is not, changes nothing.
#[async_trait]
pub trait Credentials: Send + Sync + 'static {
    /// Keeps a key.
    async fn add_key(&self, key: &ApiKey) -> Result<(), StoreError>;

    /// Revokes a key by its id; answers whether there was one.
    async fn remove_key(&self, id: &str) -> Result<bool, StoreError>;

    /// All keys, in order of their ids.
    async fn keys(&self) -> Result<Vec<ApiKey>, StoreError>;

    /// Makes a token void.
    async fn revoke(&self, token: &RevokedToken) -> Result<(), StoreError>;

    /// All revoked tokens that have not expired at `now` (UTC milliseconds); those that have may be forgotten.
    async fn revoked(&self, now: u64) -> Result<Vec<RevokedToken>, StoreError>;
}

/// Symbols that users saved.
///
/// # Guarantees
///
/// * A list has each symbol once, in the order in which they were added.
/// * No list is longer than the `most` of any call that was answered with `Ok`, also where calls for one user meet.
#[async_trait]
pub trait Watchlists: Send + Sync + 'static {
    /// A user's symbols.
    async fn list(&self, user_id: &str) -> Result<Vec<Symbol>, StoreError>;

    /// Adds one, if the list has fewer than `most` or has it already; answers whether it is there now.
    async fn add(&self, user_id: &str, symbol: &Symbol, most: usize) -> Result<bool, StoreError>;

    /// Removes one; answers whether it was there.
    async fn remove(&self, user_id: &str, symbol: &Symbol) -> Result<bool, StoreError>;
}

/// Where an alert stands: what it needs to know of the ticks before the next one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AlertState {
    /// On which side of the value the field was: -1 below, 1 above, 0 not known yet.
    pub side: i8,
    /// It fires at the next chance.
    pub armed: bool,
    /// The message at which it became so; none before the first of its room.
    pub at: Option<Position>,
}

/// A price alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Names it; given by the store.
    pub id: u64,
    /// Whose it is.
    #[serde(skip_serializing)]
    pub user_id: String,
    /// What it is about.
    #[serde(flatten)]
    pub spec: AlertSpec,
    /// UTC milliseconds.
    pub created_at: u64,
    /// It may still fire.
    pub active: bool,
    /// See [`AlertState`].
    #[serde(skip)]
    pub state: AlertState,
}

/// Price alerts.
///
/// # Guarantees
///
/// * Ids are unique for ever, and rise.
/// * No user has more than the `most` of any call that was answered with `Ok`, also where calls for one user meet.
#[async_trait]
pub trait Alerts: Send + Sync + 'static {
    /// Makes an alert that stands so; `None` if the user has `most` already.
    async fn create(
        &self,
        user_id: &str,
        spec: &AlertSpec,
        state: &AlertState,
        now: u64,
        most: usize,
    ) -> Result<Option<Alert>, StoreError>;

    /// Deletes an alert of this user, with its hits; answers whether there was one.
    async fn delete(&self, user_id: &str, id: u64) -> Result<bool, StoreError>;

    /// A user's alerts, in order of their ids.
    async fn of_user(&self, user_id: &str) -> Result<Vec<Alert>, StoreError>;

    /// The active alerts of a symbol, in order of their ids.
    async fn of_symbol(&self, symbol: &Symbol) -> Result<Vec<Alert>, StoreError>;

    /// Keeps where alerts stand that did not fire. What is older than what is kept, by its position within one epoch, changes
    /// nothing; nor do alerts that are gone.
    async fn keep(&self, states: &[(u64, AlertState)]) -> Result<(), StoreError>;
}

/// That an alert fired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Names it; given by the store, 0 before.
    pub hit_id: u64,
    /// Which alert.
    pub alert_id: u64,
    /// Whose it is.
    #[serde(skip_serializing)]
    pub user_id: String,
    /// What it is about.
    #[serde(flatten)]
    pub spec: AlertSpec,
    /// What the field was.
    pub reached: f64,
    /// The message that did it.
    pub position: Position,
    /// UTC milliseconds, the tick's own time.
    pub at: u64,
}

/// Milliseconds for which a hit is kept after it was acknowledged, so that the same one is not made again.
pub const ACKNOWLEDGED_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Hits of alerts, until they are acknowledged.
///
/// # Guarantees
///
/// * **Once.** Of the same alert and position there is one hit, and of an alert with `once` there is one at all, whoever
///   fires them and however often: exactly one call is answered with it.
/// * **Together.** A hit, and where its alert stands after it, are kept together or not at all.
#[async_trait]
pub trait Hits: Send + Sync + 'static {
    /// Keeps hits, each with the state of its alert after it, and ends alerts with `once`. Answers with those that are new,
    /// with their ids; hits of alerts that are gone or over are left out.
    async fn fire(&self, hits: &[(Hit, AlertState)]) -> Result<Vec<Hit>, StoreError>;

    /// A user's hits that are not acknowledged: the newest `most`, the oldest first.
    async fn pending(&self, user_id: &str, most: usize) -> Result<Vec<Hit>, StoreError>;

    /// Acknowledges a hit of this user; answers whether there was one to acknowledge. Hits of the user that were
    /// acknowledged [`ACKNOWLEDGED_MS`] or longer before `now` are forgotten.
    async fn acknowledge(&self, user_id: &str, hit_id: u64, now: u64) -> Result<bool, StoreError>;
    /// Hits that are neither marked as [told](Self::told) nor acknowledged: the oldest `most`, the oldest first.
    async fn untold(&self, most: usize) -> Result<Vec<Hit>, StoreError>;
    /// Marks hits as told to their users; those that are gone are left out.
    async fn told(&self, hits: &[u64]) -> Result<(), StoreError>;
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// UTC milliseconds.
    pub at: u64,
    /// `connected` or `disconnected`.
    pub event: String,
    /// The session.
    pub session_id: String,
    /// Whose it is.
    pub user_id: String,
    /// At which node.
    pub node_id: String,
    /// The client's address.
    pub remote: String,
    /// Why it ended; empty for a beginning.
    pub reason: String,
}

/// The audit of sessions.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Keeps events.
    async fn record(&self, events: &[AuditEvent]) -> Result<(), StoreError>;

    /// The newest events of a user, or of all: the newest first.
    async fn list(&self, user_id: Option<&str>, limit: usize) -> Result<Vec<AuditEvent>, StoreError>;

    /// Forgets what happened before a time in UTC milliseconds, but no more than `most` events; answers with how many it was.
    async fn prune(&self, before: u64, most: usize) -> Result<u64, StoreError>;
}
