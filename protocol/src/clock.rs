//! The time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds by the system's monotonic clock: the same count for every process.
#[must_use]
pub fn monotonic_ms() -> u64 {
    // The clock always exists; were it not so, deadlines would stand still.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| Duration::from(t).as_millis() as u64)
}
