//! Profiles: each sets several keys at once. A key that is set by itself wins.

/// A profile.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    /// Keys and their values.
    pub(super) values: &'static [(&'static str, i64)],
}

/// The profile that sets nothing.
pub(super) const AUTO: &str = "auto";

/// Allowed values of `tuning.profile`.
pub(super) const NAMES: &[&str] = &[AUTO, "report-current", "report-recommended", "small", "medium", "large"];

pub(super) const PROFILES: &[Profile] = &[
    Profile {
        name: "report-current",
        values: &[
            ("limits.max_connections", 1_000),
            ("limits.stale_s", 300),
            ("pool.min", 10),
            ("batch.max_messages", 100),
            ("batch.max_bytes", 65_536),
            ("batch.window_ms", 50),
            ("memory.high_percent", 80),
            ("memory.cleanup_ms", 60_000),
        ],
    },
    Profile {
        name: "report-recommended",
        values: &[
            ("limits.max_connections", 2_000),
            ("limits.stale_s", 600),
            ("pool.min", 20),
            ("batch.max_messages", 200),
            ("batch.max_bytes", 131_072),
            ("batch.window_ms", 30),
            ("memory.high_percent", 75),
            ("memory.cleanup_ms", 30_000),
        ],
    },
    Profile {
        name: "small",
        values: &[
            ("limits.max_connections", 100),
            ("limits.stale_s", 300),
            ("pool.min", 5),
            ("batch.max_messages", 50),
            ("batch.window_ms", 100),
            ("memory.high_percent", 70),
            ("memory.cleanup_ms", 60_000),
        ],
    },
    Profile {
        name: "medium",
        values: &[
            ("limits.max_connections", 1_000),
            ("limits.stale_s", 300),
            ("pool.min", 10),
            ("batch.max_messages", 100),
            ("batch.window_ms", 50),
            ("memory.high_percent", 80),
            ("memory.cleanup_ms", 60_000),
        ],
    },
    Profile {
        name: "large",
        values: &[
            ("limits.max_connections", 5_000),
            ("limits.stale_s", 600),
            ("pool.min", 50),
            ("batch.max_messages", 200),
            ("batch.window_ms", 25),
            ("memory.high_percent", 85),
            ("memory.cleanup_ms", 30_000),
        ],
    },
];

/// The profile of this name; none for `auto`.
pub(super) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use toml::Value;

    #[test]
    fn every_profile_has_a_name_and_values_that_are_allowed() {
        let names: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
        assert_eq!(names, NAMES[1..]);
        for profile in PROFILES {
            for (path, value) in profile.values {
                let key = schema::find(path).unwrap_or_else(|| panic!("{path} is a key"));
                assert_eq!(key.kind.check(&Value::Integer(*value)), Ok(()), "{} {path}", profile.name);
            }
        }
    }
}
