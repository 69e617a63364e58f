//! API keys and revoked tokens.

use async_trait::async_trait;
use tickmesh_protocol::identity::{Grants, Role};
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::Postgres;
use super::calls::{Repeat, bigint, unsigned};
use super::error::damaged;
use crate::StoreError;
use crate::relational::{ApiKey, Credentials, RevokedToken, rules};

const ADD_KEY: &str = "INSERT INTO api_keys (id, hash, user_id, role, grants, created_at, expires_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING";
const REMOVE_KEY: &str = "DELETE FROM api_keys WHERE id = $1 RETURNING id";
const KEYS: &str = "SELECT id, hash, user_id, role, grants, created_at, expires_at FROM api_keys ORDER BY id";
const REVOKE: &str = "INSERT INTO revoked_tokens (jti, expires_at) VALUES ($1, $2) ON CONFLICT (jti) DO UPDATE \
    SET expires_at = GREATEST(revoked_tokens.expires_at, EXCLUDED.expires_at)";
/// It forgets as well what expired long ago.
const REVOKED: &str = "WITH forgotten AS (DELETE FROM revoked_tokens WHERE expires_at <= $2) \
    SELECT jti, expires_at FROM revoked_tokens WHERE expires_at > $1 ORDER BY jti";

/// Milliseconds for which an expired token is still remembered: the clock of the node that asks may be fast.
const REMEMBERED_MS: u64 = 3_600_000;

#[async_trait]
impl Credentials for Postgres {
    async fn add_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        rules::key(key)?;
        let created_at = bigint(key.created_at);
        let expires_at = key.expires_at.map(bigint);
        let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            &key.id,
            &&key.hash[..],
            &key.user_id,
            &role_name(key.role),
            &Json(&key.grants),
            &created_at,
            &expires_at,
        ];
        self.query(Repeat::Yes, ADD_KEY, parameters).await.map(drop)
    }

    async fn remove_key(&self, id: &str) -> Result<bool, StoreError> {
        let removed = self.query(Repeat::No, REMOVE_KEY, &[&id]).await?;
        Ok(!removed.is_empty())
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.query(Repeat::Yes, KEYS, &[]).await?.iter().map(api_key).collect()
    }

    async fn revoke(&self, token: &RevokedToken) -> Result<(), StoreError> {
        rules::token(token)?;
        self.query(Repeat::Yes, REVOKE, &[&token.jti, &bigint(token.expires_at)]).await.map(drop)
    }

    async fn revoked(&self, now: u64) -> Result<Vec<RevokedToken>, StoreError> {
        let old = bigint(now.saturating_sub(REMEMBERED_MS));
        let rows = self.query(Repeat::Yes, REVOKED, &[&bigint(now), &old]).await?;
        let token =
            |row: &Row| Ok(RevokedToken { jti: row.try_get(0)?, expires_at: unsigned(row.try_get(1)?) });
        rows.iter().map(token).collect::<Result<_, _>>().map_err(|error| damaged(&error))
    }
}

fn api_key(row: &Row) -> Result<ApiKey, StoreError> {
    let read = || {
        let Json(grants) = row.try_get::<_, Json<Grants>>(4)?;
        let hash: &[u8] = row.try_get(1)?;
        let role: &str = row.try_get(3)?;
        let expires_at: Option<i64> = row.try_get(6)?;
        let key = ApiKey {
            id: row.try_get(0)?,
            hash: [0; 32],
            user_id: row.try_get(2)?,
            role: Role::Anonymous,
            grants,
            created_at: unsigned(row.try_get(5)?),
            expires_at: expires_at.map(unsigned),
        };
        Ok((key, hash, role))
    };
    let (key, hash, role) = read().map_err(|error| damaged(&error))?;
    let hash = hash.try_into().map_err(|_| StoreError::Damaged("the hash of a key".into()))?;
    let role = role_of(role).ok_or_else(|| StoreError::Damaged("the role of a key".into()))?;
    Ok(ApiKey { hash, role, ..key })
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Anonymous => "anonymous",
        Role::User => "user",
        Role::Publisher => "publisher",
        Role::Operator => "operator",
    }
}

fn role_of(name: &str) -> Option<Role> {
    [Role::Anonymous, Role::User, Role::Publisher, Role::Operator]
        .into_iter()
        .find(|role| role_name(*role) == name)
}
