use protocol::random::Random;

use super::*;

struct Table {
    state: State,
    rooms: Rooms,
    record: Record,
}

fn table(capacity: u32) -> Table {
    let state = State::create(4096, 100).unwrap();
    Table {
        rooms: Rooms::recover(&state, capacity),
        record: Record::new(),
        state,
    }
}

impl Table {
    fn open(&mut self, name: &str) -> Result<u32, TableFull> {
        let opened = self
            .rooms
            .open(&self.state, &mut self.record, name.as_bytes());
        self.state.commit(&mut self.record);
        opened
    }

    fn hold(&mut self, ring: u16, room: u32) {
        self.rooms.hold(&self.state, &mut self.record, ring, room);
        self.state.commit(&mut self.record);
    }

    fn members(&mut self, ring: u16, room: u32, count: u32) -> bool {
        let done = self
            .rooms
            .members(&self.state, &mut self.record, ring, room, count, false);
        self.state.commit(&mut self.record);
        done
    }

    fn publish(&mut self, room: u32) -> Position {
        let mut position = self.rooms.position(&self.state, &self.record, room);
        position.offset += 1;
        self.rooms.advance(&mut self.record, room, position.offset);
        self.state.commit(&mut self.record);
        position
    }

    fn changed(&mut self) -> Vec<(u32, u32)> {
        let mut changed = self.rooms.take_changed(&self.state, 100);
        for (room, members) in &changed {
            (self.rooms).told(&self.state, &mut self.record, *room, *members);
            self.state.commit(&mut self.record);
        }
        changed.sort_unstable();
        changed
    }

    fn next_brain(&mut self, capacity: u32) {
        self.rooms = Rooms::recover(&self.state, capacity);
    }
}

#[test]
fn offsets_are_consecutive_and_outlive_a_brain() {
    let mut t = table(10);
    let room = t.open("r").unwrap();
    assert_eq!(t.publish(room).to_string(), "e100:1");
    t.next_brain(10);
    assert_eq!(t.rooms.find(b"r"), Some(room));
    assert_eq!(t.open("r"), Ok(room));
    assert_eq!(t.publish(room).to_string(), "e100:2");
}

#[test]
fn a_name_of_any_length_comes_back() {
    let mut t = table(300);
    let long = "n".repeat(MAX_NAME);
    let rooms: Vec<u32> = (1..=MAX_NAME)
        .map(|n| t.open(&long[..n]).unwrap())
        .collect();
    t.next_brain(300);
    for n in 1..=MAX_NAME {
        assert_eq!(t.rooms.find(&long.as_bytes()[..n]), Some(rooms[n - 1]));
    }
}

#[test]
fn the_longest_unused_goes_and_returns_under_a_new_epoch() {
    let mut t = table(3);
    let [a, b, c] = ["a", "b", "c"].map(|name| t.open(name).unwrap());
    t.hold(1, a);
    assert_eq!(t.publish(b).to_string(), "e100:1");
    t.open("b").unwrap();
    assert_eq!(t.open("d"), Ok(c), "c was the longest unused");
    assert_eq!(t.open("e"), Ok(b));
    let again = t.open("b").unwrap();
    assert_eq!(t.publish(again).to_string(), "e102:1");
    assert_eq!(t.open("a"), Ok(a));
    assert_eq!(t.publish(a).to_string(), "e100:1", "it was held and stayed");
}

#[test]
fn held_rooms_fill_the_table_for_good() {
    let mut t = table(2);
    let [a, b] = ["a", "b"].map(|name| t.open(name).unwrap());
    t.hold(1, a);
    t.hold(2, b);
    assert!(t.members(2, b, 1));
    assert_eq!(t.open("c"), Err(TableFull));
    assert!(t.members(2, b, 0));
    assert_eq!(t.open("c"), Ok(b));
    assert!(!t.members(2, 77, 1), "no such room");
}

