//! Passes: who a connection is, what it may do and until when, and how much it has done of what is
//! limited. A connection has one only if it has shown a token, or still must, or if there are limits;
//! all others have none and take no memory for it.
//!
//! A pass is a chain of blocks of words in the state, most often of one. It is written where nothing
//! refers to it, and the connection's slot names it from the step's record on; the bytes in it do
//! not change any more (a renewed token is another pass). Which blocks are free is this brain's own
//! list, made of what the slots name.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use protocol::journal::{Record, Word};

use crate::auth::Grant;
use crate::auth::grant::Packed;
use crate::slots::Slots;
use crate::state::{Head, MAX_PASSES, PASSES, State};

/// Words of a block: the slot + 1 and the next block + 1, then either bytes, or, in the first one,
/// until when · length of the bytes and what was said · [`Spent`] · bytes
pub const PASS_WORDS: usize = 16;

const LINK: usize = 0;
const EXPIRES: usize = 1;
const BYTES: usize = 2;
const SPENT: usize = 3;
/// Where the bytes begin, in the first block and in the others.
const FIRST: usize = SPENT + SPENT_WORDS;
const NEXT: usize = 1;

const SPENT_WORDS: usize = 4;

/// In the word of the length: its client has been asked for the next token.
const ASKED: u64 = 1 << 32;

/// Bytes of a pass at most: no token has more.
const MAX_BYTES: usize = crate::auth::MAX_TOKEN;

/// What is limited, as it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent(pub [u64; SPENT_WORDS]);

/// A pass's place in this worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassIx(u32);

/// What a pass says, to be made into one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// As [`Grant::pack`] makes them; empty: no token has been shown.
    pub bytes: Vec<u8>,
    /// Milliseconds since 1970; 0: never. Without a token: until when there must be one.
    pub expires_ms: u64,
    /// Its client has been asked for the next one.
    pub asked: bool,
    pub spent: Spent,
}

impl From<&Grant> for Pass {
    fn from(grant: &Grant) -> Pass {
        Pass {
            bytes: grant.pack(),
            expires_ms: grant.expires_ms,
            ..Pass::default()
        }
    }
}

/// There is no room for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

#[derive(Debug)]
pub struct Passes {
    state: State,
    used: u32,
    free: Vec<u32>,
    /// No slot's any more, once the step's record is committed.
    left: Vec<PassIx>,
    doubtful: HashSet<u32>,
}

impl Passes {
    /// Those that the slots name. What cannot be a pass makes its slot
    /// [doubtful](Passes::take_doubtful), and is none of it any more.
    #[must_use]
    pub fn new(state: State, slots: &Slots) -> Passes {
        let used = (state.get(Head::PassesUsed) as u32).min(MAX_PASSES);
        let mut passes = Passes {
            state,
            used,
            free: Vec::new(),
            left: Vec::new(),
            doubtful: HashSet::new(),
        };
        let mut taken = vec![false; used as usize];
        for slot in (0..slots.used()).filter(|slot| slots.meta(*slot).is_some()) {
            let Some(pass) = slots.pass(slot) else {
                continue;
            };
            match passes.chain(slot, pass, &taken) {
                Some(blocks) => blocks.iter().for_each(|b| taken[*b as usize] = true),
                None => {
                    slots.forget_pass(slot);
                    passes.doubtful.insert(slot);
                }
            }
        }
        passes.free = (0..used).rev().filter(|b| !taken[*b as usize]).collect();
        passes
    }

    /// The blocks of a slot's pass, if they are its own and say something.
    fn chain(&self, slot: u32, pass: PassIx, taken: &[bool]) -> Option<Vec<u32>> {
        let mut blocks: Vec<u32> = Vec::new();
        let mut at = pass.0 + 1;
        while let Some(block) = at.checked_sub(1) {
            let is_free = !*taken.get(block as usize)? && !blocks.contains(&block);
            let link = self.load(block, LINK);
            if !is_free
                || link as u32 != slot + 1
                || blocks.len() > MAX_BYTES / (8 * (PASS_WORDS - 1))
            {
                return None;
            }
            blocks.push(block);
            at = (link >> 32) as u32;
        }
        let len = self.load(pass.0, BYTES) as u32 as usize;
        if blocks.len() != blocks_for(len) {
            return None;
        }
        let bytes = self.bytes(pass);
        (bytes.is_empty() || Packed::read(&bytes).is_some()).then_some(blocks)
    }

