//! HTTP/1.1: bytes in, events and bytes out. No socket, no clock, no memory of its own.
//!
//! A session is a [`State`] of two words and what its connection has not consumed yet. [`step`]
//! takes it forward by one request at most, so that a client that pipelines very many cannot
//! starve the others. The same state and input always give the same output: a step whose process
//! died is made again.
//!
//! The input is strict (RFC 9112): whatever two readers could understand in two ways is answered
//! by its 4xx and a close. The outcome does not depend on how the stream was cut into reads.
//!
//! Read in this order: this file, `turn` (one step), [`state`] (what is kept between two), `scan`
//! (where does a head end?), `head` and `target` (what does it say?), `routes` (what is
//! answered?), `chunks` (chunked bodies), [`upgrade`] (to a WebSocket), `extensions` (of it), `answer` (the bytes).

mod answer;
pub(crate) mod chunks;
mod extensions;
mod head;
mod routes;
mod scan;
pub mod state;
mod target;
pub(crate) mod turn;
pub mod upgrade;

#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

use protocol::ids::Role;
use protocol::output::{Buffer, Full, Output};
use protocol::settings::Settings;

pub use self::answer::{Reply, reply, whoami};
pub use self::state::{Manner, State, Wait};
use self::turn::{Stop, Turn};
pub use self::upgrade::{Endpoint, Subprotocol, Upgrade};
use crate::close::CloseReason;

/// Header fields of one request that are ever parsed, whatever the settings allow.
pub const MAX_FIELDS: usize = 1_000;

/// What an answer may depend on besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub settings: &'a Settings,
    /// Of the listener that the connection came through.
    pub role: Role,
    /// What `/whoami` is answered.
    pub whoami: &'a str,
    /// For the `Date` field: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub date: &'a str,
    /// baton is at a limit: the first request is answered by 503, whatever it is.
    pub refuse: bool,
    /// Who comes from there is banned: it is answered by 403, but for `/rooms`, where it is told so in
    /// words that clients know.
    pub banned: bool,
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are dealt with.
    pub consumed: usize,
    pub next: Next,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// All that can be done with this input is done.
    NeedInput,
    /// Something is done, a request answered for example: there may be more in the input.
    Again,
    /// The 101 is in the output, and the session is over: the rest of the input is WebSocket.
    Upgrade(Upgrade),
    /// A request for the API is complete: its head and its body are in `body`, and the answer, which is
    /// given in this manner, is not this session's.
    Ask(Manner),
    /// The last answer is in the output, and the session is over: flush, `shutdown(Write)`, read
    /// on to the end (or a reset destroys the answer), close.
    Close(CloseReason),
}

/// Takes the session forward, by one request at most.
///
/// `input` is all that has been read and not consumed. `body` keeps the body of a request from
/// step to step; it is empty between requests. On [`Full`] the state is as it was, and what has
/// been put into `body` and `out` is to be dropped.
pub fn step(
    state: &mut State,
    input: &[u8],
    body: &mut impl Buffer,
    out: &mut impl Output,
    cx: &Context,
) -> Result<Step, Full> {
    let mut turn = Turn {
        input,
        body,
        out,
        cx,
    };
    let (after, step) = match turn.run(*state) {
        Ok(done) => done,
        Err(Stop::Full) => return Err(Full),
        Err(Stop::Close(reason)) => {
            let head_only = state.is_head_request(input);
            match state.is_for_api(input, cx.role) {
                true => answer::refuse_as_json(out, cx, reason, head_only)?,
                false => answer::refuse(out, cx, reason, head_only)?,
            }
            body.clear();
            let step = Step {
                consumed: input.len(),
                next: Next::Close(reason),
            };
            (State::default(), step)
        }
    };
    *state = after;
    Ok(step)
}

/// Head and body of a request for the API, as [`step`] leaves them in `body`.
#[must_use]
pub fn head_and_body(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = body.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// Does the request at the start of `head` ask for messages in batches, with `batch=1`?
#[must_use]
pub fn wants_batches(head: &[u8]) -> bool {
    query(head).is_some_and(|query| query.split('&').any(|pair| pair == "batch=1"))
}

/// The token that the request at the start of `head` has in its query, as `token=`.
#[must_use]
pub fn query_token(head: &[u8]) -> Option<&str> {
    query(head)?
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
}

/// The query of the request at the start of `head`.
#[must_use]
pub fn query(head: &[u8]) -> Option<&str> {
    let target = head.split(|byte| *byte == b' ').nth(1)?;
    let (_, query) = std::str::from_utf8(target).ok()?.split_once('?')?;
    Some(query)
}

/// The values of a field of the request at the start of `head`; what of them is not UTF-8 is not
/// as it came.
#[must_use]
pub fn values(head: &[u8], name: &str) -> Vec<String> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    // It has been parsed before: what it says there is known to be sound.
    let _ = parsed.parse_with_uninit_headers(head, &mut fields);
    (parsed.headers.iter())
        .filter(|field| field.name.eq_ignore_ascii_case(name))
        .map(|field| String::from_utf8_lossy(field.value).into_owned())
        .collect()
}

/// Ends a session whose deadline has passed (see [`State::waiting`]). One that waits in the middle
/// of a request is told so by a 408, if there is room for it.
pub fn timed_out(state: State, out: &mut impl Output, cx: &Context) -> CloseReason {
    let reason = match state.waiting() {
        Wait::Idle => return CloseReason::IdleTimeout,
        Wait::Head => CloseReason::HeadTimeout,
        Wait::Body => CloseReason::BodyTimeout,
    };
    // Without room for the answer the close alone has to say it.
    let _ = answer::refuse(out, cx, reason, false);
    reason
}
