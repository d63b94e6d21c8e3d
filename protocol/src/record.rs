//! What is written into rings (worker → master) and the log (master → workers).
//!
//! A record is a fixed head of little-endian words and then its variable parts, one behind the
//! other: fast to write, fast to check, and nothing in it needs an allocation. `decode` trusts
//! nothing: a record that lies about its lengths is `None`.
//!
//! What goes up is in `up`, what comes down in `down` (with `who` and `refusal`), and how all of it
//! lies in memory in `fields`.

mod down;
mod fields;
mod refusal;
mod up;
mod who;

use crate::ids::Cid;

pub use self::down::Down;
pub use self::refusal::Refusal;
pub use self::up::{Cids, Lane, Up, cid_bytes};
pub use self::who::Who;

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

impl<'a> Asker<'a> {
    fn new(cid: u64, place: u64, id: &'a [u8]) -> Asker<'a> {
        Asker {
            cid: Cid(cid),
            ring: (place >> 32) as u16,
            slot: place as u32,
            id,
        }
    }

    fn words(&self) -> [u64; 2] {
        [
            self.cid.0,
            u64::from(self.ring) << 32 | u64::from(self.slot),
        ]
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
