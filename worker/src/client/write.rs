//! How JSON is written: in pieces, to whatever takes bytes. Once to count them, once to write them
//! into room that is exactly as large.

/// Takes bytes. It cannot fail.
pub(crate) trait Sink {
    fn add(&mut self, bytes: &[u8]);

    fn number(&mut self, n: u64) {
        self.add(itoa::Buffer::new().format(n).as_bytes());
    }

    /// A string, of UTF-8, in quotes and with its escapes.
    fn string(&mut self, s: &[u8]) {
        self.add(b"\"");
        let mut rest = s;
        while let Some(at) = rest.iter().position(|&b| must_be_escaped(b)) {
            self.add(&rest[..at]);
            let b = rest[at];
            match b {
                b'"' | b'\\' => self.add(&[b'\\', b]),
                b'\n' => self.add(b"\\n"),
                b'\r' => self.add(b"\\r"),
                b'\t' => self.add(b"\\t"),
                _ => {
                    let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                    self.add(&[b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b & 15)]);
                }
            }
            rest = &rest[at + 1..];
        }
        self.add(rest);
        self.add(b"\"");
    }
}

/// RFC 8259, 7: "the characters that MUST be escaped: quotation mark, reverse solidus, and the
/// control characters (U+0000 through U+001F)".
fn must_be_escaped(b: u8) -> bool {
    b < 0x20 || b == b'"' || b == b'\\'
}

/// `s` as a JSON string.
pub(super) fn quoted(s: &str) -> String {
    let mut bytes = Vec::new();
    bytes.string(s.as_bytes());
    // Escapes are ASCII, and what is between them is as it was.
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Sink for Vec<u8> {
    fn add(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Only counts.
pub(super) struct Count(pub usize);

impl Sink for Count {
    fn add(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Fills room from its start.
pub(super) struct Fill<'a>(pub &'a mut [u8]);

impl Sink for Fill<'_> {
    fn add(&mut self, bytes: &[u8]) {
        let room = std::mem::take(&mut self.0);
        let (to, rest) = room.split_at_mut(bytes.len());
        to.copy_from_slice(bytes);
        self.0 = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        for s in ["", "plain", "\"", "\\", "a\"b\\c\nd", "弾幕", &all] {
            let json = quoted(s);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), s);
            let mut count = Count(0);
            count.string(s.as_bytes());
            assert_eq!(count.0, json.len());
        }
    }
}
