//! Words that are not to be said, found in what is sent: all words of a list in one pass, however many
//! they are. Pure: data in, what becomes of it out.
//!
//! Strings are looked into, and nothing else: no keys, no `bin`, no numbers. A string of JSON is
//! looked at as what it means, whatever its escapes. Letters count without their case, each by itself
//! (Unicode's simple folding, as far as lower case is that; ς is σ, ſ is s): not ß as ss, no Turkish i, and
//! nothing about accents that are characters of their own, full width, or words that are spelt with
//! spaces, digits or signs in them, or spread over two strings.

use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, BuildError};
use protocol::format::{Data, Format};
use protocol::settings::{Filter, Filtered, Words};

use crate::client::Token;
use crate::client::behind_string;

/// A string in JSON that stands for bytes.
const BIN: &str = "$bin";

/// For people whose message is rejected.
pub const NOT_SAID: &str = "a word in it is not to be said here";

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is said as it is.
    Clean,
    /// It is said so.
    Masked(Vec<u8>),
    Rejected,
    Held,
    /// That is not known yet.
    Waits,
}

/// All lists, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Filters(Vec<List>);

#[derive(Debug)]
struct List {
    filter: Filter,
    words: Looked,
}

/// What is looked for.
#[derive(Clone, Debug)]
enum Looked {
    /// It is being [made ready](crate::lists).
    NotYet,
    Nothing,
    /// Filters with the same list share it.
    Words(Arc<AhoCorasick>),
}

impl Filters {
    /// Those of which nothing is known yet but that they are there.
    #[must_use]
    pub fn not_yet(filters: &[Filter]) -> Filters {
        let lists = filters.iter().map(|filter| List {
            filter: filter.clone(),
            words: Looked::NotYet,
        });
        Filters(lists.collect())
    }

    /// `read`: the text of a list, one word a line.
    #[must_use]
    pub fn new(filters: &[Filter], read: impl Fn(Words) -> Vec<u8>) -> Filters {
        let mut made: Vec<(Vec<u8>, Looked)> = Vec::new();
        let lists = filters.iter().map(|filter| {
            let list = read(filter.words);
            let same = made.iter().find(|(other, _)| *other == list);
            let words = match same {
                Some((_, words)) => words.clone(),
                None => words(&list).unwrap_or_else(|error| {
                    log::error!("a list of words cannot be used: {error}");
                    Looked::Nothing
                }),
            };
            made.push((list, words.clone()));
            List {
                filter: filter.clone(),
                words,
            }
        });
        Filters(lists.collect())
    }

    /// What becomes of what is sent to a room, by the first list that says more than to mask it.
    /// `moderates`: what the sender says is not held back.
    #[must_use]
    pub fn judge(&self, room: &str, data: Data<'_>, moderates: bool) -> Verdict {
        let mut masked: Option<Vec<u8>> = None;
        for list in &self.0 {
            if matches!(list.words, Looked::Nothing) {
                continue;
            }
            let then = list.filter.then;
            let is_free = then == Filtered::Hold && moderates;
            if is_free || !list.filter.rooms.matches(room.as_bytes()) {
                continue;
            }
            let Looked::Words(words) = &list.words else {
                return Verdict::Waits;
            };
            let bytes = masked.as_deref().unwrap_or(data.bytes);
            let finder = Finder {
                words,
                whole: list.filter.whole_words,
                masks: then == Filtered::Mask,
            };
            let found = match data.format {
                Format::Json => finder.json(bytes),
                Format::Msgpack => finder.msgpack(bytes),
            };
            match (found, then) {
                (None, _) => {}
                (Some(_), Filtered::Reject) => return Verdict::Rejected,
                (Some(_), Filtered::Hold) => return Verdict::Held,
                (Some(with_stars), Filtered::Mask) => masked = Some(with_stars),
            }
        }
        masked.map_or(Verdict::Clean, Verdict::Masked)
    }
}

fn words(text: &[u8]) -> Result<Looked, BuildError> {
    let text = String::from_utf8_lossy(text);
    let words = text.lines().map(str::trim).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(folded).collect();
    if words.is_empty() {
        return Ok(Looked::Nothing);
    }
    AhoCorasick::new(words).map(|words| Looked::Words(Arc::new(words)))
}

