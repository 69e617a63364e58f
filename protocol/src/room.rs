//! Room names and room classes: what a class allows, and how long its rooms remember.
//!
//! A class is chosen by the longest configured prefix that matches a room's name. This module must not know how
//! identities are proven or where logs are kept.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, Failure};
use crate::identity::{Identity, Role};
use crate::vitals;

/// Longest room name in bytes.
pub const MAX_NAME_LEN: usize = 128;

/// A valid room name: `[A-Za-z0-9_.:-]{1,128}`. Cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// The name is empty, longer than 128 bytes, or has a character outside `[A-Za-z0-9_.:-]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a room name has 1 to 128 characters of A-Z a-z 0-9 _ . : -")]
pub struct BadRoomName;

impl RoomName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// When the name does not match the rule.
    pub fn new(name: &str) -> Result<Self, BadRoomName> {
        let valid = (1..=MAX_NAME_LEN).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b));
        if valid { Ok(Self(name.into())) } else { Err(BadRoomName) }
    }

    /// The private room of a user, where alerts and notices are pushed; `None` if the id cannot be part of a name.
    #[must_use]
    pub fn of_user(user_id: &str) -> Option<Self> {
        Self::new(&format!("user_{user_id}")).ok()
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for RoomName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RoomName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

/// Who may do a thing in the rooms of a class. A grant in the token adds to it; `nobody` cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Every connection that was let in, anonymous ones too.
    Everyone,
    /// Everyone who came with a valid token.
    Users,
    /// The user whose id follows the prefix in the room's name, and operators.
    Owner,
    /// Publishers and operators.
    Publishers,
    /// Operators, and everyone where `auth.anonymous = "full"`.
    Operators,
    /// No client at all: the cluster itself.
    Nobody,
}

/// What a class of rooms does and allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Class {
    /// Rooms whose name starts so; the empty prefix matches all. The longest match wins.
    pub prefix: String,
    /// Messages kept in the log of a room; 0 to 1,000,000.
    pub history_size: usize,
    /// Seconds that a message stays in the log; 1 to 31,536,000.
    pub history_ttl_s: u64,
    /// Seconds during which a repeated `message_id` is recognised; 1 to 86,400.
    pub idempotency_window_s: u64,
    /// Who may subscribe and read the history.
    pub subscribe: Access,
    /// Who may publish.
    pub publish: Access,
    /// Whether those who may subscribe may ask who else is there.
    pub presence: bool,
    /// Whether joins and leaves are announced in the room, as messages of its log.
    pub join_events: bool,
    /// Whether its messages are written to the time-series store.
    pub record: bool,
    /// Names of events that do not wait in a flush window; `*` for all.
    pub critical_events: Vec<String>,
}

impl Class {
    /// Whether an event of this name does not wait in a flush window.
    #[must_use]
    pub fn is_critical(&self, event: &str) -> bool {
        self.critical_events.iter().any(|name| name == "*" || name == event)
    }
}

impl Default for Class {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            history_size: 1_000,
            history_ttl_s: 3_600,
            idempotency_window_s: 120,
            subscribe: Access::Everyone,
            publish: Access::Publishers,
            presence: true,
            join_events: false,
            record: false,
            critical_events: vec!["alert".to_owned()],
        }
    }
}

/// The configured classes.
#[derive(Debug, Clone)]
pub struct Classes {
    /// Longest prefix first; the last one has the empty prefix.
    by_length: Vec<Arc<Class>>,
}

impl Default for Classes {
    fn default() -> Self {
        Self::new(default_classes())
    }
}

