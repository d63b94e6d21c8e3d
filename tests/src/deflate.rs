//! Compression (permessage-deflate) under a client that knows nothing of it: a stream that compresses
//! each message that is written, and inflates each that is read. It is told apart from baton's own code
//! by zlib's window: a client's is as large as was agreed on, and no larger.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::websocket::{frame, handshake};

/// What offers it in a handshake.
pub const OFFER: (&str, &str) = (
    "Sec-WebSocket-Extensions",
    "permessage-deflate; client_max_window_bits",
);

const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const COMPRESSED: u8 = 0x40;
/// A ping inside of a message.
const BETWEEN: &[u8] = b"between";

/// A connection behind the handshake.
#[derive(Debug)]
pub struct Deflated {
    stream: TcpStream,
    window: u8,
    /// Read of the socket and no whole frame yet.
    raw: Vec<u8>,
    /// Frames as they are without compression, and how far they were read.
    plain: Vec<u8>,
    read: usize,
    /// Written and no whole frame yet.
    written: Vec<u8>,
    /// So many messages were compressed, both ways.
    pub sent: usize,
    pub received: usize,
}

impl Deflated {
    /// Shakes hands with this offer, which must be taken. `window`: that the answer must agree to.
    pub fn connect(
        mut stream: TcpStream,
        to: SocketAddr,
        path: &str,
        fields: &[(&str, &str)],
        offer: &str,
        window: u8,
    ) -> io::Result<Deflated> {
        let mut request = handshake(to, path);
        request.truncate(request.len() - 2);
        for (name, value) in fields.iter().chain([&(OFFER.0, offer)]) {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        let window_said = match window {
            15 => String::new(),
            bits => format!("; server_max_window_bits={bits}"),
        };
        let taken = format!(
            "\r\n{}: permessage-deflate; server_no_context_takeover; client_no_context_takeover\
             {window_said}\r\n",
            OFFER.0
        );
        if !head.starts_with("HTTP/1.1 101 ") || !head.contains(&taken) {
            return Err(io::Error::other(format!("{offer}: {head}")));
        }
        Ok(Deflated {
            stream,
            window,
            raw: Vec::new(),
            plain: Vec::new(),
            read: 0,
            written: Vec::new(),
            sent: 0,
            received: 0,
        })
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl Read for Deflated {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.read == self.plain.len() {
            self.plain.clear();
            self.read = 0;
            let mut bytes = [0; 16 << 10];
            let n = self.stream.read(&mut bytes)?;
            if n == 0 {
                return Ok(0);
            }
            self.raw.extend_from_slice(&bytes[..n]);
            let mut at = 0;
            while let Some((head, end)) = extent(&self.raw[at..]) {
                let frame = &self.raw[at..at + end];
                at += end;
                if frame[0] == 0x8a && &frame[head..] == BETWEEN {
                    // The client knows nothing of the ping.
                    continue;
                }
                if frame[0] & COMPRESSED == 0 {
                    self.plain.extend_from_slice(frame);
                    continue;
                }
                self.received += 1;
                if frame[0] & 0x80 == 0 {
                    return Err(io::Error::other("baton sends a message in one frame"));
                }
                let message = inflate(&frame[head..], self.window)?;
                put_frame(&mut self.plain, frame[0] & !COMPRESSED, &message);
            }
            self.raw.drain(..at);
        }
        let n = to.len().min(self.plain.len() - self.read);
        to[..n].copy_from_slice(&self.plain[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

impl Write for Deflated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some((head, end)) = extent(&self.written) {
            let bytes: Vec<u8> = self.written.drain(..end).collect();
            match bytes[0] {
                0x81 | 0x82 => {
                    let mask = &bytes[head - 4..head];
                    let payload = bytes[head..].iter().zip(mask.iter().cycle());
                    let plain: Vec<u8> = payload.map(|(byte, mask)| byte ^ mask).collect();
                    self.sent += 1;
                    out.extend(frames(bytes[0], &deflate(&plain, 6), self.sent));
                }
                _ => out.extend(bytes),
            }
        }
        self.stream.write_all(&out)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the payload of the frame at the start begins, and where it ends, if all of it is there.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let second = *bytes.get(1)?;
    let (head, length) = match second & 0x7f {
        126 => (
            4,
            u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into(),
        ),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        length => (2, length.into()),
    };
    let head = head + if second & 0x80 == 0 { 0 } else { 4 };
    let end = head + length as usize;
    (bytes.len() >= end).then_some((head, end))
}

/// A server's frame.
fn put_frame(to: &mut Vec<u8>, first: u8, payload: &[u8]) {
    let masked = frame(first, &[]);
    to.push(masked[0]);
    match payload.len() {
        short @ 0..=125 => to.push(short as u8),
        medium @ 126..=0xffff => {
            to.push(126);
            to.extend((medium as u16).to_be_bytes());
        }
        long => {
            to.push(127);
            to.extend((long as u64).to_be_bytes());
        }
    }
    to.extend_from_slice(payload);
}

/// A client's compressed message: every third one in three frames, with a ping between.
pub fn frames(first: u8, payload: &[u8], number: usize) -> Vec<u8> {
    if !number.is_multiple_of(3) || payload.len() < 3 {
        return frame(first | COMPRESSED, payload);
    }
    let (one, rest) = payload.split_at(number % payload.len());
    let (two, three) = rest.split_at(rest.len() / 2);
    [
        frame(first & 0x7f | COMPRESSED, one),
        frame(0x00, two),
        frame(0x89, BETWEEN),
        frame(0x80, three),
    ]
    .concat()
}

/// The payload of a compressed message.
pub fn deflate(plain: &[u8], level: u32) -> Vec<u8> {
    let mut zlib = Compress::new(Compression::new(level), false);
    let mut payload = vec![0; plain.len() + plain.len() / 8 + 64];
    zlib.compress(plain, &mut payload, FlushCompress::Sync)
        .expect("anything can be compressed");
    payload.truncate(zlib.total_out() as usize);
    assert!(payload.ends_with(&TAIL));
    payload.truncate(payload.len() - TAIL.len());
    payload
}

/// A message, by whoever has this window.
pub fn inflate(payload: &[u8], window: u8) -> io::Result<Vec<u8>> {
    let mut zlib = match window {
        // zlib knows none that is smaller.
        8 | 9 => Decompress::new_with_window_bits(false, 9),
        bits => Decompress::new_with_window_bits(false, bits),
    };
    let payload = [payload, &TAIL].concat();
    let mut plain = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        let at = zlib.total_in() as usize;
        let before = zlib.total_out();
        zlib.decompress(&payload[at..], &mut part, FlushDecompress::Sync)?;
        let n = (zlib.total_out() - before) as usize;
        plain.extend_from_slice(&part[..n]);
        if n < part.len() && zlib.total_in() as usize == payload.len() {
            return Ok(plain);
        }
        if n == 0 && zlib.total_in() as usize == at {
            return Err(io::Error::other("a message that does not go on"));
        }
    }
}
