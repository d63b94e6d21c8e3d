//! What a worker sees: messages are copied out, and then it is looked whether they were still there.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::{Blocks, Field, Head, Kept, MAX_ROOMS, MESSAGE_HEAD, Place, Retained, word};
use crate::format::Data;
use crate::memory::Segment;

/// A reader that meets a writer again and again gives up.
const ATTEMPTS: usize = 4;

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
