//! Where each value of a configuration comes from.

use std::collections::BTreeMap;
use std::fmt;

/// Where a value comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// Not set: the default.
    #[default]
    Default,
    /// The profile of this name.
    Profile(&'static str),
    /// This file.
    File(String),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(&'static str),
    /// An operator, while the process runs.
    Api,
}

impl Origin {
    /// The key itself was set, not by a default or a profile.
    #[must_use]
    pub fn is_explicit(&self) -> bool {
        !matches!(self, Self::Default | Self::Profile(_))
    }

    /// The name in error messages.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Default => "the defaults",
            Self::Profile(name) => name,
            Self::File(name) | Self::Environment(name) => name,
            Self::Flag(name) => name,
            Self::Api => "the API",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File(name) => write!(f, "file {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Api => f.write_str("api"),
        }
    }
}

/// The origins of all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<&'static str, Origin>);

impl Origins {
    /// Where the value of a key comes from.
    #[must_use]
    pub fn of(&self, path: &str) -> &Origin {
        self.0.get(path).unwrap_or(&Origin::Default)
    }
}
