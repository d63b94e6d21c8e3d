//! Numbers that look random, and are the same for the same seed: not for secrets.

/// Xorshift of 64 bits (Marsaglia, 2003): fast, and good enough for dice.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seed 0 is the same as seed 1: with 0 all numbers would be 0.
    #[must_use]
    pub const fn new(seed: u64) -> Random {
        Random(if seed == 0 { 1 } else { seed })
    }

    /// Any number but 0.
    #[allow(clippy::should_implement_trait)]
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to below `end`, which is not 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_met_and_the_same_seed_says_the_same() {
        for seed in 0..10 {
            let (mut random, mut again) = (Random::new(seed), Random::new(seed));
            let mut seen = [0; 8];
            for _ in 0..8_000 {
                let number = random.below(8);
                assert_eq!(number, again.below(8));
                seen[number as usize] += 1;
            }
            assert!(seen.iter().all(|n| (800..1_200).contains(n)), "{seen:?}");
        }
    }
}
