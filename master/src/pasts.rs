//! What connections that have lived bring along on their way from one worker to another: for each
//! slot that is [undecided](crate::connections::Connection::is_undecided) what its giver knew. It
//! is in this brain's own memory: the next one asks the givers again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::message::Past;
use rustc_hash::FxHashMap;

/// By their slots.
#[derive(Debug, Default)]
pub struct Pasts {
    by_slot: FxHashMap<u32, Arrived>,
}

/// A connection's past, as it arrived.
#[derive(Debug)]
pub struct Arrived {
    pub past: Past,
    /// Of [`Past::File`].
    file: Option<OwnedFd>,
    /// When that was.
    pub at: u64,
    /// How often a worker has refused it.
    pub refusals: u32,
}

impl Arrived {
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Bytes in the message that gives it, about.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.past {
            Past::Here(bytes) => bytes.len(),
            Past::None | Past::File | Past::Lost => 0,
        }
    }
}

impl Pasts {
    pub fn put(&mut self, slot: u32, past: Past, file: Option<OwnedFd>, at: u64) {
        let arrived = Arrived {
            past,
            file,
            at,
            refusals: 0,
        };
        self.by_slot.insert(slot, arrived);
    }

    /// `None`: its giver has not said it, or not to this brain.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&Arrived> {
        self.by_slot.get(&slot)
    }

    pub fn refused(&mut self, slot: u32) {
        if let Some(arrived) = self.by_slot.get_mut(&slot) {
            arrived.refusals += 1;
        }
    }

    /// It is decided.
    pub fn forget(&mut self, slot: u32) {
        self.by_slot.remove(&slot);
    }
}
