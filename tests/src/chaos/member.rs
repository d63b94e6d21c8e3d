//! Clients of `/rooms`: publishers whose messages are numbered, and subscribers who hold what comes
//! against the ledger, and against what is decided ([`moderator`]). [`said`]: what they hear.

mod moderator;
mod said;

use std::collections::{BTreeMap, HashMap};

use super::court::{Decision, Told, Word};
use super::ledger::{Came, Message, Sort};
use super::world::{World, closed};
use crate::deflate::OFFER;
use crate::load::wire::{self, Incomer, Incoming};
use crate::load::{Fault, Heard, Kind, Random, Talk};
use crate::presence::List;
use crate::rooms::{MSGPACK, packed, try_unpacked};
use said::{Gap, Ok_, Said};

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
                id: Some(id),
                error: Some(error),
                ..
            } => self.hear_refusal(world, id, error.code)?,
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
                room: Some(room),
                deleted: Some(position),
                ..
            } => {
                let room = world.ledger.room(room)?;
                self.hear_deleted(world, room, position)?;
            }
            Said {
                room: Some(room),
                cleared: Some(position),
                ..
            } => {
                let room = world.ledger.room(room)?;
                self.hear_cleared(world, room, position)?;
            }
            Said {
                room: Some(room), ..
            } if said.measure().is_some() => {
                let room = world.ledger.room(room)?;
                let measure = said.measure().expect("it is one");
                self.hear_measure(world, room, measure)?;
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
            Ask::Auth => {
                let user = ok.user.ok_or_else(|| wrong(name()))?;
                if let Part::User { publisher, .. } = self.part {
                    world.ledger.greeted(publisher, user);
                }
                self.user = Some(user.to_owned());
            }
            Ask::Publish(message, word) => {
                let position = position()?;
                let room = self.room_of(world, message);
                world.ledger.place(room, position, message)?;
                word.map_or(Ok(()), |word| world.court.heard(word, true))?;
            }
            Ask::Decide {
                room,
                decision,
                lasts,
            } => self.hear_done(world, room, (decision, lasts), ok)?,
            Ask::History { room, known } => {
                self.hear_history(world, room, known, &ok.messages)?;
            }
            Ask::Join(room, word) => {
                let offset = world.ledger.offset(room, position()?)?;
                if offset > world.ledger.last(room) {
                    return Err(wrong(format!("{}: nobody published so much", name())));
                }
                word.map_or(Ok(()), |word| world.court.heard(word, true))?;
                let next = match self.rooms.get(&room) {
                    Some(Membership::Joining { next: None }) => {
                        world.members[room] += 1;
                        world.present[room].extend(self.known_as());
                        self.told.insert(room, world.court.comes(room));
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
                self.has_left(world, room);
                world.counts.leaves += 1;
            }
        }
        Ok(())
    }

    /// Whom others see.
    fn known_as(&self) -> Option<String> {
        self.user.clone().or_else(|| self.cid.clone())
    }

    fn has_left(&mut self, world: &mut World, room: usize) {
        self.rooms.remove(&room);
        self.told.remove(&room);
        world.members[room] -= 1;
        if let Some(name) = self.known_as() {
            world.present[room].remove(&name);
        }
    }

    /// Where it has said something.
    fn room_of(&self, world: &World, message: Message) -> usize {
        let mut homes = world.ledger.homes(message.publisher);
        homes.next().expect("it says it somewhere")
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
        if let Some(told) = self.told.get(&room) {
            world.court.hears(told, room, message)?;
        }
        let unanswered = |ask: &Ask| matches!(ask, Ask::Publish(asked, _) if *asked == message);
        if self.publisher() == Some(message.publisher) && self.asks.values().any(unanswered) {
            let what = format!("its own message at {position} came before the ok");
            return Err(Fault::new(Kind::Disorder, what));
        }
        Ok(())
    }

    fn hear_gap(&mut self, world: &mut World, room: usize, gap: &Gap) -> Result<(), Fault> {
        let from = world.ledger.offset(room, gap.from)?;
        let to = world.ledger.offset(room, gap.to)?;
        let name = format!("gap {gap:?} in room {room}");
        if from > to || to > world.ledger.last(room) {
            return Err(wrong(name));
        }
        let own = |message: Message| self.publisher() == Some(message.publisher);
        let mut places = (from..=to).filter_map(|offset| world.ledger.at(room, offset));
        match gap.why {
            "slow" if self.part == Part::SlowSubscriber => world.counts.gaps += to - from + 1,
            // What it has said itself comes to everybody.
            "sampled" if world.ledger.sort(room) == Sort::Sampled && !places.any(own) => {
                world.counts.sampled += to - from + 1;
            }
            _ => return Err(Fault::new(Kind::Lost, name)),
        }
        self.expect(room, from, to, &name)
    }

    /// As whom it says something.
    fn publisher(&self) -> Option<usize> {
        match self.part {
            Part::Publisher { publisher, .. } | Part::User { publisher, .. } => Some(publisher),
            _ => None,
        }
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