#[test]
fn presence_is_the_sum_of_what_each_worker_says_last() {
    let mut t = table(10);
    let room = t.open("r").unwrap();
    t.hold(1, room);
    t.hold(2, room);
    assert_eq!(t.changed(), []);
    assert!(t.members(1, room, 3) && t.members(2, room, 4) && t.members(1, room, 5));
    assert_eq!(t.rooms.total(&t.state, room), 9);
    assert_eq!(t.changed(), [(room, 9)]);
    assert_eq!(t.changed(), []);
    assert!(t.members(1, room, 6));
    t.next_brain(10);
    assert_eq!(
        t.changed(),
        [(room, 10)],
        "a new brain knows what was not told"
    );
    assert!(t.members(1, room, 5) && t.members(1, room, 6));
    assert_eq!(t.changed(), [], "back where it was");
}

fn largest(t: &Table, from: usize, most: usize) -> Vec<(String, u32)> {
    let largest = t.rooms.largest(&t.state, from, most);
    let text = |name: Box<[u8]>| String::from_utf8(name.into()).unwrap();
    largest.map(|(name, count)| (text(name), count)).collect()
}

/// Against all rooms that there are, sorted.
#[test]
fn the_largest_are_known_without_a_look_at_all() {
    let mut t = table(12);
    let mut random = Random::new(7);
    let mut random = |below: u64| random.below(below);
    let mut names = std::collections::BTreeSet::new();
    for step in 0..3_000 {
        // More than the table holds: some are evicted, with what was not told.
        let name = format!("{}{}", ["r", "@", "$"][random(3) as usize], random(9));
        if let Ok(room) = t.open(&name) {
            names.insert(name);
            let ring = random(2) as u16;
            t.hold(ring, room);
            assert!(t.members(ring, room, random(4) as u32 * random(5) as u32));
        }
        if random(3) == 0 {
            t.changed();
        }
        if random(100) == 0 {
            t.next_brain(12);
        }
        if step % 10 == 0 {
            t.changed();
            let listed = names.iter().filter(|name| name.starts_with('r'));
            let rooms = listed.filter_map(|name| Some((name, t.rooms.find(name.as_bytes())?)));
            let mut all: Vec<(u32, u32, String)> = rooms
                .map(|(name, room)| (t.rooms.total(&t.state, room), room, name.clone()))
                .filter(|(count, ..)| *count > 0)
                .collect();
            all.sort_by_key(|(count, room, _)| (std::cmp::Reverse(*count), *room));
            let all: Vec<_> = all.into_iter().map(|(n, _, name)| (name, n)).collect();
            assert_eq!(largest(&t, 0, 100), all);
            assert_eq!(
                largest(&t, 2, 3),
                all.iter().skip(2).take(3).cloned().collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn a_dead_workers_row_is_dropped() {
    let mut t = table(2);
    let [a, b] = ["a", "b"].map(|name| t.open(name).unwrap());
    for ring in [1, 2] {
        t.hold(ring, a);
        assert!(t.members(ring, a, 10));
    }
    t.hold(1, b);
    t.changed();
    t.rooms.drop_row(&t.state, 1, false);
    assert_eq!(t.changed(), [(a, 10)]);
    assert_eq!(t.open("c"), Ok(b), "nobody holds b any more");
}

#[test]
fn who_counts_anew_keeps_its_rooms_meanwhile() {
    let mut t = table(2);
    let [a, b] = ["a", "b"].map(|name| t.open(name).unwrap());
    for room in [a, b] {
        t.hold(1, room);
        assert!(t.members(1, room, 7));
    }
    t.rooms.forget_row(&t.state, 1);
    assert_eq!(t.rooms.total(&t.state, a), 7, "nobody has left");
    assert_eq!(t.open("c"), Err(TableFull));
    assert!(t.members(1, a, 6));
    t.next_brain(2);
    t.rooms.drop_row(&t.state, 1, true);
    assert_eq!(t.rooms.total(&t.state, a), 6);
    assert_eq!(t.open("c"), Ok(b));
}
