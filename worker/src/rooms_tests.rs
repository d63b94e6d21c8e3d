use protocol::ids::Role;
use protocol::journal::Journal;
use protocol::random::Random;

use super::*;
use crate::slots::{Flag, Meta, Phase};
use crate::state::JOURNAL;

struct Fixture {
    state: State,
    journal: Journal,
    slots: Slots,
    rooms: Rooms,
}

fn fixture(connections: u32) -> Fixture {
    let state = State::create().unwrap();
    let journal = Journal::new(JOURNAL, vec![state.segment().clone()]);
    let mut slots = Slots::new(state.clone());
    for fd in 0..connections {
        let slot = slots.take().unwrap();
        let meta = Meta::new(fd as i32, Phase::Rooms, Role::Public);
        // Every third speaks MessagePack.
        slots.set_meta(slot, meta.with(Flag::Msgpack, fd % 3 == 0));
    }
    let rooms = Rooms::new(state.clone(), &slots, &Presence::default(), |_| None);
    Fixture {
        state,
        journal,
        slots,
        rooms,
    }
}

impl Fixture {
    fn step(&mut self, f: impl FnOnce(&mut Rooms, &mut Record, &Slots)) {
        let mut record = Record::new();
        f(&mut self.rooms, &mut record, &self.slots);
        self.journal.commit(&mut record);
    }
}

fn who(slots: &Slots, slot: u32) -> Entrant<'static> {
    Entrant {
        slot,
        cid: slots.cid(slot),
        encoding: slots.encoding(slot),
        user: None,
    }
}

const ORIGIN: Position = Position {
    epoch: 1,
    offset: 0,
};

/// Random joins and leaves against sets, with a new brain now and then.
#[test]
fn members_are_as_they_joined_and_left_over_brains() {
    let mut f = fixture(20);
    for number in 0..10u32 {
        let name = format!("room {number}");
        f.step(|rooms, record, _| {
            rooms
                .hold(record, number + 100, ORIGIN, 0, name.as_bytes())
                .unwrap();
        });
    }
    let mut model = vec![std::collections::BTreeSet::new(); 10];
    let mut random = Random::new(3);
    for turn in 0..4000 {
        let (slot, number) = (random.below(20) as u32, random.below(10) as u32);
        let room = f.rooms.numbered(number + 100).unwrap();
        let member = f.rooms.is_member(&f.slots, slot, room);
        assert_eq!(member, model[number as usize].contains(&slot));
        let wants = |slot: &u32| f.slots.encoding(*slot) == Encoding::Msgpack;
        let msgpack = model[number as usize].iter().any(wants);
        assert_eq!(f.rooms.wants(room, Encoding::Msgpack), msgpack);
        if member {
            f.step(|rooms, record, slots| assert!(rooms.leave(record, slots, slot, room)));
            model[number as usize].remove(&slot);
        } else {
            f.step(|rooms, record, slots| {
                rooms
                    .join(record, slots, who(slots, slot), room, turn, None)
                    .unwrap()
            });
            model[number as usize].insert(slot);
        }
        if turn % 500 == 0 {
            f.rooms = Rooms::new(f.state.clone(), &f.slots, &Presence::default(), |_| None);
        }
    }
    for (number, members) in model.iter().enumerate() {
        let room = f.rooms.find(format!("room {number}").as_bytes()).unwrap();
        let mut now: Vec<u32> = f.rooms.members(room).iter().map(|m| m.slot).collect();
        now.sort_unstable();
        assert!(now.iter().eq(members.iter()));
        for encoding in Encoding::ALL {
            let wants = |slot: &u32| f.slots.encoding(*slot) == encoding;
            assert_eq!(f.rooms.wants(room, encoding), members.iter().any(wants));
        }
    }
    for slot in 0..20 {
        let count = model.iter().filter(|m| m.contains(&slot)).count();
        assert_eq!(f.rooms.count_of(&f.slots, slot) as usize, count);
        assert_eq!(f.rooms.rooms_of(&f.slots, slot).len(), count);
    }
}

#[test]
fn a_room_that_is_dropped_is_gone_and_its_place_is_used_again() {
    let mut f = fixture(1);
    f.step(|rooms, record, _| {
        rooms.hold(record, 5, ORIGIN, 0, b"a").unwrap();
    });
    let room = f.rooms.find(b"a").unwrap();
    f.step(|rooms, record, slots| {
        rooms
            .join(record, slots, who(slots, 0), room, 0, None)
            .unwrap()
    });
    assert_eq!(f.rooms.next_dirty(), Some(room));
    f.rooms.told(room);
    assert_eq!(f.rooms.next_dirty(), None);
    f.step(|rooms, record, slots| assert!(rooms.leave(record, slots, 0, room)));
    assert_eq!(f.rooms.next_dirty(), Some(room));
    f.rooms.told(room);
    f.step(|rooms, record, _| rooms.drop_room(record, room));
    assert_eq!(
        (f.rooms.find(b"a"), f.rooms.numbered(5), f.rooms.held()),
        (None, None, 0)
    );
    f.step(|rooms, record, _| {
        assert_eq!(rooms.hold(record, 6, ORIGIN, 0, b"b"), Ok(room));
    });
    assert_eq!(f.rooms.name(room), b"b");
}
