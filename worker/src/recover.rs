//! How a brain goes on where another died.
//!
//! The journal has been made good already. What is left: for each slot, what the kernel did for the
//! brain that died before it could note it ([`protocol::truth`]); fds that no slot names; lists that
//! are this brain's own. And the rule for what kills brains: three deaths at one place, and that
//! place is given up.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use protocol::arena::Extent;
use protocol::fault::{self, Naive};
use protocol::guard;
use protocol::journal::Record;
use protocol::record::Down;
use protocol::roles;
use protocol::truth;

use crate::birth::borrowed;
use crate::brain::{Brain, Local};
use crate::buffers;
use crate::close::CloseReason;
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::state::Head;

/// So many deaths at one place give it up.
const DEATHS: u64 = 3;

/// What the brain works on, noted before the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InHand {
    Connection(u32),
    Log(u64),
}

impl InHand {
    fn pack(self) -> u64 {
        match self {
            InHand::Connection(slot) => 1 << 62 | u64::from(slot),
            InHand::Log(at) => 2 << 62 | at,
        }
    }

    fn unpack(word: u64) -> Option<InHand> {
        match word >> 62 {
            1 => Some(InHand::Connection(word as u32)),
            2 => Some(InHand::Log(word & !(3 << 62))),
            _ => None,
        }
    }
}

impl Brain {
    pub fn note_in_hand(&self, in_hand: InHand) {
        self.state.set(Head::InHand, in_hand.pack());
    }

    /// How far the connection has come, for the count of deaths at one place.
    fn input_offset(&self, in_hand: InHand) -> u64 {
        match in_hand {
            InHand::Connection(slot) => self.slots.get(slot, Field::Parsed),
            InHand::Log(at) => at,
        }
    }
}

/// Takes over from the brain before.
pub fn recover(brain: &mut Brain) {
    let poisoned = count_death(brain);
    let mut repaired = 0;
    let used = brain.slots.used();
    brain.turn.begin(brain.state.get(Head::LogRead));
    for slot in 0..used {
        brain.highest_cid = brain.highest_cid.max(brain.slots.cid(slot));
        if brain.slots.get(slot, Field::Meta) != 0 {
            match adopt(brain, slot) {
                Ok(true) => repaired += 1,
                Ok(false) => {}
                Err(reason) => give_up(brain, slot, reason),
            }
        }
    }
    fault::point("worker:recover");
    sweep(brain);
    for slot in 0..used {
        let Some(meta) = brain.slots.meta(slot) else {
            continue;
        };
        if meta.has(Flag::Given) {
            brain.give_again(slot);
            continue;
        }
        if poisoned == Some(InHand::Connection(slot)) {
            log::error!(
                "{} has killed {DEATHS} brains: closed",
                brain.slots.cid(slot)
            );
            brain.begin_close(slot, CloseReason::Internal);
        } else if let Some(reason) = meta.reason
            && !meta.has(Flag::Leaving)
        {
            // Its last step had been taken.
            brain.begin_close(slot, reason);
        }
        if meta.has(Flag::Unacked) {
            // The ack may have been sent or not; it is sent again, and decides.
            brain.await_ack(slot);
        } else {
            brain.begin(slot);
        }
        fault::point("worker:recover-each");
    }
    if let Some(InHand::Log(at)) = poisoned {
        log::error!("the log record at {at} has killed {DEATHS} brains: skipped");
        let mut bytes = Vec::new();
        if let Ok(Some(next)) = brain.log.next(at, &mut bytes) {
            brain.state.set(Head::LogRead, next);
        }
    }
    if brain.life.number > 1 {
        log::warn!(
            "life {}: {} connections go on, {repaired} of them repaired",
            brain.life.number,
            brain.slots.live()
        );
        brain.forget_row = true;
    }
}

