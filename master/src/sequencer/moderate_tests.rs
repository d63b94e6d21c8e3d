use std::sync::Arc;

use protocol::format::Data;
use protocol::history::{Kept, Reader};
use protocol::ids::Cid;
use protocol::journal::{Journal, Record, WORDS};
use protocol::memory::Segment;
use protocol::pattern::Pattern;
use protocol::record::{Lane, Up};
use protocol::stream::{self, Writer, segment_size};

use super::super::{Bounds, Ring, Turn};
use super::*;
use crate::history::Rule;
use crate::poison;

fn born(state: &State) -> Sequencer {
    let bounds = Bounds {
        rooms: 64,
        history: 64 << 10,
        rules: vec![Rule {
            rooms: Pattern::new("*"),
            messages: 20,
            age_ms: 0,
            bytes: 32 << 10,
        }],
        sanctions: 3,
        keys: 16,
        key_age_ms: 60_000,
        ..Bounds::default()
    };
    Sequencer::recover(state, bounds, poison::note_death(state), 1, 1_000)
}

/// A worker, and what the log has said.
struct World {
    state: State,
    sequencer: Sequencer,
    writer: Writer,
    journal: Journal,
    ring: Ring,
    log: stream::Reader,
    read: u64,
}

impl World {
    fn new() -> World {
        let state = State::create(1 << 20, 100).unwrap();
        let size = (WORDS * 8).next_multiple_of(4096);
        let own = Arc::new(Segment::create(c"worker", size).unwrap());
        let segment = Arc::new(Segment::create(c"ring", segment_size(64 << 10)).unwrap());
        World {
            sequencer: born(&state),
            writer: Writer::new(segment.clone()),
            journal: Journal::new(0, vec![own, segment.clone()]),
            ring: Ring::new(3, segment),
            log: stream::Reader::new(state.log().clone()),
            read: 0,
            state,
        }
    }

    /// What the log says to it.
    fn ask<R>(&mut self, up: &Up<'_>, answer: impl FnOnce(Down<'_>) -> R) -> R {
        let mut bytes = Vec::new();
        up.encode(&mut bytes);
        assert!(
            self.writer
                .stage(self.state.get(crate::state::read_index(3)), &bytes)
        );
        let mut record = Record::new();
        self.writer.commit_into(&mut record, 1);
        self.journal.commit(&mut record);
        self.writer.committed();
        while self.sequencer.turn(&self.state, &self.ring) != Turn::Empty {}
        let mut said = Vec::new();
        self.read = self.log.next(self.read, &mut said).unwrap().unwrap();
        answer(Down::decode(&said).unwrap())
    }

    /// `Err`: why not.
    fn decide(&mut self, room: &str, act: Act<'_>) -> Result<(Scope, u64), Refusal> {
        let up = Up::Moderate {
            asker: ASKER,
            room: room.as_bytes(),
            by: b"m1",
            act,
        };
        self.ask(&up, |down| match down {
            Down::Moderated { scope, act, .. } => Ok((
                scope,
                match act {
                    Act::Mute { ms, .. } | Act::Ban { ms, .. } => ms,
                    Act::Clear { position } => position.offset,
                    _ => 0,
                },
            )),
            Down::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        })
    }

    /// Who moderates says it for somebody else.
    fn release(&mut self, by: &str, from: &str, key: &str) -> Result<u64, Refusal> {
        let up = Up::Release {
            asker: ASKER,
            room: b"r",
            by: by.as_bytes(),
            from: from.as_bytes(),
            key: key.as_bytes(),
            lane: Lane::default(),
            data: Data::json(b"1"),
        };
        self.ask(&up, |down| match down {
            Down::Message {
                position, from: by, ..
            } => {
                assert_eq!(by, from.as_bytes());
                Ok(position.offset)
            }
            Down::Sent { position, .. } => Ok(position.offset),
            Down::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        })
    }

    fn say(&mut self, room: &str, from: &str) -> Result<u64, Refusal> {
        let up = Up::Publish {
            asker: ASKER,
            room: room.as_bytes(),
            from: from.as_bytes(),
            key: b"",
            lane: Lane::default(),
            data: Data::json(b"1"),
        };
        self.ask(&up, |down| match down {
            Down::Message { position, .. } => Ok(position.offset),
            Down::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        })
    }
}

const ASKER: Asker<'static> = Asker {
    cid: Cid(1),
    ring: 3,
    slot: 7,
    id: b"1",
};

