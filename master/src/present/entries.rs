//! The users in all rooms, as they lie in the state: a block of words for each user in each room, and
//! another for the rest of a long name.
//!
//! Which of a user's connections are where is not known here, only which workers have any. Each fact
//! is one store, and facts may be noted twice, so no journal is needed: what a record of a ring says
//! is noted before the record counts as read, and again by the next brain if this one dies in between.
//! A new entry is staged in a block that is nobody's and made valid by one store, too.

use std::collections::hash_map::{Entry as Place, RandomState};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::Ordering;

use protocol::row::MAX_RINGS;
use rustc_hash::FxHashMap;

use crate::state::{self, Head, MAX_USERS, State, USER_WORDS};

// Words of an entry's first block; of a further one, the first is 0 and the name goes on behind it.
/// Valid (1), flags, length of the name (8 bits from 8 on), room (from 32 on).
const WHO: usize = 0;
/// The block with the rest of the name, plus one.
const NEXT: usize = 1;
/// Workers that have a connection of the user, a bit for each ring: two words.
const RINGS: usize = 2;
/// Those of them that are counting anew and have not come to it.
const STALE: usize = 4;
const NAME: usize = 6;
const MORE: usize = 2;

const VALID: u64 = 1;
/// Who watches the room has been told that it is in it.
const TOLD: u64 = 2;
/// Part of the change that is being told.
const TELLING: u64 = 4;

const FIRST_BYTES: usize = (USER_WORDS - NAME) * 8;
const MORE_BYTES: usize = (USER_WORDS - MORE) * 8;

const _: () = assert!(MAX_RINGS <= 128);

/// A user's place in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(pub u32);

/// There is no room for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The blocks: which are used, and by whom.
#[derive(Debug)]
pub struct Entries {
    /// Blocks in use at most.
    budget: u32,
    used: u32,
    high: u32,
    free: Vec<u32>,
    /// By the hash of room and name. Nobody outside can know which of them would be the same; should
    /// two ever be, the second is treated as one too many.
    index: FxHashMap<u64, u32>,
    hasher: RandomState,
}

impl Entries {
    /// Those in the state, with what each of them is: valid ones with a name that is one.
    #[must_use]
    pub fn recover(state: &State, budget: u64) -> (Entries, Vec<Entry>) {
        let high = (state.head(Head::UsersUsed) as u32).min(MAX_USERS);
        let mut entries = Entries {
            budget: 0,
            used: 0,
            high,
            free: Vec::new(),
            index: FxHashMap::default(),
            hasher: RandomState::new(),
        };
        entries.set_budget(budget);
        let mut taken = vec![false; high as usize];
        let mut found = Vec::new();
        for block in 0..high {
            let entry = Entry(block);
            if load(state, block, WHO) & VALID == 0 {
                continue;
            }
            let chain = chain(state, entry);
            let hash = entries.hash(entry.room(state), &entry.name(state));
            let sound = chain
                .iter()
                .all(|block| taken.get(*block as usize) == Some(&false))
                && std::str::from_utf8(&entry.name(state)).is_ok_and(|name| !name.is_empty());
            if sound && let Place::Vacant(place) = entries.index.entry(hash) {
                place.insert(block);
                entries.used += chain.len() as u32;
                chain.iter().for_each(|block| taken[*block as usize] = true);
                found.push(entry);
            } else {
                store(state, block, WHO, 0);
            }
        }
        let free = taken.iter().enumerate().rev();
        entries.free = free
            .filter(|(_, taken)| !**taken)
            .map(|(block, _)| block as u32)
            .collect();
        (entries, found)
    }

