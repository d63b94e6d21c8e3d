//! What rooms retain: which messages, and in which blocks
//! ([`protocol::history`] says how they lie there).
//!
//! A message is retained in the step that gives it its position: the words that make it count are in
//! the caller's record. What a room retains is bounded by its [`Rule`] (messages, age, bytes), and
//! all rooms together by a budget. When that is used up, one of the rooms that hold most gives up its
//! oldest messages, the one that was silent for longest first: a room that says much does not push
//! out what quiet ones have said.
//!
//! Which block is whose is in the chains alone; a new brain walks them and finds what is free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use protocol::history::{Blocks, Field, MAX_BLOCKS, Place, Retained, size};
use protocol::journal::Record;
use protocol::pattern::Pattern;
use serde::{Deserialize, Serialize};

use crate::lru::Lru;
use crate::rooms;
use crate::state::{self, State};

/// Bytes of messages that a block holds.
const ROOM_IN_BLOCK: usize = Place::start(0).left();

/// A room is looked at for messages that are too old once in so long at most.
const EXPIRY_MS: u64 = 1_000;

/// Messages that are given up for their age in one turn.
const TURN_EXPIRED: usize = 4096;

/// Rooms by how many blocks they hold, a class for each power of two.
const CLASSES: usize = 24;
const _: () = assert!(MAX_BLOCKS < 1 << CLASSES);

/// What rooms of a name retain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub rooms: Pattern,
    /// Messages; 0: none.
    pub messages: u32,
    /// For how long; 0: until others take their place.
    pub age_ms: u64,
    /// Bytes of blocks.
    pub bytes: u64,
}

impl Rule {
    fn blocks(&self) -> u32 {
        blocks(self.bytes)
    }
}

/// Blocks in so many bytes.
fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes / protocol::history::BLOCK as u64).map_or(MAX_BLOCKS, |n| n.min(MAX_BLOCKS))
}

/// What this brain knows of what is retained.
#[derive(Debug)]
pub struct History {
    rules: Vec<Rule>,
    /// Blocks of all rooms together.
    budget: u32,
    used: u32,
    free: Vec<u32>,
    /// One more than the highest block that is or was used.
    high: u32,
    blocks: Blocks,
    rooms: Vec<Held>,
    classes: [Lru; CLASSES],
    /// Free when the record is committed.
    leaving: Vec<u32>,
    /// Rooms that retain by age, and when to look at them.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    now_ms: u64,
}

/// What this brain knows of a room.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Which rule; `None`: not looked up yet.
    rule: Option<Option<usize>>,
    blocks: u32,
    is_due: bool,
}

/// What a room retains, by its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chain {
    /// Of its oldest message. In one epoch it never becomes less, by which readers know what is gone.
    first: u64,
    /// `None`: there is no message.
    head: Option<Place>,
    tail: Option<Place>,
}

impl History {
    /// From what is in the state, as these rules allow; `budget`: bytes in all.
    #[must_use]
    pub fn recover(state: &State, rules: Vec<Rule>, budget: u64, now_ms: u64) -> History {
        let mut history = History {
            rules: Vec::new(),
            budget: 0,
            used: 0,
            free: Vec::new(),
            high: 0,
            blocks: Blocks::new(state.history().clone()),
            rooms: Vec::new(),
            classes: Default::default(),
            leaving: Vec::new(),
            due: BinaryHeap::new(),
            now_ms,
        };
        let mut taken = Vec::new();
        for room in 0..rooms::used(state) {
            let chain = Chain::of(state, room);
            if chain.head.is_none() {
                continue;
            }
            match history.claim(state, room, chain, &mut taken) {
                Some(count) => history.holds(room, |blocks| blocks + count),
                None => {
                    log::error!("what room {room} retains is corrupt: forgotten");
                    state.set(state::shared(room, Field::Head), 0);
                }
            }
        }
        history.high = taken.len() as u32;
        let free = taken.iter().enumerate().rev();
        history.free = free
            .filter(|(_, taken)| !**taken)
            .map(|(block, _)| block as u32)
            .collect();
        history.configure(state, rules, budget);
        history
    }

