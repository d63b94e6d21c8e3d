//! Connections that lag: what they are owed stays in the log, from their cursors on, and becomes bytes
//! as their sockets have room. For who reads too slowly the oldest is dropped, and said so, or it is
//! closed.

use std::io::IoSlice;

use protocol::fault;
use protocol::ids::Position;
use protocol::journal::Record;
use protocol::record::Down;
use protocol::settings::Slow;

use crate::brain::Brain;
use crate::buffers;
use crate::client::{Lost, ToClient};
use crate::close::CloseReason;
use crate::flush::write;
use crate::frames;
use crate::heard::Heard;
use crate::local::Mark;
use crate::moderation::Leaves;
use crate::poison::InHand;
use crate::rooms::RoomIx;
use crate::skipped::Skipped;
use crate::slots::{Field, Flag, Meta, Slots};
use crate::websocket::{Deflater, Window};

/// Bytes that a connection that lags takes out of the log at once.
const CATCH_UP: usize = 64 << 10;

impl Brain {
    /// What waits counts against the connection from now on. What is in the log already does not:
    /// there may be much of it because this worker was away, or the connection was moved.
    pub(crate) fn begin_to_lag(&mut self, slot: u32) {
        let head = self.log.head();
        let credit = self.credits.of(slot);
        (credit.bytes, credit.lags_from) = (0, head);
        if !self.local(slot).set(Mark::Lagging, true) {
            self.lagging.push(slot);
        }
    }

    /// A connection that lags: its bytes, then the log from its cursor, as far as its socket takes.
    pub(crate) fn catch_up(&mut self, slot: u32) {
        let mut total = 0;
        loop {
            let pending = buffers::unwritten(&self.arena, &self.slots, slot);
            if !pending.is_empty() {
                let Some(meta) = self.slots.meta(slot) else {
                    return;
                };
                let asked = pending.len();
                match write(meta.fd, &[IoSlice::new(pending)]) {
                    Ok(n) => {
                        fault::point("worker:catch-up");
                        let written = self.slots.get(slot, Field::Written) + n as u64;
                        self.slots.set(slot, Field::Written, written);
                        total += n;
                        if n < asked {
                            break;
                        }
                    }
                    Err(nix::Error::EAGAIN) => break,
                    Err(_) => return self.finish(slot, CloseReason::SocketError),
                }
            }
            if !self
                .slots
                .meta(slot)
                .is_some_and(|meta| meta.has(Flag::Lagging))
            {
                break;
            }
            if !self.materialise(slot, CATCH_UP) {
                return;
            }
        }
        self.settle(slot, total);
    }

    /// Turns up to about `most` bytes of what the connection is owed from the log into bytes of its
    /// own. `false`: it had to be closed.
    pub fn materialise(&mut self, slot: u32, most: usize) -> bool {
        let (mut frames, mut rest) = (Vec::new(), Rest::default());
        let cursor = self.each_owed(slot, &mut rest, |_, record, next| {
            record.put(&mut frames);
            if frames.len() < most {
                Some(next)
            } else {
                None
            }
        });
        self.put_rest(slot, rest, &mut frames);
        let leaves = self.met.take();
        self.keep_owed(slot, cursor, &frames, leaves) && !self.has_left(slot, leaves)
    }

    /// What the connection is owed so far becomes bytes of its own, and these frames with it, so that
    /// it has everything up to `cursor`. For what no record of the log says.
    pub(crate) fn give_frames(&mut self, slot: u32, cursor: u64, frames: &[u8]) {
        self.give_last(slot, cursor, frames, None);
    }

    /// The same; and with what makes it have that, it leaves, in one record.
    pub(crate) fn give_last(
        &mut self,
        slot: u32,
        cursor: u64,
        frames: &[u8],
        leaves: Option<Leaves>,
    ) {
        if !self.local(slot).is(Mark::Lagging) {
            let from = self.owed_from(slot);
            self.slots.set(slot, Field::Cursor, from);
            self.credits.take(slot);
        }
        let (mut bytes, mut rest) = (Vec::new(), Rest::default());
        let owed = self.each_owed(slot, &mut rest, |_, record, next| {
            record.put(&mut bytes);
            Some(next)
        });
        self.put_rest(slot, rest, &mut bytes);
        if let Some(met) = self.met.take() {
            // It was elsewhere when that was decided: from there it goes on, if it does.
            let kept = self.keep_owed(slot, owed, &bytes, Some(met));
            if kept && !self.has_left(slot, Some(met)) {
                self.give_last(slot, cursor, frames, leaves);
            }
            return;
        }
        bytes.extend_from_slice(frames);
        if self.keep_owed(slot, owed.map(|_| cursor), &bytes, leaves) {
            self.touch(slot);
        }
    }

