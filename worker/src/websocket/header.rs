//! What a client's frame says of itself (RFC 6455, 5.2).

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::close::CloseReason;

/// The shortest header of a client's frame: two bytes and the mask.
pub const MIN: usize = 6;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its own bytes, 6 to 14.
    pub len: usize,
    pub fin: bool,
    pub opcode: OpCode,
    /// It begins a message that is compressed.
    pub compressed: bool,
    pub mask: [u8; 4],
    /// Bytes of the payload that follow.
    pub payload: u64,
}

impl Header {
    /// Reads the header at the start of `input`; `None` if there is more of it to come.
    /// `in_message`: a message has begun and is not complete. `deflates`: messages may be compressed.
    ///
    /// # Errors
    /// The fault, as soon as the byte is there that shows it.
    pub fn parse(
        input: &[u8],
        in_message: bool,
        deflates: bool,
    ) -> Result<Option<Header>, CloseReason> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        // "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
        let fin = first & 0x80 != 0;
        let opcode = OpCode::from(first & 0x0f);
        let compressed = first & 0x40 != 0;
        // RFC 7692, 6: "MUST NOT set the "Per-Message Compressed" bit of control frames and
        // non-first fragments of a data message".
        let may_be = deflates && matches!(opcode, OpCode::Data(Data::Text | Data::Binary));
        if first & 0x30 != 0 || compressed && !may_be {
            return Err(CloseReason::ReservedBits);
        }
        match opcode {
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(CloseReason::ReservedOpcode);
            }
            // "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be
            // fragmented."
            OpCode::Control(_) if !fin => return Err(CloseReason::BadControlFrame),
            OpCode::Control(_) => {}
            OpCode::Data(data) => {
                if (data == Data::Continue) != in_message {
                    return Err(CloseReason::BadFragment);
                }
            }
        }

        let Some(&second) = input.get(1) else {
            return Ok(None);
        };
        // "The server MUST close the connection upon receiving a frame that is not masked."
        if second & 0x80 == 0 {
            return Err(CloseReason::UnmaskedFrame);
        }
        let length = second & 0x7f;
        if length > 125 && matches!(opcode, OpCode::Control(_)) {
            return Err(CloseReason::BadControlFrame);
        }

        let behind = &input[2..];
        // "In all cases, the minimal number of bytes MUST be used to encode the length", and the
        // most significant bit of 64 "MUST be 0".
        let (payload, length_bytes) = match length {
            126 => match behind.first_chunk::<2>() {
                None => return Ok(None),
                Some(&bytes) => match u16::from_be_bytes(bytes) {
                    0..126 => return Err(CloseReason::BadLength),
                    payload => (u64::from(payload), 2),
                },
            },
            127 => match behind.first_chunk::<8>() {
                None => return Ok(None),
                Some(&bytes) => match u64::from_be_bytes(bytes) {
                    payload @ 0x1_0000..0x8000_0000_0000_0000 => (payload, 8),
                    _ => return Err(CloseReason::BadLength),
                },
            },
            _ => (u64::from(length), 0),
        };
        Ok(behind[length_bytes..].first_chunk().map(|&mask| Header {
            len: MIN + length_bytes,
            fin,
            opcode,
            compressed,
            mask,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::FrameHeader;

    use super::*;

    #[test]
    fn reads_what_tungstenite_writes() {
        for opcode in [
            OpCode::Data(Data::Text),
            OpCode::Data(Data::Binary),
            OpCode::Control(Control::Ping),
        ] {
            for payload in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 40] {
                if matches!(opcode, OpCode::Control(_)) && payload > 125 {
                    continue;
                }
                let theirs = FrameHeader {
                    opcode,
                    mask: Some([1, 2, 3, 4]),
                    ..FrameHeader::default()
                };
                let mut bytes = Vec::new();
                theirs.format(payload, &mut bytes).unwrap();
                for cut in 0..bytes.len() {
                    assert_eq!(Header::parse(&bytes[..cut], false, true), Ok(None));
                }
                let ours = Header::parse(&bytes, false, true).unwrap().unwrap();
                assert_eq!((ours.len, ours.payload), (bytes.len(), payload));
                assert_eq!((ours.fin, ours.opcode), (true, opcode));
                assert_eq!(ours.mask, [1, 2, 3, 4]);
                assert_eq!(
                    FrameHeader::parse(&mut Cursor::new(&bytes)).unwrap(),
                    Some((theirs, payload))
                );
            }
        }
    }

    #[test]
    fn a_fault_is_known_at_its_byte() {
        use CloseReason::*;
        let cases: &[(&[u8], bool, CloseReason)] = &[
            (&[0xc1], false, ReservedBits),
            (&[0xa1], false, ReservedBits),
            (&[0x91], false, ReservedBits),
            (&[0x83], false, ReservedOpcode),
            (&[0x87], true, ReservedOpcode),
            (&[0x8b], false, ReservedOpcode),
            (&[0x8f], true, ReservedOpcode),
            (&[0x08], false, BadControlFrame),
            (&[0x09], true, BadControlFrame),
            (&[0x0a], true, BadControlFrame),
            (&[0x80], false, BadFragment),
            (&[0x00], false, BadFragment),
            (&[0x81], true, BadFragment),
            (&[0x02], true, BadFragment),
            (&[0x81, 0x05], false, UnmaskedFrame),
            (&[0x88, 0x00], false, UnmaskedFrame),
            (&[0x88, 0xfe], false, BadControlFrame),
            (&[0x89, 0xff], true, BadControlFrame),
            (&[0x81, 0xfe, 0, 125], false, BadLength),
            (&[0x80, 0xfe, 0, 0], true, BadLength),
            (
                &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                false,
                BadLength,
            ),
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], false, BadLength),
        ];
        for &(bytes, in_message, reason) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..cut], in_message, false), Ok(None));
            }
            let parsed = Header::parse(bytes, in_message, false);
            assert_eq!(parsed, Err(reason), "{bytes:x?}");
        }
    }

    #[test]
    fn the_first_reserved_bit_may_begin_a_message() {
        for first in 0..=u8::MAX {
            let is_data = matches!(first & 0x0f, 1 | 2);
            for in_message in [false, true] {
                let parse =
                    |deflates| Header::parse(&[first, 0x80, 1, 2, 3, 4], in_message, deflates);
                let with = parse(true);
                match first & 0x70 {
                    0x40 if is_data => {
                        let plain = [first & !0x40, 0x80, 1, 2, 3, 4];
                        let plain = Header::parse(&plain, in_message, true);
                        let compressed = plain.map(|header| {
                            header.map(|header| Header {
                                compressed: true,
                                ..header
                            })
                        });
                        assert_eq!(with, compressed);
                        assert_eq!(parse(false), Err(CloseReason::ReservedBits));
                    }
                    0 => assert_eq!(with, parse(false)),
                    _ => assert_eq!(with, Err(CloseReason::ReservedBits), "{first:x}"),
                }
            }
        }
    }
}
