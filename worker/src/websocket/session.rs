//! What a session remembers from one step to the next: plain data, three words in its slot.

use protocol::output::{Full, Output};
use protocol::settings;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::step::PIECE;
use super::utf8::Utf8;
use super::{Kind, frame};
use crate::close::CloseReason;

/// What is done with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each frame is sent back as it comes, in frames of the same kind.
    Echo,
    /// Each message is put together for the caller.
    Messages,
}

/// What a peer may do, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub(super) mode: Mode,
    pub(super) max_message: u32,
    /// Messages may be compressed.
    pub(super) deflates: bool,
    pub(super) max_fragments: u32,
    pub(super) max_pings: u32,
}

/// The most that a session can count.
pub(super) const MAX_FRAGMENTS: u32 = (1 << FRAGMENTS_BITS) - 1;
const MAX_PINGS: u32 = (1 << PINGS_BITS) - 1;

const FRAGMENTS_BITS: u32 = 24;
const PINGS_BITS: u32 = 24;
const CHECKED_BITS: u32 = 16;
const _: () = assert!(FRAGMENTS_BITS + PINGS_BITS + CHECKED_BITS == 64);
const _: () = assert!(PIECE < 1 << CHECKED_BITS);

impl Rules {
    /// `/echo`.
    #[must_use]
    pub fn echo(settings: &settings::WebSocket) -> Rules {
        Rules::new(Mode::Echo, settings.echo_max_message, settings)
    }

    /// A protocol with messages of up to `max_message` bytes.
    #[must_use]
    pub fn messages(settings: &settings::WebSocket, max_message: usize) -> Rules {
        Rules::new(Mode::Messages, max_message, settings)
    }

    /// The same, where compression was negotiated or not.
    #[must_use]
    pub fn deflating(self, deflates: bool) -> Rules {
        Rules { deflates, ..self }
    }

    /// Bytes of a message that is inflated at most.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.max_message as usize
    }

    /// Bytes of a message as it comes at most. What cannot be made shorter becomes longer: by an eighth,
    /// if somebody codes it badly.
    pub(super) fn max_length(&self, compressed: bool) -> u64 {
        let most = u64::from(self.max_message);
        match compressed {
            true => (most + most / 8 + 64).min(u32::MAX.into()),
            false => most,
        }
    }

    fn new(mode: Mode, max_message: usize, settings: &settings::WebSocket) -> Rules {
        Rules {
            mode,
            max_message: u32::try_from(max_message).unwrap_or(u32::MAX),
            deflates: false,
            max_fragments: settings.max_fragments.min(MAX_FRAGMENTS),
            max_pings: settings.max_pings.min(MAX_PINGS),
        }
    }
}

/// How far a connection is on its way from open to closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// Our Close frame has been put, the peer's is awaited and all else discarded.
    Closing,
    /// Both have been put or never will be: nothing that comes matters.
    Closed,
}

/// What is left of a frame whose first piece has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub fin: bool,
    /// For the first byte that is left.
    pub mask: [u8; 4],
    /// Bytes of the payload, never 0.
    pub left: u32,
}

/// A server's side of one connection, from the handshake's last byte on.
///
/// The default, all words 0, is a new session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub(super) phase: Phase,
    /// The message that has begun and is not complete.
    pub(super) message: Option<Kind>,
    /// It is compressed.
    pub(super) compressed: bool,
    /// All of it is there, compressed: the caller has not had it.
    pub(super) whole: bool,
    /// The frame that has begun, if a piece of it was taken.
    pub(super) frame: Option<Rest>,
    /// Bytes of the message that were taken.
    pub(super) length: u32,
    /// Frames of the message that did not complete it.
    pub(super) fragments: u32,
    /// Pings since the last data frame, or since they were forgiven.
    pub(super) pings: u32,
    /// The text so far, up to what is `checked`.
    pub(super) text: Utf8,
    /// Bytes of payload at the start of the input that were found to be UTF-8 and not yet taken.
    pub(super) checked: u32,
}

const PENDING: u32 = 32;
const KIND: u32 = 58;
const PHASE: u32 = 60;
const FIN: u32 = 62;
const COMPRESSED: u32 = 63;

impl Session {
    /// Is it open, as far as we know? If not, no message can be sent any more.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Is nothing known of what comes next? No frame has begun and no message.
    pub(super) fn is_between_messages(&self) -> bool {
        let new = Session {
            pings: self.pings,
            ..Session::default()
        };
        *self == new
    }

    /// Is the message compressed that has begun?
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Puts our Close frame and discards what still comes but the peer's. Does nothing if a
    /// Close frame has been put already. A partial message is forgotten.
    pub fn close(&mut self, out: &mut impl Output, reason: CloseReason) -> Result<(), Full> {
        if self.phase != Phase::Open {
            return Ok(());
        }
        put_close(out, reason)?;
        self.phase = Phase::Closing;
        if self.whole {
            (self.message, self.fragments) = (None, 0);
        }
        (self.compressed, self.whole) = (false, false);
        self.length = 0;
        self.text = Utf8::default();
        self.checked = 0;
        Ok(())
    }

