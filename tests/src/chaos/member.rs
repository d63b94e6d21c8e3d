//! Clients of `/rooms`: publishers whose messages are numbered, and subscribers who hold what comes
//! against the ledger ([`hears`]), and against what is decided ([`moderator`]). [`said`]: what they hear.

mod hears;
mod moderator;
mod said;

use std::collections::{BTreeMap, HashMap};

use super::court::{Decision, Told, Word};
use super::ledger::Message;
use super::world::World;
use crate::deflate::OFFER;
use crate::load::wire::{self, Incoming};
use crate::load::{Fault, Heard, Kind, Random, Talk};
use crate::presence::List;
use crate::rooms::{MSGPACK, packed};

/// Publishes that may wait for their `ok`.
const IN_FLIGHT: usize = 4;

/// Rooms that a wanderer is in at once.
const WANDERS_AMONG: usize = 6;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Publishes in one room; in every other case it has joined it, too.
    Publisher { publisher: usize, room: usize },
    /// Joins some rooms, and stays.
    Subscriber,
    /// As a subscriber, but so slow that it may be told of gaps.
    SlowSubscriber,
    /// Joins and leaves all the time.
    Wanderer,
    /// Decides what others may do in its room, and what is shown of what they said.
    Moderator { room: usize },
    /// One about whom it decides: publishes, and is there whenever it may.
    User {
        user: usize,
        room: usize,
        publisher: usize,
    },
}

pub struct Member {
    number: u64,
    part: Part,
    /// It speaks MessagePack.
    packs: bool,
    random: Random,
    incoming: Incoming,
    /// Messages are compressed, both ways.
    deflates: bool,
    asked: bool,
    cid: Option<String>,
    /// What it shows to say who it is, and who that is once that is known.
    token: Option<String>,
    user: Option<String>,
    pongs: Vec<Vec<u8>>,
    next_id: u64,
    /// What was asked and not answered.
    asks: HashMap<u64, Ask>,
    rooms: BTreeMap<usize, Membership>,
    /// What it was told there of what is decided.
    told: BTreeMap<usize, Told>,
    /// Who is in the rooms that it watches, as it was told; `None`: it watches none.
    lists: Option<BTreeMap<usize, List>>,
    /// Rooms that it is still to join.
    to_join: Vec<usize>,
    /// All has been said, and not all of it has come.
    behind: bool,
    closing: bool,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Auth,
    Join(usize, Option<Word>),
    Leave(usize),
    Publish(Message, Option<Word>),
    Decide {
        room: usize,
        decision: Decision,
        lasts: bool,
    },
    /// Up to which offset messages are known to be there.
    History {
        room: usize,
        known: u64,
    },
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    /// `ok` is to come. With `next`: it had joined already.
    Joining { next: Option<u64> },
    /// This offset comes next.
    In { next: u64 },
    /// It has asked to leave; until the `ok`, messages may come.
    Leaving { next: u64 },
}

impl Member {
    /// `token`: who it is, if it says so.
    pub fn new(
        number: u64,
        part: Part,
        packs: bool,
        token: Option<String>,
        mut random: Random,
        rooms: usize,
    ) -> Member {
        let watches = matches!(part, Part::Subscriber | Part::SlowSubscriber);
        let to_join = match part {
            Part::Publisher { room, .. } if random.percent(50) => vec![room],
            Part::Publisher { .. }
            | Part::Wanderer
            | Part::Moderator { .. }
            | Part::User { .. } => Vec::new(),
            Part::Subscriber | Part::SlowSubscriber => {
                // By its number, so that every room has some who stay.
                let first = number as usize % rooms;
                let more = random.between(0, 2);
                (0..=more).map(|step| (first + 7 * step) % rooms).collect()
            }
        };
        let deflates = random.percent(30);
        Member {
            number,
            part,
            packs,
            random,
            incoming: Incoming::default(),
            deflates,
            asked: false,
            cid: None,
            token,
            user: None,
            pongs: Vec::new(),
            next_id: 1,
            asks: HashMap::new(),
            rooms: BTreeMap::new(),
            told: BTreeMap::new(),
            lists: (watches && number.is_multiple_of(2)).then(BTreeMap::new),
            to_join,
            behind: false,
            closing: false,
        }
    }

    /// What it would say next, if anything.
    fn put_word(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if self.put_word_of_known(world, out) {
            return;
        }
        if let Some(room) = self.to_join.pop() {
            return self.join(world, room, out);
        }
        if world.quiet {
            return;
        }
        match self.part {
            Part::Publisher { .. } if !world.publishing => {}
            Part::Publisher { publisher, room } => {
                // Some in one breath.
                for _ in 0..self.random.between(1, 2) {
                    if self.asks.len() < IN_FLIGHT {
                        self.publish(world, publisher, room, None, out);
                    }
                }
            }
            Part::Moderator { .. } | Part::User { .. } => {}
            Part::Wanderer => self.wander(world, out),
            Part::Subscriber | Part::SlowSubscriber => {
                if self.asks.is_empty() {
                    let id = self.ask(Ask::Ping);
                    self.put(format!("{{\"id\":{id},\"ping\":true}}").as_bytes(), out);
                }
            }
        }
    }

    /// `word`: it may be refused, by this.
    fn publish(
        &mut self,
        world: &mut World,
        publisher: usize,
        room: usize,
        word: Option<Word>,
        out: &mut Vec<u8>,
    ) {
        let message = world.ledger.publish(publisher);
        world.counts.published += 1;
        let mut text = b"{".to_vec();
        if word.is_some() || self.random.percent(90) {
            let id = self.ask(Ask::Publish(message, word));
            text.extend(format!("\"id\":{id},").as_bytes());
        }
        text.extend(format!("\"send\":\"{}\",\"data\":", world.ledger.name(room)).as_bytes());
        world.ledger.put_data(message, &mut text);
        text.push(b'}');
        self.put(&text, out);
    }

