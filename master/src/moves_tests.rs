use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use protocol::random::Random;

use super::*;

const POLICIES: [Policy; 4] = [
    Policy::RoundRobin,
    Policy::LeastConnections,
    Policy::TwoChoices,
    Policy::IpHash,
];

/// Does it happen this time? Never, if it does so one time in 0.
fn happens(random: &mut Random, one_in: u64) -> bool {
    one_in > 0 && random.below(one_in) == 0
}

fn address(cid: u64) -> IpAddr {
    Ipv4Addr::from((cid as u32).wrapping_mul(2_654_435_761)).into()
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Worker(u16),
    /// The giver, and since when.
    Master(Option<u16>, u64),
    /// The giver and the taker, which has not answered.
    Given(Option<u16>, u16),
    Closed,
}

/// Workers and a master as [`Moves`] sees them, and what goes wrong one time in so many.
struct World {
    moves: Moves,
    now: u64,
    random: Random,
    policy: Policy,
    /// Those that stay, by ring (which is their seat), and how many each may have.
    stay: BTreeMap<u16, u32>,
    at: BTreeMap<u64, At>,
    /// Ordered, and not heard by the giver.
    asked: Vec<(u16, Cid)>,
    refuses: u64,
    /// Givers are heard in one turn of so many.
    prompt: u64,
    hangs: Option<u16>,
    moved: u64,
    failed: Option<String>,
    done: Vec<u16>,
    even: bool,
}

impl World {
    fn new(seed: u64, policy: Policy, stay: &[u16]) -> World {
        World {
            moves: Moves::default(),
            now: 1_000,
            random: Random::new(seed),
            policy,
            stay: stay.iter().map(|ring| (*ring, 100_000)).collect(),
            at: BTreeMap::new(),
            asked: Vec::new(),
            refuses: 0,
            prompt: 1,
            hangs: None,
            moved: 0,
            failed: None,
            done: Vec::new(),
            even: false,
        }
    }

    fn with(mut self, ring: u16, connections: u64) -> World {
        for _ in 0..connections {
            let cid = self.at.len() as u64 + 1;
            self.at.insert(cid, At::Worker(ring));
        }
        self
    }

    fn count(&self, which: impl Fn(At) -> bool) -> u32 {
        self.at.values().filter(|at| which(**at)).count() as u32
    }

    fn has(&self, ring: u16) -> u32 {
        self.count(|at| {
            matches!(at, At::Worker(r) if r == ring) || matches!(at, At::Given(_, r) if r == ring)
        })
    }

    fn load(&self, ring: u16) -> Load {
        let leaving = |at| match at {
            At::Master(from, _) | At::Given(from, _) => from == Some(ring),
            _ => false,
        };
        Load {
            given: self.count(|at| matches!(at, At::Given(_, r) if r == ring)),
            held: self.count(|at| at == At::Worker(ring)),
            leaving: self.count(leaving),
        }
    }

    fn table(&self) -> Vec<Place> {
        let place = |(ring, most): (&u16, &u32)| {
            let connections = self.has(*ring);
            Place {
                ring: *ring,
                seat: Seat(*ring),
                connections,
                room: 256 - self.load(*ring).given,
                spare: most.saturating_sub(connections),
            }
        };
        self.stay.iter().map(place).collect()
    }

    fn even_out(&mut self, per_second: u32) {
        let table = self.table();
        self.moves
            .even_out(self.now, 10_000, per_second, self.policy, &table);
    }

    /// One turn of the master's loop, and of the workers'.
    fn turn(&mut self) {
        self.now += 1 + self.random.below(5);
        self.part();
        self.order();
        self.assign();
        self.acknowledge();
    }

    fn order(&mut self) {
        let table = self.table();
        for from in self.moves.givers() {
            loop {
                let waiting = self.count(|at| matches!(at, At::Master(..)));
                let load = self.load(from);
                let next = self
                    .moves
                    .next(self.now, from, load, waiting, self.policy, &table);
                match next {
                    Next::Order(cids) => {
                        assert!(cids.len() <= MAX_BATCH);
                        self.asked.extend(cids.into_iter().map(|cid| (from, cid)));
                        let has = |cid: &Cid| self.at[&cid.0] == At::Worker(from);
                        let asked = self.asked.iter().filter(|(f, cid)| *f == from && has(cid));
                        let asked = asked.count();
                        assert!(asked as u32 + load.leaving <= MOST_UNDECIDED);
                    }
                    Next::List => {
                        let has = |(_, at): &(&u64, &At)| **at == At::Worker(from);
                        let all: Vec<_> = self.at.iter().filter(has).collect();
                        let all = all.into_iter().map(|(c, _)| (Cid(*c), address(*c)));
                        self.moves.listed(from, all, self.policy, &table);
                    }
                    Next::Nothing => break,
                    Next::Done => {
                        assert_eq!(self.load(from).leaving, 0);
                        self.moves.end(from);
                        self.done.push(from);
                        break;
                    }
                    Next::Failed(why) => {
                        self.moves.end(from);
                        self.failed = Some(why);
                        break;
                    }
                }
            }
        }
        self.even |= self.moves.is_even(self.now);
    }

