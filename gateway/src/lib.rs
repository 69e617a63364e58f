//! A tickmesh gateway: holds clients' connections while the nodes behind them are drained, upgraded or killed.
//!
//! * [`server`]: listener, HTTP, shutdown · `edge`: from an upgrade request to a held connection
//! * `bridge`: one client, its relay, and the link behind it · `dial`, `pool`: how links begin, and those that are warm
//! * `nodes`: which nodes there are, how they do, and which connections are to move · `api`: what is answered here, and what
//!   is handed to a node · `metrics` · `socketio`, `elsewhere`: Socket.IO clients, and those of other gateways
//!
//! It must not know sessions or rooms, and parses no payload of a client.

mod api;
mod bridge;
mod dial;
mod edge;
mod elsewhere;
mod guard;
mod metrics;
mod nodes;
mod pool;
pub mod server;
mod socketio;
mod vitals;

pub use server::{Gateway, StartError};
