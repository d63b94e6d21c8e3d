//! The session's one move: take the next frame, or the next piece of a long one.

use protocol::output::{Buffer, Full, Output};
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::header::{self, Header};
use super::session::{self, Mode, Phase, Rest, Rules, Session};
use super::{Kind, frame, mask};
use crate::close::CloseReason;

/// Bytes of a payload that are taken at once; with their header they fit in 64 KiB. A multiple of
/// the mask, which is therefore the same for each piece of a frame.
pub const PIECE: usize = (64 << 10) - 16;

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes at the start of the input that have been dealt with and must not come again.
    pub consumed: usize,
    pub next: Next,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Waits for more input. Nothing is taken before `total` bytes are there behind what has been
    /// consumed (at most 64 KiB), but any byte may show a fault: each is worth a step.
    NeedInput { total: usize },
    /// Steps again.
    Again,
    /// Reads and clears the message buffer, which holds a whole message, then steps again.
    Message(Kind),
    /// As [`Message`](Next::Message), but what is in the buffer is compressed, and nothing that it
    /// inflates to has been checked. In both modes.
    Compressed(Kind),
    /// Sends the output, which ends in our Close frame, ends its stream, and reads to the peer's
    /// end. The peer has closed, or this is what it did wrong.
    Close(CloseReason),
    /// As [`Close`](Next::Close), but our Close frame was put before, by [`Session::close`].
    Closed,
}

/// Goes one step on with `input`, all that has been received and not been consumed.
///
/// `message` is the message that is being put together (in [`Mode::Echo`] only what is compressed);
/// only the caller clears it. An `out` that is empty must have room for 64 KiB.
///
/// # Errors
/// There is no room; then nothing has been added, and the session is as it was.
pub fn step(
    session: &mut Session,
    input: &[u8],
    message: &mut impl Buffer,
    out: &mut impl Output,
    rules: &Rules,
) -> Result<Step, Full> {
    let mut io = Io {
        message,
        out,
        rules,
    };
    match session.phase {
        Phase::Open if session.whole => session.deliver(input, &mut io),
        Phase::Open => session.receive(input, &mut io),
        Phase::Closing => Ok(session.discard(input, rules)),
        Phase::Closed => Ok(session.closed(input)),
    }
}

/// Where bytes go, and by which rules.
struct Io<'a, M, O> {
    message: &'a mut M,
    out: &'a mut O,
    rules: &'a Rules,
}

/// Each of these changes the session only when there is nothing left that may fail.
impl Session {
    /// Takes what comes next, once it is there.
    fn receive<M: Buffer, O: Output>(
        &mut self,
        input: &[u8],
        io: &mut Io<M, O>,
    ) -> Result<Step, Full> {
        let (start, kind, compressed, rest) = match (self.frame, self.message) {
            (Some(rest), Some(kind)) => (0, kind, self.compressed, rest),
            _ => {
                let header = match Header::parse(input, self.message.is_some(), io.rules.deflates) {
                    Ok(Some(header)) => header,
                    Ok(None) => return Ok(wait(header::MIN.max(input.len() + 1))),
                    Err(reason) => return self.fault(input, reason, io),
                };
                let opcode = match header.opcode {
                    OpCode::Control(opcode) => return self.control(input, &header, opcode, io),
                    OpCode::Data(opcode) => opcode,
                };
                let compressed = self.compressed || header.compressed;
                let most = io.rules.max_length(compressed);
                if u64::from(self.length) + header.payload > most {
                    return self.fault(input, CloseReason::MessageTooLarge, io);
                }
                if !header.fin && self.fragments >= io.rules.max_fragments {
                    return self.fault(input, CloseReason::TooManyFragments, io);
                }
                let kind = self.message.unwrap_or(match opcode {
                    Data::Binary => Kind::Binary,
                    _ => Kind::Text,
                });
                (header.len, kind, compressed, Rest::of(&header))
            }
        };
        self.piece(input, start, (kind, compressed), rest, io)
    }

