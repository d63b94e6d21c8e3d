//! Connections as data: one slot of words each, in the worker's state. Everything that is needed
//! to go on with a connection is here, and in the buffers that its words name.
//!
//! Streams are counted from the connection's first byte. Input: `Parsed` ≤ `Consumed`, what lies
//! between is unread and in the buffer `Input`. Output: `Written` ≤ `Produced`, what lies between waits
//! in the buffer `Output`. A buffer's word says which byte of the stream it begins with
//! ([`held`](crate::buffers::held)). So a `read` or a `write` is noted by one store, and what the
//! kernel did for a brain that died before its store is found by the kernel's own counts.
//!
//! An idle connection costs its slot and little more, so its words are few.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::ids::Cid;
use protocol::journal::{Journal, Record, Word};
use rustc_hash::FxHashMap;

use crate::encoding::Encoding;
use crate::passes::PassIx;
use crate::state::{Head, MAX_SLOTS, SLOTS, State};

mod meta;

pub use self::meta::{Flag, Meta, MetaWord, Phase};

pub const SLOT_WORDS: usize = 21;

/// The words of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    /// [`Meta`]; 0: the slot is free.
    Meta,
    Cid,
    /// `SO_COOKIE`: the connection, whatever its fd's number.
    Cookie,
    Consumed,
    Parsed,
    Input,
    Written,
    Produced,
    Output,
    /// A message (or a request's body) that is being put together.
    Message,
    /// The session's own words, by phase.
    Session0,
    Session1,
    Session2,
    /// The log position up to which it was given what concerns it.
    Cursor,
    /// When its last byte arrived (ms, monotonic).
    Heard,
    /// What the phase's deadline is counted from: the head's or body's begin, our ping, our Close,
    /// the end of the answer.
    Since,
    /// Since when it has taken nothing of what waits for it; 0: nothing waits.
    Stalled,
    /// Its first membership + 1, and how many there are.
    Cells,
    PeerHigh,
    PeerLow,
    /// The peer's port (16 bits), how often it was not understood (16), and its pass + 1.
    Misc,
}

const _: () = assert!(Field::Misc as usize + 1 == SLOT_WORDS);

/// So many slots at the end that nobody uses are worth being given back.
pub const MANY: u32 = 256;

/// All slots, and which are free.
#[derive(Debug)]
pub struct Slots {
    state: State,
    /// Their words: whatever is done to a connection looks at some thirty of them.
    rows: &'static [[AtomicU64; SLOT_WORDS]],
    free: Vec<u32>,
    untold: Vec<(Cid, u32)>,
    used: u32,
    live: u32,
    /// Where which connection is, while connections move; it is made when it is first asked.
    by_cid: Option<FxHashMap<Cid, u32>>,
    asked: bool,
}

impl Slots {
    /// The slots as the brain before left them.
    #[must_use]
    pub fn new(state: State) -> Slots {
        let used = (state.get(Head::SlotsUsed) as u32).min(MAX_SLOTS);
        let words = state.words(SLOTS, MAX_SLOTS as usize * SLOT_WORDS);
        let mut slots = Slots {
            rows: words.as_chunks().0,
            state,
            free: Vec::new(),
            untold: Vec::new(),
            used,
            live: 0,
            by_cid: None,
            asked: false,
        };
        for slot in (0..used).rev() {
            match slots.get(slot, Field::Meta) {
                0 if slots.get(slot, Field::Cid) == 0 => slots.free.push(slot),
                0 => slots.untold.push((slots.cid(slot), slot)),
                _ => slots.live += 1,
            }
        }
        slots
    }

