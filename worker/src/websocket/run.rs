//! Messages that come in one frame each, as most do, and often several at once: echoed one behind the
//! other, into room that is asked for once.

use protocol::output::Output;

use super::mask;
use super::session::{Rules, Session};
use super::step::{PIECE, Step};
use super::utf8::Utf8;

/// Messages at the start of an input that are whole, each in one frame and not compressed.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    input: &'a [u8],
    consumed: usize,
    messages: usize,
    bytes: usize,
}

impl<'a> Run<'a> {
    /// `most` of them at most, and none once more than `enough` bytes are to be echoed. `None`: what
    /// comes first is something else.
    #[must_use]
    pub fn of(input: &'a [u8], rules: &Rules, most: usize, enough: usize) -> Option<Run<'a>> {
        let (mut rest, mut messages, mut bytes) = (input, 0, 0);
        while messages < most
            && bytes <= enough
            && let Some((frame, behind)) = Frame::split(rest)
            && frame.is_good(rules)
        {
            (rest, messages) = (behind, messages + 1);
            bytes += frame.head.len() + frame.payload.len();
        }
        let consumed = input.len() - rest.len();
        (messages > 0).then_some(Run {
            input,
            consumed,
            messages,
            bytes,
        })
    }

    /// Bytes of its echo.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts its echo into `space`, which is of so many bytes.
    pub fn echo(&self, mut space: &mut [u8]) {
        let mut rest = &self.input[..self.consumed];
        while let Some((frame, behind)) = Frame::split(rest) {
            space = frame.put(space);
            rest = behind;
        }
    }

    /// As it is to a session that was between two messages.
    #[must_use]
    pub fn step(&self) -> Step {
        Session::default().taken(self.input, self.consumed)
    }
}

/// Echoes a [`Run`], if the session is between two messages: how many these were, and what as many
/// [`step`](super::step())s would have said. `None`: a step is to be taken, since something else comes, or
/// there is no room for all of it.
pub fn echo_run(
    session: &mut Session,
    input: &[u8],
    out: &mut impl Output,
    rules: &Rules,
    most: usize,
    enough: usize,
) -> Option<(Step, usize)> {
    if !session.is_between_messages() {
        return None;
    }
    let run = Run::of(input, rules, most, enough)?;
    run.echo(out.space(run.bytes).ok()?);
    session.forgive_pings();
    Some((run.step(), run.messages))
}

/// A frame that is a message by itself.
struct Frame<'a> {
    /// Its header without the mask: a server's, but for the bit that says that there is one.
    head: &'a [u8],
    mask: [u8; 4],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `input`, if it is a whole one, and what is behind it. What is longer
    /// than a piece is none.
    fn split(input: &'a [u8]) -> Option<(Frame<'a>, &'a [u8])> {
        const TEXT: u8 = 0x81;
        const BINARY: u8 = 0x82;
        let [TEXT | BINARY, second @ 0x80..=0xff, ..] = *input else {
            return None;
        };
        let (head, payload) = match second & 0x7f {
            126 => {
                let length = u16::from_be_bytes(*input[2..].first_chunk()?);
                (4, (126..).contains(&length).then_some(length)?.into())
            }
            127 => return None,
            length => (2, length.into()),
        };
        let (head, rest) = input.split_at_checked(head)?;
        let (mask, rest) = rest.split_first_chunk()?;
        let (payload, rest) = rest.split_at_checked(payload)?;
        let mask = *mask;
        Some((
            Frame {
                head,
                mask,
                payload,
            },
            rest,
        ))
    }

    /// Nothing is wrong with what it says.
    fn is_good(&self, rules: &Rules) -> bool {
        let is_text = self.head[0] & 0x0f == 1;
        let mut text = Utf8::default();
        self.payload.len() <= PIECE.min(rules.max_message())
            && (!is_text || text.push_masked(self.payload, self.mask).is_ok() && text.is_whole())
    }

    /// Puts it as a server's to the start of `space`, and returns what is behind it.
    fn put<'o>(&self, space: &'o mut [u8]) -> &'o mut [u8] {
        let (head, rest) = space.split_at_mut(self.head.len());
        // Not worth a call of memcpy.
        for (to, from) in head.iter_mut().zip(self.head) {
            *to = *from;
        }
        head[1] &= 0x7f;
        let (payload, rest) = rest.split_at_mut(self.payload.len());
        mask::unmask(self.payload, self.mask, payload);
        rest
    }
}
