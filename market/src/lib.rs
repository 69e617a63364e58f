//! Market data as pure functions and state machines: what a tick is, when an exchange trades, how ticks become bars, and when
//! a price alert fires.
//!
//! Nothing here opens a socket, reads a clock or keeps anything outside its values: messages and the present time are
//! arguments. It must not know rooms' logs, stores or sessions.

pub mod bars;
pub mod calendar;
pub mod tick;
pub mod watch;
