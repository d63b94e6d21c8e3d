//! Workers that tell who is where, connections that move between them, deaths of every kind, and
//! members who keep a list from what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ids::Cid;
use protocol::journal::{Journal, WORDS};
use protocol::memory::Segment;
use protocol::names;
use protocol::random::Random;
use protocol::record::Up;
use protocol::settings::{Listed, Presence};
use protocol::stream::{Reader, Writer, segment_size};

use super::*;
use crate::poison;
use crate::present::entries::touched;
use crate::present::{EVERY_MS, Present};
use crate::sequencer::{Bounds, Ring, Turn};
use crate::state;

const WORKERS: u16 = 4;
const ROOMS: usize = 4;

fn room_name(room: usize) -> String {
    // The first is never large; of the last, users are not told apart.
    ["small", "r1", "r2", "counted"][room].to_owned()
}

fn bounds(users: u64) -> Bounds {
    Bounds {
        rooms: 64,
        presence: Presence {
            listed: 12,
            rules: [("small", 1_000), ("counted", 0)]
                .map(|(rooms, listed)| Listed {
                    rooms: protocol::pattern::Pattern::new(rooms),
                    listed,
                })
                .into(),
        },
        users,
        ..Bounds::default()
    }
}

/// One worker's end of its ring, and what it has told.
struct Worker {
    ring: u16,
    segment: Arc<Segment>,
    writer: Writer,
    journal: Journal,
    /// Users of each room, as it told them last.
    told: BTreeMap<usize, BTreeSet<String>>,
    /// Rooms that it holds.
    holds: BTreeSet<usize>,
}

impl Worker {
    fn new(ring: u16) -> Worker {
        let size = (WORDS * 8).next_multiple_of(4096);
        let own = Arc::new(Segment::create(c"worker", size).unwrap());
        let segment = Arc::new(Segment::create(c"ring", segment_size(1 << 18)).unwrap());
        Worker {
            ring,
            writer: Writer::new(segment.clone()),
            journal: Journal::new(0, vec![own, segment.clone()]),
            segment,
            told: BTreeMap::new(),
            holds: BTreeSet::new(),
        }
    }

    fn say(&mut self, state: &State, up: &Up<'_>) {
        let mut bytes = Vec::new();
        up.encode(&mut bytes);
        let keep = state.get(state::read_index(self.ring));
        assert!(self.writer.stage(keep, &bytes), "a ring is full");
        let mut record = Record::new();
        self.writer.commit_into(&mut record, 1);
        self.journal.commit(&mut record);
        self.writer.committed();
    }
}

#[derive(Clone, Debug)]
struct Connection {
    cid: u64,
    user: String,
    worker: u16,
    rooms: BTreeSet<usize>,
    /// Its list of each room that it watches; `None`: it has not come.
    watches: BTreeMap<usize, Option<List>>,
}

/// What a client makes of what it is told.
#[derive(Clone, Debug, Default)]
struct List {
    users: Option<BTreeSet<String>>,
    count: u32,
    distinct: Option<u32>,
    changed_at: Option<u64>,
}

fn set(names: Names<'_>) -> BTreeSet<String> {
    let names = names.iter().map(|name| String::from_utf8(name.to_vec()));
    names.map(Result::unwrap).collect()
}

struct World {
    state: State,
    sequencer: Sequencer,
    users: u64,
    now: u64,
    random: Random,
    workers: BTreeMap<u16, Worker>,
    connections: BTreeMap<u64, Connection>,
    next_cid: u64,
    numbers: [u32; ROOMS],
    read: u64,
    changes: u64,
    lists: u64,
    large: u64,
}

impl World {
    fn new(seed: u64, users: u64) -> World {
        let state = State::create(1 << 20, 3).unwrap();
        let now = 1_000;
        let sequencer = born(&state, users, now);
        let mut world = World {
            sequencer,
            users,
            now,
            random: Random::new(seed),
            workers: (0..WORKERS).map(|ring| (ring, Worker::new(ring))).collect(),
            connections: BTreeMap::new(),
            next_cid: 1,
            numbers: [0; ROOMS],
            read: 0,
            changes: 0,
            lists: 0,
            large: 0,
            state,
        };
        for room in 0..ROOMS {
            world.hold(0, room);
            world.numbers[room] = world
                .sequencer
                .rooms()
                .find(room_name(room).as_bytes())
                .unwrap();
        }
        world
    }

