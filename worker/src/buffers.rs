//! A connection's buffers: extents of the arena that its slot names.
//!
//! Nothing that the slot refers to is ever altered. Bytes are added behind what is committed; when
//! an extent is too small, what it holds is copied into a larger one, and the slot changes over
//! with the step's record. Only then is the old extent given back.

use protocol::arena::{Arena, BLOCK, Extent, MAX_ORDER};
use protocol::journal::{Journal, Record};
use protocol::output::{Buffer, Full, Output};

use crate::slots::{Field, Slots};

/// Room for the first read of a connection: 32 KiB. What is left of it afterwards takes up no more
/// than it needs.
const FIRST_READ: u8 = 3;

/// Bits of a buffer's word for its number, above its extent's.
const NUMBER_BITS: u32 = u64::BITS - Extent::BITS;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
const _: () = assert!((BLOCK << MAX_ORDER) < 1 << NUMBER_BITS);

/// The word of a buffer: its extent, and a number. Of a message that is its length. Of a stream it is
/// the number of the byte that the extent begins with, as far as it has room: a byte that lies in the
/// extent is less than an extent's size further, and so has one [`place`] only.
#[must_use]
pub fn held(extent: Option<Extent>, number: u64) -> u64 {
    match extent {
        Some(_) => Extent::pack(extent) | number << Extent::BITS,
        None => 0,
    }
}

/// Where in its extent this byte of a stream is.
#[must_use]
pub fn place(word: u64, number: u64) -> usize {
    (number.wrapping_sub(word >> Extent::BITS) & NUMBER) as usize
}

/// Bytes of the message whose word this is.
#[must_use]
pub fn message_len(word: u64) -> u64 {
    word >> Extent::BITS
}

/// What is being added to a buffer in a step.
pub struct Staged<'a> {
    arena: &'a Arena,
    committed: Option<Extent>,
    extent: Option<Extent>,
    /// Where the first byte that counts is, and the end of what is staged.
    start: usize,
    end: usize,
    /// It holds at most so many bytes.
    limit: usize,
}

/// A place in a [`Staged`] to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Mark {
    /// Bytes before it.
    #[must_use]
    pub fn at(self) -> usize {
        self.0
    }
}

impl<'a> Staged<'a> {
    fn new(
        arena: &'a Arena,
        extent: Option<Extent>,
        start: usize,
        end: usize,
        limit: usize,
    ) -> Self {
        Staged {
            arena,
            committed: extent,
            extent,
            start,
            end,
            limit,
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.len())
    }

    /// Forgets what was staged since the mark; it has not been cleared since.
    pub fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.0 <= self.len(), "cleared since");
        self.end = self.start + mark.0;
    }

    /// Room for `n` more bytes behind the end.
    fn reserve(&mut self, n: usize) -> Result<Extent, Full> {
        if let Some(extent) = self.extent
            && self.end + n <= extent.capacity()
        {
            return Ok(extent);
        }
        let len = self.len();
        if len + n > self.limit {
            return Err(Full);
        }
        // Twice what is needed, as long as it grows; so that a large buffer is copied rarely.
        let want = if self.extent.is_some() {
            (len + n) * 2
        } else {
            len + n
        };
        let order = Extent::order_for(want.min(self.limit)).ok_or(Full)?;
        let larger = self.arena.alloc(order).ok_or(Full)?;
        if let Some(old) = self.extent {
            // SAFETY: both are this connection's; `larger` is new, so nobody has a slice of it.
            let (from, to) = unsafe { (self.arena.bytes(old), self.arena.bytes_mut(larger)) };
            to[..len].copy_from_slice(&from[self.start..self.end]);
            if self.extent != self.committed {
                self.arena.free(old);
            }
        }
        (self.extent, self.start, self.end) = (Some(larger), 0, len);
        Ok(larger)
    }

    /// Takes nothing of what was staged: extents that were taken for it go back.
    pub fn abandon(self) {
        if let Some(extent) = self.extent
            && self.extent != self.committed
        {
            self.arena.free(extent);
        }
    }

    /// The step's record is committed: the extent that it left is free.
    pub fn settle(self) {
        if self.extent != self.committed
            && let Some(old) = self.committed
        {
            self.arena.free(old);
        }
    }
}

