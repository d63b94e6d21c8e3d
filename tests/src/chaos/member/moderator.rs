//! Members with a token: who moderates a room, and those about whom is decided there.

use super::said::{Kept, Ok_};
use super::{Ask, IN_FLIGHT, Member, Membership, Part, wrong};
use crate::chaos::court::{Decision, Measure};
use crate::chaos::ledger::Came;
use crate::chaos::world::World;
use crate::load::{Fault, Kind};

impl Member {
    /// What somebody with a token would say next. `true`: this is for us to say.
    pub(super) fn put_word_of_known(&mut self, world: &mut World, out: &mut Vec<u8>) -> bool {
        let Some(token) = &self.token else {
            return false;
        };
        if self.user.is_none() {
            if self.asks.is_empty() {
                let token = token.clone();
                let id = self.ask(Ask::Auth);
                self.put(
                    format!("{{\"id\":{id},\"auth\":\"{token}\"}}").as_bytes(),
                    out,
                );
            }
            return true;
        }
        match self.part {
            _ if world.quiet || !world.publishing => {}
            Part::Moderator { room } if self.asks.is_empty() => self.moderate(world, room, out),
            Part::User {
                user,
                room,
                publisher,
            } => {
                let sends = self.rooms.contains_key(&room) || self.random.percent(50);
                let word = world.court.word(user, sends);
                if !sends {
                    self.join_as(world, room, Some(word), out);
                } else if self.asks.len() < IN_FLIGHT {
                    self.publish(world, publisher, room, Some(word), out);
                }
            }
            _ => {}
        }
        true
    }

    fn moderate(&mut self, world: &mut World, room: usize, out: &mut Vec<u8>) {
        if !self.rooms.contains_key(&room) {
            return self.join(world, room, out);
        }
        let name = world.ledger.name(room).to_owned();
        if self.random.percent(25) {
            let known = world.ledger.known(room);
            let id = self.ask(Ask::History { room, known });
            let limit = self.random.between(1, 100);
            let text = format!("{{\"id\":{id},\"history\":\"{name}\",\"limit\":{limit}}}");
            return self.put(text.as_bytes(), out);
        }
        let random = &mut self.random;
        let Some(decision) = world.court.choose(room, &world.ledger, random) else {
            return;
        };
        let lasts = random.percent(30);
        world.court.ask(room, decision);
        let id = self.ask(Ask::Decide {
            room,
            decision,
            lasts,
        });
        let text = match decision {
            Decision::Measure { user, measure, on } => {
                let verb = measure.words(on).0;
                let user = &world.court.user(user).name;
                let lasts = match lasts && on {
                    true => ",\"for_ms\":86400000",
                    false => "",
                };
                format!("\"{verb}\":\"{user}\",\"room\":\"{name}\"{lasts}")
            }
            Decision::Delete { offset } => {
                let position = world.ledger.position(room, offset);
                format!("\"delete\":\"{position}\",\"room\":\"{name}\"")
            }
            Decision::Clear => format!("\"clear\":\"{name}\""),
        };
        self.put(format!("{{\"id\":{id},{text}}}").as_bytes(), out);
    }

    pub(super) fn hear_done(
        &mut self,
        world: &mut World,
        room: usize,
        (decision, lasts): (Decision, bool),
        ok: &Ok_<'_>,
    ) -> Result<(), Fault> {
        let offset = |position| world.ledger.offset(room, position);
        let offset = ok.pos.map(offset).transpose()?;
        let ends = lasts && matches!(decision, Decision::Measure { on: true, .. });
        if ends != ok.until_ms.is_some() {
            return Err(wrong(format!("{decision:?} ends {:?}", ok.until_ms)));
        }
        world.counts.decided += 1;
        world.court.done(room, decision, offset)
    }

    /// What the room retains: each message as it was said, or that it was deleted.
    pub(super) fn hear_history(
        &mut self,
        world: &mut World,
        room: usize,
        known: u64,
        kept: &[Kept<'_>],
    ) -> Result<(), Fault> {
        let mut page = Vec::new();
        for kept in kept {
            page.push(match *kept {
                Kept {
                    pos: Some(pos),
                    from: Some(from),
                    data: Some(data),
                    deleted: None,
                } => {
                    let came = Came::Json(data.get());
                    let World {
                        ledger, scratch, ..
                    } = world;
                    (ledger.delivered(room, pos, from, &came, scratch)?.0, true)
                }
                Kept {
                    deleted: Some(pos), ..
                } => (world.ledger.offset(room, pos)?, false),
                _ => return Err(wrong(format!("in the history of room {room}: {kept:?}"))),
            });
        }
        world.counts.pages += 1;
        world.court.retained(room, &page, known)
    }

    /// Everybody in the room is told what is decided about somebody.
    pub(super) fn hear_measure(
        &mut self,
        world: &mut World,
        room: usize,
        (name, measure, on): (&str, Measure, bool),
    ) -> Result<(), Fault> {
        let next = self.next_of(room);
        let Some(told) = self.told.get_mut(&room) else {
            return Err(wrong(format!("{name} in room {room}, where it is not")));
        };
        let own = self.user.as_deref() == Some(name);
        // What was said up to the turn in which it came comes before it hears that it must not be there.
        let next = next.filter(|_| !own);
        world.court.told_of(room, (name, measure, on), told, next)?;
        if own && (measure, on) == (Measure::Ban, true) {
            self.has_left(world, room);
        }
        Ok(())
    }

    pub(super) fn hear_deleted(
        &mut self,
        world: &mut World,
        room: usize,
        position: &str,
    ) -> Result<(), Fault> {
        let offset = world.ledger.offset(room, position)?;
        match self.told.get_mut(&room) {
            Some(told) => world.court.told_deleted(room, offset, told),
            None => Err(wrong(format!("{position} is deleted in room {room}"))),
        }
    }

    pub(super) fn hear_cleared(
        &mut self,
        world: &mut World,
        room: usize,
        position: &str,
    ) -> Result<(), Fault> {
        let offset = world.ledger.offset(room, position)?;
        world.court.told_cleared(room, offset, self.next_of(room))
    }

    /// It was told that it may not do what it has asked for.
    pub(super) fn hear_refusal(
        &mut self,
        world: &mut World,
        id: u64,
        code: &str,
    ) -> Result<(), Fault> {
        match self.asks.remove(&id) {
            Some(Ask::Publish(message, Some(word))) if code == "forbidden" => {
                world.counts.refused += 1;
                world.court.heard(word, false)?;
                world.ledger.refused(message)
            }
            Some(Ask::Join(room, Some(word))) if code == "forbidden" => {
                world.counts.refused += 1;
                self.rooms.remove(&room);
                world.court.heard(word, false)
            }
            ask => Err(Fault::new(Kind::Refused, format!("{ask:?}: {code}"))),
        }
    }

    /// The offset that comes next in a room, of one to whom all before it has come: to who reads slowly
    /// what it has missed is told later.
    fn next_of(&self, room: usize) -> Option<u64> {
        match self.rooms.get(&room)? {
            _ if self.part == Part::SlowSubscriber => None,
            Membership::In { next } | Membership::Leaving { next } => Some(*next),
            Membership::Joining { next } => *next,
        }
    }
}
