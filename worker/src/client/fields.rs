//! The fields of a client's message that have a meaning, whatever format it came in.

use std::borrow::Cow;

use protocol::format::Data;
use protocol::settings::Rooms;

use super::{Fault, Id};

/// One value of a message, as it stands there.
pub(super) trait Value<'a>: Copy {
    /// The string that it is, if it is one, of up to `max` bytes.
    fn string(self, max: usize) -> Option<Cow<'a, str>>;
    /// A whole number from 0.
    fn number(self) -> Option<u64>;
    fn bool(self) -> Option<bool>;
    fn id(self) -> Option<Id<'a>>;
    /// To be published, if it keeps to the limits.
    fn data(self, limits: &Rooms) -> Result<Data<'a>, Fault>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
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
    Presence,
    Before,
    Limit,
    Retry,
    Priority,
    As,
    Mute,
    Unmute,
    Ban,
    Unban,
    Kick,
    Delete,
    Clear,
    Room,
    ForMs,
    Address,
}

/// An object's fields: the values as they stand, in whatever order they came.
#[derive(Debug)]
pub(super) struct Fields<V> {
    pub id: Option<V>,
    pub verb: Option<(Key, V)>,
    pub data: Option<V>,
    pub since: Option<V>,
    pub last: Option<V>,
    pub presence: Option<V>,
    pub before: Option<V>,
    pub limit: Option<V>,
    pub key: Option<V>,
    pub priority: Option<V>,
    pub author: Option<V>,
    pub room: Option<V>,
    pub for_ms: Option<V>,
    pub address: Option<V>,
    /// What is wrong with the fields.
    pub fault: Option<Fault>,
}

impl<V> Default for Fields<V> {
    fn default() -> Self {
        Fields {
            id: None,
            verb: None,
            data: None,
            since: None,
            last: None,
            presence: None,
            before: None,
            limit: None,
            key: None,
            priority: None,
            author: None,
            room: None,
            for_ms: None,
            address: None,
            fault: None,
        }
    }
}

impl<V> Fields<V> {
    pub fn add(&mut self, key: Key, value: V) {
        let place = match key {
            Key::Id => &mut self.id,
            Key::Data => &mut self.data,
            Key::Since => &mut self.since,
            Key::Last => &mut self.last,
            Key::Presence => &mut self.presence,
            Key::Before => &mut self.before,
            Key::Limit => &mut self.limit,
            Key::Retry => &mut self.key,
            Key::Priority => &mut self.priority,
            Key::As => &mut self.author,
            Key::Room => &mut self.room,
            Key::ForMs => &mut self.for_ms,
            Key::Address => &mut self.address,
            verb => {
                match self.verb {
                    None => self.verb = Some((verb, value)),
                    Some((first, _)) if first == verb => self.fault = Some(Fault::DuplicateKey),
                    Some(_) => self.find(Fault::TwoVerbs),
                }
                return;
            }
        };
        if place.replace(value).is_some() {
            self.fault = Some(Fault::DuplicateKey);
        }
    }

    /// Something is wrong: what is found first is said.
    pub fn find(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }
}

pub(super) fn key(name: &str) -> Option<Key> {
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
        "presence" => Key::Presence,
        "before" => Key::Before,
        "limit" => Key::Limit,
        "key" => Key::Retry,
        "priority" => Key::Priority,
        "as" => Key::As,
        "mute" => Key::Mute,
        "unmute" => Key::Unmute,
        "ban" => Key::Ban,
        "unban" => Key::Unban,
        "kick" => Key::Kick,
        "delete" => Key::Delete,
        "clear" => Key::Clear,
        "room" => Key::Room,
        "for_ms" => Key::ForMs,
        "address" => Key::Address,
        _ => return None,
    })
}
