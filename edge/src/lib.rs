//! What nodes and gateways have in common towards clients: the listener and its sockets, the WebSocket handshake and what
//! is refused, and the number of connections.
//!
//! It must not know sessions, rooms or the cluster.

pub mod handshake;
pub mod limits;
pub mod listen;
