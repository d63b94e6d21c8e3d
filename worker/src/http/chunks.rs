//! The chunked transfer coding (RFC 9112, 7.1), read byte by byte between the runs of data.
//!
//! Extensions and trailer fields are checked, bounded and ignored.

use protocol::output::Full;

use super::head::{is_field_text, is_token};
use super::turn::Stop;
use crate::close::CloseReason;

/// Where we are in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Chunks {
    at: At,
    /// Of the current chunk: its size as far as it is read, then what is still to come.
    left: u32,
    /// Bytes of data before the current chunk.
    before: u32,
    /// Bytes of extensions, trailer fields and leading zeros, in 24 bits.
    beside: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
enum At {
    /// Before the first digit of a size.
    #[default]
    Size,
    /// Behind it.
    Digits,
    /// In blanks between a size and the `;` of its extension.
    Blank,
    Extension,
    /// Before the LF of a size's line.
    SizeEnd,
    Data,
    /// Before the CR behind the data.
    DataEnd,
    /// Before the LF behind the data.
    DataEndLf,
    /// Before a trailer field, or the CR of the end.
    Trailer,
    TrailerName,
    TrailerValue,
    /// Before the LF of a trailer field.
    TrailerEnd,
    /// Before the very last LF.
    End,
}

const ALL: [At; 13] = [
    At::Size,
    At::Digits,
    At::Blank,
    At::Extension,
    At::SizeEnd,
    At::Data,
    At::DataEnd,
    At::DataEndLf,
    At::Trailer,
    At::TrailerName,
    At::TrailerValue,
    At::TrailerEnd,
    At::End,
];

/// What one body may hold, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of data.
    pub data: u64,
    /// Of all that is neither data nor the sizes' digits.
    pub beside: usize,
}

impl Chunks {
    /// Reads on in `input` and hands the data in it to `sink`. Returns how much is dealt with, and
    /// whether the body is complete.
    pub fn advance(
        &mut self,
        input: &[u8],
        limits: Limits,
        mut sink: impl FnMut(&[u8]) -> Result<(), Full>,
    ) -> Result<(usize, bool), Stop> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if self.at == At::Data {
                let run = (input.len() - at).min(self.left as usize);
                sink(&input[at..at + run])?;
                at += run;
                self.left -= run as u32;
                self.before += run as u32;
                if self.left == 0 {
                    self.at = At::DataEnd;
                }
                continue;
            }
            at += 1;
            if self.at == At::End && byte == b'\n' {
                return Ok((at, true));
            }
            self.at = self.next(byte, limits)?;
        }
        Ok((at, false))
    }

    /// Where `byte`, which is not data, leads.
    fn next(&mut self, byte: u8, limits: Limits) -> Result<At, CloseReason> {
        Ok(match (self.at, byte) {
            (At::Size | At::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(byte, limits)?;
                At::Digits
            }
            (At::Digits, b'\r') => At::SizeEnd,
            (At::Digits | At::Blank, b' ' | b'\t') => {
                self.beside(limits)?;
                At::Blank
            }
            (At::Digits | At::Blank, b';') => At::Extension,
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, _) if is_field_text(byte) => {
                self.beside(limits)?;
                At::Extension
            }
            (At::SizeEnd, b'\n') if self.left == 0 => At::Trailer,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataEnd, b'\r') => At::DataEndLf,
            (At::DataEndLf, b'\n') => At::Size,
            (At::Trailer, b'\r') => At::End,
            (At::Trailer | At::TrailerName, _) if is_token(byte) => {
                self.beside(limits)?;
                At::TrailerName
            }
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerEnd,
            (At::TrailerValue, _) if is_field_text(byte) => {
                self.beside(limits)?;
                At::TrailerValue
            }
            (At::TrailerEnd, b'\n') => At::Trailer,
            (At::Trailer | At::TrailerName | At::TrailerValue | At::TrailerEnd, _) => {
                return Err(CloseReason::BadField);
            }
            _ => return Err(CloseReason::BadChunk),
        })
    }

    /// One digit more of a size. It is refused as soon as it is too much, so it cannot overflow.
    fn digit(&mut self, byte: u8, limits: Limits) -> Result<(), CloseReason> {
        if self.at == At::Digits && self.left == 0 {
            // Zeros at the start are allowed, and could go on for ever.
            self.beside(limits)?;
        }
        let digit = char::from(byte).to_digit(16).unwrap_or(0);
        let size = u64::from(self.left) * 16 + u64::from(digit);
        if u64::from(self.before) + size > limits.data.min(u64::from(u32::MAX)) {
            return Err(CloseReason::BodyTooLarge);
        }
        self.left = size as u32;
        Ok(())
    }

    fn beside(&mut self, limits: Limits) -> Result<(), CloseReason> {
        if self.beside as usize >= limits.beside.min((1 << 24) - 1) {
            return Err(CloseReason::HeadTooLarge);
        }
        self.beside += 1;
        Ok(())
    }

    /// In 32 and 64 bits.
    pub fn pack(self) -> (u32, u64) {
        let second = u64::from(self.before) | u64::from(self.beside) << 32 | (self.at as u64) << 56;
        (self.left, second)
    }

    pub fn unpack(left: u32, second: u64) -> Option<Chunks> {
        let chunks = Chunks {
            at: *ALL.get((second >> 56) as usize)?,
            left,
            before: second as u32,
            beside: (second >> 32) as u32 & 0xff_ffff,
        };
        // Both together are counted in 32 bits.
        chunks.before.checked_add(left)?;
        Some(chunks)
    }
}
