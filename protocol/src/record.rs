//! What is written into rings (worker → master) and the log (master → workers).
//!
//! A record is a fixed head of little-endian words and then its variable parts, one behind the
//! other: fast to write, fast to check, and nothing in it needs an allocation. `decode` trusts
//! nothing: a record that lies about its lengths is `None`.

use crate::ids::{Cid, Position};

/// The one that asked: an answer in the log is rendered by whoever holds connection `cid`; `ring`
/// and `slot` say where it was when it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker<'a> {
    pub cid: Cid,
    pub ring: u16,
    pub slot: u32,
    /// The request's `id` as JSON text (`3`, `"a"`); empty: no reply is wanted.
    pub id: &'a [u8],
}

/// Worker → master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up<'a> {
    /// A message for a room.
    Publish {
        asker: Asker<'a>,
        room: &'a [u8],
        from: &'a [u8],
        data: &'a [u8],
    },
    /// A connection wants to join a room that this worker does not hold yet; answered by
    /// [`Down::Opened`]. From here on the worker counts as holding it.
    Open { asker: Asker<'a>, room: &'a [u8] },
    /// How many are in the room? Answered by [`Down::Count`].
    Who { asker: Asker<'a>, room: &'a [u8] },
    /// This worker has so many connections in the room (0: it holds it no more).
    Members { room: u32, count: u32 },
}

/// Master → workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down<'a> {
    /// A message at its place. Subscribers get it, and the asker its `ok` before it.
    Message {
        room: u32,
        position: Position,
        asker: Asker<'a>,
        from: &'a [u8],
        data: &'a [u8],
    },
    /// The worker that asked holds the room from here on: every message of it behind `position`
    /// comes behind this record.
    Opened {
        room: u32,
        position: Position,
        total: u32,
        asker: Asker<'a>,
        name: &'a [u8],
    },
    /// The answer to [`Up::Who`].
    Count { total: u32, asker: Asker<'a> },
    /// So many connections are in the room now, on all workers together.
    Presence { room: u32, total: u32 },
    /// The request cannot be granted.
    Refused { reason: Refusal, asker: Asker<'a> },
}

/// Why the master refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The room table is full.
    Limit = 1,
    /// The record was not one that we write.
    Internal = 2,
}
