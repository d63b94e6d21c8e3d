//! The rooms' positions, and the messages that they retain: memory that the master writes and all
//! workers read.
//!
//! Every room has a few words here, by its number at the master. What it retains is a chain of
//! blocks of its own, so that no room's messages evict another's from a common log. Messages lie in
//! it one behind the other, and may reach over the end of a block.
//!
//! The master stages a message behind the chain's end, where no word leads; it counts once the
//! journal has moved `Last` and `Tail`, in the record that also puts it into the log. A block is
//! used again only after `First` has moved over what was in it. So a reader copies messages out and
//! then looks whether `First` has overtaken it; it trusts nothing that it read before that.
//!
//! ```text
//! room:    epoch · last offset · first retained offset · its place · the end's place · unused
//! block:   next + 1 and previous + 1 · offset of the first message that begins here (0: none)
//!          · where it begins · bytes
//! message: offset · when (ms) · lengths of sender and data (u32 each; the highest bit of the first
//!          says that the data is MessagePack, the next that the message was deleted)
//!          · sender · data · padding to 8
//! ```
//!
//! A message that is deleted keeps its place: the journal sets a bit in its head, and nobody shows it
//! from then on.
//!
//! Here is how all of it lies; [`Blocks`] is how it is written and walked through, [`Reader`] what a worker
//! sees of it.

mod blocks;
mod reader;

use std::io;

use crate::format::{Data, Format};
use crate::memory::Segment;
use crate::{sanctions, words};

pub use blocks::Blocks;
pub use reader::{Copied, Gone, Reader};

/// Rooms that there can ever be.
pub const MAX_ROOMS: u32 = 1 << 20;
/// Blocks that there can ever be: 8 GiB of them. Those that were never used take no memory.
pub const MAX_BLOCKS: u32 = 1 << 23;
/// Bytes of a block: what a room takes at least that retains anything.
pub const BLOCK: usize = 1024;

const ROOM_WORDS: usize = 8;
/// Words.
const BLOCKS: usize = MAX_ROOMS as usize * ROOM_WORDS;
/// The first word behind the blocks, where the [sanctions](crate::sanctions) are.
pub const SANCTIONS: usize = BLOCKS + MAX_BLOCKS as usize * BLOCK / 8;
/// The first byte behind these, where the [words](crate::words) are that messages are filtered by.
pub const WORDS: usize = (SANCTIONS + sanctions::WORDS) * 8;
const SIZE: usize = (WORDS + words::SIZE).next_multiple_of(4096);
/// Bytes at the start of a block that are no message's.
const HEAD: u32 = 24;
/// Bytes of a message besides sender and data.
const MESSAGE_HEAD: usize = 24;

const _: () = assert!(SIZE / 8 <= u32::MAX as usize);
const _: () = assert!((BLOCK as u32 - HEAD).is_multiple_of(8));

/// The words of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    /// 0: there is no such room.
    Epoch,
    /// The offset of its last message.
    Last,
    /// The offset of the oldest message that is retained: all from there to the last one are.
    First,
    /// Where that is ([`Place`]); 0: none is retained.
    Head,
    /// Where the next one will be.
    Tail,
}

/// A word of a room, in the segment.
#[must_use]
pub const fn word(room: u32, field: Field) -> u32 {
    (room as usize * ROOM_WORDS + field as usize) as u32
}

/// The segment, all of whose pages are untouched.
pub fn create() -> io::Result<Segment> {
    Segment::create(c"baton-history", SIZE)
}

/// Bytes that a message takes up.
#[must_use]
pub const fn size(from: usize, data: usize) -> usize {
    (MESSAGE_HEAD + from + data).next_multiple_of(8)
}

/// A byte of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub block: u32,
    at: u32,
}

impl Place {
    /// Where a block's messages begin.
    #[must_use]
    pub const fn start(block: u32) -> Place {
        Place { block, at: HEAD }
    }

    /// Bytes that are left in the block.
    #[must_use]
    pub const fn left(self) -> usize {
        BLOCK - self.at as usize
    }

    #[must_use]
    pub fn pack(this: Option<Place>) -> u64 {
        this.map_or(0, |p| (u64::from(p.block) + 1) << 16 | u64::from(p.at))
    }

    /// `None` for 0, and for what cannot be.
    #[must_use]
    pub fn unpack(word: u64) -> Option<Place> {
        let block = u32::try_from(word >> 16).ok()?.checked_sub(1)?;
        let at = (word & 0xffff) as u32;
        let sound = block < MAX_BLOCKS && (HEAD..=BLOCK as u32).contains(&at);
        sound.then_some(Place { block, at })
    }

    fn byte(self) -> usize {
        BLOCKS * 8 + self.block as usize * BLOCK + self.at as usize
    }
}

/// What stands before a message's sender and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub offset: u64,
    pub at_ms: u64,
    from: u32,
    data: u32,
    format: Format,
    is_deleted: bool,
}

/// With the length of a sender: the data is MessagePack.
const MSGPACK: u32 = 1 << 31;
/// With the same: the message was deleted.
const DELETED: u32 = 1 << 30;

impl Head {
    /// Bytes of the message with it.
    #[must_use]
    pub fn size(&self) -> usize {
        size(self.from as usize, self.data as usize)
    }

    fn decode(bytes: &[u8; MESSAGE_HEAD]) -> Head {
        let (words, _) = bytes.as_chunks::<8>();
        let lengths = u64::from_le_bytes(words[2]);
        Head {
            offset: u64::from_le_bytes(words[0]),
            at_ms: u64::from_le_bytes(words[1]),
            from: lengths as u32 & !(MSGPACK | DELETED),
            data: (lengths >> 32) as u32,
            is_deleted: lengths as u32 & DELETED != 0,
            format: match lengths as u32 & MSGPACK {
                0 => Format::Json,
                _ => Format::Msgpack,
            },
        }
    }
}

/// A message that was retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained<'a> {
    pub offset: u64,
    pub at_ms: u64,
    pub from: &'a [u8],
    pub data: Data<'a>,
}

/// A place in a room's sequence, as it was copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept<'a> {
    Message(Retained<'a>),
    /// There was a message, which is not shown any more.
    Deleted {
        offset: u64,
    },
}

impl Kept<'_> {
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Kept::Message(message) => message.offset,
            Kept::Deleted { offset } => *offset,
        }
    }
}
