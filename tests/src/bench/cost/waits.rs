//! How long things took, counted: millions of them in little room, each to about one percent.

/// Of a power of two there are so many counters.
const STEPS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How many took so long: [`step`] says which counter.
    counts: Vec<u64>,
}

impl Default for Waits {
    fn default() -> Waits {
        Waits {
            counts: vec![0; step(u64::MAX) + 1],
        }
    }
}

impl Waits {
    pub fn add(&mut self, nanos: u64, times: u64) {
        self.counts[step(nanos)] += times;
    }

    pub fn merge(&mut self, others: &Waits) {
        for (count, other) in self.counts.iter_mut().zip(&others.counts) {
            *count += other;
        }
    }

    /// So many of a thousand did not wait for more nanoseconds; `None`: there are none.
    pub fn at(&self, per_mille: u64) -> Option<u64> {
        let all: u64 = self.counts.iter().sum();
        let wanted = all.saturating_sub(1) * per_mille / 1000;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        found.map(middle)
    }
}

/// The counter for so many nanoseconds.
fn step(nanos: u64) -> usize {
    let steps = STEPS as u64;
    if nanos < steps {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEPS.ilog2();
    (u64::from(shift + 1) * steps + (nanos >> shift) - steps) as usize
}

/// What stands for all that are counted there.
fn middle(step: usize) -> u64 {
    let steps = STEPS as u64;
    let (power, rest) = (step as u64 / steps, step as u64 % steps);
    match power {
        0 => rest,
        power => ((2 * (steps + rest) + 1) << (power - 1)) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_to_one_percent() {
        for nanos in (0..40).flat_map(|power| [3_u64 << power, (1 << power) + 1]) {
            let is = middle(step(nanos)) as f64 / nanos as f64;
            assert!((is - 1.0).abs() < 0.01, "{nanos}: {is}");
        }
        assert!(step(u64::MAX) < 64 * STEPS);
    }

    #[test]
    fn they_are_told_in_order() {
        let mut waits = Waits::default();
        assert_eq!(waits.at(500), None);
        waits.add(50, 1);
        let mut others = Waits::default();
        others.add(10, 98);
        others.add(60, 1);
        waits.merge(&others);
        let told = [0, 500, 990, 1000].map(|per_mille| waits.at(per_mille).unwrap());
        assert_eq!(told, [10, 10, 50, 60]);
    }
}
