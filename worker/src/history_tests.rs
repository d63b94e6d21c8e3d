use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::format::Data;
use protocol::history::{Blocks, Field, Place, Retained, create, word};
use protocol::memory::Segment;

use super::*;

const EPOCH: u64 = 3;
const NUMBER: u32 = 9;

/// A room that retains the messages from `first` to `last`.
fn room(first: u64, last: u64) -> (Reader, Arc<Segment>) {
    let segment = Arc::new(create().unwrap());
    let set = |field, value| {
        let word = segment.word(word(NUMBER, field) as usize);
        word.store(value, Ordering::Release);
    };
    let blocks = Blocks::new(segment.clone());
    let (head, mut block) = (Place::start(0), 0);
    blocks.chain(0, None);
    let mut tail = head;
    for offset in first..=last {
        let data = offset.to_string();
        let message = Retained {
            offset,
            at_ms: 1,
            from: b"u7",
            data: Data::json(data.as_bytes()),
        };
        if tail.left() < 64 {
            blocks.chain(block + 1, Some(block));
            block += 1;
        }
        tail = blocks.put(tail, &message).unwrap();
    }
    set(Field::Epoch, EPOCH);
    set(Field::Last, last);
    if first <= last {
        set(Field::First, first);
        set(Field::Head, Place::pack(Some(head)));
        set(Field::Tail, Place::pack(Some(tail)));
    }
    (Reader::new(segment.clone()), segment)
}

fn known(read: u64) -> Room<'static> {
    Room {
        number: NUMBER,
        name: b"r",
        position: Position {
            epoch: EPOCH,
            offset: read,
        },
    }
}

fn at(offset: u64) -> Option<Position> {
    Some(Position {
        epoch: EPOCH,
        offset,
    })
}

fn offsets(copied: &Copied) -> Vec<u64> {
    copied.iter().map(|message| message.offset()).collect()
}

const MUCH: usize = 1 << 20;

#[test]
fn what_was_missed_is_brought_up_to_the_newest_that_was_placed() {
    let (history, _segment) = room(51, 150);
    // This worker has read up to 140 only: the rest is not waited for, and does not come again.
    let brought = on_join(&history, known(140), at(120), true, MUCH);
    assert_eq!((brought.after, brought.recovered), (150, Some(true)));
    assert_eq!(offsets(&brought.messages), (121..=150).collect::<Vec<_>>());
    // A client that was ahead of this worker goes on where it was.
    let brought = on_join(&history, known(140), at(150), false, MUCH);
    assert_eq!((brought.after, brought.recovered), (150, Some(true)));
    assert!(brought.messages.is_empty());
    let brought = on_join(&history, known(140), at(50), false, MUCH);
    assert_eq!(offsets(&brought.messages).len(), 100);
}

#[test]
fn what_cannot_be_recovered_is_said() {
    let (history, _segment) = room(51, 150);
    let other = Position {
        epoch: EPOCH - 1,
        offset: 120,
    };
    for (since, most) in [
        (at(49), MUCH),
        (at(151), MUCH),
        (Some(other), MUCH),
        (at(120), 100),
    ] {
        let brought = on_join(&history, known(140), since, false, most);
        assert_eq!((brought.after, brought.recovered), (140, Some(false)));
        assert!(brought.messages.is_empty(), "{since:?}");
    }
}

#[test]
fn the_last_message_is_brought_if_nothing_else_is() {
    let (history, _segment) = room(51, 150);
    let brought = on_join(&history, known(140), None, true, MUCH);
    assert_eq!((brought.after, brought.recovered), (150, None));
    assert_eq!(offsets(&brought.messages), [150]);
    let brought = on_join(&history, known(140), at(7), true, MUCH);
    assert_eq!((brought.after, brought.recovered), (150, Some(false)));
    assert_eq!(offsets(&brought.messages), [150]);
    let (nothing, _segment) = room(151, 150);
    let brought = on_join(&nothing, known(140), None, true, MUCH);
    assert_eq!((brought.after, brought.messages.is_empty()), (140, true));
    // Of a room that retains nothing, only who has everything has missed nothing.
    let brought = on_join(&nothing, known(140), at(150), false, MUCH);
    assert_eq!((brought.after, brought.recovered), (150, Some(true)));
    let brought = on_join(&nothing, known(140), at(149), false, MUCH);
    assert_eq!((brought.after, brought.recovered), (140, Some(false)));
}

#[test]
fn pages_lead_from_the_newest_to_the_oldest() {
    let (history, _segment) = room(51, 150);
    let mut before = None;
    let mut seen = Vec::new();
    loop {
        let page = offsets(&page(&history, known(140), before, 30));
        let Some(first) = page.first() else { break };
        before = at(*first);
        seen.splice(0..0, page);
    }
    assert_eq!(seen, (51..=150).collect::<Vec<_>>());
    let other = Some(Position {
        epoch: EPOCH + 1,
        offset: 100,
    });
    assert!(page(&history, known(140), other, 30).is_empty());
    assert!(page(&history, known(140), at(0), 30).is_empty());
}
