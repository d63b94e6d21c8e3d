//! The master's state: the memory that its guard and all its brains map, and where everything is
//! in it. What is journaled here, a new brain finds as it was.
//!
//! The places do not depend on the configuration; pages that nothing has touched take no memory.
//!
//! ```text
//! words 0..      single words (Head)
//! 128..          the guard's page
//! 512..          the journal
//! 1024..         workers: one row for each ring
//! 64 KiB         the configuration
//! 256 KiB        the ring of log lines
//! then           connections · rooms · members (one row of all rooms for each ring) · keys
//!                · users in rooms · who spoke last · figures of workers that are gone (one row
//!                for each seat) · events · requests that take several steps
//! ```
//!
//! The journal's second segment is the log: its head, and in its header the rings' read indexes,
//! change in one record with the words here. The third one is what workers see of rooms: their
//! positions, and the [history](protocol::history) that they retain.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::api;
use protocol::guard::Page;
use protocol::history::{self, Blocks, Field};
use protocol::journal::{self, Corrupt, Journal, Record, Word};
use protocol::memory::{Access, Segment};
use protocol::row::{self, MAX_RINGS};
use protocol::stream;

/// Connections that baton can ever hold.
pub const MAX_CONNECTIONS: u32 = 1 << 20;
/// Rooms that it can ever know.
pub const MAX_ROOMS: u32 = history::MAX_ROOMS;

/// Keys of messages that it can ever remember, plus one.
pub const MAX_KEYS: u32 = 1 << 17;

/// Words of one worker's row, one connection's and one room's.
pub const WORKER_WORDS: usize = 8;
pub const CONNECTION_WORDS: usize = 5;
pub const ROOM_WORDS: usize = 32;
const KEY_WORDS: usize = 5;
/// Words of a block of users.
pub const USER_WORDS: usize = 12;

/// Blocks of users that can ever be known to be in rooms: one for each in each room, or two.
pub const MAX_USERS: u32 = 1 << 21;

/// Users that it can ever remember to have spoken in rooms in slow mode, plus one.
pub const MAX_SPOKEN: u32 = 1 << 16;
const SPOKEN_WORDS: usize = 3;

const MAGIC: u64 = u64::from_le_bytes(*b"batonmst");
/// Raised when a master of the version before could not go on from this: when the layout changes,
/// here or in what a master maps besides (log, rings, the guard's page).
const VERSION: u64 = 7;

const PAGE: usize = 128;
const JOURNAL: usize = 512;
const WORKERS: usize = 1024;
/// Bytes.
const CONFIG: usize = 64 << 10;
/// Of each of two halves.
const CONFIG_SIZE: usize = 96 << 10;
/// Bytes, of the ring of log lines.
pub const LINES: usize = CONFIG + 2 * CONFIG_SIZE;
pub const LINES_SIZE: usize = 256 << 10;
const CONNECTIONS: usize = (LINES + LINES_SIZE) / 8;
const ROOMS: usize = CONNECTIONS + MAX_CONNECTIONS as usize * CONNECTION_WORDS;
const MEMBERS: usize = ROOMS + MAX_ROOMS as usize * ROOM_WORDS;
const KEYS: usize = MEMBERS + MAX_ROOMS as usize * MAX_RINGS as usize;
const USERS: usize = KEYS + MAX_KEYS as usize * KEY_WORDS;
const SPOKEN: usize = USERS + MAX_USERS as usize * USER_WORDS;
const FIGURES: usize = SPOKEN + MAX_SPOKEN as usize * SPOKEN_WORDS;
const EVENTS: usize = FIGURES + SEATS * row::FIGURES;
const ASKED: usize = EVENTS + MAX_EVENTS as usize * EVENT_WORDS;
const SIZE: usize = (ASKED + MAX_RINGS as usize * ASKED_WORDS) * 8;

/// Of what is asked with one record and done in several steps, for each ring.
pub const ASKED_WORDS: usize = 2 + 2 * api::MAX_ROOMS;

/// Seats, from 1 on, and one that is none.
const SEATS: usize = 65;
/// Events that are remembered.
pub const MAX_EVENTS: u64 = 32;
pub const EVENT_WORDS: usize = 3;