    /// Into a room or out of one; sometimes into one where it is.
    fn wander(&mut self, world: &mut World, out: &mut Vec<u8>) {
        let joined = self.rooms.len();
        let room = match joined < WANDERS_AMONG {
            true => self.random.below(world.ledger.rooms() as u64) as usize,
            false => {
                let index = self.random.below(joined as u64) as usize;
                *self.rooms.keys().nth(index).unwrap_or(&0)
            }
        };
        let stays = self.random.percent(20);
        match self.rooms.get(&room) {
            None => self.join(world, room, out),
            Some(Membership::In { .. }) if stays => self.join(world, room, out),
            Some(Membership::In { next }) => {
                let next = *next;
                self.rooms.insert(room, Membership::Leaving { next });
                let id = self.ask(Ask::Leave(room));
                let name = world.ledger.name(room);
                self.put(
                    format!("{{\"id\":{id},\"leave\":\"{name}\"}}").as_bytes(),
                    out,
                );
            }
            Some(Membership::Joining { .. } | Membership::Leaving { .. }) => {}
        }
    }

    fn look_behind(&mut self, world: &World) {
        if !world.quiet {
            self.behind = false;
            return;
        }
        let comes = |(room, membership): (&usize, &Membership)| match membership {
            Membership::In { next } => *next <= world.ledger.last(*room),
            // The answer is to come.
            Membership::Joining { .. } | Membership::Leaving { .. } => true,
        };
        let differs = |(room, list): (&usize, &List)| {
            list.count != world.members[*room] || list.users.as_ref() != Some(&world.present[*room])
        };
        let is_owed = |(room, told): (&usize, &Told)| world.court.owes(*room, told);
        self.behind = self.rooms.iter().any(comes)
            || self.lists.iter().flatten().any(differs)
            || self.told.iter().any(is_owed);
    }

    fn join(&mut self, world: &World, room: usize, out: &mut Vec<u8>) {
        self.join_as(world, room, None, out);
    }

    /// `word`: it may be refused, by this.
    fn join_as(&mut self, world: &World, room: usize, word: Option<Word>, out: &mut Vec<u8>) {
        let next = match self.rooms.get(&room) {
            Some(Membership::In { next }) => Some(*next),
            None => None,
            Some(_) => return,
        };
        self.rooms.insert(room, Membership::Joining { next });
        let id = self.ask(Ask::Join(room, word));
        let name = world.ledger.name(room);
        let watches = match &mut self.lists {
            Some(lists) => {
                lists.entry(room).or_default();
                ",\"presence\":true"
            }
            None => "",
        };
        self.put(
            format!("{{\"id\":{id},\"join\":\"{name}\"{watches}}}").as_bytes(),
            out,
        );
    }

    fn ask(&mut self, ask: Ask) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.asks.insert(id, ask);
        id
    }

    fn put(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let random = &mut self.random;
        let frames = if random.percent(20) {
            random.between(2, 4)
        } else {
            1
        };
        let packed = self.packs.then(|| {
            let value = serde_json::from_slice(text).expect("JSON of ours");
            packed(&value)
        });
        let (opcode, bytes) = match &packed {
            Some(packed) => (wire::BINARY, &packed[..]),
            None => (wire::TEXT, text),
        };
        match self.deflates && random.percent(80) {
            true => wire::put_deflated(random, opcode, bytes, frames, out, |_, _| {}),
            false => wire::put_message(random, opcode, bytes, frames, out, |_, _| {}),
        }
    }
}

impl Talk<World> for Member {
    fn name(&self) -> String {
        let Member {
            number,
            part,
            asks,
            rooms,
            ..
        } = self;
        let cid = self.cid.as_deref().unwrap_or("not greeted");
        let how = if self.deflates { "compressed, " } else { "" };
        format!("member {number}, {cid}, {how}{part:?}, asks {asks:?}, rooms {rooms:?}")
    }

    fn speak(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            let mut fields = Vec::new();
            if self.packs {
                fields.push(("Sec-WebSocket-Protocol", MSGPACK));
            }
            if self.deflates {
                fields.push(OFFER);
            }
            wire::put_handshake_with(world.to, "/rooms", &fields, out);
            return;
        }
        for pong in self.pongs.drain(..) {
            wire::put_control(&mut self.random, wire::PONG, &pong, out);
        }
        // A message is `from` its publisher's cid.
        if self.cid.is_none() || self.closing {
            return;
        }
        if world.ending {
            self.closing = true;
            wire::put_control(&mut self.random, wire::CLOSE, &1000u16.to_be_bytes(), out);
        } else {
            self.put_word(world, out);
            self.look_behind(world);
        }
    }

    fn hear(&mut self, world: &mut World, bytes: &[u8]) -> Result<Heard, Fault> {
        self.incoming.push(bytes);
        while let Some(heard) = self.incoming.take()? {
            if self.hear_one(world, &heard)? == Heard::Done {
                return Ok(Heard::Done);
            }
        }
        world.counts.inflated += std::mem::take(&mut self.incoming.inflated);
        self.look_behind(world);
        Ok(Heard::On)
    }

    fn ended(&mut self, _: &mut World) -> Result<(), Fault> {
        Err(Fault::new(Kind::Closed, "the stream ended"))
    }

    fn expects(&self) -> bool {
        self.cid.is_none() || !self.asks.is_empty() || self.behind || self.closing
    }
}

fn wrong(what: String) -> Fault {
    Fault::new(Kind::Wrong, what)
}
