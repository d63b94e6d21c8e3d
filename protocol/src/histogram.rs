//! How long something took, counted in buckets: words of shared memory that one process stores and
//! others read, so that the counts outlive a brain. To count allocates nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// The buckets' upper bounds, in microseconds, each inclusive; what takes longer is in one more.
pub const BOUNDS_US: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// Words of a histogram: a count for each bucket, and the sum of all, in microseconds.
pub const WORDS: usize = BOUNDS_US.len() + 2;

/// Where the sum is.
pub const SUM: usize = WORDS - 1;

/// Which bucket it is counted in.
#[must_use]
pub fn bucket(us: u64) -> usize {
    BOUNDS_US.partition_point(|bound| *bound < us)
}

/// Counts one that took so long. `words` are a histogram's.
pub fn observe(words: &[AtomicU64], us: u64) {
    let add = |word: usize, by| words[word].fetch_add(by, Ordering::Relaxed);
    add(bucket(us), 1);
    add(SUM, us);
}

/// How many there were, of the words of a histogram.
#[must_use]
pub fn count(words: &[u64]) -> u64 {
    words.iter().take(SUM).sum()
}

/// The upper bound of the bucket in which the `q`th part of all ends, in microseconds; above the last
/// bound, that one. `None`: there were none.
#[must_use]
pub fn quantile(words: &[u64], q: f64) -> Option<u64> {
    let all = count(words);
    let rank = ((all as f64 * q).ceil() as u64).max(1);
    let mut seen = 0;
    let bucket = words.iter().take(SUM).position(|count| {
        seen += count;
        seen >= rank
    })?;
    Some(BOUNDS_US[bucket.min(BOUNDS_US.len() - 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_where_it_belongs() {
        let words = [const { AtomicU64::new(0) }; WORDS];
        for us in [0, 50, 51, 1_000, 5_000_000, 5_000_001, u64::from(u32::MAX)] {
            observe(&words, us);
        }
        let words = words.map(|word| word.load(Ordering::Relaxed));
        assert_eq!((words[0], words[1], words[4]), (2, 1, 1));
        assert_eq!((words[14], words[15]), (1, 2));
        assert_eq!(count(&words), 7);
        let sum = 50 + 51 + 1_000 + 5_000_000 + 5_000_001 + u64::from(u32::MAX);
        assert_eq!(words[SUM], sum);
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let words = [const { AtomicU64::new(0) }; WORDS];
        assert_eq!(
            quantile(&words.each_ref().map(|w| w.load(Ordering::Relaxed)), 0.5),
            None
        );
        (0..99).for_each(|_| observe(&words, 80));
        observe(&words, 9_000_000);
        let words = words.map(|word| word.load(Ordering::Relaxed));
        assert_eq!(quantile(&words, 0.5), Some(100));
        assert_eq!(quantile(&words, 0.99), Some(100));
        assert_eq!(quantile(&words, 1.0), Some(5_000_000));
    }
}
