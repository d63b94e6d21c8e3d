//! The time, read once a turn.

use std::time::SystemTime;

pub use protocol::clock::monotonic_ms;

/// The time that deadlines are in: the monotonic clock without its jumps.
///
/// A process that was stopped, or a machine that was, finds all deadlines past, although the peers
/// have met them: their bytes wait in the sockets. So a turn of the loop counts for
/// [`LONGEST_TURN_MS`] at most, and the loop turns more often than that.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    last_ms: u64,
    skipped_ms: u64,
}

/// What one turn may take, waiting included.
pub const LONGEST_TURN_MS: u64 = 2_000;

impl Clock {
    /// `skipped_ms`: that of the brain before, whose deadlines are still there; or 0.
    #[must_use]
    pub fn new(monotonic_ms: u64, skipped_ms: u64) -> Clock {
        Clock {
            last_ms: monotonic_ms,
            skipped_ms,
        }
    }

    /// Called once a turn. It never goes back.
    pub fn now_ms(&mut self, monotonic_ms: u64) -> u64 {
        let turn = monotonic_ms.saturating_sub(self.last_ms);
        self.skipped_ms += turn.saturating_sub(LONGEST_TURN_MS);
        self.last_ms += turn;
        self.last_ms.saturating_sub(self.skipped_ms)
    }

    /// How far it is behind the monotonic clock.
    #[must_use]
    pub fn skipped_ms(&self) -> u64 {
        self.skipped_ms
    }
}

/// The time of day: the `Date` field's value, made anew each second.
#[derive(Debug)]
pub struct HttpDate {
    text: String,
    made: u64,
    made_unix_ms: u64,
}

impl HttpDate {
    #[must_use]
    pub fn new(now_ms: u64) -> HttpDate {
        let time = SystemTime::now();
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        HttpDate {
            text: httpdate::fmt_http_date(time),
            made: now_ms,
            made_unix_ms: since.map_or(0, |since| since.as_millis() as u64),
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

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self, now_ms: u64) -> u64 {
        self.made_unix_ms + now_ms.saturating_sub(self.made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_left_out() {
        let mut clock = Clock::new(1_000, 0);
        assert_eq!(clock.now_ms(1_500), 1_500);
        assert_eq!(clock.now_ms(3_500), 3_500);
        assert_eq!(clock.now_ms(3_600_000), 5_500);
        assert_eq!(clock.now_ms(3_600_100), 5_600);
        assert_eq!(clock.now_ms(0), 5_600, "never back");
        let mut next = Clock::new(3_600_200, clock.skipped_ms());
        assert_eq!(next.now_ms(3_600_300), 5_800);
    }
}
