//! What a record of the log means to one connection, as frames.

use protocol::fault;
use protocol::ids::Position;
use protocol::record::{Asker, Down, Refusal};
use protocol::settings::{Rates, Rights};

use crate::brain::Brain;
use crate::client::{Code, Lost as Why, ToClient};
use crate::encoding::Encoding;
use crate::limits::TOO_MUCH;
use crate::moderation::{BANNED, MUTED};
use crate::rooms::RoomIx;
use crate::skipped::Skipped;
use crate::websocket::{Head, MAX_HEAD, frame};

impl Brain {
    /// What a record of the log means to one connection, as bytes: for one that lags, or of which a
    /// brain that died may have written a part: the answer to its request, if it is one, then the
    /// message, if it is in the room and not left out: then it is `skipped`, which is to be said before
    /// the next frame. Returns which message that was.
    pub fn frames_for(
        &self,
        slot: u32,
        at: u64,
        down: &Down<'_>,
        skipped: &mut Skipped,
        into: &mut Vec<u8>,
    ) -> Option<(RoomIx, Position)> {
        let cid = self.slots.cid(slot);
        let encoding = self.slots.encoding(slot);
        let mut put = |message: ToClient<'_>| put(into, message, encoding);
        let mine = |asker: &Asker<'_>| asker.cid == cid && !asker.id.is_empty();
        match down {
            Down::Message {
                room,
                position,
                asker,
                from,
                share,
                data,
            } => {
                if mine(asker) {
                    put(ToClient::Sent {
                        id: asker.id,
                        position: *position,
                    });
                }
                let room = self.rooms.numbered(*room)?;
                let member = self
                    .rooms
                    .rooms_of(&self.slots, slot)
                    .into_iter()
                    .find(|(r, _)| *r == room)?;
                if position.offset > member.1 && !share.includes(*position, asker.cid, cid) {
                    skipped.add(room, *position);
                } else if position.offset > member.1 {
                    let name = self.rooms.name(room);
                    let message = ToClient::Message {
                        room: &name,
                        position: *position,
                        from,
                        data: *data,
                    };
                    match self.is_given_up(at) {
                        false => {
                            fault::poison("worker:poison-log", data.bytes);
                            put(message);
                        }
                        true => put(given_up(&name, *position)),
                    }
                    return Some((room, *position));
                }
            }
            Down::Listed { .. } | Down::List { .. } | Down::Changes { .. }
                if self.is_given_up(at) => {}
            Down::Opened { asker, .. }
            | Down::Count { asker, .. }
            | Down::Sent { asker, .. }
            | Down::Moderated { asker, .. }
            | Down::Withheld { asker, .. }
                if self.is_given_up(at) =>
            {
                if mine(asker) {
                    put(refused(asker.id, Refusal::Internal));
                }
            }
            Down::Opened {
                position,
                total,
                asker,
                name,
                ..
            } if mine(asker) => {
                let (rates, may) = (&self.settings.rates, self.may(slot, name));
                put(opened(asker.id, name, *position, *total, rates, may));
            }
            Down::Count { who, asker } if mine(asker) => {
                let (id, who) = (asker.id, *who);
                put(ToClient::Present { id, who });
            }
            Down::Listed { room, who, asker } if asker.cid == cid => {
                let room = self.rooms.numbered(*room)?;
                // Behind it are the changes that it is told.
                if self.is_told(slot, room, at + 1) {
                    let room = &self.rooms.name(room);
                    put(ToClient::List { room, who: *who });
                }
            }
            Down::List { room, who } => {
                let room = self.rooms.numbered(*room)?;
                if self.is_told(slot, room, at) {
                    let room = &self.rooms.name(room);
                    put(ToClient::List { room, who: *who });
                }
            }
            Down::Changes {
                room,
                total,
                distinct,
                names,
            } => {
                let room = self.rooms.numbered(*room)?;
                if self.is_told(slot, room, at) {
                    let room = &self.rooms.name(room);
                    put(ToClient::Changes {
                        room,
                        total: *total,
                        distinct: *distinct,
                        names: *names,
                    });
                }
            }
            Down::Sent { position, asker } if mine(asker) => {
                let (id, position) = (asker.id, *position);
                put(ToClient::Sent { id, position });
            }
            Down::Moderated { scope, asker, act } => {
                if mine(asker) {
                    let (id, act) = (asker.id, *act);
                    put(ToClient::Done { id, act });
                }
                if self.hears_of(slot, *scope, act) {
                    let room = self.room_in(*scope).map(|room| self.rooms.name(room));
                    let (room, act) = (room.as_deref(), *act);
                    put(ToClient::Decided { room, act });
                }
            }
            Down::Withheld {
                room,
                asker,
                from,
                data,
            } => {
                if mine(asker) {
                    put(ToClient::Withheld { id: asker.id });
                }
                let room = self.rooms.numbered(*room)?;
                if self.moderates(slot, room) {
                    let room = &self.rooms.name(room);
                    let data = *data;
                    put(ToClient::Held {
                        at,
                        room,
                        from,
                        data,
                    });
                }
            }
            Down::Refused { reason, asker }
                if mine(asker) || asker.cid == cid && is_always_said(*reason) =>
            {
                put(refused(asker.id, *reason));
            }
            Down::Opened { .. }
            | Down::Held { .. }
            | Down::Listed { .. }
            | Down::Count { .. }
            | Down::Sent { .. }
            | Down::Refused { .. }
            | Down::Told { .. }
            | Down::Look { .. }
            | Down::Presence { .. } => {}
        }
        None
    }

