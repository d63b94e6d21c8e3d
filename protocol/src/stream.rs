//! A stream of records in shared memory, with one writer and readers in other processes: each
//! worker's ring (up), the master's log (down).
//!
//! The writer stages records behind the head, inside `reserve`; they count once the journal has
//! moved the head over them ([`Writer::commit_into`]). Before it overwrites old bytes it moves
//! `reserve` over them, so a reader copies a record out and then looks whether `reserve` has
//! overtaken it. A reader trusts nothing that it reads.
//!
//! ```text
//! page 0: words (see the constants)      data: a power of two of bytes
//! record: length with padding (u32) · length of the payload (u32) · payload · padding to 8
//! ```

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::journal::{Record, Word};
use crate::memory::Segment;

/// Bytes before the data.
pub const HEADER: usize = 4096;

/// Bytes of a payload at most.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// First word of the header that is free for the owner's use: a ring's row of figures, the log's
/// read indexes of the rings.
pub const FIRST_FREE_WORD: usize = 16;

/// Words of the header.
const HEAD: usize = 0;
const RESERVE: usize = 1;

/// `reserve` moves by so much at once, so that it is not stored for every record.
const RESERVE_STEP: u64 = 16 << 10;

/// In place of a payload's length: nothing here, go on at the start of the data.
const PAD: u32 = u32::MAX;

/// Bytes of a segment for a stream with so many bytes of data (a power of two).
#[must_use]
pub fn segment_size(data: usize) -> usize {
    assert!(data.is_power_of_two() && data >= 4096);
    HEADER + data
}

fn data_size(segment: &Segment) -> u64 {
    (segment.size() - HEADER) as u64
}

fn padded(payload: usize) -> u64 {
    (8 + payload as u64).next_multiple_of(8)
}

/// The one writer. It holds nothing that the segment does not: a new brain makes a new one.
#[derive(Debug)]
pub struct Writer {
    segment: Arc<Segment>,
    size: u64,
    head: u64,
    staged: u64,
    reserve: u64,
}

impl Writer {
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Writer {
        let head = segment.word(HEAD).load(Ordering::Acquire);
        let reserve = segment.word(RESERVE).load(Ordering::Acquire).max(head);
        Writer {
            size: data_size(&segment),
            segment,
            head,
            staged: head,
            reserve,
        }
    }

    /// Bytes committed since the stream began: where the next record will be.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Bytes that are there to be read at most.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Can a reader be there? If not, the header is not what was written.
    #[must_use]
    pub fn can_be_read_at(&self, position: u64) -> bool {
        position <= self.head && self.head - position <= self.size && self.head.is_multiple_of(8)
    }

    /// Writes a record with this payload behind what is staged. Nothing before `keep` is overwritten: a
    /// ring's read index, or for the log, which overruns its readers, its own head. `false`: there is no
    /// room, and nothing is changed.
    #[must_use]
    pub fn stage(&mut self, keep: u64, payload: &[u8]) -> bool {
        let need = padded(payload.len());
        if payload.len() > MAX_PAYLOAD || need > self.size / 2 {
            return false;
        }
        let at = self.staged % self.size;
        let pad = if at + need > self.size {
            self.size - at
        } else {
            0
        };
        let end = self.staged + pad + need;
        if end > keep + self.size {
            return false;
        }
        if end > self.reserve {
            // No further than may be overwritten, and before a byte of it is.
            self.reserve = (end + RESERVE_STEP).min(keep + self.size);
            self.segment
                .word(RESERVE)
                .store(self.reserve, Ordering::Release);
            fence(Ordering::SeqCst);
        }
        if pad > 0 {
            self.put_lengths(self.staged, pad as u32, PAD);
        }
        let record = self.staged + pad;
        self.put_lengths(record, need as u32, payload.len() as u32);
        self.segment.copy_in(self.offset(record) + 8, payload);
        self.staged = end;
        true
    }

    /// Is there something to be committed?
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.staged != self.head
    }

    /// Puts the head behind all that is staged into the record, as a word of `segment` (the
    /// stream's number in the journal). Call [`committed`](Writer::committed) after the commit.
    pub fn commit_into(&self, record: &mut Record, segment: u8) {
        if self.has_staged() {
            record.set(
                Word {
                    segment,
                    index: HEAD as u32,
                },
                self.staged,
            );
        }
    }

    /// The record is committed. `true` if there is something new for the readers.
    pub fn committed(&mut self) -> bool {
        let new = self.staged != self.head;
        self.head = self.staged;
        new
    }

    /// Gives back the memory of what lies between two places, which all readers have read, as far as
    /// what lies behind it, and is not read, has not taken its place.
    pub fn give_back(&self, from: u64, to: u64) {
        let from = from.max(self.staged.saturating_sub(self.size));
        let (start, end) = (self.offset(from), self.offset(to));
        if from < to && start < end {
            self.segment.give_back(start..end);
        } else if from < to {
            self.segment.give_back(start..HEADER + self.size as usize);
            self.segment.give_back(HEADER..end);
        }
    }

    /// Forgets what was staged.
    pub fn abandon(&mut self) {
        self.staged = self.head;
    }

    fn offset(&self, position: u64) -> usize {
        HEADER + (position % self.size) as usize
    }

    fn put_lengths(&self, position: u64, total: u32, payload: u32) {
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&total.to_le_bytes());
        lengths[4..].copy_from_slice(&payload.to_le_bytes());
        self.segment.copy_in(self.offset(position), &lengths);
    }
}

