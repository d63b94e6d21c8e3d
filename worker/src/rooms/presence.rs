//! Who is in the rooms, and who of them wants to hear who comes and goes.
//!
//! A member who does *watches* the room. Its cell says from which position of the log on it is told of
//! changes: there it was given the list to which they apply. So whoever reads the log for it, here or
//! where it has moved, now or after a death, tells it the same.

use protocol::journal::Record;
use protocol::settings::Presence;
use rustc_hash::FxHashMap;

use super::{RoomIx, Rooms, cell_word, change};
use crate::slots::Slots;
use crate::users::{InRoom, Users};

/// In a cell: its owner has asked to watch, and the list has not come yet.
pub const ASKED: u64 = u64::MAX;

/// Bytes of names in one record.
const NAMES: usize = 4 << 10;

/// What this brain knows of who is in a room.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// `None`: users are not told apart there.
    users: Option<Box<InRoom>>,
    /// The cells of those who watch, by their slots.
    pub(super) watchers: Option<Box<FxHashMap<u32, u32>>>,
}

/// What is to be told to the master of the users in a room.
#[derive(Debug)]
pub struct News {
    pub came: Vec<u8>,
    pub gone: Vec<u8>,
    count: usize,
}

impl Present {
    pub(super) fn of(settings: &Presence, name: &[u8]) -> Present {
        Present {
            users: (settings.of(name) > 0).then(Box::default),
            watchers: None,
        }
    }
}

impl Rooms {
    /// From now on users are told apart in these rooms; a room that is held stays as it is.
    pub fn set_presence(&mut self, presence: &Presence) {
        self.presence = presence.clone();
    }

    /// The user has come into the room, by this cell.
    pub(super) fn user_enters(&mut self, ix: u32, cell: u32, cid: u64, user: Option<&str>) {
        let Some(room) = &mut self.rooms[ix as usize].present.users else {
            return;
        };
        let user = match user {
            Some(name) => self.users.named(name.as_bytes()),
            None => Users::anonymous(cid),
        };
        if self.cell_users.len() <= cell as usize {
            let none = Users::anonymous(0);
            self.cell_users.resize(cell as usize + 1, none);
        }
        self.cell_users[cell as usize] = user;
        room.comes(&mut self.users, user);
    }

    pub(super) fn user_exits(&mut self, ix: u32, cell: u32) {
        if let Some(room) = &mut self.rooms[ix as usize].present.users {
            let user = self.cell_users[cell as usize];
            room.goes(&mut self.users, user);
        }
    }

    /// The connection was nobody's, and is this user's from now on, in all its rooms.
    pub fn is_shown(&mut self, slots: &Slots, slot: u32, name: &str) {
        let cells: Vec<(u32, u32)> = self
            .memberships(slots, slot)
            .map(|(room, member)| (room.0, member.cell()))
            .collect();
        for (ix, cell) in cells {
            self.user_exits(ix, cell);
            self.user_enters(ix, cell, 0, Some(name));
            self.mark_dirty(ix);
        }
    }

    /// Some of what the master is to be told of the users in a room; then
    /// [`users_told`](Rooms::users_told).
    #[must_use]
    pub fn news(&self, room: RoomIx) -> Option<News> {
        let users = self.rooms[room.0 as usize].present.users.as_ref()?;
        users.has_changed().then(|| {
            let (came, gone, count) = users.to_tell(&self.users, NAMES);
            News { came, gone, count }
        })
    }

    pub fn users_told(&mut self, room: RoomIx, news: &News) {
        if let Some(users) = &mut self.rooms[room.0 as usize].present.users {
            users.told(&mut self.users, news.count);
        }
    }

    /// Does any member watch the room?
    #[must_use]
    pub fn is_watched(&self, room: RoomIx) -> bool {
        let watchers = &self.rooms[room.0 as usize].present.watchers;
        watchers.as_ref().is_some_and(|all| !all.is_empty())
    }

    /// The members who watch the room, each with the position from which on it is told of changes.
    #[must_use]
    pub fn watchers(&self, room: RoomIx) -> Vec<(u32, u64)> {
        let watchers = &self.rooms[room.0 as usize].present.watchers;
        let all = watchers.iter().flat_map(|all| all.iter());
        all.map(|(slot, cell)| (*slot, self.load(cell_word(*cell, 3))))
            .collect()
    }

    /// From where on in the log the connection is told who comes and goes there; `None`: it is not.
    #[must_use]
    pub fn watches(&self, slots: &Slots, slot: u32, room: RoomIx) -> Option<u64> {
        let member = self.member(slots, slot, room)?;
        match self.load(cell_word(member.cell(), 3)) {
            0 => None,
            from => Some(from),
        }
    }

    /// A member watches the room from this position on, or from where the master answers
    /// ([`ASKED`]), or not any more.
    pub fn watch(
        &mut self,
        record: &mut Record,
        slots: &Slots,
        slot: u32,
        room: RoomIx,
        from: Option<u64>,
    ) {
        if let Some(member) = self.member(slots, slot, room) {
            change(record, cell_word(member.cell(), 3), from.unwrap_or(0));
            self.note_watcher(room.0, slot, member.cell(), from.is_some());
            self.mark_dirty(room.0);
        }
    }

    /// The list has come that it had asked for, by the record before this position.
    pub fn is_listed(&mut self, slots: &Slots, slot: u32, room: RoomIx, from: u64) {
        if self.watches(slots, slot, room) == Some(ASKED)
            && let Some(member) = self.member(slots, slot, room)
        {
            self.store(cell_word(member.cell(), 3), from);
        }
    }

    /// Answers may have been lost: whoever waits for one is told of what comes behind this position.
    pub fn all_are_listed(&mut self, from: u64) {
        for room in &self.rooms {
            for cell in room.present.watchers.iter().flat_map(|all| all.values()) {
                if self.load(cell_word(*cell, 3)) == ASKED {
                    self.store(cell_word(*cell, 3), from);
                }
            }
        }
    }

    pub(super) fn note_watcher(&mut self, ix: u32, slot: u32, cell: u32, watches: bool) {
        let watchers = &mut self.rooms[ix as usize].present.watchers;
        if watches {
            watchers.get_or_insert_default().insert(slot, cell);
        } else if let Some(all) = watchers {
            all.remove(&slot);
            if all.is_empty() {
                *watchers = None;
            }
        }
    }
}
