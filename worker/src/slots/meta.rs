//! The first word of a slot: what its connection is.

use std::os::fd::{BorrowedFd, RawFd};

use protocol::ids::Role;
use serde::{Deserialize, Serialize};

use crate::close::CloseReason;
use crate::encoding::Encoding;
use crate::websocket::Window;

/// What a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// A PROXY header comes first.
    Proxy = 1,
    Http,
    Echo,
    Rooms,
    /// All is said: the output goes out, then our FIN, then the peer's end is awaited.
    Closing,
}

/// Facts that are true or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Flag {
    /// The master waits for the acknowledgement: not a byte may be read.
    Unacked = 1,
    /// Answer 503.
    Refuse = 2,
    /// After the PROXY header, give it back.
    Return = 4,
    /// It is owed something from the log, from its cursor on.
    Lagging = 8,
    /// It has asked for a room that this worker does not hold yet; its input waits.
    Opening = 16,
    /// Our ping waits for any byte.
    Pinged = 32,
    /// The peer has ended its stream.
    PeerEnded = 64,
    /// We have ended ours.
    WeEnded = 128,
    /// It was told to go away (`bye`, Close).
    Leaving = 256,
    /// It is given away and not touched again, unless the master says to keep it.
    Given = 512,
    /// It came through a listener that not only this machine can reach.
    Remote = 1024,
    /// Messages that come together come in one frame.
    Batch = 2048,
    /// It speaks MessagePack.
    Msgpack = 4096,
    /// It came through a unix socket.
    Unix = 8192,
}

/// The first word of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub fd: RawFd,
    pub phase: Phase,
    pub role: Role,
    /// Why it is being closed, once it is.
    pub reason: Option<CloseReason>,
    /// Messages may be compressed, both ways, and how far back ours refer.
    pub window: Option<Window>,
    flags: u16,
}

impl Meta {
    #[must_use]
    pub fn new(fd: RawFd, phase: Phase, role: Role) -> Meta {
        Meta {
            fd,
            phase,
            role,
            reason: None,
            window: None,
            flags: 0,
        }
    }

    #[must_use]
    pub fn has(self, flag: Flag) -> bool {
        self.flags & flag as u16 != 0
    }

    #[must_use]
    pub fn with(mut self, flag: Flag, on: bool) -> Meta {
        self.flags = if on {
            self.flags | flag as u16
        } else {
            self.flags & !(flag as u16)
        };
        self
    }

    /// In which it is told what it is told.
    #[must_use]
    pub fn encoding(self) -> Encoding {
        // What is not the same for all is compressed by itself, in so far.
        let shares = self.window == Some(Window::LARGEST) && !self.has(Flag::Batch);
        match (self.has(Flag::Msgpack), shares) {
            (false, false) => Encoding::Json,
            (true, false) => Encoding::Msgpack,
            (false, true) => Encoding::JsonDeflated,
            (true, true) => Encoding::MsgpackDeflated,
        }
    }

    #[must_use]
    pub fn in_phase(mut self, phase: Phase) -> Meta {
        self.phase = phase;
        self
    }

    /// It is being closed. The first reason counts.
    #[must_use]
    pub fn because(mut self, reason: CloseReason) -> Meta {
        self.reason = self.reason.or(Some(reason));
        self
    }

    /// fd + 1 (31 bits) · role (1) · phase (4) · window (4) · reason + 1 (8) · flags (16)
    #[must_use]
    pub fn pack(self) -> u64 {
        (self.fd as u64 + 1)
            | u64::from(self.role == Role::Admin) << 31
            | (self.phase as u64) << 32
            | self.window.map_or(0, |window| u64::from(window.bits())) << 36
            | self.reason.map_or(0, |r| r as u64 + 1) << 40
            | u64::from(self.flags) << 48
    }

    /// The word that [`pack`](Meta::pack) made; `None`: it did not make it.
    #[must_use]
    pub fn unpack(word: u64) -> Option<Meta> {
        let meta = MetaWord::new(word)?.meta();
        (meta.fd >= 0 && meta.pack() == word).then_some(meta)
    }

    /// Its socket. The slot owns it; it is closed through [`release`](super::Slots::release) only.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the slot owns this open fd for as long as it names it.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// The first word of a slot as it is, of which nothing is decoded but what is asked for: what a connection
/// is, is asked several times for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaWord(u64);

impl MetaWord {
    /// `None`: the slot is free.
    pub(super) fn new(word: u64) -> Option<MetaWord> {
        (word != 0).then_some(MetaWord(word))
    }

    #[must_use]
    pub fn has(self, flag: Flag) -> bool {
        self.flags() & flag as u16 != 0
    }

    #[must_use]
    pub fn phase(self) -> Phase {
        match self.0 >> 32 & 15 {
            1 => Phase::Proxy,
            2 => Phase::Http,
            3 => Phase::Echo,
            4 => Phase::Rooms,
            _ => Phase::Closing,
        }
    }

    #[must_use]
    pub fn fd(self) -> RawFd {
        (self.0 & 0x7fff_ffff) as RawFd - 1
    }

    #[must_use]
    pub fn window(self) -> Option<Window> {
        Window::new((self.0 >> 36 & 15) as u8)
    }

    /// All of it.
    #[must_use]
    pub fn meta(self) -> Meta {
        Meta {
            fd: self.fd(),
            phase: self.phase(),
            role: match self.0 >> 31 & 1 {
                0 => Role::Public,
                _ => Role::Admin,
            },
            reason: ((self.0 >> 40) as u8)
                .checked_sub(1)
                .and_then(CloseReason::from_u8),
            window: self.window(),
            flags: self.flags(),
        }
    }

    fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_comes_back() {
        let meta = Meta::new(19_999, Phase::Rooms, Role::Admin)
            .with(Flag::Lagging, true)
            .with(Flag::Leaving, true)
            .with(Flag::Lagging, false);
        assert_eq!(Meta::unpack(meta.pack()), Some(meta));
        let meta = Meta {
            reason: Some(CloseReason::BadUtf8),
            ..Meta::new(0, Phase::Closing, Role::Public)
        };
        assert_eq!(Meta::unpack(meta.pack()), Some(meta));
        let meta = Meta {
            window: Window::new(9),
            ..meta
        };
        assert_eq!(Meta::unpack(meta.pack()), Some(meta));
        assert_eq!(Meta::unpack(0), None);
        assert_eq!(Meta::unpack(1 | 6 << 32), None);
        assert_eq!(Meta::unpack(1 | 4 << 32 | 7 << 36), None);
    }
}
