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
    pub mask: [u8; 4],
    /// Bytes of the payload that follow.
    pub payload: u64,
}

impl Header {
    /// Reads the header at the start of `input`; `None` if there is more of it to come.
    /// `in_message`: a message has begun and is not complete.
    ///
    /// # Errors
    /// The fault, as soon as the byte is there that shows it.
    pub fn parse(input: &[u8], in_message: bool) -> Result<Option<Header>, CloseReason> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        // "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
        if first & 0x70 != 0 {
            return Err(CloseReason::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = OpCode::from(first & 0x0f);
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
                    assert_eq!(Header::parse(&bytes[..cut], false), Ok(None));
                }
                let ours = Header::parse(&bytes, false).unwrap().unwrap();
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
                assert_eq!(Header::parse(&bytes[..cut], in_message), Ok(None));
            }
            let parsed = Header::parse(bytes, in_message);
            assert_eq!(parsed, Err(reason), "{bytes:x?}");
        }
    }
}
