//! The worker of baton.
