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
//! the last second, so that who came and went within it is not spoken of. A change and the
//! entries that it tells of agree whatever dies: they are marked first, the step that puts the change
//! into the log names the room, and then the marks are cashed in, by this brain or the next.
//!
//! A room is *large* when it has more users than are to be listed (or their names are too long). Then
//! only numbers are told, and when it has become smaller, the list anew. Above the budget users are
//! not listed either, and such a room has no number of users before it has been empty: it is large,
//! too.
//!
//! [`Up::Users`]: protocol::record::Up::Users

pub mod entries;

use protocol::journal::Record;
use protocol::names::{self, Names};
use protocol::record::Who;
use protocol::row::MAX_RINGS;
use protocol::settings;
use rustc_hash::FxHashMap;

use self::entries::{Entries, Entry, Full};
use crate::ring_set::RingSet;
use crate::rooms::{self, latest};
use crate::state::{self, Head, State};

/// Who watches a room is told of changes once in so long at most.
pub const EVERY_MS: u64 = 1_000;

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

/// What is to be told to those who watch a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Numbers,
    /// Who came, and who went.
    Names(Vec<u8>, Vec<u8>),
    /// It is small again: all who are in it.
    List(Vec<u8>),
}

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
