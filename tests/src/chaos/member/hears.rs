//! What a member hears, held against the ledger and against what it knows of its rooms.

use super::said::{Gap, Ok_, Said};
use super::{Ask, Member, Membership, Part, wrong};
use crate::chaos::ledger::{Came, Message, Sort};
use crate::chaos::world::{World, closed};
use crate::load::wire::{self, Incomer};
use crate::load::{Fault, Heard, Kind};
use crate::rooms::try_unpacked;

impl Member {
    pub(super) fn hear_one(&mut self, world: &mut World, heard: &Incomer) -> Result<Heard, Fault> {
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
    pub(super) fn known_as(&self) -> Option<String> {
        self.user.clone().or_else(|| self.cid.clone())
    }

    pub(super) fn has_left(&mut self, world: &mut World, room: usize) {
        self.rooms.remove(&room);
        self.told.remove(&room);
        world.members[room] -= 1;
        if let Some(name) = self.known_as() {
            world.present[room].remove(&name);
        }
    }

    /// Where it has said something.
    pub(super) fn room_of(&self, world: &World, message: Message) -> usize {
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
    pub(super) fn publisher(&self) -> Option<usize> {
        match self.part {
            Part::Publisher { publisher, .. } | Part::User { publisher, .. } => Some(publisher),
            _ => None,
        }
    }

    /// What comes begins where the last ended.
    pub(super) fn expect(
        &mut self,
        room: usize,
        from: u64,
        to: u64,
        name: &str,
    ) -> Result<(), Fault> {
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
