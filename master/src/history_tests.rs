use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::format::Data;
use protocol::history::{BLOCK, Kept, Reader};
use protocol::random::Random;

use super::*;
use crate::rooms::Rooms;
use crate::state::shared;

const FROM: &[u8] = b"u7";

fn rule(name: &str, messages: u32, age_ms: u64, bytes: usize) -> Rule {
    Rule {
        rooms: Pattern::new(name),
        messages,
        age_ms,
        bytes: bytes as u64,
    }
}

/// Every third comes as MessagePack.
fn as_sent(offset: u64, bytes: &[u8]) -> Data<'_> {
    match offset % 3 {
        0 => Data::msgpack(bytes),
        _ => Data::json(bytes),
    }
}

/// What a message of this place says: of a length that varies, and different everywhere.
fn data(room: u32, offset: u64) -> Vec<u8> {
    let mix = (offset + 77 * u64::from(room)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = match mix >> 60 {
        0 => 3000,
        1 => 1100,
        n => n * 13,
    };
    (0..len).map(|i| (mix >> (i % 57)) as u8).collect()
}

struct Table {
    state: State,
    rooms: Rooms,
    history: History,
    rules: Vec<Rule>,
    budget: u64,
    now: u64,
}

impl Table {
    fn new(rules: Vec<Rule>, budget: usize) -> Table {
        let state = State::create(4096, 5).unwrap();
        let budget = budget as u64;
        Table {
            rooms: Rooms::recover(&state, 1000),
            history: History::recover(&state, rules.clone(), budget, 1),
            state,
            rules,
            budget,
            now: 1,
        }
    }

    fn room(&mut self, name: &str) -> u32 {
        let mut record = Record::new();
        let room = self.rooms.open(&self.state, &mut record, name.as_bytes());
        for evicted in self.rooms.take_evicted() {
            self.history.drop_room(&self.state, evicted);
        }
        self.state.commit(&mut record);
        room.unwrap()
    }

    fn epoch(&self, room: u32) -> u64 {
        self.state.get(shared(room, Field::Epoch))
    }

    /// The room's next message; `commits`: or the brain dies just before.
    fn say(&mut self, room: u32, commits: bool) -> u64 {
        let offset = self.state.get(shared(room, Field::Last)) + 1;
        let data = data(room, offset);
        let message = Retained {
            offset,
            at_ms: self.now,
            from: FROM,
            data: as_sent(offset, &data),
        };
        let name = rooms::name(&self.state, room);
        let mut record = Record::new();
        self.history
            .append(&self.state, &mut record, room, &name, &message);
        record.set(shared(room, Field::Last), offset);
        if commits {
            self.state.commit(&mut record);
            self.history.settle();
        } else {
            self.next_brain();
        }
        offset
    }

    fn next_brain(&mut self) {
        self.rooms = Rooms::recover(&self.state, 1000);
        self.history = History::recover(&self.state, self.rules.clone(), self.budget, self.now);
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.history.set_now(self.now);
        while self.history.expire(&self.state) {}
    }

    fn reader(&self) -> Reader {
        Reader::new(self.state.history().clone())
    }

    /// Everything that the room retains, which must be what was said, to the last message: the
    /// offsets.
    fn retained(&self, room: u32) -> Vec<u64> {
        let (reader, epoch) = (self.reader(), self.epoch(room));
        let last = reader.last(room, epoch).unwrap();
        let Some(first) = reader.first(room) else {
            return Vec::new();
        };
        let copied = reader
            .range(room, epoch, first, last, usize::MAX)
            .expect("all of it is there");
        let mut offsets = Vec::new();
        for kept in copied.iter() {
            let Kept::Message(message) = kept else {
                offsets.push(kept.offset());
                continue;
            };
            assert_eq!(message.from, FROM);
            let data = data(room, message.offset);
            assert!(message.data == as_sent(message.offset, &data));
            offsets.push(message.offset);
        }
        assert_eq!(offsets, (first..=last).collect::<Vec<_>>());
        offsets
    }
}

#[test]
fn the_last_ones_are_retained() {
    let mut t = Table::new(vec![rule("chat.*", 3, 0, 1 << 20)], 1 << 20);
    let (chat, other) = (t.room("chat.a"), t.room("other"));
    for _ in 0..10 {
        t.say(chat, true);
        t.say(other, true);
    }
    assert_eq!(t.retained(chat), [8, 9, 10]);
    assert_eq!(t.retained(other), [] as [u64; 0]);
    assert!(t.reader().first(other).is_none());
    t.next_brain();
    t.say(chat, true);
    assert_eq!(t.retained(chat), [9, 10, 11]);
}

#[test]
fn what_is_wanted_is_all_there_or_gone() {
    let mut t = Table::new(vec![rule("*", 50, 0, 1 << 20)], 1 << 20);
    let room = t.room("r");
    for _ in 0..120 {
        t.say(room, true);
    }
    let (reader, epoch) = (t.reader(), t.epoch(room));
    let range = |from, to, most| {
        let copied = reader.range(room, epoch, from, to, most)?;
        Ok::<_, protocol::history::Gone>(copied.iter().map(|m| m.offset()).collect::<Vec<_>>())
    };
    assert_eq!(range(71, 120, 1 << 20).unwrap().len(), 50);
    assert_eq!(range(100, 102, 1 << 20).unwrap(), [100, 101, 102]);
    assert!(range(121, 120, 0).unwrap().is_empty());
    assert!(range(70, 120, 1 << 20).is_err(), "evicted");
    assert!(range(71, 121, 1 << 20).is_err(), "not said yet");
    assert!(range(71, 120, 1000).is_err(), "too much");
    assert!(reader.range(room, epoch + 1, 100, 101, 1 << 20).is_err());
    let newest = |to, count, most| {
        let copied = reader.newest(room, epoch, to, count, most);
        copied.iter().map(|m| m.offset()).collect::<Vec<_>>()
    };
    assert_eq!(newest(u64::MAX, 2, 1 << 20), [119, 120]);
    assert_eq!(newest(73, 10, 1 << 20), [71, 72, 73]);
    assert_eq!(newest(120, 10, 0), [120], "one at least");
    assert!(newest(70, 10, 1 << 20).is_empty());
    assert!(newest(120, 0, 1 << 20).is_empty());
}

#[test]
fn what_is_too_old_goes() {
    let mut t = Table::new(vec![rule("*", 100, 10_000, 1 << 20)], 1 << 20);
    let room = t.room("r");
    t.say(room, true);
    t.pass(6_000);
    t.say(room, true);
    t.pass(5_000);
    assert_eq!(t.retained(room), [2]);
    t.next_brain();
    t.pass(6_000);
    assert!(t.reader().first(room).is_none());
    assert_eq!(t.history.bytes(), 0);
    t.say(room, true);
    assert_eq!(t.retained(room), [3]);
}

#[test]
fn a_rule_that_changes_counts_for_what_is_there() {
    let mut t = Table::new(vec![rule("*", 100, 0, 1 << 20)], 1 << 20);
    let room = t.room("r");
    for _ in 0..20 {
        t.say(room, true);
    }
    let fewer = vec![rule("*", 5, 0, 1 << 20)];
    t.history.configure(&t.state, fewer, 1 << 20);
    assert_eq!(t.retained(room), [16, 17, 18, 19, 20]);
    t.history.configure(&t.state, Vec::new(), 1 << 20);
    assert!(t.reader().first(room).is_none());
    assert_eq!(t.history.bytes(), 0);
    t.say(room, true);
    t.history
        .configure(&t.state, vec![rule("*", 5, 0, 1 << 20)], 1 << 20);
    t.say(room, true);
    assert_eq!(
        t.retained(room),
        [22],
        "what was not retained is not made up"
    );
}

#[test]
fn a_busy_room_pushes_out_nothing_of_quiet_ones() {
    let rules = vec![rule("*", 1_000_000, 0, 64 * BLOCK)];
    let mut t = Table::new(rules, 40 * BLOCK);
    let quiet: Vec<u32> = (0..8).map(|i| t.room(&format!("quiet{i}"))).collect();
    for room in &quiet {
        t.say(*room, true);
    }
    let busy = t.room("busy");
    for _ in 0..2000 {
        t.say(busy, true);
        assert!(t.history.bytes() <= 40 * BLOCK as u64);
    }
    for room in &quiet {
        assert_eq!(t.retained(*room), [1]);
    }
    assert!(t.retained(busy).len() > 10);
    // One that is new gets its share from the one that has most.
    let late = t.room("late");
    t.say(late, true);
    assert_eq!(t.retained(late), [1]);
}

#[test]
fn a_room_that_returns_has_nothing_of_the_one_before() {
    let mut t = Table::new(vec![rule("*", 10, 0, 1 << 20)], 1 << 20);
    t.rooms.set_capacity(1);
    let room = t.room("a");
    let epoch = t.epoch(room);
    t.say(room, true);
    assert_eq!(t.room("b"), room);
    assert!(t.reader().last(room, epoch).is_none());
    assert!(t.retained(room).is_empty());
    t.say(room, true);
    assert_eq!(t.retained(room), [1]);
}

/// Random rooms, sizes, times, deaths before a commit and after: what is retained is always the end
/// of what was said, within its rule, and no block is lost.
#[test]
fn a_seeded_simulation() {
    for seed in 1..=60u64 {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut random = move |n: u64| random.below(n);
        let rules = vec![
            rule("one*", 1, 0, 8 * BLOCK),
            rule("none*", 0, 0, 8 * BLOCK),
            rule("age*", 50, 5_000, 16 * BLOCK),
            rule(
                "*",
                1 + random(60) as u32,
                0,
                (1 + random(20) as usize) * BLOCK,
            ),
        ];
        let mut t = Table::new(rules.clone(), (10 + random(60) as usize) * BLOCK);
        t.rooms.set_capacity(12);
        let mut said: std::collections::HashMap<u32, u64> = Default::default();
        for _ in 0..600 {
            let name = ["one", "none", "age", "other"][random(4) as usize];
            let name = format!("{name}{}", random(4));
            match random(40) {
                0 => t.next_brain(),
                1 => t.pass(random(4_000)),
                2 => t.pass(10),
                kind => {
                    let room = t.room(&name);
                    if kind == 3 {
                        t.rooms.set_capacity(12);
                    }
                    let before = t.state.get(shared(room, Field::Last));
                    let commits = kind > 5;
                    let offset = t.say(room, commits);
                    assert_eq!(offset, before + 1);
                    said.insert(room, before + u64::from(commits));
                    let retained = t.retained(room);
                    let rule = rules.iter().find(|r| r.rooms.matches(name.as_bytes()));
                    assert!(retained.len() <= rule.unwrap().messages as usize);
                    if rule.unwrap().messages == 0 {
                        assert!(retained.is_empty());
                    }
                }
            }
            assert!(t.history.bytes() <= t.budget, "seed {seed}");
        }
        let held: Vec<u32> = (0..rooms::used(&t.state)).collect();
        let mut all = 0;
        for room in held {
            if t.epoch(room) != 0 {
                all += t.retained(room).len();
            }
        }
        assert!(all > 0);
        // Nothing leaks: with no rule, all blocks are free, each once.
        t.history.configure(&t.state, Vec::new(), t.budget);
        assert_eq!(t.history.bytes(), 0);
        t.history.free.sort_unstable();
        let all: Vec<u32> = (0..t.history.high).collect();
        assert_eq!(t.history.free, all, "seed {seed}");
    }
}

/// A reader in another thread while blocks go from room to room: what it is given is what was said,
/// or it is told that it is gone.
#[test]
fn a_reader_is_never_given_what_is_another_rooms() {
    let rules = vec![rule("*", 8, 0, 8 * BLOCK)];
    let mut t = Table::new(rules, 24 * BLOCK);
    let rooms: Vec<u32> = (0..6).map(|i| t.room(&format!("r{i}"))).collect();
    let (segment, epoch) = (t.state.history().clone(), t.epoch(rooms[0]));
    let ends = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (rooms, ends) = (rooms.clone(), ends.clone());
        move || {
            let reader = Reader::new(segment);
            let (mut given, mut gone) = (0u64, 0u64);
            while !ends.load(Ordering::Relaxed) {
                for &room in &rooms {
                    let Some(last) = reader.last(room, epoch) else {
                        continue;
                    };
                    let from = (last + 1).saturating_sub(5).max(1);
                    match reader.range(room, epoch, from, last, 1 << 20) {
                        Ok(copied) => {
                            let mut expected = from;
                            for kept in copied.iter() {
                                let Kept::Message(message) = kept else {
                                    panic!("nothing was deleted");
                                };
                                assert_eq!(message.offset, expected);
                                let data = data(room, expected);
                                assert!(message.data == as_sent(expected, &data));
                                expected += 1;
                            }
                            assert_eq!(expected, last + 1);
                            given += 1;
                        }
                        Err(_) => gone += 1,
                    }
                }
            }
            (given, gone)
        }
    });
    for i in 0..60_000 {
        t.say(rooms[(i * 7 + i / 64) % 6], true);
    }
    ends.store(true, Ordering::Relaxed);
    let (given, gone) = reader.join().unwrap();
    assert!(given > 0, "{given} given, {gone} gone");
}

