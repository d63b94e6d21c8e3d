//! A connection arrives that has lived in another worker: what its [`Snapshot`] says is made ready
//! (buffers, memberships), and one record makes it its slot's.
//!
//! This worker may have read less of the log than the one before, or more. So a connection in rooms
//! begins as one that lags: what concerns it is looked up in the log from its own cursor on. And it
//! is acknowledged only once this worker has read as much of the log as there was, so that every
//! answer that the connection waits for is found in that way, and once the master can know who is
//! in which room here, so that it forgets no room between two workers.

use std::fs::File;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};

use protocol::arena::Extent;
use protocol::fault;
use protocol::ids::Cid;
use protocol::journal::Record;
use protocol::message::{Given, Past};
use protocol::record::Down;

use crate::auth::grant::Packed;
use crate::brain::Brain;
use crate::buffers::{self, held};
use crate::close::CloseReason;
use crate::frames::is_full;
use crate::rooms::presence::ASKED;
use crate::rooms::{Entrant, RoomIx, TableFull};
use crate::slots::{Field, Flag, Meta, Phase, Slots};
use crate::snapshot::{Membership, Snapshot};
use crate::state::Head;
use crate::websocket::Window;

/// A snapshot holds an unread input, a message and an output at most.
const LARGEST: u64 = 128 << 20;

