//! The WebSocket protocol (RFC 6455) of a server, behind the handshake: bytes in, events and bytes
//! out. It knows no socket and no clock, and all that it remembers is a [`Session`], three words.
//!
//! Read in this order: [`session`] (what is remembered, and how a connection begins and ends to
//! close), [`step`] (one frame at a time), [`run`] (many, where each is whole and is only echoed),
//! [`header`] (what a frame says of itself), [`mask`] and [`utf8`] (what is done to every byte),
//! [`frame`] (what the server sends), [`deflate`] (messages that are compressed: they are put together
//! as they come, and inflated by the caller).
//!
//! - The input is never altered in place, and [`step()`] reads nothing but its arguments: the same
//!   step taken twice gives the same bytes, so that a new brain can take the last one again.
//! - A frame of up to [`PIECE`] bytes stays in the input until it is whole; a longer one is taken in
//!   pieces of that size. So neither input nor output must ever hold more than 64 KiB for one step.
//! - Faults are found as the bytes arrive, not when a frame is whole: whoever sends a reserved bit
//!   or half a character that cannot be completed is told at once. Each payload byte is looked at
//!   once for that, however thin the drip.
//! - tungstenite names opcodes and close codes. Its `FrameHeader::parse` is not used: it sees
//!   neither reserved bits nor lengths that are too long for what they say, and nothing before the
//!   header is whole.

pub mod deflate;
pub mod frame;
pub mod header;
pub mod mask;
pub mod run;
pub mod session;
pub mod step;
pub mod utf8;

#[cfg(test)]
mod tests;

pub use deflate::{Deflater, Inflated, Inflater, Window};
pub use frame::{Head, MAX_HEAD, binary, ping, put_frame, text};
pub use run::{Run, echo_run};
pub use session::{Mode, Rules, Session};
pub use step::{Next, PIECE, Step, step};

/// What the frame at the start of `input` says, as far as it is there; for people to read. Bytes that
/// are no frame are shown as they are.
#[must_use]
pub fn shown(input: &[u8]) -> Vec<u8> {
    let begins = header::Header::parse(input, false, true);
    let goes_on = || header::Header::parse(input, true, true);
    match begins.or_else(|_| goes_on()) {
        Ok(Some(header)) => {
            let there = &input[header.len..];
            let there = &there[..there
                .len()
                .min(header.payload.try_into().unwrap_or(usize::MAX))];
            let mut text = vec![0; there.len()];
            mask::unmask(there, header.mask, &mut text);
            text
        }
        _ => input.to_vec(),
    }
}

/// Does the frame at the start of `input` begin a message that is compressed?
#[must_use]
pub fn begins_compressed(input: &[u8]) -> bool {
    let header = header::Header::parse(input, false, true);
    matches!(header, Ok(Some(header)) if header.compressed)
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}
