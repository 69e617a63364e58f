//! The scripts that run inside Redis: each on one room, as one step that nothing else comes between.

use redis::Script;

/// Appends messages.
pub(crate) fn publish() -> Script {
    Script::new(concat!(include_str!("open.lua"), include_str!("publish.lua")))
}

/// Reads a room's position and a part of its log.
pub(crate) fn read() -> Script {
    Script::new(concat!(include_str!("open.lua"), include_str!("read.lua")))
}

/// Takes or gives up a lease.
pub(crate) fn lease() -> Script {
    Script::new(include_str!("lease.lua"))
}

/// Enters and removes attendees of a room.
pub(crate) fn presence() -> Script {
    Script::new(include_str!("presence.lua"))
}
