//! What the connections are owed in a turn: frames that the turn's records became, each made once and
//! referred to by all to whom it is said. How it goes out is [`flush`](crate::flush)'s.

use crate::brain::Brain;
use crate::client::ToClient;
use crate::encoding::{Each, Encoding};
use crate::frames;
use crate::local::Mark;
use crate::rooms::{Member, RoomIx};
use crate::slots::Field;
use crate::websocket::Window;

/// What one turn owes.
#[derive(Debug, Default)]
pub struct Turn {
    /// The log from `from` to `read` is this turn's.
    pub from: u64,
    pub read: u64,
    /// With it, so much of the ring has been answered.
    pub answered: Option<u64>,
    /// Frames of rooms, one behind the other, in each encoding; and those of answers, each in that of
    /// who asked.
    frames: Each<Vec<u8>>,
    answers: Vec<u8>,
    /// Bytes that were compressed to make them.
    deflated: usize,
    said: Vec<Said>,
    run: Option<Run>,
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
    /// Of the run that is being made it has what is before; 0: nothing.
    ahead: u32,
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

    /// What this turn owes it, which is not owed any more; 0: nothing. True: it is [`WHOLE`].
    pub fn take(&mut self, slot: u32) -> (u32, bool) {
        self.0.get_mut(slot as usize).map_or((0, false), |credit| {
            let whole = credit.is_whole();
            credit.last = 0;
            (std::mem::take(&mut credit.first), whole)
        })
    }
}

/// With the last: these are all that it is owed of what was read, but for what lies behind the last.
const WHOLE: u32 = 1 << 31;

impl Credit {
    /// It is owed something in this turn.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.first != 0
    }

    fn is_whole(&self) -> bool {
        self.last & WHOLE != 0
    }
}

/// What was said in a room.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// Where in the `frames` of each encoding its frame ends. There is one where a member wants it.
    ends: Each<u32>,
    /// Its record in the log, and the position behind it.
    at: u64,
    after: u64,
    /// It is for those who joined before this offset.
    offset: u64,
}

/// What is said in one room without anything of another in between: its members are owed it as a
/// whole, so that a burst costs no more for each of them than one message.
#[derive(Debug)]
struct Run {
    room: RoomIx,
    first: u32,
    /// Members that have been given a part of it ahead of the others.
    ahead: Vec<u32>,
}

/// Something for one connection.
#[derive(Clone, Copy, Debug)]
struct Ref {
    piece: Piece,
    /// Of the same connection, + 1.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    /// Of `said`, from the first to before the end.
    Said(u32, u32),
    /// Of `answers`, and the log position behind its record.
    Answer(u32, u32, u64),
}

impl Turn {
    pub fn begin(&mut self, from: u64) {
        (self.from, self.read) = (from, from);
        self.frames.iter_mut().for_each(Vec::clear);
        self.answers.clear();
        self.deflated = 0;
        self.said.clear();
        self.refs.clear();
    }

    /// Bytes of all frames that were made, and of what they were made of where that is work.
    #[must_use]
    pub fn size(&self) -> usize {
        let frames = self.frames.iter().map(Vec::len).sum::<usize>();
        frames + self.answers.len() + self.deflated
    }

    fn owe(&mut self, credit: &mut Credit, piece: Piece) {
        self.refs.push(Ref { piece, next: 0 });
        let this = self.refs.len() as u32;
        match credit.last & !WHOLE {
            0 => credit.first = this,
            last => self.refs[last as usize - 1].next = this,
        }
        credit.last = this;
    }

    /// What one connection is owed, whose first is this; 0: nothing.
    pub(crate) fn pieces(&self, first: u32) -> impl Iterator<Item = Piece> {
        let get = |at: u32| at.checked_sub(1).map(|at| &self.refs[at as usize]);
        std::iter::successors(get(first), move |r| get(r.next)).map(|r| r.piece)
    }

