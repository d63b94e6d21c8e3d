//! How a brain goes on where another died.
//!
//! The journal has been made good already. What is left: for each slot, what the kernel did for the
//! brain that died before it could note it ([`protocol::truth`]); fds that no slot names; lists that
//! are this brain's own. Memory may hold anything after what has happened: a slot that contradicts
//! itself, its socket or another slot costs its own connection, and nothing else.

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
use crate::brain::Brain;
use crate::buffers;
use crate::checks::{self, Doubt};
use crate::close::CloseReason;
use crate::poison::InHand;
use crate::skipped::Skipped;
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::state::Head;
use crate::unix;
use crate::websocket::Window;

/// Takes over from the brain before.
pub fn recover(brain: &mut Brain) {
    brain.doubt_what_was_in_hand();
    brain.verdict = brain.count_death();
    let verdict = brain.verdict;
    let mut repaired = 0;
    let mut fds = HashSet::new();
    let mut doubtful = brain.rooms.take_doubtful();
    doubtful.extend(brain.passes.take_doubtful());
    let used = brain.slots.used();
    if let Some(at) = verdict.convicted_record() {
        brain.give_up_record(at);
    }
    brain.turn.begin(brain.state.get(Head::LogRead));
    let claims: Vec<_> = (0..used)
        .filter_map(|slot| Some((slot, claim(brain, slot, &mut fds)?)))
        .collect();
    for (slot, claim) in claims {
        brain.note_in_hand(InHand::Connection(slot));
        let adopted = match claim.and_then(|()| adopt(brain, slot)) {
            Ok(_) if doubtful.contains(&slot) => Err(Doubt::Speaks),
            adopted => adopted,
        };
        match adopted {
            Ok(true) => repaired += 1,
            Ok(false) => {}
            Err(doubt) => doubts(brain, slot, doubt, &mut doubtful),
        }
    }
    brain.nothing_in_hand();
    fault::point("worker:recover");
    sweep(brain);
    brain.hold_again();
    for slot in 0..used {
        let Some(meta) = brain.slots.meta(slot) else {
            continue;
        };
        if meta.has(Flag::Given) {
            brain.give_again(slot);
            continue;
        }
        if verdict.convicts(InHand::Connection(slot)) {
            brain.name_poison(slot);
            brain.begin_close(slot, CloseReason::Internal);
        } else if doubtful.contains(&slot) {
            log::error!(
                "{} has a slot that is corrupt: closed",
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
        if meta.has(Flag::Return) && meta.phase == Phase::Http {
            brain.part_with(slot);
        }
        fault::point("worker:recover-each");
    }
    brain.watch();
    if brain.state.get(Head::Missed) != 0 {
        brain.miss();
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

/// What the slot names becomes this brain's, if it is the slot's own: the socket, the buffers. All
/// slots come to that before anything is allocated, which would be what a later slot names. `None`:
/// nothing is left to go on with.
fn claim(brain: &mut Brain, slot: u32, fds: &mut HashSet<RawFd>) -> Option<Result<(), Doubt>> {
    if brain.slots.get(slot, Field::Meta) == 0 {
        return None;
    }
    brain.highest_cid = brain.highest_cid.max(brain.slots.cid(slot));
    let place = InHand::Connection(slot);
    brain.note_in_hand(place);
    if !checks::is_its_own(brain, slot, fds) {
        checks::disown(brain, slot);
        return None;
    }
    if brain.verdict.damns(place) {
        checks::drop_slot(brain, slot);
        return None;
    }
    brain.begin_anew(slot, true);
    if brain.slots.meta(slot)?.has(Flag::Lagging) {
        brain.begin_to_lag(slot);
    }
    checks::times(brain, slot);
    Some(checks::claim_buffers(brain, slot))
}

/// A slot that cannot be gone on with costs its own connection.
fn doubts(brain: &mut Brain, slot: u32, doubt: Doubt, doubtful: &mut HashSet<u32>) {
    match doubt {
        // Its peer may be another worker's by now.
        _ if brain.slots.meta(slot).is_some_and(|m| m.has(Flag::Given)) => {
            log::error!(
                "{} has a slot that is corrupt: forgotten",
                brain.slots.cid(slot)
            );
            brain.leave_rooms(slot);
            brain.forget(slot);
        }
        Doubt::Ends(reason) => brain.finish(slot, reason),
        Doubt::Speaks => _ = doubtful.insert(slot),
    }
}

/// Brings a slot up to the kernel's truth. `true`: something was to be repaired.
fn adopt(brain: &mut Brain, slot: u32) -> Result<bool, Doubt> {
    let meta = brain
        .slots
        .meta(slot)
        .ok_or(Doubt::Ends(CloseReason::Internal))?;
    if meta.has(Flag::Given) {
        // Another worker may be reading it by now.
        return Ok(false);
    }
    let truth = match truth::truth(meta.socket()) {
        Err(_) if meta.has(Flag::Unix) => return unix::adopt(brain, slot, meta),
        Ok(_) if meta.has(Flag::Unix) => return Err(Doubt::Speaks),
        truth => truth.map_err(|_| Doubt::Ends(CloseReason::SocketError))?,
    };
    if fault::naive(Naive::Truth) {
        return Ok(false);
    }
    // Closed both ways: what was read of it cannot be told any more.
    let truth = truth.ok_or(Doubt::Ends(CloseReason::SocketError))?;
    let wrote = repair_output(brain, slot, meta, truth.written).map_err(Doubt::Ends)?;
    let read = repair_input(brain, slot, meta, truth.consumed).map_err(|_| Doubt::Speaks)?;
    checks::words(brain, slot, meta)?;
    Ok(read || wrote)
}

/// Bytes that were read and not noted lie behind the noted ones.
fn repair_input(brain: &Brain, slot: u32, meta: Meta, consumed: u64) -> Result<bool, CloseReason> {
    let noted = brain.slots.get(slot, Field::Consumed);
    if consumed == noted || meta.phase == Phase::Closing {
        return Ok(false);
    }
    let word = brain.slots.get(slot, Field::Input);
    let extent = Extent::unpack(word).ok_or(CloseReason::Internal)?;
    let room = extent.capacity() - buffers::place(word, noted).min(extent.capacity());
    if consumed < noted || consumed - noted > room as u64 {
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
    let mut cursor = brain.owed_from(slot);
    let mut skipped = Skipped::default();
    let mut bytes = Vec::new();
    let (mut plain, mut frames) = (Vec::new(), Vec::new());
    while beyond > 0 {
        bytes.clear();
        let at = cursor;
        let Ok(Some(next)) = brain.log.next(at, &mut bytes) else {
            return Err(CloseReason::Internal);
        };
        cursor = next;
        frames.clear();
        if let Some(down) = Down::decode(&bytes) {
            plain.clear();
            let mut said = Vec::new();
            brain.frames_for(slot, at, &down, &mut skipped, &mut said);
            if !said.is_empty() {
                let encoding = meta.encoding();
                std::mem::take(&mut skipped).put(
                    |room| brain.rooms.name(room),
                    encoding,
                    &mut plain,
                );
                plain.append(&mut said);
            }
            match meta.encoding().inflated() {
                None => frames.extend_from_slice(&plain),
                Some(_) => (brain.deflater).put_frames(&plain, Window::LARGEST, &mut frames),
            }
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
    let old = Extent::unpack(brain.slots.get(slot, Field::Output));
    if !rest.is_empty() {
        let extent = buffers::keep(&brain.arena, rest).ok_or(CloseReason::Overloaded)?;
        let word = buffers::held(Some(extent), written);
        Slots::change(&mut record, slot, Field::Output, word);
    } else {
        Slots::change(&mut record, slot, Field::Output, 0);
    }
    brain.journal.commit(&mut record);
    if let Some(old) = old {
        brain.arena.free(old);
    }
    Ok(true)
}

/// Fds that no slot and no role knows were received and not noted; whoever gave them gives them
/// again.
fn sweep(brain: &Brain) {
    let mut known: HashSet<RawFd> = (0..=roles::LAST).collect();
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
