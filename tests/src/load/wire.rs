//! The bytes of a WebSocket as a client writes and reads them, without a socket.

use std::net::SocketAddr;

use super::{Fault, Kind, Random};
use crate::deflate;
use crate::websocket::handshake;

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
const FIN: u8 = 0x80;
/// Of the first frame of a message that is compressed.
const COMPRESSED: u8 = 0x40;

/// Appends the request that opens a WebSocket.
pub fn put_handshake(to: SocketAddr, path: &str, out: &mut Vec<u8>) {
    out.extend(handshake(to, path).as_bytes());
}

/// The same, with more fields.
pub fn put_handshake_with(to: SocketAddr, path: &str, fields: &[(&str, &str)], out: &mut Vec<u8>) {
    put_handshake(to, path, out);
    // They come before the empty line.
    out.truncate(out.len() - 2);
    for (name, value) in fields {
        out.extend(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend(b"\r\n");
}

/// Appends a message, compressed, as [`put_message`] appends others.
pub fn put_deflated(
    random: &mut Random,
    opcode: u8,
    plain: &[u8],
    frames: usize,
    out: &mut Vec<u8>,
    between: impl FnMut(&mut Random, &mut Vec<u8>),
) {
    let payload = deflate::deflate(plain, random.between(1, 9) as u32);
    put_message(random, opcode | COMPRESSED, &payload, frames, out, between);
}

/// Appends one masked frame.
pub fn put_frame(random: &mut Random, first: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    let mask = (random.next() as u32).to_be_bytes();
    out.extend(mask);
    let start = out.len();
    out.extend(payload);
    for (byte, mask) in out[start..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends a message in so many frames, cut anywhere; `between` may put control frames there.
pub fn put_message(
    random: &mut Random,
    opcode: u8,
    payload: &[u8],
    frames: usize,
    out: &mut Vec<u8>,
    mut between: impl FnMut(&mut Random, &mut Vec<u8>),
) {
    let mut cuts: Vec<usize> = (1..frames)
        .map(|_| random.between(0, payload.len()))
        .collect();
    cuts.sort_unstable();
    cuts.push(payload.len());
    let last = cuts.len() - 1;
    let mut start = 0;
    for (number, end) in cuts.into_iter().enumerate() {
        let opcode = if number == 0 { opcode } else { 0 };
        let fin = if number == last { FIN } else { 0 };
        put_frame(random, fin | opcode, &payload[start..end], out);
        if number != last {
            between(random, out);
        }
        start = end;
    }
}

/// Appends a control frame.
pub fn put_control(random: &mut Random, opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    put_frame(random, FIN | opcode, payload, out);
}

/// What comes from the server, put together again.
#[derive(Debug, Default)]
pub struct Incoming {
    open: bool,
    /// Messages may come compressed, and so many have.
    deflates: bool,
    pub inflated: u64,
    unread: Vec<u8>,
    /// Of `unread`, what has been taken.
    taken: usize,
    /// The opcode (with the bit of what is compressed) and the payload of the message whose last frame is not there yet.
    partial: Option<(u8, Vec<u8>)>,
}

/// A whole message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Incomer {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Incoming {
    /// The handshake has been answered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.drain(..self.taken);
        self.taken = 0;
        self.unread.extend(bytes);
    }

    /// The next that is whole.
    pub fn take(&mut self) -> Result<Option<Incomer>, Fault> {
        if !self.open && !self.opens()? {
            return Ok(None);
        }
        while let Some((first, payload)) = self.frame()? {
            let compressed = if self.deflates { COMPRESSED } else { 0 };
            let opcode = first & (0x0f | compressed);
            if first & 0x70 & !compressed != 0 {
                return Err(wrong(format!("a frame that begins with {first:#04x}")));
            }
            if (CLOSE..COMPRESSED).contains(&opcode) {
                return Ok(Some(Incomer { opcode, payload }));
            }
            let (opcode, payload) = match (opcode, self.partial.take()) {
                (0, Some((opcode, mut start))) => {
                    start.extend(payload);
                    (opcode, start)
                }
                (_, None) if matches!(opcode & 0x0f, TEXT | BINARY) => (opcode, payload),
                (_, partial) => {
                    let what = if partial.is_some() {
                        "inside"
                    } else {
                        "before"
                    };
                    return Err(wrong(format!("opcode {opcode} {what} a message")));
                }
            };
            if first & FIN != 0 && opcode & COMPRESSED != 0 {
                self.inflated += 1;
                let payload = deflate::inflate(&payload, 15)
                    .map_err(|error| wrong(format!("a compressed message: {error}")))?;
                let opcode = opcode & !COMPRESSED;
                return Ok(Some(Incomer { opcode, payload }));
            }
            if first & FIN != 0 {
                return Ok(Some(Incomer { opcode, payload }));
            }
            self.partial = Some((opcode, payload));
        }
        Ok(None)
    }

    fn opens(&mut self) -> Result<bool, Fault> {
        let end = self.unread.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else { return Ok(false) };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        // What RFC 6455 makes of the key that every handshake of ours has.
        let accepts = head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        if !head.starts_with("HTTP/1.1 101 ") || !accepts {
            return Err(Fault::new(Kind::Refused, format!("handshake: {head:?}")));
        }
        self.deflates = head.contains("\r\nSec-WebSocket-Extensions: permessage-deflate;");
        self.taken = end + 4;
        self.open = true;
        Ok(true)
    }

    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Fault> {
        let unread = &self.unread[self.taken..];
        let [first, second, ..] = *unread else {
            return Ok(None);
        };
        let (head, length) = match second {
            0..=125 => (2, usize::from(second)),
            126 => match unread[2..].first_chunk() {
                Some(length) => (4, usize::from(u16::from_be_bytes(*length))),
                None => return Ok(None),
            },
            127 => match unread[2..].first_chunk() {
                Some(length) => (10, u64::from_be_bytes(*length) as usize),
                None => return Ok(None),
            },
            _ => return Err(wrong(format!("a mask bit: {first:#04x} {second:#04x}"))),
        };
        if length > 1 << 20 {
            return Err(wrong(format!("a frame of {length} bytes")));
        }
        let Some(payload) = unread.get(head..head + length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.taken += head + length;
        Ok(Some((first, payload)))
    }
}

fn wrong(what: String) -> Fault {
    Fault::new(Kind::Wrong, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_sends_is_put_together_however_it_is_cut() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            .to_vec();
        stream.extend([0x01, 2, b'a', b'b', 0x89, 1, b'!', 0x80, 1, b'c']);
        stream.extend([0x82, 126, 1, 0]);
        stream.extend([7; 256]);
        for piece in [1, 2, 3, 5, 1000] {
            let mut incoming = Incoming::default();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                incoming.push(bytes);
                while let Some(Incomer { opcode, payload }) = incoming.take().unwrap() {
                    got.push((opcode, payload));
                }
            }
            let wanted = [
                (PING, b"!".to_vec()),
                (TEXT, b"abc".to_vec()),
                (BINARY, vec![7; 256]),
            ];
            assert_eq!(got, wanted);
        }
    }
}
