//! A tickmesh node: holds connections as actix actors and serves the HTTP API.
//!
//! One process may hold several nodes. Each has its own listener, worker threads, hubs and connection to the broker;
//! nodes know each other only through the broker.
//!
//! * [`server`]: listener, upgrade, shutdown · [`session`]: the actor round the protocol's session machine
//! * [`hub`]: the sessions of a worker thread, by room · [`fanout`]: from the broker to the hubs, in batches
//! * [`guard`]: what is done when memory runs short · `policies`: what is in force for sessions, and how it changes
//! * `link`: sessions whose client is at a gateway
//! * `peers`: what nodes tell and ask each other · `attendance`: announces joins and leaves · `load`: reports
//! * `market`: recorded rooms: ticks, bars, alerts · `stitch`: rows of the store joined to a log · `asks`: what is asked of
//!   the stores · `reads`: the thread on which large answers are made · `audit`: sessions that came and went · `keys`: API keys and revocations
//! * `alarms`: when the cluster raises an alarm on itself
//! * `flush`: how long a worker thread waits for more before it delivers
//! * `trace`: what shows in traces · `vitals`: what the node tells of itself once a second
//! * [`api`]: the HTTP API · [`Publisher`]: publishes from within the process · [`metrics`], [`clock`]

mod alarms;
pub mod api;
mod asks;
mod attendance;
mod audit;
mod background;
pub mod clock;
pub mod fanout;
mod flush;
pub mod guard;
pub mod hub;
mod keys;
mod link;
mod load;
mod market;
pub mod metrics;
mod parking;
mod peers;
mod policies;
mod publisher;
mod reads;
pub mod server;
pub mod session;
mod socketio;
mod stitch;
mod trace;
mod upgrade;
mod vitals;
mod worker;

pub use publisher::Publisher;
pub use server::{Node, StartError};
