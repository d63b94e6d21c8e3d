//! The HTTP API, on admin listeners: what is asked and answered there.
//!
//! A request is parsed when it is complete ([`request`]: who asks, [`access`], and what, by its
//! `line` and its `body`; what a back end says for a user is judged by its words, too: `say`). Some are
//! answered at once ([`reply`]); the others go up the ring, and the connection waits, as one does at
//! `/rooms` for a room to be opened: its flag says so, and a word of its slot which request it is. The
//! answer comes in the log ([`answer`]), to whoever holds the connection by then, wherever it has moved
//! meanwhile. What only workers know, their connections, each tells when it is asked ([`look`]).

pub mod access;
pub mod answer;
pub mod body;
mod line;
pub mod look;
pub mod reply;
pub mod request;
mod say;

use protocol::output::{Full, Output};
use protocol::record::Up;
use protocol::settings::Settings;

use crate::close::CloseReason;
use crate::http::{self, Context, Manner, Reply};
use crate::requests::{Client, Flow};
use crate::slots::Flag;

use self::access::Access;
use self::request::Outcome;

/// The request that a connection waits for the answer of: the word in its slot, and the `id` of the
/// asker in records.
///
/// place behind it in the stream (40 bits) · manner (3) · it may take long (1) · origin + 1 (8) · 1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Of the next request in the connection's input.
    pub offset: u64,
    pub manner: Manner,
    pub is_slow: bool,
    /// Which of [`Api::origins`](protocol::settings::Api) has asked.
    pub origin: Option<u8>,
}

const OFFSET: u64 = (1 << 40) - 1;
const IS_ONE: u64 = 1 << 63;

impl Waiting {
    #[must_use]
    pub fn pack(self) -> u64 {
        self.offset & OFFSET
            | u64::from(self.manner.pack()) << 40
            | u64::from(self.is_slow) << 43
            | self.origin.map_or(0, |origin| u64::from(origin) + 1) << 44
            | IS_ONE
    }

    #[must_use]
    pub fn unpack(word: u64) -> Option<Waiting> {
        let waiting = Waiting {
            offset: word & OFFSET,
            manner: Manner::unpack((word >> 40) as u8 & 7)?,
            is_slow: word >> 43 & 1 == 1,
            origin: ((word >> 44 & 0x1ff) as u16)
                .checked_sub(1)
                .and_then(|origin| u8::try_from(origin).ok()),
        };
        (waiting.pack() == word).then_some(waiting)
    }

    /// That of an asker, as its `id` says.
    #[must_use]
    pub fn of(id: &[u8]) -> Option<Waiting> {
        Waiting::unpack(u64::from_le_bytes(id.try_into().ok()?))
    }
}

impl Client<'_> {
    /// A request for the API is complete: it is answered, or the answer is asked for, and then the word
    /// of what is waited for.
    pub fn ask_api(
        &mut self,
        body: &[u8],
        behind: u64,
        manner: Manner,
        out: &mut impl Output,
        cx: &Context<'_>,
    ) -> Result<(Flow, Option<Waiting>), Full> {
        let Some((head, body)) = http::head_and_body(body) else {
            return Ok((Flow::Close(CloseReason::Internal), None));
        };
        let origin = access::origin(head, &self.settings.api);
        let access = match self.meta.has(Flag::Unix) {
            // The permissions of the file have let it in.
            true => Access::All,
            false => access::access(head, &self.settings.api, self.meta.has(Flag::Remote)),
        };
        let asked = request::read(head, body, self.settings, access);
        let Some(asked) = say::judged(asked, self.filters) else {
            return Ok((Flow::Unready, None));
        };
        let (what, data, is_slow) = match asked {
            Outcome::Reply(mut reply) => {
                allow_origin(&mut reply, origin, self.settings);
                http::reply(out, cx, manner, &reply)?;
                return Ok((Flow::Next, None));
            }
            Outcome::Ask {
                what,
                data,
                is_slow,
            } => (what, data, is_slow),
        };
        let waiting = Waiting {
            offset: behind,
            manner,
            is_slow,
            origin,
        };
        let id = waiting.pack().to_le_bytes();
        let what = serde_json::to_vec(&what).unwrap_or_default();
        let up = Up::Ask {
            asker: self.asker(&id),
            what: &what,
            data: &data,
        };
        Ok(match self.stage(up) {
            Flow::Next => (Flow::Opening, Some(waiting)),
            other => (other, None),
        })
    }
}

/// Who asks from a page of this origin may read the answer.
fn allow_origin(reply: &mut Reply, origin: Option<u8>, settings: &Settings) {
    if settings.api.origins.is_empty() {
        return;
    }
    reply.fields += "Vary: Origin\r\n";
    if let Some(origin) = origin.and_then(|at| settings.api.origins.get(usize::from(at))) {
        reply.fields += &format!("Access-Control-Allow-Origin: {origin}\r\n");
    }
}

#[cfg(test)]
mod tests;
