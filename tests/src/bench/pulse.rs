//! Clients that ask for a sign of life all the time, and come again when they are cut off.
//!
//! Each sends numbered messages on a WebSocket that echoes them. A client waits from its oldest
//! question that is not answered, or from the moment when it was cut off, to the next answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::load::wire::{self, Incoming};
use crate::load::{Fault, Heard, Kind, Load, Manner, Random, Talk};

/// Bytes of a message.
const LENGTH: usize = 64;
/// Questions that may wait for their answers.
const IN_FLIGHT: usize = 8;
/// Clients wait for so long before they come again, give or take half of it, and twice as long each
/// time that they fail, to the most: what Socket.IO's client does.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);

/// What is known of all clients.
pub struct World {
    to: SocketAddr,
    clients: Vec<Client>,
    random: Random,
    /// Who is to come again, and when.
    back: Vec<(Instant, usize)>,
    pub cut: u64,
    pub lost: u64,
    pub answered: u64,
    /// Answers that were not those that were due.
    pub wrong: u64,
}

#[derive(Clone, Debug, Default)]
struct Client {
    /// Since when it waits, being cut off.
    since: Option<Instant>,
    longest: Duration,
    /// It was answered on the connection that it has.
    is_served: bool,
    /// It was answered since all were asked whether they are.
    is_heard: bool,
    failures: u32,
}

impl World {
    #[must_use]
    pub fn new(to: SocketAddr, connections: usize, random: Random) -> World {
        World {
            to,
            clients: vec![Client::default(); connections],
            random,
            back: Vec::new(),
            cut: 0,
            lost: 0,
            answered: 0,
            wrong: 0,
        }
    }

    /// From now on [`all_are_served`](World::all_are_served) wants a fresh answer of each.
    pub fn ask_all(&mut self) {
        for client in &mut self.clients {
            client.is_heard = false;
        }
    }

    #[must_use]
    pub fn all_are_served(&self) -> bool {
        let mut clients = self.clients.iter();
        clients.all(|client| client.is_served && client.is_heard)
    }

    /// Begins to count anew.
    pub fn forget(&mut self) {
        (self.cut, self.lost, self.answered) = (0, 0, 0);
        for client in &mut self.clients {
            client.longest = Duration::ZERO;
        }
    }

    /// The longest wait of each client.
    #[must_use]
    pub fn waits(&self) -> Vec<Duration> {
        self.clients.iter().map(|client| client.longest).collect()
    }

    fn waited(&mut self, number: usize, since: Instant) {
        let now = Instant::now();
        let client = &mut self.clients[number];
        let since = client.since.take().map_or(since, |cut| cut.min(since));
        (client.is_served, client.is_heard, client.failures) = (true, true, 0);
        client.longest = client.longest.max(now - since);
        self.answered += 1;
    }

    /// A client has lost its connection, and these questions.
    fn cut(&mut self, number: usize, oldest: Option<Instant>, questions: usize) {
        let now = Instant::now();
        let client = &mut self.clients[number];
        if std::mem::take(&mut client.is_served) {
            self.cut += 1;
        }
        client.since.get_or_insert(oldest.unwrap_or(now));
        self.lost += questions as u64;
        let pause = (FIRST_BACK_OFF * 2u32.pow(client.failures.min(8))).min(LONGEST_BACK_OFF);
        client.failures += 1;
        let pause = pause.mul_f64(0.5 + self.random.below(1000) as f64 / 1000.0);
        self.back.push((now + pause, number));
    }
}

/// Lets those come again whose time has come.
pub fn come_again(load: &mut Load<World>, manner: Manner) {
    let now = Instant::now();
    let due = |(at, _): &mut (Instant, usize)| *at <= now;
    let numbers: Vec<(Instant, usize)> = load.world.back.extract_if(.., due).collect();
    for (_, number) in numbers {
        load.open(Box::new(Pulse::new(number)), manner);
    }
    // Each was counted as it was cut off.
    load.failures.clear();
}

pub struct Pulse {
    number: usize,
    incoming: Incoming,
    asked: bool,
    next: u64,
    /// What was asked when, and not answered.
    questions: VecDeque<(u64, Instant)>,
    pongs: Vec<Vec<u8>>,
}

impl Pulse {
    #[must_use]
    pub fn new(number: usize) -> Pulse {
        Pulse {
            number,
            incoming: Incoming::default(),
            asked: false,
            next: 0,
            questions: VecDeque::new(),
            pongs: Vec::new(),
        }
    }

    fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = format!("client {} message {number} ", self.number).into_bytes();
        payload.resize(LENGTH, b'.');
        payload
    }
}

impl Talk<World> for Pulse {
    fn name(&self) -> String {
        format!("client {}", self.number)
    }

    fn speak(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            wire::put_handshake(world.to, "/echo", out);
            return;
        }
        for pong in self.pongs.drain(..) {
            wire::put_control(&mut world.random, wire::PONG, &pong, out);
        }
        if self.incoming.is_open() && self.questions.len() < IN_FLIGHT {
            let payload = self.payload(self.next);
            wire::put_message(&mut world.random, wire::TEXT, &payload, 1, out, |_, _| {});
            self.questions.push_back((self.next, Instant::now()));
            self.next += 1;
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.incoming.push(bytes);
        while let Some(heard) = self.incoming.take()? {
            match heard.opcode {
                wire::PING => self.pongs.push(heard.payload),
                wire::TEXT => {
                    let Some((number, since)) = self.questions.pop_front() else {
                        world.wrong += 1;
                        return Err(Fault::new(Kind::Doubled, "an answer too many"));
                    };
                    if heard.payload != self.payload(number) {
                        world.wrong += 1;
                        return Err(Fault::new(Kind::Wrong, "another answer"));
                    }
                    world.waited(self.number, since);
                }
                _ => return Err(Fault::new(Kind::Closed, "closed")),
            }
        }
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        Err(Fault::new(Kind::Closed, "the stream ended"))
    }

    fn expects(&self) -> bool {
        !self.questions.is_empty()
    }

    fn over(&mut self, world: &mut World) {
        let oldest = self.questions.front().map(|(_, since)| *since);
        world.cut(self.number, oldest, self.questions.len());
    }
}