    /// Givers do as they are told, some time; what they have closed meanwhile they say.
    fn part(&mut self) {
        if !happens(&mut self.random, self.prompt) {
            return;
        }
        for (from, cid) in std::mem::take(&mut self.asked) {
            match self.at[&cid.0] {
                At::Worker(ring) if ring == from => {
                    self.at.insert(cid.0, At::Master(Some(from), self.now));
                    self.moves.given(from, cid);
                }
                _ => self.moves.closed(from, cid),
            }
        }
    }

    fn assign(&mut self) {
        let mut table = self.table();
        for (cid, at) in self.at.clone() {
            let At::Master(from, since) = at else {
                continue;
            };
            let waited = self.now - since;
            assert!(from.is_none() || waited <= WAIT + 10, "it is not served");
            let choice = self
                .moves
                .choose(from, address(cid), waited, self.policy, &table);
            let at = match choice {
                Choice::Give(ring) => {
                    assert_ne!(Some(ring), from);
                    let place = table.iter_mut().find(|place| place.ring == ring).unwrap();
                    assert!(place.room > 0);
                    place.take_one();
                    self.moved += 1;
                    At::Given(from, ring)
                }
                Choice::Wait => at,
                Choice::Keep => At::Worker(from.unwrap()),
            };
            self.at.insert(cid, at);
        }
    }

    fn acknowledge(&mut self) {
        let refuses = happens(&mut self.random, self.refuses);
        let mut refused = false;
        for (cid, at) in self.at.clone() {
            if let At::Given(from, ring) = at {
                let at = if self.hangs == Some(ring) {
                    at
                } else if refuses {
                    refused |= from.is_some();
                    At::Master(from, self.now)
                } else {
                    At::Worker(ring)
                };
                self.at.insert(cid, at);
                if let (true, Some(from)) = (refused, from) {
                    self.moves.refused(from);
                    refused = false;
                }
            }
        }
    }

    fn run(&mut self, until: impl Fn(&World) -> bool) {
        for _ in 0..20_000 {
            if until(self) {
                return;
            }
            self.turn();
        }
        panic!("it goes on for ever: {:?}", self.moves);
    }
}

#[test]
fn a_relief_gets_everything_whatever_the_policy() {
    for policy in POLICIES {
        let mut world = World::new(1, policy, &[7, 8]).with(1, 1_000).with(8, 50);
        world.moves.set_leavers(&[(1, Aim::Relief { to: 7 })]);
        world.run(|world| world.done == [1]);
        assert_eq!((world.has(1), world.has(7), world.has(8)), (0, 1_000, 50));
        assert_eq!(world.moved, 1_000, "each moved once");
    }
}

#[test]
fn a_leavers_connections_go_to_those_that_have_the_fewest() {
    let mut world = World::new(1, Policy::RoundRobin, &[1, 2, 3]).with(1, 500);
    world = world.with(2, 100).with(4, 900);
    world.moves.set_leavers(&[(4, Aim::Leave)]);
    world.run(|world| world.done == [4]);
    assert_eq!((world.has(1), world.has(2), world.has(3)), (500, 500, 500));
}

#[test]
fn with_ip_hash_each_goes_where_its_address_belongs() {
    let mut world = World::new(1, Policy::IpHash, &[1, 2, 3]).with(4, 900);
    world.moves.set_leavers(&[(4, Aim::Leave)]);
    world.run(|world| world.done == [4]);
    let table = world.table();
    for (cid, at) in &world.at {
        let ring = by_address(&table, address(*cid)).unwrap().ring;
        assert_eq!(*at, At::Worker(ring));
    }
}

#[test]
fn who_has_no_place_to_go_stays_as_it_is() {
    let mut world = World::new(1, Policy::RoundRobin, &[1])
        .with(1, 10)
        .with(2, 11);
    world.stay.insert(1, 20);
    world.moves.set_leavers(&[(2, Aim::Leave)]);
    world.run(|world| world.failed.is_some());
    assert_eq!((world.has(2), world.moved), (11, 0));
}

#[test]
fn what_is_refused_again_and_again_stays() {
    let mut world = World::new(1, Policy::RoundRobin, &[2]).with(1, 300);
    world.refuses = 1;
    world.moves.set_leavers(&[(1, Aim::Relief { to: 2 })]);
    world.run(|world| world.failed.is_some());
    world.run(|world| world.load(1).leaving == 0);
    assert_eq!(world.has(1), 300);
}

