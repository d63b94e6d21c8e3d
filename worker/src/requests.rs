//! What a client asks for at `/rooms`, done: joined, left, sent up the ring, answered.
//!
//! A request either happens wholly, with the input that it came in, or not at all: what it changes
//! is in the step's record, and what it says to the master is staged in the ring, whose head is in
//! that record too.

use protocol::fault;
use protocol::ids::{Cid, Seat};
use protocol::journal::Record;
use protocol::output::{Full, Output};
use protocol::record::{Asker, Up};
use protocol::settings::Settings;
use protocol::stream::Writer;

use crate::client::{self, Code, Fault, ToClient, Verb};
use crate::close::CloseReason;
use crate::rooms::Rooms;
use crate::slots::{Field, Slots};
use crate::websocket::Rules;

/// So many messages that are not JSON close a connection.
const MAX_ERRORS: u8 = 10;

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Next,
    /// Memberships have changed: commit before the next.
    Commit,
    /// The input waits for a room to be opened.
    Opening,
    /// Nothing was done; again when the ring has room.
    RingFull,
    Close(CloseReason),
}

/// The rules for frames at `/rooms`.
#[must_use]
pub fn rules(settings: &Settings) -> Rules {
    Rules::messages(
        &settings.websocket,
        settings.rooms.max_data + client::request::MAX_ENVELOPE,
    )
}

/// What a client hears first.
#[must_use]
pub fn hello(cid: Cid, worker: Seat, settings: &Settings) -> ToClient<'static> {
    ToClient::Hello {
        cid,
        worker,
        ping_ms: settings.websocket.ping_interval_ms,
        max_data: settings.rooms.max_data,
        max_rooms: settings.rooms.max_rooms,
    }
}

/// One client, for the time of a request.
pub struct Client<'a> {
    pub slot: u32,
    pub cid: Cid,
    pub slots: &'a Slots,
    pub rooms: &'a mut Rooms,
    pub ring: &'a mut Writer,
    pub ring_number: u16,
    /// How far the master has read the ring.
    pub ring_read: u64,
    pub settings: &'a Settings,
    pub worker: Seat,
    pub pid: u32,
    pub life: u32,
    pub messages_in: &'a mut u64,
}

impl Client<'_> {
    /// One message of the client's.
    pub fn request(
        &mut self,
        message: &[u8],
        out: &mut impl Output,
        record: &mut Record,
    ) -> Result<Flow, Full> {
        fault::poison("worker:poison", message);
        let request = match client::parse(message, &self.settings.rooms) {
            Ok(request) => request,
            Err(bad) => {
                ToClient::from(&bad).put_frame(out)?;
                return Ok(match bad.fault {
                    Fault::NotJson => self.count_error(record),
                    _ => Flow::Next,
                });
            }
        };
        let id = request.id.as_ref().map_or(&b""[..], client::Id::text);
        let flow = match request.verb {
            Verb::Ping => {
                let (worker, pid, life) = (self.worker, self.pid, self.life);
                answer(
                    out,
                    id,
                    ToClient::Pong {
                        id,
                        worker,
                        pid,
                        life,
                    },
                )?;
                Flow::Next
            }
            Verb::Join { room } => self.join(out, record, id, room.as_bytes())?,
            Verb::Leave { room } => self.leave(out, record, id, room.as_bytes())?,
            Verb::Who { room } => {
                let asker = self.asker(id);
                self.stage(Up::Who {
                    asker,
                    room: room.as_bytes(),
                })
            }
            Verb::Send { room, data } => {
                let asker = self.asker(id);
                let from = self.cid.to_string();
                let up = Up::Publish {
                    asker,
                    room: room.as_bytes(),
                    from: from.as_bytes(),
                    data: data.as_bytes(),
                };
                self.stage(up)
            }
        };
        if flow != Flow::RingFull {
            *self.messages_in += 1;
        }
        Ok(flow)
    }

    fn join(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        name: &[u8],
    ) -> Result<Flow, Full> {
        if self.rooms.count_of(self.slots, self.slot) >= self.settings.rooms.max_rooms
            && !self
                .rooms
                .find(name)
                .is_some_and(|room| self.rooms.is_member(self.slots, self.slot, room))
        {
            error(out, id, Code::Limit, "this connection is in too many rooms")?;
            return Ok(Flow::Next);
        }
        let Some(room) = self.rooms.find(name) else {
            // A room that nobody here is in yet: its position is the master's to say.
            return Ok(
                match self.stage(Up::Open {
                    asker: self.asker(id),
                    room: name,
                }) {
                    Flow::Next => Flow::Opening,
                    other => other,
                },
            );
        };
        let position = self.rooms.position(room);
        let member = self.rooms.is_member(self.slots, self.slot, room);
        let total = self
            .rooms
            .total(room)
            .max(self.rooms.members(room).len() as u32 + u32::from(!member));
        answer(
            out,
            id,
            ToClient::Joined {
                id,
                position,
                count: total,
            },
        )?;
        if member {
            return Ok(Flow::Next);
        }
        match self
            .rooms
            .join(record, self.slots, self.slot, room, position.offset)
        {
            Ok(()) => Ok(Flow::Commit),
            Err(_) => Ok(Flow::Close(CloseReason::Overloaded)),
        }
    }

    fn leave(
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
            error(
                out,
                id,
                Code::NotJoined,
                "this connection is not in the room",
            )?;
            return Ok(Flow::Next);
        };
        answer(out, id, ToClient::Left { id })?;
        self.rooms.leave(record, self.slots, self.slot, room);
        Ok(Flow::Commit)
    }

    fn asker<'b>(&self, id: &'b [u8]) -> Asker<'b> {
        Asker {
            cid: self.cid,
            ring: self.ring_number,
            slot: self.slot,
            id,
        }
    }

    /// Last of all that a request does: what is staged is not taken back.
    fn stage(&mut self, up: Up<'_>) -> Flow {
        let mut bytes = Vec::with_capacity(512);
        up.encode(&mut bytes);
        match self.ring.stage(self.ring_read, &bytes) {
            true => Flow::Next,
            false => Flow::RingFull,
        }
    }

    fn count_error(&self, record: &mut Record) -> Flow {
        let mut small = self.slots.small(self.slot);
        small.errors = small.errors.saturating_add(1);
        Slots::change(record, self.slot, Field::Small, small.pack());
        match small.errors >= MAX_ERRORS {
            true => Flow::Close(CloseReason::TooManyErrors),
            false => Flow::Commit,
        }
    }
}

/// Answers, if an answer is wanted.
fn answer(out: &mut impl Output, id: &[u8], answer: ToClient<'_>) -> Result<(), Full> {
    match id {
        b"" => Ok(()),
        _ => answer.put_frame(out),
    }
}

/// Errors are said also to those who want no answer.
fn error(out: &mut impl Output, id: &[u8], code: Code, message: &str) -> Result<(), Full> {
    ToClient::Error {
        id,
        code,
        message,
        retry_after_ms: None,
    }
    .put_frame(out)
}
