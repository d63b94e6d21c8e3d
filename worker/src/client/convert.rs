//! JSON as MessagePack, and back. The same bytes always become the same bytes: a frame that a brain
//! which died has written a part of is made again by the next one.
//!
//! - An integer that fits into 64 bits, with a sign or without, is one in both. Any other number is the
//!   float of 64 bits that is nearest to it, and never infinite; in JSON it is the shortest text that
//!   means this float, with a point or an exponent, so that it comes back as a float.
//! - `bin` is `{"$bin":"<base64>"}` (RFC 4648, 4; padded), and back.
//! - Half a surrogate pair, which JSON can name and which is no character, is U+FFFD.
//! - A key that is there twice in an object is there twice.
//!
//! What is converted was found to be what it says where it came in. Of what is not, something is made
//! that is not much longer.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::format::{Data, Format};
use rmp::encode;

use super::form::{Form, Msgpack};
use super::json::behind_string;
use super::msgpack::{Token, is_sound};
use super::write::Sink;

/// The key by which JSON says that its value is bytes.
const BIN: &str = "$bin";

/// Adds a JSON value, as MessagePack. Both say the same things in the same order, but that
/// MessagePack says first how many there are in an object or array.
pub(super) fn to_msgpack(json: &[u8], to: &mut impl Sink) {
    let mut to = Msgpack(to);
    let mut lengths = lengths(json).into_iter();
    let mut rest = json;
    while let Some((&first, behind)) = rest.split_first() {
        match first {
            b'{' => {
                let fields = lengths.next().unwrap_or(0);
                match bin(behind) {
                    Some((bytes, behind)) if fields == 1 => {
                        let _ = encode::write_bin(&mut to, &bytes);
                        rest = behind;
                        continue;
                    }
                    _ => to.object(fields as usize),
                }
            }
            b'[' => to.array(lengths.next().unwrap_or(0) as usize),
            b'"' => {
                let (string, behind) = split_string(behind);
                to.string(unescaped(string).as_bytes());
                rest = behind;
                continue;
            }
            b'n' => drop(encode::write_nil(&mut to)),
            b't' => to.bool(true),
            b'f' => to.bool(false),
            b'-' | b'0'..=b'9' => {
                let end = rest.iter().position(|b| !is_of_number(*b));
                let (number, behind) = rest.split_at(end.unwrap_or(rest.len()));
                put_number(&mut to, number);
                rest = behind;
                continue;
            }
            // Between values, or the rest of a word.
            _ => {}
        }
        rest = behind;
    }
}

/// Bytes of JSON that one byte of MessagePack becomes at most: a control character is `\u00XX`, and
/// `false` has a comma.
pub(super) const MOST_AS_JSON: usize = 6;

/// An array or object that has begun.
struct Open {
    /// Values, and keys, that are still to come.
    left: u64,
    is_object: bool,
    /// What stands between the last one and the next.
    behind: &'static [u8],
}

