//! Numbers in the order in which they were last used: a doubly linked list in two arrays, so that
//! each change costs the same however many there are.

/// No number.
const NONE: u32 = u32::MAX;
/// In place of a next number: not in the list.
const OUT: u32 = u32::MAX - 1;

/// From the one that was longest unused to the one that was used last.
#[derive(Debug)]
pub struct Lru {
    /// The next younger and the next older of each number.
    links: Vec<(u32, u32)>,
    oldest: u32,
    youngest: u32,
}

impl Default for Lru {
    fn default() -> Self {
        Lru {
            links: Vec::new(),
            oldest: NONE,
            youngest: NONE,
        }
    }
}

impl Lru {
    /// It is used now; it comes into the list if it was not there.
    pub fn touch(&mut self, number: u32) {
        self.remove(number);
        let index = number as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, (OUT, NONE));
        }
        self.links[index] = (NONE, self.youngest);
        match self.youngest {
            NONE => self.oldest = number,
            youngest => self.links[youngest as usize].0 = number,
        }
        self.youngest = number;
    }

    pub fn remove(&mut self, number: u32) {
        if !self.contains(number) {
            return;
        }
        let (younger, older) = self.links[number as usize];
        match younger {
            NONE => self.youngest = older,
            younger => self.links[younger as usize].1 = older,
        }
        match older {
            NONE => self.oldest = younger,
            older => self.links[older as usize].0 = younger,
        }
        self.links[number as usize] = (OUT, NONE);
    }

    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        let link = self.links.get(number as usize);
        link.is_some_and(|(younger, _)| *younger != OUT)
    }

    #[must_use]
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use protocol::random::Random;

    use super::*;

    #[test]
    fn the_same_as_a_plain_list() {
        let (mut lru, mut plain) = (Lru::default(), Vec::new());
        let mut random = Random::new(12_345);
        for _ in 0..10_000 {
            let number = random.below(20) as u32;
            plain.retain(|n| *n != number);
            if random.below(2) == 0 {
                lru.touch(number);
                plain.push(number);
            } else {
                lru.remove(number);
            }
            assert_eq!(lru.oldest(), plain.first().copied());
            assert!((0..20).all(|n| lru.contains(n) == plain.contains(&n)));
        }
    }
}
