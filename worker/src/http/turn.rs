//! One step of a session: a head, as much of a body as is here, and the answer if that was all.

use std::mem::MaybeUninit;

use protocol::output::{Buffer, Full, Output};

use super::chunks::{Chunks, Limits};
use super::head::{Length, Request};
use super::routes::{self, Answer, Plan};
use super::scan::Scan;
use super::state::{Framing, Pending, Persist, Phase, State};
use super::upgrade::Endpoint;
use super::{Context, Next, Step, answer, upgrade};
use crate::close::CloseReason;

/// Fields for which there is room on the stack: as many as a browser sends, and some.
const FEW_FIELDS: usize = 48;

/// What a step works with; see [`step`](super::step).
pub(super) struct Turn<'a, B, O> {
    pub input: &'a [u8],
    pub body: &'a mut B,
    pub out: &'a mut O,
    pub cx: &'a Context<'a>,
}

/// Why a step goes no further.
pub(crate) enum Stop {
    Full,
    Close(CloseReason),
}

impl From<Full> for Stop {
    fn from(Full: Full) -> Stop {
        Stop::Full
    }
}

impl From<CloseReason> for Stop {
    fn from(reason: CloseReason) -> Stop {
        Stop::Close(reason)
    }
}

type Done = Result<(State, Step), Stop>;

fn done(phase: Phase, consumed: usize, next: Next) -> Done {
    Ok((State(phase), Step { consumed, next }))
}

impl<B: Buffer, O: Output> Turn<'_, B, O> {
    pub fn run(&mut self, state: State) -> Done {
        match state.0 {
            Phase::Head(scan) => self.between(scan),
            Phase::Body(framing, pending) => self.body(framing, pending, 0),
        }
    }

    /// At a request's head, or before one.
    fn between(&mut self, mut scan: Scan) -> Done {
        match self.input {
            [] | [b'\r'] => return done(Phase::Head(scan), 0, Next::NeedInput),
            // RFC 9112, 2.2: "a server that is expecting to receive and parse a request-line
            // SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
            [b'\r', b'\n', ..] if !scan.after_blank => {
                return done(Phase::Head(Scan::AFTER_BLANK), 2, Next::Again);
            }
            _ => {}
        }
        match scan.advance(self.input, &self.cx.settings.http)? {
            None => done(Phase::Head(scan), 0, Next::NeedInput),
            Some(len) => self.head(len, scan.fields()),
        }
    }

    /// The head is complete: decides what is answered, and goes on into the body.
    fn head(&mut self, len: usize, count: usize) -> Done {
        let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
        let mut many = Vec::new();
        let fields = match few.get_mut(..count) {
            Some(few) => few,
            None => {
                many.reserve_exact(count);
                &mut many.spare_capacity_mut()[..count]
            }
        };
        let request = Request::parse(&self.input[..len], fields)?;
        if self.cx.refuse {
            return Err(CloseReason::Refused.into());
        }
        let framing = match request.length {
            Length::Sized(n) if n > self.max_body() => return Err(CloseReason::BodyTooLarge.into()),
            Length::Sized(n) => Framing::Sized(n as u32),
            Length::Chunked => Framing::Chunked(Chunks::default()),
        };
        let answer = match routes::plan(&request, self.cx.role)? {
            Plan::Answer(_) | Plan::Open(Endpoint::Echo) if self.cx.banned => {
                return Err(CloseReason::Banned.into());
            }
            Plan::Answer(answer) => answer,
            Plan::Open(endpoint) => {
                let upgrade = upgrade::open(&request, endpoint, self.cx, self.out)?;
                return done(Phase::default(), len, Next::Upgrade(upgrade));
            }
        };
        let mut pending = Pending {
            answer,
            manner: request.manner,
            type_len: 0,
        };
        if request.expects_continue && framing != Framing::Sized(0) {
            if !answer.wants_body() {
                // The client asks before it sends the body, and this is the answer. Whether the
                // body comes all the same is its choice (RFC 9110, 10.1.1): nothing can follow.
                pending.manner.persist = Persist::Close;
                let (state, mut step) = self.finish(pending, len)?;
                step.next = Next::Close(CloseReason::BodyUnwanted);
                return Ok((state, step));
            }
            self.out.put(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if answer == Answer::Api {
            // It looks into the head when the body is complete.
            self.body.put(&(len as u32).to_le_bytes())?;
            self.body.put(&self.input[..len])?;
        } else if answer.wants_body()
            && let Ok(type_len) = u8::try_from(request.content_type.len())
        {
            self.body.put(request.content_type)?;
            pending.type_len = type_len;
        }
        self.body(framing, pending, len)
    }

    /// In a request's body, which goes on behind what is `consumed`.
    fn body(&mut self, framing: Framing, pending: Pending, mut consumed: usize) -> Done {
        let rest = &self.input[consumed..];
        let wanted = pending.answer.wants_body();
        let (framing, complete) = match framing {
            Framing::Sized(left) => {
                let now = rest.len().min(left as usize);
                if wanted {
                    self.body.put(&rest[..now])?;
                }
                consumed += now;
                let left = left - now as u32;
                (Framing::Sized(left), left == 0)
            }
            Framing::Chunked(mut chunks) => {
                let limits = Limits {
                    data: self.max_body(),
                    beside: self.cx.settings.http.max_head,
                };
                let (now, complete) = chunks.advance(rest, limits, |data| match wanted {
                    true => self.body.put(data),
                    false => Ok(()),
                })?;
                consumed += now;
                (Framing::Chunked(chunks), complete)
            }
        };
        if complete {
            self.finish(pending, consumed)
        } else {
            done(Phase::Body(framing, pending), consumed, Next::NeedInput)
        }
    }

    /// The request is complete, or need not be: answers it.
    fn finish(&mut self, pending: Pending, consumed: usize) -> Done {
        if pending.answer == Answer::Api {
            return done(Phase::default(), consumed, Next::Ask(pending.manner));
        }
        // A type that is longer than what is there is none that we put there.
        let (kind, content) = (self.body.bytes())
            .split_at_checked(usize::from(pending.type_len))
            .ok_or(CloseReason::Internal)?;
        answer::give(self.out, self.cx, pending, kind, content)?;
        self.body.clear();
        match pending.manner.persist {
            Persist::Keep | Persist::KeepAlive => {
                let next = match consumed < self.input.len() {
                    true => Next::Again,
                    false => Next::NeedInput,
                };
                done(Phase::default(), consumed, next)
            }
            Persist::Close => {
                let next = Next::Close(CloseReason::Done);
                done(Phase::default(), self.input.len(), next)
            }
        }
    }

    /// Bytes of a body at most: what the settings allow, and the state can count.
    fn max_body(&self) -> u64 {
        (self.cx.settings.http.max_body as u64).min(u64::from(u32::MAX))
    }
}
