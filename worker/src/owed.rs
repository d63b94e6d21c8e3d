//! What a connection is owed, and how it goes out: bytes, then the log from its cursor.
//!
//! In most turns everything goes out in one `writev`: the connection's own bytes, then the frames
//! that the turn's records became. When the socket takes only a part, the rest of the frame that was
//! cut is kept as bytes, and the connection lags: what follows stays in the log, where it costs
//! nothing, until the socket has room. A connection that lags is not read.

use std::io::IoSlice;

use protocol::arena::Extent;
use protocol::fault;
use protocol::journal::Record;

use crate::brain::Brain;
use crate::buffers::{self, held};
use crate::client::ToClient;
use crate::close::CloseReason;
use crate::frames;
use crate::poison::InHand;
use crate::slots::{Field, Flag, Meta, Slots};
use crate::state::Head;

/// Parts of one `writev`.
const PARTS: usize = 64;

/// What one turn owes.
#[derive(Debug, Default)]
pub struct Turn {
    /// The log from `from` to `read` is this turn's.
    pub from: u64,
    pub read: u64,
    pub frames: Vec<u8>,
    refs: Vec<Ref>,
    /// Connections with something to write, or that may have room again.
    pub touched: Vec<u32>,
}

/// What a connection is owed from the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit {
    /// First and last of this turn, in [`Turn`]; 0: none.
    first: u32,
    last: u32,
    /// If it lags: bytes of messages that wait for it in the log, about, as far as they were said
    /// since `lags_from`: what lay there before, it could not have read either.
    pub bytes: u32,
    pub lags_from: u64,
}

/// Credits by slot: for those that ever had one, since most connections of some services have none.
#[derive(Debug, Default)]
pub struct Credits(Vec<Credit>);

impl Credits {
    pub fn of(&mut self, slot: u32) -> &mut Credit {
        let slot = slot as usize;
        if slot >= self.0.len() {
            self.0.resize(slot + 1, Credit::default());
        }
        &mut self.0[slot]
    }

    /// The slot is another connection's now.
    pub fn clear(&mut self, slot: u32) {
        if let Some(credit) = self.0.get_mut(slot as usize) {
            *credit = Credit::default();
        }
    }

    /// To be called now and then: the memory for slots from `used` on goes.
    pub fn rest(&mut self, used: u32) {
        self.0.truncate(used as usize);
        self.0.shrink_to_fit();
    }

    /// What this turn owes it, which is not owed any more; 0: nothing.
    fn take(&mut self, slot: u32) -> u32 {
        self.0.get_mut(slot as usize).map_or(0, |credit| {
            credit.last = 0;
            std::mem::take(&mut credit.first)
        })
    }
}

/// A frame for one connection.
#[derive(Clone, Copy, Debug)]
struct Ref {
    frame: (u32, u32),
    /// The log position behind its record.
    after: u64,
    /// Of the same connection, + 1.
    next: u32,
}

impl Turn {
    pub fn begin(&mut self, from: u64) {
        (self.from, self.read) = (from, from);
        self.frames.clear();
        self.refs.clear();
    }

    /// A frame that is made now; where it is in `frames`.
    pub fn frame(&mut self, message: ToClient<'_>) -> (u32, u32) {
        let start = self.frames.len();
        frames::put(&mut self.frames, message);
        (start as u32, self.frames.len() as u32)
    }

    pub fn owe(&mut self, credit: &mut Credit, after: u64, frame: (u32, u32)) {
        self.refs.push(Ref {
            frame,
            after,
            next: 0,
        });
        let this = self.refs.len() as u32;
        match credit.last {
            0 => credit.first = this,
            last => self.refs[last as usize - 1].next = this,
        }
        credit.last = this;
    }

    fn refs_from(&self, first: u32) -> impl Iterator<Item = &Ref> {
        let get = |at: u32| at.checked_sub(1).map(|at| &self.refs[at as usize]);
        std::iter::successors(get(first), move |r| get(r.next))
    }
}

