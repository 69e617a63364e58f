//! Who may connect: JSON Web Tokens (RFC 7519), API keys, and anonymous access.
//!
//! Invariants: a token is judged by the one configured algorithm, whatever its header says; secrets are compared in
//! constant time; no token or key appears in an error or a log.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tickmesh_cluster::config::{Anonymous, AuthConfig, JwtAlgorithm};
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::{Grants, Identity, Role};
use tokio::sync::watch;

/// Longest user id in bytes: it is part of room names.
pub const MAX_USER_LEN: usize = 100;
/// How API keys begin that are kept in a store, so that nothing else is looked for there.
pub const KEY_PREFIX: &str = "tmk_";

/// What is kept of an API key. Keys are 256 random bits: nothing slower is needed against guessing.
#[must_use]
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Keys and revocations from a store.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Who comes with the key that has this hash.
    pub keys: HashMap<[u8; 32], Identity>,
    /// Claims `jti` of tokens that are void.
    pub revoked: HashSet<String>,
    /// There is a store that was never read: what it has is not known.
    pub unread: bool,
}

impl Kept {
    /// Whether a credential is void: the [`Identity::credential`] of somebody who was let in.
    #[must_use]
    pub fn is_void(&self, credential: &str) -> bool {
        match credential.split_once(':') {
            Some(("jti", jti)) => self.revoked.contains(jti),
            Some(("key", _)) => {
                !self.unread
                    && !self.keys.values().any(|known| known.credential.as_deref() == Some(credential))
            }
            _ => false,
        }
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token, and anonymous access is off.
    #[error("a token is required")]
    Required,
    /// The token is not one, or was not made by whoever is trusted.
    #[error("the token is not valid: {0}")]
    Failed(String),
    /// The token was valid once.
    #[error("the token expired")]
    Expired,
    /// What the store has is not known yet, so nobody can tell whether the key is there or the token void.
    #[error("api keys and revoked tokens are not known yet, try again later")]
    Unknown,
}

impl AuthError {
    /// What a WebSocket is closed with.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Required | Self::Failed(_) => CloseCode::AuthFailed,
            Self::Expired => CloseCode::TokenExpired,
            Self::Unknown => CloseCode::Overloaded,
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let code = match &error {
            AuthError::Required => ErrorCode::AuthRequired,
            AuthError::Failed(_) => ErrorCode::AuthFailed,
            AuthError::Expired => ErrorCode::AuthTokenExpired,
            AuthError::Unknown => ErrorCode::ServiceUnavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// The configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// The key file cannot be read.
    #[error("auth.jwt_key_file = {path}: {error}")]
    Read {
        /// The configured path.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The key file holds no key for the algorithm.
    #[error("auth.jwt_key_file = {path}: expected a public key in PEM for {algorithm}: {error}")]
    Key {
        /// The configured path.
        path: PathBuf,
        /// The configured algorithm.
        algorithm: &'static str,
        /// What is wrong with it.
        error: jsonwebtoken::errors::Error,
    },
}

/// The claims that count; others are ignored.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    role: Option<Role>,
    exp: u64,
    #[serde(default)]
    rooms: Grants,
    jti: Option<String>,
}

/// Judges tokens and keys.
pub struct Auth {
    anonymous: Anonymous,
    jwt: Option<(DecodingKey, Validation)>,
    api_keys: Vec<(String, String, Role)>,
    kept: watch::Sender<Arc<Kept>>,
    leeway_ms: u64,
}

impl Auth {
    /// Reads the keys that the configuration names.
    ///
    /// # Errors
    /// When the key file cannot be read or holds no such key.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthSetupError> {
        crate::jwt::install();
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.leeway = config.leeway_s;
            validation.validate_aud = false;
            validation.set_required_spec_claims(&["exp", "sub"]);
            validation
        };
        let pem = |algorithm, name, from: fn(&[u8]) -> Result<DecodingKey, _>| {
            let Some(path) = config.jwt_key_file.clone() else { return Ok(None) };
            let bytes =
                std::fs::read(&path).map_err(|error| AuthSetupError::Read { path: path.clone(), error })?;
            let key = from(&bytes).map_err(|error| AuthSetupError::Key { path, algorithm: name, error })?;
            Ok(Some((key, validation(algorithm))))
        };
        let jwt = match config.jwt_algorithm {
            JwtAlgorithm::Hs256 => {
                let secret = config.jwt_secret.expose();
                (!secret.is_empty())
                    .then(|| (DecodingKey::from_secret(secret.as_bytes()), validation(Algorithm::HS256)))
            }
            JwtAlgorithm::Rs256 => pem(Algorithm::RS256, "RS256", DecodingKey::from_rsa_pem)?,
            JwtAlgorithm::Es256 => pem(Algorithm::ES256, "ES256", DecodingKey::from_ec_pem)?,
        };
        let api_keys = config
            .api_keys
            .iter()
            .map(|key| (key.name.clone(), key.key.expose().to_owned(), key.role))
            .collect();
        let leeway_ms = config.leeway_s.saturating_mul(1_000);
        let kept = watch::Sender::default();
        Ok(Self { anonymous: config.anonymous, jwt, api_keys, kept, leeway_ms })
    }

