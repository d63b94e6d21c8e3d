//! What is held back in rooms ([`held`](crate::rooms::held)) and how it is given in the end.
//!
//! When a window ends, the messages become frames, once, and each member is owed those that are for it,
//! in the same write; with a `gap` before a message if others were left out for it. What a connection
//! is given is always what the log says from its cursor on, in that order, so that the next brain makes
//! the very same bytes: whoever is owed something else as well, is in another room that holds something
//! back, or has something to say, is given all of it out of the log at once, as one that lags is.

use protocol::fault;
use protocol::ids::Position;
use protocol::journal::Record;
use protocol::record::Down;

use crate::brain::Brain;
use crate::buffers;
use crate::client::{Lost, ToClient};
use crate::close::CloseReason;
use crate::frames::{self, given_up};
use crate::local::Mark;
use crate::owed::Piece;
use crate::poison::InHand;
use crate::rooms::held::{Held, Part, Waiting};
use crate::rooms::{Member, RoomIx};
use crate::skipped;
use crate::slots::{Field, Flag, Phase, Slots};
use crate::state::Head;
use crate::websocket::Window;

/// What is given to all members of a room.
struct Release {
    name: Vec<u8>,
    epoch: u64,
    /// The frame of the first that was not released before.
    first: u32,
    /// What was left out is told, too.
    ends: bool,
    /// Those to whom that is told out of the log.
    by_log: Vec<u32>,
}

impl Release {
    fn gap(&self, from: u64, to: u64) -> ToClient<'_> {
        let at = |offset| Position {
            epoch: self.epoch,
            offset,
        };
        skipped::gap(&self.name, at(from), at(to))
    }
}

impl Brain {
    /// From where in the log on the connection has not been given what concerns it, if it does not lag.
    pub(crate) fn owed_from(&self, slot: u32) -> u64 {
        let read = self.state.get(Head::LogRead);
        let held = self.rooms.held_from(&self.slots, slot);
        self.slots.get(slot, Field::Cursor).max(read.min(held))
    }

    /// This was said in a room, and waits.
    pub(crate) fn wait_in_room(&mut self, room: RoomIx, waiting: Waiting, bytes: usize) {
        let due = self.rooms.wait(room, waiting, bytes, self.now);
        self.release_at = self.release_at.min(due);
        fault::point("worker:hold");
    }

    /// Gives what has waited for long enough. To be called when what is new in the log is read.
    pub(crate) fn release_due(&mut self) {
        if !self.rooms.is_holding() {
            self.release_at = u64::MAX;
            return;
        }
        // Before the log overtakes it.
        let oldest = self.log.oldest();
        let near = oldest + (self.turn.read - oldest.min(self.turn.read)) / 4;
        let is_near = oldest > 0 && self.rooms.first_held() < near;
        if self.now < self.release_at && !is_near {
            return;
        }
        for room in self.rooms.holding() {
            if let Some(held) = self.rooms.take_held(room) {
                let ends = is_near || held.ends(self.now) || self.rooms.members(room).is_empty();
                if !self.release(room, held, ends) {
                    return self.lose_held();
                }
            }
        }
        self.release_at = self.rooms.next_due();
    }

    /// `ends`: what was left out is told, too. `false`: the log has lost it.
    fn release(&mut self, room: RoomIx, mut held: Box<Held>, ends: bool) -> bool {
        let is_due = ends || held.is_due(self.now);
        let mut by_log = Vec::new();
        let first = match is_due {
            true => self.say_held(room, &held),
            false => Some(0),
        };
        if let Some(first) = first.filter(|_| is_due) {
            let mut release = Release {
                name: self.rooms.name(room),
                epoch: self.rooms.position(room).epoch,
                first,
                ends,
                by_log: Vec::new(),
            };
            // One may have to be closed, and leaves.
            for member in self.rooms.members(room).to_vec() {
                self.release_to(member, &held, &mut release);
            }
            held.is_released();
            if ends {
                self.released.push(room);
            }
            by_log = release.by_log;
        }
        self.rooms.put_held(room, held);
        by_log.into_iter().for_each(|slot| self.give_held(slot));
        first.is_some()
    }

    /// The frames of what is to be given now: the first of them. `None`: the log has lost it.
    fn say_held(&mut self, room: RoomIx, held: &Held) -> Option<u32> {
        let name = self.rooms.name(room);
        let first = self.turn.count_said();
        let mut bytes = Vec::new();
        for waiting in &held.said[held.released..] {
            bytes.clear();
            self.log.next(waiting.at, &mut bytes).ok()??;
            self.note_in_hand(InHand::Log(waiting.at));
            let Some(Down::Message {
                position,
                from,
                data,
                ..
            }) = Down::decode(&bytes)
            else {
                return None;
            };
            let message = match self.is_given_up(waiting.at) {
                true => given_up(&name, position),
                false => {
                    fault::poison("worker:poison-log", data.bytes);
                    ToClient::Message {
                        room: &name,
                        position,
                        from,
                        data,
                    }
                }
            };
            self.make_said(room, waiting.at, waiting.after, waiting.offset, message);
        }
        self.nothing_in_hand();
        Some(first)
    }

