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

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::format::{Data, Format};
use crate::memory::Segment;
use crate::{sanctions, words};

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
/// A reader that meets a writer again and again gives up.
const ATTEMPTS: usize = 4;

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

    fn copy_out(&self, mut from: Place, mut into: &mut [u8]) -> Option<()> {
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
    fn find(&self, tail: Place, offset: u64) -> Option<Place> {
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

/// A worker's view.
#[derive(Debug)]
pub struct Reader {
    segment: Arc<Segment>,
    blocks: Blocks,
}

/// Messages as they were copied out, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied(Vec<u8>);

/// What is wanted is not all retained, or is more than is wanted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Reader {
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Reader {
        Reader {
            blocks: Blocks::new(segment.clone()),
            segment,
        }
    }

    fn get(&self, room: u32, field: Field) -> u64 {
        self.segment
            .word(word(room, field) as usize)
            .load(Ordering::Acquire)
    }

    /// The place of the room's last message, if this is still the room of that epoch. A worker that
    /// reads the log may come to it only later.
    #[must_use]
    pub fn last(&self, room: u32, epoch: u64) -> Option<u64> {
        if room >= MAX_ROOMS {
            return None;
        }
        let last = self.get(room, Field::Last);
        fence(Ordering::Acquire);
        (self.get(room, Field::Epoch) == epoch).then_some(last)
    }

    /// The offset of the oldest message that is retained, if one is.
    #[must_use]
    pub fn first(&self, room: u32) -> Option<u64> {
        let first = self.get(room, Field::First);
        Place::unpack(self.get(room, Field::Head)).map(|_| first)
    }

    /// All messages from offset `from` to offset `to`, if they take up to `most` bytes.
    pub fn range(
        &self,
        room: u32,
        epoch: u64,
        from: u64,
        to: u64,
        most: usize,
    ) -> Result<Copied, Gone> {
        if from > to {
            return Ok(Copied::default());
        }
        self.read(room, epoch, from, to, |sizes| {
            (sizes.iter().sum::<usize>() <= most).then_some(0)
        })
    }

    /// The newest messages up to offset `to`, `count` at most and about `most` bytes.
    #[must_use]
    pub fn newest(&self, room: u32, epoch: u64, to: u64, count: u64, most: usize) -> Copied {
        for _ in 0..ATTEMPTS {
            let (Some(first), Some(last)) = (self.first(room), self.last(room, epoch)) else {
                break;
            };
            let to = to.min(last);
            let from = first.max((to + 1).saturating_sub(count));
            if from > to || count == 0 {
                break;
            }
            // The newest of them is taken whatever its size.
            let read = self.read(room, epoch, from, to, |sizes| {
                let mut left = most;
                let fitting = sizes.iter().rev().take_while(|size| {
                    let fits = **size <= left;
                    left = left.saturating_sub(**size);
                    fits
                });
                Some(sizes.len() - fitting.count().max(1))
            });
            if let Ok(copied) = read {
                return copied;
            }
        }
        Copied::default()
    }

    /// `choose` is given the messages' sizes and says with which to begin; `None`: with none.
    fn read(
        &self,
        room: u32,
        epoch: u64,
        from: u64,
        to: u64,
        choose: impl Fn(&[usize]) -> Option<usize>,
    ) -> Result<Copied, Gone> {
        for _ in 0..ATTEMPTS {
            if self.last(room, epoch).is_none_or(|last| last < to) {
                return Err(Gone);
            }
            let copied = self.try_read(room, from, to, &choose);
            fence(Ordering::Acquire);
            let still = self.first(room).is_some_and(|first| first <= from);
            if !still || self.last(room, epoch).is_none() {
                return Err(Gone);
            }
            // Unless a word has changed between two that belong together.
            if let Some(copied) = copied {
                return copied;
            }
        }
        Err(Gone)
    }

    /// What it finds may be anything, if the writer has been there meanwhile.
    fn try_read(
        &self,
        room: u32,
        from: u64,
        to: u64,
        choose: &impl Fn(&[usize]) -> Option<usize>,
    ) -> Option<Result<Copied, Gone>> {
        let tail = Place::unpack(self.get(room, Field::Tail))?;
        let mut place = self.blocks.find(tail, from)?;
        let count = usize::try_from(to - from + 1).ok()?;
        let mut sizes = Vec::with_capacity(count.min(1024));
        let mut places = Vec::with_capacity(count.min(1024));
        for offset in from..=to {
            let (head, at) = self.blocks.head(place)?;
            if head.offset != offset {
                return None;
            }
            sizes.push(head.size());
            places.push(at);
            place = self.blocks.skip(at, head.size())?;
        }
        let Some(begin) = choose(&sizes) else {
            return Some(Err(Gone));
        };
        let mut bytes = vec![0; sizes.get(begin..)?.iter().sum()];
        self.blocks.copy_out(*places.get(begin)?, &mut bytes)?;
        Some(Ok(Copied(bytes)))
    }
}

impl Copied {
    pub fn iter(&self) -> impl Iterator<Item = Kept<'_>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (head, _) = rest.split_first_chunk::<MESSAGE_HEAD>()?;
            let head = Head::decode(head);
            let (message, behind) = rest.split_at_checked(head.size())?;
            rest = behind;
            if head.is_deleted {
                let offset = head.offset;
                return Some(Kept::Deleted { offset });
            }
            let (from, data) = message[MESSAGE_HEAD..].split_at_checked(head.from as usize)?;
            Some(Kept::Message(Retained {
                offset: head.offset,
                at_ms: head.at_ms,
                from,
                data: Data {
                    format: head.format,
                    bytes: data.get(..head.data as usize)?,
                },
            }))
        })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
