//! Keys of messages that were published lately: a retry with the same key is answered as the first
//! time, and not published again.
//!
//! A key counts for one room and one sender. It is remembered, as a hash, in a row of places that are
//! used in turn: the entry is staged where no valid one is, and counts once the journal has moved the
//! row's head, in the record that publishes the message. So key, position and log agree whatever
//! dies.

use std::sync::atomic::Ordering;

use protocol::ids::Position;
use protocol::journal::Record;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::state::{self, Head, MAX_KEYS, State};

// Words of an entry.
const HASH: usize = 0; // two
const EPOCH: usize = 2;
const OFFSET: usize = 3;
const AT: usize = 4;

/// What a key is remembered by. Nobody can find two that are the same.
pub type Hash = [u64; 2];

#[must_use]
pub fn hash(room: &[u8], sender: &[u8], key: &[u8]) -> Hash {
    let mut sha = Sha256::new();
    for part in [room, sender, key] {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    let sum: [u8; 32] = sha.finalize().into();
    let (words, _) = sum.as_chunks::<8>();
    [words[0], words[1]].map(u64::from_le_bytes)
}

/// The index of the keys that are remembered.
#[derive(Debug)]
pub struct Keys {
    /// The number of each hash that is remembered.
    numbers: FxHashMap<Hash, u64>,
    /// So many are, the newest ...
    most: u64,
    /// ... and for so long.
    age_ms: u64,
}

impl Keys {
    #[must_use]
    pub fn recover(state: &State, most: u32, age_ms: u64) -> Keys {
        let mut keys = Keys {
            numbers: FxHashMap::default(),
            most: 0,
            age_ms: 0,
        };
        keys.configure(state, most, age_ms);
        keys
    }

    /// From now on these count.
    pub fn configure(&mut self, state: &State, most: u32, age_ms: u64) {
        // One place is always free to be staged in.
        self.most = most.min(MAX_KEYS - 1).into();
        self.age_ms = age_ms;
        let head = state.head(Head::Keys);
        let numbers = head.saturating_sub(self.most)..head;
        self.numbers = numbers
            .map(|number| (hash_at(state, number), number))
            .collect();
    }

    /// Where the message with this key is, if it was published before.
    #[must_use]
    pub fn find(&self, state: &State, hash: Hash, now_ms: u64) -> Option<Position> {
        let number = *self.numbers.get(&hash)?;
        let get = |field| state.get(state::key(number, field));
        (now_ms.saturating_sub(get(AT)) < self.age_ms).then(|| Position {
            epoch: get(EPOCH),
            offset: get(OFFSET),
        })
    }

    /// The message with this key is published at a position, once the record is committed.
    pub fn remember(
        &mut self,
        state: &State,
        record: &mut Record,
        hash: Hash,
        position: Position,
        now_ms: u64,
    ) {
        let head = state.head(Head::Keys);
        for (field, value) in [
            (HASH, hash[0]),
            (HASH + 1, hash[1]),
            (EPOCH, position.epoch),
            (OFFSET, position.offset),
            (AT, now_ms),
        ] {
            let word = state::key(head, field).index as usize;
            state.segment().word(word).store(value, Ordering::Release);
        }
        record.set(Head::Keys.word(), head + 1);
        if let Some(oldest) = (head + 1).checked_sub(self.most + 1) {
            let forgotten = hash_at(state, oldest);
            if self.numbers.get(&forgotten) == Some(&oldest) {
                self.numbers.remove(&forgotten);
            }
        }
        if self.most > 0 {
            self.numbers.insert(hash, head);
        }
    }
}

fn hash_at(state: &State, number: u64) -> Hash {
    [HASH, HASH + 1].map(|field| state.get(state::key(number, field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { epoch: 3, offset }
    }

    fn key(number: u64) -> Hash {
        hash(b"r", b"u7", &number.to_le_bytes())
    }

    fn remember(keys: &mut Keys, state: &State, number: u64, now: u64) {
        let mut record = Record::new();
        keys.remember(state, &mut record, key(number), at(number), now);
        state.commit(&mut record);
    }

    #[test]
    fn the_newest_are_remembered_for_a_while_by_any_brain() {
        let state = State::create(4096, 1).unwrap();
        let mut keys = Keys::recover(&state, 10, 1_000);
        for number in 0..25 {
            remember(&mut keys, &state, number, number);
        }
        for keys in [&keys, &Keys::recover(&state, 10, 1_000)] {
            for number in 0..25 {
                let expected = (number >= 15).then(|| at(number));
                assert_eq!(keys.find(&state, key(number), 100), expected, "{number}");
            }
            assert_eq!(keys.find(&state, key(20), 1_019), Some(at(20)));
            assert_eq!(keys.find(&state, key(20), 1_020), None);
        }
        assert_eq!(keys.numbers.len(), 10);
        keys.configure(&state, 0, 1_000);
        remember(&mut keys, &state, 30, 30);
        assert_eq!(keys.find(&state, key(30), 31), None);
    }

    /// One that is staged and not committed takes nothing away.
    #[test]
    fn a_brain_that_dies_before_the_commit_has_remembered_nothing() {
        let state = State::create(4096, 1).unwrap();
        let mut keys = Keys::recover(&state, MAX_KEYS, 1_000);
        let last = u64::from(MAX_KEYS) + 5;
        for number in 0..=last {
            remember(&mut keys, &state, number, 1);
        }
        keys.remember(&state, &mut Record::new(), key(last + 1), at(1), 1);
        let keys = Keys::recover(&state, MAX_KEYS, 1_000);
        assert_eq!(keys.find(&state, key(last + 1), 1), None);
        let oldest = last - u64::from(MAX_KEYS) + 2;
        assert_eq!(keys.find(&state, key(oldest), 1), Some(at(oldest)));
        assert_eq!(keys.find(&state, key(oldest - 1), 1), None);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let all = [
            hash(b"ab", b"c", b"d"),
            hash(b"a", b"bc", b"d"),
            hash(b"a", b"b", b"cd"),
        ];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }
}
