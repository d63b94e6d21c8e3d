//! Whether a slot can be gone on with. Its words are memory that outlives brains, and may hold
//! anything: what a new brain cannot believe costs that connection, and no other.

use std::collections::HashSet;
use std::os::fd::RawFd;

use protocol::arena::Extent;
use protocol::channel::cookie;

use crate::brain::Brain;
use crate::buffers;
use crate::close::CloseReason;
use crate::http;
use crate::slots::{Field, Flag, Meta, Phase};
use crate::websocket::Session;

/// A slot that cannot be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// What its peer was sent is in doubt: nothing more can be said.
    Ends(CloseReason),
    /// Something else is: its peer is told.
    Speaks,
}

/// Is the fd that the slot names the socket that it was made for, and no other slot's?
pub fn is_its_own(brain: &Brain, slot: u32, fds: &mut HashSet<RawFd>) -> bool {
    brain.slots.meta(slot).is_some_and(|meta| {
        let cookie = cookie(&meta.socket());
        cookie != 0 && cookie == brain.slots.get(slot, Field::Cookie) && fds.insert(meta.fd)
    })
}

/// The slot is given up, and closes nothing: its own socket, if there is one, is nobody's now, and
/// is swept.
pub fn disown(brain: &mut Brain, slot: u32) {
    let cid = brain.slots.cid(slot);
    log::error!("{cid} has a slot that is corrupt, and a socket that is not its own: given up");
    if brain.slots.meta(slot).is_some() {
        brain.leave_rooms(slot);
        brain.release_pass(slot);
    }
    // What is no connection's has no pass of its own.
    brain.slots.forget_pass(slot);
    for field in [Field::Input, Field::Output, Field::Message] {
        brain.slots.set(slot, field, 0);
    }
    brain.slots.release(slot);
}

/// The slot kills whoever touches it: its socket is swept.
pub fn drop_slot(brain: &mut Brain, slot: u32) {
    let cid = brain.slots.cid(slot);
    log::error!("{cid} kills even while it is closed: dropped");
    for field in [Field::Input, Field::Output, Field::Message, Field::Cells] {
        brain.slots.set(slot, field, 0);
    }
    brain.release_pass(slot);
    brain.rooms.forget_member(slot);
    brain.slots.release(slot);
}

/// The extents that the slot names become this arena's; its spans lie in them.
pub fn claim_buffers(brain: &Brain, slot: u32) -> Result<(), Doubt> {
    let get = |field| brain.slots.get(slot, field);
    let spans = [
        (Field::Input, get(Field::Parsed), get(Field::Consumed)),
        (Field::Message, 0, buffers::message_len(get(Field::Message))),
        // The last, since it decides what can still be said.
        (Field::Output, get(Field::Written), get(Field::Produced)),
    ];
    let mut result = Ok(());
    for (field, start, end) in spans {
        let word = get(field);
        let sound = match Extent::unpack(word) {
            Some(extent) if brain.arena.claim(extent) => {
                let before = match field {
                    Field::Message => 0,
                    _ => buffers::place(word, start),
                };
                let most = (extent.capacity() as u64).checked_sub(before as u64);
                start <= end && most.is_some_and(|most| end - start <= most)
            }
            Some(_) => {
                // Somebody else's, or nobody's: not to be freed with this slot.
                brain.slots.set(slot, field, 0);
                false
            }
            None => start == end && word == 0,
        };
        match (sound, field) {
            (true, _) => {}
            (false, Field::Output) => result = Err(Doubt::Ends(CloseReason::Internal)),
            (false, _) => result = Err(Doubt::Speaks),
        }
    }
    result
}

/// A deadline that is counted from the future would never come.
pub fn times(brain: &Brain, slot: u32) {
    for field in [Field::Heard, Field::Since, Field::Stalled] {
        if brain.slots.get(slot, field) > brain.now {
            brain.slots.set(slot, field, brain.now);
        }
    }
}

/// The words that stand for themselves.
pub fn words(brain: &Brain, slot: u32, meta: Meta) -> Result<(), Doubt> {
    let get = |field| brain.slots.get(slot, field);
    let session = [Field::Session0, Field::Session1, Field::Session2].map(get);
    let sound = match meta.phase {
        Phase::Http => http::State::unpack([session[0], session[1]]).is_some(),
        Phase::Echo | Phase::Rooms => Session::unpack(session).is_some(),
        Phase::Proxy | Phase::Closing => true,
    };
    // What lies before its cursor it would never be given.
    let reads = meta.phase == Phase::Rooms || meta.has(Flag::Lagging);
    if !sound || reads && get(Field::Cursor) > brain.log.head() {
        return Err(Doubt::Speaks);
    }
    Ok(())
}
