//! Who a connection is and what it was granted. How that is proven is not known here.

use serde::{Deserialize, Serialize};

use crate::room::Pattern;

/// What a token or key makes its bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Came without a token. A token that says so is refused.
    Anonymous,
    /// A person or program that watches.
    User,
    /// May publish into rooms of the class access `publishers`, and read the server API.
    Publisher,
    /// May do everything that a client can be allowed to do.
    Operator,
}

/// Rooms named in a token, beyond what the classes allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Rooms that may be subscribed to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<Pattern>,
    /// Rooms that may be published into.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Pattern>,
}

/// The bearer of a connection or of an API call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The token's subject; `anonymous` without one.
    pub user_id: String,
    /// The token's role.
    pub role: Role,
    /// UTC milliseconds after which the identity is void; `None` for anonymous connections.
    pub expires_at: Option<u64>,
    /// Rooms beyond the classes.
    pub grants: Grants,
    /// The deployment lets anonymous connections publish (`auth.anonymous = "full"`).
    pub anonymous_may_publish: bool,
    /// What it was proven by, by a name that is no secret; so that who came with it can be found when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl Identity {
    /// A connection without a token, that may only read.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { role: Role::Anonymous, ..Self::user("anonymous") }
    }

    /// A plain user without grants whose token does not expire.
    #[must_use]
    pub fn user(user_id: &str) -> Self {
        Self {
            user_id: user_id.to_owned(),
            role: Role::User,
            expires_at: None,
            grants: Grants::default(),
            anonymous_may_publish: false,
            credential: None,
        }
    }
}