    fn asker(cid: u64, ring: u16) -> Asker<'static> {
        Asker {
            cid: Cid(cid),
            ring,
            slot: 0,
            id: b"",
        }
    }

    fn hold(&mut self, ring: u16, room: usize) {
        let worker = self.workers.get_mut(&ring).unwrap();
        if worker.holds.insert(room) {
            let (asker, name) = (World::asker(0, ring), room_name(room));
            let room = name.as_bytes();
            worker.say(&self.state, &Up::Open { asker, room });
        }
        self.sequence(ring);
    }

    /// What a worker has at the moment.
    fn users(&self, ring: u16, room: usize) -> BTreeSet<String> {
        self.of(room, Some(ring)).map(|c| c.user.clone()).collect()
    }

    fn of(&self, room: usize, ring: Option<u16>) -> impl Iterator<Item = &Connection> {
        self.connections
            .values()
            .filter(move |c| c.rooms.contains(&room))
            .filter(move |c| ring.is_none_or(|ring| c.worker == ring))
    }

    /// A worker tells what has changed, as `tell` in the worker does.
    fn tell(&mut self, ring: u16) {
        for room in 0..ROOMS {
            let now = self.users(ring, room);
            let count = self.of(room, Some(ring)).count() as u32;
            let watched = self
                .of(room, Some(ring))
                .any(|c| c.watches.contains_key(&room));
            let number = self.numbers[room];
            let worker = self.workers.get_mut(&ring).unwrap();
            if count == 0 && !worker.holds.contains(&room) {
                continue;
            }
            let members = Up::Members {
                room: number,
                count,
                watched,
            };
            if count > 0 {
                worker.holds.insert(room);
                worker.say(&self.state, &members);
            }
            let told = worker.told.entry(room).or_default();
            let (mut came, mut gone) = (Vec::new(), Vec::new());
            for name in now.difference(told) {
                names::put(&mut came, name.as_bytes());
            }
            for name in told.difference(&now) {
                names::put(&mut gone, name.as_bytes());
            }
            *told = now;
            let users = Up::Users {
                room: number,
                came: Names::read(&came).unwrap(),
                gone: Names::read(&gone).unwrap(),
            };
            worker.say(&self.state, &users);
            // Twice is as good as once.
            worker.say(&self.state, &users);
            if count == 0 {
                worker.holds.remove(&room);
                worker.say(&self.state, &members);
            }
        }
    }

    fn sequence(&mut self, ring: u16) {
        let worker = &self.workers[&ring];
        let ring = Ring::new(ring, worker.segment.clone());
        while self.sequencer.turn(&self.state, &ring) == Turn::More {}
    }

    fn sequence_all(&mut self) {
        for ring in 0..WORKERS {
            self.sequence(ring);
        }
    }

    /// Everybody is told what is in the log, wherever it is.
    fn hear(&mut self) {
        let reader = Reader::new(self.state.log().clone());
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let Some(next) = reader.next(self.read, &mut bytes).unwrap() else {
                return;
            };
            self.read = next;
            self.hear_record(&Down::decode(&bytes).unwrap());
        }
    }

    fn hear_record(&mut self, down: &Down<'_>) {
        let room_of = |number: &u32| self.numbers.iter().position(|n| n == number).unwrap();
        match down {
            Down::Listed { room, who, asker } => {
                let room = room_of(room);
                if let Some(connection) = self.connections.get_mut(&asker.cid.0)
                    && let Some(list) = connection.watches.get_mut(&room)
                {
                    *list = Some(List::of(who));
                }
            }
            Down::List { room, who } => {
                let room = room_of(room);
                self.lists += 1;
                for list in self.watchers(room) {
                    let changed_at = list.changed_at;
                    *list = List::of(who);
                    list.changed_at = changed_at;
                }
            }
            Down::Changes {
                room,
                total,
                distinct,
                names,
            } => {
                let room = room_of(room);
                self.changes += 1;
                self.large += u64::from(names.is_none());
                let now = self.now;
                for list in self.watchers(room) {
                    let late = list.changed_at.is_none_or(|at| at + EVERY_MS <= now);
                    assert!(late, "twice in a second");
                    list.changed_at = Some(now);
                    list.changes(names.map(|names| names.map(set)));
                    (list.count, list.distinct) = (*total, *distinct);
                }
            }
            _ => {}
        }
    }

    fn watchers(&mut self, room: usize) -> impl Iterator<Item = &mut List> {
        let lists = self.connections.values_mut();
        lists.filter_map(move |c| c.watches.get_mut(&room)?.as_mut())
    }

    /// Time goes on, and all that is known is told.
    fn settle(&mut self) {
        for ring in 0..WORKERS {
            self.tell(ring);
        }
        self.sequence_all();
        for _ in 0..5 {
            self.pass(EVERY_MS);
        }
        assert!(!self.sequencer.presence_has_changed());
        for room in 0..ROOMS {
            self.check(room);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.sequencer.set_now(self.now);
        while self.sequencer.tell_presence(&self.state) {}
        self.hear();
    }

    fn check(&self, room: usize) {
        let users: BTreeSet<String> = self.of(room, None).map(|c| c.user.clone()).collect();
        let count = self.of(room, None).count() as u32;
        let number = self.numbers[room];
        let present = &self.sequencer.present;
        assert_eq!(self.sequencer.rooms.total(&self.state, number), count);
        let mut bytes = Vec::new();
        let who = present.some(&self.state, number, count, 1_000, 7, &mut bytes);
        let distinct = present.distinct(&self.state, number);
        let known = who.users.map(set);
        if room == 3 {
            assert_eq!((known, distinct), (None, None));
        } else if let Some(distinct) = distinct {
            assert_eq!(
                (known.as_ref(), distinct as usize),
                (Some(&users), users.len())
            );
            assert!(who.is_whole());
        } else {
            assert!(known.unwrap().is_subset(&users) && self.users < 1 << 20);
        }
        for connection in self.of(room, None) {
            let Some(list) = connection.watches.get(&room) else {
                continue;
            };
            let list = list.as_ref().expect("its list has come");
            assert_eq!(
                (list.count, list.distinct),
                (count, distinct),
                "room {room}"
            );
            if let Some(listed) = &list.users {
                assert_eq!(listed, &users, "room {room}");
            } else {
                assert!(room != 0 || self.users < 1 << 20, "it is never large");
            }
        }
    }

    fn connect(&mut self) {
        let cid = self.next_cid;
        self.next_cid += 1;
        let user = match self.random.below(3) {
            0 => format!("c{cid}"),
            _ => format!(
                "user {}{}",
                self.random.below(15),
                "x".repeat(cid as usize % 70)
            ),
        };
        let connection = Connection {
            cid,
            user,
            worker: self.random.below(WORKERS.into()) as u16,
            rooms: BTreeSet::new(),
            watches: BTreeMap::new(),
        };
        self.connections.insert(cid, connection);
    }

    fn some_connection(&mut self) -> Option<u64> {
        let at = self.random.below(self.connections.len().max(1) as u64);
        self.connections.keys().nth(at as usize).copied()
    }

    /// It joins or leaves, or begins to watch where it is.
    fn wander(&mut self, cid: u64) {
        let room = self.random.below(ROOMS as u64) as usize;
        let watch = self.random.below(3) == 0;
        let ring = self.connections[&cid].worker;
        let connection = self.connections.get_mut(&cid).unwrap();
        let is_in = connection.rooms.contains(&room);
        if is_in && !watch {
            connection.rooms.remove(&room);
            connection.watches.remove(&room);
            return;
        }
        if !is_in && !self.workers[&ring].holds.contains(&room) {
            self.hold(ring, room);
        }
        let connection = self.connections.get_mut(&cid).unwrap();
        connection.rooms.insert(room);
        if watch && !connection.watches.contains_key(&room) {
            connection.watches.insert(room, None);
            let (asker, name) = (World::asker(cid, ring), room_name(room));
            let room = name.as_bytes();
            let worker = self.workers.get_mut(&ring).unwrap();
            worker.say(&self.state, &Up::Watch { asker, room });
        }
    }

    /// As a move does: the taker tells that it has it before the giver tells that it has it no more.
    fn carry(&mut self, cid: u64) {
        let from = self.connections[&cid].worker;
        let to = self.random.below(WORKERS.into()) as u16;
        if from == to {
            return;
        }
        // What it had asked is answered before it goes.
        self.sequence(from);
        self.connections.get_mut(&cid).unwrap().worker = to;
        self.tell(to);
        self.sequence(to);
        if self.random.below(2) == 0 {
            self.pass(EVERY_MS);
        }
        self.tell(from);
    }

    /// A worker's brain dies, some of its connections with it, and the next one counts anew.
    fn recount(&mut self) {
        let ring = self.random.below(WORKERS.into()) as u16;
        let worker = self.workers.get_mut(&ring).unwrap();
        worker.told.clear();
        let all = Up::Members {
            room: u32::MAX,
            count: 0,
            watched: false,
        };
        worker.say(&self.state, &all);
        let gone: Vec<u64> = self
            .connections
            .values()
            .filter(|c| c.worker == ring)
            .map(|c| c.cid)
            .collect();
        for cid in gone.into_iter().take(self.random.below(3) as usize) {
            self.connections.remove(&cid);
        }
        if self.random.below(2) == 0 {
            self.sequence(ring);
            self.die();
            self.pass(EVERY_MS);
        }
        self.tell(ring);
        let worker = self.workers.get_mut(&ring).unwrap();
        // It may die again before it has come to the end.
        if self.random.below(4) > 0 {
            worker.say(&self.state, &Up::Recounted);
        } else {
            worker.told.clear();
            worker.say(&self.state, &all);
            self.tell(ring);
            let worker = self.workers.get_mut(&ring).unwrap();
            worker.say(&self.state, &Up::Recounted);
        }
    }

    /// A worker is gone for good, guard and brain, with its connections; another takes its ring.
    fn lose(&mut self) {
        let ring = self.random.below(WORKERS.into()) as u16;
        self.sequence(ring);
        self.connections.retain(|_, c| c.worker != ring);
        self.sequencer.drop_row(&self.state, ring);
        self.state.set(state::read_index(ring), 0);
        self.workers.insert(ring, Worker::new(ring));
    }

    /// The master's brain dies.
    fn die(&mut self) {
        self.sequencer = born(&self.state, self.users, self.now);
    }
}

