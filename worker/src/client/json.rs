//! How a message of `rooms.v1.json` is read.
//!
//! The syntax is `serde_json`'s matter, whose skipping of values is iterative: deep JSON costs a
//! byte a level and no stack. Values are taken as they stand ([`RawValue`]) and looked at only
//! when the whole message is known to be JSON, so that every error can carry the `id`, wherever in
//! the message it is.

use std::borrow::Cow;
use std::fmt;

use protocol::format::Data;
use protocol::settings::Rooms;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{Fields, Value, key};
use super::{Fault, Id};

/// One value, without whitespace around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Json<'a>(&'a str);

impl<'a> Value<'a> for Json<'a> {
    fn string(self, max: usize) -> Option<Cow<'a, str>> {
        string(self.0, max)
    }

    fn number(self) -> Option<u64> {
        self.0.parse().ok()
    }

    fn bool(self) -> Option<bool> {
        self.0.parse().ok()
    }

    fn id(self) -> Option<Id<'a>> {
        Id::parse(self.0)
    }

    fn data(self, limits: &Rooms) -> Result<Data<'a>, Fault> {
        if self.0.len() > limits.max_data {
            return Err(Fault::DataTooLarge);
        }
        if is_deeper(self.0, limits.max_depth) {
            return Err(Fault::DataTooDeep);
        }
        Ok(Data::json(self.0.as_bytes()))
    }
}

/// May this JSON value be published?
pub fn check_data(json: &str, limits: &Rooms) -> Result<(), Fault> {
    Json(json).data(limits).map(drop)
}

/// A message's fields.
pub(super) fn fields(message: &[u8]) -> Result<Fields<Json<'_>>, Fault> {
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

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Fields<Json<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<Json<'de>>, M::Error> {
        let mut fields = Fields::default();
        let mut unknown: Vec<Cow<'de, str>> = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            if let Some(key) = key(&name) {
                fields.add(key, Json(map.next_value::<&RawValue>()?.get()));
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

/// The string that a JSON value is, if it is one, of up to `max` bytes.
pub(super) fn string(json: &str, max: usize) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    let string = if !inner.as_bytes().contains(&b'\\') {
        Cow::Borrowed(inner)
    } else if inner.len() <= max.saturating_mul(6) {
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
pub(crate) fn behind_string(mut bytes: &[u8]) -> &[u8] {
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