    /// Bytes of blocks in use at most from now on.
    pub fn set_budget(&mut self, bytes: u64) {
        let blocks = bytes / (USER_WORDS as u64 * 8);
        self.budget = u32::try_from(blocks).map_or(MAX_USERS, |blocks| blocks.min(MAX_USERS));
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.used) * USER_WORDS as u64 * 8
    }

    /// The user in the room, if it is known there.
    #[must_use]
    pub fn find(&self, state: &State, room: u32, name: &[u8]) -> Option<Entry> {
        let entry = Entry(*self.index.get(&self.hash(room, name))?);
        entry.is(state, room, name).then_some(entry)
    }

    /// A user who is not in the room yet, and with no worker.
    pub fn add(&mut self, state: &State, room: u32, name: &[u8]) -> Result<Entry, Full> {
        let hash = self.hash(room, name);
        let len = u8::try_from(name.len()).map_err(|_| Full)?;
        let more = name.len().saturating_sub(FIRST_BYTES).div_ceil(MORE_BYTES);
        if self.used + 1 + more as u32 > self.budget || self.index.contains_key(&hash) {
            return Err(Full);
        }
        let blocks: Vec<u32> = (0..=more).map_while(|_| self.block(state)).collect();
        let [first, others @ ..] = &blocks[..] else {
            return Err(Full);
        };
        if others.len() < more {
            self.free.extend(blocks);
            return Err(Full);
        }
        let (here, behind) = name.split_at(name.len().min(FIRST_BYTES));
        put(state, *first, NAME, here);
        let mut next = 0;
        for (block, part) in others.iter().zip(behind.chunks(MORE_BYTES)).rev() {
            put(state, *block, MORE, part);
            store(state, *block, NEXT, next);
            store(state, *block, WHO, 0);
            next = u64::from(*block) + 1;
        }
        store(state, *first, NEXT, next);
        for word in [RINGS, RINGS + 1, STALE, STALE + 1] {
            store(state, *first, word, 0);
        }
        let who = VALID | u64::from(len) << 8 | u64::from(room) << 32;
        store(state, *first, WHO, who);
        self.index.insert(hash, *first);
        self.used += blocks.len() as u32;
        Ok(Entry(*first))
    }

    /// It is nowhere any more, and nobody has to be told.
    pub fn remove(&mut self, state: &State, entry: Entry) {
        let hash = self.hash(entry.room(state), &entry.name(state));
        self.index.remove(&hash);
        let chain = chain(state, entry);
        store(state, entry.0, WHO, 0);
        self.used -= chain.len() as u32;
        self.free.extend(chain);
    }

    /// All that there are.
    pub fn all<'s>(&self, state: &'s State) -> impl Iterator<Item = Entry> + use<'s> {
        let is_one = |entry: &Entry| load(state, entry.0, WHO) & VALID != 0;
        (0..self.high).map(Entry).filter(is_one)
    }

    fn block(&mut self, state: &State) -> Option<u32> {
        if let Some(block) = self.free.pop() {
            return Some(block);
        }
        if self.high >= MAX_USERS {
            return None;
        }
        self.high += 1;
        state.set(Head::UsersUsed.word(), self.high.into());
        Some(self.high - 1)
    }

    fn hash(&self, room: u32, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(room);
        hasher.write(name);
        hasher.finish()
    }
}

impl Entry {
    #[must_use]
    pub fn room(self, state: &State) -> u32 {
        (load(state, self.0, WHO) >> 32) as u32
    }

    #[must_use]
    pub fn len(self, state: &State) -> u32 {
        u32::from((load(state, self.0, WHO) >> 8) as u8)
    }

    #[must_use]
    pub fn name(self, state: &State) -> Vec<u8> {
        let mut name = vec![0; self.len(state) as usize];
        let (mut rest, mut block, mut from) = (name.as_mut_slice(), self.0, NAME);
        loop {
            let here;
            (here, rest) = rest.split_at_mut(rest.len().min((USER_WORDS - from) * 8));
            let at = state::user(block, from).index as usize * 8;
            state.segment().copy_out(at, here);
            let next = (load(state, block, NEXT) as u32).checked_sub(1);
            match next.filter(|next| !rest.is_empty() && *next < MAX_USERS) {
                Some(next) => (block, from) = (next, MORE),
                None => return name,
            }
        }
    }

    fn is(self, state: &State, room: u32, name: &[u8]) -> bool {
        self.room(state) == room && self.len(state) as usize == name.len() && {
            let mut first = [0; FIRST_BYTES];
            let first = &mut first[..name.len().min(FIRST_BYTES)];
            let at = state::user(self.0, NAME).index as usize * 8;
            state.segment().copy_out(at, first);
            name.starts_with(first) && (name.len() <= FIRST_BYTES || self.name(state) == name)
        }
    }

    /// Some worker has a connection of it.
    #[must_use]
    pub fn is_present(self, state: &State) -> bool {
        load(state, self.0, RINGS) | load(state, self.0, RINGS + 1) != 0
    }

    /// The worker of this ring has one, or none.
    pub fn set_ring(self, state: &State, ring: u16, has: bool) {
        let (word, bit) = place(ring);
        let rings = load(state, self.0, RINGS + word);
        let rings = if has { rings | bit } else { rings & !bit };
        store(state, self.0, RINGS + word, rings);
        let stale = load(state, self.0, STALE + word);
        if stale & bit != 0 {
            store(state, self.0, STALE + word, stale & !bit);
        }
    }

    #[must_use]
    pub fn has_ring(self, state: &State, ring: u16) -> bool {
        let (word, bit) = place(ring);
        load(state, self.0, RINGS + word) & bit != 0
    }

    /// The worker of this ring counts anew: what it had said holds until it has come to its end.
    pub fn doubt(self, state: &State, ring: u16) {
        let (word, bit) = place(ring);
        if load(state, self.0, RINGS + word) & bit != 0 {
            let stale = load(state, self.0, STALE + word);
            store(state, self.0, STALE + word, stale | bit);
        }
    }

    /// The worker of this ring was counting anew and has not come to it.
    #[must_use]
    pub fn is_doubted(self, state: &State, ring: u16) -> bool {
        let (word, bit) = place(ring);
        load(state, self.0, STALE + word) & bit != 0
    }

    #[must_use]
    pub fn is_told(self, state: &State) -> bool {
        load(state, self.0, WHO) & TOLD != 0
    }

    #[must_use]
    pub fn is_telling(self, state: &State) -> bool {
        load(state, self.0, WHO) & TELLING != 0
    }

