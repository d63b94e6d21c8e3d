//! Figures that one process shows to another in the header of its stream: words that only its
//! writer stores, each by itself.

use crate::stream::FIRST_FREE_WORD;

/// In a ring's header: what the worker shows to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Figure {
    /// Turns of the loop: a worker whose count stands still is hung.
    Turns,
    /// Connections that it holds.
    Connections,
    /// Rooms that it holds.
    Rooms,
    /// Messages received from clients.
    MessagesIn,
    /// Messages delivered to clients.
    Deliveries,
    /// Messages that were dropped and said with `gap`.
    Gaps,
    /// Where in the log it reads.
    LogRead,
    /// Questions that back ends have been asked ([`Hook`](crate::settings::Hook)).
    HookAsked,
    /// Those that were answered with a refusal.
    HookDenied,
    /// Those that were not answered, and decided by the hook's `fail`.
    HookFailed,
}

impl Figure {
    /// Its word in the ring's segment.
    #[must_use]
    pub const fn word(self) -> usize {
        FIRST_FREE_WORD + self as usize
    }
}

/// Rings that can exist at once: up to 64 seats, each with an old and a new worker in a reload.
pub const MAX_RINGS: u16 = 128;

/// In the log's header: how far the master has read ring `ring`. The worker may overwrite what is
/// before it.
#[must_use]
pub const fn read_index(ring: u16) -> usize {
    FIRST_FREE_WORD + ring as usize
}

const _: () = assert!(read_index(MAX_RINGS) * 8 <= crate::stream::HEADER);
