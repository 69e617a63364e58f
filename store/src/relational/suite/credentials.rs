//! What every [`Credentials`] must do.

use tickmesh_protocol::identity::{Grants, Role};
use tickmesh_protocol::room::Pattern;

use super::{NOW, done_or_refused, hostile};
use crate::relational::{ApiKey, Credentials, RevokedToken};

fn key(id: &str, role: Role) -> ApiKey {
    let hash = std::array::from_fn(|i| i as u8 ^ 0x80 ^ id.len() as u8);
    let grants = Grants { subscribe: vec![Pattern("market_*".into())], publish: vec![Pattern("x".into())] };
    ApiKey { id: id.into(), hash, user_id: "feed".into(), role, grants, created_at: NOW, expires_at: None }
}

fn token(jti: &str, expires_at: u64) -> RevokedToken {
    RevokedToken { jti: jti.into(), expires_at }
}

/// Runs every check.
///
/// # Panics
/// When a guarantee is broken.
pub async fn credentials(store: &dyn Credentials) {
    keys(store).await;
    revocations(store).await;
    hostile_texts(store).await;
}

async fn keys(store: &dyn Credentials) {
    let all = async || store.keys().await.expect("listed");
    assert!(all().await.is_empty());
    let b = ApiKey { expires_at: Some(NOW + 1), ..key("b", Role::Publisher) };
    let plain = ApiKey { grants: Grants::default(), ..key("B", Role::User) };
    let (a, dash) = (key("a", Role::Operator), key("a-", Role::Anonymous));
    for key in [&b, &plain, &a, &dash] {
        store.add_key(key).await.expect("added");
        store.add_key(key).await.expect("there already");
    }
    let listed = [plain, a.clone(), dash.clone(), b];
    assert_eq!(all().await, listed, "all of each, in order of their ids' bytes");

    assert!(store.remove_key("b").await.expect("removed"));
    assert!(!store.remove_key("b").await.expect("gone already"));
    assert!(!store.remove_key("A").await.expect("none of this name"));
    assert_eq!(all().await, listed[..3]);
    for key in &listed[..3] {
        assert!(store.remove_key(&key.id).await.expect("removed"));
    }
    assert!(all().await.is_empty());
}

async fn revocations(store: &dyn Credentials) {
    let at = async |now| store.revoked(now).await.expect("listed");
    let (a, b, c) = (token("a", NOW + 10), token("b", NOW + 20), token("c", NOW - 10));
    for token in [&b, &a, &c, &a] {
        store.revoke(token).await.expect("revoked");
    }
    let mut listed = at(NOW).await;
    listed.sort_by(|one, other| one.jti.cmp(&other.jti));
    assert_eq!(listed, [a, b.clone()], "those that have not expired");
    store.revoke(&token("b", NOW + 15)).await.expect("there already, and for longer");
    assert_eq!(at(NOW + 19).await, std::slice::from_ref(&b), "each until it expires");
    assert!(at(NOW + 20).await.is_empty(), "it has expired");

    // An operator may not know when a token expires.
    store.revoke(&token("for ever", u64::MAX)).await.expect("revoked");
    let far = at(NOW * 1_000).await;
    assert_eq!(far.iter().map(|token| &token.jti[..]).collect::<Vec<_>>(), ["for ever"]);
}

async fn hostile_texts(store: &dyn Credentials) {
    let far = i64::MAX as u64;
    let mut kept = Vec::new();
    for text in hostile() {
        let named = key(&text, Role::User);
        let used = ApiKey { user_id: text.clone(), ..key("used", Role::User) };
        let pattern = vec![Pattern(text.clone())];
        let grants = Grants { subscribe: pattern.clone(), publish: pattern };
        let granted = ApiKey { grants, ..key("granted", Role::User) };
        for key in [named, used, granted] {
            if done_or_refused(store.add_key(&key).await).is_some() {
                let listed = store.keys().await.expect("listed");
                assert!(listed.contains(&key), "{key:?}");
                assert_eq!(done_or_refused(store.remove_key(&key.id).await), Some(true), "{key:?}");
            }
            done_or_refused(store.remove_key(&key.id).await);
        }
        if done_or_refused(store.revoke(&token(&text, far)).await).is_some() {
            kept.push(token(&text, far));
        }
    }
    assert!(kept.len() >= 6, "texts are not refused for what they say");
    let listed = store.revoked(NOW).await.expect("listed");
    assert!(kept.iter().all(|token| listed.contains(token)));
    assert!(store.keys().await.expect("listed").is_empty());
}