/// Those that have arrived and are not acknowledged yet.
#[derive(Debug, Default)]
pub struct Arrivals {
    pub slots: Vec<u32>,
    /// The log is to be read up to here first.
    pub log: u64,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("there is no room for what it holds")]
    NoRoom,
    #[error("there are too many rooms")]
    Rooms,
    #[error(transparent)]
    Unreadable(#[from] crate::snapshot::Unreadable),
    #[error("there is no place for what it may do")]
    Pass,
    #[error("the log has overtaken what it asked")]
    Overrun,
    #[error("its snapshot is lost: {0}")]
    Lost(#[from] std::io::Error),
}

impl From<TableFull> for Unfit {
    fn from(_: TableFull) -> Unfit {
        Unfit::Rooms
    }
}

/// The snapshot that a connection brings along; `None`: it is fresh.
pub fn snapshot(past: &Past, file: Option<OwnedFd>) -> Result<Option<Snapshot>, Unfit> {
    match past {
        Past::None => Ok(None),
        Past::Here(bytes) => Ok(Some(Snapshot::decode(bytes)?)),
        Past::File => {
            let mut file = File::from(file.ok_or_else(|| std::io::Error::other("no file came"))?);
            // It was written to its end before it was sent.
            std::io::Seek::rewind(&mut file)?;
            let mut bytes = Vec::new();
            file.take(LARGEST).read_to_end(&mut bytes)?;
            Ok(Some(Snapshot::decode(&bytes)?))
        }
        Past::Lost => Err(std::io::Error::other("the master has it no more").into()),
    }
}

impl Brain {
    /// Makes ready what the connection brings, and the record that makes the slot its.
    pub fn arrive(
        &mut self,
        slot: u32,
        given: &Given,
        fd: RawFd,
        snapshot: &Snapshot,
    ) -> Result<Record, Unfit> {
        fault::point("worker:arrive");
        self.slots.set(slot, Field::Cells, 0);
        let mut kept = Vec::new();
        let mut meta = Meta::new(fd, snapshot.phase, snapshot.role);
        meta.window = snapshot.window.and_then(Window::new);
        let meta = meta
            .with(Flag::Remote, snapshot.remote)
            .with(Flag::Unix, snapshot.unix)
            .with(Flag::Batch, snapshot.batch)
            .with(Flag::Msgpack, snapshot.msgpack);
        let made = self.buffers_of(snapshot, &mut kept).and_then(|buffers| {
            let grant = snapshot.pass.as_ref().map(|pass| pass.grant.as_slice());
            let user = grant.and_then(Packed::read).map(|packed| packed.user);
            let who = Entrant {
                slot,
                cid: given.cid,
                encoding: meta.encoding(),
                user,
            };
            self.enter_rooms(who, snapshot)?;
            Ok(buffers)
        });
        let made = made.and_then(|buffers| {
            let pass = self.pass_of(slot, meta, snapshot.pass.as_ref());
            Ok((buffers, pass.map_err(|_| Unfit::Pass)?))
        });
        let ([input, message, output], pass) = match made {
            Ok(made) => made,
            Err(unfit) => {
                self.leave_rooms(slot);
                kept.into_iter().for_each(|extent| self.arena.free(extent));
                return Err(unfit);
            }
        };
        fault::point("worker:arrived");
        let at = |ago: u64| self.now.saturating_sub(ago);
        let reason = snapshot.reason.as_deref();
        let in_rooms = snapshot.phase == Phase::Rooms && reason.is_none();
        let mut meta = meta
            .with(Flag::Unacked, true)
            .with(Flag::Refuse, snapshot.refuse)
            .with(Flag::Pinged, snapshot.pinged)
            .with(Flag::PeerEnded, snapshot.peer_ended)
            .with(Flag::WeEnded, snapshot.we_ended)
            .with(Flag::Leaving, snapshot.leaving)
            .with(
                Flag::Opening,
                snapshot.opening && snapshot.phase == Phase::Http,
            )
            .with(Flag::Lagging, in_rooms);
        if let Some(word) = reason {
            meta = meta.because(CloseReason::named(word).unwrap_or(CloseReason::Done));
        }
        let parsed = snapshot
            .consumed
            .saturating_sub(snapshot.input.len() as u64);
        let [first, second, third] = snapshot.session;
        let mut record = Record::new();
        Slots::change_peer(&mut record, slot, given.peer, pass);
        for (field, value) in [
            (Field::Cid, given.cid.0),
            (Field::Consumed, snapshot.consumed),
            (Field::Parsed, parsed),
            (Field::Input, held(input, parsed)),
            (Field::Written, snapshot.written),
            (
                Field::Produced,
                snapshot.written + snapshot.output.len() as u64,
            ),
            (Field::Output, held(output, snapshot.written)),
            (Field::Message, held(message, snapshot.message.len() as u64)),
            (Field::Session0, first),
            (Field::Session1, second),
            (Field::Session2, third),
            (Field::Cursor, snapshot.cursor),
            (Field::Heard, at(snapshot.heard)),
            (Field::Since, at(snapshot.since)),
            (
                Field::Stalled,
                snapshot.stalled.map_or(0, |ago| at(ago).max(1)),
            ),
            (Field::Meta, meta.pack()),
        ] {
            Slots::change(&mut record, slot, field, value);
        }
        Ok(record)
    }

    /// Extents for input, message and output; all that were made are also in `kept`.
    fn buffers_of(
        &self,
        snapshot: &Snapshot,
        kept: &mut Vec<Extent>,
    ) -> Result<[Option<Extent>; 3], Unfit> {
        let mut extents = [None; 3];
        let contents = [&snapshot.input, &snapshot.message, &snapshot.output];
        for (extent, bytes) in extents.iter_mut().zip(contents) {
            if !bytes.is_empty() {
                let new = buffers::keep(&self.arena, bytes).ok_or(Unfit::NoRoom)?;
                kept.push(new);
                *extent = Some(new);
            }
        }
        Ok(extents)
    }

    /// Its memberships, and the one for which it was waiting.
    fn enter_rooms(&mut self, who: Entrant<'_>, snapshot: &Snapshot) -> Result<(), Unfit> {
        for membership in &snapshot.rooms {
            let room = self.room_of(membership)?;
            let watch = match membership.watch {
                0 => None,
                ASKED => match self.find_list(who.cid, membership.number, snapshot.cursor) {
                    Some(listed) => Some(listed + 1),
                    // It was lost with a record that was given up, or with the log: it is asked for anew.
                    None => {
                        self.state.set(Head::Missed, 1);
                        self.relist.push(room);
                        Some(self.state.get(Head::LogRead) + 1)
                    }
                },
                from => Some(from),
            };
            self.enter_room(who, room, membership.after, watch)?;
        }
        // The answer of the API is looked for when this connection is ours.
        if !snapshot.opening || snapshot.phase == Phase::Http {
            return Ok(());
        }
        // The master had read what it asked before it was given: the answer is in the log.
        let answer = self.find_answer(who.cid, snapshot.cursor);
        match answer.ok_or(Unfit::Overrun)? {
            Some(opened) => {
                let room = self.room_of(&opened)?;
                if !self.rooms.is_member(&self.slots, who.slot, room) {
                    self.enter_room(who, room, opened.after, None)?;
                }
                Ok(())
            }
            // Without its user's room it is to be closed, where it has been.
            None if snapshot.lacks_own_room() => Err(Unfit::Rooms),
            None => Ok(()),
        }
    }

    fn enter_room(
        &mut self,
        who: Entrant<'_>,
        room: RoomIx,
        after: u64,
        watch: Option<u64>,
    ) -> Result<(), Unfit> {
        let mut record = Record::new();
        self.rooms
            .join(&mut record, &self.slots, who, room, after, watch)?;
        self.journal.commit(&mut record);
        Ok(())
    }

    /// The room here; if it is new here, it is brought up to what this worker has read of the log.
    fn room_of(&mut self, membership: &Membership) -> Result<RoomIx, Unfit> {
        if let Some(room) = self.rooms.numbered(membership.number) {
            return Ok(room);
        }
        let mut record = Record::new();
        let room = self.rooms.hold(
            &mut record,
            membership.number,
            membership.position,
            membership.total,
            &membership.name,
        )?;
        self.journal.commit(&mut record);
        let mut last = membership.position.offset;
        let complete = self.each_in_log(membership.read, |down, _| {
            if let Down::Message { room, position, .. } = down
                && *room == membership.number
            {
                last = last.max(position.offset);
            }
        });
        self.rooms.advance(room, last);
        self.rooms.settle();
        if !complete {
            // The log has overtaken it: the master is asked, and what was missed is said.
            self.state.set(Head::Missed, 1);
            self.reopen.push(room);
        }
        Ok(room)
    }

    /// What was answered to this connection's wait for a room: the room, or `None` if it was
    /// refused.
    fn find_answer(&self, cid: Cid, from: u64) -> Option<Option<Membership>> {
        let mut found = None;
        let mut each = |down: &Down<'_>, next: u64| match down {
            Down::Opened {
                total, asker, name, ..
            } if asker.cid == cid && is_full(name, *total, &self.settings.rates) => {
                found = Some(None);
            }
            Down::Opened {
                room,
                position,
                total,
                asker,
                name,
            } if asker.cid == cid => {
                found = Some(Some(Membership {
                    number: *room,
                    name: name.to_vec().into(),
                    after: position.offset,
                    position: *position,
                    read: next,
                    total: *total,
                    watch: 0,
                }));
            }
            // What it wanted is still unread, and is asked anew here.
            Down::Held { asker, .. } | Down::Refused { asker, .. } if asker.cid == cid => {
                found = Some(None);
            }
            _ => {}
        };
        self.each_record(from, self.log.head(), &mut each);
        found
    }

    /// Where in the log is the list that the connection had asked for, of a room that it watches: as with
    /// any answer, the master had given it before the connection was given.
    fn find_list(&self, cid: Cid, number: u32, from: u64) -> Option<u64> {
        let mut found = None;
        let mut at = from;
        let mut each = |down: &Down<'_>, next: u64| {
            if let Down::Listed { room, asker, .. } = down
                && (asker.cid, *room) == (cid, number)
            {
                found = Some(at);
            }
            at = next;
        };
        self.each_record(from, self.log.head(), &mut each);
        found
    }

    /// Calls `each` with every record between `from` and what this worker has read.
    fn each_in_log(&self, from: u64, mut each: impl FnMut(&Down<'_>, u64)) -> bool {
        self.each_record(from, self.state.get(Head::LogRead), &mut each)
    }

    /// `false`: some are not there any more.
    fn each_record(&self, from: u64, to: u64, each: &mut dyn FnMut(&Down<'_>, u64)) -> bool {
        let mut at = from;
        let mut bytes = Vec::new();
        while at < to {
            bytes.clear();
            let Ok(Some(next)) = self.log.next(at, &mut bytes) else {
                return false;
            };
            if let Some(down) = Down::decode(&bytes) {
                each(&down, next);
            }
            at = next;
        }
        true
    }

    /// Everything that the log held when the last of them arrived has been read, and the ring says
    /// who is in which room: they can be acknowledged.
    pub fn arrivals_are_settled(&self) -> bool {
        self.state.get(Head::LogRead) >= self.arrivals.log
            && self.rooms.next_dirty().is_none()
            && self.reopen.is_empty()
    }
}
