//! How long something took, counted in buckets: words of shared memory that one process stores and
//! others read, so that the counts outlive a brain. To count allocates nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// The buckets' upper bounds, in microseconds, each inclusive; what takes longer is in one more.
pub const BOUNDS_US: [u64; 18] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000, 2_000_000, 5_000_000,
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

/// How long the `q`th part of all took at most, in microseconds: as Prometheus' `histogram_quantile`, as
/// if those of a bucket lay evenly in it; above the last bound, that one. `None`: there were none.
#[must_use]
pub fn quantile(words: &[u64], q: f64) -> Option<f64> {
    let rank = count(words) as f64 * q;
    let mut below = 0.0;
    for (bucket, count) in words.iter().take(SUM).enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let bound = |bucket: usize| BOUNDS_US.get(bucket).map(|us| *us as f64);
            let Some(upper) = bound(bucket) else { break };
            let lower = bucket.checked_sub(1).and_then(bound).unwrap_or(0.0);
            return Some(lower + (upper - lower) * (rank - below) / count);
        }
        below += count;
    }
    (below > 0.0).then_some(BOUNDS_US[BOUNDS_US.len() - 1] as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_where_it_belongs() {
        let words = [const { AtomicU64::new(0) }; WORDS];
        for us in [0, 10, 11, 1_000, 5_000_000, 5_000_001, u64::from(u32::MAX)] {
            observe(&words, us);
        }
        let words = words.map(|word| word.load(Ordering::Relaxed));
        assert_eq!((words[0], words[1], words[6]), (2, 1, 1));
        assert_eq!((words[17], words[18]), (1, 2));
        assert_eq!(count(&words), 7);
        let sum = 10 + 11 + 1_000 + 5_000_000 + 5_000_001 + u64::from(u32::MAX);
        assert_eq!(words[SUM], sum);
    }

    #[test]
    fn quantiles_lie_within_their_buckets() {
        let words = [const { AtomicU64::new(0) }; WORDS];
        let read = || words.each_ref().map(|word| word.load(Ordering::Relaxed));
        assert_eq!(quantile(&read(), 0.5), None);
        (0..50).for_each(|_| observe(&words, 80));
        (0..49).for_each(|_| observe(&words, 150));
        observe(&words, 9_000_000);
        let words = read();
        assert_eq!(quantile(&words, 0.25), Some(75.0));
        assert_eq!(quantile(&words, 0.5), Some(100.0));
        let p74 = quantile(&words, 0.745).unwrap();
        assert!((p74 - 150.0).abs() < 1e-6, "{p74}");
        let p99 = quantile(&words, 0.99).unwrap();
        assert!((p99 - 200.0).abs() < 1e-6, "{p99}");
        assert_eq!(quantile(&words, 1.0), Some(5_000_000.0));
    }
}