/// Why a reader got nothing where something should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The writer has overwritten it.
    #[error("overrun by the writer")]
    Overrun,
    /// It is not what our writer writes.
    #[error("not a record")]
    Corrupt,
}

/// A reader; where it is is its owner's to keep.
#[derive(Debug)]
pub struct Reader {
    segment: Arc<Segment>,
    size: u64,
}

impl Reader {
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Reader {
        Reader {
            size: data_size(&segment),
            segment,
        }
    }

    /// Behind the last record that can be read now.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.segment.word(HEAD).load(Ordering::Acquire)
    }

    /// The oldest position that the writer has not begun to overwrite. A record may begin before
    /// it and be gone; none that begins there or later is.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        let reserve = self.segment.word(RESERVE).load(Ordering::Acquire);
        reserve.saturating_sub(self.size)
    }

    /// Appends the payload of the record at `cursor` to `into`; returns the next record's
    /// position. `None`: nothing there yet.
    pub fn next(&self, cursor: u64, into: &mut Vec<u8>) -> Result<Option<u64>, Lost> {
        let head = self.head();
        let mut at = cursor;
        if at == head {
            return Ok(None);
        }
        let (mut total, mut payload) = self.lengths(at, head)?;
        if payload == PAD {
            at += u64::from(total);
            if at == head {
                return self.settled(cursor, Lost::Corrupt).map(|_: u64| None);
            }
            (total, payload) = self.lengths(at, head)?;
        }
        if payload as usize > MAX_PAYLOAD || padded(payload as usize) != u64::from(total) {
            return self.settled(cursor, Lost::Corrupt).map(|_: u64| None);
        }
        let start = into.len();
        into.resize(start + payload as usize, 0);
        self.segment
            .copy_out(self.offset(at) + 8, &mut into[start..]);
        fence(Ordering::Acquire);
        if cursor < self.oldest() {
            into.truncate(start);
            return Err(Lost::Overrun);
        }
        Ok(Some(at + u64::from(total)))
    }

    /// The two lengths at a position, as far as they can be true.
    fn lengths(&self, at: u64, head: u64) -> Result<(u32, u32), Lost> {
        if at > head || !at.is_multiple_of(8) {
            return Err(Lost::Corrupt);
        }
        if at < self.oldest() || head - at > self.size {
            return Err(Lost::Overrun);
        }
        let mut lengths = [0; 8];
        self.segment.copy_out(self.offset(at), &mut lengths);
        fence(Ordering::Acquire);
        let [a, b, c, d, e, f, g, h] = lengths;
        let (total, payload) = (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        );
        let end = at % self.size + u64::from(total);
        if total < 8 || !total.is_multiple_of(8) || end > self.size || at + u64::from(total) > head
        {
            return self.settled(at, Lost::Corrupt);
        }
        Ok((total, payload))
    }

    /// What looks corrupt may have been overwritten while it was read.
    fn settled<T>(&self, cursor: u64, found: Lost) -> Result<T, Lost> {
        Err(if cursor < self.oldest() {
            Lost::Overrun
        } else {
            found
        })
    }

    fn offset(&self, position: u64) -> usize {
        HEADER + (position % self.size) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, WORDS};
    use crate::memory::Access;
    use crate::random::Random;

    struct Fixture {
        journal: Journal,
        segment: Arc<Segment>,
        writer: Writer,
        reader: Reader,
    }

    fn fixture(data: usize) -> Fixture {
        let state =
            Arc::new(Segment::create(c"state", (WORDS * 8).next_multiple_of(4096)).unwrap());
        let segment = Arc::new(Segment::create(c"stream", segment_size(data)).unwrap());
        let other = Segment::map(segment.open_read_only().unwrap(), Access::Read).unwrap();
        Fixture {
            journal: Journal::new(0, vec![state, segment.clone()]),
            writer: Writer::new(segment.clone()),
            reader: Reader::new(Arc::new(other)),
            segment,
        }
    }

    impl Fixture {
        fn commit(&mut self) {
            let mut record = Record::new();
            self.writer.commit_into(&mut record, 1);
            self.journal.commit(&mut record);
            self.writer.committed();
        }
    }

    fn payload(i: u64) -> Vec<u8> {
        (0..(i * 7919) % 700).map(|b| (b + i) as u8).collect()
    }

    #[test]
    fn what_is_staged_is_not_seen_before_the_commit_and_not_after_an_abandon() {
        let mut f = fixture(4096);
        assert!(f.writer.stage(0, b"one"));
        assert_eq!(f.reader.next(0, &mut Vec::new()), Ok(None));
        f.commit();
        let mut got = Vec::new();
        let next = f.reader.next(0, &mut got).unwrap().unwrap();
        assert_eq!(got, b"one");
        assert!(f.writer.stage(0, b"two"));
        f.writer.abandon();
        f.commit();
        assert_eq!(f.reader.next(next, &mut got), Ok(None));
        // A new brain's writer goes on from the head.
        f.writer = Writer::new(f.segment.clone());
        assert!(f.writer.stage(0, b"three"));
        f.commit();
        got.clear();
        f.reader.next(next, &mut got).unwrap().unwrap();
        assert_eq!(got, b"three");
    }

    /// As a ring: the writer stops at the reader, over many turns of the wrap.
    #[test]
    fn a_ring_wraps_and_never_overwrites_what_is_unread() {
        let mut f = fixture(4096);
        let (mut read, mut written, mut seen) = (0, 0, 0);
        while seen < 5000 {
            while f.writer.stage(read, &payload(written)) {
                written += 1;
                f.commit();
            }
            assert!(written > seen, "a ring that is empty has room");
            for _ in 0..=(seen % 3) {
                let mut got = Vec::new();
                if let Some(next) = f.reader.next(read, &mut got).unwrap() {
                    assert_eq!(got, payload(seen));
                    read = next;
                    seen += 1;
                }
            }
        }
    }

    /// A new brain does not know how far its predecessor has given back: it begins at 0.
    #[test]
    fn what_is_unread_is_not_given_back() {
        let mut f = fixture(1 << 15);
        let (mut read, mut written, mut seen) = (0, 0, 0);
        while seen < 5000 {
            while f.writer.stage(read, &payload(written)) {
                written += 1;
                f.commit();
            }
            for _ in 0..=(seen % 30) {
                let mut got = Vec::new();
                let next = f.reader.next(read, &mut got).unwrap();
                assert_eq!(got, payload(seen));
                read = next.unwrap();
                seen += 1;
            }
            f.writer.give_back(0, read);
        }
    }

    /// As the log: the writer never waits, and a slow reader learns that it was overrun.
    #[test]
    fn a_log_overruns_slow_readers_who_notice() {
        let mut f = fixture(4096);
        let mut starts = Vec::new();
        for i in 0..2000 {
            let head = f.writer.head();
            starts.push(head);
            assert!(f.writer.stage(head, &payload(i)));
            f.commit();
        }
        let mut readable = 0;
        for (i, start) in starts.iter().enumerate() {
            let mut got = Vec::new();
            match f.reader.next(*start, &mut got) {
                Ok(Some(_)) => {
                    assert_eq!(got, payload(i as u64));
                    readable += 1;
                }
                Ok(None) => panic!("record {i} is committed"),
                Err(lost) => {
                    assert_eq!(lost, Lost::Overrun);
                    assert_eq!(readable, 0, "older ones go first");
                    assert!(got.is_empty());
                }
            }
        }
        assert!(readable > 0 && readable < 100);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut f = fixture(4096);
        assert!(!f.writer.stage(0, &vec![0; 3000]));
        let mut f = fixture(8 << 20);
        assert!(!f.writer.stage(0, &vec![0; MAX_PAYLOAD + 1]));
    }

    /// A hostile writer: any bytes anywhere in its segment. The reader answers with a record, an
    /// error or nothing, and never reads outside.
    #[test]
    fn hostile_records_are_refused() {
        let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
        let mut random = move || random.next();
        for _ in 0..20_000 {
            let mut f = fixture_cached();
            let head = random() % 8192;
            f.segment.word(HEAD).store(head, Ordering::Relaxed);
            f.segment
                .word(RESERVE)
                .store(head.max(random() % 8192), Ordering::Relaxed);
            for _ in 0..4 {
                let at = HEADER / 8 + (random() % 512) as usize;
                let value = match random() % 4 {
                    0 => random(),
                    1 => (random() % 5000) | (u64::from(PAD) << 32),
                    _ => (random() % 1024) | (random() % 1024) << 32,
                };
                f.segment.word(at).store(value, Ordering::Relaxed);
            }
            let cursor = random() % 8192;
            let mut got = Vec::new();
            if let Ok(Some(next)) = f.reader.next(cursor, &mut got) {
                assert!(next > cursor && next <= head);
            }
            f.commit();
        }
    }

    thread_local! {
        static SEGMENTS: (Arc<Segment>, Arc<Segment>) = (
            Arc::new(Segment::create(c"state", 4096).unwrap()),
            Arc::new(Segment::create(c"stream", segment_size(4096)).unwrap()),
        );
    }

    fn fixture_cached() -> Fixture {
        SEGMENTS.with(|(state, segment)| Fixture {
            journal: Journal::new(0, vec![state.clone(), segment.clone()]),
            writer: Writer::new(segment.clone()),
            reader: Reader::new(segment.clone()),
            segment: segment.clone(),
        })
    }
}
