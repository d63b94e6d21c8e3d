//! How a record lies: a kind, words, and parts of any length.

use crate::format::Format;

/// In a kind: the record's data is MessagePack. (Without it, it is what it was before there was any.)
pub const MSGPACK: u64 = 1 << 32;

/// The kind of a record with data in this format.
pub fn with_data(kind: u64, format: Format) -> u64 {
    match format {
        Format::Json => kind,
        Format::Msgpack => kind | MSGPACK,
    }
}

/// In which format a record's data is.
pub fn format_of(kind: u64) -> Format {
    match kind & MSGPACK {
        0 => Format::Json,
        _ => Format::Msgpack,
    }
}

/// kind · words · length of each part · the parts
pub fn put(into: &mut Vec<u8>, kind: u64, words: &[u64], parts: &[&[u8]]) {
    into.extend_from_slice(&kind.to_le_bytes());
    for word in words {
        into.extend_from_slice(&word.to_le_bytes());
    }
    for part in parts {
        into.extend_from_slice(&(part.len() as u64).to_le_bytes());
    }
    for part in parts {
        into.extend_from_slice(part);
    }
}

/// What has not been read yet of a record.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Its kind, and what is behind it.
    pub fn new(bytes: &'a [u8]) -> Option<(u64, Fields<'a>)> {
        let mut fields = Fields(bytes);
        let kind = fields.word()?;
        Some((kind, fields))
    }

    fn word(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    /// `W` words and `P` parts, and nothing behind them.
    pub fn take<const W: usize, const P: usize>(&mut self) -> Option<([u64; W], [&'a [u8]; P])> {
        let mut words = [0; W];
        for word in &mut words {
            *word = self.word()?;
        }
        let mut lengths = [0; P];
        for length in &mut lengths {
            *length = usize::try_from(self.word()?).ok()?;
        }
        let mut parts: [&[u8]; P] = [&[]; P];
        for (part, length) in parts.iter_mut().zip(lengths) {
            (*part, self.0) = self.0.split_at_checked(length)?;
        }
        self.0.is_empty().then_some((words, parts))
    }
}
