//! Token buckets, as a function of the time: a bucket is one number, when it will be full again (in
//! microseconds of whatever clock; 0: it is), which says how much is in it at any moment.

use std::collections::HashMap;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

/// So much comes into a bucket in a second, and so much fits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 0: any number may be taken.
    pub per_second: u64,
    /// A bucket holds what comes in in this time.
    pub burst_ms: u64,
}

/// A bucket does not hold what was to be taken: in so many milliseconds it will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub u64);

impl Rate {
    /// Takes `n` of a bucket that is full at `full_at`: when it is so then. More than a bucket holds
    /// can be taken of a full one, and is missing for longer.
    pub fn take(self, full_at: u64, n: u64, now_ms: u64) -> Result<u64, Wait> {
        if self.per_second == 0 {
            return Ok(full_at);
        }
        let (now, burst) = (now_ms * 1_000, self.burst_ms * 1_000);
        // Memory may hold anything, and a clock may have gone back.
        let full_at = full_at.clamp(now, now + MOST);
        let after = full_at + self.time_for(n).min(MOST);
        let too_late = (after - now).saturating_sub(burst).min(full_at - now);
        match too_late.div_ceil(1_000) {
            0 => Ok(after),
            ms => Err(Wait(ms)),
        }
    }

    /// Microseconds in which `n` come in.
    fn time_for(self, n: u64) -> u64 {
        n.saturating_mul(1_000_000).div_ceil(self.per_second.max(1))
    }
}

/// Nobody is made to wait longer, whatever is taken: microseconds.
const MOST: u64 = 60_000_000;

/// What may be done in a second; 0: any number of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PerSecond {
    pub messages: u64,
    pub bytes: u64,
}

impl PerSecond {
    #[must_use]
    pub fn is_any(self) -> bool {
        self != PerSecond::default()
    }
}

/// Buckets of messages and of bytes, in this process's memory: whoever has not been heard of for a
/// while has none, and with the process go all.
#[derive(Debug)]
pub struct Buckets<K> {
    full_at: HashMap<K, [u64; 2]>,
    /// So many there may be before those that are full are dropped.
    sweep_at: usize,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Buckets {
            full_at: HashMap::new(),
            sweep_at: 0,
        }
    }
}

impl<K: Hash + Eq> Buckets<K> {
    /// Takes a message of so many bytes from both, or from none.
    pub fn take(
        &mut self,
        key: K,
        per_second: PerSecond,
        burst_ms: u64,
        bytes: u64,
        now_ms: u64,
    ) -> Result<(), Wait> {
        if !per_second.is_any() {
            return Ok(());
        }
        if self.full_at.len() >= self.sweep_at {
            self.full_at
                .retain(|_, [a, b]| (*a).max(*b) > now_ms * 1_000);
            self.sweep_at = (self.full_at.len() * 2).max(1_024);
        }
        let rate = |per_second| Rate {
            per_second,
            burst_ms,
        };
        let full_at = self.full_at.entry(key).or_default();
        let messages = rate(per_second.messages).take(full_at[0], 1, now_ms)?;
        let bytes = rate(per_second.bytes).take(full_at[1], bytes, now_ms)?;
        *full_at = [messages, bytes];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Rate = Rate {
        per_second: 10,
        burst_ms: 2_000,
    };

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut full_at = 0;
        for _ in 0..20 {
            full_at = TEN.take(full_at, 1, 5_000).unwrap();
        }
        assert_eq!(TEN.take(full_at, 1, 5_000), Err(Wait(100)));
        assert_eq!(TEN.take(full_at, 1, 5_099), Err(Wait(1)));
        full_at = TEN.take(full_at, 1, 5_100).unwrap();
        assert_eq!(TEN.take(full_at, 1, 5_100), Err(Wait(100)));
        assert_eq!(TEN.take(full_at, 5, 5_100), Err(Wait(500)));
        assert!(TEN.take(full_at, 20, 7_100).is_ok(), "it is full again");
    }

    /// Whoever asks as fast as it can gets the rate, whatever it asks for at once.
    #[test]
    fn over_a_long_time_it_is_the_rate() {
        for n in [1, 3, 20, 50] {
            let (mut full_at, mut taken) = (0, 0);
            for now_ms in 1_000..101_000 {
                if let Ok(after) = TEN.take(full_at, n, now_ms) {
                    (full_at, taken) = (after, taken + n);
                }
            }
            assert!((1_000..=1_000 + 20 + n).contains(&taken), "{n}: {taken}");
        }
    }

    /// Who waits as long as it is told gets what it wants.
    #[test]
    fn the_wait_is_what_it_takes() {
        let mut full_at = 0;
        let mut now_ms = 7;
        for i in 0..1_000 {
            let n = i * 7 % 31;
            full_at = match TEN.take(full_at, n, now_ms) {
                Ok(after) => after,
                Err(Wait(ms)) => {
                    assert!(TEN.take(full_at, n, now_ms + ms - 1).is_err());
                    now_ms += ms;
                    TEN.take(full_at, n, now_ms).unwrap()
                }
            };
        }
    }

    #[test]
    fn nothing_overflows_and_no_limit_is_none() {
        let none = Rate {
            per_second: 0,
            burst_ms: 0,
        };
        assert_eq!(none.take(7, u64::MAX, 1), Ok(7));
        let one = Rate {
            per_second: 1,
            burst_ms: 0,
        };
        let after = one.take(0, u64::MAX, 1).unwrap();
        assert!(matches!(one.take(after, 1, 1), Err(Wait(ms)) if ms <= 60_000));
        // What is in memory may be anything.
        assert!(matches!(one.take(u64::MAX, 1, 1), Err(Wait(ms)) if ms <= 60_000));
    }

    #[test]
    fn each_has_buckets_of_its_own_and_full_ones_go() {
        let mut buckets = Buckets::default();
        let per_second = PerSecond {
            messages: 1,
            bytes: 100,
        };
        let mut take = |key: u32, bytes, now| buckets.take(key, per_second, 1_000, bytes, now);
        assert_eq!(take(1, 10, 1_000), Ok(()));
        assert_eq!(take(1, 10, 1_000), Err(Wait(1_000)));
        assert_eq!(take(2, 500, 1_000), Ok(()));
        assert_eq!(take(2, 10, 2_000), Err(Wait(4_000 - 900)));
        for key in 0..5_000 {
            assert_eq!(take(key, 1, 10_000 + u64::from(key) * 1_000), Ok(()));
        }
        assert!(buckets.full_at.len() <= 1_024);
    }
}
