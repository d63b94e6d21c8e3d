//! What a client asks for at `/rooms`, done: joined and left ([`join`]), sent up the ring ([`say`]),
//! refused ([`refuse`]), answered.
//!
//! A request either happens wholly, with the input that it came in, or not at all: what it changes
//! is in the step's record, and what it says to the master is staged in the ring, whose head is in
//! that record too.

mod join;
mod refuse;
mod say;

use std::borrow::Cow;

use protocol::fault;
use protocol::format::Data;
use protocol::history::Reader;
use protocol::ids::{Cid, Seat};
use protocol::journal::Record;
use protocol::output::{Full, Output};
use protocol::record::{Asker, Lane, Refusal, Up};
use protocol::sanctions::Sanctions;
use protocol::settings::{Right, Settings};
use protocol::stream::Writer;

use crate::auth::Keys;
use crate::authorize::{self, Access};
use crate::client::{self, BadRequest, Code, Fault, ToClient, Verb};
use crate::close::CloseReason;
use crate::filter::Filters;
use crate::hook::Hooks;
use crate::hook::consult::Asked;
use crate::limits::Addresses;
use crate::passes::{Passes, Spent};
use crate::rooms::{Entrant, Rooms};
use crate::slots::{Meta, Slots};
use crate::websocket::Rules;
use say::Said;

