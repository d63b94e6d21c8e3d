//! What is told to those who watch a room: the list, and then what changes.
//!
//! What has been told is marked at each entry, and its numbers are words of the room. A change and the
//! entries that it tells of agree whatever dies: they are marked first, the step that puts the change
//! into the log names the room, and then the marks are cashed in, by this brain or the next.

use protocol::journal::Record;
use protocol::names::{self, Names};
use protocol::record::Who;

use super::{FLAGS, LARGE, NAMES_BYTES, Present, TOLD, flags};
use crate::ring_set::RingSet;
use crate::rooms::latest;
use crate::state::{self, Head, State};

/// Who watches a room is told of changes once in so long at most.
pub const EVERY_MS: u64 = 1_000;

/// What is to be told to those who watch a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Numbers,
    /// Who came, and who went.
    Names(Vec<u8>, Vec<u8>),
    /// It is small again: all who are in it.
    List(Vec<u8>),
}

impl Present {
    /// Whether the worker of this ring has members who watch the room.
    pub fn set_watched(&mut self, state: &State, index: u32, ring: u16, watched: bool) {
        let is_known = self
            .rooms
            .get(&index)
            .map(|room| room.watchers.contains(ring));
        if is_known.unwrap_or(false) == watched {
            return;
        }
        let room = self.room(state, index);
        match watched {
            true => room.watchers.insert(ring),
            false => room.watchers.remove(ring),
        }
        if room.watchers == RingSet::NONE {
            self.settle_changed(state, index);
        }
        self.leave_if_unused(index);
    }

    /// Workers with members who watch the room.
    #[must_use]
    pub fn watchers(&self, index: u32) -> RingSet {
        let room = self.rooms.get(&index);
        room.map_or(RingSet::NONE, |room| room.watchers)
    }

    /// For the first who watches the room: the words by which changes are told from there on.
    pub fn begin_to_watch(&mut self, state: &State, record: &mut Record, index: u32, total: u32) {
        if self.watchers(index) != RingSet::NONE {
            return;
        }
        let flags = flags(state, index);
        let large = if self.is_large(state, index) {
            LARGE
        } else {
            0
        };
        record.set(state::room(index, FLAGS), flags & !LARGE | large);
        record.set(state::room(index, TOLD), self.numbers(state, index, total));
        // It is due a while after this at the soonest.
        let next = self.now_ms + EVERY_MS;
        self.room(state, index).next = next;
    }

