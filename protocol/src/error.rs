//! Error codes of the protocol, and the failure that carries one to a client.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// The error codes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The action needs a token.
    AuthRequired,
    /// The token is not valid.
    AuthFailed,
    /// The token was valid once.
    AuthTokenExpired,
    /// The message cannot be understood at all.
    InvalidMessageFormat,
    /// There is no such action.
    InvalidAction,
    /// The symbol cannot be one.
    InvalidSymbol,
    /// A field is missing, of the wrong type, or out of its bounds.
    InvalidParameters,
    /// The identity may not do this.
    PermissionDenied,
    /// Too many of these; `error_details` says what the limit is.
    RateLimitExceeded,
    /// There is no such room, or no such subscription.
    RoomNotFound,
    /// The subscription could not be set up.
    SubscriptionFailed,
    /// The session follows the room already.
    AlreadySubscribed,
    /// The server failed.
    InternalError,
    /// What the action needs is away; trying later may help.
    ServiceUnavailable,
    /// What the action needs did not answer in time.
    Timeout,
}

impl ErrorCode {
    /// All of them; each stands at the index that it is as a number.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// What a program goes by.
    pub code: ErrorCode,
    /// What a person reads; lower case, no full stop.
    pub message: String,
    /// Figures behind it, such as the limit that was passed.
    pub details: Option<serde_json::Value>,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    /// [`ErrorCode::InvalidParameters`].
    pub fn parameters(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParameters, message)
    }

    /// [`ErrorCode::ServiceUnavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, message)
    }

    /// Adds figures for programs.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }
}
