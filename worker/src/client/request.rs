//! What a client may ask, and how it is read.
//!
//! The syntax is `serde_json`'s matter, whose skipping of values is iterative: deep JSON costs a
//! byte a level and no stack. Values are taken as they stand ([`RawValue`]) and looked at only
//! when the whole message is known to be JSON, so that every error can carry the `id`, wherever in
//! the message it is.

use std::borrow::Cow;
use std::fmt;

use protocol::ids::Position;
use protocol::settings::Rooms;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{BadRequest, Fault, Id};

/// Bytes of a room's name.
pub const MAX_ROOM: usize = 200;

/// Bytes that a message may have besides its `data`: enough for the longest id and room, and for
/// some fields that are ignored.
pub const MAX_ENVELOPE: usize = 4096;

/// Messages in one answer to `history`, if nothing is said, and at most.
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;

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
        /// One JSON value, byte for byte as it came.
        data: &'a str,
    },
    Who {
        room: Cow<'a, str>,
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
    Ping,
}

/// What is to come before the answer to a join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The client has everything up to here, and wants what it missed.
    pub since: Option<Position>,
    /// It wants the newest message that is retained.
    pub last: bool,
}

/// Reads one message.
///
/// # Errors
/// It is no request; only [`Fault::NotJson`] says that it is not even JSON.
pub fn parse<'a>(message: &'a [u8], limits: &Rooms) -> Result<Request<'a>, BadRequest<'a>> {
    let fields = fields(message).map_err(|fault| BadRequest { id: None, fault })?;
    let id = match fields.id.map(Id::parse) {
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

fn fields(message: &[u8]) -> Result<Fields<'_>, Fault> {
    let text = std::str::from_utf8(message).map_err(|_| Fault::NotJson)?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Fault::NotObject,
            Err(_) => Fault::NotJson,
        });
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json.deserialize_map(Object);
    match fields.and_then(|fields| json.end().map(|()| fields)) {
        Ok(fields) => Ok(fields),
        Err(_) => Err(Fault::NotJson),
    }
}

fn verb<'a>(fields: &Fields<'a>, limits: &Rooms) -> Result<Verb<'a>, Fault> {
    if let Some(fault) = fields.fault {
        return Err(fault);
    }
    let (verb, value) = fields.verb.ok_or(Fault::NoVerb)?;
    Ok(match verb {
        Key::Join => Verb::Join {
            room: room(value)?,
            wants: Wants {
                since: fields.since.map(position).transpose()?,
                last: fields.last.map_or(Ok(false), flag)?,
            },
        },
        Key::Leave => Verb::Leave { room: room(value)? },
        Key::Who => Verb::Who { room: room(value)? },
        Key::History => Verb::History {
            room: room(value)?,
            before: fields.before.map(position).transpose()?,
            limit: fields.limit.map_or(Ok(DEFAULT_LIMIT), limit)?,
        },
        Key::Send => Verb::Send {
            room: room_or_user(value)?,
            key: fields.key.map(retry_key).transpose()?,
            data: data(fields.data.ok_or(Fault::NoData)?, limits)?,
        },
        Key::Auth => Verb::Auth {
            token: string(value, value.len()).ok_or(Fault::BadToken)?,
        },
        _ if value == "true" => Verb::Ping,
        _ => return Err(Fault::BadPing),
    })
}

fn room(json: &str) -> Result<Cow<'_, str>, Fault> {
    match room_or_user(json)? {
        name if name.starts_with('@') => Err(Fault::ReservedRoom),
        name => Ok(name),
    }
}

/// A room that can be sent to: one of them all, or that of a user's connections.
fn room_or_user(json: &str) -> Result<Cow<'_, str>, Fault> {
    let name = string(json, MAX_ROOM).ok_or(Fault::BadRoom)?;
    if !is_name(&name) || name == "@" {
        return Err(Fault::BadRoom);
    }
    if name.starts_with('$') {
        return Err(Fault::ReservedRoom);
    }
    Ok(name)
}

/// Can something be called so?
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

/// `"e3:1041"`
fn position(json: &str) -> Result<Position, Fault> {
    let parse = |text: &str| {
        let (epoch, offset) = text.strip_prefix('e')?.split_once(':')?;
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        (is_number(epoch) && is_number(offset)).then_some(())?;
        Some(Position {
            epoch: epoch.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    };
    let text = string(json, MAX_POSITION).ok_or(Fault::BadPosition)?;
    parse(&text).ok_or(Fault::BadPosition)
}

fn retry_key(json: &str) -> Result<Cow<'_, str>, Fault> {
    let key = string(json, MAX_KEY).filter(|key| !key.is_empty());
    key.ok_or(Fault::BadKey)
}

fn flag(json: &str) -> Result<bool, Fault> {
    match json {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::BadLast),
    }
}

