//! What a moderator asks for: who is meant, where, and for how long.

use std::borrow::Cow;

use protocol::cidr::Cidr;
use protocol::ids::Position;
use protocol::moderation::{Act, MAX_WHO, Whom};

use super::Fault;
use super::fields::{Fields, Key, Value};
use super::request::{is_name, position, room};

/// Bytes of an address range.
const MAX_ADDRESS: usize = 64;

/// So long is for good: nobody counts further in milliseconds since 1970.
const MAX_MS: u64 = 1 << 53;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed<'a> {
    /// 0: for good.
    Mute {
        who: Cow<'a, str>,
        for_ms: u64,
    },
    Unmute {
        who: Cow<'a, str>,
    },
    Ban {
        whom: Banned<'a>,
        for_ms: u64,
    },
    Unban {
        whom: Banned<'a>,
    },
    Kick {
        who: Cow<'a, str>,
    },
    Delete {
        position: Position,
    },
    Clear,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Banned<'a> {
    User(Cow<'a, str>),
    Address(Cidr),
}

impl Deed<'_> {
    /// As it goes to the master.
    #[must_use]
    pub fn act(&self) -> Act<'_> {
        match self {
            Deed::Mute { who, for_ms } => Act::Mute {
                who: who.as_bytes(),
                ms: *for_ms,
            },
            Deed::Unmute { who } => Act::Unmute {
                who: who.as_bytes(),
            },
            Deed::Ban { whom, for_ms } => Act::Ban {
                whom: whom.whom(),
                ms: *for_ms,
            },
            Deed::Unban { whom } => Act::Unban { whom: whom.whom() },
            Deed::Kick { who } => Act::Kick {
                who: who.as_bytes(),
            },
            Deed::Delete { position } => Act::Delete {
                position: *position,
            },
            Deed::Clear => Act::Clear {
                position: Position {
                    epoch: 0,
                    offset: 0,
                },
            },
        }
    }
}

impl Banned<'_> {
    fn whom(&self) -> Whom<'_> {
        match self {
            Banned::User(who) => Whom::User(who.as_bytes()),
            Banned::Address(range) => Whom::Address(*range),
        }
    }
}

/// The room (`None`: everywhere) and what is to be done, of a verb that is one of these.
pub(super) fn deed<'a, V: Value<'a>>(
    fields: &Fields<V>,
    verb: Key,
    value: V,
) -> Result<(Option<Cow<'a, str>>, Deed<'a>), Fault> {
    let place = fields.room.map(room).transpose()?;
    let for_ms = || match fields.for_ms.map(Value::number) {
        None => Ok(0),
        Some(Some(ms)) if ms <= MAX_MS => Ok(ms),
        Some(_) => Err(Fault::BadTime),
    };
    let whom = || match fields.address {
        None => Ok(Banned::User(who(value)?)),
        Some(_) if value.bool() != Some(true) || place.is_some() => Err(Fault::BadAddress),
        Some(address) => {
            let text = address.string(MAX_ADDRESS).ok_or(Fault::BadAddress)?;
            Ok(Banned::Address(
                text.parse().map_err(|_| Fault::BadAddress)?,
            ))
        }
    };
    let deed = match verb {
        Key::Mute => Deed::Mute {
            who: who(value)?,
            for_ms: for_ms()?,
        },
        Key::Unmute => Deed::Unmute { who: who(value)? },
        Key::Ban => Deed::Ban {
            whom: whom()?,
            for_ms: for_ms()?,
        },
        Key::Unban => Deed::Unban { whom: whom()? },
        Key::Kick => Deed::Kick { who: who(value)? },
        Key::Delete if place.is_none() => return Err(Fault::NoRoom),
        Key::Delete => Deed::Delete {
            position: position(value)?,
        },
        _ => return Ok((Some(room(value)?), Deed::Clear)),
    };
    Ok((place, deed))
}

pub(super) fn who<'a>(value: impl Value<'a>) -> Result<Cow<'a, str>, Fault> {
    let who = value.string(MAX_WHO).filter(|who| is_name(who));
    who.ok_or(Fault::BadWho)
}

#[cfg(test)]
mod tests {
    use protocol::format::Format;
    use protocol::settings::Rooms;

    use super::*;
    use crate::client::{Verb, parse};

    fn read(json: &str) -> Result<(Option<String>, String), Fault> {
        let asked = parse(json.as_bytes(), Format::Json, &Rooms::default());
        match asked.map_err(|bad| bad.fault)?.verb {
            Verb::Moderate { room, deed } => {
                Ok((room.map(Cow::into_owned), format!("{:?}", deed.act())))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_asked_is_read() {
        let room = |name: &str| Some(name.to_owned());
        let user = format!("{:?}", b"u7");
        for (json, place, act) in [
            (
                r#"{"mute":"u7","room":"r","for_ms":60}"#,
                room("r"),
                format!("Mute {{ who: {user}, ms: 60 }}"),
            ),
            (
                r#"{"mute":"u7"}"#,
                None,
                format!("Mute {{ who: {user}, ms: 0 }}"),
            ),
            (
                r#"{"room":"r","unmute":"u7"}"#,
                room("r"),
                format!("Unmute {{ who: {user} }}"),
            ),
            (
                r#"{"ban":"u7","room":"r"}"#,
                room("r"),
                format!("Ban {{ whom: User({user}), ms: 0 }}"),
            ),
            (r#"{"kick":"u7"}"#, None, format!("Kick {{ who: {user} }}")),
            (
                r#"{"delete":"e3:5","room":"r"}"#,
                room("r"),
                "Delete { position: Position { epoch: 3, offset: 5 } }".to_owned(),
            ),
            (
                r#"{"clear":"r"}"#,
                room("r"),
                "Clear { position: Position { epoch: 0, offset: 0 } }".to_owned(),
            ),
        ] {
            assert_eq!(read(json), Ok((place, act)), "{json}");
        }
        let (place, act) = read(r#"{"unban":true,"address":"10.0.0.0/8"}"#).unwrap();
        assert!(place.is_none() && act.contains("Address"), "{act}");
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (json, fault) in [
            (r#"{"mute":7}"#, Fault::BadWho),
            (r#"{"mute":""}"#, Fault::BadWho),
            (r#"{"mute":"u","room":""}"#, Fault::BadRoom),
            (r#"{"mute":"u","room":"@u1"}"#, Fault::ReservedRoom),
            (r#"{"mute":"u","for_ms":-1}"#, Fault::BadTime),
            (r#"{"mute":"u","for_ms":"1"}"#, Fault::BadTime),
            (
                r#"{"mute":"u","for_ms":18446744073709551615}"#,
                Fault::BadTime,
            ),
            (r#"{"ban":true}"#, Fault::BadWho),
            (r#"{"ban":true,"address":"host"}"#, Fault::BadAddress),
            (r#"{"ban":"u","address":"10.0.0.1"}"#, Fault::BadAddress),
            (
                r#"{"ban":true,"address":"10.0.0.1","room":"r"}"#,
                Fault::BadAddress,
            ),
            (r#"{"delete":"e1:1"}"#, Fault::NoRoom),
            (r#"{"delete":"1","room":"r"}"#, Fault::BadPosition),
            (r#"{"clear":"$r"}"#, Fault::ReservedRoom),
            (r#"{"mute":"u","ban":"u"}"#, Fault::TwoVerbs),
        ] {
            assert_eq!(read(json), Err(fault), "{json}");
        }
    }
}
