//! The part of the sequencer that says who is in which room.

use protocol::fault;
use protocol::journal::Record;
use protocol::names::Names;
use protocol::record::{Asker, Down, Refusal, Who};

use super::{Sequencer, append};
use crate::present::Change;
use crate::ring_set::RingSet;
use crate::state::State;

/// Presence records in one turn.
const TURN: usize = 512;

impl Sequencer {
    /// Tells the members of rooms whose number has changed since it was told last, and those who
    /// watch a room who has come and gone. To be called a few times a second, which is how changes
    /// are drawn together. True: there is more.
    pub fn tell_presence(&mut self, state: &State) -> bool {
        for (room, total) in self.rooms.take_changed(state, TURN) {
            self.rooms.told(state, &mut self.record, room, total);
            let told = append(
                &mut self.log,
                &mut self.answer,
                &Down::Presence { room, total },
            );
            debug_assert!(told, "a small record fits into the log");
            self.news.extend(self.rooms.holders(room));
            self.commit(state);
        }
        let due = self.present.take_due(TURN);
        let is_more = self.rooms.has_changed() || due.len() == TURN;
        for room in due {
            self.tell_change(state, room);
        }
        is_more
    }

    fn tell_change(&mut self, state: &State, room: u32) {
        let total = self.rooms.total(state, room);
        let changed = self.present.change(state, &mut self.record, room, total);
        let Some(change) = changed else {
            return self.present.finish(state, room);
        };
        let distinct = self.present.distinct(state, room);
        let read = |names| Names::read(names).unwrap_or_default();
        let told = match &change {
            Change::Numbers => Down::Changes {
                room,
                total,
                distinct,
                names: None,
            },
            Change::Names(came, gone) => Down::Changes {
                room,
                total,
                distinct,
                names: Some([read(came), read(gone)]),
            },
            Change::List(all) => Down::List {
                room,
                who: Who {
                    total,
                    distinct,
                    users: Some(read(all)),
                },
            },
        };
        let told = append(&mut self.log, &mut self.answer, &told);
        debug_assert!(told, "names are bounded");
        self.news.extend(self.present.watchers(room));
        fault::point("master:presence");
        self.commit(state);
        fault::point("master:presence-told");
        self.present.finish(state, room);
    }

    /// The worker of this ring has so many connections in the room, of which some want to hear who comes
    /// and goes, or none.
    pub(super) fn count_members(
        &mut self,
        state: &State,
        ring: u16,
        room: u32,
        count: u32,
        watched: bool,
    ) {
        // What was said there before this was read may be for it, too.
        if !self.rooms.holders(room).contains(ring) {
            self.news.insert(ring);
        }
        let record = &mut self.record;
        let is_there = (self.rooms).members(state, record, ring, room, count, watched);
        // A room that is not there any more has no members to be counted.
        if is_there {
            self.present
                .set_watched(state, room, ring, watched && count > 0);
            self.present.note(room);
            if self.rooms.total_in(state, record, room) == 0 {
                self.present.emptied(state, room);
            }
        }
    }

    /// The answer to whoever wants to know who is in a room.
    pub(super) fn who(&mut self, state: &State, asker: Asker<'_>, room: &[u8], limit: u32) {
        let mut names = Vec::new();
        let who = match self.rooms.find(room) {
            Some(room) => {
                let total = self.rooms.total(state, room);
                // Another part of a large room each time.
                let from = self.log.head() / 8;
                let from = from.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                self.present
                    .some(state, room, total, limit, from, &mut names)
            }
            None => self.present.nobody(room),
        };
        let _ = append(&mut self.log, &mut self.answer, &Down::Count { who, asker });
        self.news.insert(asker.ring);
    }

    /// A member of a room wants to hear who comes and goes there. Its worker holds the room, though it may
    /// say so only behind this: somebody has moved there with it in this very turn.
    pub(super) fn watch<'a>(
        &mut self,
        state: &State,
        asker: Asker<'a>,
        name: &[u8],
    ) -> Result<(), (Refusal, Asker<'a>)> {
        let ring = asker.ring;
        let Some(room) = self.rooms.find(name) else {
            return Err((Refusal::Internal, asker));
        };
        let total = self.rooms.total(state, room);
        self.present
            .begin_to_watch(state, &mut self.record, room, total);
        let mut names = Vec::new();
        let who = self.present.told(state, &self.record, room, &mut names);
        let listed = Down::Listed { room, who, asker };
        if !append(&mut self.log, &mut self.answer, &listed) {
            return Err((Refusal::Internal, asker));
        }
        self.rooms.watch(state, &mut self.record, ring, room);
        self.present.set_watched(state, room, ring, true);
        self.news.insert(ring);
        Ok(())
    }

    /// Changes of who is in the room were missed by this worker.
    pub(super) fn list_anew(&mut self, state: &State, room: u32) {
        if self.present.watchers(room) == RingSet::NONE {
            return;
        }
        let mut names = Vec::new();
        let who = self.present.told(state, &Record::new(), room, &mut names);
        let _ = append(&mut self.log, &mut self.answer, &Down::List { room, who });
        self.news.extend(self.present.watchers(room));
    }
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
