//! The master of baton.

fn main() {}
