//! Who is there: so many of each kind, and newcomers all the time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::appeal::token;
use super::back_end::{BackEnd, Call};
use super::echo::Echo;
use super::ledger::Sort;
use super::member::{Member, Part};
use super::post::{Post, Visit};
use super::world::World;
use crate::load::{Load, Manner, Random, Talk};

/// Messages on `/echo` a second, of all together.
const ECHOES: usize = 1_500;
/// Connections of one request, and of a few messages: one of each about so often.
const NEWCOMERS: Duration = Duration::from_millis(50);
/// In each room that is moderated, those about whom is decided.
const USERS: usize = 3;
/// In each room with a budget.
const PUBLISHERS: usize = 2;

pub struct Crowd {
    seed: u64,
    connections: usize,
    /// Who has come so far.
    number: u64,
    come: usize,
    next_newcomer: Instant,
}

impl Crowd {
    #[must_use]
    pub fn new(seed: u64, connections: usize) -> Crowd {
        Crowd {
            seed,
            connections,
            number: 0,
            come: 0,
            next_newcomer: Instant::now(),
        }
    }

    /// Those who have something to do with moderation, budgets and the API, whose listener is `admin`.
    pub fn open_court(&mut self, load: &mut Load<World>, admin: SocketAddr) {
        let of_sort = |load: &Load<World>, sort| load.world.ledger.of_sort(sort).collect();
        let [plain, judged, sampled]: [Vec<usize>; 3] =
            [Sort::Plain, Sort::Judged, Sort::Sampled].map(|sort| of_sort(load, sort));
        for &room in &judged {
            let name = format!("moderator {room}");
            let part = Part::Moderator { room };
            self.known(load, part, 200, token(&name, true));
            for number in 0..USERS {
                let name = format!("user {room} {number}");
                let publisher = (load.world.ledger).add_publisher(&[room], self.packs());
                let user = load.world.court.add(&name, room, publisher);
                let part = Part::User {
                    user,
                    room,
                    publisher,
                };
                self.known(load, part, 150, token(&name, false));
            }
        }
        for &room in &sampled {
            for _ in 0..PUBLISHERS {
                let publisher = (load.world.ledger).add_publisher(&[room], self.packs());
                let part = Part::Publisher { publisher, room };
                let (random, rooms) = (self.random(), load.world.ledger.rooms());
                let member = Member::new(self.number, part, self.packs(), None, random, rooms);
                self.open(load, Box::new(member), manner(200));
            }
        }
        // Each says the same in a room in which all is as ever, and in one in which it is not.
        for (special, plain) in judged
            .into_iter()
            .chain(sampled)
            .zip(plain.into_iter().cycle())
        {
            let publisher = load.world.ledger.add_publisher(&[plain, special], false);
            let name = BackEnd::name(publisher);
            load.world.ledger.greeted(publisher, &name);
            let back_end = BackEnd::new(admin, publisher, self.random());
            load.world.away.push(back_end);
            self.number += 1;
        }
    }

    /// One who says who it is.
    fn known(&mut self, load: &mut Load<World>, part: Part, think: u64, token: String) {
        let (random, rooms) = (self.random(), load.world.ledger.rooms());
        let packs = self.packs() && !matches!(part, Part::Moderator { .. });
        let member = Member::new(self.number, part, packs, Some(token), random, rooms);
        self.open(load, Box::new(member), manner(think));
    }

    /// The next one speaks MessagePack: some do.
    fn packs(&self) -> bool {
        self.number % 3 == 1
    }

    /// Back ends that went away come again.
    pub fn call_again(&mut self, load: &mut Load<World>) {
        if load.world.ending {
            return;
        }
        for back_end in std::mem::take(&mut load.world.away) {
            self.number += 1;
            load.world.counts.opened += 1;
            let to = back_end.to;
            load.open_to(to, Box::new(Call::new(back_end)), manner(200));
        }
    }

    /// So many more come. False: all are there.
    pub fn come(&mut self, load: &mut Load<World>, more: usize) -> bool {
        let members = self.connections / 5;
        for _ in 0..more {
            if self.come >= self.connections + members {
                return false;
            }
            // Members among the others, so that all workers have some.
            let (talk, manner) = match self.come % 6 {
                5 => self.member(load),
                _ => self.echo(),
            };
            self.open(load, talk, manner);
            self.come += 1;
        }
        true
    }

    /// Newcomers.
    pub fn renew(&mut self, load: &mut Load<World>) {
        if Instant::now() < self.next_newcomer {
            return;
        }
        self.next_newcomer = Instant::now() + NEWCOMERS;
        let visit = Visit::new(self.number);
        let once = Manner {
            think: Duration::from_millis(1),
            in_pieces: true,
            reads_slowly: None,
        };
        self.open(load, Box::new(visit), once);
        let mut random = self.random();
        let messages = random.between(0, 20) as u64;
        let echo = Echo::new(self.number, random, Some(messages));
        let manner = Manner {
            think: Duration::from_millis(100),
            ..once
        };
        self.open(load, Box::new(echo), manner);
    }

    fn echo(&mut self) -> (Box<dyn Talk<World>>, Manner) {
        let mut random = self.random();
        let think = Duration::from_secs_f64(self.connections as f64 / ECHOES as f64);
        let dice = random.below(100);
        let manner = Manner {
            // Some say so little that baton itself has to ask whether they are there.
            think: if dice < 10 {
                think.max(Duration::from_secs(4))
            } else {
                think
            },
            in_pieces: true,
            reads_slowly: (10..14)
                .contains(&dice)
                .then(|| random.between(2_000, 20_000)),
        };
        let talk: Box<dyn Talk<World>> = match dice {
            80.. => Box::new(Post::new(self.number, random)),
            _ => Box::new(Echo::new(self.number, random, None)),
        };
        (talk, manner)
    }

    fn member(&mut self, load: &mut Load<World>) -> (Box<dyn Talk<World>>, Manner) {
        let random = self.random();
        let rooms = load.world.ledger.rooms();
        let number = self.come / 6;
        // Of each part some.
        let packs = number % 3 == 1;
        let slow = random.clone().between(4_000, 20_000);
        let (part, think) = match number % 10 {
            0 => {
                let plain: Vec<usize> = load.world.ledger.of_sort(Sort::Plain).collect();
                let room = plain[number / 10 % plain.len()];
                let publisher = load.world.ledger.add_publisher(&[room], packs);
                (Part::Publisher { publisher, room }, 400)
            }
            1..=2 => (Part::Wanderer, 500),
            3 => (Part::SlowSubscriber, 500),
            _ => (Part::Subscriber, 3_000),
        };
        let manner = Manner {
            reads_slowly: (part == Part::SlowSubscriber).then_some(slow),
            ..manner(think)
        };
        let member = Member::new(number as u64, part, packs, None, random, rooms);
        (Box::new(member), manner)
    }

    fn open(&mut self, load: &mut Load<World>, talk: Box<dyn Talk<World>>, manner: Manner) {
        self.number += 1;
        load.world.counts.opened += 1;
        load.open(talk, manner);
    }

    fn random(&self) -> Random {
        Random::of(self.seed, 1_000 + self.number)
    }
}

/// So many milliseconds between two things that it says.
fn manner(think: u64) -> Manner {
    Manner {
        think: Duration::from_millis(think),
        in_pieces: true,
        reads_slowly: None,
    }
}
