//! What a moderator, or the API, decides about somebody or something: as it is asked of the master
//! ([`Up::Moderate`](crate::record::Up::Moderate)) and told to the workers
//! ([`Down::Moderated`](crate::record::Down::Moderated)).

use crate::cidr::Cidr;
use crate::ids::Position;

/// Bytes of a user's name, or a connection's, at most.
pub const MAX_WHO: usize = 200;

/// One decision. Who somebody is stands in `from`: a token's user, or a connection without one, `c7`.
/// `ms`: when it is asked, for how long; when it is told, until when, in milliseconds since 1970; 0: for
/// good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// What it sends is refused.
    Mute {
        who: &'a [u8],
        ms: u64,
    },
    Unmute {
        who: &'a [u8],
    },
    /// It has to leave, and is not let in.
    Ban {
        whom: Whom<'a>,
        ms: u64,
    },
    Unban {
        whom: Whom<'a>,
    },
    /// It has to leave, and may come back. Also a connection of somebody who has shown a token.
    Kick {
        who: &'a [u8],
    },
    /// A message is not shown any more.
    Delete {
        position: Position,
    },
    /// No message up to this one is; the position is the master's to say.
    Clear {
        position: Position,
    },
}

/// Who is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom<'a> {
    User(&'a [u8]),
    /// Everybody who comes from there: everywhere only.
    Address(Cidr),
}

/// Where a decision counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Everywhere,
    /// In a room, by its number.
    Room(u32),
    /// In a room in which nobody is.
    Nowhere,
}

impl Scope {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Scope::Room(room) => room.into(),
            Scope::Everywhere => 1 << 32,
            Scope::Nowhere => 2 << 32,
        }
    }

    pub(crate) fn unpack(word: u64) -> Option<Scope> {
        Some(match (word >> 32, word as u32) {
            (0, room) => Scope::Room(room),
            (1, 0) => Scope::Everywhere,
            (2, 0) => Scope::Nowhere,
            _ => return None,
        })
    }
}

impl<'a> Act<'a> {
    /// Whom it is about, if it is about somebody by name.
    #[must_use]
    pub fn who(&self) -> Option<&'a [u8]> {
        match *self {
            Act::Mute { who, .. } | Act::Unmute { who } | Act::Kick { who } => Some(who),
            Act::Ban { whom, .. } | Act::Unban { whom } => match whom {
                Whom::User(who) => Some(who),
                Whom::Address(_) => None,
            },
            Act::Delete { .. } | Act::Clear { .. } => None,
        }
    }

    /// Which it is, and its numbers.
    pub(crate) fn words(&self) -> [u64; 3] {
        match *self {
            Act::Mute { ms, .. } => [1, ms, 0],
            Act::Unmute { .. } => [2, 0, 0],
            Act::Ban { whom, ms } => [3 + whom.kind(), ms, 0],
            Act::Unban { whom } => [5 + whom.kind(), 0, 0],
            Act::Kick { .. } => [7, 0, 0],
            Act::Delete { position } => [8, position.epoch, position.offset],
            Act::Clear { position } => [9, position.epoch, position.offset],
        }
    }

    /// Calls `with` with whom it is about, as it lies in a record.
    pub(crate) fn with_target<R>(&self, with: impl FnOnce(&[u8]) -> R) -> R {
        match *self {
            Act::Ban {
                whom: Whom::Address(range),
                ..
            }
            | Act::Unban {
                whom: Whom::Address(range),
            } => with(range.to_string().as_bytes()),
            _ => with(self.who().unwrap_or_default()),
        }
    }

    /// `None`: not what [`words`](Act::words) and [`with_target`](Act::with_target) make.
    pub(crate) fn read([kind, x, y]: [u64; 3], target: &'a [u8]) -> Option<Act<'a>> {
        let position = Position {
            epoch: x,
            offset: y,
        };
        let act = match kind {
            8 | 9 if !target.is_empty() => return None,
            8 => return Some(Act::Delete { position }),
            9 => return Some(Act::Clear { position }),
            1 => Act::Mute { who: target, ms: x },
            2 => Act::Unmute { who: target },
            3 | 4 => Act::Ban {
                whom: Whom::read(kind - 3, target)?,
                ms: x,
            },
            5 | 6 => Act::Unban {
                whom: Whom::read(kind - 5, target)?,
            },
            7 => Act::Kick { who: target },
            _ => return None,
        };
        let is_name =
            |who: &[u8]| (1..=MAX_WHO).contains(&who.len()) && std::str::from_utf8(who).is_ok();
        let sound = act.words() == [kind, x, y] && act.who().is_none_or(is_name);
        sound.then_some(act)
    }
}

impl<'a> Whom<'a> {
    fn kind(self) -> u64 {
        match self {
            Whom::User(_) => 0,
            Whom::Address(_) => 1,
        }
    }

    fn read(kind: u64, target: &'a [u8]) -> Option<Whom<'a>> {
        Some(match kind {
            0 => Whom::User(target),
            _ => Whom::Address(std::str::from_utf8(target).ok()?.parse().ok()?),
        })
    }
}
