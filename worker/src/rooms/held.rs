//! What was said in a room and is held back: until its window ends, so that it is given to each member
//! together with what else is said in it; or, of a connection for which it was left out, until that can
//! be told with something else.
//!
//! The log holds it. A word of the room says from which position on its members may not have been given
//! what concerns them; who has been given more has a cursor behind that. So nothing is noted for
//! any member while it waits, and the next brain, or the worker that a member moves to, finds by these
//! two what it is owed. The room's word for the last offset stays at what was said before, too: should
//! the log be lost, that is where the gap begins.
//!
//! What is here is this brain's: the next one reads it anew, from the word on.

use protocol::ids::{Cid, Position};
use protocol::journal::Record;
use protocol::settings::Options;
use protocol::share::Share;

use super::{ROOM_WORDS, RoomIx, Rooms, change, room_word};
use crate::slots::Slots;

/// Of a room's words: the position in the log, + 1, from which on something is held back; 0: nothing.
const HELD: usize = ROOM_WORDS - 1;

/// Those for whom messages were left out are told so once in so long, if they are given nothing.
const TELL_MS: u64 = 1_000;

/// Messages, and bytes of them, that are held back at most: then they wait no longer.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 256 << 10;

/// A message that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Its record in the log, and the position behind it.
    pub at: u64,
    pub after: u64,
    pub offset: u64,
    pub share: Share,
    pub said_by: Cid,
}

/// What a member is given of what waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// These, by their places, one behind the other.
    Said(usize, usize),
    /// From this offset to this one it was left out, which is told before what lies behind `after`.
    Gap { from: u64, to: u64, after: u64 },
}

/// What one room holds back.
#[derive(Debug)]
pub struct Held {
    from: u64,
    pub said: Vec<Waiting>,
    /// Those before it have been given to whom they are for.
    pub released: usize,
    /// Some were not for everybody.
    pub leaves_out: bool,
    bytes: usize,
    /// When those behind `released` are given.
    until: u64,
    /// When all that is left is told.
    ends: u64,
}

impl Held {
    fn new(from: u64) -> Held {
        Held {
            from,
            said: Vec::new(),
            released: 0,
            leaves_out: false,
            bytes: 0,
            until: u64::MAX,
            ends: u64::MAX,
        }
    }

    fn add(&mut self, waiting: Waiting, bytes: usize, merge_ms: u64, now: u64) {
        let end_of = |window: u64| (now / window + 1) * window;
        if self.said.len() == self.released {
            self.until = match merge_ms {
                0 => now,
                // All rooms with the same window are woken for together.
                window => end_of(window),
            };
            self.bytes = 0;
        }
        self.bytes += bytes;
        if waiting.share == Share::First || self.bytes > MOST_BYTES {
            self.until = now;
        }
        if matches!(waiting.share, Share::Part(_)) && !self.leaves_out {
            (self.leaves_out, self.ends) = (true, end_of(TELL_MS));
        }
        self.said.push(waiting);
        if self.said.len() >= MOST {
            (self.until, self.ends) = (now, now);
        }
    }

    /// Where in the log it begins.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The window has ended.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        self.until <= now
    }

    /// All of it has been given to those whom it is for.
    pub fn is_released(&mut self) {
        (self.released, self.until) = (self.said.len(), u64::MAX);
    }

    /// When there is something to be done.
    fn due(&self) -> u64 {
        self.until.min(self.ends)
    }

    /// Nothing more is to be told at this time.
    #[must_use]
    pub fn ends(&self, now: u64) -> bool {
        self.ends <= now || !self.leaves_out && self.until <= now
    }

    /// From here on to the end they are for a member that has what is before `cursor`, and joined at the
    /// offset `after`.
    #[must_use]
    pub fn begin(&self, cursor: u64, after: u64) -> usize {
        (self.said).partition_point(|said| said.at < cursor || said.offset <= after)
    }

    /// Calls `each` with what such a member is given next. Returns the offsets that are left out
    /// behind that.
    pub fn parts(
        &self,
        begin: usize,
        epoch: u64,
        cid: Cid,
        mut each: impl FnMut(Part),
    ) -> Option<(u64, u64)> {
        if !self.leaves_out {
            each(Part::Said(begin, self.said.len()));
            return None;
        }
        let mut gap: Option<(u64, u64)> = None;
        let mut run: Option<(usize, usize)> = None;
        for (place, said) in self.said.iter().enumerate().skip(begin) {
            let offset = said.offset;
            if said
                .share
                .includes(Position { epoch, offset }, said.said_by, cid)
            {
                if let Some((from, to)) = gap.take() {
                    let after = said.after;
                    each(Part::Gap { from, to, after });
                }
                run = Some((run.map_or(place, |(first, _)| first), place + 1));
            } else {
                if let Some((first, end)) = run.take() {
                    each(Part::Said(first, end));
                }
                gap = Some((gap.map_or(offset, |(from, _)| from), offset));
            }
        }
        if let Some((first, end)) = run {
            each(Part::Said(first, end));
        }
        gap
    }

    /// Is one of those that were not released for this connection?
    #[must_use]
    pub fn is_for(&self, begin: usize, epoch: u64, cid: Cid) -> bool {
        let new = &self.said[begin.max(self.released).min(self.said.len())..];
        new.iter().any(|said| {
            let offset = said.offset;
            said.share
                .includes(Position { epoch, offset }, said.said_by, cid)
        })
    }
}

