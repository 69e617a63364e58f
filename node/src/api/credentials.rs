//! API keys and void tokens, and the audit of sessions: for operators.

use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use rand::RngExt;
use serde::Deserialize;
use serde_json::json;
use tickmesh_edge::auth::{self, KEY_PREFIX};
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::{Grants, Identity, Role};
use tickmesh_protocol::room::RoomName;
use tickmesh_store::relational::{ApiKey, RevokedToken};

use super::{ApiError, Caller, WorkerData};
use crate::{clock, keys};

/// Longest `jti` in bytes.
const MAX_JTI_LEN: usize = 128;
/// Events of the audit in one answer where the caller names no limit, and at most.
const AUDIT_LIMITS: (usize, usize) = (100, 10_000);

#[derive(Deserialize)]
struct NewKey {
    user_id: String,
    role: Role,
    #[serde(default)]
    rooms: Grants,
    expires_at: Option<u64>,
}

fn read<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::parameters(error.to_string()))
}

/// Makes a key. It is told this once: the store has its hash alone.
pub(super) async fn create_key(
    worker: WorkerData,
    caller: Caller,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    let NewKey { user_id, role, rooms, expires_at } = read(&body)?;
    if role == Role::Anonymous {
        return Err(Failure::parameters("role is user, publisher or operator").into());
    }
    if RoomName::of_user(&user_id).is_none() || user_id.len() > auth::MAX_USER_LEN {
        return Err(Failure::parameters("user_id has 1 to 100 characters of A-Z a-z 0-9 _ . : -").into());
    }
    let now = clock::now().utc;
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Failure::parameters("expires_at has passed").into());
    }
    let secret: [u8; 32] = rand::rng().random();
    let secret = format!("{KEY_PREFIX}{}", hex(&secret));
    let key = ApiKey {
        id: uuid::Uuid::now_v7().simple().to_string(),
        hash: auth::hash(&secret),
        user_id,
        role,
        grants: rooms,
        created_at: now,
        expires_at,
    };
    worker.users()?.call(|users| users.credentials.add_key(&key)).await.map_err(Failure::from)?;
    let mut told = json!(key);
    told["key"] = secret.into();
    keys::apply(&worker, |kept| kept.keys.extend([keys::identity(key)])).await;
    worker.peers.credentials_changed().await;
    Ok(HttpResponse::Created().json(told))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who the caller is. Gateways ask this of what they do themselves.
pub(super) async fn me(Caller(caller): Caller) -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "user_id": caller.user_id,
        "role": caller.role,
        "expires_at": caller.expires_at,
        "operator": caller.role == Role::Operator || caller.anonymous_may_publish,
    }))
}

/// All keys, without the keys themselves.
pub(super) async fn list_keys(worker: WorkerData, caller: Caller) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    let keys = worker.users()?.call(|users| users.credentials.keys()).await.map_err(Failure::from)?;
    Ok(HttpResponse::Ok().json(json!({ "keys": keys })))
}

/// Revokes a key: what came with it is disconnected.
pub(super) async fn revoke_key(
    worker: WorkerData,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    let removed =
        worker.users()?.call(|users| users.credentials.remove_key(&id)).await.map_err(Failure::from)?;
    if !removed {
        return Err(ApiError::absent(ErrorCode::InvalidParameters, "there is no such key"));
    }
    let void = keys::credential(&id);
    let is_void = |who: &Identity| who.credential.as_ref() == Some(&void);
    keys::apply(&worker, |kept| kept.keys.retain(|_, who| !is_void(who))).await;
    worker.peers.credentials_changed().await;
    Ok(HttpResponse::Ok().json(json!({ "id": *id, "status": "revoked" })))
}

#[derive(Deserialize)]
struct Revocation {
    token: Option<String>,
    jti: Option<String>,
    expires_at: Option<u64>,
}

/// Makes a token void: `{"token"}`, or `{"jti","expires_at"}`. What came with it is disconnected.
pub(super) async fn revoke_token(
    worker: WorkerData,
    caller: Caller,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    let now = clock::now().utc;
    let token = match read(&body)? {
        Revocation { token: Some(token), .. } => {
            // One that is void already may be revoked again.
            let identity = worker.auth.read(&token, now).map_err(Failure::from)?;
            let jti = identity.credential.and_then(|id| id.strip_prefix("jti:").map(str::to_owned));
            let jti = jti.ok_or_else(|| Failure::parameters("the token has no jti"))?;
            RevokedToken { jti, expires_at: identity.expires_at.unwrap_or(u64::MAX >> 1) }
        }
        Revocation { jti: Some(jti), expires_at: Some(expires_at), .. }
            if (1..=MAX_JTI_LEN).contains(&jti.len()) =>
        {
            if expires_at <= now.saturating_sub(worker.auth.leeway_ms()) {
                let text = "expires_at is in UTC milliseconds and lies in the past";
                return Err(Failure::parameters(text).into());
            }
            RevokedToken { jti, expires_at: expires_at.min(u64::MAX >> 1) }
        }
        _ => {
            let text = "expected token, or jti (1 to 128 bytes) and expires_at (UTC milliseconds)";
            return Err(Failure::new(ErrorCode::InvalidParameters, text).into());
        }
    };
    worker.users()?.call(|users| users.credentials.revoke(&token)).await.map_err(Failure::from)?;
    keys::apply(&worker, |kept| kept.revoked.extend([token.jti.clone()])).await;
    worker.peers.credentials_changed().await;
    Ok(HttpResponse::Ok().json(json!({ "jti": token.jti, "status": "revoked" })))
}

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    user_id: Option<String>,
    limit: Option<usize>,
}

/// Sessions that came and went, the newest first.
pub(super) async fn audit(
    worker: WorkerData,
    caller: Caller,
    query: Result<web::Query<AuditQuery>, actix_web::Error>,
) -> Result<HttpResponse, ApiError> {
    caller.may_operate()?;
    let AuditQuery { user_id, limit } =
        query.map_err(|error| Failure::parameters(error.to_string()))?.into_inner();
    let (usual, most) = AUDIT_LIMITS;
    let limit = limit.unwrap_or(usual);
    if !(1..=most).contains(&limit) {
        return Err(Failure::parameters(format!("limit is {limit}; allowed is 1 to {most}")).into());
    }
    let list = worker.users()?.call(|users| users.audit.list(user_id.as_deref(), limit));
    let events = list.await.map_err(Failure::from)?;
    Ok(HttpResponse::Ok().json(json!({ "events": events })))
}
