//! The buffers of a process: extents of 2^n blocks of 4 KiB in its state, by the buddy system
//! (Knuth, The Art of Computer Programming 1, 2.5), so that every buffer is one contiguous slice.
//!
//! Who owns an extent is written in the owner's slot and nowhere else; the free lists live in
//! ordinary memory and a new brain rebuilds them by taking what the slots own ([`Arena::claim`]).

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::memory::Segment;

/// Bytes of the smallest extent.
pub const BLOCK: usize = 4096;

/// The largest extent: 32 MiB.
pub const MAX_ORDER: u8 = 13;

/// `2^order` blocks from `block` on. In the lower [`Extent::BITS`] bits of a word, of which 0 means
/// none ([`Extent::pack`]); those above are the owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    block: u32,
    order: u8,
}

impl Extent {
    /// Bytes that it holds.
    #[must_use]
    pub fn capacity(self) -> usize {
        BLOCK << self.order
    }

    /// Bits of a word that it takes.
    pub const BITS: u32 = 36;

    /// For the word of an owner's slot.
    #[must_use]
    pub fn pack(this: Option<Extent>) -> u64 {
        this.map_or(0, |e| u64::from(e.order) << 32 | (u64::from(e.block) + 1))
    }

    /// The extent in a slot's word, unless none; whether it lies in the arena is [`Arena::claim`]'s
    /// to say.
    #[must_use]
    pub fn unpack(word: u64) -> Option<Extent> {
        let block = (word as u32).checked_sub(1)?;
        Some(Extent {
            block,
            order: (word >> 32) as u8 & 0xf,
        })
    }

    /// The smallest order whose extent holds `bytes`, if one does.
    #[must_use]
    pub fn order_for(bytes: usize) -> Option<u8> {
        if bytes <= BLOCK {
            return Some(0);
        }
        let blocks = bytes.div_ceil(BLOCK).next_power_of_two();
        let order = blocks.trailing_zeros() as u8;
        (order <= MAX_ORDER).then_some(order)
    }
}

/// Extents of up to `2^(QUICK - 1)` blocks that are given back are kept as they are, this many of each
/// order: a message takes and gives back two.
const QUICK: usize = 5;
const KEPT: usize = 16;

const NONE: u32 = u32::MAX;
const NOT_FREE: u8 = u8::MAX;

/// The allocator of one brain. It is shared within the brain's thread, since a step takes buffers
/// while it holds others.
#[derive(Debug)]
pub struct Arena {
    segment: Arc<Segment>,
    base: usize,
    blocks: RefCell<Blocks>,
}

/// Memory is given back to the kernel in regions of `2^REGION` blocks, 256 KiB: of what is free for a
/// moment only, little will be, and where it is used again a fault costs less than a region's time.
const REGION: u8 = 6;

/// Which blocks are free.
#[derive(Debug)]
struct Blocks {
    /// For each block that heads a free extent: its order; else `NOT_FREE`.
    free_order: Vec<u8>,
    /// Doubly linked free lists through the heads, one per order.
    links: Vec<(u32, u32)>,
    lists: [u32; MAX_ORDER as usize + 1],
    /// By order: the first blocks of free extents that are not in the lists.
    quick: [ArrayVec<u32, KEPT>; QUICK],
    free: usize,
    regions: Vec<Region>,
}

/// Whether a region may have memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    /// Nothing of it was ever in use, or it was given back.
    Untouched,
    Used,
    /// Nothing of it has been taken since the last [`Arena::rest`].
    Resting,
}

impl Arena {
    /// All blocks of `len` bytes at `base` of the segment, free.
    #[must_use]
    pub fn new(segment: Arc<Segment>, base: usize, len: usize) -> Arena {
        Arena {
            segment,
            base,
            blocks: RefCell::new(Blocks::new(len / BLOCK)),
        }
    }

    /// Bytes that are free, not necessarily in one piece.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.blocks.borrow().free * BLOCK
    }

    /// Bytes that are in use.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        let blocks = self.blocks.borrow();
        (blocks.free_order.len() - blocks.free) * BLOCK
    }

    /// An extent of this order, unless the arena is full.
    pub fn alloc(&self, order: u8) -> Option<Extent> {
        self.blocks.borrow_mut().alloc(order)
    }

    /// Gives an extent back. Only after a commit through which no slot owns it any more.
    pub fn free(&self, extent: Extent) {
        self.blocks.borrow_mut().give_back(extent);
    }

    /// To be called now and then: memory of extents that have been free since the last time goes back
    /// to the kernel.
    pub fn rest(&self) {
        for blocks in self.blocks.borrow_mut().rest() {
            let at = |block: u32| self.base + block as usize * BLOCK;
            self.segment.give_back(at(blocks.start)..at(blocks.end));
        }
    }

    /// Takes this very extent, which a slot of the brain before owns. `false`: it lies outside, or
    /// another owns a part of it; then the slot is corrupt.
    #[must_use]
    pub fn claim(&self, extent: Extent) -> bool {
        self.blocks.borrow_mut().claim(extent)
    }

    /// The bytes of an extent.
    ///
    /// # Safety
    /// The caller owns the extent (allocated or claimed, and not freed), and nobody writes these
    /// bytes while the slice lives.
    #[must_use]
    pub unsafe fn bytes(&self, extent: Extent) -> &[u8] {
        // SAFETY: extents do not overlap; the caller promises the rest.
        unsafe {
            self.segment
                .bytes(self.base + extent.block as usize * BLOCK, extent.capacity())
        }
    }

    /// The bytes of an extent, to be written.
    ///
    /// # Safety
    /// The caller owns the extent, and nobody else reads or writes the bytes that it writes while
    /// the slice lives.
    #[must_use]
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that it alone uses the extent"
    )]
    pub unsafe fn bytes_mut(&self, extent: Extent) -> &mut [u8] {
        // SAFETY: extents do not overlap; the caller promises the rest.
        unsafe {
            self.segment
                .bytes_mut(self.base + extent.block as usize * BLOCK, extent.capacity())
        }
    }
}

