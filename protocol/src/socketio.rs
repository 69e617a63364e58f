//! Engine.IO v4 and Socket.IO v5: the packets, and what HTTP long-polling needs beside them.
//!
//! A Socket.IO session is a [`Session`](crate::session::Session) like any other: here is only how it is spoken to. Its
//! messages travel as WebSocket frames, each one Engine.IO packet, whatever the client's transport is: long-polling is
//! turned into such frames where the client's connection is held, see [`polling`]. So sessions move between nodes without
//! knowing of transports, and nodes and gateways need not know of packets.

pub mod engine;
pub mod packet;
pub mod polling;