    /// The frames of a piece.
    pub(crate) fn bytes(&self, piece: Piece, encoding: Encoding) -> &[u8] {
        match piece {
            Piece::Said(first, end) => {
                let frames = &self.frames[encoding];
                &frames[self.start(first, encoding)..self.start(end, encoding)]
            }
            Piece::Answer(start, end, _) => &self.answers[start as usize..end as usize],
        }
    }

    /// Where the frame begins of what was said.
    fn start(&self, said: u32, encoding: Encoding) -> usize {
        said.checked_sub(1).map_or(0, |before| {
            self.said[before as usize].ends[encoding] as usize
        })
    }

    /// How many frames of rooms there are.
    pub(crate) fn count_said(&self) -> u32 {
        self.said.len() as u32
    }

    /// The log position behind the last of these pieces.
    pub(crate) fn behind(&self, first: u32) -> u64 {
        let last = self.pieces(first).last();
        last.map_or(self.read, |piece| match piece {
            Piece::Said(_, end) => self.said[end as usize - 1].after,
            Piece::Answer(.., after) => after,
        })
    }

    /// The frames of these pieces, and the log position behind the record of each.
    pub(crate) fn frames(
        &self,
        first: u32,
        encoding: Encoding,
    ) -> impl Iterator<Item = (&[u8], u64)> {
        self.pieces(first).flat_map(move |piece| {
            let (from, to) = match piece {
                Piece::Said(first, end) => (first, end),
                Piece::Answer(..) => (0, 1),
            };
            (from..to).map(move |at| match piece {
                Piece::Said(..) => {
                    let after = self.said[at as usize].after;
                    (self.bytes(Piece::Said(at, at + 1), encoding), after)
                }
                Piece::Answer(.., after) => (self.bytes(piece, encoding), after),
            })
        })
    }
}

impl Brain {
    /// This was said in a room, by the record at `at`: its members are owed it when the run ends.
    /// `offset`: it is for those who joined before it.
    pub(crate) fn say_in_room(
        &mut self,
        room: RoomIx,
        at: u64,
        after: u64,
        offset: u64,
        message: ToClient<'_>,
    ) {
        if self.turn.run.as_ref().is_some_and(|run| run.room != room) {
            self.deliveries += self.end_run();
        }
        let first = self.turn.count_said();
        self.turn.run.get_or_insert(Run {
            room,
            first,
            ahead: Vec::new(),
        });
        self.make_said(room, at, after, offset, message);
    }

    /// The frame of this, in each encoding that is wanted in the room.
    pub(crate) fn make_said(
        &mut self,
        room: RoomIx,
        at: u64,
        after: u64,
        offset: u64,
        message: ToClient<'_>,
    ) {
        let turn = &mut self.turn;
        let mut plain = Vec::new();
        for encoding in Encoding::ALL {
            if !self.rooms.wants(room, encoding) {
                continue;
            }
            match encoding.inflated() {
                None => frames::put(&mut turn.frames[encoding], message, encoding),
                Some(inflated) => {
                    plain.clear();
                    frames::put(&mut plain, message, inflated);
                    let frames = &mut turn.frames[encoding];
                    self.deflater.put_frames(&plain, Window::LARGEST, frames);
                    turn.deflated += plain.len();
                }
            }
        }
        turn.said.push(Said {
            ends: Each::new(|encoding| turn.frames[encoding].len() as u32),
            at,
            after,
            offset,
        });
    }

    /// What was said in one room is owed to its members now. To be called before anything else
    /// concerns them. Returns how many deliveries that makes.
    pub(crate) fn end_run(&mut self) -> u64 {
        let Some(run) = self.turn.run.take() else {
            return 0;
        };
        let mut owed = 0;
        for place in 0..self.rooms.members(run.room).len() {
            let member = self.rooms.members(run.room)[place];
            owed += self.owe_run(member, run.first);
        }
        for slot in run.ahead {
            self.credits.of(slot).ahead = 0;
        }
        owed
    }

