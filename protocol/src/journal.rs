//! Several words of shared memory change together, or not at all, whenever the process is killed.
//!
//! What a step changes is collected in a [`Record`] of (word, absolute value) pairs. The pairs are
//! written beside, made valid by one store, then applied. A new brain applies a valid record again,
//! which does no harm, since the values are absolute. Bytes need no journal: they are staged where
//! no word refers to them yet.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;

use crate::fault;
use crate::memory::Segment;

/// Pairs in one record at most. A step that would change more is cut in two.
pub const MAX_PAIRS: usize = 64;

/// Words that a journal takes up.
pub const WORDS: usize = 1 + 2 * MAX_PAIRS;

/// The address of a word: which of the journal's segments (in the order they were given), and its
/// index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    pub segment: u8,
    pub index: u32,
}

/// The changes of one step. Making one costs nothing, which is why its room is not a plain array:
/// there are several for each message.
#[derive(Debug, Default)]
pub struct Record(ArrayVec<(Word, u64), MAX_PAIRS>);

impl Record {
    #[must_use]
    pub fn new() -> Record {
        Record::default()
    }

    /// `word` becomes `value`. The last value of a word counts.
    pub fn set(&mut self, word: Word, value: u64) {
        assert!(!self.0.is_full(), "a step is too long for one record");
        self.0.push((word, value));
    }

    /// How many more pairs fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.remaining_capacity()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs so far, in order.
    #[must_use]
    pub fn pairs(&self) -> &[(Word, u64)] {
        &self.0
    }
}

/// The journal of one process, in its state (segment 0), over this and other segments.
#[derive(Debug)]
pub struct Journal {
    base: usize,
    segments: Vec<Arc<Segment>>,
}

impl Journal {
    /// The journal at word `base` of the first of `segments`.
    #[must_use]
    pub fn new(base: usize, segments: Vec<Arc<Segment>>) -> Journal {
        assert!(!segments.is_empty());
        Journal { base, segments }
    }

    /// Adds a segment whose words records may change; returns its number.
    pub fn add(&mut self, segment: Arc<Segment>) -> u8 {
        self.segments.push(segment);
        u8::try_from(self.segments.len() - 1).expect("a journal spans few segments")
    }

    /// Makes the record's changes, all or (killed before its one store) none, and empties it.
    pub fn commit(&self, record: &mut Record) {
        if let [(word, value)] = record.pairs() {
            // One word changes at once by itself.
            self.store(*word, *value);
        } else {
            let pairs = record.pairs();
            let words = self.segments[0].words(self.base, 1 + 2 * pairs.len());
            let valid = &words[0];
            for ([at, to], (word, value)) in words[1..].as_chunks().0.iter().zip(pairs) {
                let address = u64::from(word.segment) << 32 | u64::from(word.index);
                at.store(address, Ordering::Relaxed);
                to.store(*value, Ordering::Relaxed);
                fault::shared_point("journal-pair");
            }
            fault::shared_point("journal-before");
            // From this store on the step has happened.
            valid.store(pairs.len() as u64, Ordering::Release);
            fence(Ordering::Release);
            fault::shared_point("journal-valid");
            for (word, value) in pairs {
                self.store(*word, *value);
                fault::shared_point("journal-store");
            }
            valid.store(0, Ordering::Release);
        }
        record.0.clear();
    }

    /// For a new brain that cannot believe it: forgets what it says.
    pub fn clear(&self) {
        self.segments[0].word(self.base).store(0, Ordering::Release);
    }

    /// For a new brain: applies the record that its predecessor made valid and may not have
    /// applied to the end. `false` if there was none.
    pub fn recover(&self) -> Result<bool, Corrupt> {
        let state = &self.segments[0];
        let len = state.word(self.base).load(Ordering::Acquire) as usize;
        if len > MAX_PAIRS {
            return Err(Corrupt);
        }
        let mut pairs = Vec::with_capacity(len);
        for i in 0..len {
            let at = self.base + 1 + 2 * i;
            let address = state.word(at).load(Ordering::Relaxed);
            let word = Word {
                segment: u8::try_from(address >> 32).map_err(|_| Corrupt)?,
                index: address as u32,
            };
            let segment = self.segments.get(word.segment as usize).ok_or(Corrupt)?;
            if word.index as usize >= segment.size() / 8 {
                return Err(Corrupt);
            }
            pairs.push((word, state.word(at + 1).load(Ordering::Relaxed)));
        }
        for (word, value) in pairs {
            self.store(word, value);
            fault::shared_point("journal-recover");
        }
        state.word(self.base).store(0, Ordering::Release);
        Ok(len > 0)
    }

