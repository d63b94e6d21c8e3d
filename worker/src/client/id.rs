//! What a client calls a request by, to find the answer to it.

use std::borrow::Cow;

use super::write;

/// Bytes of an id that is a string.
const MAX_STRING: usize = 64;

/// 2^53 − 1: the last integer that every JavaScript client holds exactly.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// An integer from 0 to 2^53 − 1, or a string of up to 64 bytes; kept as the JSON text that the
/// answer carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id<'a>(Cow<'a, str>);

impl<'a> Id<'a> {
    /// Bytes of one that is a string.
    pub(super) const MAX_STRING: usize = MAX_STRING;

    /// Bytes of [`text`](Id::text) at most: the quotes, and each byte as `\u00XX`.
    pub const MAX_TEXT: usize = 2 + 6 * MAX_STRING;

    /// From one JSON value, without whitespace around it.
    pub(super) fn parse(json: &'a str) -> Option<Id<'a>> {
        if json.starts_with('"') {
            let string = super::json::string(json, MAX_STRING)?;
            let text = match string {
                // Without escapes, what stands there is the only way to write it.
                Cow::Borrowed(_) => Cow::Borrowed(json),
                Cow::Owned(string) => return Some(Id::string(&string)),
            };
            return Some(Id(text));
        }
        // `1.0` and `1e3` are integers in mathematics only.
        let digits = json.bytes().all(|b| b.is_ascii_digit());
        let integer: u64 = json.parse().ok()?;
        (digits && integer <= MAX_INTEGER).then_some(Id(Cow::Borrowed(json)))
    }

    /// This string, of up to [`MAX_STRING`](Id::MAX_STRING) bytes.
    pub(super) fn string(string: &str) -> Id<'static> {
        Id(Cow::Owned(write::quoted(string)))
    }

    pub(super) fn number(n: u64) -> Option<Id<'static>> {
        (n <= MAX_INTEGER).then(|| Id(Cow::Owned(n.to_string())))
    }

    /// As JSON: `3`, `"a"`.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