    /// How many blocks a room has, which are marked; `None`: that is no chain of its own.
    fn claim(&self, state: &State, room: u32, chain: Chain, taken: &mut Vec<bool>) -> Option<u32> {
        let (mut block, last) = (chain.head?.block, chain.tail?.block);
        let exists = state.get(state::shared(room, Field::Epoch)) != 0;
        let mut claimed = Vec::new();
        loop {
            let index = block as usize;
            if !exists || taken.get(index).is_some_and(|taken| *taken) {
                break;
            }
            if taken.len() <= index {
                taken.resize(index + 1, false);
            }
            taken[index] = true;
            claimed.push(index);
            if block == last {
                return Some(claimed.len() as u32);
            }
            let Some(next) = self.blocks.next(block) else {
                break;
            };
            block = next;
        }
        for block in claimed {
            taken[block] = false;
        }
        None
    }

    /// From now on these rules count, also for what is retained already.
    pub fn configure(&mut self, state: &State, rules: Vec<Rule>, budget: u64) {
        (self.rules, self.budget) = (rules, blocks(budget));
        self.due.clear();
        for room in 0..self.rooms.len() as u32 {
            let held = &mut self.rooms[room as usize];
            (held.rule, held.is_due) = (None, false);
            if held.blocks > 0 {
                self.shrink(state, room, usize::MAX);
                self.look_at(state, room);
            }
        }
        while self.used > self.budget
            && let Some(room) = self.largest()
            && self.evict_of(state, room)
        {}
    }