    /// The value of a word now.
    #[must_use]
    pub fn load(&self, word: Word) -> u64 {
        self.segments[word.segment as usize]
            .word(word.index as usize)
            .load(Ordering::Acquire)
    }

    fn store(&self, word: Word, value: u64) {
        self.segments[word.segment as usize]
            .word(word.index as usize)
            .store(value, Ordering::Release);
    }
}

/// The journal itself is not as we write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is corrupt")]
pub struct Corrupt;

#[cfg(test)]
mod tests {
    use super::*;

    fn two_segments() -> (Journal, Arc<Segment>, Arc<Segment>) {
        let a = Arc::new(Segment::create(c"a", 8192).unwrap());
        let b = Arc::new(Segment::create(c"b", 4096).unwrap());
        (Journal::new(0, vec![a.clone(), b.clone()]), a, b)
    }

    #[test]
    fn a_record_changes_words_of_several_segments() {
        let (journal, a, b) = two_segments();
        let mut record = Record::new();
        record.set(
            Word {
                segment: 0,
                index: 200,
            },
            1,
        );
        record.set(
            Word {
                segment: 1,
                index: 3,
            },
            2,
        );
        journal.commit(&mut record);
        assert!(record.is_empty());
        assert_eq!(a.word(200).load(Ordering::Relaxed), 1);
        assert_eq!(b.word(3).load(Ordering::Relaxed), 2);
        assert_eq!(journal.recover(), Ok(false));
    }

    /// Dies at every store of a commit in turn: the words are all old or all new after recovery.
    #[test]
    fn killed_at_every_store_a_record_is_whole_or_absent() {
        let pairs: Vec<(Word, u64)> = (0..5)
            .map(|i| {
                (
                    Word {
                        segment: (i % 2) as u8,
                        index: 300 + i,
                    },
                    70 + u64::from(i),
                )
            })
            .collect();
        let stores = 2 * pairs.len() + 1 + pairs.len() + 1;
        for killed_after in 0..=stores {
            let (journal, a, _b) = two_segments();
            let mut left = killed_after;
            let mut store = |segment: &Segment, index: usize, value: u64| {
                if left > 0 {
                    left -= 1;
                    segment.word(index).store(value, Ordering::Release);
                }
            };
            for (i, (word, value)) in pairs.iter().enumerate() {
                store(
                    &a,
                    1 + 2 * i,
                    u64::from(word.segment) << 32 | u64::from(word.index),
                );
                store(&a, 2 + 2 * i, *value);
            }
            store(&a, 0, pairs.len() as u64);
            for (word, value) in &pairs {
                store(
                    &journal.segments[word.segment as usize],
                    word.index as usize,
                    *value,
                );
            }
            store(&a, 0, 0);
            journal.recover().unwrap();
            let now: Vec<u64> = pairs.iter().map(|(word, _)| journal.load(*word)).collect();
            let new: Vec<u64> = pairs.iter().map(|(_, value)| *value).collect();
            let happened = killed_after > 2 * pairs.len();
            assert_eq!(
                now,
                if happened { new } else { vec![0; 5] },
                "killed after {killed_after} stores"
            );
        }
    }

    #[test]
    fn a_corrupt_journal_is_said_not_followed() {
        let (journal, a, _b) = two_segments();
        a.word(0).store(65, Ordering::Relaxed);
        assert_eq!(journal.recover(), Err(Corrupt));
        a.word(0).store(1, Ordering::Relaxed);
        a.word(1).store(9 << 32, Ordering::Relaxed);
        assert_eq!(journal.recover(), Err(Corrupt));
        a.word(1).store(1 << 32 | 512, Ordering::Relaxed);
        assert_eq!(journal.recover(), Err(Corrupt));
    }
}
