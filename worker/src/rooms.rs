//! The rooms that this worker holds, and who is in them ([`members`]).
//!
//! A worker holds a room from the log record [`Opened`](protocol::record::Down::Opened) that
//! answers its first join until it has told the master that nobody is left. Rooms and memberships
//! ("cells") are words in the state; the lists through which they are found are this brain's, and
//! the next brain makes its own from the words ([`Rooms::new`]). What was said and waits is [`held`].

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use protocol::ids::Position;
use protocol::journal::{Record, Word};
use protocol::settings::{Options, Presence};
use rustc_hash::FxHashMap;

use crate::encoding::{Each, Encoding};
use crate::slots::{Field, Slots};
use crate::state::{CELLS, Head, MAX_CELLS, MAX_ROOMS, ROOMS, State};
use crate::users::{User, Users};

pub mod held;
pub mod members;
pub mod presence;

pub use members::{Entrant, Member};

/// slot + 1 and room · join offset · next cell of the connection + 1 · from which position of the log
/// on it is told who comes and goes (0: not at all)
pub const CELL_WORDS: usize = 4;

/// number at the master + 1 and length of the name · epoch · last offset · total · the name ·
/// from where in the log on something is held back
pub const ROOM_WORDS: usize = 32;

/// Bytes of a room's name at most (200 bytes of UTF-8 are allowed).
pub const MAX_NAME: usize = (ROOM_WORDS - 5) * 8;

/// Of a cell that is nobody's: its place.
const NOWHERE: u32 = u32::MAX;

/// A room's place in this worker's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoomIx(u32);

/// There is no room for another room or membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

#[derive(Debug, Default)]
struct Room {
    members: Vec<Member>,
    /// How many of them want each encoding.
    encodings: Each<u32>,
    present: presence::Present,
    dirty: bool,
    /// Of the last message that was read, which its word says once it is [settled](Rooms::settle).
    offset: u64,
    moved: bool,
    /// What is said within so long is given together; 0: at once.
    merge_ms: u64,
    held: Option<Box<held::Held>>,
}

#[derive(Debug)]
pub struct Rooms {
    state: State,
    rooms: Vec<Room>,
    by_number: FxHashMap<u32, u32>,
    by_name: FxHashMap<Box<[u8]>, u32>,
    /// For each cell, where in its room's members it is.
    places: Vec<u32>,
    /// Whose connection it is that is in a room by a cell, where users are told apart.
    cell_users: Vec<User>,
    users: Users,
    presence: Presence,
    free_rooms: Vec<u32>,
    free_cells: Vec<u32>,
    /// Rooms whose count has changed since the master was told.
    dirty: Vec<u32>,
    /// Rooms of which messages were read that are not settled.
    moved: Vec<u32>,
    options: Options,
    /// Rooms in which something is held back.
    holding: Vec<u32>,
    held: u32,
    doubtful: HashSet<u32>,
}