    /// What one member is given.
    fn release_to(&mut self, member: Member, held: &Held, release: &mut Release) {
        let (epoch, ends) = (release.epoch, release.ends);
        let slot = member.slot;
        let begin = held.begin(self.slots.get(slot, Field::Cursor), member.after);
        // Wherever else it is, or will be, its cursor says what it lacks.
        let is_elsewhere = self.slots.has(slot, Flag::Given) || self.slots.has(slot, Flag::Unacked);
        if begin == held.said.len() || is_elsewhere {
            return;
        }
        let cid = self.slots.cid(slot);
        let frame = |place: usize| release.first + (place - held.released) as u32;
        if self.local(slot).is(Mark::Lagging) {
            // It takes it out of the log, where it counts as what waits for it.
            held.parts(begin.max(held.released), epoch, cid, |part| {
                if let Part::Said(from, to) = part {
                    self.deliveries += (to - from) as u64;
                    self.owe_lagging(member, frame(from), frame(to));
                }
            });
            return;
        }
        let is_alone =
            self.rooms.holds_in_one() || self.rooms.held_of(&self.slots, slot).next().is_none();
        let mut parts = std::mem::take(&mut self.parts);
        let is_for = held.is_for(begin, epoch, cid);
        let left_out = held.parts(begin, epoch, cid, |part| parts.push(part));
        if is_for {
            // All of it as pieces, if there is nothing else; or else out of the log, for which any will do.
            let whole = is_alone
                && !self.credits.of(slot).owes()
                && begin_is_new(&parts, held)
                && !(ends && left_out.is_some())
                && !self.slots.has(slot, Flag::Batch);
            for part in parts.drain(..) {
                match part {
                    Part::Said(from, to) if to > held.released => {
                        let from = from.max(held.released);
                        self.deliveries += (to - from) as u64;
                        self.owe_piece(slot, Piece::Said(frame(from), frame(to)), whole);
                    }
                    Part::Gap { from, to, after } if whole => {
                        self.gaps[Lost::Sampled as usize] += to - from + 1;
                        let gap = release.gap(from, to);
                        let (start, end) = self.make_answer(gap, member.encoding());
                        self.owe_piece(slot, Piece::Answer(start, end, after), whole);
                    }
                    _ => {}
                }
            }
        } else if let Some((from, to)) = left_out.filter(|_| ends && !self.credits.of(slot).owes())
        {
            match is_alone {
                true => self.tell_left_out(member, held, release.gap(from, to)),
                false => release.by_log.push(slot),
            }
        }
        parts.clear();
        self.parts = parts;
    }

    /// Nothing was for it for a while.
    fn tell_left_out(&mut self, member: Member, held: &Held, gap: ToClient<'_>) {
        if let ToClient::Gap { from, to, .. } = gap {
            self.gaps[Lost::Sampled as usize] += to.offset - from.offset + 1;
        }
        let (mut plain, mut frames) = (Vec::new(), Vec::new());
        frames::put(&mut plain, gap, member.encoding());
        match member.encoding().inflated() {
            Some(_) => (self.deflater).put_frames(&plain, Window::LARGEST, &mut frames),
            None => frames.append(&mut plain),
        }
        let cursor = held.said.last().map_or(0, |last| last.after);
        self.keep_bytes(member.slot, cursor, &frames);
        fault::point("worker:left-out");
    }

    /// These bytes are its own, with which it has all that the log says before `cursor`. It does not lag.
    fn keep_bytes(&mut self, slot: u32, cursor: u64, frames: &[u8]) {
        let mut out = buffers::output(&self.arena, &self.slots, slot, usize::MAX);
        if protocol::output::Output::put(&mut out, frames).is_err() {
            out.abandon();
            return self.finish(slot, CloseReason::Overloaded);
        }
        let mut record = Record::new();
        buffers::change_output(&out, &self.slots, slot, &mut record);
        Slots::change(&mut record, slot, Field::Cursor, cursor);
        self.journal.commit(&mut record);
        out.settle();
        self.touch(slot);
    }

    /// What waits for this connection is given to it, before something else happens to it.
    pub(crate) fn give_held(&mut self, slot: u32) {
        let waits = |(_, after, held): (RoomIx, u64, &Held)| {
            held.begin(self.slots.get(slot, Field::Cursor), after) < held.said.len()
        };
        if !self.rooms.is_holding() || !self.rooms.held_of(&self.slots, slot).any(waits) {
            return;
        }
        let Some(meta) = self.slots.meta(slot).filter(|meta| {
            let is_elsewhere = meta.has(Flag::Given) || meta.has(Flag::Unacked);
            meta.phase == Phase::Rooms && !meta.has(Flag::Lagging) && !is_elsewhere
        }) else {
            return;
        };
        // What this turn owes it is in the log, too.
        self.credits.take(slot);
        self.owe_by_log(slot, meta);
        if self.materialise(slot, usize::MAX) {
            self.touch(slot);
        }
    }