fn born(state: &State, users: u64, now: u64) -> Sequencer {
    Sequencer::recover(state, bounds(users), poison::note_death(state), now, 0)
}

impl List {
    fn of(who: &Who<'_>) -> List {
        List {
            users: who.users.map(set),
            count: who.total,
            distinct: who.distinct,
            changed_at: None,
        }
    }

    fn changes(&mut self, names: Option<[BTreeSet<String>; 2]>) {
        let Some([came, gone]) = names else {
            self.users = None;
            return;
        };
        let users = self.users.as_mut().expect("it has a list");
        assert!(came.is_disjoint(&gone));
        for name in came {
            assert!(users.insert(name), "it was in already");
        }
        for name in gone {
            assert!(users.remove(&name), "it was not in");
        }
    }
}

fn play(seed: u64, users: u64) -> World {
    let mut world = World::new(seed, users);
    for turn in 0..4_000 {
        match (world.random.below(100), world.some_connection()) {
            (0..20, _) if world.connections.len() < 60 => world.connect(),
            (20..26, Some(cid)) => _ = world.connections.remove(&cid),
            (26..34, Some(cid)) => world.carry(cid),
            (34..36, _) => world.recount(),
            (36, _) => world.lose(),
            (37..40, _) => world.die(),
            (40..55, _) => {
                let ring = world.random.below(WORKERS.into()) as u16;
                world.tell(ring);
                world.sequence(ring);
            }
            (55..70, _) => {
                let ms = world.random.below(400);
                world.pass(ms);
            }
            (_, Some(cid)) => world.wander(cid),
            _ => {}
        }
        if turn % 150 == 149 {
            world.settle();
        }
    }
    world.connections.clear();
    world.settle();
    assert_eq!(world.sequencer.present.bytes(), 0, "nothing is left");
    world
}

