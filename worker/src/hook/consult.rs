//! What connections do with answers: their requests wait for them, go on, or are refused.

use std::borrow::Cow;

use mio::Token;
use protocol::fault;
use protocol::ids::Cid;
use protocol::output::{Full, Output};

use super::answer::Answer;
use super::question::{Asker, Subject};
use super::{Hooks, Verdict, lines};
use crate::auth::Grant;
use crate::brain::Brain;
use crate::client::{Code, Verb, as_json};
use crate::close::CloseReason;
use crate::requests::{Client, Flow};

/// For people, if the back end has no words for it.
const DENIED: &str = "this is not allowed";
const UNAVAILABLE: &str = "what decides about this cannot be reached";

/// What follows of asking.
pub enum Asked<T> {
    /// The request goes on, perhaps with what the back end gave it.
    On(Option<T>),
    /// It does not.
    Ends(Flow),
}

impl Client<'_> {
    /// Asks about a join or a send; what is not allowed is answered here. Gives what is to be said
    /// in place of the data.
    pub(crate) fn ask(
        &mut self,
        out: &mut impl Output,
        id: &[u8],
        verb: &Verb<'_>,
        user: Option<&str>,
    ) -> Result<Asked<Box<str>>, Full> {
        let json;
        let subject = match verb {
            _ if self.hooks.is_none() => return Ok(Asked::On(None)),
            Verb::Join { room, .. } => Subject::Join { room },
            Verb::Send {
                room,
                key,
                author,
                data,
                ..
            } => {
                json = as_json(*data);
                Subject::Send {
                    room,
                    key: key.as_deref(),
                    author: author.as_deref(),
                    data: &json,
                }
            }
            _ => return Ok(Asked::On(None)),
        };
        let refusal = match subject {
            Subject::Join { .. } => Code::Forbidden,
            _ => Code::Rejected,
        };
        let (code, message) = match self.consult(subject, user) {
            Verdict::Free => return Ok(Asked::On(None)),
            Verdict::Waits => return Ok(Asked::Ends(Flow::Asking)),
            Verdict::Said(Answer::Allow { data, .. }) => return Ok(Asked::On(data)),
            Verdict::Said(Answer::Deny { message }) => (refusal, said(message)),
            Verdict::Unavailable => (Code::Unavailable, UNAVAILABLE.into()),
        };
        self.error(out, id, code, &message)?;
        Ok(Asked::Ends(Flow::Next))
    }

    /// Asks about a new connection; `user` is its token's. Gives who it is instead.
    pub(crate) fn ask_to_connect(
        &mut self,
        out: &mut impl Output,
        head: &[u8],
        user: Option<&str>,
    ) -> Result<Asked<Box<Grant>>, Full> {
        let (code, message, reason) = match self.consult(Subject::Connect { head }, user) {
            Verdict::Free => return Ok(Asked::On(None)),
            Verdict::Waits => return Ok(Asked::Ends(Flow::Asking)),
            Verdict::Said(Answer::Allow { grant, .. }) => return Ok(Asked::On(grant)),
            Verdict::Said(Answer::Deny { message }) => {
                (Code::Unauthorized, said(message), CloseReason::HookDenied)
            }
            Verdict::Unavailable => {
                let reason = CloseReason::HookUnavailable;
                (Code::Unavailable, UNAVAILABLE.into(), reason)
            }
        };
        self.error(out, b"", code, &message)?;
        Ok(Asked::Ends(Flow::Close(reason)))
    }

    fn consult(&mut self, subject: Subject<'_>, user: Option<&str>) -> Verdict {
        let asker = Asker {
            cid: self.cid,
            slot: self.slot,
            offset: self.offset,
            user,
            address: self.slots.peer(self.slot).ip(),
        };
        match &mut self.hooks {
            Some(hooks) => hooks.consult(asker, subject, self.now),
            None => Verdict::Free,
        }
    }

    /// This very request has been asked about, and is read again.
    pub(crate) fn is_known(&self) -> bool {
        (self.hooks.as_ref()).is_some_and(|hooks| hooks.knows(self.cid, self.offset))
    }

    /// It is done.
    pub(crate) fn forget_answer(&mut self) {
        if let Some(hooks) = &mut self.hooks {
            hooks.forget(self.cid);
        }
    }
}

fn said(message: Option<Box<str>>) -> Cow<'static, str> {
    message.map_or(DENIED.into(), |message| message.into_string().into())
}

impl Brain {
    /// Its input is held back until a back end has answered.
    pub(crate) fn is_asked(&self, slot: u32) -> bool {
        let hooks = self.hooks.as_ref();
        hooks.is_some_and(|hooks| hooks.is_asked(self.slots.cid(slot)))
    }

    /// `false`: the event is of no connection to a back end.
    pub(crate) fn on_hook_event(&mut self, token: Token) -> bool {
        let Some(hooks) = self
            .hooks
            .as_mut()
            .filter(|_| lines::place(token).is_some())
        else {
            return false;
        };
        let wake = hooks.on_event(self.poll.registry(), token, self.now);
        self.wake(wake);
        true
    }

    /// At the end of a turn.
    pub(crate) fn tend_hooks(&mut self) {
        if let Some(hooks) = &mut self.hooks {
            let wake = hooks.turn(self.poll.registry(), self.now);
            self.wake(wake);
        }
    }

    /// These connections have their answers, and read their requests again.
    fn wake(&mut self, answered: Vec<(Cid, u32)>) {
        for (cid, slot) in answered {
            fault::point("worker:answered");
            if slot < self.slots.used() && self.slots.cid(slot) == cid {
                self.again.push(slot);
            }
        }
    }

    pub(crate) fn next_of_hooks(&self) -> Option<u64> {
        self.hooks.as_ref().and_then(|hooks| Hooks::next(hooks))
    }
}