    /// Drops the oldest messages that wait for a connection until half of what may wait is left,
    /// and says so.
    fn drop_oldest(&mut self, slot: u32) -> bool {
        let keep = self.settings.rooms.slow_bytes / 2;
        let mut excess = (self.credits.of(slot).bytes as usize).saturating_sub(keep);
        let mut kept = Vec::new();
        let mut gaps: Vec<(RoomIx, Position, Position)> = Vec::new();
        let mut lose = |room, from, to| match gaps.iter_mut().find(|gap| gap.0 == room) {
            Some(gap) => gap.2 = to,
            None => gaps.push((room, from, to)),
        };
        let mut dropped = 0;
        let mut rest = Rest::default();
        let cursor = self.each_owed(slot, &mut rest, |_, record, next| {
            let message = record.bytes.len() - record.answer;
            kept.extend_from_slice(&record.bytes[..record.answer]);
            // What was left out anyway is told with it.
            for (room, from, to) in record.skipped.iter() {
                lose(room, from, to);
            }
            if let Some((room, position)) = record.message {
                lose(room, position, position);
                dropped += 1;
                excess = excess.saturating_sub(message);
            }
            if excess > 0 { Some(next) } else { None }
        });
        for (room, from, to) in std::mem::take(&mut rest.skipped).iter() {
            lose(room, from, to);
        }
        let encoding = self.slots.encoding(slot);
        for (room, from, to) in gaps {
            let room = &self.rooms.name(room);
            frames::put(
                &mut kept,
                ToClient::Gap {
                    room,
                    from,
                    to,
                    why: Lost::Slow,
                },
                encoding,
            );
        }
        self.put_rest(slot, rest, &mut kept);
        self.gaps[Lost::Slow as usize] += dropped;
        self.credits.of(slot).bytes = keep as u32;
        let leaves = self.met.take();
        self.keep_owed(slot, cursor, &kept, leaves) && !self.has_left(slot, leaves)
    }

    /// What was left out for it since, and who has come and gone, which has no place in the room.
    fn put_rest(&mut self, slot: u32, rest: Rest, frames: &mut Vec<u8>) {
        let encoding = self.slots.encoding(slot);
        let name = |room| self.rooms.name(room);
        let mut plain = Vec::new();
        self.gaps[Lost::Sampled as usize] += rest.skipped.put(name, encoding, &mut plain);
        (rest.heard).each(name, |said| frames::put(&mut plain, said, encoding));
        match encoding.inflated() {
            Some(_) => self.deflater.put_frames(&plain, Window::LARGEST, frames),
            None => frames.append(&mut plain),
        }
    }

    /// Calls `each` with every record behind the connection's cursor that concerns it, until it
    /// returns `None`, or the record makes it leave (what, is in `met` then), but for those that only say
    /// who comes and goes, or are not for it: these are the `rest`. The position behind the last one;
    /// `None`: the log has overtaken it.
    fn each_owed(
        &mut self,
        slot: u32,
        rest: &mut Rest,
        mut each: impl FnMut(&Brain, Owed, u64) -> Option<u64>,
    ) -> Option<u64> {
        let mut cursor = self.slots.get(slot, Field::Cursor);
        let mut bytes = Vec::new();
        while cursor < self.turn.read {
            bytes.clear();
            let at = cursor;
            let next = self.log.next(at, &mut bytes).ok()??;
            cursor = next;
            let Some(down) = Down::decode(&bytes) else {
                continue;
            };
            if let Down::List { room, .. } | Down::Changes { room, .. } = down {
                let room = self.rooms.numbered(room).filter(|_| !self.is_given_up(at));
                if let Some(room) = room.filter(|room| self.is_told(slot, *room, at)) {
                    rest.heard.add(room, &down);
                }
                continue;
            }
            // A message that kills is to be found, and not those whom it is for.
            let in_hand = self.in_hand();
            let is_message = matches!(down, Down::Message { .. });
            if is_message {
                self.note_in_hand(InHand::Log(at));
            }
            let mut owed = Owed::default();
            owed.message = self.frames_for(slot, at, &down, &mut rest.skipped, &mut owed.bytes);
            owed.answer = match owed.message {
                Some(_) => answer_len(&owed.bytes),
                None => owed.bytes.len(),
            };
            if self.slots.encoding(slot).inflated().is_some() {
                owed.deflate(&mut self.deflater);
            }
            if is_message {
                self.have_in_hand(in_hand);
            }
            if owed.message.is_some() && self.is_given_up(at) {
                self.gaps[Lost::Internal as usize] += 1;
            }
            if !owed.bytes.is_empty() && !rest.skipped.is_empty() {
                owed.skipped = std::mem::take(&mut rest.skipped);
                owed.gaps = self.gaps_of(slot, &owed.skipped);
            }
            let goes_on = owed.bytes.is_empty() || each(self, owed, next).is_some();
            self.met = self.leaves(slot, &down);
            if !goes_on || self.met.is_some() {
                break;
            }
        }
        Some(cursor)
    }

    /// What is said of messages that were left out.
    fn gaps_of(&mut self, slot: u32, skipped: &Skipped) -> Vec<u8> {
        let encoding = self.slots.encoding(slot);
        let (mut plain, mut frames) = (Vec::new(), Vec::new());
        self.gaps[Lost::Sampled as usize] +=
            skipped.put(|room| self.rooms.name(room), encoding, &mut plain);
        match encoding.inflated() {
            Some(_) => (self.deflater).put_frames(&plain, Window::LARGEST, &mut frames),
            None => frames.append(&mut plain),
        }
        frames
    }