#[test]
fn who_watches_knows_who_is_there_whatever_dies() {
    let (mut lists, mut large) = (0, 0);
    for seed in 0..4 {
        let world = play(seed, 1 << 20);
        assert!(world.changes > 100, "{}", world.changes);
        lists += world.lists;
        large += world.large;
    }
    assert!(lists > 20 && large > 20, "{lists} {large}");
}

#[test]
fn above_the_budget_all_are_counted_and_some_are_known() {
    for seed in 10..12 {
        play(seed, 20 * 96);
    }
}

/// Between the commit of a change and the words that follow it.
#[test]
fn a_change_is_told_once_when_the_brain_dies_behind_it() {
    let mut world = World::new(1, 1 << 20);
    world.connect();
    world.connect();
    for (cid, watches) in [(1, true), (2, false)] {
        let connection = world.connections.get_mut(&cid).unwrap();
        (connection.worker, connection.user) = (0, format!("u{cid}"));
        connection.rooms.insert(0);
        if watches {
            connection.watches.insert(0, None);
        }
    }
    let (asker, room) = (World::asker(1, 0), room_name(0));
    let room = room.as_bytes();
    world
        .workers
        .get_mut(&0)
        .unwrap()
        .say(&world.state, &Up::Watch { asker, room });
    world.tell(0);
    world.sequence(0);
    world.pass(0);
    let number = world.numbers[0];
    for commits in [false, true] {
        world.now += EVERY_MS;
        world.sequencer.set_now(world.now);
        let Sequencer {
            present,
            rooms,
            record,
            log,
            answer,
            ..
        } = &mut world.sequencer;
        let total = rooms.total(&world.state, number);
        let change = present.change(&world.state, record, number, total);
        let Some(Change::Names(came, gone)) = change else {
            panic!("{change:?}");
        };
        assert_eq!((set(Names::read(&came).unwrap()).len(), gone.len()), (2, 0));
        let names = Some([Names::read(&came).unwrap(), Names::default()]);
        let distinct = Some(2);
        let change = Down::Changes {
            room: number,
            total,
            distinct,
            names,
        };
        assert!(append(log, answer, &change));
        if commits {
            log.commit_into(record, state::LOG_SEGMENT);
            world.state.commit(record);
        }
        world.die();
    }
    world.pass(EVERY_MS);
    world.hear();
    world.settle();
    assert_eq!(world.changes, 1);
}