    /// Connections whose passes were given up, being impossible.
    pub fn take_doubtful(&mut self) -> HashSet<u32> {
        std::mem::take(&mut self.doubtful)
    }

    /// Writes a pass for a slot, which names it with the caller's record.
    pub fn stage(&mut self, slot: u32, pass: &Pass) -> Result<PassIx, TableFull> {
        debug_assert!(pass.bytes.len() <= MAX_BYTES);
        let count = blocks_for(pass.bytes.len());
        let mut blocks = Vec::with_capacity(count);
        while blocks.len() < count {
            match self.block() {
                Some(block) => blocks.push(block),
                None => {
                    self.free.append(&mut blocks);
                    return Err(TableFull);
                }
            }
        }
        let mut rest = pass.bytes.as_slice();
        for (i, block) in blocks.iter().enumerate() {
            let next = blocks.get(i + 1).map_or(0, |next| u64::from(*next) + 1);
            self.store(*block, LINK, (u64::from(slot) + 1) | next << 32);
            let from = if i == 0 { FIRST } else { NEXT };
            let here;
            (here, rest) = rest.split_at(rest.len().min((PASS_WORDS - from) * 8));
            self.state.segment().copy_in(word(*block, from) * 8, here);
        }
        let ix = PassIx(blocks[0]);
        self.store(ix.0, EXPIRES, pass.expires_ms);
        let asked = if pass.asked { ASKED } else { 0 };
        self.store(ix.0, BYTES, pass.bytes.len() as u64 | asked);
        for (i, spent) in pass.spent.0.iter().enumerate() {
            self.store(ix.0, SPENT + i, *spent);
        }
        Ok(ix)
    }

    fn block(&mut self) -> Option<u32> {
        if let Some(block) = self.free.pop() {
            return Some(block);
        }
        if self.used >= MAX_PASSES {
            return None;
        }
        self.used += 1;
        self.state.set(Head::PassesUsed, self.used.into());
        Some(self.used - 1)
    }

    /// No slot names it (any more).
    pub fn free(&mut self, pass: PassIx) {
        let mut at = pass.0 + 1;
        while let Some(block) = at.checked_sub(1) {
            self.free.push(block);
            at = (self.load(block, LINK) >> 32) as u32;
        }
    }

    /// No slot names it any more once the step's record is committed.
    pub fn leave(&mut self, pass: PassIx) {
        self.left.push(pass);
    }

    /// The step's record is committed.
    pub fn settle(&mut self) {
        while let Some(pass) = self.left.pop() {
            self.free(pass);
        }
    }

    /// All that it says.
    #[must_use]
    pub fn read(&self, pass: PassIx) -> Pass {
        Pass {
            bytes: self.bytes(pass),
            expires_ms: self.expires_ms(pass),
            asked: self.is_asked(pass),
            spent: self.spent(pass),
        }
    }

    /// To be read with [`Packed::read`]; empty: no token has been shown.
    #[must_use]
    pub fn bytes(&self, pass: PassIx) -> Vec<u8> {
        let len = (self.load(pass.0, BYTES) as u32 as usize).min(MAX_BYTES);
        let mut bytes = vec![0; len];
        let mut rest = bytes.as_mut_slice();
        let (mut block, mut from) = (pass.0, FIRST);
        loop {
            let here;
            (here, rest) = rest.split_at_mut(rest.len().min((PASS_WORDS - from) * 8));
            self.state.segment().copy_out(word(block, from) * 8, here);
            match ((self.load(block, LINK) >> 32) as u32).checked_sub(1) {
                Some(next) if !rest.is_empty() && next < self.used => (block, from) = (next, NEXT),
                _ => return bytes,
            }
        }
    }

