//! A back end that is down is not waited for: after some failures in a row nothing is asked for a
//! while, then something again, to see. Time in, decisions out.

/// So many failures in a row, over the time of a time-out at least, and it is down.
const FAILURES: u32 = 3;
/// So long it is let alone, at first and at most.
const PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 10_000;

/// Is the back end asked just now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// It is asked; so often in a row it has failed, since the one that began then.
    Up { failures: u32, since: u64 },
    /// It is not asked before this time; then for so long.
    Down { until: u64, pause: u64 },
    /// It has been asked something, to see.
    Trying { pause: u64 },
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::Up {
            failures: 0,
            since: 0,
        }
    }
}

impl Breaker {
    /// Is it asked now? If it is to be tried, whoever asks first does that.
    pub fn admits(&mut self, now: u64) -> bool {
        match *self {
            Breaker::Up { .. } => true,
            Breaker::Down { until, pause } if until <= now => {
                *self = Breaker::Trying { pause };
                true
            }
            Breaker::Down { .. } | Breaker::Trying { .. } => false,
        }
    }

    /// Something that began then has failed. `true`: it is down from now on, and was not before.
    pub fn failed(&mut self, began: u64, now: u64, timeout: u64) -> bool {
        match *self {
            Breaker::Up { failures, since } => {
                let since = if failures == 0 { began } else { since };
                let failures = failures + 1;
                let is_down = failures >= FAILURES && now.saturating_sub(since) >= timeout;
                *self = match is_down {
                    true => Breaker::down(now, PAUSE_MS),
                    false => Breaker::Up { failures, since },
                };
                is_down
            }
            Breaker::Trying { pause } => {
                *self = Breaker::down(now, (pause * 2).min(LONGEST_PAUSE_MS));
                false
            }
            // What was under way already.
            Breaker::Down { .. } => false,
        }
    }

    /// It has answered. `true`: it was down.
    pub fn answered(&mut self) -> bool {
        let was_down = !self.is_up();
        *self = Breaker::default();
        was_down
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Breaker::Up { .. })
    }

    fn down(now: u64, pause: u64) -> Breaker {
        Breaker::Down {
            until: now + pause,
            pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_failures_over_some_time() {
        let mut breaker = Breaker::default();
        for now in 0..10 {
            assert!(!breaker.failed(now, now, 100), "too soon");
        }
        breaker.answered();
        assert!(!breaker.failed(50, 150, 100) && !breaker.failed(150, 250, 100));
        assert!(!breaker.answered() && breaker.is_up());
        for (began, down) in [(300, false), (301, false), (302, true)] {
            assert!(breaker.admits(began));
            assert_eq!(breaker.failed(began, began + 100, 100), down);
        }
        assert!(!breaker.is_up());
    }

    #[test]
    fn it_is_tried_now_and_then() {
        let mut breaker = Breaker::down(0, PAUSE_MS);
        let mut now = 0;
        let mut tried = Vec::new();
        while now < 60_000 {
            if breaker.admits(now) {
                tried.push(now);
                assert!(!breaker.admits(now), "one at a time");
                assert!(!breaker.failed(now, now, 100));
            }
            now += 100;
        }
        assert_eq!(tried[..5], [1_000, 3_000, 7_000, 15_000, 25_000]);
        assert!(breaker.admits(now + LONGEST_PAUSE_MS) && breaker.answered());
        assert!(breaker.admits(now) && breaker.admits(now));
    }
}
