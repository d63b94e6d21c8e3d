//! Messages that were left out for a connection, because more is said in a room than each member is to
//! get ([`protocol::share`]). It is told so before whatever it is given next, or once a second.

use protocol::ids::Position;

use crate::client::{Lost, ToClient};
use crate::encoding::Encoding;
use crate::frames;
use crate::rooms::RoomIx;

/// Since something was given last, by room: the first and the last.
#[derive(Clone, Debug, Default)]
pub struct Skipped(Vec<(RoomIx, Position, Position)>);

impl Skipped {
    /// This one, too. What is in between was added before.
    pub fn add(&mut self, room: RoomIx, position: Position) {
        match self.0.iter_mut().find(|(of, ..)| *of == room) {
            Some((.., last)) => *last = position,
            None => self.0.push((room, position, position)),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (RoomIx, Position, Position)> {
        self.0.iter().copied()
    }

    /// Adds what is to be said of it, uncompressed. Returns how many messages that is about.
    pub fn put(
        &self,
        name: impl Fn(RoomIx) -> Vec<u8>,
        encoding: Encoding,
        into: &mut Vec<u8>,
    ) -> u64 {
        let mut count = 0;
        for (room, from, to) in self.iter() {
            count += to.offset - from.offset + 1;
            frames::put(into, gap(&name(room), from, to), encoding);
        }
        count
    }
}

/// These were left out, both ends included.
#[must_use]
pub fn gap(room: &[u8], from: Position, to: Position) -> ToClient<'_> {
    ToClient::Gap {
        room,
        from,
        to,
        why: Lost::Sampled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_one_behind_the_other_is_one_gap() {
        let mut skipped = Skipped::default();
        let at = |offset| Position { epoch: 3, offset };
        assert!(skipped.is_empty());
        for offset in 5..9 {
            skipped.add(RoomIx::default(), at(offset));
        }
        let mut frames = Vec::new();
        let name = |_| b"r".to_vec();
        assert_eq!(skipped.put(name, Encoding::Json, &mut frames), 4);
        let text = String::from_utf8_lossy(&frames[2..]);
        let gap = r#"{"room":"r","gap":{"from":"e3:5","to":"e3:8","why":"sampled"}}"#;
        assert_eq!(text, gap);
    }
}
