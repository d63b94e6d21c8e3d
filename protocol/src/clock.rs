//! The time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds by the system's monotonic clock: the same count for every process.
#[must_use]
pub fn monotonic_ms() -> u64 {
    monotonic().as_millis() as u64
}

/// The same in microseconds.
#[must_use]
pub fn monotonic_us() -> u64 {
    monotonic().as_micros() as u64
}

fn monotonic() -> Duration {
    // The clock always exists; were it not so, deadlines would stand still.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |t| t.as_millis() as u64)
}
