//! API keys and revoked tokens, as the store has them: held in memory, so that who comes waits for no store.
//!
//! They are read again when a node says that they changed, and now and then. While the store is away what was read last
//! holds; before the first time its keys, and tokens that it might have revoked, are refused. Sessions whose credential is
//! void are disconnected. A node applies what it changes by itself, before it says that it is done.

use std::sync::Arc;
use std::time::Duration;

use tickmesh_edge::auth::Kept;
use tickmesh_protocol::identity::Identity;
use tickmesh_store::StoreError;
use tickmesh_store::guard::Guarded;
use tickmesh_store::relational::{ApiKey, Relational};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::hub::Request;
use crate::worker::Shared;

/// How often they are read though nobody said anything: a letter may be lost.
const READ: Duration = Duration::from_secs(10);
/// Wait before a store that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// The same as long as it was never read, when clients are refused for it. Nobody is asked before it is prepared.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// How much longer than its token a revocation is remembered, beside the leeway: nodes' clocks differ.
const REMEMBERED_MS: u64 = 60_000;

/// Starts the task; it ends with the runtime.
pub(crate) fn start(shared: Arc<Shared>, changed: Arc<Notify>) {
    let Some(users) = shared.stores.users.clone() else { return };
    shared.auth.expect_kept();
    tokio::spawn(async move {
        loop {
            match refresh(&shared, &users).await {
                Ok(()) => {
                    let _ = timeout(READ, changed.notified()).await;
                }
                Err(_) if shared.auth.kept().unread => sleep(FIRST_RETRY).await,
                Err(_) => sleep(RETRY).await,
            }
        }
    });
}

/// Applies a change here that the store has already: the sessions that it ends are told when this returns.
pub(crate) async fn apply(shared: &Shared, change: impl FnOnce(&mut Kept)) {
    shared.auth.change_kept(change);
    tell(shared).await;
}

async fn refresh(shared: &Shared, users: &Guarded<Relational>) -> Result<(), StoreError> {
    loop {
        let before = shared.auth.kept();
        let kept = read(users, shared.auth.leeway_ms()).await?;
        // Otherwise something was changed here meanwhile, which what was read may lack.
        if shared.auth.replace_kept(&before, Arc::new(kept)) {
            tell(shared).await;
            return Ok(());
        }
    }
}

async fn tell(shared: &Shared) {
    for hub in &shared.hubs {
        hub.send(Request::Revoked).await;
    }
}

/// Who comes with a key.
pub(crate) fn identity(key: ApiKey) -> ([u8; 32], Identity) {
    let identity = Identity {
        role: key.role,
        expires_at: key.expires_at,
        grants: key.grants,
        credential: Some(credential(&key.id)),
        ..Identity::user(&key.user_id)
    };
    (key.hash, identity)
}

/// The name by which who came with a key is found.
pub(crate) fn credential(key_id: &str) -> String {
    format!("key:{key_id}")
}

async fn read(users: &Guarded<Relational>, leeway_ms: u64) -> Result<Kept, StoreError> {
    let keys = users.call(|users| users.credentials.keys()).await?;
    // A token is taken until its leeway is over.
    let since = clock::now().utc.saturating_sub(leeway_ms + REMEMBERED_MS);
    let revoked = users.call(|users| users.credentials.revoked(since)).await?;
    Ok(Kept {
        keys: keys.into_iter().map(identity).collect(),
        revoked: revoked.into_iter().map(|token| token.jti).collect(),
        unread: false,
    })
}