/// One write, which is asked of the kernel again if a signal comes in between.
pub(crate) fn write(meta: Meta, parts: &[IoSlice<'_>]) -> nix::Result<usize> {
    loop {
        let written = match parts {
            [] => Ok(0),
            [one] => nix::unistd::write(meta.socket(), one),
            _ => nix::sys::uio::writev(meta.socket(), parts),
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
            self.local(slot).touched = false;
            self.flush_one(slot);
        }
        // The list keeps its memory; what was touched meanwhile waits for the next turn.
        let meanwhile = std::mem::replace(&mut self.turn.touched, touched);
        for slot in meanwhile {
            self.local(slot).touched = false;
            self.touch(slot);
            if self.again.last() != Some(&slot) {
                self.again.push(slot);
            }
        }
        self.mind_the_lagging();
        self.nothing_in_hand();
        fault::point("worker:flushed");
        if self.turn.read != self.turn.from {
            self.state.set(Head::LogRead, self.turn.read);
        }
    }

    /// What waits for this one.
    pub(crate) fn flush_one(&mut self, slot: u32) {
        let first = self.credits.take(slot);
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        if meta.has(Flag::Unacked) || meta.has(Flag::Given) {
            return;
        }
        self.note_in_hand(InHand::Connection(slot));
        if meta.has(Flag::Lagging) {
            return self.catch_up(slot);
        }
        let pending = buffers::unwritten(&self.arena, &self.slots, slot);
        let waiting = pending.len();
        let mut owed = 0;
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        if waiting > 0 {
            parts[0] = IoSlice::new(pending);
            count = 1;
        }
        let mut run: Option<(u32, u32)> = None;
        let frames = &self.turn.frames;
        let slice = |(start, end): (u32, u32)| IoSlice::new(&frames[start as usize..end as usize]);
        for r in self.turn.refs_from(first) {
            owed += (r.frame.1 - r.frame.0) as usize;
            run = match run {
                // Frames of one room lie side by side.
                Some((start, end)) if end == r.frame.0 => Some((start, r.frame.1)),
                Some(whole) => {
                    if count < PARTS {
                        parts[count] = slice(whole);
                        count += 1;
                    }
                    Some(r.frame)
                }
                None => Some(r.frame),
            };
        }
        if let Some(whole) = run
            && count < PARTS
        {
            parts[count] = slice(whole);
            count += 1;
        }
        let parts = &parts[..count];
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        let n = match write(meta, parts) {
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
        self.note_written(slot, meta, first, waiting, owed, n);
        if n == offered && offered < waiting + owed {
            // The socket is not full, so that it has room again is nothing that will be told.
            self.catch_up(slot);
        }
    }

    /// `n` bytes have gone out, of `waiting` own ones and `owed` of the turn's frames.
    fn note_written(
        &mut self,
        slot: u32,
        meta: Meta,
        first: u32,
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
            Slots::change(&mut record, slot, Field::Cursor, self.turn.read);
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
            self.note_cut(slot, meta, first, waiting, n);
        }
        self.settle(slot, n);
    }

    /// The socket has taken a part of what the turn owes: the rest of the record that was cut
    /// becomes bytes, the records behind it stay in the log.
    fn note_cut(&mut self, slot: u32, meta: Meta, first: u32, waiting: usize, n: usize) {
        let mut gone = n.saturating_sub(waiting);
        let mut cursor = self.turn.from.max(self.slots.get(slot, Field::Cursor));
        let mut rest = Vec::new();
        for r in self.turn.refs_from(first) {
            let frame = &self.turn.frames[r.frame.0 as usize..r.frame.1 as usize];
            let whole = gone >= frame.len();
            // A record may have become two frames: its answer, and the message itself.
            if !whole && gone == 0 && cursor != r.after {
                break;
            }
            rest.extend_from_slice(&frame[gone.min(frame.len())..]);
            gone = gone.saturating_sub(frame.len());
            cursor = r.after;
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
        let Some(meta) = self.slots.meta(slot) else {
            return;
        };
        let waits = self.slots.pending(slot) > 0 || meta.has(Flag::Lagging);
        let stalled = self.slots.get(slot, Field::Stalled);
        if !waits {
            if stalled != 0 {
                self.slots.set(slot, Field::Stalled, 0);
            }
            if std::mem::take(&mut self.local(slot).waits) {
                self.again.push(slot);
            }
            buffers::release_empty(&self.arena, &self.slots, slot);
            self.end_if_all_is_said(slot);
        } else if stalled == 0 || n > 0 {
            self.slots.set(slot, Field::Stalled, self.now);
            self.reschedule(slot);
        }
    }
}