impl Output for Staged<'_> {
    fn space(&mut self, n: usize) -> Result<&mut [u8], Full> {
        let extent = self.reserve(n)?;
        let at = self.end;
        self.end += n;
        // SAFETY: this connection's extent; the bytes are behind all that anyone has a slice of.
        Ok(unsafe { &mut self.arena.bytes_mut(extent)[at..at + n] })
    }
}

impl Buffer for Staged<'_> {
    fn bytes(&self) -> &[u8] {
        match self.extent {
            // SAFETY: this connection's extent, written to through `&mut self` only.
            Some(extent) => unsafe { &self.arena.bytes(extent)[self.start..self.end] },
            None => &[],
        }
    }

    fn clear(&mut self) {
        if self.extent == self.committed {
            // A brain that dies before the commit leaves what is in it to the next one.
            self.extent = None;
            self.start = 0;
        }
        self.end = self.start;
    }
}

/// The connection's output, to add to. At most `limit` bytes may wait in it.
#[must_use]
pub fn output<'a>(arena: &'a Arena, slots: &Slots, slot: u32, limit: usize) -> Staged<'a> {
    let word = slots.get(slot, Field::Output);
    let extent = Extent::unpack(word);
    let (start, end) = match extent {
        Some(_) => {
            let start = place(word, slots.get(slot, Field::Written));
            (start, start + slots.pending(slot))
        }
        None => (0, 0),
    };
    Staged::new(arena, extent, start, end, limit)
}

/// Puts what was added to the output into the step's record.
pub fn change_output(out: &Staged<'_>, slots: &Slots, slot: u32, record: &mut Record) {
    let written = slots.get(slot, Field::Written);
    let produced = written + out.len() as u64;
    if produced != slots.get(slot, Field::Produced) {
        Slots::change(record, slot, Field::Produced, produced);
    }
    if out.extent != out.committed {
        let word = held(out.extent, written.wrapping_sub(out.start as u64));
        Slots::change(record, slot, Field::Output, word);
    }
}

/// The message that the connection is putting together.
#[must_use]
pub fn message<'a>(arena: &'a Arena, slots: &Slots, slot: u32, limit: usize) -> Staged<'a> {
    let word = slots.get(slot, Field::Message);
    let len = message_len(word) as usize;
    Staged::new(arena, Extent::unpack(word), 0, len, limit)
}

/// Puts the message into the step's record; an empty one keeps no extent.
pub fn change_message(message: &mut Staged<'_>, slots: &Slots, slot: u32, record: &mut Record) {
    if message.is_empty()
        && let Some(extent) = message.extent.take()
        && Some(extent) != message.committed
    {
        message.arena.free(extent);
    }
    let word = held(message.extent, message.len() as u64);
    if word != slots.get(slot, Field::Message) {
        Slots::change(record, slot, Field::Message, word);
    }
}

/// The record with both changes is committed.
pub fn settle(out: Staged<'_>, message: Staged<'_>) {
    out.settle();
    message.settle();
}

/// The connection's unread input.
#[must_use]
pub fn unread<'a>(arena: &'a Arena, slots: &Slots, slot: u32) -> &'a [u8] {
    let word = slots.get(slot, Field::Input);
    let Some(extent) = Extent::unpack(word) else {
        return &[];
    };
    let parsed = slots.get(slot, Field::Parsed);
    let start = place(word, parsed);
    let end = start + (slots.get(slot, Field::Consumed) - parsed) as usize;
    // SAFETY: this connection's extent; a read adds behind `end`.
    unsafe { &arena.bytes(extent)[start..end] }
}