/// More than we give is no fault.
fn limit(json: &str) -> Result<u32, Fault> {
    let limit: u32 = json.parse().map_err(|_| Fault::BadLimit)?;
    match limit {
        0 => Err(Fault::BadLimit),
        limit => Ok(limit.min(MAX_LIMIT)),
    }
}

fn data<'a>(json: &'a str, limits: &Rooms) -> Result<&'a str, Fault> {
    if json.len() > limits.max_data {
        return Err(Fault::DataTooLarge);
    }
    if is_deeper(json, limits.max_depth) {
        return Err(Fault::DataTooDeep);
    }
    Ok(json)
}

/// The string that a JSON value is, if it is one, of up to `max` bytes.
pub(super) fn string(json: &str, max: usize) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    let string = if !inner.as_bytes().contains(&b'\\') {
        Cow::Borrowed(inner)
    } else if inner.len() <= max * 6 {
        // Fails for half a surrogate pair, which is no character.
        Cow::Owned(serde_json::from_str(json).ok()?)
    } else {
        return None;
    };
    (string.len() <= max).then_some(string)
}

/// Is this JSON value nested deeper than `max`? A scalar has depth 0, `[]` has depth 1.
fn is_deeper(json: &str, max: usize) -> bool {
    // Nearly always there are not even that many brackets, which is found out fast.
    let mut bytes = json.as_bytes();
    if memchr::memchr2_iter(b'[', b'{', bytes).nth(max).is_none() {
        return false;
    }
    let mut depth = 0;
    while let Some((&first, rest)) = bytes.split_first() {
        bytes = rest;
        match first {
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' => depth -= 1,
            b'"' => bytes = behind_string(bytes),
            _ => {}
        }
    }
    false
}

/// What follows a string, from behind its opening quote on.
pub(super) fn behind_string(mut bytes: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', bytes) {
        let escape = bytes[at] == b'\\';
        bytes = bytes
            .get(at + 1 + usize::from(escape)..)
            .unwrap_or_default();
        if !escape {
            break;
        }
    }
    bytes
}

/// The fields that have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Id,
    Join,
    Leave,
    Send,
    Who,
    Auth,
    History,
    Ping,
    Data,
    Since,
    Last,
    Before,
    Limit,
    Retry,
}

/// An object's fields: the values as they stand, in whatever order they came.
#[derive(Debug, Default)]
struct Fields<'a> {
    id: Option<&'a str>,
    verb: Option<(Key, &'a str)>,
    data: Option<&'a str>,
    since: Option<&'a str>,
    last: Option<&'a str>,
    before: Option<&'a str>,
    limit: Option<&'a str>,
    key: Option<&'a str>,
    /// What is wrong with the keys.
    fault: Option<Fault>,
}

impl<'a> Fields<'a> {
    fn add(&mut self, key: Key, value: &'a str) {
        let place = match key {
            Key::Id => &mut self.id,
            Key::Data => &mut self.data,
            Key::Since => &mut self.since,
            Key::Last => &mut self.last,
            Key::Before => &mut self.before,
            Key::Limit => &mut self.limit,
            Key::Retry => &mut self.key,
            verb => {
                match self.verb {
                    None => self.verb = Some((verb, value)),
                    Some((first, _)) if first == verb => self.fault = Some(Fault::DuplicateKey),
                    Some(_) => self.fault = self.fault.or(Some(Fault::TwoVerbs)),
                }
                return;
            }
        };
        if place.replace(value).is_some() {
            self.fault = Some(Fault::DuplicateKey);
        }
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
        let mut fields = Fields::default();
        let mut unknown: Vec<Cow<'de, str>> = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            if let Some(key) = key(&name) {
                fields.add(key, map.next_value::<&RawValue>()?.get());
            } else {
                map.next_value::<IgnoredAny>()?;
                unknown.push(name);
            }
        }
        // Sorted: a message of nothing but fields costs little more than its length.
        unknown.sort_unstable();
        if unknown.windows(2).any(|pair| pair[0] == pair[1]) {
            fields.fault = Some(Fault::DuplicateKey);
        }
        Ok(fields)
    }
}

fn key(name: &str) -> Option<Key> {
    Some(match name {
        "id" => Key::Id,
        "join" => Key::Join,
        "leave" => Key::Leave,
        "send" => Key::Send,
        "who" => Key::Who,
        "auth" => Key::Auth,
        "history" => Key::History,
        "ping" => Key::Ping,
        "data" => Key::Data,
        "since" => Key::Since,
        "last" => Key::Last,
        "before" => Key::Before,
        "limit" => Key::Limit,
        "key" => Key::Retry,
        _ => return None,
    })
}

/// A key, which need not be copied unless it has escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