impl Rooms {
    /// The rooms as the brain before left them. Rooms that cannot be are dropped; connections whose
    /// memberships contradict each other are [doubtful](Rooms::take_doubtful), and in no room.
    /// `user_of`: the user of a slot, if it has shown a token.
    #[must_use]
    pub fn new(
        state: State,
        slots: &Slots,
        presence: &Presence,
        user_of: impl Fn(u32) -> Option<String>,
    ) -> Rooms {
        let mut rooms = Rooms {
            rooms: Vec::new(),
            by_number: FxHashMap::default(),
            by_name: FxHashMap::default(),
            places: Vec::new(),
            cell_users: Vec::new(),
            users: Users::default(),
            presence: presence.clone(),
            free_rooms: Vec::new(),
            free_cells: Vec::new(),
            dirty: Vec::new(),
            moved: Vec::new(),
            options: Options::default(),
            holding: Vec::new(),
            held: 0,
            doubtful: HashSet::new(),
            state,
        };
        let used = (rooms.state.get(Head::RoomsUsed) as u32).min(MAX_ROOMS);
        for ix in 0..used {
            rooms.rooms.push(Room::default());
            if rooms.is_sound(ix) {
                rooms.by_number.insert(rooms.number(RoomIx(ix)), ix);
                rooms.by_name.insert(rooms.name(RoomIx(ix)).into(), ix);
                rooms.held += 1;
                let name = rooms.name(RoomIx(ix));
                let offset = rooms.load(room_word(ix, 2));
                let room = &mut rooms.rooms[ix as usize];
                room.offset = offset;
                room.present = presence::Present::of(&rooms.presence, &name);
                rooms.mark_dirty(ix);
                rooms.load_held(ix);
            } else {
                rooms.store(room_word(ix, 0), 0);
                rooms.free_rooms.push(ix);
            }
        }
        let used = (rooms.state.get(Head::CellsUsed) as u32).min(MAX_CELLS);
        rooms.places = vec![NOWHERE; used as usize];
        for slot in (0..slots.used()).filter(|slot| slots.meta(*slot).is_some()) {
            match rooms.chain(slots, slot) {
                Some(cells) => {
                    let user = user_of(slot).filter(|_| !cells.is_empty());
                    let who = Entrant {
                        slot,
                        cid: slots.cid(slot),
                        encoding: slots.encoding(slot),
                        user: user.as_deref(),
                    };
                    for (ix, cell) in cells {
                        rooms.enter(ix, cell, who, rooms.load(cell_word(cell, 1)));
                        let watches = rooms.load(cell_word(cell, 3)) != 0;
                        if watches {
                            rooms.note_watcher(ix, slot, cell, true);
                        }
                    }
                }
                None => {
                    slots.set(slot, Field::Cells, 0);
                    rooms.doubtful.insert(slot);
                }
            }
        }
        for cell in 0..used {
            if rooms.places[cell as usize] == NOWHERE {
                rooms.store(cell_word(cell, 0), 0);
                rooms.free_cells.push(cell);
            }
        }
        rooms
    }

    /// Is this place a room's, and no other's?
    fn is_sound(&self, ix: u32) -> bool {
        let word = self.load(room_word(ix, 0));
        let len = (word >> 32) as usize;
        let name = self.name(RoomIx(ix));
        word as u32 != 0
            && (1..=MAX_NAME).contains(&len)
            && std::str::from_utf8(&name).is_ok()
            && !self.by_number.contains_key(&self.number(RoomIx(ix)))
            && !self.by_name.contains_key(name.as_slice())
    }

    /// Connections whose memberships were given up, being impossible.
    pub fn take_doubtful(&mut self) -> HashSet<u32> {
        std::mem::take(&mut self.doubtful)
    }

    #[must_use]
    pub fn held(&self) -> u32 {
        self.held
    }

    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<RoomIx> {
        self.by_name.get(name).copied().map(RoomIx)
    }

    /// All rooms that are held.
    #[must_use]
    pub fn all(&self) -> Vec<RoomIx> {
        self.by_number.values().copied().map(RoomIx).collect()
    }

