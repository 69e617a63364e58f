//! API keys and revoked tokens, as the store has them: held in memory, so that who comes waits for no store.
//!
//! They are read again when a node says that they changed, and now and then. While the store is away what was read last
//! holds. Sessions whose credential is void are disconnected.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tickmesh_edge::auth::Kept;
use tickmesh_protocol::identity::Identity;
use tickmesh_store::StoreError;
use tickmesh_store::guard::Guarded;
use tickmesh_store::relational::Relational;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::hub::Request;
use crate::worker::Shared;

/// How often they are read though nobody said anything: a letter may be lost.
const READ: Duration = Duration::from_secs(10);
/// Wait before a store that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Starts the task; it ends with the runtime.
pub(crate) fn start(shared: Arc<Shared>, changed: Arc<Notify>) {
    let Some(users) = shared.stores.users.clone() else { return };
    tokio::spawn(async move {
        loop {
            match read(&users).await {
                Ok(kept) => {
                    let kept = Arc::new(kept);
                    shared.auth.set_kept(kept.clone());
                    for hub in &shared.hubs {
                        hub.send(Request::Revoked(kept.clone())).await;
                    }
                    let _ = timeout(READ, changed.notified()).await;
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    });
}

async fn read(users: &Guarded<Relational>) -> Result<Kept, StoreError> {
    let now = clock::now().utc;
    let keys = users.call(|users| users.credentials.keys()).await?;
    let revoked = users.call(|users| users.credentials.revoked(now)).await?;
    let identity = |key: tickmesh_store::relational::ApiKey| {
        let identity = Identity {
            role: key.role,
            expires_at: key.expires_at,
            grants: key.grants,
            credential: Some(format!("key:{}", key.id)),
            ..Identity::user(&key.user_id)
        };
        (key.hash, identity)
    };
    let keys: HashMap<_, _> = keys.into_iter().map(identity).collect();
    Ok(Kept { keys, revoked: revoked.into_iter().map(|token| token.jti).collect() })
}