/// The connection's output that waits to be written.
#[must_use]
pub fn unwritten<'a>(arena: &'a Arena, slots: &Slots, slot: u32) -> &'a [u8] {
    let word = slots.get(slot, Field::Output);
    let Some(extent) = Extent::unpack(word) else {
        return &[];
    };
    let start = place(word, slots.get(slot, Field::Written));
    let end = start + slots.pending(slot);
    // SAFETY: this connection's extent; output is added behind `end`.
    unsafe { &arena.bytes(extent)[start..end] }
}

/// Lets `read` fill the room behind the unread input: at least one byte, and so much that `want`
/// unread bytes in all have room, if the step before said that it needs so many. [`Full`]: the
/// arena has no room.
pub fn fill_input<R>(
    arena: &Arena,
    slots: &Slots,
    journal: &Journal,
    slot: u32,
    want: usize,
    read: impl FnOnce(&mut [u8]) -> R,
) -> Result<R, Full> {
    let word = slots.get(slot, Field::Input);
    let parsed = slots.get(slot, Field::Parsed);
    let held = (slots.get(slot, Field::Consumed) - parsed) as usize;
    if let Some(extent) = Extent::unpack(word) {
        let start = place(word, parsed);
        let end = start + held;
        if end < extent.capacity() && start + want <= extent.capacity() {
            // SAFETY: this connection's extent, behind all that is committed.
            return Ok(read(unsafe { &mut arena.bytes_mut(extent)[end..] }));
        }
    }
    let order = Extent::order_for(want.max(held * 2)).ok_or(Full)?;
    let larger = arena.alloc(order.max(FIRST_READ)).ok_or(Full)?;
    match word {
        // Nothing is there: the usual case.
        0 => slots.set(slot, Field::Input, self::held(Some(larger), parsed)),
        _ => move_input(arena, slots, journal, slot, larger),
    }
    // SAFETY: this connection's extent, behind what has been moved there.
    Ok(read(unsafe { &mut arena.bytes_mut(larger)[held..] }))
}

/// The unread input goes into this new extent, and the old one is free.
fn move_input(arena: &Arena, slots: &Slots, journal: &Journal, slot: u32, to: Extent) {
    let unread = unread(arena, slots, slot);
    // SAFETY: a new extent, which nobody has a slice of.
    unsafe { arena.bytes_mut(to)[..unread.len()].copy_from_slice(unread) };
    let old = Extent::unpack(slots.get(slot, Field::Input));
    let mut record = Record::new();
    let word = held(Some(to), slots.get(slot, Field::Parsed));
    Slots::change(&mut record, slot, Field::Input, word);
    journal.commit(&mut record);
    if let Some(old) = old {
        arena.free(old);
    }
}

/// Lets unread input that fills but a part of its extent move into a smaller one: it may wait for
/// long.
pub fn shrink_input(arena: &Arena, slots: &Slots, journal: &Journal, slot: u32) {
    let held = (slots.get(slot, Field::Consumed) - slots.get(slot, Field::Parsed)) as usize;
    if held == 0 {
        return;
    }
    // An extent that cannot be smaller stays.
    match Extent::unpack(slots.get(slot, Field::Input)) {
        Some(extent) if held.max(BLOCK) * 4 <= extent.capacity() => {}
        _ => return,
    }
    if let Some(smaller) = Extent::order_for(held).and_then(|order| arena.alloc(order)) {
        move_input(arena, slots, journal, slot, smaller);
    }
}

/// Gives back the buffers that hold nothing: an idle connection owns none.
pub fn release_empty(arena: &Arena, slots: &Slots, slot: u32) {
    let idle = [
        (
            Field::Input,
            slots.get(slot, Field::Parsed) == slots.get(slot, Field::Consumed),
        ),
        (Field::Output, slots.pending(slot) == 0),
    ];
    for (field, empty) in idle {
        if empty && let Some(extent) = Extent::unpack(slots.get(slot, field)) {
            slots.set(slot, field, 0);
            arena.free(extent);
        }
    }
}

