//! What node and gateway processes share: the ports through which they meet, each in memory and on Redis, and their
//! configuration.
//!
//! * [`broker`]: the logs of rooms · [`members`]: who is there · [`bus`], [`letter`]: what they tell each other
//! * [`presence`]: the register behind announced joins and leaves
//! * [`pulse`]: what a process tells of itself in the cluster's own rooms
//! * [`seat`]: one process's place, all ports together · [`redis`]: connections and keys · [`counts`]: who follows what
//! * [`config`]: one typed configuration · [`heap`]: what things take in memory
//! * [`fair`]: how a bound in bytes is divided

pub mod broker;
pub mod bus;
pub mod config;
pub mod counts;
pub mod fair;
pub mod heap;
pub mod letter;
pub mod members;
pub mod presence;
pub mod pulse;
pub mod redis;
pub mod seat;
