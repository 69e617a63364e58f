//! Who may connect and what they may do: tokens of each algorithm, anonymous access, grants, expiry.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tickmesh_cluster::config::{Anonymous, ApiKey, JwtAlgorithm, Secret};
use tickmesh_edge::jwt::encode;
use tickmesh_protocol::identity::Role;
use tickmesh_tests::{Client, DEADLINE, Sandbox};

const SECRET: &str = "a secret of the tests, long enough";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

fn hs256(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signed")
}

fn user(name: &str, role: &str) -> String {
    hs256(&json!({"sub": name, "role": role, "exp": now() + 60}))
}

fn closed() -> Sandbox {
    Sandbox::with(1, |config| {
        config.auth.anonymous = Anonymous::None;
        config.auth.jwt_secret = Secret::new(SECRET);
        config.auth.leeway_s = 0;
    })
}

async fn enter(sandbox: &Sandbox, token: &str) -> Result<Client, u16> {
    Client::try_connect(sandbox.address(0), &format!("?token={token}"), &[]).await
}

#[tokio::test]
async fn a_token_is_asked_for_and_judged() {
    let sandbox = closed();
    let good = user("alice", "user");
    let other = EncodingKey::from_secret(b"another secret of sufficient length");
    let claims = json!({"sub": "alice", "exp": now() + 60});
    let forged = encode(&Header::default(), &claims, &other).expect("signed");
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let none = "eyJhbGciOiJub25lIn0"; // {"alg":"none"}
    let cases = [
        ("no token", String::new(), 4001),
        ("rubbish", "abc".into(), 4001),
        ("another secret", forged, 4001),
        ("algorithm none", format!("{none}.{body}."), 4001),
        ("algorithm none with a signature", format!("{none}.{body}.{signature}"), 4001),
        ("no signature", format!("{head}.{body}."), 4001),
        (
            "another algorithm of the same secret",
            {
                let key = EncodingKey::from_secret(SECRET.as_bytes());
                encode(&Header::new(Algorithm::HS512), &claims, &key).expect("signed")
            },
            4001,
        ),
        ("no expiry", hs256(&json!({"sub": "alice"})), 4001),
        ("no subject", hs256(&json!({"exp": now() + 60})), 4001),
        ("an unknown role", user("alice", "king"), 4001),
        ("the anonymous role", user("alice", "anonymous"), 4001),
        ("an expired token", hs256(&json!({"sub": "alice", "exp": now() - 10})), 4002),
    ];
    for (what, token, code) in cases {
        let entered = if token.is_empty() {
            Client::try_connect(sandbox.address(0), "", &[]).await
        } else {
            enter(&sandbox, &token).await
        };
        assert_eq!(entered.err(), Some(code), "{what}");
    }
    assert_eq!(
        enter(&sandbox, &good).await.map(|client| client.hello["user_id"].clone()),
        Ok(json!("alice"))
    );
    let header = format!("Bearer {good}");
    assert!(Client::try_connect(sandbox.address(0), "", &[("Authorization", &header)]).await.is_ok());
}

#[tokio::test]
async fn public_keys_from_a_file_are_used() {
    let claims = json!({"sub": "alice", "exp": now() + 60});
    let read = |name: &str| std::fs::read(data(name)).expect("a key");
    let rsa = EncodingKey::from_rsa_pem(&read("rs256.key.pem")).expect("a key");
    let ec = EncodingKey::from_ec_pem(&read("es256.key.pem")).expect("a key");
    for (configured, file, algorithm, key) in [
        (JwtAlgorithm::Rs256, "rs256.pub.pem", Algorithm::RS256, &rsa),
        (JwtAlgorithm::Es256, "es256.pub.pem", Algorithm::ES256, &ec),
    ] {
        let sandbox = Sandbox::with(1, |config| {
            config.auth.anonymous = Anonymous::None;
            config.auth.jwt_algorithm = configured;
            config.auth.jwt_key_file = Some(data(file));
        });
        let good = encode(&Header::new(algorithm), &claims, key).expect("signed");
        assert!(enter(&sandbox, &good).await.is_ok(), "{configured:?}");
        // The public key is no secret: a token made with it as an HMAC secret must not pass (algorithm confusion).
        let confused =
            encode(&Header::default(), &claims, &EncodingKey::from_secret(&read(file))).expect("signed");
        assert_eq!(enter(&sandbox, &confused).await.err(), Some(4001), "{configured:?}");
    }
}