const _: () = assert!(Head::Last as usize <= PAGE);
const _: () = assert!(PAGE + Page::WORDS <= JOURNAL);
const _: () = assert!(JOURNAL + journal::WORDS <= WORKERS);
const _: () = assert!((WORKERS + MAX_RINGS as usize * WORKER_WORDS) * 8 <= CONFIG);
const _: () = assert!(SIZE / 8 <= u32::MAX as usize);

/// Single words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Head {
    Magic,
    Version,
    /// Of rooms that are new now; rises when it must not be met again.
    Epoch,
    /// The epoch at the cold start.
    FirstEpoch,
    /// Seconds since 1970.
    StartedAt,
    /// The next connection's number.
    NextCid,
    /// One more than the highest slot or room that was ever used.
    ConnectionsUsed,
    RoomsUsed,
    /// What is being worked on ([`crate::poison::InHand`]).
    InHandPlace,
    InHandAt,
    /// The place of the last death, and how many in a row were there.
    DeathPlace,
    DeathAt,
    Deaths,
    /// Of the workers' program, plus one.
    ProgramFd,
    /// Bytes of the configuration, times two, plus the half that it is in.
    ConfigLen,
    /// How many workers were ordered.
    Seats,
    /// 1: whoever started baton has been told that it serves.
    Booted,
    /// 1: a stop was ordered; 2: a fast one.
    Stopping,
    /// 1: a signal has ordered a reload that is not done.
    Reload,
    /// A bit for each seat that was given up, the first for seat 1.
    GivenUp,
    /// How many connections have gone from one worker to another, whole.
    Moved,
    /// How many keys of messages were ever remembered.
    Keys,
    /// One more than the highest block of users that was ever used.
    UsersUsed,
    /// The room of which a change is being told, plus one: its words are to follow.
    Telling,
    /// How many times somebody spoke in a room in slow mode.
    Spoken,
    /// The ring whose figures are being added to those of its seat, plus one, and how many are.
    Folding,
    /// How many events there were.
    Events,
    /// Reloads that were done, and that failed.
    Reloads,
    ReloadsFailed,
    /// Worker processes that ended and were not meant to.
    Losses,
    /// What was ordered over HTTP and is not done: 1: a reload; more: so many workers, times two; how
    /// often it was begun is above (from the 32nd bit).
    ApiOrder,
    /// Who waits for it: connection, place, and the request.
    ApiCid,
    ApiPlace,
    ApiId,
    /// First of one word for each seat: its lives so far.
    Lives,
    Last = Head::Lives as u32 + 65,
}

/// The mapped state, its journal, the log, and the rooms' history.
#[derive(Debug)]
pub struct State {
    segment: Arc<Segment>,
    log: Arc<Segment>,
    history: Arc<Segment>,
    journal: Journal,
}

impl State {
    /// A new one, with a log of so many bytes (a power of two). The epoch must be higher than any
    /// that a master before this one had: the time in milliseconds is.
    pub fn create(log_size: usize, epoch: u64) -> io::Result<State> {
        let segment = Segment::create(c"baton-master", SIZE)?;
        let log = Segment::create(c"baton-log", stream::segment_size(log_size))?;
        let state = State::over(segment, Arc::new(log), Arc::new(history::create()?));
        let set = |head: Head, value| {
            state
                .segment
                .word(head as usize)
                .store(value, Ordering::Relaxed)
        };
        set(Head::Version, VERSION);
        set(Head::Epoch, epoch);
        set(Head::FirstEpoch, epoch);
        set(Head::NextCid, 1);
        set(Head::Magic, MAGIC);
        Ok(state)
    }

    /// One that a guard before left.
    pub fn adopt(state: OwnedFd, log: OwnedFd, history: OwnedFd) -> io::Result<State> {
        let segment = Segment::map(state, Access::ReadWrite)?;
        let log = Segment::map(log, Access::ReadWrite)?;
        let history = Segment::map(history, Access::ReadWrite)?;
        recognise(&segment)?;
        if !Blocks::fits(&history) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(State::over(segment, Arc::new(log), Arc::new(history)))
    }

    /// The same for who only looks at it, while another goes on with it; the history is not for that.
    pub fn look(state: OwnedFd, log: OwnedFd) -> io::Result<State> {
        let segment = Segment::map(state, Access::Read)?;
        recognise(&segment)?;
        let log = Arc::new(Segment::map(log, Access::Read)?);
        Ok(State::over(segment, log.clone(), log))
    }

