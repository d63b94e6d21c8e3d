//! The worker of baton.

pub mod close;
pub mod websocket;
