//! Is a text UTF-8? Told as it arrives: a byte that no continuation can make good is found at once.

use super::mask;

/// Unmasked at a time, to be looked at: small enough to cost nothing for a short text.
const BLOCK: usize = 512;

/// The text is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// How a text ended so far: the begin of a character, if it was cut there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    bytes: [u8; 3],
    len: u8,
}

impl Utf8 {
    /// Does the text end with a whole character?
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.len == 0
    }

    /// Goes on with `input`, unmasked.
    pub fn push_masked(&mut self, input: &[u8], mask: [u8; 4]) -> Result<(), Invalid> {
        // A block is a multiple of the mask, which is the same at each start.
        for block in input.chunks(BLOCK) {
            if self.is_whole() && mask::is_ascii(block, mask) {
                continue;
            }
            let mut plain = [0; BLOCK];
            let plain = &mut plain[..block.len()];
            mask::unmask(block, mask, plain);
            self.push(plain)?;
        }
        Ok(())
    }

    /// Goes on with `bytes`.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Invalid> {
        while !self.is_whole() {
            let Some((&first, rest)) = bytes.split_first() else {
                return Ok(());
            };
            let [a, b, c] = self.bytes;
            let mut character = [a, b, c, 0];
            let len = usize::from(self.len);
            character[len] = first;
            *self = Utf8::ending(&character[..=len])?;
            bytes = rest;
        }
        *self = Utf8::ending(bytes)?;
        Ok(())
    }

    /// How `bytes` end.
    fn ending(bytes: &[u8]) -> Result<Utf8, Invalid> {
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(Utf8::default()),
            // No length: more bytes could make it good. Those are at most three.
            Err(e) if e.error_len().is_none() => {
                let rest = &bytes[e.valid_up_to()..];
                let mut this = Utf8::default();
                this.bytes[..rest.len()].copy_from_slice(rest);
                this.len = rest.len() as u8;
                Ok(this)
            }
            Err(_) => Err(Invalid),
        }
    }

    /// In 26 bits.
    pub(super) fn pack(self) -> u64 {
        let [a, b, c] = self.bytes;
        u64::from(u32::from_le_bytes([a, b, c, self.len]))
    }

    /// What [`pack`](Utf8::pack) made; `None` for what it cannot make.
    pub(super) fn unpack(bits: u64) -> Option<Utf8> {
        let [a, b, c, len] = u32::try_from(bits).ok()?.to_le_bytes();
        let packed = Utf8 {
            bytes: [a, b, c],
            len,
        };
        let whole = Utf8::ending(packed.bytes.get(..usize::from(len))?).ok()?;
        (whole == packed).then_some(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts with every length of character, at the borders of what is allowed.
    const GOOD: &[&[u8]] = &[
        b"",
        b"plain",
        "κόσμε".as_bytes(),
        "弾幕コメント".as_bytes(),
        "a\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}z\0".as_bytes(),
    ];

    /// Bytes that are wrong, and how many of them must be seen to know.
    const BAD: &[(&[u8], usize)] = &[
        (b"\x80", 1),
        (b"a\xc0\xaf", 2),
        (b"\xc1", 1),
        (b"\xc3(", 2),
        (b"\xe0\x80\xaf", 2),
        (b"\xed\xa0\x80", 2),
        (b"\xe2\x82(", 3),
        (b"\xf0\x80\x80\xaf", 2),
        (b"\xf4\x90\x80\x80", 2),
        (b"\xf0\x9f\x98(", 4),
        (b"\xf5", 1),
        (b"\xff", 1),
    ];

    #[test]
    fn accepts_characters_cut_anywhere() {
        for text in GOOD {
            for i in 0..=text.len() {
                for j in i..=text.len() {
                    let mut utf8 = Utf8::default();
                    for part in [&text[..i], &text[i..j], &text[j..]] {
                        utf8.push(part).unwrap();
                        assert_eq!(Utf8::unpack(utf8.pack()), Some(utf8));
                    }
                    assert!(utf8.is_whole());
                }
            }
        }
    }

    #[test]
    fn refuses_at_the_byte_that_shows_it() {
        for &(text, known) in BAD {
            for cut in 0..known {
                let mut utf8 = Utf8::default();
                utf8.push(&text[..cut]).unwrap();
                utf8.push(&text[cut..known - 1]).unwrap();
                assert_eq!(
                    utf8.push(&text[known - 1..known]),
                    Err(Invalid),
                    "{text:x?}"
                );
            }
            assert_eq!(Utf8::default().push(text), Err(Invalid));
        }
    }

    #[test]
    fn masked_or_not_is_the_same() {
        let text = "ascii, then 日本語 and ascii again; ".repeat(40);
        for start in 0..60 {
            let plain = &text.as_bytes()[start..];
            let mask = [9, 0xf0, 0x81, 3];
            let mut masked = vec![0; plain.len()];
            mask::unmask(plain, mask, &mut masked);
            let (mut one, mut other) = (Utf8::default(), Utf8::default());
            assert_eq!(one.push_masked(&masked, mask), other.push(plain));
            assert_eq!(one, other);
        }
    }

    #[test]
    fn unpacks_only_what_it_packed() {
        for bits in [
            0x0000_00c3, // bytes, but no length
            0x0100_0041, // a whole character
            0x0200_28c3, // an invalid one
            0x0400_0000, // too many
            0x0182_82e2, // bytes behind its length
            0x1_0000_0000,
        ] {
            assert_eq!(Utf8::unpack(bits), None, "{bits:x}");
        }
    }
}
