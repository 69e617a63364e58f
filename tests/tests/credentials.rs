//! API keys and revoked tokens: what is void is void at once, for as long as it could be taken, and also when nobody can look.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tickmesh_cluster::config::Secret;
use tickmesh_edge::jwt::encode;
use tickmesh_tests::{Answer, Client, NodeProcess, PostgresServer, SECRET, Sandbox, eventually, token};
use tokio_postgres::NoTls;

fn sandbox() -> Sandbox {
    Sandbox::with(2, |config| {
        config.auth.jwt_secret = Secret::new(SECRET);
        config.auth.leeway_s = 300;
    })
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// An operator's token with a name by which it can be revoked.
fn named(jti: &str, exp: u64) -> String {
    let claims = json!({"sub": "eve", "role": "operator", "exp": exp, "jti": jti});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signed")
}

async fn call(address: SocketAddr, credential: &str, method: &str, path: &str, body: &Value) -> Answer {
    let headers = format!("Authorization: Bearer {credential}\r\n");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Sandbox::http(address, method, &format!("/api/v1/{path}"), &headers, &body).await
}

/// Status and code of a call that needs nothing but a credential of an operator.
async fn judged(address: SocketAddr, credential: &str) -> (u16, String) {
    let answer = call(address, credential, "GET", "stats", &Value::Null).await;
    let code = answer.json()["error_code"].as_str().unwrap_or_default().to_owned();
    (answer.status, code)
}

fn void() -> (u16, String) {
    (401, "AUTH_FAILED".into())
}

fn taken() -> (u16, String) {
    (200, String::new())
}

fn unknown() -> (u16, String) {
    (503, "SERVICE_UNAVAILABLE".into())
}

async fn make_key(address: SocketAddr) -> (String, String) {
    let body = json!({"user_id": "feed", "role": "operator", "rooms": {"publish": ["market_A*"]}});
    let made = call(address, &token("root", "operator"), "POST", "keys", &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(made["rooms"], body["rooms"], "called as it was given");
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}

#[tokio::test]
async fn a_revocation_holds_as_long_as_the_token_would_be_taken() {
    let sandbox = sandbox();
    let (here, there) = (sandbox.address(0), sandbox.address(1));
    let exp = now() + 2;
    let (evil, other) = (named("evil", exp), named("other", exp));
    assert_eq!(judged(there, &evil).await, taken());
    let operator = token("root", "operator");
    let revoked = call(here, &operator, "POST", "tokens/revoke", &json!({"token": evil})).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    eventually("the other node knows", || async { judged(there, &evil).await == void() }).await;
    eventually("it expires", || async { now() > exp }).await;
    // A node that knows this has read what is revoked after that.
    let (_, key) = make_key(here).await;
    eventually("the other node reads again", || async { judged(there, &key).await == taken() }).await;
    assert_eq!(judged(there, &other).await, taken(), "the leeway is long");
    assert_eq!(judged(there, &evil).await, void());
    // By its name, though it has expired.
    let body = json!({"jti": "other", "expires_at": exp * 1_000});
    assert_eq!(call(here, &operator, "POST", "tokens/revoke", &body).await.status, 200);
    assert_eq!(judged(here, &other).await, void());
}

#[tokio::test]
async fn what_is_answered_is_done() {
    let sandbox = sandbox();
    let address = sandbox.address(0);
    let operator = token("root", "operator");
    for n in 0..20 {
        let (id, key) = make_key(address).await;
        assert_eq!(judged(address, &key).await, taken(), "{n}");
        let path = format!("keys/{id}");
        assert_eq!(call(address, &operator, "DELETE", &path, &Value::Null).await.status, 200);
        assert_eq!(judged(address, &key).await, void(), "{n}");
        let again = call(address, &operator, "DELETE", &path, &Value::Null).await;
        assert_eq!((again.status, &again.json()["error_code"]), (404, &json!("INVALID_PARAMETERS")));

        let named = named(&format!("t{n}"), now() + 600);
        for _ in 0..2 {
            let revoked = call(address, &operator, "POST", "tokens/revoke", &json!({"token": named})).await;
            assert_eq!(revoked.status, 200, "also a second time: {revoked:?}");
            assert_eq!(judged(address, &named).await, void(), "{n}");
        }
    }
    for past in [1, now(), (now() - 400) * 1_000] {
        let body = json!({"jti": "j", "expires_at": past});
        let refused = call(address, &operator, "POST", "tokens/revoke", &body).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.body.contains("UTC milliseconds"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_node_that_starts_without_its_store_lets_nobody_in_on_what_it_cannot_know() {
    let mut postgres = PostgresServer::start();
    let url = postgres.url();
    let environment = [("TICKMESH_POSTGRES__URL", url.as_str()), ("TICKMESH_POSTGRES__TIMEOUT_MS", "500")];
    let (evil, good, unnamed) =
        (named("evil", now() + 600), named("good", now() + 600), token("op", "operator"));
    let key = {
        let node = NodeProcess::start("n1", "memory", &environment);
        let body = json!({"token": evil});
        let revoke = || call(node.address(), &unnamed, "POST", "tokens/revoke", &body);
        eventually("the store is there", || async { revoke().await.status == 200 }).await;
        assert_eq!(judged(node.address(), &evil).await, void());
        let (_, key) = make_key(node.address()).await;
        // The node does not wait until it can read again what it was told.
        let (blocker, connection) = tokio_postgres::connect(&url, NoTls).await.expect("connected");
        tokio::spawn(connection);
        blocker.batch_execute("BEGIN; LOCK TABLE api_keys").await.expect("locked");
        let late = named("late", now() + 600);
        let body = json!({"token": late});
        let revoked = call(node.address(), &unnamed, "POST", "tokens/revoke", &body).await;
        assert_eq!(revoked.status, 200, "{revoked:?}");
        assert_eq!(judged(node.address(), &late).await, void());
        key
    };
    postgres.kill();
    let node = NodeProcess::start("n1", "memory", &environment);
    let address = node.address();
    assert_eq!(judged(address, &unnamed).await, taken());
    for credential in [&evil, &good, &key] {
        assert_eq!(judged(address, credential).await, unknown());
        let query = format!("?token={credential}");
        assert_eq!(Client::try_connect(address, &query, &[]).await.err(), Some(1013));
    }
    // Nor does who is in already take on such a token.
    let mut client = Client::connect(address, "").await;
    let answer = client.request("auth", json!({"token": evil})).await;
    assert_eq!(answer["error_code"], "SERVICE_UNAVAILABLE", "{answer}");
    postgres.restart();
    eventually("the store is back", || async { judged(address, &key).await == taken() }).await;
    assert_eq!(judged(address, &good).await, taken());
    assert_eq!(judged(address, &evil).await, void());
    let answer = client.request("auth", json!({"token": evil})).await;
    assert_eq!(answer["error_code"], "AUTH_FAILED", "{answer}");
}
