//! Figures that one process shows to another in the header of its stream: words that only its
//! writer stores, each by itself.

use crate::close::CloseReason;
use crate::histogram;
use crate::stream::FIRST_FREE_WORD;

/// In a ring's header: what the worker shows to the master. From `MessagesIn` on they count, over the
/// worker's brains; what is before is as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Figure {
    /// Turns of the loop: a worker whose count stands still is hung.
    Turns,
    /// Connections that it holds.
    Connections,
    /// Rooms that it holds.
    Rooms,
    /// Where in the log it reads.
    LogRead,
    /// Connections that wait for their sockets to take what they are owed.
    Lagging,
    /// Connections that wait for room in the ring.
    RingWaiting,
    /// Questions that wait for a back end ([`Hook`](crate::settings::Hook)).
    HookWaiting,
    /// Bytes of its memory for connections that are in use.
    Arena,

    /// Messages received from clients.
    MessagesIn,
    /// Messages delivered to clients.
    Deliveries,
    /// Questions that back ends have been asked.
    HookAsked,
    /// Those that were answered with a refusal.
    HookDenied,
    /// Those that were not answered, and decided by the hook's `fail`.
    HookFailed,
    /// Brains that went on where another had died.
    Recoveries,
    /// Connections taken from the master that nobody had before.
    Taken,
    /// The first of [`GAPS`]: messages that were dropped and said with `gap`, by why.
    Gaps,
    /// The first of [`CLOSES`]: connections closed, by [`CloseReason`].
    Closes = Figure::Gaps as usize + GAPS,
    /// The first word of a [histogram]: from a message's place in the log to the sockets.
    Delivery = Figure::Closes as usize + CLOSES,
    /// The same: from the acceptance of a connection until it was taken.
    Handoff = Figure::Delivery as usize + histogram::WORDS,
}

/// Words of gaps: there are fewer reasons.
pub const GAPS: usize = 8;
/// Words of closes: there are fewer reasons.
pub const CLOSES: usize = 80;
/// Where the figures end.
pub const FIGURES: usize = Figure::Handoff as usize + histogram::WORDS;
/// The first that counts.
pub const COUNTERS: usize = Figure::MessagesIn as usize;

const _: () = assert!(CloseReason::ALL.len() <= CLOSES);
const _: () = assert!((FIRST_FREE_WORD + FIGURES) * 8 <= crate::stream::HEADER);

/// Why messages became a gap, in the order of their figures.
pub const GAP_REASONS: [&str; 4] = ["slow", "overrun", "internal", "sampled"];

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

/// In the log's header: a place in the log and when (by the monotonic clock, in microseconds) what is
/// behind it was appended, one word each. By it a worker knows how long a delivery has taken: of one
/// at a time, so that no record has to say when it was written.
pub const STAMP: usize = read_index(MAX_RINGS);

const _: () = assert!((STAMP + 2) * 8 <= crate::stream::HEADER);
