//! What a client may ask, whatever format it asks in.

use std::borrow::Cow;

use protocol::format::{Data, Format};
use protocol::ids::Position;
use protocol::settings::Rooms;

use super::deed::{deed, who};
use super::fields::{Fields, Key, Value};
use super::{BadRequest, Deed, Fault, Id, json, msgpack};

/// Bytes of a room's name.
pub const MAX_ROOM: usize = 200;

/// Bytes that a message may have besides its `data`: enough for the longest id and room, and for
/// some fields that are ignored.
pub const MAX_ENVELOPE: usize = 4096;

/// Messages in one answer to `history`, if nothing is said, and at most.
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;

/// Users in one answer to `who`, if nothing is said, and at most.
const DEFAULT_USERS: u32 = 100;
const MAX_USERS: u32 = 1_000;

/// Bytes of a message's key.
const MAX_KEY: usize = 64;

/// Bytes of a position.
const MAX_POSITION: usize = 64;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// `None`: it wants no answer.
    pub id: Option<Id<'a>>,
    pub verb: Verb<'a>,
}

/// What it asks for, with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb<'a> {
    Join {
        room: Cow<'a, str>,
        wants: Wants,
    },
    Leave {
        room: Cow<'a, str>,
    },
    Send {
        room: Cow<'a, str>,
        /// By which a retry is known.
        key: Option<Cow<'a, str>>,
        /// For all, at once, whatever else is said there.
        priority: bool,
        /// Under whose name, if it is not the sender's.
        author: Option<Cow<'a, str>>,
        /// One value, byte for byte as it came.
        data: Data<'a>,
    },
    Who {
        room: Cow<'a, str>,
        /// Users who are named at most.
        limit: u32,
    },
    /// What the room retains: the newest messages, or the newest before a place.
    History {
        room: Cow<'a, str>,
        before: Option<Position>,
        limit: u32,
    },
    /// Shows a token, the first or the next.
    Auth {
        token: Cow<'a, str>,
    },
    /// Decides about others.
    Moderate {
        /// `None`: everywhere.
        room: Option<Cow<'a, str>>,
        deed: Deed<'a>,
    },
    Ping,
}

/// What is to come before the answer to a join, and behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The client has everything up to here, and wants what it missed.
    pub since: Option<Position>,
    /// It wants the newest message that is retained.
    pub last: bool,
    /// It wants to hear who comes and goes, or not any more.
    pub presence: Option<bool>,
}

/// Reads one message.
///
/// # Errors
/// It is no request; only [`Fault::NotJson`] and [`Fault::NotMsgpack`] say that it is not even that.
pub fn parse<'a>(
    message: &'a [u8],
    format: Format,
    limits: &Rooms,
) -> Result<Request<'a>, BadRequest<'a>> {
    match format {
        Format::Json => request(json::fields(message), limits),
        Format::Msgpack => request(msgpack::fields(message), limits),
    }
}

fn request<'a, V: Value<'a>>(
    fields: Result<Fields<V>, Fault>,
    limits: &Rooms,
) -> Result<Request<'a>, BadRequest<'a>> {
    let fields = fields.map_err(|fault| BadRequest { id: None, fault })?;
    let id = match fields.id.map(Value::id) {
        None => None,
        Some(Some(id)) => Some(id),
        Some(None) => {
            return Err(BadRequest {
                id: None,
                fault: Fault::BadId,
            });
        }
    };
    match verb(&fields, limits) {
        Ok(verb) => Ok(Request { id, verb }),
        Err(fault) => Err(BadRequest { id, fault }),
    }
}