    fn over(segment: Segment, log: Arc<Segment>, history: Arc<Segment>) -> State {
        let segment = Arc::new(segment);
        let segments = vec![segment.clone(), log.clone(), history.clone()];
        State {
            journal: Journal::new(JOURNAL, segments),
            segment,
            log,
            history,
        }
    }

    /// For a new brain, before anything else: finishes what the last one had begun to change.
    pub fn recover(&self) -> Result<bool, Corrupt> {
        self.journal.recover()
    }

    /// The guard's page. A master's state is never dropped, which the leak states.
    #[must_use]
    pub fn page(&self) -> Page {
        let segment: &'static Segment = Box::leak(Box::new(self.segment.clone()));
        Page::new(segment.words(PAGE, Page::WORDS))
    }

    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    #[must_use]
    pub fn log(&self) -> &Arc<Segment> {
        &self.log
    }

    #[must_use]
    pub fn history(&self) -> &Arc<Segment> {
        &self.history
    }

    #[must_use]
    pub fn get(&self, word: Word) -> u64 {
        self.journal.load(word)
    }

    #[must_use]
    pub fn head(&self, head: Head) -> u64 {
        self.get(head.word())
    }

    /// One word by itself.
    pub fn set(&self, word: Word, value: u64) {
        let mut record = Record::new();
        record.set(word, value);
        self.commit(&mut record);
    }

    pub fn commit(&self, record: &mut Record) {
        self.journal.commit(record);
    }

    /// What was kept last for the brains and guards to come, as the caller encodes it.
    #[must_use]
    pub fn config(&self) -> Vec<u8> {
        let (half, len) = self.kept();
        let mut bytes = vec![0; len.min(CONFIG_SIZE)];
        self.segment
            .copy_out(CONFIG + half * CONFIG_SIZE, &mut bytes);
        bytes
    }

    /// Keeps it in the half that does not count, and then makes that half count.
    pub fn set_config(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > CONFIG_SIZE {
            return Err(io::Error::other("the configuration is too large"));
        }
        let other = 1 - self.kept().0;
        self.segment.copy_in(CONFIG + other * CONFIG_SIZE, bytes);
        let word = (bytes.len() << 1 | other) as u64;
        self.set(Head::ConfigLen.word(), word);
        Ok(())
    }

    /// Which half counts, and how many bytes of it.
    fn kept(&self) -> (usize, usize) {
        let word = self.head(Head::ConfigLen) as usize;
        (word & 1, word >> 1)
    }
}

/// Is this a state that this program can go on with?
fn recognise(segment: &Segment) -> io::Result<()> {
    let word = |head: Head| match segment.size() >= CONFIG {
        true => segment.word(head as usize).load(Ordering::Acquire),
        false => 0,
    };
    let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if word(Head::Magic) != MAGIC {
        return invalid("this is not a master's state".to_owned());
    }
    match word(Head::Version) {
        VERSION if segment.size() == SIZE => Ok(()),
        version => invalid(format!(
            "the state of the running master is laid out in version {version}, this program knows \
             version {VERSION}: it takes a restart"
        )),
    }
}

impl AsFd for State {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl Head {
    #[must_use]
    pub const fn word(self) -> Word {
        word(self as usize)
    }