fn fold(c: char) -> char {
    match c {
        'ς' => 'σ',
        'ſ' => 's',
        c if c.is_ascii() => c.to_ascii_lowercase(),
        c => {
            let mut lower = c.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(lower), None) => lower,
                // Of several characters: it stays as it is.
                _ => c,
            }
        }
    }
}

fn folded(text: &str) -> String {
    match text.is_ascii() {
        true => text.to_ascii_lowercase(),
        false => text.chars().map(fold).collect(),
    }
}

/// Looks for the words of one list.
struct Finder<'a> {
    words: &'a AhoCorasick,
    whole: bool,
    /// What is found is wanted with stars in its place; if not, it is enough to find one.
    masks: bool,
}

/// A value as it was, up to what was changed in it.
struct Copy<'a> {
    from: &'a [u8],
    copied: usize,
    into: Vec<u8>,
}

impl<'a> Copy<'a> {
    fn of(from: &'a [u8]) -> Copy<'a> {
        Copy {
            from,
            copied: 0,
            into: Vec::new(),
        }
    }

    /// In place of a part.
    fn replace(&mut self, part: Range<usize>) -> &mut Vec<u8> {
        self.into
            .extend_from_slice(&self.from[self.copied..part.start]);
        self.copied = part.end;
        &mut self.into
    }

    /// `None`: nothing was changed.
    fn done(mut self) -> Option<Vec<u8>> {
        if self.copied == 0 {
            return None;
        }
        let end = self.from.len();
        self.replace(end..end);
        Some(self.into)
    }
}

impl Finder<'_> {
    /// `None`: no word is in this value, which is JSON as it was checked when it came in.
    fn json(&self, json: &[u8]) -> Option<Vec<u8>> {
        let mut copy = Copy::of(json);
        let mut rest = json;
        let mut is_bin = false;
        while let Some(quote) = memchr::memchr(b'"', rest) {
            let string = &rest[quote + 1..];
            let behind = behind_string(string);
            let start = json.len() - string.len();
            let end = json.len() - behind.len();
            rest = behind;
            let Some(raw) = json.get(start..end.saturating_sub(1)) else {
                break;
            };
            let Ok(raw) = str::from_utf8(raw) else {
                break;
            };
            if behind.trim_ascii_start().first() == Some(&b':') {
                is_bin = raw == BIN;
                continue;
            }
            if std::mem::take(&mut is_bin) {
                continue;
            }
            let escaped = raw.contains('\\').then(|| unescaped(raw));
            let text = escaped.as_ref().map_or(raw, |(text, _)| text.as_str());
            let Some(found) = self.find(text) else {
                continue;
            };
            let into = copy.replace(start..end - 1);
            if !self.masks {
                break;
            }
            // What stands for each character.
            let mut ends = escaped.iter().flat_map(|(_, ends)| ends.iter().copied());
            let mut from = 0;
            for (at, c) in text.char_indices() {
                let to = ends.next().unwrap_or(at + c.len_utf8());
                match found.contains(at) {
                    true => into.push(b'*'),
                    false => into.extend_from_slice(&raw.as_bytes()[from..to]),
                }
                from = to;
            }
        }
        copy.done()
    }