#[test]
fn who_is_muted_or_banned_says_nothing_until_that_is_over() {
    let mut w = World::new();
    assert_eq!(w.say("r", "u7"), Ok(1));
    let mute = Act::Mute {
        who: b"u7",
        ms: 500,
    };
    assert_eq!(w.decide("r", mute), Ok((Scope::Room(0), 1_500)));
    let muted = |after_ms| Err(Refusal::Muted { after_ms });
    assert_eq!(w.say("r", "u7"), muted(500));
    assert_eq!((w.say("r", "u8"), w.say("s", "u7")), (Ok(2), Ok(1)));
    w.sequencer = born(&w.state);
    w.sequencer.set_unix(1_400);
    assert_eq!(w.say("r", "u7"), muted(100), "the next brain knows");
    w.sequencer.set_unix(1_500);
    w.sequencer.expire_sanctions(&w.state);
    assert_eq!(w.say("r", "u7"), Ok(3));
    assert!(w.sequencer.sanctions().is_empty());
    let ban = Act::Ban {
        whom: Whom::User(b"u7"),
        ms: 0,
    };
    assert_eq!(w.decide("", ban), Ok((Scope::Everywhere, 0)));
    let banned = Err(Refusal::Banned { after_ms: 0 });
    assert_eq!((w.say("r", "u7"), w.say("@u1", "u7")), (banned, banned));
    let unban = Act::Unban {
        whom: Whom::User(b"u7"),
    };
    assert_eq!(w.decide("", unban), Ok((Scope::Everywhere, 0)));
    assert_eq!(w.say("r", "u7"), Ok(4));
}

#[test]
fn what_is_said_for_somebody_else_is_the_moderators_to_say() {
    let mut w = World::new();
    w.decide("r", Act::Mute { who: b"u7", ms: 0 }).unwrap();
    assert_eq!(w.release("m1", "u7", ""), Ok(1));
    assert_eq!(w.release("m1", "u7", "h5"), Ok(2));
    assert_eq!(w.release("m2", "u7", "h5"), Ok(2), "once, whoever does it");
    assert_eq!(w.release("m2", "u8", "h5"), Ok(3), "of another");
    w.decide("r", Act::Mute { who: b"m1", ms: 0 }).unwrap();
    let muted = Err(Refusal::Muted { after_ms: 0 });
    assert_eq!(w.release("m1", "u7", "h6"), muted);
    assert_eq!(w.release("m2", "u7", "h6"), Ok(4));
}

#[test]
fn a_full_table_is_said_and_what_is_in_force_stays() {
    let mut w = World::new();
    for who in ["a", "b", "c"] {
        let who = who.as_bytes();
        assert!(w.decide("nobody", Act::Mute { who, ms: 0 }).is_ok());
    }
    let more = Act::Mute { who: b"d", ms: 0 };
    assert_eq!(w.decide("nobody", more), Err(Refusal::Full));
    let scope = w.decide("nobody", Act::Unmute { who: b"b" });
    assert_eq!(scope, Ok((Scope::Nowhere, 0)));
    assert!(w.decide("nobody", more).is_ok());
    let muted = Err(Refusal::Muted { after_ms: 0 });
    let said = ["a", "b", "c", "d"].map(|who| w.say("nobody", who));
    assert_eq!(said, [muted, Ok(1), muted, muted]);
}

#[test]
fn messages_are_deleted_and_rooms_cleared() {
    let mut w = World::new();
    for offset in 1..=5 {
        assert_eq!(w.say("r", "u7"), Ok(offset));
    }
    let reader = Reader::new(w.state.history().clone());
    let shown = || {
        let copied = reader.newest(0, 100, u64::MAX, 100, 1 << 20);
        let shown = copied
            .iter()
            .filter(|kept| matches!(kept, Kept::Message(_)));
        shown.map(|kept| kept.offset()).collect::<Vec<_>>()
    };
    let delete = |epoch, offset| Act::Delete {
        position: Position { epoch, offset },
    };
    assert_eq!(w.decide("r", delete(100, 3)), Ok((Scope::Room(0), 0)));
    assert_eq!(shown(), [1, 2, 4, 5]);
    let unknown = Err(Refusal::Unknown);
    for (room, epoch, offset) in [("r", 100, 6), ("r", 100, 0), ("r", 99, 2), ("s", 100, 1)] {
        assert_eq!(w.decide(room, delete(epoch, offset)), unknown);
    }
    let clear = Act::Clear {
        position: Position {
            epoch: 0,
            offset: 0,
        },
    };
    assert_eq!(w.decide("r", clear), Ok((Scope::Room(0), 5)));
    assert_eq!(w.decide("s", clear), unknown);
    assert_eq!(shown(), [] as [u64; 0]);
    assert_eq!(w.say("r", "u7"), Ok(6));
    assert_eq!(shown(), [6]);
}