    /// Whose it is, if a token has been shown.
    #[must_use]
    pub fn user(&self, pass: PassIx) -> Option<String> {
        let bytes = self.bytes(pass);
        Packed::read(&bytes).map(|packed| packed.user.to_owned())
    }

    #[must_use]
    pub fn has_token(&self, pass: PassIx) -> bool {
        self.load(pass.0, BYTES) as u32 != 0
    }

    /// Milliseconds since 1970; 0: never.
    #[must_use]
    pub fn expires_ms(&self, pass: PassIx) -> u64 {
        self.load(pass.0, EXPIRES)
    }

    #[must_use]
    pub fn is_asked(&self, pass: PassIx) -> bool {
        self.load(pass.0, BYTES) & ASKED != 0
    }

    /// Its client is asked for the next token, with what else the record holds.
    pub fn change_asked(&self, record: &mut Record, pass: PassIx) {
        let value = self.load(pass.0, BYTES) | ASKED;
        change(record, pass.0, BYTES, value);
    }

    #[must_use]
    pub fn spent(&self, pass: PassIx) -> Spent {
        let mut spent = Spent::default();
        for (i, value) in spent.0.iter_mut().enumerate() {
            *value = self.load(pass.0, SPENT + i);
        }
        spent
    }

    /// Puts what has been spent since into the record.
    pub fn change_spent(&self, record: &mut Record, pass: PassIx, spent: Spent) {
        for (i, value) in spent.0.into_iter().enumerate() {
            if value != self.load(pass.0, SPENT + i) {
                change(record, pass.0, SPENT + i, value);
            }
        }
    }

    fn load(&self, block: u32, at: usize) -> u64 {
        self.state
            .segment()
            .word(word(block, at))
            .load(Ordering::Relaxed)
    }

    fn store(&self, block: u32, at: usize, value: u64) {
        self.state
            .segment()
            .word(word(block, at))
            .store(value, Ordering::Release);
    }
}

impl PassIx {
    /// For a slot's word, where 0 is none.
    #[must_use]
    pub fn pack(this: Option<PassIx>) -> u32 {
        this.map_or(0, |pass| pass.0 + 1)
    }

    #[must_use]
    pub fn unpack(half: u32) -> Option<PassIx> {
        half.checked_sub(1).map(PassIx)
    }
}

/// Blocks for so many bytes.
fn blocks_for(bytes: usize) -> usize {
    let first = (PASS_WORDS - FIRST) * 8;
    1 + bytes
        .saturating_sub(first)
        .div_ceil((PASS_WORDS - NEXT) * 8)
}

fn word(block: u32, at: usize) -> usize {
    PASSES + block as usize * PASS_WORDS + at
}

fn change(record: &mut Record, block: u32, at: usize, value: u64) {
    let index = word(block, at) as u32;
    record.set(Word { segment: 0, index }, value);
}

#[cfg(test)]
mod tests {
    use protocol::ids::Role;
    use protocol::journal::Journal;

    use crate::slots::{Meta, Phase};
    use crate::state;

    use super::*;

    fn pass(bytes: usize) -> Pass {
        let user = vec![b'u'; bytes.min(200) - 1];
        let mut all = vec![user.len() as u8];
        all.extend(user);
        while all.len() < bytes {
            let len = (bytes - all.len() - 2).min(200);
            // A rule is two bytes at least.
            let len = if bytes - all.len() - 2 - len == 1 {
                len - 1
            } else {
                len
            };
            all.extend([1, len as u8]);
            all.extend(vec![b'*'; len]);
        }
        Pass {
            bytes: all,
            expires_ms: 77,
            asked: bytes.is_multiple_of(2),
            spent: Spent([1, 2, 3, u64::MAX]),
        }
    }

    struct Table {
        state: State,
        slots: Slots,
        passes: Passes,
    }

