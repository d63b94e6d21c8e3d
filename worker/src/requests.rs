//! What a client asks for at `/rooms`, done: joined, left, sent up the ring, answered.
//!
//! A request either happens wholly, with the input that it came in, or not at all: what it changes
//! is in the step's record, and what it says to the master is staged in the ring, whose head is in
//! that record too.

use std::borrow::Cow;

use protocol::fault;
use protocol::format::Data;
use protocol::history::Reader;
use protocol::ids::{Cid, Position, Role, Seat};
use protocol::journal::Record;
use protocol::output::{Full, Output};
use protocol::record::{Asker, Lane, Refusal, Up};
use protocol::sanctions::Sanctions;
use protocol::settings::{Anonymous, Right, Settings};
use protocol::stream::Writer;

use crate::auth::Keys;
use crate::authorize::{self, Access};
use crate::client::request::FEED;
use crate::client::{self, Code, Fault, ToClient, Verb, Wants};
use crate::close::CloseReason;
use crate::filter::{self, Filters};
use crate::frames::{self, refused};
use crate::history;
use crate::hook::Hooks;
use crate::hook::consult::Asked;
use crate::limits::Addresses;
use crate::moderation::{EVERYWHERE, MASTER_IS_OLD};
use crate::passes::{Passes, Spent};
use crate::rooms::presence::ASKED;
use crate::rooms::{Entrant, RoomIx, Rooms};
use crate::slots::{Flag, Meta, Slots};
use crate::websocket::Rules;

/// So many messages that are not what a connection speaks close it.
const MAX_ERRORS: u16 = 10;

/// For people.
const TOO_LONG: &str = "data is too large for this room";

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

/// For people.
const NOT_SAID: &str = "a word in it is not to be said here";

/// What is sent.
struct Said<'a> {
    asker: Asker<'a>,
    room: &'a str,
    from: &'a [u8],
    /// Under whose name, if it is not the sender's.
    author: Option<&'a str>,
    key: &'a [u8],
    lane: Lane,
    data: Data<'a>,
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
        let request =
            match client::parse(message, self.meta.encoding().format(), &self.settings.rooms) {
                Ok(request) => request,
                Err(bad) => {
                    let id = bad.id.as_ref().map_or(&b""[..], client::Id::text);
                    if let Some(flow) = self.charge(out, id, None, message.len())? {
                        return Ok(flow);
                    }
                    ToClient::from(&bad).put_frame(out, self.meta.encoding())?;
                    return Ok(match bad.fault {
                        Fault::NotJson | Fault::NotMsgpack => self.count_error(record),
                        _ => Flow::Next,
                    });
                }
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
        let flow = match request.verb {
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
        };
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

    /// A message on its way to the master, unless there are words in it that are not to be said.
    fn say(&mut self, out: &mut impl Output, said: Said<'_>) -> Result<Flow, Full> {
        let Said {
            asker,
            room,
            from,
            author,
            key,
            lane,
            data,
        } = said;
        let masked;
        let data = match self.filters.judge(room, data, lane.exempt) {
            filter::Verdict::Clean => data,
            filter::Verdict::Masked(bytes) => {
                masked = bytes;
                Data {
                    bytes: &masked,
                    ..data
                }
            }
            filter::Verdict::Waits => return Ok(Flow::Unready),
            filter::Verdict::Rejected => {
                self.error(out, asker.id, Code::Rejected, NOT_SAID)?;
                return Ok(Flow::Next);
            }
            filter::Verdict::Held => {
                let room = room.as_bytes();
                return Ok(self.stage(Up::Withhold {
                    asker,
                    room,
                    from,
                    data,
                }));
            }
        };
        let room = room.as_bytes();
        Ok(self.stage(match author {
            None => Up::Publish {
                asker,
                room,
                from,
                key,
                lane,
                data,
            },
            Some(author) => Up::Release {
                asker,
                room,
                by: from,
                from: author.as_bytes(),
                key,
                lane,
                data,
            },
        }))
    }

    /// What may not be asked is answered here.
    fn refuse(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        verb: &Verb<'_>,
        access: Access<'_>,
    ) -> Result<Option<Flow>, Full> {
        let (room, right, and) = match verb {
            Verb::Auth { .. } | Verb::Ping => return Ok(None),
            _ if access == Access::Nobody(Anonymous::Nothing) => {
                self.error(out, id, Code::Unauthorized, "a token is needed")?;
                return Ok(Some(Flow::Close(CloseReason::Unauthorized)));
            }
            Verb::Leave { .. } => return Ok(None),
            // For whom it is, the listener says, and it is only to be joined.
            Verb::Join { room, .. } if room == FEED => {
                if self.meta.role == Role::Admin {
                    return Ok(None);
                }
                self.error(
                    out,
                    id,
                    Code::Forbidden,
                    "only operators may join this room",
                )?;
                return Ok(Some(Flow::Next));
            }
            Verb::Send {
                author: Some(_), ..
            } if !self.settings.rooms.releases => {
                self.error(out, id, Code::Unavailable, MASTER_IS_OLD)?;
                return Ok(Some(Flow::Next));
            }
            Verb::Moderate { room, .. } => {
                let room = room.as_deref().unwrap_or(EVERYWHERE);
                return self.refuse_moderator(out, id, room, access);
            }
            Verb::Join { room, wants } if wants.presence == Some(true) => {
                (room, Right::Join, Some(Right::Presence))
            }
            Verb::Join { room, .. } => (room, Right::Join, None),
            Verb::Send {
                room,
                priority,
                author,
                ..
            } => {
                let moderates = *priority || author.is_some();
                (room, Right::Send, moderates.then_some(Right::Moderate))
            }
            Verb::Who { room, .. } => (room, Right::Presence, None),
            Verb::History { room, .. } => (room, Right::History, None),
        };
        let refused = access.refuses(room, right);
        match refused.or_else(|| access.refuses(room, and?)) {
            // Whether one may send is the master's to say, which knows all that comes before it.
            None if right == Right::Send => self.refuse_long(out, id, verb),
            None => self.refuse_banned(out, id, room, access.user()),
            Some(message) => {
                self.error(out, id, Code::Forbidden, message)?;
                Ok(Some(Flow::Next))
            }
        }
    }

    /// In rooms of some names, less may be said at once than in others.
    fn refuse_long(
        &self,
        out: &mut impl Output,
        id: &[u8],
        verb: &Verb<'_>,
    ) -> Result<Option<Flow>, Full> {
        let Verb::Send { room, data, .. } = verb else {
            return Ok(None);
        };
        let most = self.settings.options.of(room.as_bytes()).max_data;
        if most.is_none_or(|most| data.bytes.len() <= most) {
            return Ok(None);
        }
        self.error(out, id, Code::TooLarge, TOO_LONG)?;
        Ok(Some(Flow::Next))
    }

    /// Who has shown a token is in its own room of itself.
    fn join(
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

    /// What the room retains.
    fn history(
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
        match self.ring.stage(self.ring_read, &bytes) {
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