#[tokio::test]
async fn anonymous_access_is_what_is_configured() {
    for (anonymous, connects, publishes) in
        [(Anonymous::None, false, false), (Anonymous::Subscribe, true, false), (Anonymous::Full, true, true)]
    {
        let sandbox = Sandbox::with(1, |config| {
            config.auth.anonymous = anonymous;
            config.auth.jwt_secret = Secret::new(SECRET);
        });
        let entered = Client::try_connect(sandbox.address(0), "", &[]).await;
        assert_eq!(entered.is_ok(), connects, "{anonymous:?}");
        let message = json!({"room": "market_1", "event": "e", "data": 1});
        if let Ok(mut client) = entered {
            client.subscribe("market_1", json!({})).await;
            assert_eq!(
                client.request("publish", message.clone()).await["success"] == true,
                publishes,
                "{anonymous:?}"
            );
            assert_eq!(
                client.try_subscribe("user_anonymous", json!({})).await["error_code"],
                "PERMISSION_DENIED"
            );
        }
        let status = sandbox.post(0, "/api/v1/publish", &message).await.status;
        assert_eq!(status == 200, publishes, "{anonymous:?}: {status}");
        let status = sandbox.get("/api/v1/sessions").await.status;
        assert_eq!(status == 200, publishes, "{anonymous:?}: {status}");
    }
}

#[tokio::test]
async fn rooms_are_open_to_whom_they_are_for() {
    let sandbox = closed();
    let mut alice = enter(&sandbox, &user("alice", "user")).await.expect("let in");
    alice.subscribe("user_alice", json!({})).await;
    alice.subscribe("market_1", json!({})).await;
    assert_eq!(alice.try_subscribe("user_bob", json!({})).await["error_code"], "PERMISSION_DENIED");
    let message = |room: &str| json!({"room": room, "event": "e", "data": 1});
    assert_eq!(alice.request("publish", message("market_1")).await["error_code"], "PERMISSION_DENIED");

    let mut publisher = enter(&sandbox, &user("feed", "publisher")).await.expect("let in");
    assert_eq!(publisher.request("publish", message("market_1")).await["success"], true);
    assert_eq!(publisher.request("publish", message("system_1")).await["error_code"], "PERMISSION_DENIED");
    assert_eq!(publisher.try_subscribe("user_alice", json!({})).await["error_code"], "PERMISSION_DENIED");

    let granted = hs256(&json!({"sub": "carol", "exp": now() + 60,
        "rooms": {"subscribe": ["user_bob"], "publish": ["market_*"]}}));
    let mut carol = enter(&sandbox, &granted).await.expect("let in");
    carol.subscribe("user_bob", json!({})).await;
    assert_eq!(carol.request("publish", message("market_9")).await["success"], true);
    assert_eq!(carol.request("publish", message("stream_9")).await["error_code"], "PERMISSION_DENIED");

    let mut operator = enter(&sandbox, &user("root", "operator")).await.expect("let in");
    operator.subscribe("user_bob", json!({})).await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_unless_it_is_renewed() {
    let sandbox = closed();
    let brief = |seconds| hs256(&json!({"sub": "alice", "exp": now() + seconds}));
    let mut ending = enter(&sandbox, &brief(2)).await.expect("let in");
    let mut renewed = enter(&sandbox, &brief(2)).await.expect("let in");
    let bob = renewed.request("auth", json!({"token": user("bob", "user")})).await;
    assert_eq!(bob["error_code"], "PERMISSION_DENIED", "a session keeps its user");
    let answer = renewed.request("auth", json!({"token": user("alice", "user")})).await;
    assert_eq!(answer["data"]["user_id"], "alice");
    assert!(answer["data"]["expires_at"].as_u64().expect("a time") > (now() + 30) * 1_000);
    let told = tokio::time::timeout(DEADLINE, ending.next()).await.expect("it is told");
    assert_eq!(told["error_code"], "AUTH_TOKEN_EXPIRED");
    assert_eq!(ending.closed().await, 4002);
    assert_eq!(renewed.request("time", json!({})).await["success"], true);
}

#[tokio::test]
async fn api_keys_have_their_role() {
    let key = |name: &str, role| ApiKey {
        name: name.into(),
        key: Secret::new(format!("key of the {name}, long enough")),
        role,
    };
    let sandbox = Sandbox::with(1, |config| {
        config.auth.anonymous = Anonymous::None;
        config.auth.api_keys =
            vec![key("feed", Role::Publisher), key("viewer", Role::User), key("ops", Role::Operator)];
    });
    let body = json!({"room": "market_1", "event": "e", "data": 1}).to_string();
    for (name, publish, sessions, disconnect) in [
        ("feed", 200, 200, 403),
        ("viewer", 403, 403, 403),
        ("ops", 200, 200, 404),
        ("nobody", 401, 401, 401),
    ] {
        let header = format!("Authorization: Bearer key of the {name}, long enough\r\n");
        let status = async |method, path, body| sandbox.request(method, path, &header, body).await.status;
        assert_eq!(status("POST", "/api/v1/publish", &body).await, publish, "{name}");
        assert_eq!(status("GET", "/api/v1/sessions", "").await, sessions, "{name}");
        assert_eq!(status("DELETE", "/api/v1/sessions/none", "").await, disconnect, "{name}");
    }
    let missing = sandbox.get("/api/v1/sessions").await;
    assert_eq!(missing.json()["error_code"], "AUTH_REQUIRED");
    assert!(missing.head.to_lowercase().contains("www-authenticate: bearer"));
}