/// Gives back all buffers, of a connection that ends.
pub fn release_all(arena: &Arena, slots: &Slots, slot: u32) {
    for field in [Field::Input, Field::Output, Field::Message] {
        if let Some(extent) = Extent::unpack(slots.get(slot, field)) {
            slots.set(slot, field, 0);
            arena.free(extent);
        }
    }
}

/// A new extent that holds `bytes`; the caller's record makes it a slot's.
#[must_use]
pub fn keep(arena: &Arena, bytes: &[u8]) -> Option<Extent> {
    make(arena, bytes.len(), |space| space.copy_from_slice(bytes))
}

/// A new extent, of which `fill` fills the first `len` bytes; the caller's record makes it a slot's.
#[must_use]
pub fn make(arena: &Arena, len: usize, fill: impl FnOnce(&mut [u8])) -> Option<Extent> {
    let extent = arena.alloc(Extent::order_for(len)?)?;
    // SAFETY: a new extent, which nobody has a slice of.
    fill(unsafe { &mut arena.bytes_mut(extent)[..len] });
    Some(extent)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::memory::Segment;

    use crate::state::{self, State};

    use super::*;

    /// What the slot names is what the next brain goes on from, if this one dies.
    #[test]
    fn what_is_committed_is_never_altered() {
        let segment = Arc::new(Segment::create(c"arena", 64 * BLOCK).unwrap());
        let arena = Arena::new(segment, 0, 64 * BLOCK);
        let committed = keep(&arena, &[1; 100]);
        // SAFETY: the extent is not freed before the end, and this is what is tested.
        let bytes = || unsafe { &arena.bytes(committed.unwrap())[..100] };
        let free = arena.free_bytes();

        let mut message = Staged::new(&arena, committed, 0, 100, usize::MAX);
        message.put(&[2; 50]).unwrap();
        assert_eq!(message.bytes(), [[1; 100].as_slice(), &[2; 50]].concat());
        message.clear();
        assert!(message.is_empty());
        message.put(&[3; 80]).unwrap();
        assert_eq!(message.bytes(), [3; 80]);
        message.clear();
        message.put(&[4; 90]).unwrap();
        message.put(&[4; 3 * BLOCK]).unwrap();
        assert_eq!(message.bytes(), [4; 90 + 3 * BLOCK]);
        assert_eq!(bytes(), [1; 100]);

        message.abandon();
        assert_eq!(bytes(), [1; 100]);
        assert_eq!(arena.free_bytes(), free);
        let mut message = Staged::new(&arena, committed, 0, 100, usize::MAX);
        message.clear();
        message.settle();
        assert_eq!(arena.free_bytes(), free + BLOCK);
    }

    /// A head that comes in drops holds no more than a block while it does, and is not moved again.
    #[test]
    fn what_stays_unread_takes_up_what_it_needs() {
        let state = State::create().unwrap();
        let slots = Slots::new(state.clone());
        let journal = Journal::new(state::JOURNAL, vec![state.segment().clone()]);
        let arena = Arena::new(state.segment().clone(), state::ARENA, 64 * BLOCK);
        let mut seen = Vec::new();
        for part in [&b"GET / HT"[..], b"TP/1.1\r\n", b"Host: a\r\n"] {
            let read = |room: &mut [u8]| room[..part.len()].copy_from_slice(part);
            fill_input(&arena, &slots, &journal, 0, 0, read).unwrap();
            let consumed = slots.get(0, Field::Consumed) + part.len() as u64;
            slots.set(0, Field::Consumed, consumed);
            seen.extend_from_slice(part);
            let before = slots.get(0, Field::Input);
            shrink_input(&arena, &slots, &journal, 0);
            assert_eq!(unread(&arena, &slots, 0), seen);
            assert_eq!(arena.free_bytes(), 63 * BLOCK);
            let moved = slots.get(0, Field::Input) != before;
            assert_eq!(moved, seen.len() == part.len());
        }
    }
}
