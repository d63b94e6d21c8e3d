//! A stream whose writer may be broken: any words in its header, any bytes in its data. A reader
//! gets records, an end or an error; it goes forward, and never past the head. What a record says is
//! decoded or refused.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::memory::Segment;
use protocol::record::{Down, Up};
use protocol::stream::{HEADER, Reader, segment_size};

const DATA: usize = 4096;

thread_local! {
    static SEGMENT: RefCell<Arc<Segment>> = RefCell::new(Arc::new(
        Segment::create(c"fuzz", segment_size(DATA)).expect("a segment"),
    ));
}

/// The first 24 bytes are head, reserve and the reader's place; the rest is laid over the data.
pub fn ring_record(data: &[u8]) {
    decode(data);
    let Some((words, rest)) = data.split_at_checked(24) else {
        return;
    };
    let word = |i: usize| u64::from_le_bytes(words[i * 8..][..8].try_into().expect("8 bytes"));
    SEGMENT.with_borrow(|segment| {
        segment.word(0).store(word(0), Ordering::Relaxed);
        segment.word(1).store(word(1), Ordering::Relaxed);
        segment.copy_in(HEADER, &[0; DATA]);
        segment.copy_in(HEADER, &rest[..rest.len().min(DATA)]);
        let reader = Reader::new(segment.clone());
        let mut at = word(2);
        let mut bytes = Vec::new();
        while let Ok(Some(next)) = reader.next(at, &mut bytes) {
            assert!(next > at && next <= word(0));
            decode(&bytes);
            bytes.clear();
            at = next;
        }
    });
}

fn decode(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Some(up) = Up::decode(bytes) {
        up.encode(&mut again);
        assert_eq!(Up::decode(&again), Some(up));
    }
    again.clear();
    if let Some(down) = Down::decode(bytes) {
        down.encode(&mut again);
        assert_eq!(Down::decode(&again), Some(down));
    }
}
