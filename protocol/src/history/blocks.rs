//! The blocks in which messages lie, and the chains that they make: how the master writes them, and how
//! both sides find their way.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::{
    BLOCK, BLOCKS, DELETED, Head, MAX_BLOCKS, MESSAGE_HEAD, MSGPACK, Place, Retained, SIZE, size,
};
use crate::format::{Data, Format};
use crate::memory::Segment;

/// The blocks, as they are now.
#[derive(Clone, Debug)]
pub struct Blocks {
    segment: Arc<Segment>,
}

impl Blocks {
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Blocks {
        Blocks { segment }
    }

    /// Is it one of ours?
    #[must_use]
    pub fn fits(segment: &Segment) -> bool {
        segment.size() == SIZE
    }

    fn head_word(&self, block: u32, word: usize) -> u64 {
        self.segment
            .word(BLOCKS + block as usize * (BLOCK / 8) + word)
            .load(Ordering::Acquire)
    }

    fn set_head_word(&self, block: u32, word: usize, value: u64) {
        self.segment
            .word(BLOCKS + block as usize * (BLOCK / 8) + word)
            .store(value, Ordering::Release);
    }

    /// The block behind it in its chain.
    #[must_use]
    pub fn next(&self, block: u32) -> Option<u32> {
        link(self.head_word(block, 0) as u32)
    }

    fn previous(&self, block: u32) -> Option<u32> {
        link((self.head_word(block, 0) >> 32) as u32)
    }

    /// The message that is the first to begin in the block: its offset and place.
    fn first_in(&self, block: u32) -> Option<(u64, Place)> {
        let offset = self.head_word(block, 1);
        let at = self.head_word(block, 2);
        let place = Place::unpack((u64::from(block) + 1) << 16 | (at & 0xffff))?;
        (offset != 0).then_some((offset, place))
    }

    /// The place so many bytes further on. It may be the end of a block.
    #[must_use]
    pub fn skip(&self, mut from: Place, mut bytes: usize) -> Option<Place> {
        while bytes > from.left() {
            bytes -= from.left();
            from = Place::start(self.next(from.block)?);
        }
        from.at += bytes as u32;
        Some(from)
    }

    /// At the end of a block, the begin of the next one.
    fn settled(&self, place: Place) -> Option<Place> {
        match place.left() {
            0 => Some(Place::start(self.next(place.block)?)),
            _ => Some(place),
        }
    }

    pub(super) fn copy_out(&self, mut from: Place, mut into: &mut [u8]) -> Option<()> {
        while !into.is_empty() {
            from = self.settled(from)?;
            let (now, later) = into.split_at_mut(into.len().min(from.left()));
            self.segment.copy_out(from.byte(), now);
            from.at += now.len() as u32;
            into = later;
        }
        Some(())
    }

    /// The head of the message at a place, and where it begins, which is the next block if the place
    /// is the end of one.
    #[must_use]
    pub fn head(&self, place: Place) -> Option<(Head, Place)> {
        let place = self.settled(place)?;
        let mut bytes = [0; MESSAGE_HEAD];
        self.copy_out(place, &mut bytes)?;
        Some((Head::decode(&bytes), place))
    }

    /// For the writer: the block is the chain's next, behind `previous`. No word leads to it yet.
    pub fn chain(&self, block: u32, previous: Option<u32>) {
        // What is written from here on must not be seen by who still reads what was here before and
        // does not see yet that it is gone.
        fence(Ordering::SeqCst);
        self.set_head_word(block, 0, number(previous) << 32);
        self.set_head_word(block, 1, 0);
        if let Some(previous) = previous {
            let links = self.head_word(previous, 0) & !0xffff_ffff;
            self.set_head_word(previous, 0, links | number(Some(block)));
        }
    }

    /// For the writer: puts a message at a place from which on the chain has enough room; where it
    /// ends.
    #[must_use]
    pub fn put(&self, place: Place, message: &Retained<'_>) -> Option<Place> {
        let place = self.settled(place)?;
        if self.head_word(place.block, 1) == 0 {
            self.set_head_word(place.block, 2, place.at.into());
            self.set_head_word(place.block, 1, message.offset);
        }
        let Data { format, bytes } = message.data;
        let format = match format {
            Format::Json => 0,
            Format::Msgpack => MSGPACK,
        };
        let lengths = (message.from.len() as u64 | u64::from(format)) | (bytes.len() as u64) << 32;
        let mut end = place;
        for part in [
            &message.offset.to_le_bytes()[..],
            &message.at_ms.to_le_bytes(),
            &lengths.to_le_bytes(),
            message.from,
            bytes,
        ] {
            end = self.copy_in(end, part)?;
        }
        self.skip(place, size(message.from.len(), bytes.len()))
    }

    /// From the chain's end back to a block in which no younger message begins, and on from there.
    pub(super) fn find(&self, tail: Place, offset: u64) -> Option<Place> {
        let mut block = tail.block;
        let mut found = None;
        for _ in 0..MAX_BLOCKS {
            if let Some((first, place)) = self.first_in(block)
                && first <= offset
            {
                found = Some((first, place));
                break;
            }
            block = self.previous(block)?;
        }
        let (first, mut place) = found?;
        for expected in first..offset {
            let (head, at) = self.head(place)?;
            if head.offset != expected {
                return None;
            }
            place = self.skip(at, head.size())?;
        }
        Some(place)
    }

    /// For the writer: the word, and what it is to say, by which a message of the chain that ends at
    /// `tail` is deleted. `None`: it is not in it, or is deleted.
    #[must_use]
    pub fn deletion(&self, tail: Place, offset: u64) -> Option<(u32, u64)> {
        let (head, at) = self.head(self.find(tail, offset)?)?;
        if head.offset != offset || head.is_deleted {
            return None;
        }
        // Words lie whole in a block.
        let lengths = self.settled(self.skip(at, 16)?)?;
        let index = lengths.byte() / 8;
        let word = self.segment.word(index).load(Ordering::Relaxed);
        Some((index as u32, word | u64::from(DELETED)))
    }

    fn copy_in(&self, mut to: Place, mut bytes: &[u8]) -> Option<Place> {
        while !bytes.is_empty() {
            to = self.settled(to)?;
            let (now, later) = bytes.split_at(bytes.len().min(to.left()));
            self.segment.copy_in(to.byte(), now);
            to.at += now.len() as u32;
            bytes = later;
        }
        Some(to)
    }
}

fn link(number: u32) -> Option<u32> {
    number.checked_sub(1).filter(|block| *block < MAX_BLOCKS)
}

fn number(block: Option<u32>) -> u64 {
    block.map_or(0, |block| u64::from(block) + 1)
}