impl Blocks {
    fn new(count: usize) -> Blocks {
        let mut blocks = Blocks {
            free_order: vec![NOT_FREE; count],
            links: vec![(NONE, NONE); count],
            lists: [NONE; MAX_ORDER as usize + 1],
            quick: Default::default(),
            free: count,
            regions: vec![Region::Untouched; count.div_ceil(1 << REGION)],
        };
        // From the end, so that the first extents are given first.
        let mut end = count;
        while end > 0 {
            let order = (end.trailing_zeros() as u8).min(MAX_ORDER);
            end -= 1 << order;
            blocks.push(end as u32, order);
        }
        blocks
    }

    fn alloc(&mut self, order: u8) -> Option<Extent> {
        let kept = self.quick.get_mut(usize::from(order));
        let extent = match kept.and_then(ArrayVec::pop) {
            Some(block) => Extent { block, order },
            None => self.split(order).or_else(|| {
                self.merge_all();
                self.split(order)
            })?,
        };
        self.free -= 1 << order;
        Some(extent)
    }

    /// Takes it from the lists.
    fn split(&mut self, order: u8) -> Option<Extent> {
        let from = (order..=MAX_ORDER).find(|&o| self.lists[o as usize] != NONE)?;
        let block = self.lists[from as usize];
        self.unlink(block);
        for half in (order..from).rev() {
            self.push(block + (1 << half), half);
        }
        self.use_regions(block, order);
        Some(Extent { block, order })
    }

    fn use_regions(&mut self, block: u32, order: u8) {
        let regions = &mut self.regions[region_of(block)..];
        regions[..1 << order.saturating_sub(REGION)].fill(Region::Used);
    }

    /// The blocks of regions that have been free since the last time but one, and have memory.
    fn rest(&mut self) -> Vec<Range<u32>> {
        let mut idle = Vec::new();
        if self.regions.iter().all(|r| *r == Region::Untouched) {
            return idle;
        }
        self.merge_all();
        for order in REGION..=MAX_ORDER {
            let mut block = self.lists[order as usize];
            while block != NONE {
                for region in region_of(block)..region_of(block + (1 << order)) {
                    if self.regions[region] == Region::Resting {
                        self.regions[region] = Region::Untouched;
                        let first = (region as u32) << REGION;
                        idle.push(first..first + (1 << REGION));
                    }
                }
                block = self.links[block as usize].1;
            }
        }
        for region in &mut self.regions {
            if *region == Region::Used {
                *region = Region::Resting;
            }
        }
        idle
    }

    fn give_back(&mut self, extent: Extent) {
        self.free += 1 << extent.order;
        let kept = self.quick.get_mut(usize::from(extent.order));
        if kept.is_none_or(|kept| kept.try_push(extent.block).is_err()) {
            self.merge(extent);
        }
    }

    /// Puts everything that was kept into the lists.
    fn merge_all(&mut self) {
        for order in 0..QUICK {
            for block in std::mem::take(&mut self.quick[order]) {
                let order = order as u8;
                self.merge(Extent { block, order });
            }
        }
    }

    /// Puts it into the lists, together with its free buddies.
    fn merge(&mut self, extent: Extent) {
        let Extent {
            mut block,
            mut order,
        } = extent;
        while order < MAX_ORDER {
            let buddy = block ^ (1 << order);
            if self.free_order.get(buddy as usize) != Some(&order) {
                break;
            }
            self.unlink(buddy);
            block = block.min(buddy);
            order += 1;
        }
        self.push(block, order);
    }

    fn claim(&mut self, extent: Extent) -> bool {
        let Extent { block, order } = extent;
        if order > MAX_ORDER
            || !block.is_multiple_of(1 << order)
            || block as usize + (1 << order) > self.free_order.len()
        {
            return false;
        }
        self.merge_all();
        // The free extent that contains it begins at one of these.
        let containing = (order..=MAX_ORDER)
            .map(|o| (block & !((1 << o) - 1), o))
            .find(|&(head, o)| self.free_order[head as usize] == o);
        let Some((mut head, mut at)) = containing else {
            return false;
        };
        self.unlink(head);
        while at > order {
            at -= 1;
            let upper = head + (1 << at);
            if block >= upper {
                self.push(head, at);
                head = upper;
            } else {
                self.push(upper, at);
            }
        }
        self.use_regions(block, order);
        self.free -= 1 << order;
        true
    }

