//! What is compressed can be inflated, and what cannot be inflated is found.

use protocol::random::Random;

use super::*;

/// RFC 7692, 7.2.3: "Hello", and nothing.
const EXAMPLES: &[(&[u8], &[u8])] = &[
    (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
    // Two blocks.
    (
        &[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ],
        b"Hello",
    ),
    // Not compressed.
    (
        &[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ],
        b"Hello",
    ),
    // "BFINAL", and an empty block behind it.
    (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
    // ... and none, as some do.
    (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
    // ... and the message goes on behind it.
    (
        &[
            0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00,
        ],
        b"HelloHello",
    ),
    (&[0x00], b""),
    (&[], b""),
];

fn settings(from: usize) -> Level {
    Level { level: 3, from }
}

/// In parts of `size` bytes.
fn inflate(inflater: &mut Inflater, payload: &[u8], size: usize) -> Result<Vec<u8>, Malformed> {
    inflater.begin();
    let mut plain = Vec::new();
    let mut part = vec![0xee; size];
    loop {
        let before = (inflater.read(), plain.len());
        match inflater.go_on(payload, &mut part)? {
            Inflated::Whole(n) => {
                plain.extend_from_slice(&part[..n]);
                return Ok(plain);
            }
            Inflated::Part(n) => plain.extend_from_slice(&part[..n]),
        }
        assert_ne!((inflater.read(), plain.len()), before, "it goes on");
    }
}

/// As any client compresses it.
pub fn deflated(plain: &[u8], level: u32) -> Vec<u8> {
    let mut zlib = Compress::new(Compression::new(level), false);
    let mut payload = vec![0; plain.len() * 2 + 64];
    zlib.compress(plain, &mut payload, FlushCompress::Sync)
        .unwrap();
    payload.truncate(zlib.total_out() as usize);
    payload.strip_suffix(&TAIL).unwrap().to_vec()
}

/// Bytes that repeat themselves here and there, the same for the same seed.
fn message(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut next = move || random.next();
    let words: Vec<_> = (0..20)
        .map(|_| format!("{:x} ", next() & 0xffff_ffff))
        .collect();
    let mut message = Vec::new();
    while message.len() < len {
        match next() % 8 {
            0 => message.extend_from_slice(&next().to_le_bytes()),
            _ => message.extend_from_slice(words[(next() % 20) as usize].as_bytes()),
        }
    }
    message.truncate(len);
    message
}

#[test]
fn the_examples_of_the_rfc_are_inflated() {
    let mut inflater = Inflater::default();
    for (payload, plain) in EXAMPLES {
        for size in [1, 2, 3, 100] {
            let inflated = inflate(&mut inflater, payload, size);
            assert_eq!(inflated.as_deref(), Ok(*plain), "{payload:x?} by {size}");
        }
    }
}

#[test]
fn a_message_that_is_cut_is_none() {
    let mut inflater = Inflater::default();
    let payload = deflated(&message(7, 3000), 6);
    for cut in 1..payload.len() {
        assert_eq!(
            inflate(&mut inflater, &payload[..cut], 512),
            Err(Malformed),
            "{cut}"
        );
    }
    for noise in [
        &b"plain text"[..],
        &[0xff; 40],
        &[0x07],
        &[0x01],
        b"\x00\x01\x00\xff\xff",
    ] {
        assert_eq!(
            inflate(&mut inflater, noise, 512),
            Err(Malformed),
            "{noise:x?}"
        );
    }
    // What was wrong leaves nothing behind.
    assert_eq!(
        inflate(&mut inflater, &payload, 512).as_deref(),
        Ok(&*message(7, 3000))
    );
}

#[test]
fn what_says_nothing_is_looked_at_in_parts() {
    for (block, most) in [(&b"\x00\x00\x00\xff\xff"[..], 5), (b"\x03\x00", 5)] {
        let mut payload = block.repeat(4 * STRIDE / block.len());
        payload.push(0);
        let mut inflater = Inflater::default();
        inflater.begin();
        let mut parts = 0;
        while inflater.go_on(&payload, &mut [0; 8]).unwrap() != Inflated::Whole(0) {
            parts += 1;
        }
        assert!((3..=most).contains(&parts), "{parts}");
    }
}

/// A brain renders again what one before it has written a part of.
#[test]
fn the_bytes_depend_on_the_message_alone() {
    for level in [1, 3, 6, 9] {
        let level = Level { level, from: 0 };
        let mut used = Deflater::new(level);
        for seed in 0..600 {
            let len = match seed % 50 {
                0 => 70_000,
                1 => 9000,
                _ => seed * 37 % 1500,
            };
            let message = message(seed, len as usize);
            let again = used.deflate(&message).map(<[u8]>::to_vec);
            let mut fresh = Deflater::new(level);
            assert_eq!(fresh.deflate(&message), again.as_deref(), "{seed}");
        }
    }
}

/// Noise, as what is encrypted or has been compressed already.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Each of them ends in the middle of nothing: the hundredth is compressed as the first.
#[test]
fn what_does_not_become_shorter_leaves_nothing_behind() {
    for level in 1..=9 {
        let level = Level { level, from: 0 };
        let mut used = Deflater::new(level);
        for seed in 0..200 {
            let len = match seed % 20 {
                0 => 60_000 + seed as usize * 30,
                1 => 15_900,
                _ => 1000,
            };
            assert_eq!(used.deflate(&noise(seed, len)), None, "{level:?}, {seed}");
            if seed % 7 == 0 {
                let message = message(seed, 1500);
                let again = used.deflate(&message).map(<[u8]>::to_vec);
                let mut fresh = Deflater::new(level);
                assert_eq!(
                    fresh.deflate(&message),
                    again.as_deref(),
                    "{level:?}, {seed}"
                );
            }
        }
    }
}

#[test]
fn frames_are_compressed_where_that_is_worth_it() {
    let frame = |first: u8, payload: &[u8]| {
        let mut frame = Vec::new();
        frame::put_frame(&mut frame, (first & 15).into(), payload).unwrap();
        frame
    };
    let short = b"short ".repeat(3);
    let middle = b"middle ".repeat(50);
    let long = message(1, 80_000);
    let noise: Vec<u8> = message(2, 16_000)
        .chunks(16)
        .map(|c| {
            c.iter()
                .fold(0, |a: u8, b| a.wrapping_mul(31).wrapping_add(*b))
        })
        .collect();
    let frames = [
        frame(1, &short),
        frame(9, b"ping"),
        frame(1, &middle),
        frame(2, &noise),
        frame(2, &long),
        frame(8, b"\x03\xe8"),
    ]
    .concat();
    let mut inflater = Inflater::default();
    for (window, compressed) in [
        (15, [false, false, true, false, true, false]),
        (9, [false, false, true, false, false, false]),
    ] {
        let mut out = b"before".to_vec();
        let window = Window::new(window).unwrap();
        Deflater::new(settings(100)).put_frames(&frames, window, &mut out);
        let mut rest = &out[6..];
        let plain = [&short[..], b"ping", &middle, &noise, &long, b"\x03\xe8"];
        for (plain, compressed) in plain.into_iter().zip(compressed) {
            let (first, head, len) = frame::parse(rest).unwrap();
            let payload = &rest[head..head + len];
            assert_eq!(first & 0x40 != 0, compressed);
            match compressed {
                true => {
                    assert!(len < plain.len());
                    assert_eq!(inflate(&mut inflater, payload, 1000).unwrap(), plain);
                    let mut client = Decompress::new_with_window_bits(false, window.bits());
                    let mut all = vec![0; plain.len()];
                    let whole = [payload, &TAIL].concat();
                    client
                        .decompress(&whole, &mut all, FlushDecompress::Sync)
                        .unwrap();
                    assert_eq!(all, plain);
                }
                false => assert_eq!(payload, plain),
            }
            rest = &rest[head + len..];
        }
        assert!(rest.is_empty());
    }
}
