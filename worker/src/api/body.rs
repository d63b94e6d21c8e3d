//! What bodies say, as JSON.

use protocol::api::{Ask, Decision, MAX_ROOMS, Whom};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::line::{MAX_NAME, Reserved, position, room};
use super::reply::{JSON, bad, fault};
use super::request::Request;
use crate::client;
use crate::http::{self, Reply};

/// Bytes of an idempotency key.
const MAX_KEY: usize = 64;

/// As who the API publishes, unless it says so.
pub const FROM: &str = "api";

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(default, deserialize_with = "there")]
    room: Option<String>,
    #[serde(default, deserialize_with = "there")]
    rooms: Option<Vec<String>>,
    #[serde(default, deserialize_with = "there")]
    from: Option<String>,
    #[serde(default)]
    priority: bool,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Say<'a> {
    room: String,
    user: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(rename = "match", default, deserialize_with = "there")]
    pattern: Option<String>,
    #[serde(default, deserialize_with = "there")]
    from: Option<String>,
    #[serde(default)]
    priority: bool,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Somebody, and for how long.
#[derive(Deserialize)]
struct Somebody {
    #[serde(default, deserialize_with = "there")]
    user: Option<String>,
    #[serde(default, deserialize_with = "there")]
    address: Option<String>,
    #[serde(default, deserialize_with = "there")]
    room: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    for_ms: u64,
}

/// Something that was said, or all of it.
#[derive(Deserialize)]
struct Something {
    room: String,
    #[serde(default, deserialize_with = "there")]
    pos: Option<String>,
}

#[derive(Deserialize)]
pub struct Scale {
    #[serde(deserialize_with = "whole")]
    pub workers: u64,
}

/// What may be missing is not null: a decision for all rooms must not come of an empty variable.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

/// A whole number that every program can say; `1.0` is one, too.
fn whole<'de, D: Deserializer<'de>>(json: D) -> Result<u64, D::Error> {
    const MOST: u64 = (1 << 53) - 1;
    let number = serde_json::Number::deserialize(json)?;
    let is_whole = |n: &f64| n.fract() == 0.0 && (0.0..=MOST as f64).contains(n);
    let whole = || number.as_f64().filter(is_whole).map(|n| n as u64);
    let found = number.as_u64().or_else(whole).filter(|n| *n <= MOST);
    found.ok_or_else(|| D::Error::custom("a whole number from 0 to 2^53-1 is expected"))
}