/// Counts deaths at one place without progress; returns a place that has had its number.
fn count_death(brain: &Brain) -> Option<InHand> {
    let in_hand = InHand::unpack(brain.state.get(Head::InHand))?;
    let offset = brain.input_offset(in_hand);
    let again = brain.state.get(Head::DeathPlace) == in_hand.pack()
        && brain.state.get(Head::DeathInput) == offset;
    let deaths = if again {
        brain.state.get(Head::Deaths) + 1
    } else {
        1
    };
    brain.state.set(Head::DeathPlace, in_hand.pack());
    brain.state.set(Head::DeathInput, offset);
    brain.state.set(Head::Deaths, deaths);
    brain.state.set(Head::InHand, 0);
    (deaths >= DEATHS).then_some(in_hand)
}

/// Checks a slot and brings it up to the kernel's truth. `true`: something was to be repaired.
fn adopt(brain: &mut Brain, slot: u32) -> Result<bool, CloseReason> {
    let meta = brain.slots.meta(slot).ok_or(CloseReason::Internal)?;
    claim_buffers(brain, slot)?;
    let local = brain.local(slot);
    *local = Local {
        generation: local.generation.wrapping_add(1),
        readable: true,
        lagging: meta.has(Flag::Lagging),
        ..Default::default()
    };
    if meta.has(Flag::Lagging) {
        brain.lagging.push(slot);
    }
    if meta.has(Flag::Given) {
        // Another worker may be reading it by now.
        return Ok(false);
    }
    let truth = truth::truth(meta.socket()).map_err(|_| CloseReason::SocketError)?;
    if fault::naive(Naive::Truth) {
        return Ok(false);
    }
    // Closed both ways: what was read of it cannot be told any more.
    let truth = truth.ok_or(CloseReason::SocketError)?;
    let read = repair_input(brain, slot, meta, truth.consumed)?;
    let wrote = repair_output(brain, slot, meta, truth.written)?;
    Ok(read || wrote)
}

/// The extents that the slot names become this arena's; its spans lie in them.
fn claim_buffers(brain: &Brain, slot: u32) -> Result<(), CloseReason> {
    let get = |field| brain.slots.get(slot, field);
    let mut sound = true;
    let spans = [
        (
            Field::InExtent,
            get(Field::InBase),
            get(Field::Parsed),
            get(Field::Consumed),
        ),
        (
            Field::OutExtent,
            get(Field::OutBase),
            get(Field::Written),
            get(Field::Produced),
        ),
        (Field::MessageExtent, 0, 0, get(Field::MessageLen)),
    ];
    for (field, base, start, end) in spans {
        match Extent::unpack(get(field)) {
            Some(extent) if brain.arena.claim(extent) => {
                let inside =
                    base <= start && start <= end && end - base <= extent.capacity() as u64;
                sound &= inside;
            }
            Some(_) => {
                // Somebody else's, or nobody's: not to be freed with this slot.
                brain.slots.set(slot, field, 0);
                sound = false;
            }
            None => sound &= start == end,
        }
    }
    if sound {
        Ok(())
    } else {
        Err(CloseReason::Internal)
    }
}

/// Bytes that were read and not noted lie behind the noted ones.
fn repair_input(brain: &Brain, slot: u32, meta: Meta, consumed: u64) -> Result<bool, CloseReason> {
    let noted = brain.slots.get(slot, Field::Consumed);
    if consumed == noted || meta.phase == Phase::Closing {
        return Ok(false);
    }
    let extent =
        Extent::unpack(brain.slots.get(slot, Field::InExtent)).ok_or(CloseReason::Internal)?;
    let end = consumed
        .checked_sub(brain.slots.get(slot, Field::InBase))
        .ok_or(CloseReason::Internal)?;
    if consumed < noted || end > extent.capacity() as u64 {
        return Err(CloseReason::Internal);
    }
    brain.slots.set(slot, Field::Consumed, consumed);
    Ok(true)
}

