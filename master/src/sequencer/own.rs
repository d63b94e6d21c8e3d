//! What the master itself says in a room.

use protocol::format::Data;
use protocol::ids::Cid;
use protocol::record::{Asker, Down};
use protocol::share::Share;

use super::{Sequencer, append};
use crate::state::State;

/// Nobody has asked.
pub(super) const NOBODY: Asker<'_> = Asker {
    cid: Cid(0),
    ring: u16::MAX,
    slot: 0,
    id: b"",
};

impl Sequencer {
    /// How many connections are in the room of this name.
    #[must_use]
    pub fn members(&self, state: &State, name: &[u8]) -> u32 {
        let room = self.rooms.find(name);
        room.map_or(0, |room| self.rooms.total(state, room))
    }

    /// Says something in a room, if there is such a one; nothing of it is retained.
    pub fn say(&mut self, state: &State, name: &[u8], from: &[u8], data: Data<'_>) {
        let Some(room) = self.rooms.find(name) else {
            return;
        };
        let mut position = self.rooms.position(state, &self.record, room);
        position.offset += 1;
        let message = Down::Message {
            room,
            position,
            asker: NOBODY,
            from,
            data,
            share: Share::All,
        };
        if append(&mut self.log, &mut self.answer, &message) {
            self.rooms.advance(&mut self.record, room, position.offset);
            self.news.extend(self.rooms.holders(room));
            self.commit(state);
        }
    }
}
