//! Who is in which room: users, each once however many connections it has and wherever they are.
//!
//! A worker says which users it has in a room and which not any more ([`Up::Users`]); a user is in the
//! room while some worker has it. That is kept in the state ([`entries`]), so that it outlives a brain,
//! and each worker can count anew without anybody seeming to leave: what it does not come to is gone
//! when it has come to the end. A worker that takes connections over says so before the other gives
//! them up, so that a move is no change either.
//!
//! Some members *watch* a room: they are given a list, and then what changes. For such a room each
//! entry says whether it has been told; what is told differs from what is so only by the changes of
//! the last second, so that who came and went within it is not spoken of (`telling`).
//!
//! A room is *large* when it has more users than are to be listed (or their names are too long). Then
//! only numbers are told, and when it has become smaller, the list anew. Above the budget users are
//! not listed either, and such a room has no number of users before it has been empty: it is large,
//! too.
//!
//! [`Up::Users`]: protocol::record::Up::Users

pub mod entries;
mod telling;

use protocol::journal::Record;
use protocol::names::{self, Names};
use protocol::record::Who;
use protocol::row::MAX_RINGS;
use protocol::settings;
use rustc_hash::FxHashMap;

use self::entries::{Entries, Entry, Full};
pub use self::telling::{Change, EVERY_MS};
use crate::ring_set::RingSet;
use crate::rooms;
use crate::state::{self, Head, State};

/// Bytes of names in one list or change at most.
const NAMES_BYTES: usize = 128 << 10;

// Words of a room.
/// Connections, and users + 1, as those who watch were told last.
const TOLD: usize = 5;
const FLAGS: usize = 6;

/// Names are not told.
const LARGE: u64 = 1;
/// Some users are not known: there was no room for them.
const PARTIAL: u64 = 2;

/// What this brain knows of a room that has users or is watched.
#[derive(Debug, Default)]
struct Room {
    /// Users up to which all are listed.
    listed: u32,
    entries: Vec<Entry>,
    present: u32,
    /// Bytes of the names of all entries.
    bytes: usize,
    /// Those that may differ from what has been told.
    changed: Vec<Entry>,
    watchers: RingSet,
    is_due: bool,
    /// Nothing is told before that.
    next: u64,
}

/// Where an entry is in its room's list.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    at: u32,
    /// It is among those that have changed.
    changed: bool,
}

/// What this brain knows of it; what must last is in the state.
#[derive(Debug)]
pub struct Present {
    settings: settings::Presence,
    entries: Entries,
    places: Vec<Listed>,
    rooms: FxHashMap<u32, Room>,
    /// Rooms in which there may be something to tell.
    due: Vec<u32>,
    /// Of the change that is being told.
    telling: Vec<Entry>,
    now_ms: u64,
}

impl Present {
    /// From what is in the state. `watchers`: rings whose workers have members who watch a room.
    #[must_use]
    pub fn recover(
        state: &State,
        settings: settings::Presence,
        budget: u64,
        now_ms: u64,
        watchers: impl Fn(u32) -> RingSet,
    ) -> Present {
        let (entries, found) = Entries::recover(state, budget);
        let mut present = Present {
            settings,
            entries,
            places: Vec::new(),
            rooms: FxHashMap::default(),
            due: Vec::new(),
            telling: Vec::new(),
            now_ms,
        };
        for index in 0..rooms::used(state) {
            let watchers = watchers(index);
            if watchers != RingSet::NONE {
                let room = present.room(state, index);
                room.watchers = watchers;
                // It may have been told a moment ago.
                room.next = now_ms + EVERY_MS;
                present.note(index);
            }
        }
        let told = state.head(Head::Telling);
        for entry in found {
            let index = entry.room(state);
            if !rooms::exists(state, index) {
                present.entries.remove(state, entry);
                continue;
            }
            if entry.is_telling(state) {
                match told == u64::from(index) + 1 {
                    true => entry.settle(state),
                    false => entry.forget_telling(state),
                }
            }
            present.enter(state, entry);
            present.consider(state, entry);
        }
        if told != 0 {
            state.set(Head::Telling.word(), 0);
        }
        present
    }

