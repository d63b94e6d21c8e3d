//! Where lines wait: a ring of bytes in the state. One thread at a time appends, one other takes;
//! both are of the one brain that lives.
//!
//! Counts go up for good and are taken modulo the size. A line counts once `HEAD` is behind it, so
//! that a brain that dies while it appends leaves no part of a line.

use std::sync::atomic::{AtomicU64, Ordering};

/// The end of the lines.
const HEAD: usize = 0;
/// So far they are written to the file.
const TAIL: usize = 1;
/// The file's position less `TAIL`: while nobody else writes to the file, it stays the same, and
/// tells a new brain how much the last write of the dead one wrote. [`UNKNOWN`]: it does not.
const BASE: usize = 2;
/// Lines that found no room.
const LOST: usize = 3;
const HEADER: usize = 8;

const UNKNOWN: u64 = u64::MAX;

/// The smallest page of a file.
const PAGE: u64 = 4096;

/// The ring, as each side sees it.
#[derive(Debug)]
pub struct Ring {
    header: &'static [AtomicU64],
    bytes: &'static [AtomicU64],
}

impl Ring {
    /// The ring in these words, with what a predecessor left in it. Zeroed words are an empty one.
    pub fn new(words: &'static [AtomicU64]) -> Ring {
        let (header, bytes) = words.split_at(HEADER);
        let ring = Ring { header, bytes };
        if ring.pending() > ring.capacity() {
            // Not what we write: go on without it.
            ring.set(TAIL, ring.get(HEAD));
        }
        ring
    }

    pub fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// Bytes that can be pushed.
    pub fn room(&self) -> usize {
        self.capacity() - self.pending()
    }

    /// Appends, or finds no room.
    pub fn push(&self, line: &[u8]) -> bool {
        if line.len() > self.room() {
            return false;
        }
        let head = self.get(HEAD);
        for (part, at) in self.parts(head, line.len()) {
            // SAFETY: inside `bytes`. Only who appends writes there, and who takes does not look
            // behind HEAD; atomics may be written through a pointer.
            unsafe {
                std::ptr::copy_nonoverlapping(line[part.clone()].as_ptr(), at, part.len());
            }
        }
        self.set(HEAD, head.wrapping_add(line.len() as u64));
        true
    }

    /// Copies the first whole lines, as many as fit into `into`; says how many bytes.
    pub fn peek(&self, into: &mut [u8]) -> usize {
        let len = self.pending().min(into.len());
        for (part, at) in self.parts(self.get(TAIL), len) {
            // SAFETY: inside `bytes`, before HEAD: nobody writes there.
            unsafe {
                std::ptr::copy_nonoverlapping(at, into[part.clone()].as_mut_ptr(), part.len());
            }
        }
        match into[..len].iter().rposition(|b| *b == b'\n') {
            Some(end) => end + 1,
            None => len,
        }
    }

    /// The first so many bytes are written.
    pub fn take(&self, len: usize) {
        self.set(TAIL, self.get(TAIL).wrapping_add(len as u64));
    }

    /// Before a write: the file is at this position.
    pub fn write_begins_at(&self, position: u64) {
        let base = position.wrapping_sub(self.get(TAIL));
        if self.get(BASE) != base {
            self.set(BASE, base);
        }
    }

    /// There is no telling from the file what was written to it.
    pub fn position_unknown(&self) {
        self.set(BASE, UNKNOWN);
    }

    /// In a new brain: the file is at this position; takes what its predecessor has written
    /// without noting it. A write that is under way when its process is killed may end at any page
    /// of the file, in the middle of a line; the rest of the line is written next.
    pub fn recover(&self, position: u64) {
        let (base, tail) = (self.get(BASE), self.get(TAIL));
        let written = position.wrapping_sub(base).wrapping_sub(tail);
        if base == UNKNOWN || written == 0 || written > self.pending() as u64 {
            return;
        }
        // Whole lines are written. If it does not end there, somebody else wrote to the file.
        let last = tail.wrapping_add(written - 1);
        if let Some((_, at)) = self.parts(last, 1).next() {
            // SAFETY: inside `bytes`, before HEAD: nobody writes there.
            if unsafe { *at } == b'\n' || position.is_multiple_of(PAGE) {
                self.take(written as usize);
            }
        }
    }

    pub fn lost(&self) -> u64 {
        self.get(LOST)
    }

    pub fn count_lost(&self) {
        self.set(LOST, self.lost() + 1);
    }

    pub fn forget_lost(&self, count: u64) {
        self.set(LOST, self.lost().saturating_sub(count));
    }

    fn capacity(&self) -> usize {
        self.bytes.len() * 8
    }

    fn pending(&self) -> usize {
        self.get(HEAD).wrapping_sub(self.get(TAIL)) as usize
    }

    /// Where `len` bytes from `count` on lie: two parts, and which of the bytes each holds.
    fn parts(
        &self,
        count: u64,
        len: usize,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, *mut u8)> {
        let start = (count % self.capacity() as u64) as usize;
        let first = len.min(self.capacity() - start);
        let at = self.bytes.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: `start` is inside.
        let first_at = unsafe { at.add(start) };
        [(0..first, first_at), (first..len, at)].into_iter()
    }

    fn get(&self, index: usize) -> u64 {
        self.header[index].load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.header[index].store(value, Ordering::Release);
    }
}
