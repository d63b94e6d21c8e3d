//! Some of the rings, and so of the workers.

use protocol::row::MAX_RINGS;

/// A set of rings, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSet(u128);

const _: () = assert!(MAX_RINGS as u32 <= u128::BITS);

impl RingSet {
    pub const NONE: RingSet = RingSet(0);
    pub const ALL: RingSet = RingSet(u128::MAX);

    pub fn insert(&mut self, ring: u16) {
        self.0 |= RingSet::bit(ring);
    }

    pub fn remove(&mut self, ring: u16) {
        self.0 &= !RingSet::bit(ring);
    }

    pub fn extend(&mut self, others: RingSet) {
        self.0 |= others.0;
    }

    #[must_use]
    pub fn contains(self, ring: u16) -> bool {
        self.0 & RingSet::bit(ring) != 0
    }

    fn bit(ring: u16) -> u128 {
        debug_assert!(ring < MAX_RINGS);
        1_u128.checked_shl(ring.into()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_come_and_go() {
        let mut some = RingSet::NONE;
        some.insert(0);
        some.insert(MAX_RINGS - 1);
        let mut more = RingSet::default();
        more.insert(5);
        some.extend(more);
        some.remove(0);
        let inside = (0..MAX_RINGS).filter(|ring| some.contains(*ring));
        assert_eq!(inside.collect::<Vec<_>>(), [5, MAX_RINGS - 1]);
        assert!((0..MAX_RINGS).all(|ring| RingSet::ALL.contains(ring)));
    }
}