    /// By its number at the master.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<RoomIx> {
        self.by_number.get(&number).copied().map(RoomIx)
    }

    #[must_use]
    pub fn number(&self, room: RoomIx) -> u32 {
        (self.load(room_word(room.0, 0)) as u32).wrapping_sub(1)
    }

    #[must_use]
    pub fn name(&self, room: RoomIx) -> Vec<u8> {
        let len = ((self.load(room_word(room.0, 0)) >> 32) as usize).min(MAX_NAME);
        let mut name = vec![0; len];
        self.state
            .segment()
            .copy_out(room_word(room.0, 4) * 8, &mut name);
        name
    }

    /// The last position of the room that this worker has read in the log.
    #[must_use]
    pub fn position(&self, room: RoomIx) -> Position {
        Position {
            epoch: self.load(room_word(room.0, 1)),
            offset: self.rooms[room.0 as usize].offset,
        }
    }

    /// A message of the room was read.
    pub fn advance(&mut self, room: RoomIx, offset: u64) {
        let this = &mut self.rooms[room.0 as usize];
        this.offset = offset;
        if !std::mem::replace(&mut this.moved, true) {
            self.moved.push(room.0);
        }
    }

    /// The members have been given all that was read, or their slots owe it to them. Not before that
    /// does a word say that it was read: by it the next brain knows what was lost.
    pub fn settle(&mut self) {
        while let Some(ix) = self.moved.pop() {
            let room = &mut self.rooms[ix as usize];
            room.moved = false;
            let offset = room.offset;
            // What is held back does not count yet.
            if room.held.is_none() {
                self.store(room_word(ix, 2), offset);
            }
        }
    }

    /// Connections in the room on all workers, as the master last said.
    #[must_use]
    pub fn total(&self, room: RoomIx) -> u32 {
        (self.load(room_word(room.0, 3)) as u32).max(self.members(room).len() as u32)
    }

    pub fn set_total(&mut self, room: RoomIx, total: u32) {
        self.store(room_word(room.0, 3), total.into());
    }

    #[must_use]
    pub fn members(&self, room: RoomIx) -> &[Member] {
        &self.rooms[room.0 as usize].members
    }

    /// Does a member want this encoding?
    #[must_use]
    pub fn wants(&self, room: RoomIx, encoding: Encoding) -> bool {
        self.rooms[room.0 as usize].encodings[encoding] > 0
    }

    /// From here on the room is held (once the record is committed).
    pub fn hold(
        &mut self,
        record: &mut Record,
        number: u32,
        position: Position,
        total: u32,
        name: &[u8],
    ) -> Result<RoomIx, TableFull> {
        if name.len() > MAX_NAME {
            return Err(TableFull);
        }
        let ix = match self.free_rooms.pop() {
            Some(ix) => ix,
            None if self.rooms.len() < MAX_ROOMS as usize => {
                self.rooms.push(Room::default());
                self.state.set(Head::RoomsUsed, self.rooms.len() as u64);
                self.rooms.len() as u32 - 1
            }
            None => return Err(TableFull),
        };
        self.state.segment().copy_in(room_word(ix, 4) * 8, name);
        change(
            record,
            room_word(ix, 0),
            (u64::from(number) + 1) | (name.len() as u64) << 32,
        );
        change(record, room_word(ix, 1), position.epoch);
        change(record, room_word(ix, 2), position.offset);
        change(record, room_word(ix, 3), total.into());
        self.begin_holds(record, ix);
        let merge_ms = self.options.of(name).merge_ms;
        let room = &mut self.rooms[ix as usize];
        room.offset = position.offset;
        room.present = presence::Present::of(&self.presence, name);
        room.merge_ms = merge_ms;
        self.by_number.insert(number, ix);
        self.by_name.insert(name.into(), ix);
        self.held += 1;
        Ok(RoomIx(ix))
    }

    /// Nobody is in it and the master has been told: it is held no more (once committed).
    pub fn drop_room(&mut self, record: &mut Record, room: RoomIx) {
        debug_assert!(self.members(room).is_empty());
        self.by_number.remove(&self.number(room));
        self.by_name.remove(self.name(room).as_slice());
        self.drop_hold(room.0);
        change(record, room_word(room.0, 0), 0);
        self.free_rooms.push(room.0);
        self.held -= 1;
    }

    /// A room whose count is to be told to the master, if one is.
    #[must_use]
    pub fn next_dirty(&self) -> Option<RoomIx> {
        self.dirty.last().copied().map(RoomIx)
    }

    /// It has been told.
    pub fn told(&mut self, room: RoomIx) {
        self.rooms[room.0 as usize].dirty = false;
        if self.dirty.last() == Some(&room.0) {
            self.dirty.pop();
        } else {
            self.dirty.retain(|ix| *ix != room.0);
        }
    }

    pub fn mark(&mut self, room: RoomIx) {
        self.mark_dirty(room.0);
    }

    fn mark_dirty(&mut self, ix: u32) {
        if !std::mem::replace(&mut self.rooms[ix as usize].dirty, true) {
            self.dirty.push(ix);
        }
    }

    fn load(&self, index: usize) -> u64 {
        self.state.segment().word(index).load(Ordering::Relaxed)
    }

    fn store(&self, index: usize, value: u64) {
        self.state
            .segment()
            .word(index)
            .store(value, Ordering::Release);
    }
}

fn cell_word(cell: u32, word: usize) -> usize {
    CELLS + cell as usize * CELL_WORDS + word
}

fn room_word(room: u32, word: usize) -> usize {
    ROOMS + room as usize * ROOM_WORDS + word
}

fn change(record: &mut Record, index: usize, value: u64) {
    record.set(
        Word {
            segment: 0,
            index: index as u32,
        },
        value,
    );
}

#[cfg(test)]
#[path = "rooms_tests.rs"]
mod tests;
