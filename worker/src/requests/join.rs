//! Into a room and out of it; and what it retains, which who joins may want as well.

use protocol::ids::Position;
use protocol::journal::Record;
use protocol::output::{Full, Output};
use protocol::record::Up;

use super::{Client, Flow};
use crate::authorize::Access;
use crate::client::{Code, ToClient, Wants};
use crate::close::CloseReason;
use crate::frames::{self, refused};
use crate::history;
use crate::rooms::RoomIx;
use crate::rooms::presence::ASKED;
use crate::slots::Flag;

impl Client<'_> {
    /// Who has shown a token is in its own room of itself.
    pub(super) fn join(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        name: &str,
        wants: Wants,
        access: Access<'_>,
    ) -> Result<Flow, Full> {
        let may = access.may(name);
        let (name, user) = (name.as_bytes(), access.user());
        let Wants {
            since,
            last,
            presence,
        } = wants;
        let own = u32::from(user.is_some());
        let watch = presence == Some(true);
        if self.rooms.count_of(self.slots, self.slot) >= self.settings.rooms.max_rooms + own
            && !self
                .rooms
                .find(name)
                .is_some_and(|room| self.rooms.is_member(self.slots, self.slot, room))
        {
            self.error(out, id, Code::Limit, "this connection is in too many rooms")?;
            return Ok(Flow::Next);
        }
        let Some(room) = self.rooms.find(name) else {
            return match since.is_some() || last || watch {
                true => self.hold(out, id, name),
                false => Ok(self.open(id, name)),
            };
        };
        let mut position = self.rooms.position(room);
        let member = self.rooms.is_member(self.slots, self.slot, room);
        let total = self
            .rooms
            .total(room)
            .max(self.rooms.members(room).len() as u32 + u32::from(!member));
        if !member && frames::is_full(name, self.rooms.total(room), &self.settings.rates) {
            self.error(out, id, Code::Limit, frames::FULL)?;
            return Ok(Flow::Next);
        }
        let mut recovered = since.map(|_| false);
        if (since.is_some() || last) && !member {
            let room = self.as_known(room, name);
            let most = self.settings.rooms.slow_bytes;
            let brought = history::on_join(self.history, room, since, last, most);
            let batch = self.meta.has(Flag::Batch);
            history::put(out, room, &brought.messages, self.meta.encoding(), batch)?;
            position.offset = brought.after;
            recovered = brought.recovered;
        }
        self.answer(
            out,
            id,
            ToClient::Joined {
                id,
                position,
                count: total,
                recovered,
                may,
            },
        )?;
        let watches = self.rooms.watches(self.slots, self.slot, room);
        let asks = watch && watches.is_none();
        if asks {
            // The list comes behind the answer.
            let asker = self.asker(b"");
            if self.stage(Up::Watch { asker, room: name }) == Flow::RingFull {
                return Ok(Flow::RingFull);
            }
        }
        let from = asks.then_some(ASKED);
        if member {
            if asks || presence == Some(false) && watches.is_some() {
                self.rooms.watch(record, self.slots, self.slot, room, from);
                return Ok(Flow::Commit);
            }
            return Ok(Flow::Next);
        }
        let who = self.entrant(user);
        match self
            .rooms
            .join(record, self.slots, who, room, position.offset, from)
        {
            Ok(()) => Ok(Flow::Commit),
            Err(_) => Ok(Flow::Close(CloseReason::Overloaded)),
        }
    }

    /// What the room retains.
    pub(super) fn history(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        name: &[u8],
        before: Option<Position>,
        limit: u32,
    ) -> Result<Flow, Full> {
        let Some(room) = self.rooms.find(name) else {
            return self.hold(out, id, name);
        };
        let room = self.as_known(room, name);
        let messages = &history::page(self.history, room, before, limit);
        let page = ToClient::History {
            id,
            room: name,
            epoch: room.position.epoch,
            messages,
        };
        self.answer(out, id, page)?;
        Ok(Flow::Next)
    }

    fn as_known<'b>(&self, room: RoomIx, name: &'b [u8]) -> history::Room<'b> {
        history::Room {
            number: self.rooms.number(room),
            name,
            position: self.rooms.position(room),
        }
    }

    /// The request is read again once this worker holds the room.
    fn hold(&mut self, out: &mut impl Output, id: &[u8], name: &[u8]) -> Result<Flow, Full> {
        if let Some(reason) = self.refused.take() {
            refused(id, reason).put_frame(out, self.meta.encoding())?;
            return Ok(Flow::Next);
        }
        // The answer is for this worker: the client's comes later.
        let asker = self.asker(b"");
        Ok(match self.stage(Up::Hold { asker, room: name }) {
            Flow::Next => Flow::Holding,
            other => other,
        })
    }

    pub(super) fn leave(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        name: &[u8],
    ) -> Result<Flow, Full> {
        let room = self
            .rooms
            .find(name)
            .filter(|room| self.rooms.is_member(self.slots, self.slot, *room));
        let Some(room) = room else {
            self.error(
                out,
                id,
                Code::NotJoined,
                "this connection is not in the room",
            )?;
            return Ok(Flow::Next);
        };
        self.answer(out, id, ToClient::Left { id })?;
        self.rooms.leave(record, self.slots, self.slot, room);
        Ok(Flow::Commit)
    }
}
