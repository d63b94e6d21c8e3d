//! The worker of baton.

pub mod client;
pub mod close;
pub mod http;
pub mod websocket;
