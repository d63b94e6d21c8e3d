//! The worker of baton.

pub mod close;