    /// Is a connection told who comes and goes in a room, by a record at this position?
    pub(crate) fn is_told(&self, slot: u32, room: RoomIx, at: u64) -> bool {
        let from = self.rooms.watches(&self.slots, slot, room);
        from.is_some_and(|from| from <= at)
    }
}

/// In place of a message that killed one brain after another.
pub fn given_up(room: &[u8], position: Position) -> ToClient<'_> {
    ToClient::Gap {
        room,
        from: position,
        to: position,
        why: Why::Internal,
    }
}

/// For people.
pub const FULL: &str = "there are too many connections in this room, or of this user";

/// Nobody more may join the room, which so many are in.
#[must_use]
pub fn is_full(name: &[u8], total: u32, rates: &Rates) -> bool {
    let most = match name.starts_with(b"@") {
        true => rates.per_user,
        false => rates.per_room,
    };
    most != 0 && total >= most
}

/// The answer to a join; or, since a user's room is joined by showing a token, to that. `others`: so many
/// connections were in the room before.
pub fn opened<'a>(
    id: &'a [u8],
    name: &'a [u8],
    position: Position,
    others: u32,
    rates: &Rates,
    may: Option<Rights>,
) -> ToClient<'a> {
    match name {
        _ if is_full(name, others, rates) => ToClient::Error {
            id,
            code: Code::Limit,
            message: FULL,
            retry_after_ms: None,
        },
        [b'@', user @ ..] => ToClient::Authorized { id, user },
        _ => ToClient::Joined {
            id,
            position,
            count: others.saturating_add(1),
            recovered: None,
            may,
        },
    }
}

/// It is said also to who wants no answer.
#[must_use]
pub fn is_always_said(reason: Refusal) -> bool {
    matches!(
        reason,
        Refusal::Rate { .. } | Refusal::Muted { .. } | Refusal::Banned { .. }
    )
}