    /// Part of the change that is to be told.
    pub fn begin_telling(self, state: &State) {
        let who = load(state, self.0, WHO);
        store(state, self.0, WHO, who | TELLING);
    }

    /// The change was not told.
    pub fn forget_telling(self, state: &State) {
        let who = load(state, self.0, WHO);
        store(state, self.0, WHO, who & !TELLING);
    }

    /// Whether it is there has been told, or nobody wanted to know.
    pub fn settle(self, state: &State) {
        let who = load(state, self.0, WHO) & !(TELLING | TOLD);
        let told = if self.is_present(state) { TOLD } else { 0 };
        if load(state, self.0, WHO) != who | told {
            store(state, self.0, WHO, who | told);
        }
    }
}

/// The blocks of an entry. In corrupt memory it ends somewhere.
fn chain(state: &State, entry: Entry) -> Vec<u32> {
    let more = (entry.len(state) as usize)
        .saturating_sub(FIRST_BYTES)
        .div_ceil(MORE_BYTES);
    let next = |block: &u32| (load(state, *block, NEXT) as u32).checked_sub(1);
    std::iter::successors(Some(entry.0), |block| {
        next(block).filter(|b| *b < MAX_USERS)
    })
    .take(1 + more)
    .collect()
}

fn place(ring: u16) -> (usize, u64) {
    debug_assert!(ring < MAX_RINGS);
    (usize::from(ring / 64) & 1, 1 << (ring % 64))
}

fn put(state: &State, block: u32, from: usize, bytes: &[u8]) {
    let at = state::user(block, from).index as usize * 8;
    state.segment().copy_in(at, bytes);
}

fn load(state: &State, block: u32, field: usize) -> u64 {
    #[cfg(test)]
    TOUCHED.set(TOUCHED.get() + 1);
    let word = state::user(block, field).index as usize;
    state.segment().word(word).load(Ordering::Relaxed)
}

fn store(state: &State, block: u32, field: usize, value: u64) {
    #[cfg(test)]
    TOUCHED.set(TOUCHED.get() + 1);
    let word = state::user(block, field).index as usize;
    state.segment().word(word).store(value, Ordering::Release);
}

#[cfg(test)]
thread_local! {
    static TOUCHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many words have been read or written by this thread.
#[cfg(test)]
pub fn touched() -> u64 {
    TOUCHED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_come_back_to_the_next_brain() {
        let state = State::create(4096, 1).unwrap();
        let (mut entries, found) = Entries::recover(&state, 1 << 20);
        assert!(found.is_empty());
        let name = |len: usize| vec![b'a' + (len % 26) as u8; len];
        for len in 1..=199 {
            let entry = entries.add(&state, len as u32, &name(len)).unwrap();
            entry.set_ring(&state, len as u16 % 128, true);
        }
        for len in (2..=199).step_by(2) {
            let entry = entries.find(&state, len as u32, &name(len)).unwrap();
            entries.remove(&state, entry);
        }
        let (next, found) = Entries::recover(&state, 1 << 20);
        assert_eq!((found.len(), next.used), (100, entries.used));
        assert_eq!(next.free.len(), entries.free.len());
        for len in 1..=199 {
            let found = next.find(&state, len as u32, &name(len));
            assert_eq!(found.is_some(), len % 2 == 1, "{len}");
            if let Some(entry) = found {
                assert_eq!(entry.name(&state), name(len));
                assert!(entry.is_present(&state) && entry.has_ring(&state, len as u16 % 128));
            }
            assert_eq!(next.find(&state, len as u32 + 1, &name(len)), None);
        }
    }

    #[test]
    fn the_budget_is_kept_to() {
        let state = State::create(4096, 1).unwrap();
        let (mut entries, _) = Entries::recover(&state, 3 * 96);
        let one = entries.add(&state, 1, b"one").unwrap();
        entries.add(&state, 1, &[b'x'; 100]).unwrap();
        assert_eq!(
            (entries.bytes(), entries.add(&state, 1, b"two")),
            (288, Err(Full))
        );
        entries.remove(&state, one);
        assert!(entries.add(&state, 1, b"two").is_ok());
        assert_eq!(entries.high, 3);
    }

    #[test]
    fn what_cannot_be_is_forgotten() {
        let state = State::create(4096, 1).unwrap();
        let (mut entries, _) = Entries::recover(&state, 1 << 20);
        let long = [b'x'; 100];
        let all = [0, 1, 2, 3].map(|room| entries.add(&state, room, &long).unwrap());
        // Into another's, outside, to itself.
        store(&state, all[1].0, NEXT, u64::from(all[0].0) + 1);
        store(&state, all[2].0, NEXT, u64::MAX);
        store(&state, all[3].0, NEXT, u64::from(all[3].0) + 1);
        let (next, found) = Entries::recover(&state, 1 << 20);
        assert!(next.find(&state, 0, &long).is_some());
        assert!(found.len() < 4, "{found:?}");
        assert!(next.used <= next.high);
    }
}
