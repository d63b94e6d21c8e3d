//! How what a connection is owed goes out: its own bytes, then the log from its cursor.
//!
//! In most turns everything goes out in one `writev`: the connection's own bytes, then the frames
//! that the turn's records became ([`owed`](crate::owed)). When the socket takes only a part, the rest of
//! the frame that was cut is kept as bytes, and the connection lags: what follows stays in the log, where
//! it costs nothing, until the socket has room. A connection that lags is not read.

use std::io::IoSlice;
use std::os::fd::RawFd;

use arrayvec::ArrayVec;
use nix::sys::socket::{MsgFlags, send, sendmsg};
use protocol::arena::Extent;
use protocol::fault;
use protocol::journal::Record;

use crate::brain::Brain;
use crate::buffers::{self, held};
use crate::close::CloseReason;
use crate::local::Mark;
use crate::poison::InHand;
use crate::slots::{Field, Flag, Meta, MetaWord, Phase, Slots};
use crate::state::Head;

/// Parts of one `writev`.
const PARTS: usize = 64;

/// One write, which is asked of the kernel again if a signal comes in between. (`send` is a shorter way
/// through the kernel than `write`, which is for files of any kind.)
pub(crate) fn write(fd: RawFd, parts: &[IoSlice<'_>]) -> nix::Result<usize> {
    loop {
        let written = match parts {
            [] => Ok(0),
            [one] => send(fd, one, MsgFlags::MSG_NOSIGNAL),
            _ => sendmsg::<()>(fd, parts, &[], MsgFlags::MSG_NOSIGNAL, None),
        };
        if written != Err(nix::Error::EINTR) {
            return written;
        }
    }
}

impl Brain {
    /// Everything that waits goes out; then the turn's part of the log is done with.
    pub fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.turn.touched);
        for slot in touched.drain(..) {
            self.local(slot).set(Mark::Touched, false);
            self.flush_one(slot);
        }
        // The list keeps its memory; what was touched meanwhile waits for the next turn.
        let meanwhile = std::mem::replace(&mut self.turn.touched, touched);
        for slot in meanwhile {
            self.local(slot).set(Mark::Touched, false);
            self.touch(slot);
            if self.again.last() != Some(&slot) {
                self.again.push(slot);
            }
        }
        self.mind_the_lagging();
        self.nothing_in_hand();
        fault::point("worker:flushed");
        self.rooms.settle();
        if self.turn.read != self.turn.from {
            self.state.set(Head::LogRead, self.turn.read);
        }
        self.ring_has_room();
        self.end_holds();
    }

    /// What has been answered in the log so far makes room in the ring.
    fn ring_has_room(&mut self) {
        let kept = self.ring_kept();
        let Some(answered) = self.turn.answered.take().filter(|at| *at != kept) else {
            return;
        };
        self.state.set(Head::Answered, answered);
        // Who was the first to find it full is the last this time: who has much to say would fill it
        // again before anybody else.
        let mut waiters = std::mem::take(&mut self.ring_waiters);
        if !waiters.is_empty() {
            waiters.rotate_left(1);
        }
        self.again.append(&mut waiters);
    }

    /// What waits for this one.
    pub(crate) fn flush_one(&mut self, slot: u32) {
        let (first, whole) = self.credits.take(slot);
        let Some(meta) = self.slots.known(slot) else {
            return;
        };
        if meta.has(Flag::Unacked) || meta.has(Flag::Given) {
            return;
        }
        self.note_in_hand(InHand::Connection(slot));
        if meta.has(Flag::Lagging) {
            return self.catch_up(slot);
        }
        // Of what is held back it must not be given something later before something else.
        let is_held =
            !whole && self.rooms.is_holding() && self.rooms.held_from(&self.slots, slot) < u64::MAX;
        if first != 0 && (is_held || meta.has(Flag::Batch)) {
            self.owe_by_log(slot, meta.meta());
            return self.catch_up(slot);
        }
        let cursor = match whole {
            true => self.turn.behind(first),
            false => self.turn.read,
        };
        let pending = buffers::unwritten(&self.arena, &self.slots, slot);
        let waiting = pending.len();
        let mut owed = 0;
        let mut offered = waiting;
        let mut parts = ArrayVec::<_, PARTS>::new();
        if waiting > 0 {
            parts.push(IoSlice::new(pending));
        }
        for piece in self.turn.pieces(first) {
            let bytes = self.turn.bytes(piece, meta.meta().encoding());
            owed += bytes.len();
            if parts.try_push(IoSlice::new(bytes)).is_ok() {
                offered += bytes.len();
            }
        }
        let written = write(meta.fd(), &parts);
        drop(parts);
        let n = match written {
            Ok(n) => n,
            Err(nix::Error::EAGAIN) => 0,
            Err(e) => {
                log::debug!("{} write: {e}", self.slots.cid(slot));
                return self.finish(slot, CloseReason::SocketError);
            }
        };
        if n > 0 {
            fault::point("worker:write");
        }
        if n > 0 && n < waiting + owed {
            fault::point("worker:write-part");
        }
        self.note_written(slot, meta, (first, cursor), waiting, owed, n);
        if n == offered && offered < waiting + owed {
            // The socket is not full, so that it has room again is nothing that will be told.
            self.catch_up(slot);
        }
    }

    /// What becomes one frame, or of which something was held back, is committed before it is written: it
    /// goes the way of those who lag.
    pub(crate) fn owe_by_log(&mut self, slot: u32, meta: Meta) {
        let cursor = self.owed_from(slot);
        let mut record = Record::new();
        let meta = meta.with(Flag::Lagging, true);
        Slots::change(&mut record, slot, Field::Cursor, cursor);
        Slots::change(&mut record, slot, Field::Meta, meta.pack());
        self.journal.commit(&mut record);
        self.begin_to_lag(slot);
    }

    /// `n` bytes have gone out, of `waiting` own ones and `owed` of the turn's frames, of which it has all
    /// up to `cursor` with them.
    fn note_written(
        &mut self,
        slot: u32,
        meta: MetaWord,
        (first, cursor): (u32, u64),
        waiting: usize,
        owed: usize,
        n: usize,
    ) {
        let written = self.slots.get(slot, Field::Written) + n as u64;
        if owed == 0 {
            if n > 0 {
                self.slots.set(slot, Field::Written, written);
            }
        } else if n == waiting + owed {
            let mut record = Record::new();
            Slots::change(&mut record, slot, Field::Written, written);
            Slots::change(&mut record, slot, Field::Produced, written);
            Slots::change(&mut record, slot, Field::Cursor, cursor);
            let old = Extent::unpack(self.slots.get(slot, Field::Output));
            if let Some(old) = old {
                // The frames were never in it: what has been produced ends elsewhere now.
                Slots::change(&mut record, slot, Field::Output, 0);
                self.journal.commit(&mut record);
                fault::point("worker:written");
                self.arena.free(old);
            } else {
                self.journal.commit(&mut record);
            }
        } else {
            self.note_cut(slot, meta.meta(), first, waiting, n);
        }
        self.settle(slot, n);
    }

    /// The socket has taken a part of what the turn owes: the rest of the record that was cut
    /// becomes bytes, the records behind it stay in the log.
    fn note_cut(&mut self, slot: u32, meta: Meta, first: u32, waiting: usize, n: usize) {
        let mut gone = n.saturating_sub(waiting);
        let mut cursor = self.owed_from(slot);
        let mut rest = Vec::new();
        for (frame, after) in self.turn.frames(first, meta.encoding()) {
            let whole = gone >= frame.len();
            // A record may have become two frames: its answer, and the message itself.
            if !whole && gone == 0 && cursor != after {
                break;
            }
            rest.extend_from_slice(&frame[gone.min(frame.len())..]);
            gone = gone.saturating_sub(frame.len());
            cursor = after;
        }
        let written = self.slots.get(slot, Field::Written) + n as u64;
        let mut record = Record::new();
        Slots::change(&mut record, slot, Field::Written, written);
        Slots::change(&mut record, slot, Field::Cursor, cursor);
        Slots::change(
            &mut record,
            slot,
            Field::Meta,
            meta.with(Flag::Lagging, true).pack(),
        );
        let mut old = None;
        if n >= waiting {
            // All own bytes have gone, so the rest begins a new extent.
            old = Extent::unpack(self.slots.get(slot, Field::Output));
            let mut new = None;
            if !rest.is_empty() {
                new = buffers::keep(&self.arena, &rest);
                if new.is_none() {
                    return self.finish(slot, CloseReason::Overloaded);
                }
            }
            let produced = written + rest.len() as u64;
            Slots::change(&mut record, slot, Field::Output, held(new, written));
            Slots::change(&mut record, slot, Field::Produced, produced);
        }
        fault::point("worker:cut");
        self.journal.commit(&mut record);
        old.into_iter().for_each(|old| self.arena.free(old));
        self.begin_to_lag(slot);
    }

    /// After a write: does something still wait, and since when?
    pub(crate) fn settle(&mut self, slot: u32, n: usize) {
        let Some(meta) = self.slots.known(slot) else {
            return;
        };
        let waits = self.slots.pending(slot) > 0 || meta.has(Flag::Lagging);
        let stalled = self.slots.get(slot, Field::Stalled);
        if !waits {
            if stalled != 0 {
                self.slots.set(slot, Field::Stalled, 0);
            }
            if self.local(slot).set(Mark::Waits, false) {
                self.again.push(slot);
            }
            buffers::release_empty(&self.arena, &self.slots, slot);
            if meta.phase() == Phase::Closing {
                self.end_if_all_is_said(slot);
            }
        } else if stalled == 0 || n > 0 {
            self.slots.set(slot, Field::Stalled, self.now);
            self.reschedule(slot);
        }
    }
}
