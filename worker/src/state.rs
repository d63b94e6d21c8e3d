//! Where everything is in a worker's state: the memory that its guard and all its brains map.
//!
//! The places do not depend on the configuration, so any brain finds them; pages that nothing has
//! touched take no memory. What grows (slots, cells, rooms) has a high-water mark, so that a new
//! brain looks at what was used and touches nothing else.
//!
//! ```text
//! words 0..    magic, version, the marks and words below
//! 48..         records that were given up
//! 64..         the guard's page
//! 1024..       the journal
//! 16 KiB       the settings
//! 64 KiB       the ring of log lines
//! then         slots · cells · rooms · passes · the arena
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::guard::Page;
use protocol::journal::{self, Word};
use protocol::memory::{Access, Segment};
use protocol::settings::Settings;

use crate::passes::PASS_WORDS;
use crate::rooms::{CELL_WORDS, ROOM_WORDS};
use crate::slots::SLOT_WORDS;

/// Connections that a worker can ever hold: the number of one takes two bytes, and of none too.
pub const MAX_SLOTS: u32 = u16::MAX as u32;
/// Memberships (a connection in a room) that it can ever hold.
pub const MAX_CELLS: u32 = 1 << 20;
/// Rooms that it can ever hold.
pub const MAX_ROOMS: u32 = 1 << 16;
/// Blocks of passes (what a connection may do, most often in one) that it can ever hold.
pub const MAX_PASSES: u32 = 1 << 18;
/// Bytes of buffers that it can ever hold.
pub const MAX_ARENA: u64 = 8 << 30;

const MAGIC: u64 = u64::from_le_bytes(*b"batonwrk");
const VERSION: u64 = 1;

/// Words: the places of the records that were given up last, + 1.
pub const GIVEN_UP: usize = 48;
pub const MAX_GIVEN_UP: usize = 16;
/// Words of the guard's page.
pub const PAGE: usize = 64;
pub const PAGE_WORDS: usize = 960;
pub const JOURNAL: usize = 1024;
/// Bytes, of the settings as the master said them, in MessagePack.
const SETTINGS: usize = 16 << 10;
const SETTINGS_SIZE: usize = 48 << 10;
/// Bytes, of the ring of log lines.
pub const LINES: usize = 64 << 10;
pub const LINES_SIZE: usize = 256 << 10;
/// Words, from here on.
pub const SLOTS: usize = (LINES + LINES_SIZE) / 8;
pub const CELLS: usize = SLOTS + MAX_SLOTS as usize * SLOT_WORDS;
pub const ROOMS: usize = CELLS + MAX_CELLS as usize * CELL_WORDS;
pub const PASSES: usize = ROOMS + MAX_ROOMS as usize * ROOM_WORDS;
/// Bytes.
pub const ARENA: usize = ((PASSES + MAX_PASSES as usize * PASS_WORDS) * 8).next_multiple_of(4096);
const SIZE: usize = ARENA + MAX_ARENA as usize;

const _: () = assert!(
    Page::WORDS <= PAGE_WORDS
        && (Head::Missed as usize) < GIVEN_UP
        && GIVEN_UP + MAX_GIVEN_UP <= PAGE
        && PAGE + PAGE_WORDS <= JOURNAL
        && (JOURNAL + journal::WORDS) * 8 <= SETTINGS
);

/// Single words of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Head {
    Magic,
    Version,
    /// One more than the highest slot, cell, room ever used.
    SlotsUsed,
    CellsUsed,
    RoomsUsed,
    /// Everything in the log before this has been given to, or is owed by slot to, everyone whom
    /// it concerns.
    LogRead,
    /// What the brain is working on ([`crate::poison::InHand`]).
    InHand,
    /// The place of the last death, how far the work had come there, and how many deaths in a row
    /// were there.
    DeathPlace,
    DeathProgress,
    Deaths,
    /// Bytes of the settings; 0: the master has not said them yet.
    SettingsLen,
    /// Milliseconds by our clock by which a retiring worker ends; 0: it is not retiring.
    RetireBy,
    /// How far our clock, in which deadlines are, is behind the monotonic one.
    Skipped,
    /// Brains in a row that have not lived for [`A_WHILE_MS`](crate::brain::A_WHILE_MS), with the
    /// one that lives now until it has.
    ShortLives,
    /// Records of the log that were ever given up.
    GivenUp,
    /// One more than the highest block of passes ever used.
    PassesUsed,
    /// 1: the log has overtaken this worker, and the positions of its rooms are to be asked for.
    Missed,
    /// So much of the ring has been answered in what has been read of the log. The rest stays there, so
    /// that those who wait for an answer are known, and no more of them wait than the ring holds.
    Answered,
}

impl Head {
    #[must_use]
    pub fn word(self) -> Word {
        Word {
            segment: 0,
            index: self as u32,
        }
    }
}

/// The mapped state.
#[derive(Clone, Debug)]
pub struct State {
    segment: Arc<Segment>,
}

impl State {
    /// A new one, for a worker's first guard.
    pub fn create() -> io::Result<State> {
        let state = State {
            segment: Arc::new(Segment::create(c"baton-worker", SIZE)?),
        };
        state.head(Head::Version).store(VERSION, Ordering::Relaxed);
        state.head(Head::Magic).store(MAGIC, Ordering::Release);
        Ok(state)
    }

    /// One that a guard before left.
    pub fn adopt(fd: OwnedFd) -> io::Result<State> {
        let segment = Arc::new(Segment::map(fd, Access::ReadWrite)?);
        let state = State { segment };
        if state.segment.size() != SIZE
            || state.head(Head::Magic).load(Ordering::Acquire) != MAGIC
            || state.head(Head::Version).load(Ordering::Acquire) != VERSION
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a worker's state",
            ));
        }
        Ok(state)
    }

    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The guard's page.
    #[must_use]
    pub fn page(&self) -> Page {
        Page::new(self.words(PAGE, PAGE_WORDS))
    }

    /// Some of its words, for good: no process unmaps its state.
    #[must_use]
    pub fn words(&self, from: usize, count: usize) -> &'static [AtomicU64] {
        Box::leak(Box::new(self.segment.clone())).words(from, count)
    }

    #[must_use]
    pub fn head(&self, head: Head) -> &AtomicU64 {
        self.segment.word(head as usize)
    }

    #[must_use]
    pub fn get(&self, head: Head) -> u64 {
        self.head(head).load(Ordering::Acquire)
    }

    /// What the master said last.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        let mut bytes = vec![0; (self.get(Head::SettingsLen) as usize).min(SETTINGS_SIZE)];
        self.segment.copy_out(SETTINGS, &mut bytes);
        rmp_serde::from_slice(&bytes).ok()
    }

    /// Keeps them for the brains to come.
    pub fn set_settings(&self, settings: &Settings) -> io::Result<()> {
        // Most often nothing is new, and a brain that dies in between would leave none.
        if self.settings().as_ref() == Some(settings) {
            return Ok(());
        }
        let bytes = rmp_serde::to_vec_named(settings).map_err(io::Error::other)?;
        if bytes.len() > SETTINGS_SIZE {
            return Err(io::Error::other("the settings are too large"));
        }
        self.set(Head::SettingsLen, 0);
        self.segment.copy_in(SETTINGS, &bytes);
        self.set(Head::SettingsLen, bytes.len() as u64);
        Ok(())
    }

    /// One word, changed by itself.
    pub fn set(&self, head: Head, value: u64) {
        self.head(head).store(value, Ordering::Release);
    }
}

impl AsFd for State {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}