/// The classes of a configuration that names none.
#[must_use]
pub fn default_classes() -> Vec<Class> {
    let class = |prefix: &str, subscribe, publish| Class {
        prefix: prefix.to_owned(),
        subscribe,
        publish,
        ..Class::default()
    };
    let kept = |prefix| Class {
        presence: false,
        history_size: 5_000,
        history_ttl_s: 7 * 24 * 3_600,
        idempotency_window_s: 3_600,
        critical_events: vec!["*".to_owned()],
        ..class(prefix, Access::Operators, Access::Nobody)
    };
    vec![
        Class { record: true, ..class("market_", Access::Everyone, Access::Publishers) },
        class("stream_", Access::Everyone, Access::Publishers),
        class("user_", Access::Owner, Access::Publishers),
        class("portfolio_", Access::Owner, Access::Publishers),
        Class { critical_events: vec!["*".to_owned()], ..class("system_", Access::Users, Access::Nobody) },
        // What the cluster tells of its processes names users' rooms and hosts: it is for those who operate it.
        Class {
            presence: false,
            history_size: 5_000,
            // Once a second from each process: longer than any rule of alarms or view of it looks back.
            history_ttl_s: 900,
            ..class(vitals::CLUSTER_ROOM, Access::Operators, Access::Nobody)
        },
        kept(vitals::EVENTS_ROOM),
        kept(vitals::ALERTS_ROOM),
        kept(vitals::DELIVERIES_ROOM),
        class("kline_", Access::Everyone, Access::Nobody),
        Class::default(),
    ]
}

impl Classes {
    /// Takes the classes in any order; adds a default one where none has the empty prefix.
    #[must_use]
    pub fn new(classes: Vec<Class>) -> Self {
        let mut by_length: Vec<_> = classes.into_iter().map(Arc::new).collect();
        if !by_length.iter().any(|class| class.prefix.is_empty()) {
            by_length.push(Arc::new(Class::default()));
        }
        by_length.sort_by_key(|class| std::cmp::Reverse(class.prefix.len()));
        Self { by_length }
    }

    /// All of them, in the order in which they are looked at.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.by_length.iter()
    }

    /// Place of a room's class among [`iter`](Self::iter).
    #[must_use]
    pub fn index_of(&self, room: &RoomName) -> usize {
        let last = self.by_length.len() - 1;
        self.by_length.iter().position(|class| room.as_str().starts_with(&class.prefix)).unwrap_or(last)
    }

    /// The class of a room.
    #[must_use]
    pub fn of(&self, room: &RoomName) -> &Arc<Class> {
        self.by_length
            .iter()
            .find(|class| room.as_str().starts_with(&class.prefix))
            .unwrap_or_else(|| unreachable!("`new` adds a class with the empty prefix"))
    }

    /// Whether this identity may subscribe to the room.
    #[must_use]
    pub fn may_subscribe(&self, who: &Identity, room: &RoomName) -> bool {
        let class = self.of(room);
        allowed(class, class.subscribe, who, room, &who.grants.subscribe)
    }

    /// Whether this identity may ask who is in the room.
    ///
    /// # Errors
    /// [`ErrorCode::PermissionDenied`] with the reason.
    pub fn check_presence(&self, who: &Identity, room: &RoomName) -> Result<(), Failure> {
        let denied = |text| Err(Failure::new(ErrorCode::PermissionDenied, text));
        if !self.may_subscribe(who, room) {
            denied("may not read this room")
        } else if !self.of(room).presence {
            denied("presence is off for rooms of this class")
        } else {
            Ok(())
        }
    }

    /// Whether this identity may publish into the room.
    #[must_use]
    pub fn may_publish(&self, who: &Identity, room: &RoomName) -> bool {
        let class = self.of(room);
        if who.role == Role::Anonymous && !who.anonymous_may_publish {
            return false;
        }
        allowed(class, class.publish, who, room, &who.grants.publish)
    }
}

fn allowed(class: &Class, access: Access, who: &Identity, room: &RoomName, grants: &[Pattern]) -> bool {
    let by_class = match access {
        Access::Nobody => return false,
        Access::Everyone => true,
        Access::Users => who.role != Role::Anonymous,
        Access::Owner => {
            let owner = room.as_str().strip_prefix(class.prefix.as_str());
            who.role == Role::Operator || (who.role != Role::Anonymous && owner == Some(who.user_id.as_str()))
        }
        // `auth.anonymous = "full"` makes an anonymous connection a publisher of open rooms: for a laptop.
        Access::Publishers => {
            matches!(who.role, Role::Publisher | Role::Operator) || who.anonymous_may_publish
        }
        // On a laptop everybody operates.
        Access::Operators => who.role == Role::Operator || who.anonymous_may_publish,
    };
    by_class || grants.iter().any(|pattern| pattern.matches(room))
}

