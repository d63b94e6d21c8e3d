//! The lists of words that messages are filtered by: memory that the master writes and all workers
//! read, behind the [sanctions](crate::sanctions) in their segment.
//!
//! There are two halves. A reload writes what it has read into the half that does not serve; the
//! settings that go with it say where each list is. So the workers of before find theirs as it was,
//! whichever of them dies.

use crate::memory::Segment;
use crate::settings::Words;

/// Bytes of all lists together, at most.
pub const HALF: usize = 4 << 20;

/// Bytes in all.
pub const SIZE: usize = 2 * HALF;

/// For the writer: puts lists, one behind the other, into a half.
pub fn write(segment: &Segment, base: usize, half: usize, lists: &[u8]) {
    let lists = &lists[..lists.len().min(HALF)];
    segment.copy_in(base + (half & 1) * HALF, lists);
}

/// One list as it is now; it is not written while settings say that it is there.
#[must_use]
pub fn read(segment: &Segment, base: usize, words: Words) -> Vec<u8> {
    let at = (words.at as usize).min(SIZE);
    let mut list = vec![0; (words.len as usize).min(SIZE - at)];
    segment.copy_out(base + at, &mut list);
    list
}