    /// Takes the next piece of a data frame, once it is there. The payload starts at `start`.
    fn piece<M: Buffer, O: Output>(
        &mut self,
        input: &[u8],
        start: usize,
        (kind, compressed): (Kind, bool),
        rest: Rest,
        io: &mut Io<M, O>,
    ) -> Result<Step, Full> {
        let left = rest.left as usize;
        let size = left.min(PIECE);
        let here = &input[start..];
        let here = &here[..size.min(here.len())];
        let mut text = self.text;
        let is_text = kind == Kind::Text && !compressed;
        if is_text {
            let checked = self.checked as usize;
            // Input never shrinks: these words were not written by us.
            let Some(fresh) = here.get(checked..) else {
                return self.fault(input, CloseReason::Internal, io);
            };
            let mask = mask::rotate(rest.mask, checked);
            if text.push_masked(fresh, mask).is_err() {
                return self.fault(input, CloseReason::BadUtf8, io);
            }
        }
        if here.len() < size {
            self.text = text;
            if is_text {
                self.checked = here.len() as u32;
            }
            return Ok(wait(start + size));
        }

        let frame_ends = size == left;
        let ends = frame_ends && rest.fin;
        if ends && !text.is_whole() {
            return self.fault(input, CloseReason::BadUtf8, io);
        }
        let space = match io.rules.mode {
            Mode::Echo if !compressed => {
                let opcode = match self.message {
                    None => kind.into(),
                    Some(_) => Data::Continue,
                };
                frame::open(io.out, OpCode::Data(opcode), ends, size)?
            }
            Mode::Echo | Mode::Messages => {
                if io.message.bytes().len() != self.length as usize {
                    return self.fault(input, CloseReason::Internal, io);
                }
                io.message.space(size)?
            }
        };
        mask::unmask(here, rest.mask, space);

        self.pings = 0;
        self.text = text;
        self.checked = 0;
        if ends && !compressed {
            self.message = None;
            self.frame = None;
            self.length = 0;
            self.fragments = 0;
        } else {
            self.message = Some(kind);
            self.compressed = compressed;
            self.whole = ends;
            self.length += size as u32;
            self.frame = (!frame_ends).then_some(Rest {
                left: rest.left - size as u32,
                ..rest
            });
            self.fragments = session::MAX_FRAGMENTS.min(self.fragments + u32::from(frame_ends));
        }
        let consumed = start + size;
        if self.whole {
            let next = Next::Again;
            return Ok(Step { consumed, next });
        }
        if ends && io.rules.mode == Mode::Messages {
            let next = Next::Message(kind);
            return Ok(Step { consumed, next });
        }
        Ok(self.taken(input, consumed))
    }

    /// Hands over the compressed message that is whole.
    fn deliver<M: Buffer, O: Output>(
        &mut self,
        input: &[u8],
        io: &mut Io<M, O>,
    ) -> Result<Step, Full> {
        let there = io.message.bytes().len() == self.length as usize;
        let Some(kind) = self.message.filter(|_| there) else {
            // These words were not written by us.
            return self.fault(input, CloseReason::Internal, io);
        };
        *self = Session {
            pings: self.pings,
            ..Session::default()
        };
        let next = Next::Compressed(kind);
        Ok(Step { consumed: 0, next })
    }

    /// Takes a control frame, once it is whole.
    fn control<M: Buffer, O: Output>(
        &mut self,
        input: &[u8],
        header: &Header,
        opcode: Control,
        io: &mut Io<M, O>,
    ) -> Result<Step, Full> {
        // Of a control frame, 125 bytes at most.
        let size = header.payload as usize;
        let consumed = header.len + size;
        let Some(payload) = input.get(header.len..consumed) else {
            return Ok(wait(consumed));
        };
        match opcode {
            Control::Ping => {
                if self.pings >= io.rules.max_pings {
                    return self.fault(input, CloseReason::TooManyPings, io);
                }
                let space = frame::open(io.out, OpCode::Control(Control::Pong), true, size)?;
                mask::unmask(payload, header.mask, space);
                self.pings += 1;
                Ok(self.taken(input, consumed))
            }
            Control::Close => {
                let mut plain = [0; 125];
                let plain = &mut plain[..size];
                mask::unmask(payload, header.mask, plain);
                let code = match close_code(plain) {
                    Ok(code) => code,
                    Err(reason) => return self.fault(input, reason, io),
                };
                frame::put_frame(io.out, OpCode::Control(Control::Close), code)?;
                Ok(self.end(input, Next::Close(CloseReason::PeerClose)))
            }
            // A sign of life, which any byte is.
            Control::Pong | Control::Reserved(_) => Ok(self.taken(input, consumed)),
        }
    }

