//! The worker of baton.

pub mod close;
pub mod http;
pub mod websocket;