    /// The lives of a seat.
    #[must_use]
    pub const fn lives(seat: u16) -> Word {
        word(Head::Lives as usize + seat as usize)
    }
}

/// Where the journal has the log's head.
pub const LOG_SEGMENT: u8 = 1;
/// Where it has the history.
const HISTORY_SEGMENT: u8 = 2;

const fn word(index: usize) -> Word {
    Word {
        segment: 0,
        index: index as u32,
    }
}

/// Word `field` of ring `ring`'s worker.
#[must_use]
pub const fn worker(ring: u16, field: usize) -> Word {
    word(WORKERS + ring as usize * WORKER_WORDS + field)
}

/// Word `field` of a connection.
#[must_use]
pub const fn connection(slot: u32, field: usize) -> Word {
    word(CONNECTIONS + slot as usize * CONNECTION_WORDS + field)
}

/// Word `field` of a room.
#[must_use]
pub const fn room(index: u32, field: usize) -> Word {
    word(ROOMS + index as usize * ROOM_WORDS + field)
}

/// Word `field` of the `number`th key that was remembered, until others have taken its place.
#[must_use]
pub const fn key(number: u64, field: usize) -> Word {
    word(KEYS + (number % MAX_KEYS as u64) as usize * KEY_WORDS + field)
}

/// Word `field` of a block of users.
#[must_use]
pub const fn user(block: u32, field: usize) -> Word {
    word(USERS + block as usize * USER_WORDS + field)
}

/// Word `field` of the place where it is remembered that somebody spoke.
#[must_use]
pub const fn spoken(number: u64, field: usize) -> Word {
    word(SPOKEN + (number % MAX_SPOKEN as u64) as usize * SPOKEN_WORDS + field)
}

/// What the workers of this seat that are gone had counted, as [`row::Figure`] names it.
#[must_use]
pub const fn figure(seat: u16, figure: usize) -> Word {
    word(FIGURES + seat as usize * row::FIGURES + figure)
}

/// Word `field` of the `number`th event, until others have taken its place.
#[must_use]
pub const fn event(number: u64, field: usize) -> Word {
    word(EVENTS + (number % MAX_EVENTS) as usize * EVENT_WORDS + field)
}

/// Word `field` of what has been done of a request of this ring's.
#[must_use]
pub const fn asked(ring: u16, field: usize) -> Word {
    word(ASKED + ring as usize * ASKED_WORDS + field)
}

/// Word `field` of a room, of those that workers see.
#[must_use]
pub const fn shared(index: u32, field: Field) -> Word {
    Word {
        segment: HISTORY_SEGMENT,
        index: history::word(index, field),
    }
}

/// Word `index` of those that say who is muted and banned.
#[must_use]
pub const fn sanction(index: usize) -> Word {
    Word {
        segment: HISTORY_SEGMENT,
        index: (history::SANCTIONS + index) as u32,
    }
}

/// Word `index` of the history.
#[must_use]
pub const fn retained(index: u32) -> Word {
    Word {
        segment: HISTORY_SEGMENT,
        index,
    }
}

/// What the worker of ring `ring` has in a room. Rows of one ring lie together: a ring that is not
/// used takes no memory.
#[must_use]
pub const fn members(ring: u16, room: u32) -> Word {
    word(MEMBERS + ring as usize * MAX_ROOMS as usize + room as usize)
}

/// How far ring `ring` has been read: in the log's header, where its worker can see it and nobody
/// but the master can write.
#[must_use]
pub const fn read_index(ring: u16) -> Word {
    Word {
        segment: LOG_SEGMENT,
        index: row::read_index(ring) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_brain_finds_what_was_set() {
        let state = State::create(4096, 7).unwrap();
        state.set(connection(MAX_CONNECTIONS - 1, 3), 5);
        state.set(members(MAX_RINGS - 1, MAX_ROOMS - 1), 6);
        state.set_config(b"{ }").unwrap();
        state.set_config(b"{}").unwrap();
        let fd = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        let [log, history] = [state.log(), state.history()].map(|s| fd(s.as_fd()));
        let next = State::adopt(fd(state.as_fd()), log, history).unwrap();
        assert_eq!(next.recover(), Ok(false));
        assert_eq!(next.get(connection(MAX_CONNECTIONS - 1, 3)), 5);
        assert_eq!(next.get(members(MAX_RINGS - 1, MAX_ROOMS - 1)), 6);
        assert_eq!(next.get(connection(0, 0)), 0);
        assert_eq!((next.head(Head::Epoch), next.config()), (7, b"{}".to_vec()));
    }

    #[test]
    fn a_state_of_another_version_is_said() {
        let state = State::create(4096, 7).unwrap();
        state.set(Head::Version.word(), VERSION + 1);
        let read_only = |s: &Segment| s.open_read_only().unwrap();
        let look = || State::look(read_only(state.segment()), read_only(state.log()));
        let error = look().unwrap_err().to_string();
        assert!(error.contains("restart"), "{error}");
        state.set(Head::Version.word(), VERSION);
        assert_eq!(look().unwrap().head(Head::Epoch), 7);
    }

    #[test]
    fn other_memory_is_not_taken_for_a_state() {
        let other = || Segment::create(c"x", 4096).unwrap();
        let fd = |s: Segment| s.as_fd().try_clone_to_owned().unwrap();
        assert!(State::adopt(fd(other()), fd(other()), fd(other())).is_err());
        assert!(State::look(fd(other()), fd(other())).is_err());
    }
}
