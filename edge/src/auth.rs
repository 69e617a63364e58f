//! Who may connect: JSON Web Tokens (RFC 7519), API keys, and anonymous access.
//!
//! Invariants: a token is judged by the one configured algorithm, whatever its header says; secrets are compared in
//! constant time; no token or key appears in an error or a log.

use std::path::PathBuf;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tickmesh_cluster::config::{Anonymous, AuthConfig, JwtAlgorithm};
use tickmesh_protocol::close::CloseCode;
use tickmesh_protocol::error::{ErrorCode, Failure};
use tickmesh_protocol::identity::{Grants, Identity, Role};

/// Longest user id in bytes: it is part of room names.
const MAX_USER_LEN: usize = 100;

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
}

impl AuthError {
    /// What a WebSocket is closed with.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Required | Self::Failed(_) => CloseCode::AuthFailed,
            Self::Expired => CloseCode::TokenExpired,
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let code = match &error {
            AuthError::Required => ErrorCode::AuthRequired,
            AuthError::Failed(_) => ErrorCode::AuthFailed,
            AuthError::Expired => ErrorCode::AuthTokenExpired,
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
}

/// Judges tokens and keys.
pub struct Auth {
    anonymous: Anonymous,
    jwt: Option<(DecodingKey, Validation)>,
    api_keys: Vec<(String, String, Role)>,
}

impl Auth {
    /// Reads the keys that the configuration names.
    ///
    /// # Errors
    /// When the key file cannot be read or holds no such key.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthSetupError> {
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
        Ok(Self { anonymous: config.anonymous, jwt, api_keys })
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
    /// When its signature, time or claims are not right.
    pub fn verify(&self, token: &str, now: u64) -> Result<Identity, AuthError> {
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
        })
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