/// One who comes or goes takes as many steps in a room of a million as in one of a few: none of them
/// is a look at somebody else.
#[test]
fn a_room_of_a_million() {
    const CHUNK: usize = 200;
    let state = State::create(1 << 20, 3).unwrap();
    let settings = Presence::default();
    let mut present = Present::recover(&state, settings, 200 << 20, 0, |_| RingSet::NONE);
    let users = |from: usize| {
        let mut bytes = Vec::new();
        for number in from..from + CHUNK {
            names::put(&mut bytes, format!("user {number:08}").as_bytes());
        }
        bytes
    };
    let steps = |present: &mut Present| {
        let before = touched();
        let bytes = users(90_000_000);
        let some = Names::read(&bytes).unwrap();
        present.users(&state, 1, 0, some, Names::default());
        present.users(&state, 1, 0, Names::default(), some);
        touched() - before
    };
    let mut taken = Vec::new();
    for many in (0..1_000_000).step_by(CHUNK) {
        let bytes = users(many);
        let came = Names::read(&bytes).unwrap();
        present.users(&state, 1, 0, came, Names::default());
        if [0, 30_000, 999_800].contains(&many) {
            taken.push(steps(&mut present));
        }
    }
    assert_eq!(present.distinct(&state, 0), Some(1_000_000));
    assert!(taken[0] < 60 * CHUNK as u64, "{taken:?}");
    assert_eq!((taken[1], taken[2]), (taken[0], taken[0]));
    let mut bytes = Vec::new();
    let who = present.some(&state, 0, 1_000_000, 100, 77, &mut bytes);
    assert_eq!((who.users.unwrap().len(), who.is_whole()), (100, false));
}
