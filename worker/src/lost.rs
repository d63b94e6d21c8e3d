//! What the log has lost before it was read: who is told so.
//!
//! Members of rooms are told of a gap once the master has said where the rooms are
//! ([`fan_out`](crate::fan_out)).

use protocol::record::Up;
use protocol::stream::{Lost, Reader};

use crate::brain::Brain;
use crate::close::CloseReason;
use crate::slots::Flag;
use crate::state::Head;

impl Brain {
    /// The log has overtaken this worker: it goes on from now, and asks for the position of every
    /// room that it holds, so that the gap can be said. Who waits for an answer that may be gone is
    /// told to come again.
    pub(crate) fn on_lost(&mut self, at: u64, lost: Lost) {
        log::error!("the log at {at}: {lost}; going on from its head");
        self.deliveries += self.end_run();
        self.turn.read = self.log.head();
        for slot in 0..self.slots.used() {
            if self
                .slots
                .meta(slot)
                .is_some_and(|meta| meta.has(Flag::Opening))
            {
                self.begin_close(slot, CloseReason::Reconnect);
            }
        }
        self.send_the_unanswered_away();
        self.state.set(Head::Missed, 1);
        self.miss();
    }

    /// What they have asked is in the ring, and may have been answered in what is lost of the log. (The
    /// last one may be in the master's hands.)
    fn send_the_unanswered_away(&mut self) {
        let ring = Reader::new(self.ring_segment.clone());
        let (mut at, read) = (self.ring_kept(), self.ring_read());
        let mut bytes = Vec::new();
        while at <= read
            && let Ok(Some(next)) = ring.next(at, &mut bytes)
        {
            let asker = Up::decode(&bytes).and_then(|up| up.asker());
            if let Some(asker) = asker.filter(|asker| !asker.id.is_empty())
                && self.is_here(asker)
            {
                self.begin_close(asker.slot, CloseReason::Reconnect);
            }
            bytes.clear();
            at = next;
        }
    }

    /// What was said in the log is lost up to where it has been read: what that was is asked for.
    pub(crate) fn miss(&mut self) {
        self.reopen = self.rooms.all();
        self.rooms.all_are_listed(self.turn.read);
        let rooms = self.rooms.all().into_iter();
        self.relist = rooms.filter(|room| self.rooms.is_watched(*room)).collect();
    }
}