    /// The run so far, for one member. Returns how many of it are new to it.
    fn owe_run(&mut self, member: Member, first: u32) -> u64 {
        let cursor = self.slots.get(member.slot, Field::Cursor);
        let lags = self.local(member.slot).is(Mark::Lagging);
        let credit = self.credits.of(member.slot);
        let said = &self.turn.said;
        let end = said.len() as u32;
        let has = |said: &Said| said.at < cursor || said.offset <= member.after;
        let mut first = first.max(credit.ahead);
        while first < end && has(&said[first as usize]) {
            first += 1;
        }
        if first == end {
            return 0;
        }
        if lags {
            self.owe_lagging(member, first, end);
        } else {
            self.turn.owe(credit, Piece::Said(first, end));
            self.touch(member.slot);
        }
        u64::from(end - first)
    }

    /// Of one that lags: these frames wait for it in the log.
    pub(crate) fn owe_lagging(&mut self, member: Member, first: u32, end: u32) {
        let credit = self.credits.of(member.slot);
        let encoding = member.encoding();
        let mut start = self.turn.start(first, encoding) as u32;
        for said in &self.turn.said[first as usize..end as usize] {
            let end = said.ends[encoding];
            if said.at >= credit.lags_from {
                credit.bytes += end - start;
            }
            start = end;
        }
    }

    /// A piece for one that does not lag. `whole`: if it is the first, all that it is owed are such
    /// pieces.
    pub(crate) fn owe_piece(&mut self, slot: u32, piece: Piece, whole: bool) {
        let credit = self.credits.of(slot);
        let whole = whole && (credit.is_whole() || !credit.owes());
        self.turn.owe(credit, piece);
        credit.last |= if whole { WHOLE } else { 0 };
        self.touch(slot);
    }

    /// An answer to one connection, behind what was said to it before.
    pub(crate) fn owe_answer(&mut self, slot: u32, at: u64, after: u64, answer: ToClient<'_>) {
        self.owe_ahead(slot);
        if self.slots.get(slot, Field::Cursor) > at {
            return;
        }
        let encoding = self.slots.encoding(slot);
        let made = self.make_answer(answer, encoding);
        self.owe_made(slot, at, after, made);
    }

    /// Something that is said to one connection, or to some of them: where its frame begins and ends.
    pub(crate) fn make_answer(&mut self, answer: ToClient<'_>, encoding: Encoding) -> (u32, u32) {
        let answers = &mut self.turn.answers;
        let start = answers.len() as u32;
        match encoding.inflated() {
            None => frames::put(answers, answer, encoding),
            Some(_) => {
                let mut plain = Vec::new();
                frames::put(&mut plain, answer, encoding);
                self.deflater.put_frames(&plain, Window::LARGEST, answers);
            }
        }
        (start, answers.len() as u32)
    }

    /// What [`make_answer`](Brain::make_answer) has made, for one of those to whom it is said. What was
    /// said to it before is owed already.
    pub(crate) fn owe_made(&mut self, slot: u32, at: u64, after: u64, (start, end): (u32, u32)) {
        if self.slots.get(slot, Field::Cursor) > at {
            return;
        }
        let lags = self.local(slot).is(Mark::Lagging);
        let credit = self.credits.of(slot);
        if !lags {
            self.turn.owe(credit, Piece::Answer(start, end, after));
            self.touch(slot);
        } else if at >= credit.lags_from {
            credit.bytes += end - start;
        }
    }

    /// The run so far, to a member that is to be given something else next.
    fn owe_ahead(&mut self, slot: u32) {
        let Some(run) = &self.turn.run else {
            return;
        };
        let (room, first) = (run.room, run.first);
        let Some(member) = self.rooms.member(&self.slots, slot, room) else {
            return;
        };
        self.deliveries += self.owe_run(member, first);
        self.credits.of(slot).ahead = self.turn.said.len() as u32;
        if let Some(run) = &mut self.turn.run {
            run.ahead.push(slot);
        }
    }
}
