//! What can be wrong with a request, and how a client is told.

use super::Id;

/// The word by which a program tells errors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    BadRequest,
    Unauthorized,
    Forbidden,
    Expired,
    TooLarge,
    NotJoined,
    Limit,
    Rate,
    Rejected,
    Unavailable,
    Internal,
}

impl Code {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::BadRequest => "bad_request",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::Expired => "expired",
            Code::TooLarge => "too_large",
            Code::NotJoined => "not_joined",
            Code::Limit => "limit",
            Code::Rate => "rate",
            Code::Rejected => "rejected",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// Can the same request succeed later, with nothing done about it?
    #[must_use]
    pub fn retry(self) -> bool {
        matches!(self, Code::Rate | Code::Unavailable | Code::Internal)
    }
}

/// Why a request is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Not JSON at all: whoever sends that often speaks something else.
    NotJson,
    /// Not MessagePack at all.
    NotMsgpack,
    /// JSON or MessagePack, but no object.
    NotObject,
    NotUtf8,
    KeyNotString,
    NotFinite,
    Extension,
    DuplicateKey,
    BadId,
    NoVerb,
    TwoVerbs,
    BadRoom,
    ReservedRoom,
    BadPing,
    BadToken,
    BadPosition,
    BadLast,
    BadPresence,
    BadLimit,
    BadKey,
    BadPriority,
    BadWho,
    BadTime,
    BadAddress,
    NoRoom,
    NoData,
    DataTooLarge,
    DataTooDeep,
    /// It is said to others as JSON, too.
    JsonTooLarge,
}

impl Fault {
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Fault::NotJson
            | Fault::NotMsgpack
            | Fault::NotObject
            | Fault::NotUtf8
            | Fault::KeyNotString
            | Fault::NotFinite
            | Fault::Extension
            | Fault::DuplicateKey
            | Fault::BadId
            | Fault::NoVerb
            | Fault::TwoVerbs
            | Fault::BadRoom
            | Fault::BadPing
            | Fault::BadToken
            | Fault::BadPosition
            | Fault::BadLast
            | Fault::BadPresence
            | Fault::BadLimit
            | Fault::BadKey
            | Fault::BadPriority
            | Fault::BadWho
            | Fault::BadTime
            | Fault::BadAddress
            | Fault::NoRoom
            | Fault::NoData => Code::BadRequest,
            Fault::ReservedRoom => Code::Forbidden,
            Fault::DataTooLarge | Fault::DataTooDeep | Fault::JsonTooLarge => Code::TooLarge,
        }
    }

    /// For people.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Fault::NotJson => "not JSON",
            Fault::NotMsgpack => "not MessagePack",
            Fault::NotObject => "a message is one object",
            Fault::NotUtf8 => "a string is not UTF-8; bin takes any bytes",
            Fault::KeyNotString => "a key is not a string",
            Fault::NotFinite => "a number is not finite",
            Fault::Extension => "extension types are not spoken here",
            Fault::DuplicateKey => "a key is there twice",
            Fault::BadId => "an id is an integer from 0 to 2^53-1, or a string of up to 64 bytes",
            Fault::NoVerb => {
                "none of auth, join, leave, send, who, history, ping, mute, unmute, ban, unban, \
                 kick, delete, clear"
            }
            Fault::TwoVerbs => {
                "one at a time of auth, join, leave, send, who, history, ping, mute, unmute, ban, \
                 unban, kick, delete, clear"
            }
            Fault::BadRoom => {
                "a room's name is a string of 1 to 200 bytes without control characters"
            }
            Fault::ReservedRoom => {
                "names that begin with $ or @ are reserved; one can send to the @ of a user"
            }
            Fault::BadPing => "ping takes true",
            Fault::BadToken => "auth takes a token, a string",
            Fault::BadPosition => "since, before and delete take a position, such as \"e3:1041\"",
            Fault::BadLast => "last takes true or false",
            Fault::BadPresence => "presence takes true or false",
            Fault::BadPriority => "priority takes true or false",
            Fault::BadKey => "a key is a string of 1 to 64 bytes",
            Fault::BadLimit => "limit takes a whole number from 1",
            Fault::BadWho => "who is meant is a string of 1 to 200 bytes: a user or a connection",
            Fault::BadTime => "for_ms takes a whole number of milliseconds",
            Fault::BadAddress => {
                "ban and unban take true with an address or a range, such as \"10.0.0.0/8\", and no room"
            }
            Fault::NoRoom => "delete needs a room",
            Fault::NoData => "send needs data",
            Fault::DataTooLarge => "data is too large",
            Fault::DataTooDeep => "data is nested too deep",
            Fault::JsonTooLarge => "as JSON, which others are given, data is too large",
        }
    }
}

/// A request that cannot be served, to be answered by [`ToClient::Error`](super::ToClient::Error).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest<'a> {
    /// The request's, as far as it has a valid one.
    pub id: Option<Id<'a>>,
    pub fault: Fault,
}