/// Bytes that were written and not noted: of its own, and behind them of what the log owed it.
fn repair_output(
    brain: &mut Brain,
    slot: u32,
    meta: Meta,
    written: u64,
) -> Result<bool, CloseReason> {
    let noted = brain.slots.get(slot, Field::Written);
    let produced = brain.slots.get(slot, Field::Produced);
    if written == noted {
        return Ok(false);
    }
    if written < noted {
        return Err(CloseReason::Internal);
    }
    if written <= produced {
        brain.slots.set(slot, Field::Written, written);
        return Ok(true);
    }
    // Only a connection that did not lag is written frames straight from a turn.
    if meta.has(Flag::Lagging) {
        return Err(CloseReason::Internal);
    }
    let mut beyond = (written - produced) as usize;
    let mut cursor = brain
        .slots
        .get(slot, Field::Cursor)
        .max(brain.state.get(Head::LogRead));
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    while beyond > 0 {
        bytes.clear();
        let Ok(Some(next)) = brain.log.next(cursor, &mut bytes) else {
            return Err(CloseReason::Internal);
        };
        cursor = next;
        frames.clear();
        if let Some(down) = Down::decode(&bytes) {
            brain.frames_for(slot, &down, &mut frames);
        }
        if beyond < frames.len() {
            break;
        }
        beyond -= frames.len();
        frames.clear();
    }
    let rest = &frames[beyond.min(frames.len())..];
    let mut record = Record::new();
    Slots::change(&mut record, slot, Field::Written, written);
    Slots::change(
        &mut record,
        slot,
        Field::Produced,
        written + rest.len() as u64,
    );
    Slots::change(&mut record, slot, Field::Cursor, cursor);
    let old = Extent::unpack(brain.slots.get(slot, Field::OutExtent));
    if !rest.is_empty() {
        let extent = buffers::keep(&brain.arena, rest).ok_or(CloseReason::Overloaded)?;
        Slots::change(
            &mut record,
            slot,
            Field::OutExtent,
            Extent::pack(Some(extent)),
        );
        Slots::change(&mut record, slot, Field::OutBase, written);
    } else {
        Slots::change(&mut record, slot, Field::OutExtent, 0);
    }
    brain.journal.commit(&mut record);
    if let Some(old) = old {
        brain.arena.free(old);
    }
    Ok(true)
}

/// A slot that cannot be gone on with costs its own connection.
fn give_up(brain: &mut Brain, slot: u32, reason: CloseReason) {
    match brain.slots.meta(slot) {
        // Its peer may be another worker's by now.
        Some(meta) if meta.has(Flag::Given) => {
            brain.leave_rooms(slot);
            brain.forget(slot);
        }
        Some(_) => brain.finish(slot, reason),
        None => {
            log::error!("slot {slot} is corrupt and given up");
            brain.slots.release(slot);
        }
    }
}

/// Fds that no slot and no role knows were received and not noted; whoever gave them gives them
/// again.
fn sweep(brain: &Brain) {
    let mut known: HashSet<RawFd> = (0..=roles::GUARD_BELL).collect();
    known.insert(brain.life.guard.as_raw_fd());
    known.insert(brain.poll.as_raw_fd());
    known.extend(
        (0..brain.slots.used())
            .filter_map(|slot| brain.slots.meta(slot))
            .map(|meta| meta.fd),
    );
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        if !known.contains(&fd) && is_leftover(fd) {
            let _ = nix::unistd::close(fd);
        }
    }
}

/// A socket, or an epoll of a brain before: what this brain has opened itself meanwhile is neither
/// or is known.
fn is_leftover(fd: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|target| {
        let target = target.to_string_lossy();
        target.starts_with("socket:")
            || target.contains("[eventpoll]")
            || target.contains("[eventfd]")
            || target.contains(crate::part::FILE)
    })
}

/// Execs the guard program over this process, whose guard is gone; returns only if that fails.
pub fn become_guard(brain: &Brain) -> io::Error {
    let mut keep: Vec<BorrowedFd<'static>> = roles::FROM_MASTER.map(borrowed).to_vec();
    keep.extend([roles::STATE, roles::GUARD_BELL].map(borrowed));
    for slot in 0..brain.slots.used() {
        if let Some(meta) = brain.slots.meta(slot) {
            keep.push(borrowed(meta.fd));
        }
    }
    let args: Result<Vec<CString>, _> = std::iter::once("baton-worker".to_owned())
        .chain(brain.args.to_args())
        .map(CString::new)
        .collect();
    match args {
        Ok(args) => guard::exec_over_self(borrowed(roles::PROGRAM), &args, &keep),
        Err(e) => io::Error::other(e),
    }
}
