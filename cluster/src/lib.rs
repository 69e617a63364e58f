//! What node and gateway processes share: the broker between them, and their configuration.

pub mod broker;
pub mod config;
pub mod redis;