#[test]
fn what_was_on_its_way_when_the_move_was_called_off_is_kept() {
    let mut world = World::new(1, Policy::RoundRobin, &[2]).with(1, 300);
    world.moves.set_leavers(&[(1, Aim::Relief { to: 2 })]);
    world.order();
    world.moves.set_leavers(&[]);
    world.turn();
    world.turn();
    assert_eq!(world.has(1), 300);
}

#[test]
fn shares_become_even_at_their_pace() {
    for policy in [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::TwoChoices,
    ] {
        let mut world = World::new(1, policy, &[1, 2, 3, 4])
            .with(1, 1_000)
            .with(2, 1_000);
        let begun = world.now;
        world.even_out(1_000);
        world.run(|world| world.even);
        for ring in 1..=4 {
            assert_eq!(world.has(ring), 500);
        }
        assert_eq!(world.moved, 1_000, "no more than must");
        assert!((900..1_500).contains(&(world.now - begun)));
    }
}

#[test]
fn shares_that_are_even_enough_stay() {
    let mut world = World::new(1, Policy::RoundRobin, &[1, 2])
        .with(1, 105)
        .with(2, 95);
    world.even_out(1_000);
    world.run(|world| world.even);
    assert_eq!(world.moved, 0);
    let mut world = World::new(1, Policy::RoundRobin, &[1, 2, 3, 4]).with(1, 2);
    world.even_out(1_000);
    world.run(|world| world.even);
    assert_eq!(world.moved, 1);
}

#[test]
fn with_ip_hash_only_what_a_new_seat_wins_moves() {
    for seed in 1..20 {
        let mut world = World::new(seed, Policy::IpHash, &[1, 2]).with(3, 70 + 5 * seed);
        world.moves.set_leavers(&[(3, Aim::Leave)]);
        world.run(|world| world.done == [3]);
        let before = world.at.clone();
        world.stay.insert(4, 100_000);
        world.prompt = 10;
        world.even_out(100_000);
        world.run(|world| world.even);
        let table = world.table();
        for (cid, at) in &world.at {
            let ring = by_address(&table, address(*cid)).unwrap().ring;
            assert_eq!(*at, At::Worker(ring), "seed {seed}");
            assert!(*at == before[cid] || ring == 4);
        }
    }
}

#[test]
fn what_cannot_become_even_is_given_up_quietly() {
    let mut world = World::new(1, Policy::RoundRobin, &[1, 2]).with(1, 100);
    world.hangs = Some(2);
    world.even_out(1_000);
    world.run(|world| world.even);
    assert_eq!(world.load(2).held, 0);
}

/// Connections end, takers refuse, hang and die, brains of the giver start anew: nothing is ever in
/// two places or in none, and the move ends.
#[test]
fn whatever_happens_every_move_ends() {
    for seed in 1..33u64 {
        let policy = POLICIES[seed as usize % 4];
        let mut world = World::new(seed, policy, &[2, 3]).with(1, 300).with(2, 50);
        world.refuses = [0, 2, 5, 50][seed as usize / 4 % 4];
        world.prompt = [1, 10][seed as usize / 16 % 2];
        let aim = match seed % 3 {
            0 => Aim::Relief { to: 2 },
            _ => Aim::Leave,
        };
        world.moves.set_leavers(&[(1, aim)]);
        let all = world.at.len();
        for turn in 0..150 {
            world.turn();
            let cid = 1 + world.random.below(all as u64);
            if let At::Worker(ring) = world.at[&cid] {
                world.at.insert(cid, At::Closed);
                world.moves.closed(ring, Cid(cid));
            }
            if happens(&mut world.random, 20) {
                world.asked.clear();
                world.moves.restarted(1);
            }
            if turn == 50 && seed % 5 == 0 {
                world.hangs = Some(2);
            }
            if turn == 100 && seed % 5 == 0 {
                // It dies: what it had is gone, what it was given goes to another.
                world.hangs = None;
                world.stay.remove(&2);
                for at in world.at.values_mut() {
                    match *at {
                        At::Worker(2) => *at = At::Closed,
                        At::Given(from, 2) => *at = At::Master(from, world.now),
                        _ => {}
                    }
                }
                if aim == (Aim::Relief { to: 2 }) {
                    world.moves.set_leavers(&[]);
                    world.failed = Some("it died".to_owned());
                }
            }
        }
        world.refuses = 0;
        world.run(|world| world.done == [1] || world.failed.is_some());
        world.run(|world| world.count(|at| matches!(at, At::Master(..) | At::Given(..))) == 0);
        assert_eq!(world.at.len(), all, "seed {seed}");
        if world.failed.is_none() {
            assert_eq!(world.has(1), 0, "seed {seed}");
        }
    }
}
