//! What viewers have seen in one part of the evening, so small that it is sent through a pipe.

use serde::{Deserialize, Serialize};

/// Steps of a histogram in which a time doubles.
const STEPS: f64 = 8.0;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    pub deliveries: u64,
    /// How many took so long, by the logarithm of their microseconds.
    took: Vec<u64>,
    /// The longest of them, in microseconds.
    pub longest_us: u64,
    /// The longest that somebody in the large room heard nothing, in microseconds.
    pub silence_us: u64,
    /// That a message is deleted was heard so often.
    pub deleted: u64,
}

/// What must not be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wrong {
    /// Messages that did not come, gaps that were told included.
    pub lost: u64,
    pub twice: u64,
    /// Connections that ended, and why the first of them did.
    pub cut: u64,
    pub why: Option<String>,
}

impl Seen {
    pub fn delivery(&mut self, us: u64) {
        self.deliveries += 1;
        self.longest_us = self.longest_us.max(us);
        let index = ((us.max(1) as f64).log2() * STEPS) as usize;
        if self.took.len() <= index {
            self.took.resize(index + 1, 0);
        }
        self.took[index] += 1;
    }

    pub fn add(&mut self, other: &Seen) {
        self.deliveries += other.deliveries;
        self.deleted += other.deleted;
        self.longest_us = self.longest_us.max(other.longest_us);
        self.silence_us = self.silence_us.max(other.silence_us);
        if self.took.len() < other.took.len() {
            self.took.resize(other.took.len(), 0);
        }
        for (all, one) in self.took.iter_mut().zip(&other.took) {
            *all += one;
        }
    }

    /// Such a part of all deliveries took no longer, in microseconds, to a tenth.
    #[must_use]
    pub fn quantile_us(&self, part: f64) -> u64 {
        let wanted = (self.deliveries as f64 * part).ceil() as u64;
        let mut so_far = 0;
        for (index, many) in self.took.iter().enumerate() {
            so_far += many;
            if so_far >= wanted {
                let bound = ((index + 1) as f64 / STEPS).exp2() as u64;
                return bound.min(self.longest_us);
            }
        }
        self.longest_us
    }
}

impl Wrong {
    pub fn add(&mut self, other: Wrong) {
        self.lost += other.lost;
        self.twice += other.twice;
        self.cut += other.cut;
        self.why = self.why.take().or(other.why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near() {
        let mut seen = Seen::default();
        let mut other = Seen::default();
        for us in 1..=1000 {
            let to = if us % 2 == 0 { &mut seen } else { &mut other };
            to.delivery(us);
        }
        seen.add(&other);
        assert_eq!((seen.deliveries, seen.longest_us), (1000, 1000));
        for (part, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let said = seen.quantile_us(part) as f64;
            assert!(said >= us && said <= us * 1.1, "{part}: {said}");
        }
    }
}