/// So many messages that are not what a connection speaks close it.
const MAX_ERRORS: u16 = 10;

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Next,
    /// Memberships have changed: commit before the next.
    Commit,
    /// The input waits for a room to be opened.
    Opening,
    /// Nothing was done; again when this worker holds the room.
    Holding,
    /// Nothing was done; again when the ring has room.
    RingFull,
    /// Nothing was done; again when the words that are looked for are ready.
    Unready,
    /// Nothing was done; again when a back end has answered.
    Asking,
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
    pub meta: Meta,
    pub rooms: &'a mut Rooms,
    pub passes: &'a mut Passes,
    pub keys: &'a Keys,
    pub filters: &'a Filters,
    /// The place of the request in the connection's input.
    pub offset: u64,
    /// Whom else to ask.
    pub hooks: Option<&'a mut Hooks>,
    /// Of what is limited, with what the record does not hold yet.
    pub spent: &'a mut Spent,
    pub addresses: &'a mut Addresses,
    pub now: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    pub history: &'a Reader,
    /// Who is banned.
    pub sanctions: &'a mut Sanctions,
    /// Why the room that it wanted to be held is not.
    pub refused: Option<Refusal>,
    pub ring: &'a mut Writer,
    pub ring_number: u16,
    /// From here on the ring is not to be overwritten.
    pub ring_kept: u64,
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
        let format = self.meta.encoding().format();
        let request = match client::parse(message, format, &self.settings.rooms) {
            Ok(request) => request,
            Err(bad) => return self.answer_nonsense(out, record, &bad, message.len()),
        };
        let id = request.id.as_ref().map_or(&b""[..], client::Id::text);
        let spent = *self.spent;
        if let Some(flow) = self.charge(out, id, Some(&request.verb), message.len())? {
            return Ok(flow);
        }
        let pass = self.slots.pass(self.slot);
        let pass = pass.map(|pass| self.passes.bytes(pass)).unwrap_or_default();
        let access = Access::of(&pass, authorize::anonymous(self.settings, self.meta));
        if let Some(flow) = self.refuse(out, id, &request.verb, access)? {
            return Ok(flow);
        }
        let instead = match self.ask(out, id, &request.verb, access.user())? {
            Asked::On(instead) => instead,
            Asked::Ends(Flow::Asking) => {
                // It is read again, maybe by another brain, and paid for then.
                *self.spent = spent;
                return Ok(Flow::Asking);
            }
            Asked::Ends(flow) => {
                self.forget_answer();
                *self.messages_in += 1;
                return Ok(flow);
            }
        };
        let flow = self.perform(out, record, id, request.verb, access, instead)?;
        match flow {
            // It is asked again, and paid for then.
            Flow::RingFull | Flow::Holding | Flow::Unready => *self.spent = spent,
            _ => {
                self.forget_answer();
                *self.messages_in += 1;
            }
        }
        Ok(flow)
    }

    /// What it has said is no request.
    fn answer_nonsense(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        bad: &BadRequest<'_>,
        len: usize,
    ) -> Result<Flow, Full> {
        let id = bad.id.as_ref().map_or(&b""[..], client::Id::text);
        if let Some(flow) = self.charge(out, id, None, len)? {
            return Ok(flow);
        }
        ToClient::from(bad).put_frame(out, self.meta.encoding())?;
        Ok(match bad.fault {
            Fault::NotJson | Fault::NotMsgpack => self.count_error(record),
            _ => Flow::Next,
        })
    }

    /// What it may do is done, or asked of the master. `instead`: what a back end has put in place of
    /// its data.
    fn perform(
        &mut self,
        out: &mut impl Output,
        record: &mut Record,
        id: &[u8],
        verb: Verb<'_>,
        access: Access<'_>,
        instead: Option<Box<str>>,
    ) -> Result<Flow, Full> {
        Ok(match verb {
            Verb::Auth { token } => self.authorize(out, record, id, &token)?,
            Verb::Ping => {
                let (worker, pid, life) = (self.worker, self.pid, self.life);
                self.answer(
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
            Verb::Join { room, wants } => self.join(out, record, id, &room, wants, access)?,
            Verb::Leave { room } => self.leave(out, record, id, room.as_bytes())?,
            Verb::Who { room, limit } => {
                let asker = self.asker(id);
                self.stage(Up::Who {
                    asker,
                    room: room.as_bytes(),
                    limit,
                })
            }
            Verb::History {
                room,
                before,
                limit,
            } => self.history(out, id, room.as_bytes(), before, limit)?,
            Verb::Moderate { room, deed } => {
                let asker = self.asker(id);
                let by = self.name(access.user());
                self.stage(Up::Moderate {
                    asker,
                    room: room.as_deref().unwrap_or_default().as_bytes(),
                    by: by.as_bytes(),
                    act: deed.act(),
                })
            }
            Verb::Send {
                room,
                key,
                priority,
                author,
                data,
            } => {
                let asker = self.asker(id);
                let from = self.name(access.user());
                let data = instead
                    .as_deref()
                    .map_or(data, |json| Data::json(json.as_bytes()));
                let exempt = access.rights(&room).has(Right::Moderate);
                let said = Said {
                    asker,
                    room: &room,
                    from: from.as_bytes(),
                    author: author.as_deref(),
                    key: key.as_deref().unwrap_or_default().as_bytes(),
                    lane: Lane {
                        first: priority,
                        exempt,
                    },
                    data,
                };
                self.say(out, said)?
            }
        })
    }

    /// Who it is for others.
    pub(crate) fn name<'b>(&self, user: Option<&'b str>) -> Cow<'b, str> {
        user.map_or_else(|| self.cid.to_string().into(), Cow::from)
    }

    /// As who it comes into a room.
    pub(crate) fn entrant<'b>(&self, user: Option<&'b str>) -> Entrant<'b> {
        Entrant {
            slot: self.slot,
            cid: self.cid,
            encoding: self.meta.encoding(),
            user,
        }
    }

    pub(crate) fn asker<'b>(&self, id: &'b [u8]) -> Asker<'b> {
        Asker {
            cid: self.cid,
            ring: self.ring_number,
            slot: self.slot,
            id,
        }
    }

    /// Last of all that a request does: what is staged is not taken back.
    pub(crate) fn stage(&mut self, up: Up<'_>) -> Flow {
        let mut bytes = Vec::with_capacity(512);
        up.encode(&mut bytes);
        match self.ring.stage(self.ring_kept, &bytes) {
            true => Flow::Next,
            false => Flow::RingFull,
        }
    }

    pub(crate) fn count_error(&self, record: &mut Record) -> Flow {
        match self.slots.change_errors(record, self.slot) >= MAX_ERRORS {
            true => Flow::Close(CloseReason::TooManyErrors),
            false => Flow::Commit,
        }
    }

    /// Answers, if an answer is wanted.
    pub(crate) fn answer(
        &self,
        out: &mut impl Output,
        id: &[u8],
        answer: ToClient<'_>,
    ) -> Result<(), Full> {
        match id {
            b"" => Ok(()),
            _ => answer.put_frame(out, self.meta.encoding()),
        }
    }

    /// Errors are said also to those who want no answer.
    pub(crate) fn error(
        &self,
        out: &mut impl Output,
        id: &[u8],
        code: Code,
        message: &str,
    ) -> Result<(), Full> {
        ToClient::Error {
            id,
            code,
            message,
            retry_after_ms: None,
        }
        .put_frame(out, self.meta.encoding())
    }
}
