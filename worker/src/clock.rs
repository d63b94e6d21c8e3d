//! The time, read once a turn.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds by the monotonic clock: the same count for every process, so deadlines in slots
/// outlive a brain.
#[must_use]
pub fn now_ms() -> u64 {
    // The clock always exists; were it not so, deadlines would stand still.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| Duration::from(t).as_millis() as u64)
}

/// The `Date` field's value, made anew each second.
#[derive(Debug)]
pub struct HttpDate {
    text: String,
    made: u64,
}

impl HttpDate {
    #[must_use]
    pub fn new(now_ms: u64) -> HttpDate {
        HttpDate {
            text: httpdate::fmt_http_date(SystemTime::now()),
            made: now_ms,
        }
    }

    pub fn tick(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.made) >= 500 {
            *self = HttpDate::new(now_ms);
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}