    fn push(&mut self, block: u32, order: u8) {
        let next = self.lists[order as usize];
        if next != NONE {
            self.links[next as usize].0 = block;
        }
        self.links[block as usize] = (NONE, next);
        self.lists[order as usize] = block;
        self.free_order[block as usize] = order;
    }

    fn unlink(&mut self, block: u32) {
        let (previous, next) = self.links[block as usize];
        let order = self.free_order[block as usize];
        match previous {
            NONE => self.lists[order as usize] = next,
            _ => self.links[previous as usize].1 = next,
        }
        if next != NONE {
            self.links[next as usize].0 = previous;
        }
        self.free_order[block as usize] = NOT_FREE;
    }
}

fn region_of(block: u32) -> usize {
    (block >> REGION) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was in use is zero once it has been given back, and what is in use stays.
    #[test]
    fn what_has_been_free_for_a_while_is_given_back() {
        let a = arena(1 << MAX_ORDER);
        let all: Vec<_> = (0..400).map(|_| a.alloc(1).unwrap()).collect();
        for e in &all {
            // SAFETY: it is this test's.
            unsafe { a.bytes_mut(*e) }.fill(1);
        }
        for e in &all[1..] {
            a.free(*e);
        }
        let dirty = || {
            // SAFETY: nobody writes meanwhile.
            let bytes = unsafe { a.segment.bytes(a.base, 400 * 2 * BLOCK) };
            bytes.iter().filter(|byte| **byte == 1).count()
        };
        a.rest();
        assert_eq!(dirty(), 400 * 2 * BLOCK, "it may be wanted again at once");
        a.rest();
        assert_eq!(
            dirty(),
            BLOCK << REGION,
            "the region of the one that is left"
        );
        // SAFETY: it is this test's.
        assert!(unsafe { a.bytes(all[0]) }.iter().all(|byte| *byte == 1));
        a.free(all[0]);
        a.rest();
        assert_eq!(dirty(), 0);
        assert!(a.alloc(MAX_ORDER).is_some());
    }

    fn arena(blocks: usize) -> Arena {
        let segment = Arc::new(Segment::create(c"arena", blocks * BLOCK + 4096).unwrap());
        Arena::new(segment, 4096, blocks * BLOCK)
    }

    #[test]
    fn orders() {
        assert_eq!(Extent::order_for(0), Some(0));
        assert_eq!(Extent::order_for(4096), Some(0));
        assert_eq!(Extent::order_for(4097), Some(1));
        assert_eq!(Extent::order_for(32 << 20), Some(13));
        assert_eq!(Extent::order_for((32 << 20) + 1), None);
    }

    #[test]
    fn words() {
        assert_eq!(Extent::pack(None), 0);
        assert_eq!(Extent::unpack(0), None);
        let e = Extent { block: 0, order: 3 };
        assert_eq!(Extent::unpack(Extent::pack(Some(e))), Some(e));
    }

    #[test]
    fn all_of_it_can_be_taken_and_comes_back_in_one_piece() {
        let a = arena(1 << MAX_ORDER);
        let all: Vec<_> = std::iter::from_fn(|| a.alloc(0)).collect();
        assert_eq!(all.len(), 1 << MAX_ORDER);
        assert_eq!(a.free_bytes(), 0);
        for e in all {
            a.free(e);
        }
        assert!(a.alloc(MAX_ORDER).is_some());
    }

    /// Random allocation against a map of who owns each block; then a rebuild from what is owned.
    #[test]
    fn extents_never_overlap_and_can_be_claimed_again() {
        let blocks = 300;
        let a = arena(blocks);
        let mut owner = vec![0u32; blocks];
        let mut held: Vec<(u32, Extent)> = Vec::new();
        let mut seed = 7u64;
        let mut random = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        for id in 1..5000u32 {
            if random(2) == 0 && !held.is_empty() {
                let (_, e) = held.swap_remove(random(held.len() as u64) as usize);
                owner[e.block as usize..][..1 << e.order].fill(0);
                a.free(e);
            } else if let Some(e) = a.alloc(random(5) as u8) {
                let mine = &mut owner[e.block as usize..][..1 << e.order];
                assert!(mine.iter().all(|&o| o == 0), "{e:?} overlaps another");
                mine.fill(id);
                held.push((id, e));
            }
            let free = owner.iter().filter(|&&o| o == 0).count();
            assert_eq!(a.free_bytes(), free * BLOCK);
        }
        let again = arena(blocks);
        for (_, e) in &held {
            assert!(again.claim(*e));
            assert!(!again.claim(*e), "claimed twice");
        }
        assert_eq!(again.free_bytes(), a.free_bytes());
        assert!(
            !again.claim(Extent {
                block: 299,
                order: 1
            }),
            "outside"
        );
    }
}
