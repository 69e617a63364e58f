//! What nodes and gateways have in common towards clients.
//!
//! * [`listen`]: the listener and its sockets' options · [`socket`], [`tls`]: connections in the clear or not
//! * [`service`]: the HTTP server · [`handshake`]: the WebSocket handshake, and what is refused · [`address`]: where a client is
//! * [`limits`]: how many there may be · [`rate`], [`door`], [`exits`]: how often they may come, and go · [`auth`], [`jwt`]: who they are · [`guard`]: how short memory is · [`metrics`]: what
//!   operators see · [`tuning`]: what they change
//!
//! It must not know sessions or rooms, and of the cluster only the configuration.

pub mod address;
pub mod auth;
pub mod door;
pub mod exits;
pub mod guard;
pub mod handshake;
pub mod held;
pub mod jwt;
pub mod kubernetes;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod rate;
pub mod service;
pub mod socket;
pub mod socketio;
pub mod tls;
pub mod tuning;
