//! The tickmesh protocol as pure state machines.
//!
//! Nothing in this crate opens a socket, reads a clock or spawns a task: bytes and the present time are arguments,
//! what is to be done comes back as values. The same input always gives the same output, so everything here is
//! tested with invented clocks and seeded randomness.

pub mod alarm;
pub mod batch;
pub mod close;
pub mod conflate;
pub mod crowd;
pub mod encode;
pub mod error;
pub mod frame;
pub mod identity;
pub mod link;
pub mod market;
pub mod memory;
pub mod message;
pub mod outbox;
pub mod pace;
pub mod placement;
pub mod position;
pub mod quality;
pub mod rate;
pub mod relay;
pub mod room;
pub mod session;
pub mod shape;
pub mod socketio;
pub mod trace;
pub mod vitals;