    /// The pings so far are forgotten. Called every ping interval, so that the limit is one of
    /// pings in that time: a client that only listens may well ping for days.
    pub fn forgive_pings(&mut self) {
        self.pings = 0;
    }

    /// Do these words of a slot say that a compressed message is there which the caller has not had?
    /// There is a step to be taken then, without more input.
    #[must_use]
    pub fn holds_message([flags, lengths, _]: [u64; 3]) -> bool {
        lengths as u32 == 0 && flags >> FIN & 1 == 1
    }

    /// As words of a slot.
    #[must_use]
    pub fn pack(self) -> [u64; 3] {
        let Rest { fin, mask, left } = self.frame.unwrap_or(Rest {
            fin: false,
            mask: [0; 4],
            left: 0,
        });
        let kind = match self.message {
            None => 0,
            Some(Kind::Text) => 1,
            Some(Kind::Binary) => 2,
        };
        [
            u64::from(u32::from_le_bytes(mask))
                | self.text.pack() << PENDING
                | kind << KIND
                | (self.phase as u64) << PHASE
                // Of a message that is whole no frame is left.
                | u64::from(fin || self.whole) << FIN
                | u64::from(self.compressed) << COMPRESSED,
            u64::from(left) | u64::from(self.length) << 32,
            u64::from(self.fragments)
                | u64::from(self.pings) << FRAGMENTS_BITS
                | u64::from(self.checked) << (FRAGMENTS_BITS + PINGS_BITS),
        ]
    }

    /// What [`pack`](Session::pack) made; `None` for words that it cannot have made.
    #[must_use]
    pub fn unpack(words: [u64; 3]) -> Option<Session> {
        // Between two messages, most often.
        if words == [0; 3] {
            return Some(Session::default());
        }
        let [flags, lengths, counts] = words;
        let phase = match bits(flags, PHASE, FIN - PHASE) {
            0 => Phase::Open,
            1 => Phase::Closing,
            2 => Phase::Closed,
            _ => return None,
        };
        let message = match bits(flags, KIND, PHASE - KIND) {
            0 => None,
            1 => Some(Kind::Text),
            2 => Some(Kind::Binary),
            _ => return None,
        };
        let mask = (flags as u32).to_le_bytes();
        let fin = flags >> FIN & 1 == 1;
        let left = lengths as u32;
        let whole = left == 0 && fin;
        let frame = (left > 0).then_some(Rest { fin, mask, left });
        let session = Session {
            phase,
            message,
            compressed: flags >> COMPRESSED == 1,
            whole,
            frame,
            length: (lengths >> 32) as u32,
            fragments: bits(counts, 0, FRAGMENTS_BITS) as u32,
            pings: bits(counts, FRAGMENTS_BITS, PINGS_BITS) as u32,
            text: Utf8::unpack(bits(flags, PENDING, KIND - PENDING))?,
            checked: (counts >> (FRAGMENTS_BITS + PINGS_BITS)) as u32,
        };
        let sound = session.is_sound() && (frame.is_some() || mask == [0; 4]);
        sound.then_some(session)
    }

    /// Do the parts agree?
    fn is_sound(&self) -> bool {
        let nothing_taken = self.frame.is_none() && self.length == 0 && self.fragments == 0;
        let nothing_checked = self.text.is_whole() && self.checked == 0;
        let is_open = self.phase == Phase::Open;
        let may_be_text = is_open && self.message != Some(Kind::Binary) && !self.compressed;
        (self.message.is_some() || nothing_taken)
            && (may_be_text || nothing_checked)
            && (!self.compressed || is_open && self.message.is_some())
            && (!self.whole || self.compressed)
            // Without a text to go on with, half a character is one of what was checked.
            && (self.message.is_some() || self.checked > 0 || self.text.is_whole())
            && self.checked as usize <= PIECE
            && self.frame.is_none_or(|rest| rest.left.checked_add(self.length).is_some())
    }
}

fn bits(word: u64, from: u32, count: u32) -> u64 {
    word >> from & ((1 << count) - 1)
}

/// Adds the Close frame that says `reason`.
pub(super) fn put_close(out: &mut impl Output, reason: CloseReason) -> Result<(), Full> {
    let opcode = OpCode::Control(Control::Close);
    let Some(code) = reason.code() else {
        return frame::put_frame(out, opcode, &[]);
    };
    let text = reason.as_str().as_bytes();
    let payload = frame::open(out, opcode, true, 2 + text.len())?;
    let (to, rest) = payload.split_at_mut(2);
    to.copy_from_slice(&code.to_be_bytes());
    rest.copy_from_slice(text);
    Ok(())
}
