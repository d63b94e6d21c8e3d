//! Masking (RFC 6455, 5.3): every byte of a client's payload is XORed with one of four.
//!
//! This is done to all that clients send, so it is written for the vectoriser: words of constant
//! size without a branch.

const WORD: usize = 8;

/// The mask for the bytes behind the first `n`.
#[must_use]
pub fn rotate(mask: [u8; 4], n: usize) -> [u8; 4] {
    let bits = 8 * (n as u32 & 3);
    u32::from_le_bytes(mask).rotate_right(bits).to_le_bytes()
}

fn word(mask: [u8; 4]) -> u64 {
    let half = u64::from(u32::from_ne_bytes(mask));
    half << 32 | half
}

/// Writes `input`, unmasked, to `out`, which is as long.
pub fn unmask(input: &[u8], mask: [u8; 4], out: &mut [u8]) {
    debug_assert_eq!(input.len(), out.len());
    let key = word(mask);
    let (words, tail) = input.as_chunks::<WORD>();
    let (out_words, _) = out.as_chunks_mut::<WORD>();
    for (to, from) in out_words.iter_mut().zip(words) {
        *to = (u64::from_ne_bytes(*from) ^ key).to_ne_bytes();
    }
    if tail.is_empty() {
        return;
    }
    match (input.last_chunk::<WORD>(), out.last_chunk_mut::<WORD>()) {
        // What is left ends a word, whose begin is done once more.
        (Some(from), Some(to)) => {
            let key = word(rotate(mask, input.len()));
            *to = (u64::from_ne_bytes(*from) ^ key).to_ne_bytes();
        }
        _ => {
            for (i, (to, from)) in out.iter_mut().zip(tail).enumerate() {
                *to = from ^ mask[i & 3];
            }
        }
    }
}

/// Is `input`, unmasked, ASCII all through?
#[must_use]
pub fn is_ascii(input: &[u8], mask: [u8; 4]) -> bool {
    let key = word(mask);
    let (words, tail) = input.as_chunks::<WORD>();
    let mut seen = 0;
    for from in words {
        seen |= u64::from_ne_bytes(*from) ^ key;
    }
    match input.last_chunk::<WORD>() {
        _ if tail.is_empty() => {}
        // As in `unmask`.
        Some(from) => seen |= u64::from_ne_bytes(*from) ^ word(rotate(mask, input.len())),
        None => {
            for (i, from) in tail.iter().enumerate() {
                seen |= u64::from(from ^ mask[i & 3]);
            }
        }
    }
    seen & 0x8080_8080_8080_8080 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x80, 0x01, 0xfe, 0x37];

    fn plainly(input: &[u8]) -> Vec<u8> {
        (0..).zip(input).map(|(i, b)| b ^ MASK[i % 4]).collect()
    }

    #[test]
    fn unmasks_every_length() {
        for len in 0..70 {
            let input: Vec<u8> = (0..len).map(|i| (i * 37) as u8).collect();
            let mut out = vec![0; input.len()];
            unmask(&input, MASK, &mut out);
            assert_eq!(out, plainly(&input));
        }
    }

    #[test]
    fn unmasks_from_any_place() {
        let input: Vec<u8> = (0..40).collect();
        for n in 0..input.len() {
            let mut out = vec![0; input.len() - n];
            unmask(&input[n..], rotate(MASK, n), &mut out);
            assert_eq!(out, plainly(&input)[n..]);
        }
    }

    #[test]
    fn finds_the_one_byte_that_is_not_ascii() {
        for len in 1..70 {
            let mut text = vec![b'a'; len];
            assert!(is_ascii(&plainly(&text), MASK));
            for at in 0..len {
                text[at] = 0x80;
                assert!(!is_ascii(&plainly(&text), MASK), "{at} of {len}");
                text[at] = b'a';
            }
        }
    }
}
