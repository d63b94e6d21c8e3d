//! Numbers that look random and come again with the same seed.

/// SplitMix64: small, fast, and good enough for payloads and dice.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Another sequence for each number.
    #[must_use]
    pub fn of(seed: u64, number: u64) -> Random {
        let mut random = Random(seed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random
    }

    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below((high - low + 1) as u64) as usize
    }

    /// True in so many cases of a hundred.
    pub fn percent(&mut self, cases: u64) -> bool {
        self.below(100) < cases
    }

    /// From 1 to `max`, each order of magnitude as likely as any other.
    pub fn size(&mut self, max: usize) -> usize {
        let bits = usize::BITS - max.leading_zeros();
        let high = 1 << self.between(1, bits as usize);
        self.between(1, high).min(max)
    }

    /// Appends so many bytes.
    pub fn bytes(&mut self, length: usize, out: &mut Vec<u8>) {
        let end = out.len() + length;
        out.reserve(length + 8);
        while out.len() < end {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(end);
    }

    /// Appends so many bytes of UTF-8, with characters of each length.
    pub fn text(&mut self, length: usize, out: &mut Vec<u8>) {
        const CHARACTERS: [char; 8] = ['a', 'Z', '7', ' ', 'é', 'я', '漢', '🙂'];
        let end = out.len() + length;
        while out.len() < end {
            let character = CHARACTERS[self.below(8) as usize];
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            let fits = out.len() + bytes.len() <= end;
            out.extend(if fits { bytes } else { b"." });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_texts_are_as_asked() {
        let mut random = Random::new(7);
        for max in [1, 2, 100, 65_536] {
            let sizes: Vec<usize> = (0..2_000).map(|_| random.size(max)).collect();
            assert!(sizes.iter().all(|size| (1..=max).contains(size)));
            assert!(sizes.contains(&1) && sizes.iter().any(|size| *size > max / 2));
        }
        for length in 0..200 {
            let mut text = Vec::new();
            random.text(length, &mut text);
            assert_eq!(text.len(), length);
            assert!(std::str::from_utf8(&text).is_ok());
        }
    }
}
