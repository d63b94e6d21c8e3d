//! The master's room table: a name has an index, an epoch, the offset of its last message, and how
//! many connections of each worker are in it.
//!
//! All that must last is in the [state](crate::state); what is kept here (names to indexes, what may
//! go, what has changed) is rebuilt from it. Nothing is committed here but evictions: changes go
//! into the caller's record, so that they happen with what caused them.
//!
//! The table is bounded. A room that some worker holds is never evicted; of the others, the one
//! that was longest out of use goes first, and should it return, it has a new epoch.

mod ranking;

use std::collections::HashMap;

use protocol::history::Field;
use protocol::ids::Position;
use protocol::journal::{Record, Word};
use protocol::row::MAX_RINGS;

use crate::lru::Lru;
use crate::present;
use crate::ring_set::RingSet;
use crate::state::{self, Head, State};
use ranking::Ranking;

/// Bytes of a room's name at most.
pub const MAX_NAME: usize = 200;

// Words of a room. Its epoch (0: nothing here) and the offset of its last message are where workers
// see them.
const TOTALS: usize = 2; // holders, members
const NAME_LEN: usize = 3;
const TOLD: usize = 4; // members, as was last told
// 5 and 6 are what those who watch it were told (present.rs).
const NAME: usize = 7;

const _: () = assert!((state::ROOM_WORDS - NAME) * 8 >= MAX_NAME);

/// In a member word: the worker holds the room, with so many members.
const HELD: u64 = 1 << 32;
/// The worker counts anew; until it comes to this room, or to its end, what it had counted holds.
const STALE: u64 = 1 << 33;
/// Some of the members want to hear who comes and goes.
const WATCHED: u64 = 1 << 34;

/// All indexes in use are taken by rooms that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// What is kept beside the table, to find things in it.
#[derive(Debug)]
pub struct Rooms {
    capacity: u32,
    by_name: HashMap<Box<[u8]>, u32>,
    /// Rooms in use that nobody holds, the longest unused first.
    unheld: Lru,
    /// Below the highest that was used.
    free: Vec<u32>,
    /// Rooms whose number of members has changed since it was told.
    changed: Vec<u32>,
    is_changed: Vec<bool>,
    /// Who holds a room, by its index.
    holders: Vec<RingSet>,
    /// Evicted lately.
    evicted: Vec<u32>,
    ranking: Ranking,
}

impl Rooms {
    /// From what is in the state; `capacity` rooms at most from now on.
    #[must_use]
    pub fn recover(state: &State, capacity: u32) -> Rooms {
        let mut rooms = Rooms {
            capacity: capacity.min(state::MAX_ROOMS),
            by_name: HashMap::new(),
            unheld: Lru::default(),
            free: Vec::new(),
            changed: Vec::new(),
            is_changed: Vec::new(),
            holders: Vec::new(),
            evicted: Vec::new(),
            ranking: Ranking::recover(state),
        };

        for index in 0..used(state) {
            if state.get(epoch_of(index)) == 0 {
                rooms.free.push(index);
                continue;
            }
            rooms.by_name.insert(name(state, index), index);
            let (holders, members) = totals(state, index);
            if holders == 0 {
                rooms.unheld.touch(index);
            }
            let holds = |ring: &u16| state.get(state::members(*ring, index)) != 0;
            // Rows behind the last holder's are not looked at: that would cost their memory.
            for ring in (0..MAX_RINGS).filter(holds).take(holders as usize) {
                rooms.note_holder(ring, index, true);
            }
            if u64::from(members) != state.get(state::room(index, TOLD)) {
                rooms.note_change(index);
            }
        }
        rooms
    }

