//! What the master is told of the rooms here: how many connections are in them, which users these
//! are of, and whether any of them watches.
//!
//! It is drawn together: a room of which something has changed is told a few times a second at most,
//! as it is then. Connections that arrive from elsewhere wait for it, so that they count here before
//! they count no more where they were. A new brain takes back what was told, tells all, and then
//! that this was all; until then the master goes by what it knew.

use protocol::fault;
use protocol::journal::Record;
use protocol::names::Names;
use protocol::record::{Asker, Up};

use crate::brain::{Brain, RING};
use crate::fan_out::NOBODY;
use crate::rooms::RoomIx;
use crate::state::Head;

/// The master is told who is in a room at most so often.
pub const EVERY_MS: u64 = 50;

/// Rooms of which is told in one turn.
const ROOMS: usize = 4096;

/// In place of a room: what was told of all of them is taken back.
const ALL: u32 = u32::MAX;

/// The ring is full.
struct Full;

impl Brain {
    /// Tells the master what is due, as far as the ring has room.
    pub fn tell_of_rooms(&mut self) {
        let _ = self.tell_what_fits();
        self.say_unsaid();
        self.commit_told();
        if self.reopen.is_empty() && self.relist.is_empty() && self.state.get(Head::Missed) != 0 {
            self.state.set(Head::Missed, 0);
        }
    }

    fn tell_what_fits(&mut self) -> Result<(), Full> {
        if self.forget_row {
            self.stage_up(&members(ALL, 0, false))?;
            (self.forget_row, self.recounts) = (false, true);
        }
        while let Some(room) = self.reopen.last().copied() {
            let name = self.rooms.name(room);
            let asker = Asker {
                cid: NOBODY,
                ring: self.ring_number,
                slot: 0,
                id: b"",
            };
            self.stage_up(&Up::Open { asker, room: &name })?;
            self.reopen.pop();
        }
        let due = self.now >= self.told_at + EVERY_MS;
        // Those that arrive wait for it.
        if due || !self.arrivals.slots.is_empty() {
            self.tell_of_each()?;
        }
        // Behind what says that it is watched.
        while let Some(room) = self.relist.last().copied() {
            let room = self.rooms.number(room);
            self.stage_up(&Up::List { room })?;
            self.relist.pop();
        }
        Ok(())
    }

    fn tell_of_each(&mut self) -> Result<(), Full> {
        for _ in 0..ROOMS {
            let Some(room) = self.rooms.next_dirty() else {
                break;
            };
            self.told_at = self.now;
            self.tell_of(room)?;
        }
        if self.recounts && self.rooms.next_dirty().is_none() {
            self.stage_up(&Up::Recounted)?;
            self.recounts = false;
        }
        Ok(())
    }

    /// Of users only while the worker counts as holding the room.
    fn tell_of(&mut self, room: RoomIx) -> Result<(), Full> {
        let count = self.rooms.members(room).len() as u32;
        let number = self.rooms.number(room);
        if count > 0 {
            self.stage_up(&members(number, count, self.rooms.is_watched(room)))?;
        }
        while let Some(news) = self.rooms.news(room) {
            let names = |bytes| Names::read(bytes).unwrap_or_default();
            let (came, gone) = (names(&news.came), names(&news.gone));
            if !came.is_empty() || !gone.is_empty() {
                self.stage_up(&Up::Users {
                    room: number,
                    came,
                    gone,
                })?;
            }
            self.rooms.users_told(room, &news);
        }
        let mut record = Record::new();
        if count == 0 {
            self.stage_up(&members(number, 0, false))?;
            self.rooms.told(room);
            self.relist.retain(|other| *other != room);
            self.rooms.drop_room(&mut record, room);
        } else {
            self.rooms.told(room);
        }
        fault::point("worker:members");
        self.ring.commit_into(&mut record, RING);
        self.journal.commit(&mut record);
        self.published |= self.ring.committed();
        Ok(())
    }

    pub(crate) fn commit_told(&mut self) {
        let mut record = Record::new();
        self.ring.commit_into(&mut record, RING);
        self.journal.commit(&mut record);
        self.published |= self.ring.committed();
    }

    fn stage_up(&mut self, up: &Up<'_>) -> Result<(), Full> {
        let mut bytes = Vec::with_capacity(64);
        up.encode(&mut bytes);
        match self.ring.stage(self.ring_kept(), &bytes) {
            true => Ok(()),
            false => Err(Full),
        }
    }
}

fn members(room: u32, count: u32, watched: bool) -> Up<'static> {
    Up::Members {
        room,
        count,
        watched,
    }
}
