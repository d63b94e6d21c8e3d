//! The worker of baton.

fn main() {}