    /// The peer has broken the rules, or we have: nothing is read any more.
    fn fault<M, O: Output>(
        &mut self,
        input: &[u8],
        reason: CloseReason,
        io: &mut Io<M, O>,
    ) -> Result<Step, Full> {
        session::put_close(io.out, reason)?;
        Ok(self.end(input, Next::Close(reason)))
    }

    /// Skips everything but the peer's Close frame, the answer to ours.
    fn discard(&mut self, input: &[u8], rules: &Rules) -> Step {
        let (start, opcode, rest) = match self.frame {
            Some(rest) => (0, OpCode::Data(Data::Continue), rest),
            None => match Header::parse(input, self.message.is_some(), rules.deflates) {
                Ok(None) => return wait(header::MIN.max(input.len() + 1)),
                Ok(Some(header))
                    if header.payload <= rules.max_length(header.compressed).max(125) =>
                {
                    (header.len, header.opcode, Rest::of(&header))
                }
                // Whoever goes on to break the rules need not be waited for.
                _ => return self.closed(input),
            },
        };
        let left = rest.left as usize;
        let size = left.min(input.len() - start);
        match opcode {
            OpCode::Control(_) if size < left => return wait(start + left),
            OpCode::Control(Control::Close) => return self.closed(input),
            OpCode::Control(_) => {}
            OpCode::Data(_) => {
                let frame_ends = size == left;
                self.frame = (!frame_ends).then_some(Rest {
                    left: rest.left - size as u32,
                    ..rest
                });
                let kind = self.message.unwrap_or(Kind::Binary);
                self.message = (!frame_ends || !rest.fin).then_some(kind);
                if self.message.is_none() {
                    self.fragments = 0;
                }
            }
        }
        self.taken(input, start + size)
    }

    fn closed(&mut self, input: &[u8]) -> Step {
        self.end(input, Next::Closed)
    }

    /// Nothing behind this matters.
    fn end(&mut self, input: &[u8], next: Next) -> Step {
        *self = Session {
            phase: Phase::Closed,
            ..Session::default()
        };
        Step {
            consumed: input.len(),
            next,
        }
    }

    /// A frame or a piece of one has been taken.
    pub(super) fn taken(&self, input: &[u8], consumed: usize) -> Step {
        let next = if consumed < input.len() {
            Next::Again
        } else {
            Next::NeedInput {
                total: self
                    .frame
                    .map_or(header::MIN, |rest| PIECE.min(rest.left as usize)),
            }
        };
        Step { consumed, next }
    }
}

impl Rest {
    /// All of the payload, which is no longer than a message may be: that has 32 bits.
    fn of(header: &Header) -> Rest {
        Rest {
            fin: header.fin,
            mask: header.mask,
            left: header.payload as u32,
        }
    }
}

fn wait(total: usize) -> Step {
    Step {
        consumed: 0,
        next: Next::NeedInput { total },
    }
}

/// The part of a Close frame's payload that its answer repeats: the code, if there is one.
fn close_code(payload: &[u8]) -> Result<&[u8], CloseReason> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(payload),
            // "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned
            // integer".
            _ => Err(CloseReason::BadCloseFrame),
        };
    };
    // tungstenite does not know 1014 (bad gateway), which was registered after the RFC.
    let number = u16::from_be_bytes(*code);
    if number != 1014 && !CloseCode::from(number).is_allowed() {
        return Err(CloseReason::BadCloseFrame);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(CloseReason::BadUtf8);
    }
    Ok(code)
}