    /// Milliseconds by the monotonic clock.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.used) * protocol::history::BLOCK as u64
    }

    fn rule(&mut self, room: u32, name: impl FnOnce() -> Box<[u8]>) -> Option<&Rule> {
        if self.held(room).rule.is_none() {
            let name = name();
            let rule = self.rules.iter().position(|rule| rule.rooms.matches(&name));
            let rule = rule.filter(|rule| self.rules[*rule].messages > 0);
            self.held(room).rule = Some(rule);
        }
        let rule = self.held(room).rule??;
        self.rules.get(rule)
    }

    /// Retains a message, as far as the room's rule says so. What changes with it is in the record;
    /// [`settle`](History::settle) when that is committed.
    pub fn append(
        &mut self,
        state: &State,
        record: &mut Record,
        room: u32,
        name: &[u8],
        message: &Retained<'_>,
    ) {
        let before = Chain::of(state, room);
        let Some(rule) = self.rule(room, || name.into()) else {
            // If it retains anything, that was under another rule.
            let after = self.evict(room, before, u64::MAX);
            return after.put(record, room, before);
        };
        let (most, age_ms) = (rule.blocks(), rule.age_ms);
        let keep_from = (message.offset + 1).saturating_sub(rule.messages.into());
        let mut chain = self.evict(room, before, keep_from);
        chain = self.evict_old(room, chain, age_ms, usize::MAX);
        let size = size(message.from.len(), message.data.bytes.len());
        let new = loop {
            let left = chain.tail.map_or(0, Place::left);
            let new = size.saturating_sub(left).div_ceil(ROOM_IN_BLOCK) as u32;
            let holds = self.rooms[room as usize].blocks + new;
            if holds <= most && self.used + new <= self.budget {
                break Some(new);
            }
            if holds <= most
                && let Some(other) = self.larger_than(holds, chain.tail.is_none())
                && self.evict_of(state, other)
            {
                continue;
            }
            if chain.tail.is_some() {
                chain = self.evict(room, chain, chain.first + 1);
            } else {
                // It is larger than all that may be retained.
                break None;
            }
        };
        let placed = new.and_then(|new| self.put(room, chain.tail, new, message));
        let after = match placed {
            None => self.evict(room, chain, u64::MAX),
            Some((begin, end)) => Chain {
                first: chain.head.map_or(message.offset, |_| chain.first),
                head: chain.head.or(Some(begin)),
                tail: Some(end),
            },
        };
        after.put(record, room, before);
        if after.head.is_some() {
            self.look_again(room, age_ms, message.at_ms);
        }
    }

    /// A message of the room is not shown any more, if it is retained.
    pub fn delete(&self, state: &State, record: &mut Record, room: u32, offset: u64) {
        let chain = Chain::of(state, room);
        let tail = chain
            .tail
            .filter(|_| chain.head.is_some() && offset >= chain.first);
        let deletion = tail.and_then(|tail| self.blocks.deletion(tail, offset));
        if let Some((index, value)) = deletion {
            record.set(state::retained(index), value);
        }
    }

    /// What the room retains goes; [`settle`](History::settle) when the record is committed.
    pub fn clear(&mut self, state: &State, record: &mut Record, room: u32) {
        let before = Chain::of(state, room);
        self.evict(room, before, u64::MAX).put(record, room, before);
    }

    /// The record is committed.
    pub fn settle(&mut self) {
        self.free.append(&mut self.leaving);
    }

    /// The room is not there any more, and its words say so.
    pub fn drop_room(&mut self, state: &State, room: u32) {
        self.change(state, room, |history, chain| {
            history.evict(room, chain, u64::MAX)
        });
        if let Some(held) = self.rooms.get_mut(room as usize) {
            held.rule = None;
        }
    }

    /// Gives up what is too old by now. True: there is more.
    pub fn expire(&mut self, state: &State) -> bool {
        let mut left = TURN_EXPIRED;
        while left > 0
            && let Some(Reverse((at, room))) = self.due.peek().copied()
            && at <= self.now_ms
        {
            self.due.pop();
            self.held(room).is_due = false;
            left = left.saturating_sub(self.shrink(state, room, left).max(1));
            self.look_at(state, room);
        }
        self.next_expiry().is_some_and(|at| at <= self.now_ms)
    }

    /// When there is something to [expire](History::expire).
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Evicts what the room's rule does not allow, of what is too old up to so many messages. Returns
    /// how many messages it was.
    fn shrink(&mut self, state: &State, room: u32, most: usize) -> usize {
        let rule = self.rule(room, || rooms::name(state, room)).cloned();
        let last = state.get(state::shared(room, Field::Last));
        let first = Chain::of(state, room).first;
        let after = self.change(state, room, |history, chain| {
            let Some(rule) = rule else {
                return history.evict(room, chain, u64::MAX);
            };
            let keep_from = (last + 1).saturating_sub(rule.messages.into());
            let mut chain = history.evict(room, chain, keep_from);
            chain = history.evict_old(room, chain, rule.age_ms, most);
            while chain.head.is_some() && history.rooms[room as usize].blocks > rule.blocks() {
                chain = history.evict(room, chain, chain.first + 1);
            }
            chain
        });
        usize::try_from(after.first - first).unwrap_or(usize::MAX)
    }

    /// Evicts the oldest of a room until it holds a block less. `false`: it does not.
    fn evict_of(&mut self, state: &State, room: u32) -> bool {
        let before = self.used;
        self.change(state, room, |history, mut chain| {
            while chain.head.is_some() && history.used == before {
                chain = history.evict(room, chain, chain.first + 1);
            }
            chain
        });
        self.used < before
    }

    /// Changes what a room retains, in a record of its own.
    fn change(
        &mut self,
        state: &State,
        room: u32,
        change: impl FnOnce(&mut History, Chain) -> Chain,
    ) -> Chain {
        // What leaves with another record does not leave yet.
        let others = std::mem::take(&mut self.leaving);
        let before = Chain::of(state, room);
        let after = change(self, before);
        let mut record = Record::new();
        after.put(&mut record, room, before);
        if !record.is_empty() {
            state.commit(&mut record);
        }
        self.settle();
        self.leaving = others;
        after
    }

    /// Everything before offset `from` goes: its blocks are leaving.
    fn evict(&mut self, room: u32, mut chain: Chain, from: u64) -> Chain {
        while chain.first < from
            && let Some(head) = chain.head
        {
            let message = self.blocks.head(head);
            let behind = message.and_then(|(head, at)| self.blocks.skip(at, head.size()));
            let next = match behind == chain.tail {
                true => None,
                // At the end of a block, the next message is in the next one.
                false => behind.and_then(|place| Some(self.blocks.head(place)?.1)),
            };
            let mut block = head.block;
            while next.is_none_or(|next| next.block != block) {
                self.leaving.push(block);
                self.holds(room, |blocks| blocks - 1);
                let is_last = chain.tail.is_none_or(|tail| tail.block == block);
                match self.blocks.next(block).filter(|_| !is_last) {
                    Some(following) => block = following,
                    None => break,
                }
            }
            chain = Chain {
                first: chain.first + 1,
                head: next,
                tail: chain.tail.filter(|_| next.is_some()),
            };
        }
        chain
    }

    /// What is too old goes, up to so many messages.
    fn evict_old(&mut self, room: u32, mut chain: Chain, age_ms: u64, most: usize) -> Chain {
        for _ in 0..most {
            let head = chain.head.and_then(|place| self.blocks.head(place));
            match head {
                Some((head, _)) if age_ms > 0 && head.at_ms + age_ms <= self.now_ms => {
                    chain = self.evict(room, chain, chain.first + 1);
                }
                _ => break,
            }
        }
        chain
    }

    /// Stages the message behind the chain, which becomes longer by so many blocks: where it begins
    /// and where it ends.
    fn put(
        &mut self,
        room: u32,
        tail: Option<Place>,
        new: u32,
        message: &Retained<'_>,
    ) -> Option<(Place, Place)> {
        let mut last = tail.map(|tail| tail.block);
        let mut begin = tail.filter(|tail| tail.left() > 0);
        for _ in 0..new {
            let block = self.free.pop().unwrap_or_else(|| {
                self.high += 1;
                self.high - 1
            });
            self.holds(room, |blocks| blocks + 1);
            self.blocks.chain(block, last);
            begin.get_or_insert(Place::start(block));
            last = Some(block);
        }
        let begin = begin?;
        Some((begin, self.blocks.put(begin, message)?))
    }

    fn held(&mut self, room: u32) -> &mut Held {
        let index = room as usize;
        if self.rooms.len() <= index {
            self.rooms.resize(index + 1, Held::default());
        }
        &mut self.rooms[index]
    }

    fn holds(&mut self, room: u32, now: impl FnOnce(u32) -> u32) {
        let before = self.held(room).blocks;
        let after = now(before);
        self.held(room).blocks = after;
        self.used = self.used - before + after;
        if before > 0 && (after == 0 || class(before) != class(after)) {
            self.classes[class(before)].remove(room);
        }
        if after > 0 {
            self.classes[class(after)].touch(room);
        }
    }

    /// Of the rooms that hold most, the one that was silent for longest.
    fn largest(&self) -> Option<u32> {
        self.classes.iter().rev().find_map(Lru::oldest)
    }

    /// The same, if it holds more than so many; or as much, for one that `has_none`.
    fn larger_than(&self, blocks: u32, has_none: bool) -> Option<u32> {
        let largest = self.largest()?;
        let theirs = class(self.rooms[largest as usize].blocks);
        (has_none || theirs > class(blocks)).then_some(largest)
    }

    /// The room is to be looked at when its oldest message is too old.
    fn look_at(&mut self, state: &State, room: u32) {
        let Some(rule) = self.rule(room, || rooms::name(state, room)) else {
            return;
        };
        let age_ms = rule.age_ms;
        let oldest = Chain::of(state, room).head;
        if let Some((oldest, _)) = oldest.and_then(|place| self.blocks.head(place)) {
            self.look_again(room, age_ms, oldest.at_ms);
        }
    }

    fn look_again(&mut self, room: u32, age_ms: u64, oldest_ms: u64) {
        if age_ms > 0 && !std::mem::replace(&mut self.held(room).is_due, true) {
            let at = (oldest_ms + age_ms).max(self.now_ms + EXPIRY_MS);
            self.due.push(Reverse((at, room)));
        }
    }
}

impl Chain {
    fn of(state: &State, room: u32) -> Chain {
        let get = |field| state.get(state::shared(room, field));
        Chain {
            first: get(Field::First),
            head: Place::unpack(get(Field::Head)),
            tail: Place::unpack(get(Field::Tail)),
        }
    }

    /// Puts it into a record in place of another.
    fn put(self, record: &mut Record, room: u32, before: Chain) {
        let words = |chain: Chain| {
            [
                (Field::First, chain.first),
                (Field::Head, Place::pack(chain.head)),
                (Field::Tail, Place::pack(chain.tail)),
            ]
        };
        for ((field, old), (_, new)) in words(before).into_iter().zip(words(self)) {
            if old != new {
                record.set(state::shared(room, field), new);
            }
        }
    }
}

fn class(blocks: u32) -> usize {
    blocks.checked_ilog2().map_or(0, |log| log as usize)
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