pub fn refused(id: &[u8], reason: Refusal) -> ToClient<'_> {
    let (code, message) = match reason {
        Refusal::Limit => (Code::Limit, "there are too many rooms"),
        Refusal::Internal => (Code::Internal, "the request was lost"),
        Refusal::Rate { .. } => (Code::Rate, TOO_MUCH),
        Refusal::Muted { .. } => (Code::Forbidden, MUTED),
        Refusal::Banned { .. } => (Code::Forbidden, BANNED),
        Refusal::Unknown => (
            Code::BadRequest,
            "there is no such message, or no such room",
        ),
        Refusal::Full => (
            Code::Limit,
            "there are too many mutes and bans: limits.sanctions",
        ),
    };
    ToClient::Error {
        id,
        code,
        message,
        retry_after_ms: match reason {
            Refusal::Rate { after_ms } => Some(after_ms.into()),
            Refusal::Muted { after_ms: 0 } | Refusal::Banned { after_ms: 0 } => None,
            Refusal::Muted { after_ms } | Refusal::Banned { after_ms } => Some(after_ms.into()),
            Refusal::Limit | Refusal::Internal | Refusal::Unknown | Refusal::Full => None,
        },
    }
}

/// Adds a message as a frame, where there is always room: what may be compressed is not yet.
pub fn put(into: &mut Vec<u8>, message: ToClient<'_>, encoding: Encoding) {
    let put = message.put_frame(into, encoding);
    debug_assert!(put.is_ok(), "a Vec is never full");
}

/// Messages that are a frame each, as one frame: an array of them. One alone stays as it is.
#[must_use]
pub fn batch(frames: &[u8], encoding: Encoding) -> Vec<u8> {
    let mut messages = Vec::new();
    let mut rest = frames;
    while let Some((_, head, len)) = frame::parse(rest) {
        let (message, behind) = rest[head..].split_at(len);
        messages.push(message);
        rest = behind;
    }
    if messages.len() < 2 || !rest.is_empty() {
        return frames.to_vec();
    }
    let (begin, between, end) = match encoding {
        Encoding::Json | Encoding::JsonDeflated => (b"[".to_vec(), &b","[..], &b"]"[..]),
        Encoding::Msgpack | Encoding::MsgpackDeflated => {
            (msgpack_array(messages.len()), &b""[..], &b""[..])
        }
    };
    let len = messages.iter().map(|message| message.len()).sum::<usize>()
        + between.len() * (messages.len() - 1)
        + begin.len()
        + end.len();
    let mut one = Vec::with_capacity(len + MAX_HEAD);
    one.extend_from_slice(Head::message(encoding.kind(), len).as_bytes());
    one.extend_from_slice(&begin);
    for (number, message) in messages.iter().enumerate() {
        one.extend_from_slice(if number == 0 { b"" } else { between });
        one.extend_from_slice(message);
    }
    one.extend_from_slice(end);
    one
}

/// What says that an array of so many values follows.
fn msgpack_array(len: usize) -> Vec<u8> {
    let mut head = Vec::new();
    let put = rmp::encode::write_array_len(&mut head, len as u32);
    debug_assert!(put.is_ok(), "a Vec is never full");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::Kind;

    fn frame(text: &str) -> Vec<u8> {
        let mut frame = Head::message(Kind::Text, text.len()).as_bytes().to_vec();
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    #[test]
    fn frames_become_one() {
        let long = format!("\"{}\"", "x".repeat(70_000));
        let middle = format!("\"{}\"", "y".repeat(200));
        let all = ["{}", &long, "1", &middle];
        for count in 0..=all.len() {
            let parts: Vec<u8> = all[..count].iter().flat_map(|text| frame(text)).collect();
            let expected = match count {
                0 | 1 => parts.clone(),
                _ => frame(&format!("[{}]", all[..count].join(","))),
            };
            assert_eq!(batch(&parts, Encoding::Json), expected, "{count}");
        }
    }

    #[test]
    fn so_do_those_of_messagepack() {
        let binary = |bytes: &[u8]| {
            let mut frame = Vec::new();
            crate::websocket::binary(&mut frame, bytes).unwrap();
            frame
        };
        for count in [0, 1, 2, 15, 16, 70_000] {
            let parts = binary(b"\x01").repeat(count);
            let mut array = msgpack_array(count);
            array.extend(vec![1; count]);
            let expected = match count {
                0 | 1 => parts.clone(),
                _ => binary(&array),
            };
            assert_eq!(batch(&parts, Encoding::Msgpack), expected, "{count}");
        }
    }
}