    /// The same of MessagePack.
    fn msgpack(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut copy = Copy::of(bytes);
        // Of what is open: values that are left, and whether every other one is a key.
        let mut open: Vec<(u64, bool)> = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let is_key = open
                .last()
                .is_some_and(|(left, is_map)| *is_map && left % 2 == 0);
            let start = bytes.len() - rest.len();
            let Some(token) = Token::take(&mut rest) else {
                break;
            };
            let end = bytes.len() - rest.len();
            if let Token::Str(s) = token
                && !is_key
                && let Ok(text) = str::from_utf8(s)
                && let Some(found) = self.find(text)
            {
                let into = copy.replace(start..end);
                if !self.masks {
                    break;
                }
                let put = rmp::encode::write_str(into, &found.masked(text));
                debug_assert!(put.is_ok(), "a Vec is never full");
            }
            let (left, is_map) = match token {
                Token::Array(items) => (u64::from(items), false),
                Token::Map(fields) => (2 * u64::from(fields), true),
                _ => (0, false),
            };
            if left > 0 {
                open.push((left, is_map));
                continue;
            }
            while let Some((left, _)) = open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                open.pop();
            }
        }
        copy.done()
    }

    /// Where in a text the words are.
    fn find(&self, text: &str) -> Option<Found> {
        let folded = folded(text);
        let mut found: Vec<Range<usize>> = Vec::new();
        for one in self.words.find_overlapping_iter(&folded) {
            if self.whole && !is_whole(&folded, one.range()) {
                continue;
            }
            match found.last_mut() {
                // They come by their ends; one that begins before others takes them up.
                Some(last) if one.start() <= last.end => {
                    let mut start = last.start.min(one.start());
                    while let Some(last) = found.last()
                        && last.end >= start
                    {
                        start = start.min(last.start);
                        found.pop();
                    }
                    found.push(start..one.end());
                }
                _ => found.push(one.range()),
            }
            if !self.masks {
                break;
            }
        }
        if found.is_empty() {
            return None;
        }
        if folded.len() == text.len() && text.is_ascii() {
            return Some(Found(found));
        }
        // Where that is in the text as it was.
        let mut places = found.into_iter();
        let mut place = places.next();
        let mut at = 0;
        let mut original: Vec<Range<usize>> = Vec::new();
        for (here, c) in text.char_indices() {
            while place.as_ref().is_some_and(|place| place.end <= at) {
                place = places.next();
            }
            if place.as_ref().is_some_and(|place| place.start <= at) {
                original.push(here..here + c.len_utf8());
            }
            at += fold(c).len_utf8();
        }
        Some(Found(original))
    }
}

/// No letter and no digit is next to it.
fn is_whole(text: &str, place: Range<usize>) -> bool {
    let before = text[..place.start].chars().next_back();
    let behind = text[place.end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !behind.is_some_and(char::is_alphanumeric)
}

/// Places in a text, in order, none of which overlap.
struct Found(Vec<Range<usize>>);

impl Found {
    fn contains(&self, at: usize) -> bool {
        let behind = self.0.partition_point(|place| place.end <= at);
        self.0.get(behind).is_some_and(|place| place.start <= at)
    }

    fn masked(&self, text: &str) -> String {
        let masked = text.char_indices().map(|(at, c)| match self.contains(at) {
            true => '*',
            false => c,
        });
        masked.collect()
    }
}

/// What a string of JSON means, and behind which of its bytes each character ends. Half a surrogate pair
/// is U+FFFD.
fn unescaped(raw: &str) -> (String, Vec<usize>) {
    let (mut text, mut ends) = (String::with_capacity(raw.len()), Vec::new());
    let bytes = raw.as_bytes();
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(c) = raw[at..].chars().next() {
        let (c, len) = match (c, bytes.get(at + 1)) {
            ('\\', Some(b'u')) => match (unit(at), unit(at + 6)) {
                (Some(high), Some(low)) if is_pair(high, low) => {
                    let pair = char::decode_utf16([high, low]).next().and_then(Result::ok);
                    (pair.unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                (Some(unit), _) => {
                    let c = char::from_u32(unit.into());
                    (c.unwrap_or(char::REPLACEMENT_CHARACTER), 6)
                }
                (None, _) => (c, 1),
            },
            ('\\', Some(escape)) => match escape {
                b'n' => ('\n', 2),
                b't' => ('\t', 2),
                b'r' => ('\r', 2),
                b'b' => ('\u{8}', 2),
                b'f' => ('\u{c}', 2),
                b'"' | b'\\' | b'/' => (char::from(*escape), 2),
                _ => (c, 1),
            },
            (c, _) => (c, c.len_utf8()),
        };
        text.push(c);
        at += len;
        ends.push(at);
    }
    (text, ends)
}

fn is_pair(high: u16, low: u16) -> bool {
    (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(&low)
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