/// The same value as JSON.
#[must_use]
pub fn as_json(data: Data<'_>) -> Cow<'_, [u8]> {
    match data.format {
        Format::Json => Cow::Borrowed(data.bytes),
        Format::Msgpack => {
            let mut json = Vec::new();
            to_json(data.bytes, &mut json);
            Cow::Owned(json)
        }
    }
}

/// Adds a MessagePack value, as JSON.
pub(super) fn to_json(msgpack: &[u8], to: &mut impl Sink) {
    if !is_sound(msgpack) {
        return to.add(b"null");
    }
    let mut rest = msgpack;
    let mut open: Vec<Open> = Vec::new();
    while let Some(token) = Token::take(&mut rest) {
        if let Some(last) = open.last_mut() {
            to.add(last.behind);
            last.behind = match last.is_object && last.left % 2 == 0 {
                true => b":",
                false => b",",
            };
        }
        match token {
            Token::Nil => to.add(b"null"),
            Token::Bool(b) => to.add(if b { b"true" } else { b"false" }),
            Token::Positive(n) => to.number(n),
            Token::Negative(n) => to.add(itoa::Buffer::new().format(n).as_bytes()),
            Token::Float(n) => to.add(&serde_json::to_vec(&n).unwrap_or_default()),
            Token::Str(s) => to.string(s),
            Token::Bin(bytes) => {
                to.add(b"{\"$bin\":\"");
                to.add(BASE64_STANDARD.encode(bytes).as_bytes());
                to.add(b"\"}");
            }
            Token::Array(len) => {
                to.add(b"[");
                open.push(Open {
                    left: len.into(),
                    is_object: false,
                    behind: b"",
                });
            }
            Token::Map(len) => {
                to.add(b"{");
                open.push(Open {
                    left: 2 * u64::from(len),
                    is_object: true,
                    behind: b"",
                });
            }
            // It is not sound.
            Token::Extension => {}
        }
        let mut has_ended = !matches!(token, Token::Array(_) | Token::Map(_));
        while let Some(last) = open.last_mut() {
            last.left -= u64::from(has_ended);
            if last.left > 0 {
                break;
            }
            to.add(if last.is_object { b"}" } else { b"]" });
            open.pop();
            has_ended = true;
        }
    }
}

/// How many values are in each object and array, in the order in which they begin.
fn lengths(json: &[u8]) -> Vec<u32> {
    let mut lengths = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    // Nothing stands yet in the one that was opened last.
    let mut empty = false;
    let mut rest = json;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b']' | b'}' => {
                open.pop();
                empty = false;
                continue;
            }
            _ => {}
        }
        if std::mem::take(&mut empty) {
            open.iter()
                .last()
                .into_iter()
                .for_each(|at| lengths[*at] = 1);
        }
        match first {
            b'{' | b'[' => {
                open.push(lengths.len());
                lengths.push(0);
                empty = true;
            }
            b',' => open
                .iter()
                .last()
                .into_iter()
                .for_each(|at| lengths[*at] += 1),
            b'"' => rest = behind_string(rest),
            _ => {}
        }
    }
    lengths
}

/// Behind the brace of an object with one field: the bytes that it is, and what follows it.
fn bin(object: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (key, rest) = split_string(object.trim_ascii_start().strip_prefix(b"\"")?);
    if unescaped(key) != BIN {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    let (value, rest) = split_string(rest.trim_ascii_start().strip_prefix(b"\"")?);
    let bytes = BASE64_STANDARD.decode(unescaped(value).as_bytes()).ok()?;
    Some((bytes, rest.trim_ascii_start().strip_prefix(b"}")?))
}

/// From behind its opening quote on: what is in a string, and what follows it.
fn split_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let rest = behind_string(bytes);
    let string = &bytes[..bytes.len() - rest.len()];
    (string.strip_suffix(b"\"").unwrap_or(string), rest)
}

fn is_of_number(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

fn put_number(to: &mut Msgpack<'_, impl Sink>, number: &[u8]) {
    let text = str::from_utf8(number).unwrap_or_default();
    // There is a zero below zero among the floats only.
    if let Ok(n) = text.parse::<u64>() {
        to.number(n);
    } else if let Some(n) = text.parse::<i64>().ok().filter(|n| *n != 0) {
        let _ = encode::write_sint(to, n);
    } else {
        let n = text.parse::<f64>().unwrap_or_default();
        let _ = encode::write_f64(to, n.clamp(f64::MIN, f64::MAX));
    }
}

/// What a string's text means.
fn unescaped(text: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', text).is_none() {
        return String::from_utf8_lossy(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        plain.push_str(&String::from_utf8_lossy(&rest[..at]));
        let escape = &rest[at + 1..];
        let mut len = 1;
        plain.push(match escape.first() {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = hex(&escape[1..]);
                let second = escape.get(5..).and_then(|rest| rest.strip_prefix(b"\\u"));
                let second = second.and_then(hex);
                let units = [first.unwrap_or_default(), second.unwrap_or_default()];
                let one = char::decode_utf16(units).next().and_then(Result::ok);
                let one = one.unwrap_or(char::REPLACEMENT_CHARACTER);
                len = if one.len_utf16() == 2 { 11 } else { 5 };
                one
            }
            Some(&b) => char::from(b),
            None => char::REPLACEMENT_CHARACTER,
        });
        rest = escape.get(len..).unwrap_or_default();
    }
    plain.push_str(&String::from_utf8_lossy(rest));
    Cow::Owned(plain)
}

fn hex(digits: &[u8]) -> Option<u16> {
    let digits = str::from_utf8(digits.get(..4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}
