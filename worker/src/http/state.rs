//! A session between two steps: two words of its connection's slot.

use protocol::ids::Role;

use super::chunks::Chunks;
use super::routes::{self, Answer};
use super::scan::Scan;

/// An HTTP session. The default one waits for its first request, and packs to zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct State(pub(super) Phase);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between requests, or in a head that is scanned so far.
    Head(Scan),
    /// In a request's body.
    Body(Framing, Pending),
}

/// How the end of a body is found, and where in it we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are to come.
    Sized(u32),
    Chunked(Chunks),
}

/// What is answered when the body is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub answer: Answer,
    pub manner: Manner,
    /// So many bytes before the body in its buffer are its `Content-Type`.
    pub type_len: u8,
}

/// How an answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// To HEAD: without content.
    pub(super) head_only: bool,
    pub(super) persist: Persist,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persist {
    /// As HTTP/1.1 does by itself.
    Keep,
    /// As an HTTP/1.0 client has asked for, and must be told.
    KeepAlive,
    Close,
}

/// What a session waits for, and so which deadline it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A request: nothing of it is here.
    Idle,
    /// The rest of a head, counted from its first byte.
    Head,
    /// More of a body.
    Body,
}

const HEAD: u8 = 0;
const SIZED: u8 = 1;
const CHUNKED: u8 = 2;

impl Default for Phase {
    fn default() -> Phase {
        Phase::Head(Scan::default())
    }
}

impl State {
    /// What it waits for, once [`step`](super::step) has said
    /// [`NeedInput`](super::Next::NeedInput).
    #[must_use]
    pub fn waiting(self) -> Wait {
        match self.0 {
            Phase::Head(scan) if scan.scanned == 0 => Wait::Idle,
            Phase::Head(_) => Wait::Head,
            Phase::Body(..) => Wait::Body,
        }
    }

    /// The session as words.
    #[must_use]
    pub fn pack(self) -> [u64; 2] {
        match self.0 {
            Phase::Head(scan) => {
                let (first, second) = scan.pack();
                [u64::from(HEAD) | first << 8, second]
            }
            Phase::Body(framing, pending) => {
                let (tag, left, second) = match framing {
                    Framing::Sized(left) => (SIZED, left, 0),
                    Framing::Chunked(chunks) => {
                        let (left, second) = chunks.pack();
                        (CHUNKED, left, second)
                    }
                };
                let first = u64::from(tag) | pending.pack() << 8 | u64::from(left) << 32;
                [first, second]
            }
        }
    }

    /// The session that was packed; `None` for words that [`pack`](State::pack) does not make.
    #[must_use]
    pub fn unpack(words: [u64; 2]) -> Option<State> {
        // Between two requests.
        if words == [0; 2] {
            return Some(State::default());
        }
        let [first, second] = words;
        let high = (first >> 32) as u32;
        let state = State(match first as u8 {
            HEAD => Phase::Head(Scan::unpack(first >> 8, second)?),
            SIZED => Phase::Body(Framing::Sized(high), Pending::unpack(first >> 8)?),
            CHUNKED => Phase::Body(
                Framing::Chunked(Chunks::unpack(high, second)?),
                Pending::unpack(first >> 8)?,
            ),
            _ => return None,
        });
        (state.pack() == words).then_some(state)
    }

    /// Whether an answer now would be one to HEAD.
    pub(super) fn is_head_request(self, input: &[u8]) -> bool {
        match self.0 {
            Phase::Head(_) => input.starts_with(b"HEAD "),
            Phase::Body(_, pending) => pending.manner.head_only,
        }
    }

    /// Whether an answer now would be one to a request for the API.
    pub(super) fn is_for_api(self, input: &[u8], role: Role) -> bool {
        match self.0 {
            Phase::Head(_) => role == Role::Admin && routes::names_api(input),
            Phase::Body(_, pending) => pending.answer == Answer::Api,
        }
    }
}

impl Pending {
    /// In 24 bits.
    fn pack(self) -> u64 {
        u64::from(self.answer.pack())
            | u64::from(self.manner.pack()) << 8
            | u64::from(self.type_len) << 16
    }

    fn unpack(bits: u64) -> Option<Pending> {
        Some(Pending {
            answer: Answer::unpack(bits as u8)?,
            manner: Manner::unpack((bits >> 8) as u8 & 7)?,
            type_len: (bits >> 16) as u8,
        })
    }
}

impl Manner {
    /// In three bits.
    #[must_use]
    pub fn pack(self) -> u8 {
        let persist = match self.persist {
            Persist::Keep => 0,
            Persist::KeepAlive => 1,
            Persist::Close => 2,
        };
        u8::from(self.head_only) | persist << 1
    }

    #[must_use]
    pub fn unpack(bits: u8) -> Option<Manner> {
        Some(Manner {
            head_only: bits & 1 == 1,
            persist: match bits >> 1 {
                0 => Persist::Keep,
                1 => Persist::KeepAlive,
                2 => Persist::Close,
                _ => return None,
            },
        })
    }

    /// Nothing follows the answer.
    #[must_use]
    pub fn ends(self) -> bool {
        self.persist == Persist::Close
    }
}