#[test]
fn what_is_deleted_keeps_its_place() {
    let mut t = Table::new(vec![rule("*", 50, 0, 1 << 20)], 1 << 20);
    let (room, other) = (t.room("r"), t.room("s"));
    for _ in 0..60 {
        t.say(room, true);
        t.say(other, true);
    }
    let deleted = |t: &Table, room| {
        let (reader, epoch) = (t.reader(), t.epoch(room));
        let copied = reader.range(room, epoch, 11, 60, 1 << 20).unwrap();
        let deleted = copied
            .iter()
            .filter(|kept| matches!(kept, Kept::Deleted { .. }));
        deleted.map(|kept| kept.offset()).collect::<Vec<_>>()
    };
    let mut expected = Vec::new();
    // Evicted, the first and the last that are there, some between, one twice.
    for offset in [10, 11, 60, 12, 30, 31, 30] {
        let mut record = Record::new();
        t.history.delete(&t.state, &mut record, room, offset);
        assert_eq!(
            record.is_empty(),
            offset == 10 || expected.contains(&offset)
        );
        t.state.commit(&mut record);
        if offset > 10 && !expected.contains(&offset) {
            expected.push(offset);
        }
        expected.sort_unstable();
        assert_eq!(deleted(&t, room), expected);
    }
    assert_eq!(deleted(&t, other), [] as [u64; 0]);
    assert_eq!(t.retained(room).len(), 50, "all others are what they were");
    t.next_brain();
    t.say(room, true);
    assert_eq!(t.retained(room), (12..=61).collect::<Vec<_>>());
}

#[test]
fn what_is_cleared_is_gone_and_gives_its_blocks_back() {
    let mut t = Table::new(vec![rule("*", 50, 0, 1 << 20)], 1 << 20);
    let (room, other) = (t.room("r"), t.room("s"));
    for _ in 0..20 {
        t.say(room, true);
        t.say(other, true);
    }
    let (before, mut record) = (t.history.bytes(), Record::new());
    t.history.clear(&t.state, &mut record, room);
    t.state.commit(&mut record);
    t.history.settle();
    assert!(t.history.bytes() < before);
    assert_eq!(t.retained(room), [] as [u64; 0]);
    let gone = t.reader().range(room, t.epoch(room), 20, 20, 1 << 20);
    assert!(gone.is_err());
    t.next_brain();
    t.say(room, true);
    assert_eq!((t.retained(room), t.retained(other).len()), (vec![21], 20));
}