    pub fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity.min(state::MAX_ROOMS);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The names of all there are.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.by_name.keys().map(|name| &**name)
    }

    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The room of this name, which is new if there was none. What makes it is in `record`, except
    /// that another room may have been evicted for it.
    pub fn open(
        &mut self,
        state: &State,
        record: &mut Record,
        name: &[u8],
    ) -> Result<u32, TableFull> {
        if let Some(index) = self.find(name) {
            if self.unheld.contains(index) {
                self.unheld.touch(index);
            }
            return Ok(index);
        }
        let index = self.unused(state, record)?;
        // Nobody looks at the name before the epoch says that there is a room.
        for (i, chunk) in name.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            state.set(state::room(index, NAME + i), u64::from_le_bytes(bytes));
        }
        record.set(epoch_of(index), state.head(Head::Epoch));
        record.set(offset_of(index), 0);
        record.set(state::room(index, TOTALS), 0);
        record.set(state::room(index, NAME_LEN), name.len() as u64);
        record.set(state::room(index, TOLD), 0);
        present::begin_room(record, index);
        self.by_name.insert(name.into(), index);
        self.unheld.touch(index);
        Ok(index)
    }

    /// The place of the room's last message. A room that `open` has just made is not in the state
    /// before its record is committed.
    #[must_use]
    pub fn position(&self, state: &State, record: &Record, room: u32) -> Position {
        Position {
            epoch: latest(state, record, epoch_of(room)),
            offset: latest(state, record, offset_of(room)),
        }
    }

    /// The room's last message is at this offset now.
    pub fn advance(&self, record: &mut Record, room: u32, offset: u64) {
        record.set(offset_of(room), offset);
    }

    /// The worker of this ring holds the room from now on.
    pub fn hold(&mut self, state: &State, record: &mut Record, ring: u16, room: u32) {
        let word = state.get(state::members(ring, room));
        self.put(state, record, ring, room, (word | HELD) & !STALE);
    }

    /// The worker of this ring has members who want to hear who comes and goes, or will have.
    pub fn watch(&mut self, state: &State, record: &mut Record, ring: u16, room: u32) {
        let word = state.get(state::members(ring, room));
        self.put(state, record, ring, room, (word | HELD | WATCHED) & !STALE);
    }

    /// The worker of this ring has so many members in the room; 0: it holds it no more. False: there
    /// is no such room.
    #[must_use]
    pub fn members(
        &mut self,
        state: &State,
        record: &mut Record,
        ring: u16,
        room: u32,
        count: u32,
        watched: bool,
    ) -> bool {
        let exists = exists(state, room);
        if exists {
            let watched = if watched { WATCHED } else { 0 };
            let word = match count {
                0 => 0,
                count => HELD | watched | u64::from(count),
            };
            self.put(state, record, ring, room, word);
        }
        exists
    }

    /// Workers with members in the room who want to hear who comes and goes.
    #[must_use]
    pub fn watchers(&self, state: &State, room: u32) -> RingSet {
        let mut watchers = RingSet::NONE;
        let holders = self.holders(room);
        if holders != RingSet::NONE {
            let watches = |ring: &u16| {
                holders.contains(*ring) && state.get(state::members(*ring, room)) & WATCHED != 0
            };
            let rings = (0..MAX_RINGS).filter(watches);
            rings.for_each(|ring| watchers.insert(ring));
        }
        watchers
    }

    /// The rooms with the most connections, the largest first, with how many these were when it was told
    /// last; but for the first `from`, and those of users and of baton itself.
    pub fn largest(
        &self,
        state: &State,
        from: usize,
        most: usize,
    ) -> impl Iterator<Item = (Box<[u8]>, u32)> {
        let largest = self.ranking.largest(from).take(most);
        largest.map(|(room, members)| (name(state, room), members))
    }

    /// Workers that have members in the room, or will have: they are to hear what is said there.
    #[must_use]
    pub fn holders(&self, room: u32) -> RingSet {
        self.holders.get(room as usize).copied().unwrap_or_default()
    }

    /// How many connections are in the room, on all workers together.
    #[must_use]
    pub fn total(&self, state: &State, room: u32) -> u32 {
        totals(state, room).1
    }

    /// How many there will be when the record is committed.
    #[must_use]
    pub fn total_in(&self, state: &State, record: &Record, room: u32) -> u32 {
        unpack(latest(state, record, state::room(room, TOTALS))).1
    }

    /// The worker of this ring counts anew: what it had counts until it comes to it, or until
    /// [`drop_row`](Rooms::drop_row) with `stale_only`. So nobody seems to leave, and no index changes
    /// its meaning while it counts.
    pub fn forget_row(&mut self, state: &State, ring: u16) {
        self.rewrite_row(state, ring, |word| word | STALE);
    }

    /// The worker of this ring is gone (or, with `stale_only`, has counted anew): it holds nothing
    /// more of what it held.
    pub fn drop_row(&mut self, state: &State, ring: u16, stale_only: bool) {
        self.rewrite_row(state, ring, |word| {
            if stale_only && word & STALE == 0 {
                word
            } else {
                0
            }
        });
    }

    /// Each room by itself: one that is killed in between goes on where it was.
    fn rewrite_row(&mut self, state: &State, ring: u16, to: impl Fn(u64) -> u64) {
        let mut record = Record::new();
        for room in 0..used(state) {
            let word = state.get(state::members(ring, room));
            if word != 0 && to(word) != word {
                self.put(state, &mut record, ring, room, to(word));
                state.commit(&mut record);
            }
        }
    }

    /// Rooms whose number has changed since it was told last, with the number; up to `limit` of
    /// them. What is taken here is to be told with [`told`](Rooms::told) in the record.
    pub fn take_changed(&mut self, state: &State, limit: usize) -> Vec<(u32, u32)> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(room) = self.changed.pop()
        {
            self.is_changed[room as usize] = false;
            let (_, members) = totals(state, room);
            if u64::from(members) != state.get(state::room(room, TOLD)) {
                taken.push((room, members));
            }
        }
        taken
    }

    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    pub fn told(&mut self, state: &State, record: &mut Record, room: u32, members: u32) {
        self.ranking.change(state, room, members);
        record.set(state::room(room, TOLD), members.into());
    }

    fn note_holder(&mut self, ring: u16, room: u32, holds: bool) {
        let room = room as usize;
        if room >= self.holders.len() {
            self.holders.resize(room + 1, RingSet::NONE);
        }
        match holds {
            true => self.holders[room].insert(ring),
            false => self.holders[room].remove(ring),
        }
    }

    /// The worker's word in a room, and the room's totals with it.
    fn put(&mut self, state: &State, record: &mut Record, ring: u16, room: u32, new: u64) {
        debug_assert!(ring < MAX_RINGS);
        let old = state.get(state::members(ring, room));
        let (mut holders, mut members) = unpack(latest(state, record, state::room(room, TOTALS)));
        holders = holders - u32::from(old != 0) + u32::from(new != 0);
        members = members.wrapping_sub(old as u32).wrapping_add(new as u32);
        record.set(state::members(ring, room), new);
        self.note_holder(ring, room, new != 0);
        record.set(
            state::room(room, TOTALS),
            u64::from(holders) << 32 | u64::from(members),
        );
        if holders == 0 {
            self.unheld.touch(room);
        } else {
            self.unheld.remove(room);
        }
        if old as u32 != new as u32 {
            self.note_change(room);
        }
    }

    fn note_change(&mut self, room: u32) {
        let index = room as usize;
        if self.is_changed.len() <= index {
            self.is_changed.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.is_changed[index], true) {
            self.changed.push(room);
        }
    }

    /// An index for a new room.
    fn unused(&mut self, state: &State, record: &mut Record) -> Result<u32, TableFull> {
        if self.by_name.len() >= self.capacity as usize {
            self.evict(state)?;
        }
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        let index = used(state);
        record.set(Head::RoomsUsed.word(), u64::from(index) + 1);
        Ok(index)
    }

    /// Rooms that are not there any more, since this was asked last: what belongs to them goes before
    /// another takes the place.
    pub fn take_evicted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.evicted)
    }

    /// In a record of its own: from here on the room's words are free to be written.
    fn evict(&mut self, state: &State) -> Result<(), TableFull> {
        let room = self.unheld.oldest().ok_or(TableFull)?;
        let mut record = Record::new();
        let epoch = state.head(Head::Epoch);
        if state.get(epoch_of(room)) == epoch {
            // Should it return, then under an epoch that it never had.
            record.set(Head::Epoch.word(), epoch + 1);
        }
        record.set(epoch_of(room), 0);
        self.ranking.change(state, room, 0);
        record.set(state::room(room, TOLD), 0);
        let name = name(state, room);
        state.commit(&mut record);
        self.by_name.remove(&name);
        self.unheld.remove(room);
        self.free.push(room);
        self.evicted.push(room);
        Ok(())
    }
}

