//! Clients of `/rooms`: publishers whose messages are numbered, and subscribers who hold what comes
//! against the ledger.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ledger::{Came, Message};
use super::world::{World, closed};
use crate::deflate::OFFER;
use crate::load::wire::{self, Incomer, Incoming};
use crate::load::{Fault, Heard, Kind, Random, Talk};
use crate::presence::List;
use crate::rooms::{MSGPACK, packed, try_unpacked};

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
    pongs: Vec<Vec<u8>>,
    next_id: u64,
    /// What was asked and not answered.
    asks: HashMap<u64, Ask>,
    rooms: BTreeMap<usize, Membership>,
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
    Join(usize),
    Leave(usize),
    Publish(Message),
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

/// Everything that a server says, in one.
#[derive(Debug, Deserialize)]
struct Said<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    room: Option<&'a str>,
    pos: Option<&'a str>,
    from: Option<&'a str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    gap: Option<Gap<'a>>,
    #[serde(borrow)]
    hello: Option<Hello<'a>>,
    count: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Ok_<'a> {
    pos: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
struct Gap<'a> {
    from: &'a str,
    to: &'a str,
    why: &'a str,
}

#[derive(Debug, Deserialize)]
struct Hello<'a> {
    cid: &'a str,
}

impl Member {
    pub fn new(number: u64, part: Part, packs: bool, mut random: Random, rooms: usize) -> Member {
        let watches = matches!(part, Part::Subscriber | Part::SlowSubscriber);
        let to_join = match part {
            Part::Publisher { room, .. } if random.percent(50) => vec![room],
            Part::Publisher { .. } | Part::Wanderer => Vec::new(),
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
            pongs: Vec::new(),
            next_id: 1,
            asks: HashMap::new(),
            rooms: BTreeMap::new(),
            lists: (watches && number.is_multiple_of(2)).then(BTreeMap::new),
            to_join,
            behind: false,
            closing: false,
        }
    }

    /// What it would say next, if anything.
    fn put_word(&mut self, world: &mut World, out: &mut Vec<u8>) {
        if let Some(room) = self.to_join.pop() {
            return self.join(world, room, out);
        }
        if world.quiet {
            return;
        }
        match self.part {
            Part::Publisher { .. } if !world.publishing => {}
            Part::Publisher { publisher, .. } => {
                // Some in one breath.
                for _ in 0..self.random.between(1, 2) {
                    if self.asks.len() < IN_FLIGHT {
                        self.publish(world, publisher, out);
                    }
                }
            }
            Part::Wanderer => self.wander(world, out),
            Part::Subscriber | Part::SlowSubscriber => {
                if self.asks.is_empty() {
                    let id = self.ask(Ask::Ping);
                    self.put(format!("{{\"id\":{id},\"ping\":true}}").as_bytes(), out);
                }
            }
        }
    }