impl Rooms {
    /// From now on this is special about rooms of these names.
    pub fn set_options(&mut self, options: &Options) {
        self.options = options.clone();
        for room in self.all() {
            let merge_ms = self.options.of(&self.name(room)).merge_ms;
            self.rooms[room.0 as usize].merge_ms = merge_ms;
        }
    }

    /// For a new brain: something was held back in this room.
    pub(super) fn load_held(&mut self, ix: u32) {
        if let Some(from) = self.load(room_word(ix, HELD)).checked_sub(1) {
            self.rooms[ix as usize].held = Some(Box::new(Held::new(from)));
            self.holding.push(ix);
        }
    }

    /// A room begins here: nothing is.
    pub(super) fn begin_holds(&self, record: &mut Record, ix: u32) {
        if self.load(room_word(ix, HELD)) != 0 {
            change(record, room_word(ix, HELD), 0);
        }
    }

    /// The room ends, which nobody is in.
    pub(super) fn drop_hold(&mut self, ix: u32) {
        if self.rooms[ix as usize].held.take().is_some() {
            self.holding.retain(|other| *other != ix);
        }
    }

    /// Is anything held back here, in any room?
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.holding.is_empty()
    }

    /// The rooms in which something is held back.
    #[must_use]
    pub fn holding(&self) -> Vec<RoomIx> {
        self.holding.iter().copied().map(RoomIx).collect()
    }

    /// What is said in the room is given at once, as nothing before it waits, and it is for all.
    #[must_use]
    pub fn gives_at_once(&self, room: RoomIx, share: Share) -> bool {
        let room = &self.rooms[room.0 as usize];
        room.merge_ms == 0 && room.held.is_none() && !matches!(share, Share::Part(_))
    }

    /// This waits, too. Returns when something is to be done about it.
    pub fn wait(&mut self, room: RoomIx, waiting: Waiting, bytes: usize, now: u64) -> u64 {
        let this = &mut self.rooms[room.0 as usize];
        let merge_ms = this.merge_ms;
        if let Some(held) = &mut this.held {
            held.add(waiting, bytes, merge_ms, now);
            return held.due();
        }
        let mut held = Box::new(Held::new(waiting.at));
        held.add(waiting, bytes, merge_ms, now);
        let due = held.due();
        this.held = Some(held);
        self.holding.push(room.0);
        // Before the log counts as read.
        self.store(room_word(room.0, HELD), waiting.at + 1);
        due
    }

    #[must_use]
    pub fn waiting(&self, room: RoomIx) -> Option<&Held> {
        self.rooms[room.0 as usize].held.as_deref()
    }

    /// To be put back, or nothing is held back there any more.
    pub fn take_held(&mut self, room: RoomIx) -> Option<Box<Held>> {
        self.rooms[room.0 as usize].held.take()
    }

    pub fn put_held(&mut self, room: RoomIx, held: Box<Held>) {
        self.rooms[room.0 as usize].held = Some(held);
    }

    /// Nothing is held back in the room any more: all members have been given what it was, or their
    /// slots owe it to them.
    pub fn end_hold(&mut self, room: RoomIx) {
        let this = &mut self.rooms[room.0 as usize];
        this.held = None;
        let offset = this.offset;
        self.store(room_word(room.0, 2), offset);
        self.store(room_word(room.0, HELD), 0);
        self.holding.retain(|ix| *ix != room.0);
    }

    /// What was held back in the room is lost, and the last message that is known is what was said before.
    pub fn forget_hold(&mut self, room: RoomIx) {
        let offset = self.load(room_word(room.0, 2));
        self.rooms[room.0 as usize].offset = offset;
        self.end_hold(room);
    }

    /// In no other room is anything held back.
    #[must_use]
    pub fn holds_in_one(&self) -> bool {
        self.holding.len() == 1
    }

    /// When there is something to be done about what is held back.
    #[must_use]
    pub fn next_due(&self) -> u64 {
        let due = |ix: &u32| {
            self.rooms[*ix as usize]
                .held
                .as_ref()
                .map(|held| held.due())
        };
        self.holding
            .iter()
            .filter_map(due)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// The lowest position of the log from which on something is held back.
    #[must_use]
    pub fn first_held(&self) -> u64 {
        let from = |ix: &u32| self.rooms[*ix as usize].held.as_ref().map(|held| held.from);
        self.holding
            .iter()
            .filter_map(from)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// From where in the log on something is held back that may be for this connection; none: the
    /// highest number there is.
    #[must_use]
    pub fn held_from(&self, slots: &Slots, slot: u32) -> u64 {
        let held = self.held_of(slots, slot);
        held.map(|(.., held)| held.from).min().unwrap_or(u64::MAX)
    }

    /// What is held back in the rooms of this connection, each with the offset at which it joined.
    pub fn held_of(&self, slots: &Slots, slot: u32) -> impl Iterator<Item = (RoomIx, u64, &Held)> {
        let rooms = self.is_holding().then(|| self.memberships(slots, slot));
        rooms.into_iter().flatten().filter_map(|(room, member)| {
            let held = self.rooms[room.0 as usize].held.as_deref()?;
            Some((room, member.after, held))
        })
    }
}

#[cfg(test)]
mod tests {
    use protocol::share::Fraction;

    use super::*;

    const EPOCH: u64 = 7;

    fn waiting(offset: u64, share: Share) -> Waiting {
        Waiting {
            at: offset * 100,
            after: offset * 100 + 100,
            offset,
            share,
            said_by: Cid(1),
        }
    }

    #[test]
    fn windows_end_together_and_at_once_for_what_comes_first() {
        let mut held = Held::new(0);
        held.add(waiting(1, Share::All), 10, 50, 1_020);
        held.add(waiting(2, Share::All), 10, 50, 1_045);
        assert_eq!(held.due(), 1_050);
        assert!(!held.ends(1_049) && held.ends(1_050));
        held.add(waiting(3, Share::First), 10, 50, 1_046);
        assert_eq!(held.due(), 1_046);
        let mut held = Held::new(0);
        held.add(waiting(1, Share::All), MOST_BYTES + 1, 50, 1_001);
        assert_eq!(held.due(), 1_001);
        let mut held = Held::new(0);
        held.add(waiting(1, Share::All), 10, 0, 1_001);
        assert_eq!(held.due(), 1_001);
    }

    #[test]
    fn who_was_left_out_is_told_within_a_second() {
        let mut held = Held::new(0);
        let part = Share::Part(Fraction::new(1 << 20));
        held.add(waiting(1, part), 10, 20, 1_100);
        assert_eq!(held.due(), 1_120);
        assert!(!held.ends(1_120));
        held.is_released();
        assert_eq!(held.due(), 2_000);
        for offset in 2..MOST as u64 {
            held.add(waiting(offset, part), 10, 20, 1_200);
        }
        assert!(!held.ends(1_200));
        held.add(waiting(5_000, part), 10, 20, 1_200);
        assert!(held.ends(1_200), "they are bounded");
    }

    /// Whenever it is given something, every message is given or told as left out, once, in order; and
    /// whoever goes on from its cursor comes to the same.
    #[test]
    fn each_message_is_given_or_told() {
        for cid in 2..200 {
            for step in [1, 8, 40] {
                let mut held = Held::new(0);
                let (mut cursor, mut next, after) = (0, 31, 30);
                for offset in 1..=200 {
                    let share = match offset % 50 {
                        0 => Share::First,
                        1..10 => Share::All,
                        _ => Share::Part(Fraction::new(3 << 20)),
                    };
                    held.add(waiting(offset, share), 1, 0, 0);
                    if offset % step > 0 {
                        continue;
                    }
                    let begin = held.begin(cursor, after);
                    assert!(begin == held.said.len() || held.said[begin].offset == next);
                    let mut parts = Vec::new();
                    if held.is_for(begin, EPOCH, Cid(cid)) {
                        held.parts(begin, EPOCH, Cid(cid), |part| parts.push(part));
                        assert!(matches!(parts.last(), Some(Part::Said(..))));
                    }
                    for part in parts {
                        match part {
                            Part::Gap { from, to, after } => {
                                assert_eq!(from, next);
                                next = to + 1;
                                assert_eq!(after, held.said[to as usize].after);
                            }
                            Part::Said(first, end) => {
                                assert!(first >= held.released);
                                assert_eq!(held.said[first].offset, next);
                                next = held.said[end - 1].offset + 1;
                                cursor = held.said[end - 1].after;
                            }
                        }
                    }
                    held.is_released();
                }
                assert_eq!(next, 201, "the last one is for all");
            }
        }
    }
}