    /// From now on these count.
    pub fn configure(&mut self, state: &State, settings: settings::Presence, budget: u64) {
        self.settings = settings;
        self.entries.set_budget(budget);
        let rooms: Vec<u32> = self.rooms.keys().copied().collect();
        for index in rooms {
            let listed = self.settings.of(&rooms::name(state, index));
            self.room(state, index).listed = listed;
            if listed == 0 {
                for entry in self.rooms[&index].entries.clone() {
                    self.clear(state, entry);
                }
            }
            self.note(index);
        }
    }

    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.bytes()
    }

    /// The worker of this ring has these users in the room now, and these not any more.
    pub fn users(
        &mut self,
        state: &State,
        ring: u16,
        index: u32,
        came: Names<'_>,
        gone: Names<'_>,
    ) {
        if self.room(state, index).listed == 0 {
            return self.leave_if_unused(index);
        }
        for name in gone.iter() {
            if let Some(entry) = self.entries.find(state, index, name) {
                self.set(state, entry, ring, false);
            }
        }
        for name in came.iter() {
            let known = self.entries.find(state, index, name);
            match known.map_or_else(|| self.add(state, index, name), Ok) {
                Ok(entry) => self.set(state, entry, ring, true),
                Err(Full) => self.overflows(state, index),
            }
        }
        self.leave_if_unused(index);
    }

    fn add(&mut self, state: &State, index: u32, name: &[u8]) -> Result<Entry, Full> {
        let entry = self.entries.add(state, index, name)?;
        self.enter(state, entry);
        Ok(entry)
    }

    fn set(&mut self, state: &State, entry: Entry, ring: u16, has: bool) {
        let before = entry.is_present(state);
        let index = entry.room(state);
        entry.set_ring(state, ring, has);
        let now = entry.is_present(state);
        if before != now {
            let room = self.room(state, index);
            room.present = room.present + u32::from(now) - u32::from(before);
            self.consider(state, entry);
        }
    }

    fn overflows(&mut self, state: &State, index: u32) {
        if flags(state, index) & PARTIAL == 0 {
            let name = rooms::name(state, index);
            log::warn!(
                "there is no room for all users of \"{}\" (memory.presence)",
                name.escape_ascii()
            );
            state.set(state::room(index, FLAGS), flags(state, index) | PARTIAL);
            self.note(index);
        }
    }

    /// Nobody is in the room: who comes now can be known from the first on.
    pub fn emptied(&mut self, state: &State, index: u32) {
        let flags = flags(state, index);
        if flags & PARTIAL != 0 {
            state.set(state::room(index, FLAGS), flags & !PARTIAL);
        }
    }

    /// The worker of this ring counts anew.
    pub fn forget_row(&mut self, state: &State, ring: u16) {
        for entry in self.entries.all(state) {
            entry.doubt(state, ring);
        }
    }

    /// The worker of this ring is gone, or, with `stale_only`, has counted anew: it has no other users.
    pub fn drop_row(&mut self, state: &State, ring: u16, stale_only: bool) {
        for entry in self.entries.all(state) {
            if entry.has_ring(state, ring) && (!stale_only || entry.is_doubted(state, ring)) {
                self.set(state, entry, ring, false);
            }
        }
        if !stale_only {
            let watched =
                |(index, room): (&u32, &Room)| room.watchers.contains(ring).then_some(*index);
            let rooms: Vec<u32> = self.rooms.iter().filter_map(watched).collect();
            for index in rooms {
                self.set_watched(state, index, ring, false);
            }
        }
        // It had connections in some rooms, of users who have others there.
        let rooms: Vec<u32> = self.rooms.keys().copied().collect();
        rooms.into_iter().for_each(|index| self.note(index));
    }

    /// The room is not there any more.
    pub fn drop_room(&mut self, state: &State, index: u32) {
        if let Some(room) = self.rooms.remove(&index) {
            for entry in room.entries {
                self.places[entry.0 as usize] = Listed::default();
                self.entries.remove(state, entry);
            }
        }
    }

    /// Who is in the room now, up to `limit` of them: all, or some from place `from` on.
    pub fn some<'a>(
        &self,
        state: &State,
        index: u32,
        total: u32,
        limit: u32,
        from: u64,
        bytes: &'a mut Vec<u8>,
    ) -> Who<'a> {
        let listed = self.settings.of(&rooms::name(state, index));
        let users = (listed > 0).then(|| {
            let entries = self.rooms.get(&index).map_or(&[][..], |room| &room.entries);
            let from = (from % (entries.len().max(1) as u64)) as usize;
            let (behind, first) = entries.split_at(from);
            let present = first.iter().chain(behind).filter(|e| e.is_present(state));
            for entry in present.take(limit as usize) {
                if bytes.len() > NAMES_BYTES {
                    break;
                }
                names::put(bytes, &entry.name(state));
            }
            Names::read(bytes).unwrap_or_default()
        });
        Who {
            total,
            distinct: self.distinct(state, index),
            users,
        }
    }

    /// Who is in a room that is not there.
    #[must_use]
    pub fn nobody(&self, room: &[u8]) -> Who<'static> {
        let is_known = self.settings.of(room) > 0;
        Who {
            total: 0,
            distinct: is_known.then_some(0),
            users: is_known.then(Names::default),
        }
    }

    /// How many users are in the room, if all are known.
    #[must_use]
    pub fn distinct(&self, state: &State, index: u32) -> Option<u32> {
        let is_known = match self.rooms.get(&index) {
            Some(room) => room.listed > 0,
            None => self.settings.of(&rooms::name(state, index)) > 0,
        };
        let present = self.rooms.get(&index).map_or(0, |room| room.present);
        (is_known && flags(state, index) & PARTIAL == 0).then_some(present)
    }

    /// It may differ from what has been told now, or not any more.
    fn consider(&mut self, state: &State, entry: Entry) {
        let index = entry.room(state);
        let is_named = self.watchers(index) != RingSet::NONE && flags(state, index) & LARGE == 0;
        if !is_named {
            entry.settle(state);
            self.rest(state, entry);
        } else if entry.is_told(state) != entry.is_present(state) {
            let place = &mut self.places[entry.0 as usize];
            if !std::mem::replace(&mut place.changed, true) {
                self.room(state, index).changed.push(entry);
            }
        } else if !self.places[entry.0 as usize].changed {
            self.rest(state, entry);
        }
        self.note(index);
    }

    /// It is not among those that have changed any more; and if it is gone, and that is known, it is
    /// no more.
    fn rest(&mut self, state: &State, entry: Entry) {
        self.places[entry.0 as usize].changed = false;
        if entry.is_present(state) || entry.is_told(state) {
            return;
        }
        let index = entry.room(state);
        let at = std::mem::take(&mut self.places[entry.0 as usize]).at as usize;
        if let Some(room) = self.rooms.get_mut(&index) {
            room.bytes -= entry.len(state) as usize;
            room.entries.swap_remove(at);
            if let Some(moved) = room.entries.get(at) {
                self.places[moved.0 as usize].at = at as u32;
            }
        }
        self.entries.remove(state, entry);
    }

    /// It is in nobody's hands any more.
    fn clear(&mut self, state: &State, entry: Entry) {
        for ring in (0..MAX_RINGS).filter(|ring| entry.has_ring(state, *ring)) {
            self.set(state, entry, ring, false);
        }
    }

    /// Into its room's list.
    fn enter(&mut self, state: &State, entry: Entry) {
        let index = entry.room(state);
        let room = self.room(state, index);
        let at = room.entries.len() as u32;
        room.entries.push(entry);
        room.bytes += entry.len(state) as usize;
        room.present += u32::from(entry.is_present(state));
        let block = entry.0 as usize;
        if self.places.len() <= block {
            self.places.resize(block + 1, Listed::default());
        }
        self.places[block] = Listed { at, changed: false };
    }

    fn room(&mut self, state: &State, index: u32) -> &mut Room {
        self.rooms.entry(index).or_insert_with(|| Room {
            listed: self.settings.of(&rooms::name(state, index)),
            ..Room::default()
        })
    }

    fn leave_if_unused(&mut self, index: u32) {
        let is_unused = |room: &Room| room.entries.is_empty() && room.watchers == RingSet::NONE;
        if self.rooms.get(&index).is_some_and(is_unused) {
            self.rooms.remove(&index);
        }
    }
}

fn flags(state: &State, index: u32) -> u64 {
    state.get(state::room(index, FLAGS))
}

/// For a room that is new: nothing of the one before it.
pub fn begin_room(record: &mut Record, index: u32) {
    record.set(state::room(index, TOLD), 0);
    record.set(state::room(index, FLAGS), 0);
}
