//! What clients of the floor say, and what they are answered: bytes in, bytes out.

use std::io::Write;

use tungstenite::handshake::derive_accept_key;

use super::BODY;

const CLOSE: u8 = 0x8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    /// What comes goes back.
    WebSocket,
    /// What comes goes to all of this room.
    Room(u32),
    /// When what is to be written is written, the connection is closed.
    Over,
}

impl Protocol {
    /// Answers all that is whole, and says how much of the input that was.
    pub fn answer(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            let whole = match *self {
                Protocol::Http => self.request(rest, out),
                Protocol::WebSocket => self.frame(rest, out),
                Protocol::Room(room) => self.message(room, rest, out),
                Protocol::Over => break,
            };
            match whole {
                Some(length) => taken += length,
                None => break,
            }
        }
        taken
    }

    /// The length of the request, once it is whole.
    fn request(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let end = find(input, b"\r\n\r\n")? + 4;
        let head = &input[..end];
        const KEY: &[u8] = b"\r\nSec-WebSocket-Key: ";
        if let Some(field) = find(head, KEY) {
            let key = &head[field + KEY.len()..];
            let key = &key[..find(key, b"\r\n")?];
            out.extend(
                b"HTTP/1.1 101 Switching Protocols\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            out.extend(derive_accept_key(key).as_bytes());
            out.extend(b"\r\n\r\n");
            *self = room(head).map_or(Protocol::WebSocket, Protocol::Room);
            return Some(end);
        }
        out.extend(
            b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
            X-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 32\r\nCache-Control: no-store\r\n",
        );
        if find(head, b"\r\nConnection: close\r\n").is_some() {
            out.extend(b"Connection: close\r\n");
            *self = Protocol::Over;
        }
        out.extend(b"\r\n");
        out.extend(BODY.as_bytes());
        Some(end)
    }

    /// The length of the frame, once it is whole. It is sent back without its mask.
    fn frame(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (head, length) = frame(input)?;
        out.push(input[0]);
        out.push(input[1] & 0x7f);
        out.extend(&input[2..head]);
        self.payload(input, head, length, out);
        Some(length)
    }

    /// The length of the message, once it is whole. Members get it in an envelope.
    fn message(&mut self, room: u32, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (head, length) = frame(input)?;
        let start = out.len();
        // Always two bytes of length: with the envelope it is more than 125.
        out.extend([input[0], 126, 0, 0]);
        // So long is what a member of baton gets besides.
        let _ = write!(
            out,
            "{{\"room\":\"r{room}\",\"pos\":\"e1:100000\",\"from\":\"c1000\",\"data\":"
        );
        self.payload(input, head, length, out);
        out.push(b'}');
        let payload = out.len() - start - 4;
        out[start + 2..start + 4].copy_from_slice(&(payload as u16).to_be_bytes());
        Some(length)
    }

    fn payload(&mut self, input: &[u8], head: usize, length: usize, out: &mut Vec<u8>) {
        unmask(&input[head + 4..length], &input[head..head + 4], out);
        if input[0] & 0x0f == CLOSE {
            *self = Protocol::Over;
        }
    }
}

/// Of the frame, once it is whole: where its mask begins, and where it ends.
fn frame(input: &[u8]) -> Option<(usize, usize)> {
    let (head, length) = match input.get(1)? & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*input[2..].first_chunk()?)),
        ),
        127 => (10, u64::from_be_bytes(*input[2..].first_chunk()?) as usize),
        short => (2, usize::from(short)),
    };
    let end = head + 4 + length;
    (input.len() >= end).then_some((head, end))
}

/// The room that a request asks for.
fn room(head: &[u8]) -> Option<u32> {
    let path = head.strip_prefix(b"GET /room/")?;
    let end = path.iter().position(|byte| *byte == b' ')?;
    str::from_utf8(&path[..end]).ok()?.parse().ok()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

fn unmask(payload: &[u8], mask: &[u8], out: &mut Vec<u8>) {
    let mask = [mask[0], mask[1], mask[2], mask[3]];
    let word = u64::from(u32::from_ne_bytes(mask));
    let word = word << 32 | word;
    let start = out.len();
    out.extend(payload);
    let (words, rest) = out[start..].as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{frame, handshake};

    fn answers(protocol: Protocol, pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let mut protocol = protocol;
        let (mut partial, mut out) = (Vec::new(), Vec::new());
        for piece in pieces {
            partial.extend(*piece);
            let taken = protocol.answer(&partial, &mut out);
            partial.drain(..taken);
        }
        assert!(partial.is_empty());
        (protocol, out)
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        for length in [0, 1, 20, 125, 126, 1000, 70_000] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let bytes = frame(0x82, &payload).repeat(2);
            let (protocol, whole) = answers(Protocol::WebSocket, &[&bytes]);
            assert_eq!(protocol, Protocol::WebSocket);
            assert!(whole.ends_with(&payload));
            let cut = 2 * length as usize / 3 + 1;
            let pieces = [&bytes[..1], &bytes[1..cut], &bytes[cut..]];
            assert_eq!(answers(Protocol::WebSocket, &pieces).1, whole);
        }
    }

    #[test]
    fn a_close_frame_is_answered_by_one() {
        let (protocol, out) = answers(Protocol::WebSocket, &[&frame(0x88, &[3, 232])]);
        assert_eq!(protocol, Protocol::Over);
        assert_eq!(out, [0x88, 2, 3, 232]);
    }

    #[test]
    fn a_room_s_messages_come_in_envelopes() {
        let open = handshake(([127, 0, 0, 1], 80).into(), "/room/7");
        let (protocol, _) = answers(Protocol::Http, &[open.as_bytes()]);
        assert_eq!(protocol, Protocol::Room(7));
        let data = format!("\"{}\"", ".".repeat(98));
        let (protocol, out) = answers(protocol, &[&frame(0x81, data.as_bytes()).repeat(2)]);
        assert_eq!(protocol, Protocol::Room(7));
        let (one, other) = out.split_at(out.len() / 2);
        assert_eq!(one, other);
        assert_eq!(one[..4], [0x81, 126, 0, (one.len() - 4) as u8]);
        assert!(one.ends_with(format!(",\"data\":{data}}}").as_bytes()));
    }

    #[test]
    fn requests_are_answered() {
        let open = handshake(([127, 0, 0, 1], 80).into(), "/echo");
        let (protocol, out) = answers(Protocol::Http, &[open.as_bytes()]);
        assert_eq!(protocol, Protocol::WebSocket);
        assert!(
            find(
                &out,
                b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            )
            .is_some()
        );
        let last = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let (protocol, out) = answers(Protocol::Http, &[b"GET / HTTP/1.1\r\n\r\n", last]);
        assert_eq!(protocol, Protocol::Over);
        assert!(out.ends_with(BODY.as_bytes()));
        let length = format!("\r\nContent-Length: {}\r\n", BODY.len());
        assert!(find(&out, length.as_bytes()).is_some());
    }
}