/// The words behind these are rooms' that are or were there.
pub fn used(state: &State) -> u32 {
    (state.head(Head::RoomsUsed) as u32).min(state::MAX_ROOMS)
}

/// Is there such a room?
pub fn exists(state: &State, room: u32) -> bool {
    room < used(state) && state.get(epoch_of(room)) != 0
}

/// A room's name.
pub fn name(state: &State, room: u32) -> Box<[u8]> {
    let len = (state.get(state::room(room, NAME_LEN)) as usize).min(MAX_NAME);
    let words = (0..len.div_ceil(8)).map(|i| state.get(state::room(room, NAME + i)));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).take(len).collect();
    bytes.into()
}

fn epoch_of(room: u32) -> Word {
    state::shared(room, Field::Epoch)
}

fn offset_of(room: u32) -> Word {
    state::shared(room, Field::Last)
}

/// Holders and members.
fn totals(state: &State, room: u32) -> (u32, u32) {
    unpack(state.get(state::room(room, TOTALS)))
}

fn unpack(totals: u64) -> (u32, u32) {
    ((totals >> 32) as u32, totals as u32)
}

/// The word as it will be when the record is committed.
pub fn latest(state: &State, record: &Record, word: Word) -> u64 {
    let mut pairs = record.pairs().iter().rev();
    pairs
        .find(|(w, _)| *w == word)
        .map_or_else(|| state.get(word), |(_, value)| *value)
}

#[cfg(test)]
#[path = "rooms_tests.rs"]
mod tests;
