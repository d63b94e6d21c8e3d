//! Connections that came over a unix socket, of which the kernel keeps no counts: what a dead brain had
//! read and written and not noted cannot be asked ([`protocol::truth`]).
//!
//! It need not be, but for one of them: a brain reads from and writes to a connection only while that
//! is in its hand ([`InHand`]), and has noted what it did before it takes up the next thing. So all
//! others are as their slots say. The one that was in hand is closed, whatever has been done with it:
//! an operator's client asks again, with the same `Idempotency-Key` if it is to happen once.

use crate::brain::Brain;
use crate::checks::{self, Doubt};
use crate::close::CloseReason;
use crate::poison::InHand;
use crate::slots::{Flag, Meta};

/// By this reason the slot of one in doubt is known to all brains to come.
const IN_DOUBT: CloseReason = CloseReason::SocketError;

impl Brain {
    /// For a new brain, before it forgets what the last one had in hand.
    pub(crate) fn doubt_what_was_in_hand(&self) {
        let Some(InHand::Connection(slot)) = self.in_hand() else {
            return;
        };
        let meta = (slot < self.slots.used()).then(|| self.slots.meta(slot));
        // One that is given away has been touched by nobody here since.
        let is_ours = |meta: &Meta| meta.has(Flag::Unix) && !meta.has(Flag::Given);
        if let Some(mut meta) = meta.flatten().filter(is_ours) {
            meta.reason = Some(IN_DOUBT);
            self.slots.set_meta(slot, meta);
        }
    }
}

/// A slot is as it should be, unless it was in hand. `false`: nothing was to be repaired.
pub fn adopt(brain: &Brain, slot: u32, meta: Meta) -> Result<bool, Doubt> {
    if meta.reason == Some(IN_DOUBT) {
        return Err(Doubt::Ends(IN_DOUBT));
    }
    checks::words(brain, slot, meta)?;
    Ok(false)
}
