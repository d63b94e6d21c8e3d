//! A step at `/rooms`: a frame, and what its message asks.

use protocol::output::{Buffer, Full, Output};

use super::{Io, Stepped, Took, took};
use crate::buffers::{Mark, Staged};
use crate::close::CloseReason;
use crate::inflate::Inflate;
use crate::requests::{self, Client, Flow};
use crate::slots::Flag;
use crate::websocket::{self, Deflater, Session, Window};

/// What follows of a request for its connection.
pub(super) fn flowed(flow: Flow, session: &mut Session, io: &mut Io<'_>) -> Result<Took, Full> {
    Ok(match flow {
        Flow::Next => Took::More,
        Flow::Commit => Took::Commit,
        Flow::Opening => {
            io.meta = io.meta.with(Flag::Opening, true);
            Took::Opening
        }
        Flow::Holding => Took::Holding,
        Flow::RingFull => Took::RingFull,
        Flow::Unready => Took::Unready,
        Flow::Asking => Took::Asking,
        Flow::Close(reason) => {
            session.close(&mut io.out, reason)?;
            Took::Ends(reason)
        }
    })
}

pub(super) fn step(
    input: &[u8],
    io: &mut Io<'_>,
    client: &mut Client<'_>,
    inflate: &mut Inflate,
) -> Stepped {
    let Some(mut session) = Session::unpack(io.words) else {
        return Ok((0, Took::Ends(CloseReason::Internal)));
    };
    let rules = requests::rules(client.settings).deflating(io.meta.window.is_some());
    let step = websocket::step(&mut session, input, &mut io.message, &mut io.out, &rules)?;
    let took = match step.next {
        websocket::Next::Compressed(_) if inflate.is_spent() => return Ok((0, Took::Yields)),
        websocket::Next::Message(kind) | websocket::Next::Compressed(kind) => {
            let message = match step.next {
                _ if kind != io.meta.encoding().kind() => Err(CloseReason::WrongKind),
                websocket::Next::Compressed(_) => {
                    // Its own last byte: what comes behind it is another request.
                    client.offset = client.offset.saturating_sub(1);
                    inflate.message(kind, io.message.bytes(), rules.max_message())
                }
                _ => Ok(io.message.bytes()),
            };
            let flow = match message {
                Ok(message) => client.request(message, &mut io.out, &mut io.record)?,
                Err(reason) => Flow::Close(reason),
            };
            // The step is taken again when the room is held, the ring has room, words are ready or a
            // back end has answered.
            match flow {
                Flow::Holding => return Ok((0, Took::Holding)),
                Flow::RingFull => return Ok((0, Took::RingFull)),
                Flow::Unready => return Ok((0, Took::Unready)),
                Flow::Asking => return Ok((0, Took::Asking)),
                _ => {}
            }
            let took = flowed(flow, &mut session, io)?;
            io.message.clear();
            took
        }
        next => took(next, io.meta),
    };
    io.words = session.pack();
    Ok((step.consumed, took))
}

/// What a step has answered goes out compressed, where that is worth it. Returns how many bytes were
/// looked at.
pub(super) fn squeeze(
    out: &mut Staged<'_>,
    since: Mark,
    deflater: &mut Deflater,
    window: Window,
) -> usize {
    let said = &out.bytes()[since.at()..];
    if !deflater.is_worth(said.len()) {
        return 0;
    }
    let len = said.len();
    let mut frames = Vec::with_capacity(len);
    deflater.put_frames(said, window, &mut frames);
    out.rollback(since);
    // There was room for more.
    let put = out.put(&frames);
    debug_assert!(put.is_ok());
    len
}
