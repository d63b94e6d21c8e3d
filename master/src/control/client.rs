//! Asks a running master.