    /// Milliseconds after its expiry in which a token is still taken.
    #[must_use]
    pub fn leeway_ms(&self) -> u64 {
        self.leeway_ms
    }

    /// There is a store. Until it is read, its keys and all tokens with a `jti` are refused with [`AuthError::Unknown`].
    pub fn expect_kept(&self) {
        self.change_kept(|kept| kept.unread = true);
    }

    /// Waits until the store, if there is one, was read.
    pub async fn kept_known(&self) {
        // The sender lives as long as this.
        let _ = self.kept.subscribe().wait_for(|kept| !kept.unread).await;
    }

    /// What the store had when it was asked last, and what was changed since.
    #[must_use]
    pub fn kept(&self) -> Arc<Kept> {
        self.kept.borrow().clone()
    }

    /// Takes what the store has, unless something else was taken since `before`, which [`kept`](Self::kept) gave before the
    /// store was asked: then it may lack a later change. Answers whether it was taken.
    pub fn replace_kept(&self, before: &Arc<Kept>, kept: Arc<Kept>) -> bool {
        self.kept.send_if_modified(|held| {
            let same = Arc::ptr_eq(held, before);
            if same {
                *held = kept;
            }
            same
        })
    }

    /// Changes what is known, without a look at the store.
    pub fn change_kept(&self, change: impl FnOnce(&mut Kept)) {
        self.kept.send_modify(|held| {
            let mut kept = Kept::clone(held);
            change(&mut kept);
            *held = Arc::new(kept);
        });
    }

    /// The identity that a token or API key stands for; without one, the anonymous identity where that is allowed.
    /// `now` is in UTC milliseconds.
    ///
    /// # Errors
    /// When there is none.
    pub fn identify(&self, credential: Option<&str>, now: u64) -> Result<Identity, AuthError> {
        match (credential, self.anonymous) {
            (Some(credential), _) => match self.api_key(credential) {
                Some(identity) => Ok(identity),
                None if credential.starts_with(KEY_PREFIX) => self.kept_key(credential, now),
                None => self.verify(credential, now),
            },
            (None, Anonymous::None) => Err(AuthError::Required),
            (None, Anonymous::Subscribe) => Ok(Identity::anonymous()),
            (None, Anonymous::Full) => Ok(Identity { anonymous_may_publish: true, ..Identity::anonymous() }),
        }
    }

