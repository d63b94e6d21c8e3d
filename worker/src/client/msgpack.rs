//! How a message of `rooms.v1.msgpack` is read.
//!
//! A value is gone through token by token, with a list of what is open for a stack: neither depth nor
//! what a message claims of its lengths costs more than the bytes that are there. What MessagePack has
//! and JSON has not (but for `bin`) is refused where it comes in, so that whatever was published can be
//! said to everybody: extension types, numbers that are not finite, keys that are no strings.

use std::borrow::Cow;

use protocol::format::Data;
use protocol::settings::Rooms;
use rmp::Marker;

use super::fields::{Fields, Value, key};
use super::write::Count;
use super::{Fault, Id, convert};

/// What a value begins with, or is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    /// 0 or more, however it was written.
    Positive(u64),
    /// Less than 0.
    Negative(i64),
    Float(f64),
    Str(&'a [u8]),
    Bin(&'a [u8]),
    /// So many values follow.
    Array(u32),
    /// So many keys and values follow.
    Map(u32),
    /// Something that an application has defined.
    Extension,
}

impl<'a> Token<'a> {
    /// Takes the next one from the front; `None`: there is no whole one.
    pub fn take(from: &mut &'a [u8]) -> Option<Token<'a>> {
        let (&first, rest) = from.split_first()?;
        let mut rest = rest;
        let bytes = &mut rest;
        let token = match Marker::from_u8(first) {
            Marker::Null => Token::Nil,
            Marker::Reserved => return None,
            Marker::False => Token::Bool(false),
            Marker::True => Token::Bool(true),
            Marker::FixPos(n) => Token::Positive(n.into()),
            Marker::U8 => Token::Positive(u8::from_be_bytes(array(bytes)?).into()),
            Marker::U16 => Token::Positive(u16::from_be_bytes(array(bytes)?).into()),
            Marker::U32 => Token::Positive(u32::from_be_bytes(array(bytes)?).into()),
            Marker::U64 => Token::Positive(u64::from_be_bytes(array(bytes)?)),
            Marker::FixNeg(n) => Token::integer(n.into()),
            Marker::I8 => Token::integer(i8::from_be_bytes(array(bytes)?).into()),
            Marker::I16 => Token::integer(i16::from_be_bytes(array(bytes)?).into()),
            Marker::I32 => Token::integer(i32::from_be_bytes(array(bytes)?).into()),
            Marker::I64 => Token::integer(i64::from_be_bytes(array(bytes)?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(array(bytes)?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(array(bytes)?)),
            Marker::FixStr(len) => Token::Str(take(bytes, len.into())?),
            Marker::Str8 => Token::Str(sized::<1>(bytes)?),
            Marker::Str16 => Token::Str(sized::<2>(bytes)?),
            Marker::Str32 => Token::Str(sized::<4>(bytes)?),
            Marker::Bin8 => Token::Bin(sized::<1>(bytes)?),
            Marker::Bin16 => Token::Bin(sized::<2>(bytes)?),
            Marker::Bin32 => Token::Bin(sized::<4>(bytes)?),
            Marker::FixArray(len) => Token::Array(len.into()),
            Marker::Array16 => Token::Array(length::<2>(bytes)?),
            Marker::Array32 => Token::Array(length::<4>(bytes)?),
            Marker::FixMap(len) => Token::Map(len.into()),
            Marker::Map16 => Token::Map(length::<2>(bytes)?),
            Marker::Map32 => Token::Map(length::<4>(bytes)?),
            // Behind the length comes the type, a byte.
            Marker::Ext8 => extension(bytes, length::<1>)?,
            Marker::Ext16 => extension(bytes, length::<2>)?,
            Marker::Ext32 => extension(bytes, length::<4>)?,
            Marker::FixExt1 => extension(bytes, |_| Some(1))?,
            Marker::FixExt2 => extension(bytes, |_| Some(2))?,
            Marker::FixExt4 => extension(bytes, |_| Some(4))?,
            Marker::FixExt8 => extension(bytes, |_| Some(8))?,
            Marker::FixExt16 => extension(bytes, |_| Some(16))?,
        };
        *from = rest;
        Some(token)
    }

    fn integer(n: i64) -> Token<'a> {
        u64::try_from(n).map_or(Token::Negative(n), Token::Positive)
    }
}

fn take<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(taken)
}

fn array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}

/// A length of `N` bytes.
fn length<const N: usize>(from: &mut &[u8]) -> Option<u32> {
    let bytes = array::<N>(from)?;
    Some(bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
}

/// Bytes, behind a length of `N` bytes.
fn sized<'a, const N: usize>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = length::<N>(from)?;
    take(from, len as usize)
}

fn extension<'a>(
    from: &mut &[u8],
    length: impl FnOnce(&mut &[u8]) -> Option<u32>,
) -> Option<Token<'a>> {
    let len = length(from)?;
    take(from, 1)?;
    take(from, len as usize)?;
    Some(Token::Extension)
}

/// An array or a map of which not all has been gone through.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Values; in a map also keys.
    left: u64,
    is_map: bool,
}

