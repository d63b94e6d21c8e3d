//! Who is muted and banned, as the master writes it ([`protocol::sanctions`] says where it lies).
//!
//! Nothing is committed here: what changes goes into the caller's record, so that it happens with the
//! record of the log that tells of it. When that is committed, [`Table::settle`].

use protocol::history::SANCTIONS;
use protocol::journal::Record;
use protocol::record::Refusal;
use protocol::sanctions::{GENERATION, Kind, MAX, Sanction, Sanctions, USED, stamp, stamped};

use crate::state::{self, State};

/// Entries that are taken out in one turn because they are over.
const TURN: usize = 256;

/// As many are in force as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// The table, for its one writer.
#[derive(Debug)]
pub struct Table {
    sanctions: Sanctions,
    capacity: u32,
    /// The first moment, since 1970, at which one may be over.
    next_expiry: u64,
}

impl Table {
    /// From what is in the state; `capacity` entries at most from now on.
    #[must_use]
    pub fn recover(state: &State, capacity: u32) -> Table {
        Table {
            sanctions: Sanctions::new(state.history().clone(), SANCTIONS),
            capacity: capacity.min(MAX - 1),
            next_expiry: 0,
        }
    }

    pub fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity.min(MAX - 1);
    }

    #[must_use]
    pub fn sanctions(&self) -> &Sanctions {
        &self.sanctions
    }

    /// Why somebody may not say anything in a room, if so.
    #[must_use]
    pub fn refuses(&self, room: &[u8], from: &[u8], now_ms: u64) -> Option<Refusal> {
        if self.sanctions.is_empty() {
            return None;
        }
        let (room, from) = (str::from_utf8(room).ok()?, str::from_utf8(from).ok()?);
        let find = |kind| {
            let found = self.sanctions.find(kind, room, from, now_ms)?;
            Some(u32::try_from(found.left_ms(now_ms)).unwrap_or(u32::MAX))
        };
        let banned = find(Kind::Ban).map(|after_ms| Refusal::Banned { after_ms });
        banned.or_else(|| find(Kind::Mute).map(|after_ms| Refusal::Muted { after_ms }))
    }

    /// It counts from the record on, in place of one that says the same of the same.
    pub fn put(
        &mut self,
        state: &State,
        record: &mut Record,
        sanction: &Sanction,
    ) -> Result<(), TableFull> {
        let (kind, room, who) = (sanction.kind, &sanction.room, &sanction.who);
        let old = self.sanctions.entry(kind, room, who);
        let others = self.sanctions.len() - u32::from(old.is_some());
        let vacant = self.sanctions.vacant().filter(|_| others < self.capacity);
        let new = vacant.ok_or(TableFull)?;
        sanction.stage(state.history(), SANCTIONS, new);
        let used = state.get(state::sanction(USED)).max(u64::from(new) + 1);
        record.set(state::sanction(USED), used);
        let changes = old.map(|old| (old, false)).into_iter();
        self.stamp(state, record, changes.chain([(new, true)]));
        if sanction.until_ms != 0 {
            self.next_expiry = self.next_expiry.min(sanction.until_ms);
        }
        Ok(())
    }

    /// For a start: what was in force before, whatever the capacity is.
    pub fn load(&mut self, state: &State, sanction: &Sanction) {
        let capacity = std::mem::replace(&mut self.capacity, MAX - 1);
        let mut record = Record::new();
        if self.put(state, &mut record, sanction).is_ok() {
            state.commit(&mut record);
            self.settle();
        }
        self.capacity = capacity;
    }

    /// It counts no more from the record on. False: it did not.
    pub fn remove(
        &mut self,
        state: &State,
        record: &mut Record,
        kind: Kind,
        room: &str,
        who: &str,
    ) -> bool {
        let old = self.sanctions.entry(kind, room, who);
        self.stamp(state, record, old.map(|old| (old, false)).into_iter());
        old.is_some()
    }

    fn stamp(
        &self,
        state: &State,
        record: &mut Record,
        changes: impl Iterator<Item = (u32, bool)>,
    ) {
        let generation = state.get(state::sanction(GENERATION)) + 1;
        let mut changed = false;
        for (entry, is_valid) in changes {
            let stamped = stamped(generation, is_valid);
            record.set(state::sanction(stamp(entry)), stamped);
            changed = true;
        }
        // Who sees it sees all that changes with it.
        if changed {
            record.set(state::sanction(GENERATION), generation);
        }
    }

    /// The record is committed.
    pub fn settle(&mut self) {
        self.sanctions.refresh();
    }

    /// Takes out what is over.
    pub fn expire(&mut self, state: &State, now_ms: u64) {
        if now_ms < self.next_expiry {
            return;
        }
        let over = self.sanctions.each().filter(|(_, s)| s.is_over(now_ms));
        let over: Vec<u32> = over.map(|(entry, _)| entry).take(TURN).collect();
        for entries in over.chunks(32) {
            let mut record = Record::new();
            let changes = entries.iter().map(|entry| (*entry, false));
            self.stamp(state, &mut record, changes);
            state.commit(&mut record);
            self.settle();
        }
        let ends = self.sanctions.each().map(|(_, s)| s.until_ms);
        self.next_expiry = ends.filter(|until| *until != 0).min().unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test {
        state: State,
        table: Table,
    }

    impl Test {
        fn new(capacity: u32) -> Test {
            let state = State::create(4096, 100).unwrap();
            Test {
                table: Table::recover(&state, capacity),
                state,
            }
        }

        fn put(&mut self, kind: Kind, room: &str, who: &str, until_ms: u64) -> bool {
            let sanction = Sanction {
                kind,
                room: room.into(),
                who: who.into(),
                until_ms,
                at_ms: 0,
                by: "m".into(),
            };
            let mut record = Record::new();
            let put = self.table.put(&self.state, &mut record, &sanction);
            self.state.commit(&mut record);
            self.table.settle();
            put.is_ok()
        }

        fn remove(&mut self, kind: Kind, room: &str, who: &str) -> bool {
            let mut record = Record::new();
            let removed = self.table.remove(&self.state, &mut record, kind, room, who);
            self.state.commit(&mut record);
            self.table.settle();
            removed
        }

        fn refuses(&self, room: &str, who: &str, now_ms: u64) -> Option<Refusal> {
            self.table.refuses(room.as_bytes(), who.as_bytes(), now_ms)
        }
    }

    const MUTED: Option<Refusal> = Some(Refusal::Muted { after_ms: 0 });

    #[test]
    fn what_counts_is_known_to_the_next_brain() {
        let mut t = Test::new(10);
        assert!(t.put(Kind::Mute, "r", "u7", 100) && t.put(Kind::Ban, "", "u8", 0));
        assert!(t.put(Kind::Mute, "r", "u7", 200), "longer");
        t.table = Table::recover(&t.state, 10);
        assert_eq!(t.table.sanctions().len(), 2);
        let muted = |after_ms| Some(Refusal::Muted { after_ms });
        assert_eq!(t.refuses("r", "u7", 150), muted(50));
        assert_eq!(t.refuses("r", "u7", 200), None);
        assert_eq!(t.refuses("s", "u7", 150), None);
        let banned = Some(Refusal::Banned { after_ms: 0 });
        assert_eq!(t.refuses("s", "u8", 150), banned);
        assert!(t.remove(Kind::Ban, "", "u8") && !t.remove(Kind::Ban, "", "u8"));
        assert_eq!(t.refuses("s", "u8", 150), None);
    }

    #[test]
    fn it_is_bounded_and_what_is_over_makes_room() {
        let mut t = Test::new(2);
        assert!(t.put(Kind::Mute, "r", "a", 0) && t.put(Kind::Mute, "r", "b", 50));
        assert!(!t.put(Kind::Mute, "r", "c", 0));
        assert!(t.put(Kind::Mute, "r", "b", 60), "it takes its own place");
        t.table.expire(&t.state, 59);
        assert!(!t.put(Kind::Mute, "r", "c", 0));
        t.table.expire(&t.state, 60);
        assert!(t.put(Kind::Mute, "r", "c", 0));
        assert_eq!(
            (t.refuses("r", "b", 1), t.refuses("r", "c", 1)),
            (None, MUTED)
        );
        assert_eq!(t.table.sanctions().vacant(), Some(2));
    }
}