    /// What can be told of a credential before a node has seen it: that it is refused, or perhaps whose it is. Judged are
    /// JSON Web Tokens alone, where their key is known; whatever else there is, API keys and anonymous access, is for
    /// the node. `now` is in UTC milliseconds.
    ///
    /// # Errors
    /// When no node would take the token.
    pub fn screen(&self, credential: Option<&str>, now: u64) -> Result<Option<Identity>, AuthError> {
        match credential {
            Some(credential) if self.jwt.is_some() && decode_header(credential).is_ok() => {
                self.verify(credential, now).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The identity in a JSON Web Token; `now` is in UTC milliseconds.
    ///
    /// # Errors
    /// When its signature, time or claims are not right, it was revoked, or nobody knows whether it was.
    pub fn verify(&self, token: &str, now: u64) -> Result<Identity, AuthError> {
        let identity = self.read(token, now)?;
        if let Some(credential) = &identity.credential {
            let kept = self.kept.borrow();
            if kept.unread {
                return Err(AuthError::Unknown);
            }
            if kept.is_void(credential) {
                return Err(AuthError::Failed("it was revoked".into()));
            }
        }
        Ok(identity)
    }

    /// The identity in a JSON Web Token, whether or not it was revoked; `now` is in UTC milliseconds.
    ///
    /// # Errors
    /// When its signature, time or claims are not right.
    pub fn read(&self, token: &str, now: u64) -> Result<Identity, AuthError> {
        let failed = |text: &str| AuthError::Failed(text.to_owned());
        let (key, validation) = self.jwt.as_ref().ok_or_else(|| failed("no key is configured"))?;
        let claims = decode::<Claims>(token, key, validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => AuthError::Expired,
                ErrorKind::InvalidSignature => failed("bad signature"),
                ErrorKind::InvalidAlgorithm => failed("another algorithm is expected"),
                ErrorKind::MissingRequiredClaim(claim) => {
                    AuthError::Failed(format!("claim {claim} is missing"))
                }
                ErrorKind::Json(_) => failed("its claims are not understood"),
                _ => failed("malformed"),
            })?
            .claims;
        if !(1..=MAX_USER_LEN).contains(&claims.sub.len()) {
            return Err(failed("sub has 1 to 100 bytes"));
        }
        let role = claims.role.unwrap_or(Role::User);
        if role == Role::Anonymous {
            return Err(failed("role is user, publisher or operator"));
        }
        // The leeway is for clocks that differ, at the door; a session ends when its token does.
        let expires_at = claims.exp.saturating_mul(1_000).max(now);
        Ok(Identity {
            user_id: claims.sub,
            role,
            expires_at: Some(expires_at),
            grants: claims.rooms,
            anonymous_may_publish: false,
            credential: claims.jti.map(|jti| format!("jti:{jti}")),
        })
    }

    fn kept_key(&self, credential: &str, now: u64) -> Result<Identity, AuthError> {
        // Found by its hash: the time that takes tells nothing of the key.
        let kept = self.kept();
        let identity = kept.keys.get(&hash(credential)).cloned();
        if identity.is_none() && kept.unread {
            return Err(AuthError::Unknown);
        }
        let identity = identity.ok_or_else(|| AuthError::Failed("there is no such key".into()))?;
        if identity.expires_at.is_some_and(|at| at <= now) {
            return Err(AuthError::Expired);
        }
        Ok(identity)
    }

    fn api_key(&self, credential: &str) -> Option<Identity> {
        let mut found = None;
        // All are compared, so that the time tells nothing about which one matched.
        for (name, key, role) in &self.api_keys {
            if bool::from(key.as_bytes().ct_eq(credential.as_bytes())) {
                found = Some(Identity { role: *role, ..Identity::user(name) });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};
    use tickmesh_cluster::config::{ApiKey, Config, Secret};

    use super::*;
    use crate::jwt::encode;

    const SECRET: &str = "a secret of the tests, long enough";
    const FIXED: &str = "tmk_a_key_of_the_configuration";
    const KEPT: &str = "tmk_a_key_of_the_store";
    const NOW: u64 = 1_700_000_000_000;

    fn auth() -> Auth {
        let mut config = Config::node_defaults().auth;
        config.jwt_secret = Secret::new(SECRET);
        let key = Secret::new(FIXED);
        config.api_keys = vec![ApiKey { name: "fixed".into(), key, role: Role::Publisher }];
        Auth::new(&config).unwrap()
    }

    fn token(jti: Option<&str>) -> String {
        let mut claims = json!({"sub": "alice", "exp": 4_000_000_000u64});
        if let Some(jti) = jti {
            claims["jti"] = Value::from(jti);
        }
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    fn with_key() -> Kept {
        Kept { keys: HashMap::from([(hash(KEPT), Identity::user("kept"))]), ..Kept::default() }
    }

    #[test]
    fn a_configured_key_may_begin_like_one_of_the_store() {
        let auth = auth();
        assert_eq!(auth.identify(Some(FIXED), NOW).unwrap().user_id, "fixed");
        assert!(matches!(auth.identify(Some(KEPT), NOW), Err(AuthError::Failed(_))));
        auth.change_kept(|kept| *kept = with_key());
        assert_eq!(auth.identify(Some(KEPT), NOW).unwrap().user_id, "kept");
    }

    #[test]
    fn nobody_is_let_in_on_what_a_store_has_that_was_never_read() {
        let auth = auth();
        auth.expect_kept();
        for unknown in [KEPT, &token(Some("j"))] {
            let error = auth.identify(Some(unknown), NOW).unwrap_err();
            assert_eq!((error.close_code(), &error), (CloseCode::Overloaded, &AuthError::Unknown));
            assert_eq!(Failure::from(error).code, ErrorCode::ServiceUnavailable);
        }
        // What the store has nothing to say about.
        for known in [FIXED, &token(None)] {
            assert!(auth.identify(Some(known), NOW).is_ok());
        }
        assert_eq!(auth.identify(Some("a.b.c"), NOW), Err(AuthError::Failed("malformed".into())));
        assert!(!auth.kept().is_void("key:1"), "sessions of before are not ended for it");

        let before = auth.kept();
        assert!(auth.replace_kept(&before, Arc::new(with_key())));
        for known in [KEPT, &token(Some("j"))] {
            assert!(auth.identify(Some(known), NOW).is_ok());
        }
    }

    #[test]
    fn what_was_read_before_a_change_does_not_undo_it() {
        let auth = auth();
        let before = auth.kept();
        auth.change_kept(|kept| kept.revoked.extend(["j".into()]));
        assert!(!auth.replace_kept(&before, Arc::default()));
        let void = token(Some("j"));
        assert_eq!(auth.verify(&void, NOW), Err(AuthError::Failed("it was revoked".into())));
        assert!(auth.read(&void, NOW).is_ok());
        assert!(auth.replace_kept(&auth.kept(), Arc::default()));
        assert!(auth.verify(&void, NOW).is_ok());
    }
}