/// One value, whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scanned<'a> {
    bytes: &'a [u8],
    /// A scalar has depth 0, `[]` has depth 1. `bin` has 1, too: so it has in JSON.
    depth: usize,
    /// What it has in it that nobody may send, if something.
    fault: Option<Fault>,
}

/// Takes one value from the front; `None`: there is no whole one.
pub(super) fn scan<'a>(from: &mut &'a [u8]) -> Option<Scanned<'a>> {
    let all = *from;
    let mut rest = all;
    let mut open: Vec<Open> = Vec::new();
    let (mut depth, mut fault) = (0, None);
    loop {
        let is_key = open.last().is_some_and(|o| o.is_map && o.left % 2 == 0);
        let token = Token::take(&mut rest)?;
        let found = match token {
            Token::Str(s) => str::from_utf8(s).is_err().then_some(Fault::NotUtf8),
            _ if is_key => Some(Fault::KeyNotString),
            Token::Float(n) if !n.is_finite() => Some(Fault::NotFinite),
            Token::Extension => Some(Fault::Extension),
            _ => None,
        };
        fault = fault.or(found);
        let (left, is_map) = match token {
            Token::Array(items) => (u64::from(items), false),
            Token::Map(fields) => (2 * u64::from(fields), true),
            _ => (0, false),
        };
        if matches!(token, Token::Array(_) | Token::Map(_) | Token::Bin(_)) {
            depth = depth.max(open.len() + 1);
        }
        if left > 0 {
            // Each takes a byte at least: what claims more is not whole, and need not be gone into.
            if left > rest.len() as u64 {
                return None;
            }
            open.push(Open { left, is_map });
            continue;
        }
        while let Some(last) = open.last_mut() {
            last.left -= 1;
            if last.left > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            *from = rest;
            let bytes = &all[..all.len() - rest.len()];
            return Some(Scanned {
                bytes,
                depth,
                fault,
            });
        }
    }
}

/// Is this one value, and one that may be sent?
pub(super) fn is_sound(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    scan(&mut rest).is_some_and(|scanned| scanned.fault.is_none()) && rest.is_empty()
}

impl<'a> Scanned<'a> {
    /// If it is no array or map, that is all.
    fn token(self) -> Option<Token<'a>> {
        let mut bytes = self.bytes;
        Token::take(&mut bytes)
    }
}

impl<'a> Value<'a> for Scanned<'a> {
    fn string(self, max: usize) -> Option<Cow<'a, str>> {
        match self.token()? {
            Token::Str(s) if s.len() <= max => Some(str::from_utf8(s).ok()?.into()),
            _ => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self.token()? {
            Token::Positive(n) => Some(n),
            _ => None,
        }
    }

    fn bool(self) -> Option<bool> {
        match self.token()? {
            Token::Bool(b) => Some(b),
            _ => None,
        }
    }

    fn id(self) -> Option<Id<'a>> {
        match self.number() {
            Some(n) => Id::number(n),
            None => Some(Id::string(&self.string(Id::MAX_STRING)?)),
        }
    }

    fn data(self, limits: &Rooms) -> Result<Data<'a>, Fault> {
        if self.bytes.len() > limits.max_data {
            return Err(Fault::DataTooLarge);
        }
        if self.depth > limits.max_depth {
            return Err(Fault::DataTooDeep);
        }
        if self.bytes.len() * convert::MOST_AS_JSON > limits.max_data * AS_JSON {
            let mut json = Count(0);
            convert::to_json(self.bytes, &mut json);
            if json.0 > limits.max_data * AS_JSON {
                return Err(Fault::JsonTooLarge);
            }
        }
        Ok(Data::msgpack(self.bytes))
    }
}

/// What is said as JSON to others may be so many times as large as what may come in: base64 takes four
/// bytes for three, and few clients have room for any size.
const AS_JSON: usize = 2;

/// A message's fields.
pub(super) fn fields(message: &[u8]) -> Result<Fields<Scanned<'_>>, Fault> {
    let mut rest = message;
    let Some(Token::Map(count)) = Token::take(&mut rest) else {
        let mut rest = message;
        let is_one = scan(&mut rest).is_some() && rest.is_empty();
        return Err(if is_one {
            Fault::NotObject
        } else {
            Fault::NotMsgpack
        });
    };
    let mut fields = Fields::default();
    let mut unknown: Vec<&[u8]> = Vec::new();
    for _ in 0..count {
        let name = scan(&mut rest).ok_or(Fault::NotMsgpack)?;
        let value = scan(&mut rest).ok_or(Fault::NotMsgpack)?;
        for fault in [name.fault, value.fault].into_iter().flatten() {
            fields.find(fault);
        }
        match name.token() {
            Some(Token::Str(name)) => match str::from_utf8(name).ok().and_then(key) {
                Some(key) => fields.add(key, value),
                None => unknown.push(name),
            },
            _ => fields.find(Fault::KeyNotString),
        }
    }
    unknown.sort_unstable();
    if unknown.windows(2).any(|pair| pair[0] == pair[1]) {
        fields.find(Fault::DuplicateKey);
    }
    match rest.is_empty() {
        true => Ok(fields),
        false => Err(Fault::NotMsgpack),
    }
}
