//! What a server sends: frames without a mask (RFC 6455, 5.1).

use protocol::output::{Full, Output};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::Kind;

/// Bytes of a header at most.
pub const MAX_HEAD: usize = 10;

/// The header of a frame, to be followed by its payload.
///
/// A message for many is encoded once: `Head::message(kind, payload.len())`, then the payload, is
/// the same frame for every one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; MAX_HEAD],
    len: u8,
}

impl Head {
    /// The header of a frame with `payload` bytes.
    #[must_use]
    pub fn new(opcode: OpCode, fin: bool, payload: usize) -> Head {
        let mut bytes = [0; MAX_HEAD];
        bytes[0] = u8::from(opcode) | if fin { 0x80 } else { 0 };
        let len = match payload {
            0..126 => {
                bytes[1] = payload as u8;
                2
            }
            126..0x1_0000 => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(payload as u64).to_be_bytes());
                10
            }
        };
        Head { bytes, len }
    }

    /// The header of a message in one frame.
    #[must_use]
    pub fn message(kind: Kind, payload: usize) -> Head {
        Head::new(OpCode::Data(kind.into()), true, payload)
    }

    /// The header of a compressed message in one frame (RFC 7692, 6): with its first reserved bit.
    #[must_use]
    pub fn compressed(kind: Kind, payload: usize) -> Head {
        let mut head = Head::message(kind, payload);
        head.bytes[0] |= 0x40;
        head
    }

    /// Its bytes, 2 to 10.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl From<Kind> for Data {
    fn from(kind: Kind) -> Data {
        match kind {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        }
    }
}

/// The frame at the start of what a server sends: its first byte's opcode and reserved bits, how long
/// its header is, and its payload. `None`: there is no whole frame.
#[must_use]
pub fn parse(frames: &[u8]) -> Option<(u8, usize, usize)> {
    let [first, second, ..] = *frames else {
        return None;
    };
    let (head, len) = match second {
        126 => (
            4,
            u16::from_be_bytes(*frames.get(2..)?.first_chunk()?).into(),
        ),
        127 => (10, u64::from_be_bytes(*frames.get(2..)?.first_chunk()?)),
        len => (2, len.into()),
    };
    let len = usize::try_from(len).ok()?;
    (frames.len().checked_sub(head)? >= len).then_some((first & 0x7f, head, len))
}

/// Adds a frame's header and room for its payload, which is returned to be filled in.
pub(super) fn open(
    out: &mut impl Output,
    opcode: OpCode,
    fin: bool,
    payload: usize,
) -> Result<&mut [u8], Full> {
    let head = Head::new(opcode, fin, payload);
    let head = head.as_bytes();
    let space = out.space(head.len() + payload)?;
    // Two bytes of most frames: not worth a call of memcpy.
    let (to, rest) = space.split_at_mut(head.len());
    for (to, from) in to.iter_mut().zip(head) {
        *to = *from;
    }
    Ok(rest)
}

/// Adds a whole frame; nothing of it if there is no room.
pub fn put_frame(out: &mut impl Output, opcode: OpCode, payload: &[u8]) -> Result<(), Full> {
    open(out, opcode, true, payload.len())?.copy_from_slice(payload);
    Ok(())
}

/// Adds a text message; that it is UTF-8 is the caller's promise.
pub fn text(out: &mut impl Output, payload: &[u8]) -> Result<(), Full> {
    put_frame(out, OpCode::Data(Data::Text), payload)
}

/// Adds a binary message.
pub fn binary(out: &mut impl Output, payload: &[u8]) -> Result<(), Full> {
    put_frame(out, OpCode::Data(Data::Binary), payload)
}

/// Adds a ping, whose answer shows that the peer lives. `payload`: at most 125 bytes.
pub fn ping(out: &mut impl Output, payload: &[u8]) -> Result<(), Full> {
    put_frame(out, OpCode::Control(Control::Ping), payload)
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::FrameHeader;

    use super::*;

    #[test]
    fn writes_what_tungstenite_writes() {
        for opcode in [
            OpCode::Data(Data::Continue),
            OpCode::Data(Data::Text),
            OpCode::Control(Control::Close),
        ] {
            for fin in [false, true] {
                for payload in [0, 1, 125, 126, 65_535, 65_536, 1 << 40] {
                    let theirs = FrameHeader {
                        is_final: fin,
                        opcode,
                        ..FrameHeader::default()
                    };
                    let mut bytes = Vec::new();
                    theirs.format(payload as u64, &mut bytes).unwrap();
                    assert_eq!(Head::new(opcode, fin, payload).as_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn a_head_and_the_payload_are_the_frame() {
        let mut out = Vec::new();
        text(&mut out, b"hello").unwrap();
        assert_eq!(out, b"\x81\x05hello");
        let head = Head::message(Kind::Text, 5);
        assert_eq!([head.as_bytes(), b"hello"].concat(), out);
    }
}