/// A room name, or a prefix followed by `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether the room is meant.
    #[must_use]
    pub fn matches(&self, room: &RoomName) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => room.as_str().starts_with(prefix),
            None => room.as_str() == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Grants;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    #[test]
    fn names_outside_the_rule_are_refused() {
        for bad in ["", " ", "a b", "raum_ü", "a/b", "a*", &"x".repeat(129)] {
            assert!(RoomName::new(bad).is_err(), "{bad}");
        }
        for good in ["a", "market_600519", "A-z.0:9_", &"x".repeat(128)] {
            assert!(RoomName::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let class = |prefix: &str| Class { prefix: prefix.into(), ..Class::default() };
        let classes = Classes::new(vec![class("m"), class("market_"), class("market_vip_")]);
        assert_eq!(classes.of(&room("market_1")).prefix, "market_");
        assert_eq!(classes.of(&room("market_vip_1")).prefix, "market_vip_");
        assert_eq!(classes.of(&room("mx")).prefix, "m");
        assert_eq!(classes.of(&room("zzz")).prefix, "");
    }

    #[test]
    fn private_rooms_are_for_their_owner_and_operators() {
        let classes = Classes::default();
        let alice = Identity::user("alice");
        let operator = Identity { role: Role::Operator, ..Identity::user("root") };
        let anonymous = Identity { anonymous_may_publish: true, ..Identity::anonymous() };
        assert!(classes.may_subscribe(&alice, &room("user_alice")));
        assert!(!classes.may_subscribe(&alice, &room("user_bob")));
        assert!(!classes.may_subscribe(&alice, &room("portfolio_alice2")));
        assert!(classes.may_subscribe(&operator, &room("user_bob")));
        assert!(!classes.may_subscribe(&anonymous, &room("user_")));
    }

    #[test]
    fn grants_add_but_never_open_what_is_the_clusters_own() {
        let classes = Classes::default();
        let mut user = Identity::user("alice");
        assert!(!classes.may_publish(&user, &room("market_1")));
        user.grants = Grants {
            publish: vec![Pattern("market_*".into()), Pattern("system_x".into())],
            subscribe: vec![Pattern("user_bob".into())],
        };
        assert!(classes.may_publish(&user, &room("market_1")));
        assert!(!classes.may_publish(&user, &room("system_x")));
        assert!(classes.may_subscribe(&user, &room("user_bob")));
    }

    #[test]
    fn what_the_cluster_tells_of_itself_is_for_operators() {
        let classes = Classes::default();
        let operator = Identity { role: Role::Operator, ..Identity::user("root") };
        let publisher = Identity { role: Role::Publisher, ..Identity::user("feed") };
        let laptop = Identity { anonymous_may_publish: true, ..Identity::anonymous() };
        for name in vitals::ROOMS.map(room) {
            assert!(classes.may_subscribe(&operator, &name) && classes.may_subscribe(&laptop, &name));
            assert!(!classes.may_subscribe(&publisher, &name), "{name}");
            assert!(!classes.may_subscribe(&Identity::anonymous(), &name), "{name}");
            assert!(![&operator, &publisher, &laptop].into_iter().any(|who| classes.may_publish(who, &name)));
        }
        assert!(
            classes.may_subscribe(&Identity::user("alice"), &room("system_status")),
            "others stay as they are"
        );
    }

    #[test]
    fn anonymous_connections_publish_only_where_configured() {
        let classes = Classes::default();
        let mut who = Identity::anonymous();
        assert!(!classes.may_publish(&who, &room("market_1")));
        who.anonymous_may_publish = true;
        assert!(classes.may_publish(&who, &room("market_1")));
        assert!(!classes.may_publish(&who, &room("system_1")));
    }
}