    /// Who is in the room, as those who watch it know it: to this apply the changes that are told from
    /// here on. `bytes` is for the names.
    pub fn told<'a>(
        &self,
        state: &State,
        record: &Record,
        index: u32,
        bytes: &'a mut Vec<u8>,
    ) -> Who<'a> {
        let flags = latest(state, record, state::room(index, FLAGS));
        let numbers = latest(state, record, state::room(index, TOLD));
        let (total, distinct) = (numbers as u32, ((numbers >> 32) as u32).checked_sub(1));
        let users = (flags & LARGE == 0 && distinct.is_some()).then(|| {
            if let Some(room) = self.rooms.get(&index) {
                let told = room.entries.iter().filter(|entry| entry.is_told(state));
                told.for_each(|entry| names::put(bytes, &entry.name(state)));
            }
            Names::read(bytes).unwrap_or_default()
        });
        Who {
            total,
            distinct,
            users,
        }
    }

    /// Something has changed in a room, which those who watch it are to be told.
    pub fn note(&mut self, index: u32) {
        if let Some(room) = self.rooms.get_mut(&index)
            && room.watchers != RingSet::NONE
            && !std::mem::replace(&mut room.is_due, true)
        {
            self.due.push(index);
        }
    }

    /// Is there something to be told, now or later?
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.due.is_empty()
    }

    /// Rooms of which something is to be told now, up to `limit` of them.
    pub fn take_due(&mut self, limit: usize) -> Vec<u32> {
        let (rooms, now) = (&mut self.rooms, self.now_ms);
        let mut taken = Vec::new();
        self.due.retain(|index| {
            let Some(room) = rooms.get_mut(index) else {
                return false;
            };
            let is_now = room.next <= now && taken.len() < limit;
            if is_now {
                room.is_due = false;
                taken.push(*index);
            }
            !is_now
        });
        taken
    }

    /// What is to be told of the room, if anything is: it is put into the record that appends it to
    /// the log; then [`finish`](Present::finish).
    pub fn change(
        &mut self,
        state: &State,
        record: &mut Record,
        index: u32,
        total: u32,
    ) -> Option<Change> {
        if self.watchers(index) == RingSet::NONE {
            return None;
        }
        let was_large = flags(state, index) & LARGE != 0;
        let is_large = self.is_large(state, index);
        let numbers = self.numbers(state, index, total);
        let differ = state.get(state::room(index, TOLD)) != numbers;
        let change = match (was_large, is_large) {
            (false, false) => self.names(state, index),
            (true, false) => {
                let mut all = Vec::new();
                let entries = &self.rooms.get(&index)?.entries;
                let names = entries.iter().map(|entry| entry.name(state));
                names.for_each(|name| names::put(&mut all, &name));
                Some(Change::List(all))
            }
            (false, true) => Some(Change::Numbers),
            (true, true) => None,
        };
        let change = change.or_else(|| {
            let nobody = || Change::Names(Vec::new(), Vec::new());
            differ.then(|| if is_large { Change::Numbers } else { nobody() })
        })?;
        if was_large != is_large {
            let large = if is_large { LARGE } else { 0 };
            let flags = flags(state, index) & !LARGE | large;
            record.set(state::room(index, FLAGS), flags);
        }
        record.set(state::room(index, TOLD), numbers);
        if !self.telling.is_empty() {
            record.set(Head::Telling.word(), u64::from(index) + 1);
        }
        let next = self.now_ms + EVERY_MS;
        self.room(state, index).next = next;
        Some(change)
    }

    /// The record with the change of this room is committed.
    pub fn finish(&mut self, state: &State, index: u32) {
        if !self.telling.is_empty() {
            for entry in std::mem::take(&mut self.telling) {
                entry.settle(state);
                self.rest(state, entry);
            }
            state.set(Head::Telling.word(), 0);
        }
        if flags(state, index) & LARGE != 0 {
            self.settle_changed(state, index);
        }
        self.leave_if_unused(index);
    }

    /// Who differs from what has been told, marked, as far as that goes into one change.
    fn names(&mut self, state: &State, index: u32) -> Option<Change> {
        let changed = std::mem::take(&mut self.rooms.get_mut(&index)?.changed);
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        let mut later = Vec::new();
        for entry in changed {
            let is_present = entry.is_present(state);
            if is_present == entry.is_told(state) {
                self.rest(state, entry);
            } else if came.len() + gone.len() > NAMES_BYTES {
                later.push(entry);
            } else {
                entry.begin_telling(state);
                self.telling.push(entry);
                let names = if is_present { &mut came } else { &mut gone };
                names::put(names, &entry.name(state));
            }
        }
        if !later.is_empty() {
            self.rooms.get_mut(&index)?.changed = later;
            self.note(index);
        }
        (!self.telling.is_empty()).then_some(Change::Names(came, gone))
    }

    /// Above a size no names are told; it takes a good deal fewer until they are again.
    fn is_large(&self, state: &State, index: u32) -> bool {
        let flags = flags(state, index);
        if self.distinct(state, index).is_none() {
            return true;
        }
        let part = |most: usize| match flags & LARGE {
            0 => most,
            _ => most - most / 4,
        };
        self.rooms.get(&index).is_some_and(|room| {
            room.present as usize > part(room.listed as usize)
                || room.bytes + room.entries.len() > part(NAMES_BYTES)
        })
    }

    /// As in the word of what was told.
    fn numbers(&self, state: &State, index: u32, total: u32) -> u64 {
        let distinct = self.distinct(state, index);
        u64::from(total) | distinct.map_or(0, |n| u64::from(n) + 1) << 32
    }

    /// Nobody is to be told of what has changed there.
    fn settle_changed(&mut self, state: &State, index: u32) {
        let Some(room) = self.rooms.get_mut(&index) else {
            return;
        };
        for entry in std::mem::take(&mut room.changed) {
            entry.settle(state);
            self.rest(state, entry);
        }
    }
}