    /// Before a connection says something: it has heard what was said before, and what was not for it then
    /// is not for it later, in whatever rooms it may be by then.
    pub(crate) fn hear_first(&mut self, slot: u32) {
        if !self.rooms.is_holding() {
            return;
        }
        self.give_held(slot);
        let read = self.state.get(Head::LogRead);
        let lags = self.slots.has(slot, Flag::Lagging);
        if !lags && self.slots.get(slot, Field::Cursor) < read {
            self.slots.set(slot, Field::Cursor, read);
        }
    }

    /// The log has overtaken what is held back: those who wait for it are told that it is lost.
    pub(crate) fn lose_held(&mut self) {
        for slot in 0..self.slots.used() {
            let is_there = |meta: &crate::slots::Meta| {
                let is_elsewhere = meta.has(Flag::Given) || meta.has(Flag::Unacked);
                meta.phase == Phase::Rooms && !meta.has(Flag::Lagging) && !is_elsewhere
            };
            let Some(meta) = self.slots.meta(slot).filter(is_there) else {
                continue;
            };
            let cursor = self.slots.get(slot, Field::Cursor);
            let mut frames = Vec::new();
            let mut lost = 0;
            for (room, after, held) in self.rooms.held_of(&self.slots, slot) {
                let said = &held.said[held.begin(cursor, after)..];
                if let (Some(first), Some(last)) = (said.first(), said.last()) {
                    let before = self.rooms.position(room);
                    let position = |offset| Position { offset, ..before };
                    let gap = ToClient::Gap {
                        room: &self.rooms.name(room),
                        from: position(first.offset),
                        to: position(last.offset),
                        why: Lost::Overrun,
                    };
                    lost += said.len() as u64;
                    frames::put(&mut frames, gap, meta.encoding());
                }
            }
            self.gaps[Lost::Overrun as usize] += lost;
            if self.credits.of(slot).owes() && lost > 0 {
                // It is owed something else, too, of which it would not be told.
                self.credits.take(slot);
                self.begin_close(slot, CloseReason::Reconnect);
            } else if lost > 0 {
                self.keep_bytes(slot, self.turn.read, &frames);
            }
        }
        self.released = self.rooms.holding();
    }

    /// The turn is flushed: what was released is owed to nobody any more but by its slot.
    pub(crate) fn end_holds(&mut self) {
        if self.released.is_empty() {
            return;
        }
        for room in std::mem::take(&mut self.released) {
            fault::point("worker:released");
            self.rooms.end_hold(room);
        }
        self.release_at = self.rooms.next_due();
    }

    /// For a new brain: what is held back is read anew.
    pub(crate) fn hold_again(&mut self) {
        for room in self.rooms.holding() {
            if !self.read_held(room) {
                log::error!("the log has overtaken what was held back: its members are told");
                self.lose_unknown(room);
            }
        }
        self.release_at = self.rooms.next_due();
    }

    /// `false`: not all of it is there any more.
    fn read_held(&mut self, room: RoomIx) -> bool {
        let Some(mut at) = self.rooms.waiting(room).map(Held::from) else {
            return true;
        };
        let read = self.state.get(Head::LogRead);
        let number = self.rooms.number(room);
        let mut bytes = Vec::new();
        while at < read {
            bytes.clear();
            let Ok(Some(next)) = self.log.next(at, &mut bytes) else {
                return false;
            };
            if let Some(Down::Message {
                room: of,
                position,
                asker,
                share,
                data,
                ..
            }) = Down::decode(&bytes)
                && of == number
                && !self.verdict.damns(InHand::Log(at))
            {
                let waiting = Waiting {
                    at,
                    after: next,
                    offset: position.offset,
                    share,
                    said_by: asker.cid,
                };
                self.rooms.wait(room, waiting, data.bytes.len(), self.now);
                if position.offset > self.rooms.position(room).offset {
                    self.rooms.advance(room, position.offset);
                }
            }
            at = next;
        }
        if self
            .rooms
            .waiting(room)
            .is_some_and(|held| held.said.is_empty())
        {
            self.rooms.end_hold(room);
        }
        true
    }

    /// What was held back in the room is not known any more. Who has been given none of it is told by
    /// the answer of the master, whom this worker asks. Of who has been given some it is not known
    /// how much: they come again.
    fn lose_unknown(&mut self, room: RoomIx) {
        let from = self.rooms.waiting(room).map_or(0, Held::from);
        self.rooms.forget_hold(room);
        self.state.set(Head::Missed, 1);
        for member in self.rooms.members(room).to_vec() {
            let has_some = self.slots.get(member.slot, Field::Cursor) > from;
            if has_some && !self.slots.has(member.slot, Flag::Lagging) {
                self.begin_close(member.slot, CloseReason::Reconnect);
            }
        }
    }
}

/// None of these was released before: they have become frames in this turn.
fn begin_is_new(parts: &[Part], held: &Held) -> bool {
    parts.iter().all(|part| match part {
        Part::Said(from, _) => *from >= held.released,
        Part::Gap { .. } => true,
    })
}
