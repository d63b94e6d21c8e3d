//! What a room retains, given to a client: when it joins, or asks for it.
//!
//! A client that comes back names the last message that it has (`since`). It becomes a member from
//! the newest message on that the master has placed, which may be further than this worker has read
//! in the log; everything between is copied from what the room retains and goes out before the answer
//! to the join, in the join's own record. So there is no seam: what the history has, the log does not
//! give to this member again, and what is behind it comes through the log, whoever dies or moves.

use protocol::history::{Copied, Kept, Reader};
use protocol::ids::Position;
use protocol::moderation::Act;
use protocol::output::{Full, Output};

use crate::client::ToClient;
use crate::encoding::Encoding;
use crate::frames;

/// Bytes of the messages in one answer to `history`, about.
const PAGE: usize = 256 << 10;

/// While a room is so busy that what was the newest message is gone when it is read, it is looked for
/// again so often.
const ATTEMPTS: usize = 4;

/// A room, as this worker knows it.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    pub number: u32,
    pub name: &'a [u8],
    /// Of its last message in the log, as far as that was read.
    pub position: Position,
}

/// What a join brings along.
#[derive(Debug, PartialEq, Eq)]
pub struct Brought {
    /// The member is given what is behind this.
    pub after: u64,
    /// To be given before the join is answered.
    pub messages: Copied,
    /// As the answer says; `None`: it was not asked for.
    pub recovered: Option<bool>,
}

/// For one who joins: what it missed since a position, or else, if it wants that, the last message.
/// What takes more than `most` bytes is not recovered.
#[must_use]
pub fn on_join(
    history: &Reader,
    room: Room<'_>,
    since: Option<Position>,
    last: bool,
    most: usize,
) -> Brought {
    let Position { epoch, offset } = room.position;
    let placed = || {
        history
            .last(room.number, epoch)
            .unwrap_or(offset)
            .max(offset)
    };
    if let Some(since) = since.filter(|since| since.epoch == epoch) {
        for _ in 0..ATTEMPTS {
            let newest = placed();
            if since.offset > newest {
                // It never was there.
                break;
            }
            let missed = history.range(room.number, epoch, since.offset + 1, newest, most);
            if let Ok(messages) = missed {
                return Brought {
                    after: newest,
                    messages,
                    recovered: Some(true),
                };
            }
            if placed() == newest {
                break;
            }
        }
    }
    let messages = match last {
        true => history.newest(room.number, epoch, u64::MAX, 1, most),
        false => Copied::default(),
    };
    Brought {
        after: messages
            .iter()
            .last()
            .map_or(offset, |message| message.offset()),
        messages,
        recovered: since.map(|_| false),
    }
}

/// For one who asks: up to `limit` messages, the newest or the newest before a position.
#[must_use]
pub fn page(history: &Reader, room: Room<'_>, before: Option<Position>, limit: u32) -> Copied {
    let epoch = room.position.epoch;
    let to = match before {
        None => u64::MAX,
        Some(before) if before.epoch == epoch && before.offset > 0 => before.offset - 1,
        // Nothing is retained of another epoch.
        Some(_) => 0,
    };
    history.newest(room.number, epoch, to, limit.into(), PAGE)
}

/// Puts the messages as they come from the room, each a frame, or (`batch`) all in one.
pub fn put(
    out: &mut impl Output,
    room: Room<'_>,
    messages: &Copied,
    encoding: Encoding,
    batch: bool,
) -> Result<(), Full> {
    if batch {
        let mut frames = Vec::new();
        put(&mut frames, room, messages, encoding, false)?;
        return out.put(&frames::batch(&frames, encoding));
    }
    let epoch = room.position.epoch;
    for message in messages.iter() {
        kept(room.name, epoch, message).put_frame(out, encoding)?;
    }
    Ok(())
}

/// What a room retains, as it is said.
pub fn kept<'a>(room: &'a [u8], epoch: u64, kept: Kept<'a>) -> ToClient<'a> {
    let offset = kept.offset();
    let position = Position { epoch, offset };
    match kept {
        Kept::Message(message) => ToClient::Message {
            room,
            position,
            from: message.from,
            data: message.data,
        },
        Kept::Deleted { .. } => ToClient::Decided {
            room: Some(room),
            act: Act::Delete { position },
        },
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
