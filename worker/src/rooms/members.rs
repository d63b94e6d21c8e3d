//! Who is in which room: a membership is a cell of words, in the chain of its connection and among the
//! members of its room.

use std::collections::HashSet;

use protocol::ids::Cid;
use protocol::journal::Record;

use super::{NOWHERE, RoomIx, Rooms, TableFull, cell_word, change, room_word};
use crate::encoding::Encoding;
use crate::slots::{Field, Slots};
use crate::state::{Head, MAX_CELLS};

/// One subscriber of a room.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub slot: u32,
    /// Its cell (24 bits), and in which encoding it is told what is said.
    cell: u32,
    /// It joined at this offset: messages behind it are for it.
    pub after: u64,
}

const CELL_BITS: u32 = 24;
const _: () = assert!(MAX_CELLS <= 1 << CELL_BITS);

impl Member {
    pub(super) fn new(slot: u32, cell: u32, after: u64, encoding: Encoding) -> Member {
        let cell = cell | (encoding as u32) << CELL_BITS;
        Member { slot, cell, after }
    }

    pub(super) fn cell(&self) -> u32 {
        self.cell & ((1 << CELL_BITS) - 1)
    }

    #[must_use]
    pub fn encoding(&self) -> Encoding {
        Encoding::ALL[(self.cell >> CELL_BITS) as usize]
    }
}

/// Who becomes a member. Its slot need not say so yet.
#[derive(Clone, Copy, Debug)]
pub struct Entrant<'a> {
    pub slot: u32,
    pub cid: Cid,
    /// In which it hears what is said.
    pub encoding: Encoding,
    /// `None`: it has shown no token.
    pub user: Option<&'a str>,
}

impl Rooms {
    /// The connection becomes a member behind `after`. It is not one yet. `watch`: as
    /// [`watch`](Rooms::watch) says.
    pub fn join(
        &mut self,
        record: &mut Record,
        slots: &Slots,
        who: Entrant<'_>,
        room: RoomIx,
        after: u64,
        watch: Option<u64>,
    ) -> Result<(), TableFull> {
        let slot = who.slot;
        let cell = match self.free_cells.pop() {
            Some(cell) => cell,
            None if self.places.len() < MAX_CELLS as usize => {
                self.places.push(0);
                self.state.set(Head::CellsUsed, self.places.len() as u64);
                self.places.len() as u32 - 1
            }
            None => return Err(TableFull),
        };
        let cells = slots.get(slot, Field::Cells);
        change(
            record,
            cell_word(cell, 0),
            (u64::from(slot) + 1) | u64::from(room.0) << 32,
        );
        change(record, cell_word(cell, 1), after);
        change(record, cell_word(cell, 2), cells & 0xffff_ffff);
        let count = (cells >> 32) + 1;
        Slots::change(
            record,
            slot,
            Field::Cells,
            (u64::from(cell) + 1) | count << 32,
        );
        let watch = watch.unwrap_or(0);
        if self.load(cell_word(cell, 3)) != watch {
            change(record, cell_word(cell, 3), watch);
        }
        self.enter(room.0, cell, who, after);
        if watch != 0 {
            self.note_watcher(room.0, slot, cell, true);
        }
        Ok(())
    }

    /// The connection is a member no more. `false`: it was none.
    pub fn leave(&mut self, record: &mut Record, slots: &Slots, slot: u32, room: RoomIx) -> bool {
        let cells = slots.get(slot, Field::Cells);
        let mut before = None;
        let mut at = cells as u32;
        while let Some(cell) = at.checked_sub(1) {
            let next = self.load(cell_word(cell, 2)) as u32;
            if (self.load(cell_word(cell, 0)) >> 32) as u32 == room.0 {
                let count = (cells >> 32) - 1;
                let first = match before {
                    None => next,
                    Some(before) => {
                        change(record, cell_word(before, 2), next.into());
                        cells as u32
                    }
                };
                Slots::change(record, slot, Field::Cells, u64::from(first) | count << 32);
                change(record, cell_word(cell, 0), 0);
                self.exit(room.0, cell);
                return true;
            }
            (before, at) = (Some(cell), next);
        }
        false
    }

    /// How many rooms the connection is in.
    #[must_use]
    pub fn count_of(&self, slots: &Slots, slot: u32) -> u32 {
        (slots.get(slot, Field::Cells) >> 32) as u32
    }