    fn publish(&mut self, world: &mut World, publisher: usize, out: &mut Vec<u8>) {
        let Part::Publisher { room, .. } = self.part else {
            return;
        };
        let message = world.ledger.publish(publisher);
        world.counts.published += 1;
        let mut text = b"{".to_vec();
        if self.random.percent(90) {
            let id = self.ask(Ask::Publish(message));
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
        let comes = |(room, membership): (&usize, &Membership)| match membership {
            Membership::In { next } => *next <= world.ledger.last(*room),
            // The answer is to come.
            Membership::Joining { .. } | Membership::Leaving { .. } => true,
        };
        let differs = |(room, list): (&usize, &List)| {
            list.count != world.members[*room] || list.users.as_ref() != Some(&world.present[*room])
        };
        let is_told = self.lists.iter().flatten().any(differs);
        self.behind = world.quiet && (self.rooms.iter().any(comes) || is_told);
    }

    fn join(&mut self, world: &World, room: usize, out: &mut Vec<u8>) {
        let next = match self.rooms.get(&room) {
            Some(Membership::In { next }) => Some(*next),
            None => None,
            Some(_) => return,
        };
        self.rooms.insert(room, Membership::Joining { next });
        let id = self.ask(Ask::Join(room));
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

    fn hear_one(&mut self, world: &mut World, heard: &Incomer) -> Result<Heard, Fault> {
        match heard.opcode {
            wire::TEXT if !self.packs => {}
            wire::BINARY if self.packs => {}
            wire::PING => {
                self.pongs.push(heard.payload.clone());
                return Ok(Heard::On);
            }
            wire::CLOSE if self.closing && heard.payload == 1000u16.to_be_bytes() => {
                world.counts.closed_in_order += 1;
                return Ok(Heard::Done);
            }
            wire::CLOSE => return Err(closed(&heard.payload)),
            opcode => return Err(wrong(format!("opcode {opcode}"))),
        }
        // What is packed is read as if it had come as text.
        let unpacked = self.packs.then(|| try_unpacked(&heard.payload));
        let unpacked = unpacked.map(|value| value.ok_or_else(|| wrong("no MessagePack".into())));
        let mut unpacked = unpacked.transpose()?;
        let payload = match &unpacked {
            Some(value) => value.to_string().into_bytes(),
            None => heard.payload.clone(),
        };
        let text = || {
            String::from_utf8_lossy(&payload)
                .chars()
                .take(200)
                .collect::<String>()
        };
        let said: Said = serde_json::from_slice(&payload)
            .map_err(|error| wrong(format!("{error}: {}", text())))?;
        match said {
            Said {
                id: Some(id),
                ok: Some(ok),
                ..
            } => {
                let ok: Ok_ = serde_json::from_str(ok.get())
                    .map_err(|error| wrong(format!("{error}: {}", text())))?;
                self.hear_ok(world, id, &ok)?;
            }
            Said {
                room: Some(room),
                pos: Some(pos),
                from: Some(from),
                data: Some(data),
                ..
            } => {
                let room = world.ledger.room(room)?;
                let came = match &mut unpacked {
                    Some(value) => Came::Packed(value["data"].take(), &heard.payload),
                    None => Came::Json(data.get()),
                };
                self.hear_message(world, room, pos, from, &came)?;
            }
            Said {
                room: Some(room),
                gap: Some(gap),
                ..
            } => {
                let room = world.ledger.room(room)?;
                self.hear_gap(world, room, &gap)?;
            }
            Said {
                room: Some(room),
                count: Some(_),
                id: None,
                ..
            } => {
                let room = world.ledger.room(room)?;
                let event = serde_json::from_slice(&payload).unwrap_or_default();
                let list = self.lists.as_mut().and_then(|lists| lists.get_mut(&room));
                let Some(list) = list else {
                    return Err(wrong(format!("it does not watch the room: {}", text())));
                };
                list.apply(&event).map_err(wrong)?;
                world.counts.changes += 1;
            }
            Said {
                hello: Some(hello), ..
            } if self.cid.is_none() => {
                if let Part::Publisher { publisher, .. } = self.part {
                    world.ledger.greeted(publisher, hello.cid);
                }
                self.cid = Some(hello.cid.to_owned());
            }
            _ => return Err(Fault::new(Kind::Refused, text())),
        }
        Ok(Heard::On)
    }

    fn hear_ok(&mut self, world: &mut World, id: u64, ok: &Ok_) -> Result<(), Fault> {
        let Some(ask) = self.asks.remove(&id) else {
            let what = format!("ok of {id}, which was not asked or has been answered");
            return Err(Fault::new(Kind::Doubled, what));
        };
        let name = || format!("ok of {id}, {ask:?}");
        let position = || {
            ok.pos
                .ok_or_else(|| wrong(format!("{} has no position", name())))
        };
        match ask {
            Ask::Ping => {}
            Ask::Publish(message) => {
                world.ledger.place(position()?, message)?;
            }
            Ask::Join(room) => {
                let offset = world.ledger.offset(room, position()?)?;
                if offset > world.ledger.last(room) {
                    return Err(wrong(format!("{}: nobody published so much", name())));
                }
                let next = match self.rooms.get(&room) {
                    Some(Membership::Joining { next: None }) => {
                        world.members[room] += 1;
                        world.present[room].extend(self.cid.clone());
                        offset + 1
                    }
                    // It goes on where it was.
                    Some(Membership::Joining { next: Some(next) }) => *next,
                    other => return Err(wrong(format!("{}: {other:?}", name()))),
                };
                self.rooms.insert(room, Membership::In { next });
                world.counts.joins += 1;
            }
            Ask::Leave(room) => {
                self.rooms.remove(&room);
                world.members[room] -= 1;
                if let Some(cid) = &self.cid {
                    world.present[room].remove(cid);
                }
                world.counts.leaves += 1;
            }
        }
        Ok(())
    }

    fn hear_message(
        &mut self,
        world: &mut World,
        room: usize,
        position: &str,
        from: &str,
        came: &Came<'_>,
    ) -> Result<(), Fault> {
        let (offset, message) =
            world
                .ledger
                .delivered(room, position, from, came, &mut world.scratch)?;
        world.counts.delivered += 1;
        world.counts.converted += u64::from(world.ledger.is_converted(message, self.packs));
        world.counts.bytes_verified += came.size() as u64;
        self.expect(room, offset, offset, position)?;
        let own = matches!(self.part, Part::Publisher { publisher, .. } if publisher == message.publisher);
        let unanswered = |ask: &Ask| matches!(ask, Ask::Publish(asked) if *asked == message);
        if own && self.asks.values().any(unanswered) {
            let what = format!("its own message at {position} came before the ok");
            return Err(Fault::new(Kind::Disorder, what));
        }
        Ok(())
    }

    fn hear_gap(&mut self, world: &mut World, room: usize, gap: &Gap) -> Result<(), Fault> {
        let from = world.ledger.offset(room, gap.from)?;
        let to = world.ledger.offset(room, gap.to)?;
        let name = format!("gap {gap:?} in room {room}");
        if self.part != Part::SlowSubscriber || gap.why != "slow" {
            return Err(Fault::new(Kind::Lost, name));
        }
        if from > to || to > world.ledger.last(room) {
            return Err(wrong(name));
        }
        world.counts.gaps += to - from + 1;
        self.expect(room, from, to, &name)
    }

    /// What comes begins where the last ended.
    fn expect(&mut self, room: usize, from: u64, to: u64, name: &str) -> Result<(), Fault> {
        let membership = self.rooms.get_mut(&room);
        let next = match membership {
            Some(
                Membership::In { next }
                | Membership::Leaving { next }
                | Membership::Joining { next: Some(next) },
            ) => next,
            _ => return Err(wrong(format!("{name} in room {room}: {membership:?}"))),
        };
        if from != *next {
            let kind = if from < *next {
                Kind::Doubled
            } else {
                Kind::Lost
            };
            let what = format!("{name} in room {room}: offset {next} was to come");
            return Err(Fault::new(kind, what));
        }
        *next = to + 1;
        Ok(())
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