    impl Table {
        fn new() -> Table {
            let state = State::create().unwrap();
            let slots = Slots::new(state.clone());
            Table {
                passes: Passes::new(state.clone(), &slots),
                slots,
                state,
            }
        }

        fn slot(&mut self, pass: &Pass) -> u32 {
            let slot = self.slots.take().unwrap();
            let ix = self.passes.stage(slot, pass).unwrap();
            let journal = Journal::new(state::JOURNAL, vec![self.state.segment().clone()]);
            let mut record = Record::new();
            let meta = Meta::new(3, Phase::Rooms, Role::Public);
            Slots::change(&mut record, slot, crate::slots::Field::Meta, meta.pack());
            self.slots.change_pass(&mut record, slot, Some(ix));
            journal.commit(&mut record);
            slot
        }

        fn next_brain(&mut self) {
            self.slots = Slots::new(self.state.clone());
            self.passes = Passes::new(self.state.clone(), &self.slots);
        }
    }

    #[test]
    fn passes_of_any_length_come_back_to_the_next_brain() {
        let mut t = Table::new();
        let passes: Vec<Pass> = [2, 71, 72, 73, 191, 192, 193, 500, 4000]
            .map(pass)
            .into_iter()
            .chain([Pass::default()])
            .collect();
        let slots: Vec<u32> = passes.iter().map(|pass| t.slot(pass)).collect();
        t.next_brain();
        assert!(t.passes.take_doubtful().is_empty() && t.passes.free.is_empty());
        for (slot, pass) in slots.iter().zip(&passes) {
            let ix = t.slots.pass(*slot).unwrap();
            assert_eq!(t.passes.read(ix), *pass);
            assert_eq!(t.passes.has_token(ix), !pass.bytes.is_empty());
        }
    }

    #[test]
    fn what_is_left_is_used_again() {
        let mut t = Table::new();
        let first = t.slot(&pass(500));
        let used = t.passes.used;
        let ix = t.slots.pass(first).unwrap();
        t.passes.leave(ix);
        assert!(t.passes.free.is_empty(), "not before it is committed");
        t.passes.settle();
        t.slots.forget_pass(first);
        t.slot(&pass(500));
        assert_eq!(t.passes.used, used);
        // What a brain had staged is free for the next.
        t.passes.stage(9, &pass(100)).unwrap();
        t.next_brain();
        assert_eq!(t.passes.free.len(), 2);
    }

    #[test]
    fn what_cannot_be_is_nobodys() {
        let mut t = Table::new();
        let slots: Vec<u32> = (0..6).map(|_| t.slot(&pass(300))).collect();
        let ix = |t: &Table, i: usize| t.slots.pass(slots[i]).unwrap();
        let other = ix(&t, 1);
        let misc = |slot| Slots::word(slot, crate::slots::Field::Misc).index as usize;
        let set = |t: &Table, i: usize, pass: u32| {
            let word = t.state.segment().word(misc(slots[i]));
            word.store(u64::from(pass) << 32, Ordering::Relaxed);
        };
        // Another's, outside, in a circle, of another length, of other bytes.
        set(&t, 0, other.0 + 1);
        set(&t, 2, u32::MAX);
        let circle = ix(&t, 3);
        let link = t.passes.load(circle.0, LINK) as u32;
        t.passes.store(
            circle.0,
            LINK,
            u64::from(link) | u64::from(circle.0 + 1) << 32,
        );
        t.passes.store(ix(&t, 4).0, BYTES, u64::from(u32::MAX));
        t.passes.store(ix(&t, 5).0, FIRST, u64::MAX);
        t.next_brain();
        let mut doubtful: Vec<u32> = t.passes.take_doubtful().into_iter().collect();
        doubtful.sort_unstable();
        assert_eq!(doubtful, [slots[0], slots[2], slots[3], slots[4], slots[5]]);
        assert!(doubtful.iter().all(|slot| t.slots.pass(*slot).is_none()));
        assert_eq!(t.passes.read(t.slots.pass(slots[1]).unwrap()), pass(300));
    }
}
