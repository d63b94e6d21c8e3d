//! Compression: the same bytes as an offer of it, as a compressed message and as a plain one.

use flate2::{Decompress, FlushDecompress};
use protocol::ids::Role;
use protocol::settings::Settings;
use worker::http::{self, Context, Next};
use worker::websocket::deflate::Level;
use worker::websocket::{Deflater, Inflated, Inflater, Window, frame};

/// - An offer is taken, not taken or refused, however it is spread over fields; what is taken is said.
/// - What a message inflates to does not depend on how much of it is asked for at once, it ends, and
///   another inflater says the same.
/// - What is compressed is what it was before, and the same bytes each time.
pub fn deflate(data: &[u8]) {
    let [size, data @ ..] = data else {
        return;
    };
    offer(data);
    let size = usize::from(*size) + 1;
    let whole = inflate(data, 4096);
    assert_eq!(whole, inflate(data, size), "by {size}");
    if let Some(plain) = &whole
        && !data.is_empty()
    {
        by_another(data, plain);
    }
    compress(data, size);
}

fn offer(data: &[u8]) {
    // What may be a field's value at all.
    let is_text = |byte: &&u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let offer: Vec<u8> = data.iter().filter(is_text).copied().collect();
    let one = handshake(&[&offer]);
    // A comma in quotes is none that separates; but it is no token either, so that both fail.
    let parts: Vec<&[u8]> = offer.split(|byte| *byte == b',').collect();
    if parts.len() < 50 {
        assert_eq!(handshake(&parts), one, "in parts");
    }
}

/// The window that is agreed on; `None`: the handshake is refused.
fn handshake(offers: &[&[u8]]) -> Option<Option<u8>> {
    let mut head =
        b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            .to_vec();
    for offer in offers {
        head.extend_from_slice(b"Sec-WebSocket-Extensions: ");
        head.extend_from_slice(offer);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let settings = Settings::default();
    let cx = Context {
        settings: &settings,
        role: Role::Public,
        whoami: "handled by worker 1 (pid 1)\n",
        date: "Sun, 06 Nov 1994 08:49:37 GMT",
        refuse: false,
        banned: false,
    };
    let (mut state, mut body, mut out) = (http::State::default(), Vec::new(), Vec::new());
    let step = http::step(&mut state, &head, &mut body, &mut out, &cx).expect("a Vec has room");
    let answer = String::from_utf8(out).expect("text");
    match step.next {
        Next::Upgrade(upgrade) => {
            let says = answer.contains("\r\nSec-WebSocket-Extensions: permessage-deflate; ");
            assert_eq!(says, upgrade.window.is_some(), "{answer}");
            Some(upgrade.window.map(Window::bits))
        }
        next => {
            assert!(answer.starts_with("HTTP/1.1 4"), "{next:?}: {answer}");
            None
        }
    }
}

/// In parts of `size` bytes, up to a limit.
fn inflate(payload: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut inflater = Inflater::default();
    inflater.begin();
    let (mut plain, mut part) = (Vec::new(), vec![0; size]);
    loop {
        let before = (inflater.read(), plain.len());
        match inflater.go_on(payload, &mut part).ok()? {
            Inflated::Whole(n) => {
                plain.extend_from_slice(&part[..n]);
                return Some(plain);
            }
            Inflated::Part(n) => plain.extend_from_slice(&part[..n]),
        }
        assert!((inflater.read(), plain.len()) > before, "it goes on");
        assert!(
            plain.len() <= 2000 * (payload.len() + 9),
            "more than deflate can say"
        );
    }
}

/// A message of one stream, as zlib alone inflates it.
fn by_another(payload: &[u8], plain: &[u8]) {
    let mut zlib = Decompress::new(false);
    let mut out = vec![0; plain.len() + 1];
    let bytes = [payload, &[0, 0, 0xff, 0xff]].concat();
    let status = zlib.decompress(&bytes, &mut out, FlushDecompress::Sync);
    // Another stream may follow behind its last block: of that it knows nothing.
    if status.is_ok() {
        let len = zlib.total_out() as usize;
        assert!(plain.starts_with(&out[..len]), "{plain:x?}");
    }
}

fn compress(plain: &[u8], size: usize) {
    let level = Level {
        level: 1 + size as u32 % 9,
        from: 0,
    };
    let mut deflater = Deflater::new(level);
    let mut frames = Vec::new();
    worker::websocket::binary(&mut frames, plain).expect("a Vec has room");
    let mut all = Vec::new();
    for window in [15, 8] {
        let window = Window::new(window).expect("a window");
        let start = all.len();
        deflater.put_frames(&frames, window, &mut all);
        let mut fresh = Vec::new();
        Deflater::new(level).put_frames(&frames, window, &mut fresh);
        assert_eq!(all[start..], fresh);
        let (first, head, len) = frame::parse(&fresh).expect("a whole frame");
        assert_eq!(head + len, fresh.len());
        assert!(fresh.len() <= frames.len());
        match first & 0x40 {
            0 => assert_eq!(fresh, frames),
            _ => {
                assert!(window.allows(plain.len()));
                assert_eq!(inflate(&fresh[head..], 512).as_deref(), Some(plain));
            }
        }
    }
}