impl<'a> Request<'a> {
    /// The body, as JSON of this form.
    pub fn parsed<T: Deserialize<'a>>(&self) -> Result<T, Reply> {
        let types = http::values(self.head, "content-type");
        let is_json = |value: &String| {
            let kind = value.split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case(JSON)
        };
        if !types.iter().all(is_json) || types.is_empty() {
            let message = "the body must be application/json";
            return Err(fault(415, "unsupported_media_type", message));
        }
        serde_json::from_slice(self.body).map_err(|error| bad(&format!("the body: {error}")))
    }

    /// Nothing is to be said in the body.
    pub fn empty(&self) -> Result<(), Reply> {
        match self.body {
            [] => Ok(()),
            _ => self
                .parsed::<serde_json::Map<String, serde_json::Value>>()
                .map(drop),
        }
    }

    fn key(&self) -> Result<Option<String>, Reply> {
        match &http::values(self.head, "idempotency-key")[..] {
            [] => Ok(None),
            [key]
                if (1..=MAX_KEY).contains(&key.len())
                    && key.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Some(key.clone()))
            }
            _ => Err(bad(
                "Idempotency-Key must be one text of 1 to 64 visible characters of ASCII",
            )),
        }
    }

    pub fn publish(&mut self) -> Result<Ask, Reply> {
        let said: Publish<'_> = self.parsed()?;
        let rooms = match (said.room, said.rooms) {
            (Some(room), None) => vec![room],
            (None, Some(rooms)) if (1..=MAX_ROOMS).contains(&rooms.len()) => rooms,
            (None, Some(_)) => {
                return Err(bad(&format!("rooms must name 1 to {MAX_ROOMS} rooms")));
            }
            _ => return Err(bad("either room or rooms must be there")),
        };
        let mut seen = std::collections::HashSet::new();
        for name in &rooms {
            room(name, Reserved::ButUsers)?;
            self.check_data(said.data, Some(name))?;
            if !seen.insert(name) {
                return Err(bad("a room is named twice"));
            }
        }
        self.data = said.data.get().as_bytes().to_vec();
        Ok(Ask::Publish {
            rooms,
            from: from(said.from)?,
            key: self.key()?,
            priority: said.priority,
        })
    }

    /// What its words are is judged later ([`judged`](super::say::judged)).
    pub fn say(&mut self) -> Result<Ask, Reply> {
        let said: Say<'_> = self.parsed()?;
        if said.user.len() >= MAX_NAME || !client::is_name(&said.user) {
            return Err(bad(
                "user must have 1 to 199 bytes and no control characters",
            ));
        }
        let room = room(&said.room, Reserved::ButUsers)?;
        self.check_data(said.data, Some(&room))?;
        self.data = said.data.get().as_bytes().to_vec();
        Ok(Ask::Say {
            room,
            user: said.user,
            key: self.key()?,
            held: false,
        })
    }

    pub fn broadcast(&mut self) -> Result<Ask, Reply> {
        let said: Broadcast<'_> = self.parsed()?;
        let pattern = said.pattern.unwrap_or_else(|| "*".to_owned());
        if pattern.is_empty() || pattern.len() > MAX_NAME {
            return Err(bad("match must have 1 to 200 bytes"));
        }
        self.check_data(said.data, None)?;
        self.data = said.data.get().as_bytes().to_vec();
        Ok(Ask::Broadcast {
            pattern,
            from: from(said.from)?,
            key: self.key()?,
            priority: said.priority,
        })
    }

    pub fn somebody(&self, verb: &str) -> Result<Ask, Reply> {
        let said: Somebody = self.parsed()?;
        let is_ban = matches!(verb, "ban" | "unban");
        let is_name = |who: &String| who.len() <= MAX_NAME && client::is_name(who);
        let whom = match (said.user, said.address) {
            (Some(user), None) if is_name(&user) => Whom::User(user),
            (None, Some(address)) if is_ban && said.room.is_none() => match address.parse() {
                Ok(range) => Whom::Address(range),
                Err(_) => return Err(bad("address must be such as 10.0.0.1 or 10.0.0.0/8")),
            },
            (None, Some(_)) if is_ban => return Err(bad("an address is banned everywhere")),
            _ => return Err(bad("user must name who, in 1 to 200 bytes")),
        };
        let for_ms = said.for_ms;
        let what = match (verb, whom) {
            ("ban", whom) => Decision::Ban { whom, for_ms },
            ("unban", whom) => Decision::Unban { whom },
            ("mute", Whom::User(who)) => Decision::Mute { who, for_ms },
            ("unmute", Whom::User(who)) => Decision::Unmute { who },
            (_, Whom::User(who)) => Decision::Kick { who },
            (_, Whom::Address(_)) => return Err(bad("user must name who")),
        };
        let name = said.room.map(|name| room(&name, Reserved::ButUsers));
        Ok(Ask::Decide {
            what,
            room: name.transpose()?,
        })
    }

    pub fn something(&self, verb: &str) -> Result<Ask, Reply> {
        let said: Something = self.parsed()?;
        let what = match (verb, said.pos) {
            ("delete", Some(place)) => Decision::Delete {
                position: position(&place)?,
            },
            ("delete", None) => return Err(bad("pos must name the message")),
            _ => Decision::Clear,
        };
        Ok(Ask::Decide {
            what,
            room: Some(room(&said.room, Reserved::ButUsers)?),
        })
    }

    fn check_data(&self, data: &RawValue, room: Option<&String>) -> Result<(), Reply> {
        let mut limits = self.settings.rooms.clone();
        let of = room.and_then(|room| self.settings.options.of(room.as_bytes()).max_data);
        limits.max_data = limits.max_data.min(of.unwrap_or(usize::MAX));
        client::check_data(data.get(), &limits).map_err(|refused| match refused.code() {
            client::Code::TooLarge => fault(413, "too_large", refused.message()),
            _ => bad(refused.message()),
        })
    }
}

/// As who it is said.
fn from(said: Option<String>) -> Result<String, Reply> {
    let from = said.unwrap_or_else(|| FROM.to_owned());
    match from.len() < MAX_NAME && client::is_name(&from) {
        true => Ok(from),
        false => Err(bad(
            "from must have 1 to 199 bytes and no control characters",
        )),
    }
}