    /// All of it as one frame.
    fn batch(&mut self, frames: &[u8], meta: Meta) -> Vec<u8> {
        let plain = frames::batch(frames, meta.encoding());
        let Some(window) = meta.window else {
            return plain;
        };
        let mut batch = Vec::with_capacity(plain.len());
        self.deflater.put_frames(&plain, window, &mut batch);
        batch
    }

    fn keep_owed(
        &mut self,
        slot: u32,
        cursor: Option<u64>,
        frames: &[u8],
        leaves: Option<Leaves>,
    ) -> bool {
        let Some(cursor) = cursor else {
            self.begin_close(slot, CloseReason::TooSlow);
            return false;
        };
        let Some(meta) = self.slots.meta(slot) else {
            return false;
        };
        let batch;
        let frames = match meta.has(Flag::Batch) {
            true => {
                batch = self.batch(frames, meta);
                &batch
            }
            false => frames,
        };
        let mut out = buffers::output(&self.arena, &self.slots, slot, usize::MAX);
        if protocol::output::Output::put(&mut out, frames).is_err() {
            out.abandon();
            self.finish(slot, CloseReason::Overloaded);
            return false;
        }
        let before = self.slots.get(slot, Field::Cursor);
        let caught_up = cursor >= self.turn.read;
        let mut record = Record::new();
        buffers::change_output(&out, &self.slots, slot, &mut record);
        Slots::change(&mut record, slot, Field::Cursor, cursor);
        let mut meta = meta.with(Flag::Lagging, !caught_up);
        match leaves {
            None => {}
            Some(Leaves::Room(room)) => {
                self.rooms.leave(&mut record, &self.slots, slot, room);
            }
            Some(Leaves::Baton(reason)) => meta = meta.because(reason),
        }
        Slots::change(&mut record, slot, Field::Meta, meta.pack());
        fault::point("worker:materialise");
        self.journal.commit(&mut record);
        out.settle();
        let credit = self.credits.of(slot);
        if caught_up {
            credit.bytes = 0;
            self.local(slot).set(Mark::Lagging, false);
        } else if before >= credit.lags_from {
            credit.bytes = credit.bytes.saturating_sub(frames.len() as u32);
        }
        true
    }

    /// Those who lag: too much waits for one, or the log is about to overtake it.
    pub(crate) fn mind_the_lagging(&mut self) {
        let oldest = self.log.oldest();
        let near = oldest + (self.turn.read - oldest.min(self.turn.read)) / 4;
        let mut lagging = std::mem::take(&mut self.lagging);
        lagging.retain(|&slot| {
            if !self.local(slot).is(Mark::Lagging) {
                return false;
            }
            self.note_in_hand(InHand::Connection(slot));
            if self.credits.of(slot).bytes as usize > self.settings.rooms.slow_bytes {
                match self.settings.rooms.slow {
                    Slow::Gap => {
                        self.drop_oldest(slot);
                    }
                    Slow::Close => self.begin_close(slot, CloseReason::TooSlow),
                }
            } else if oldest > 0 && self.slots.get(slot, Field::Cursor) < near {
                self.materialise(slot, usize::MAX);
            }
            self.local(slot).is(Mark::Lagging)
        });
        lagging.append(&mut self.lagging);
        self.lagging = lagging;
    }
}

/// What is said behind all else.
#[derive(Debug, Default)]
struct Rest {
    skipped: Skipped,
    heard: Heard,
}

/// What one record means to a connection.
#[derive(Debug, Default)]
struct Owed {
    /// What was left out for it before, and what is said of that.
    skipped: Skipped,
    gaps: Vec<u8>,
    /// An answer first, then a message: either may be missing.
    bytes: Vec<u8>,
    answer: usize,
    message: Option<(RoomIx, Position)>,
}

impl Owed {
    fn put(&self, frames: &mut Vec<u8>) {
        frames.extend_from_slice(&self.gaps);
        frames.extend_from_slice(&self.bytes);
    }

    /// The same, compressed.
    fn deflate(&mut self, deflater: &mut Deflater) {
        let (answer, message) = self.bytes.split_at(self.answer);
        let mut bytes = Vec::with_capacity(self.bytes.len());
        deflater.put_frames(answer, Window::LARGEST, &mut bytes);
        self.answer = bytes.len();
        deflater.put_frames(message, Window::LARGEST, &mut bytes);
        self.bytes = bytes;
    }
}

/// Of two frames or one, of which the last is a message: the bytes before it.
fn answer_len(bytes: &[u8]) -> usize {
    let first = match bytes.get(1).copied() {
        Some(126) => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        Some(n) if n < 126 => 2 + usize::from(n),
        _ => bytes.len(),
    };
    if first < bytes.len() { first } else { 0 }
}