fn verb<'a, V: Value<'a>>(fields: &Fields<V>, limits: &Rooms) -> Result<Verb<'a>, Fault> {
    if let Some(fault) = fields.fault {
        return Err(fault);
    }
    let (verb, value) = fields.verb.ok_or(Fault::NoVerb)?;
    Ok(match verb {
        Key::Join => Verb::Join {
            room: room_to_join(value)?,
            wants: Wants {
                since: fields.since.map(position).transpose()?,
                last: fields
                    .last
                    .map_or(Ok(false), |last| last.bool().ok_or(Fault::BadLast))?,
                presence: fields
                    .presence
                    .map(|presence| presence.bool().ok_or(Fault::BadPresence))
                    .transpose()?,
            },
        },
        Key::Leave => Verb::Leave {
            room: room_to_join(value)?,
        },
        Key::Who => Verb::Who {
            room: room(value)?,
            limit: fields
                .limit
                .map_or(Ok(DEFAULT_USERS), |said| limit(said, MAX_USERS))?,
        },
        Key::History => Verb::History {
            room: room(value)?,
            before: fields.before.map(position).transpose()?,
            limit: fields
                .limit
                .map_or(Ok(DEFAULT_LIMIT), |said| limit(said, MAX_LIMIT))?,
        },
        Key::Send => Verb::Send {
            room: room_or_user(value)?,
            key: fields.key.map(retry_key).transpose()?,
            priority: fields.priority.map_or(Ok(false), |priority| {
                priority.bool().ok_or(Fault::BadPriority)
            })?,
            author: fields.author.map(who).transpose()?,
            data: fields.data.ok_or(Fault::NoData)?.data(limits)?,
        },
        Key::Auth => Verb::Auth {
            token: value.string(usize::MAX).ok_or(Fault::BadToken)?,
        },
        Key::Ping if value.bool() == Some(true) => Verb::Ping,
        Key::Ping => return Err(Fault::BadPing),
        _ => {
            let (room, deed) = deed(fields, verb, value)?;
            Verb::Moderate { room, deed }
        }
    })
}

pub(super) fn room<'a>(value: impl Value<'a>) -> Result<Cow<'a, str>, Fault> {
    match room_or_user(value)? {
        name if name.starts_with('@') => Err(Fault::ReservedRoom),
        name => Ok(name),
    }
}

/// One of them all, or what baton says of itself.
fn room_to_join<'a>(value: impl Value<'a>) -> Result<Cow<'a, str>, Fault> {
    let name = value.string(MAX_ROOM).ok_or(Fault::BadRoom)?;
    match &*name == FEED {
        true => Ok(name),
        false => room(value),
    }
}

/// A room that can be sent to: one of them all, or that of a user's connections.
fn room_or_user<'a>(value: impl Value<'a>) -> Result<Cow<'a, str>, Fault> {
    let name = value.string(MAX_ROOM).ok_or(Fault::BadRoom)?;
    if !is_name(&name) || name == "@" {
        return Err(Fault::BadRoom);
    }
    if name.starts_with('$') {
        return Err(Fault::ReservedRoom);
    }
    Ok(name)
}

/// The room in which baton says what it does, for those who come through an admin listener.
pub const FEED: &str = "$baton";

/// Can something be called so?
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

/// `"e3:1041"`
pub(super) fn position<'a>(value: impl Value<'a>) -> Result<Position, Fault> {
    let parse = |text: &str| {
        let (epoch, offset) = text.strip_prefix('e')?.split_once(':')?;
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        (is_number(epoch) && is_number(offset)).then_some(())?;
        Some(Position {
            epoch: epoch.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    };
    let text = value.string(MAX_POSITION).ok_or(Fault::BadPosition)?;
    parse(&text).ok_or(Fault::BadPosition)
}

fn retry_key<'a>(value: impl Value<'a>) -> Result<Cow<'a, str>, Fault> {
    let key = value.string(MAX_KEY).filter(|key| !key.is_empty());
    key.ok_or(Fault::BadKey)
}

/// More than we give is no fault.
fn limit<'a>(value: impl Value<'a>, most: u32) -> Result<u32, Fault> {
    match value.number() {
        None | Some(0) => Err(Fault::BadLimit),
        Some(limit) => Ok(u32::try_from(limit).map_or(most, |limit| limit.min(most))),
    }
}