    /// Slots that were ever used: those in use are among `0..used`.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Connections held.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.live
    }

    /// A free slot; it is taken once a record sets its `Meta`.
    pub fn take(&mut self) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.used < MAX_SLOTS => {
                self.used += 1;
                self.state.set(Head::SlotsUsed, self.used.into());
                self.used - 1
            }
            None => return None,
        };
        self.live += 1;
        Some(slot)
    }

    /// A slot that was taken, and is not needed after all.
    pub fn put_back(&mut self, slot: u32) {
        self.live -= 1;
        self.free.push(slot);
    }

    /// A record has made this connection the slot's.
    pub fn taken(&mut self, slot: u32) {
        let cid = self.cid(slot);
        if let Some(index) = &mut self.by_cid {
            index.insert(cid, slot);
        }
    }

    /// The slot of a connection.
    pub fn find(&mut self, cid: Cid) -> Option<u32> {
        self.asked = true;
        if self.by_cid.is_none() {
            let live = (0..self.used).filter(|slot| self.meta(*slot).is_some());
            self.by_cid = Some(live.map(|slot| (self.cid(slot), slot)).collect());
        }
        let slot = *self.by_cid.as_ref()?.get(&cid)?;
        (self.cid(slot) == cid && self.meta(slot).is_some()).then_some(slot)
    }

    /// To be called now and then: when nothing has moved since the last time, the memory for
    /// [`find`](Slots::find) goes, and that of the slots behind the last one in use, if they are
    /// many: `true`, there are fewer now.
    pub fn rest(&mut self) -> bool {
        if !std::mem::take(&mut self.asked) {
            self.by_cid = None;
        }
        let is_free =
            |slot: &u32| self.get(*slot, Field::Meta) == 0 && self.get(*slot, Field::Cid) == 0;
        let behind = (0..self.used).rev().take_while(is_free).count() as u32;
        if behind < MANY {
            return false;
        }
        let used = self.used - behind;
        self.used = used;
        self.state.set(Head::SlotsUsed, used.into());
        // To the last that there can be: a part of the page where they ended was not given back before.
        let at = |slot: u32| Slots::word(slot, Field::Meta).index as usize * 8;
        self.state.segment().give_back(at(used)..at(MAX_SLOTS));
        // The lowest are taken first, or the next gap at the end would be long in coming.
        self.free.retain(|slot| *slot < used);
        self.free.sort_unstable_by_key(|slot| Reverse(*slot));
        self.free.shrink_to_fit();
        self.untold.shrink_to_fit();
        true
    }

    /// The slot gives up its fd's number, which its caller then closes: in this order, or the next
    /// fd of that number would answer for it. It is free once the master has been told.
    pub fn release(&mut self, slot: u32) {
        self.set(slot, Field::Meta, 0);
        self.live -= 1;
        self.untold.push((self.cid(slot), slot));
        self.leave_index(slot);
    }

    /// As [`release`](Slots::release), of a connection that another worker has taken: that it is
    /// gone from here is nothing to tell the master.
    pub fn release_moved(&mut self, journal: &Journal, slot: u32) {
        self.leave_index(slot);
        let mut record = Record::new();
        Slots::change(&mut record, slot, Field::Meta, 0);
        Slots::change(&mut record, slot, Field::Cid, 0);
        journal.commit(&mut record);
        self.put_back(slot);
    }

    fn leave_index(&mut self, slot: u32) {
        let cid = self.cid(slot);
        if let Some(index) = &mut self.by_cid {
            index.remove(&cid);
        }
    }

    /// Connections that are gone and of which the master has not been told, each with its slot.
    #[must_use]
    pub fn untold(&self) -> &[(Cid, u32)] {
        &self.untold
    }

    /// The master has been told of the first `count` of them.
    pub fn told(&mut self, count: usize) {
        for (_, slot) in self.untold.drain(..count) {
            self.rows[slot as usize][Field::Cid as usize].store(0, Ordering::Release);
            self.free.push(slot);
        }
    }

    #[must_use]
    pub fn word(slot: u32, field: Field) -> Word {
        Word {
            segment: 0,
            index: (SLOTS + slot as usize * SLOT_WORDS + field as usize) as u32,
        }
    }

    #[must_use]
    pub fn get(&self, slot: u32, field: Field) -> u64 {
        self.rows[slot as usize][field as usize].load(Ordering::Relaxed)
    }

    /// One word, changed by itself.
    pub fn set(&self, slot: u32, field: Field, value: u64) {
        self.rows[slot as usize][field as usize].store(value, Ordering::Release);
    }

    /// `None`: the slot is free, or corrupt.
    #[must_use]
    pub fn meta(&self, slot: u32) -> Option<Meta> {
        Meta::unpack(self.get(slot, Field::Meta))
    }

    /// As [`meta`](Slots::meta), of a slot that this brain has taken or found to be sound.
    #[must_use]
    pub fn known(&self, slot: u32) -> Option<MetaWord> {
        MetaWord::new(self.get(slot, Field::Meta))
    }

    #[must_use]
    pub fn encoding(&self, slot: u32) -> Encoding {
        self.meta(slot).map(Meta::encoding).unwrap_or_default()
    }

    /// As its `Meta` says, of which nothing else is looked at.
    #[must_use]
    pub fn has(&self, slot: u32, flag: Flag) -> bool {
        self.known(slot).is_some_and(|meta| meta.has(flag))
    }

    pub fn set_meta(&self, slot: u32, meta: Meta) {
        self.set(slot, Field::Meta, meta.pack());
    }

    #[must_use]
    pub fn cid(&self, slot: u32) -> Cid {
        Cid(self.get(slot, Field::Cid))
    }

    /// Bytes that have been produced and not written.
    #[must_use]
    pub fn pending(&self, slot: u32) -> usize {
        (self.get(slot, Field::Produced) - self.get(slot, Field::Written)) as usize
    }

    /// Puts a word of a slot into a record.
    pub fn change(record: &mut Record, slot: u32, field: Field, value: u64) {
        record.set(Slots::word(slot, field), value);
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self, slot: u32) -> SocketAddr {
        let high = u128::from(self.get(slot, Field::PeerHigh));
        let low = u128::from(self.get(slot, Field::PeerLow));
        let ip = Ipv6Addr::from_bits(high << 64 | low).to_canonical();
        SocketAddr::new(ip, self.get(slot, Field::Misc) as u16)
    }

    /// What its connection may do and has done, if that is written down.
    #[must_use]
    pub fn pass(&self, slot: u32) -> Option<PassIx> {
        PassIx::unpack((self.get(slot, Field::Misc) >> 32) as u32)
    }

    pub fn change_pass(&self, record: &mut Record, slot: u32, pass: Option<PassIx>) {
        let rest = self.get(slot, Field::Misc) as u32;
        let misc = u64::from(rest) | u64::from(PassIx::pack(pass)) << 32;
        Slots::change(record, slot, Field::Misc, misc);
    }

    /// It names none any more.
    pub fn forget_pass(&self, slot: u32) {
        let rest = self.get(slot, Field::Misc) as u32;
        self.set(slot, Field::Misc, rest.into());
    }

    /// How often it was not understood, with this time.
    pub fn change_errors(&self, record: &mut Record, slot: u32) -> u16 {
        let misc = self.get(slot, Field::Misc);
        let errors = ((misc >> 16) as u16).saturating_add(1);
        let misc = misc & !(0xffff << 16) | u64::from(errors) << 16;
        Slots::change(record, slot, Field::Misc, misc);
        errors
    }

    /// The whole of what a new connection's `Misc` says.
    pub fn change_peer(record: &mut Record, slot: u32, peer: SocketAddr, pass: Option<PassIx>) {
        let ip = match peer.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Slots::change(record, slot, Field::PeerHigh, (ip.to_bits() >> 64) as u64);
        Slots::change(record, slot, Field::PeerLow, ip.to_bits() as u64);
        let misc = u64::from(peer.port()) | u64::from(PassIx::pack(pass)) << 32;
        Slots::change(record, slot, Field::Misc, misc);
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::Role;

    use super::*;

    #[test]
    fn addresses_come_back() {
        let state = State::create().unwrap();
        let mut slots = Slots::new(state.clone());
        let slot = slots.take().unwrap();
        let journal =
            protocol::journal::Journal::new(crate::state::JOURNAL, vec![state.segment().clone()]);
        for peer in ["127.0.0.9:65535", "[2001:db8::1]:1"] {
            let peer: SocketAddr = peer.parse().unwrap();
            let mut record = Record::new();
            Slots::change_peer(&mut record, slot, peer, None);
            journal.commit(&mut record);
            assert_eq!(slots.peer(slot), peer);
        }
    }

    #[test]
    fn a_new_brain_finds_what_is_used() {
        let state = State::create().unwrap();
        let mut slots = Slots::new(state.clone());
        let taken: Vec<_> = (0..5).map(|_| slots.take().unwrap()).collect();
        for &slot in &taken {
            slots.set_meta(slot, Meta::new(3, Phase::Http, Role::Public));
        }
        slots.release(taken[2]);
        slots.told(1);
        let mut again = Slots::new(state);
        assert_eq!((again.used(), again.live()), (5, 4));
        assert_eq!(again.take(), Some(taken[2]));
    }

    #[test]
    fn what_nobody_uses_at_the_end_is_given_back() {
        let state = State::create().unwrap();
        let mut slots = Slots::new(state.clone());
        for cid in 1..=2010 {
            let slot = slots.take().unwrap();
            slots.set(slot, Field::Cid, cid);
            slots.set(slot, Field::Cookie, cid);
            slots.set_meta(slot, Meta::new(3, Phase::Http, Role::Public));
        }
        assert!(!slots.rest());
        for slot in (0..2010).filter(|slot| *slot != 700) {
            slots.release(slot);
        }
        assert!(!slots.rest(), "the master has not been told");
        slots.told(2009);
        assert!(slots.rest());
        assert!(!slots.rest());
        assert_eq!((slots.used(), slots.live()), (701, 1));
        assert_eq!(slots.get(700, Field::Cookie), 701);
        // The last lies in a page that they did not fill.
        assert_eq!(
            [1900, 2009].map(|slot| slots.get(slot, Field::Cookie)),
            [0, 0]
        );
        assert_eq!([slots.take(), slots.take()], [Some(0), Some(1)]);
        assert_eq!(Slots::new(state).used(), 701);
    }
}