    /// The rooms that a connection is in, each with the offset at which it joined.
    #[must_use]
    pub fn rooms_of(&self, slots: &Slots, slot: u32) -> Vec<(RoomIx, u64)> {
        let members = self.memberships(slots, slot);
        members.map(|(room, m)| (room, m.after)).collect()
    }

    pub(super) fn memberships(
        &self,
        slots: &Slots,
        slot: u32,
    ) -> impl Iterator<Item = (RoomIx, Member)> {
        let is_one = |at: u32| {
            at.checked_sub(1)
                .filter(|c| (*c as usize) < self.places.len())
        };
        let first = is_one(slots.get(slot, Field::Cells) as u32);
        let encoding = slots.encoding(slot);
        let next = move |cell: &u32| is_one(self.load(cell_word(*cell, 2)) as u32);
        std::iter::successors(first, next)
            // There may be a loop in corrupt memory.
            .take(self.places.len())
            .map(move |cell| {
                let room = RoomIx((self.load(cell_word(cell, 0)) >> 32) as u32);
                let after = self.load(cell_word(cell, 1));
                (room, Member::new(slot, cell, after, encoding))
            })
    }

    /// What it is in the room, if it is in it.
    #[must_use]
    pub fn member(&self, slots: &Slots, slot: u32, room: RoomIx) -> Option<Member> {
        let mut members = self.memberships(slots, slot);
        members.find(|(r, _)| *r == room).map(|(_, member)| member)
    }

    #[must_use]
    pub fn is_member(&self, slots: &Slots, slot: u32, room: RoomIx) -> bool {
        self.member(slots, slot, room).is_some()
    }

    /// The memberships of a connection, room and cell, as its words name them. `None`: they cannot
    /// be.
    pub(super) fn chain(&self, slots: &Slots, slot: u32) -> Option<Vec<(u32, u32)>> {
        let cells = slots.get(slot, Field::Cells);
        let count = (cells >> 32) as usize;
        let mut seen = HashSet::new();
        let mut chain = Vec::new();
        let mut at = cells as u32;
        while let Some(cell) = at.checked_sub(1) {
            let place = self.places.get(cell as usize)?;
            let owner = self.load(cell_word(cell, 0));
            let (of, ix) = ((owner as u32).wrapping_sub(1), (owner >> 32) as u32);
            let held = self.rooms.len() > ix as usize && self.load(room_word(ix, 0)) != 0;
            if *place != NOWHERE || of != slot || !held || !seen.insert(ix) || chain.len() >= count
            {
                return None;
            }
            chain.push((ix, cell));
            at = self.load(cell_word(cell, 2)) as u32;
        }
        (chain.len() == count).then_some(chain)
    }

    /// Takes a connection out of all rooms, whatever its own words say.
    pub fn forget_member(&mut self, slot: u32) {
        for ix in 0..self.rooms.len() as u32 {
            while let Some(member) = self.rooms[ix as usize]
                .members
                .iter()
                .find(|m| m.slot == slot)
            {
                let cell = member.cell();
                self.store(cell_word(cell, 0), 0);
                self.exit(ix, cell);
            }
        }
    }

    pub(super) fn enter(&mut self, ix: u32, cell: u32, who: Entrant<'_>, after: u64) {
        let room = &mut self.rooms[ix as usize];
        self.places[cell as usize] = room.members.len() as u32;
        room.encodings[who.encoding] += 1;
        room.members
            .push(Member::new(who.slot, cell, after, who.encoding));
        self.user_enters(ix, cell, who.cid.0, who.user);
        self.mark_dirty(ix);
    }

    fn exit(&mut self, ix: u32, cell: u32) {
        let room = &mut self.rooms[ix as usize];
        let place = self.places[cell as usize] as usize;
        let member = room.members.swap_remove(place);
        room.encodings[member.encoding()] -= 1;
        if let Some(moved) = room.members.get(place) {
            self.places[moved.cell() as usize] = place as u32;
        }
        if room.present.watchers.is_some() {
            self.note_watcher(ix, member.slot, cell, false);
        }
        self.user_exits(ix, cell);
        self.free_cells.push(cell);
        self.mark_dirty(ix);
    }
}
