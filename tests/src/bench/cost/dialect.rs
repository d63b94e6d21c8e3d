//! How the rooms of each server are spoken to: bytes, without a socket.
//!
//! A message is the same for all: [`LENGTH`] bytes of JSON, a string that holds the room, the number
//! of the message and filling. What a server puts around it is its own affair, but it must be there.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::load::wire;
use crate::rooms::{MSGPACK, packed};
use crate::websocket::{frame, handshake};

/// Bytes of a message.
pub const LENGTH: usize = 100;
/// Digits of its number.
const DIGITS: usize = 10;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x9;
const PONG: u8 = 0x8a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `rooms.v1.json`.
    Rooms,
    /// The same, but that so many of a hundred members speak `rooms.v1.msgpack`.
    Formats { packed: usize },
    /// The path names the room, and what is sent comes to all of it.
    Plain,
    /// So it does, in an envelope as long as that of [`Rooms`](Dialect::Rooms).
    Bare,
    /// Socket.IO's protocol, version 5, in Engine.IO's, version 4.
    SocketIo,
}

/// What a client says before it is a member, and what it waits for then.
pub struct Opening {
    pub says: Vec<u8>,
    pub until: Until,
}

pub enum Until {
    /// The head of an answer that holds this.
    Head(&'static str),
    /// A message that holds this.
    Text(&'static str),
}

/// What the key of [`handshake`] is answered.
pub const ACCEPT: &str = ": s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

impl Dialect {
    /// This member of each room speaks MessagePack. (Two neighbours are alike: connections may go to
    /// two workers in turn.)
    pub fn packs(self, member: usize) -> bool {
        match self {
            Dialect::Formats { packed } => {
                let before = |pair: usize| pair * packed / 100;
                before(member / 2 + 1) > before(member / 2)
            }
            _ => false,
        }
    }

    /// How a member gets into its room, the last first.
    pub fn openings(self, to: SocketAddr, room: usize, packs: bool) -> Vec<Opening> {
        let path = match self {
            Dialect::Rooms | Dialect::Formats { .. } => "/rooms".to_owned(),
            Dialect::Plain | Dialect::Bare => format!("/room/{room}"),
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
        };
        let mut open = Opening {
            says: handshake(to, &path).into_bytes(),
            until: Until::Head(ACCEPT),
        };
        if packs {
            open.says.clear();
            let fields = [("Sec-WebSocket-Protocol", MSGPACK)];
            wire::put_handshake_with(to, &path, &fields, &mut open.says);
            let join = json!({ "id": 1, "join": format!("r{room}") });
            let join = Opening {
                says: frame(BINARY, &packed(&join)),
                // The names in an answer are what they are in JSON.
                until: Until::Text("pos"),
            };
            return vec![join, open];
        }
        let say = |text: String, until| Opening {
            says: frame(TEXT, text.as_bytes()),
            until: Until::Text(until),
        };
        match self {
            Dialect::Rooms | Dialect::Formats { .. } => {
                let join = format!("{{\"id\":1,\"join\":\"r{room}\"}}");
                vec![say(join, "\"ok\":{\"pos\":"), open]
            }
            Dialect::Plain | Dialect::Bare => vec![open],
            Dialect::SocketIo => {
                let join = format!("421[\"join\",\"r{room}\"]");
                // What is said before it has greeted is lost.
                let greeting = Opening {
                    says: Vec::new(),
                    until: Until::Text("0{\"sid\":"),
                };
                let connect = say("40".to_owned(), "40{\"sid\":");
                vec![say(join, "431["), connect, greeting, open]
            }
        }
    }

    /// Appends the frame of a client that publishes.
    pub fn publish(self, room: usize, number: u64, packs: bool, out: &mut Vec<u8>) {
        let data = message(room, number);
        if packs {
            let data: Value = serde_json::from_str(&data).expect("JSON of ours");
            let message = json!({ "send": format!("r{room}"), "data": data });
            return out.extend(frame(BINARY, &packed(&message)));
        }
        let text = match self {
            Dialect::Rooms | Dialect::Formats { .. } => {
                format!("{{\"send\":\"r{room}\",\"data\":{data}}}")
            }
            Dialect::Plain | Dialect::Bare => data,
            Dialect::SocketIo => format!("42[\"say\",\"r{room}\",{data}]"),
        };
        out.extend(frame(TEXT, text.as_bytes()));
    }

    /// The number of the message that this is a delivery of; `None`: it is none of that room.
    pub fn delivered(self, room: &Room, payload: &[u8]) -> Option<u64> {
        let around = payload.strip_prefix(&room.before[..])?;
        let around = around.strip_suffix(&room.after[..])?;
        let (between, data) = around.split_at_checked(around.len().checked_sub(LENGTH)?)?;
        let (start, end) = (room.number, room.number + DIGITS);
        if between.is_empty() == room.has_between
            || data[..start] != room.message[..start]
            || data[end..] != room.message[end..]
        {
            return None;
        }
        data[start..end].iter().try_fold(0, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            Some(number * 10 + digit)
        })
    }

    /// What a client answers to this frame, if it only asks whether the client lives.
    pub fn pong(self, opcode: u8, payload: &[u8]) -> Option<Vec<u8>> {
        match (self, opcode) {
            (_, PING) => Some(frame(PONG, payload)),
            (Dialect::SocketIo, _) if payload == b"2" => Some(frame(TEXT, b"3")),
            _ => None,
        }
    }

    /// What deliveries of a room look like.
    pub fn room(self, room: usize, packs: bool) -> Room {
        if packs {
            let name = format!("r{room}");
            // Four fields, of which the data is the last.
            let mut before = b"\x84\xa4room".to_vec();
            before.extend(packed(&name.into()));
            before.extend(b"\xa3pos");
            let value: Value = serde_json::from_str(&message(room, 0)).expect("JSON of ours");
            return Room {
                has_between: true,
                before,
                message: packed(&value),
                // It has a head of two bytes.
                number: 2,
                after: Vec::new(),
            };
        }
        let (before, after) = match self {
            Dialect::Rooms | Dialect::Formats { .. } | Dialect::Bare => {
                (format!("{{\"room\":\"r{room}\",\"pos\":\""), "}")
            }
            Dialect::Plain => (String::new(), ""),
            Dialect::SocketIo => ("42[\"said\",".to_owned(), "]"),
        };
        Room {
            has_between: !matches!(self, Dialect::Plain | Dialect::SocketIo),
            before: before.into_bytes(),
            message: message(room, 0).into_bytes(),
            number: 1,
            after: after.as_bytes().to_vec(),
        }
    }
}

pub struct Room {
    /// What a delivery begins with.
    before: Vec<u8>,
    /// Then there is something about the message.
    has_between: bool,
    /// Its first message.
    message: Vec<u8>,
    /// Where its number is in it.
    number: usize,
    /// What a delivery ends with.
    after: Vec<u8>,
}

/// What is published, as JSON.
pub fn message(room: usize, number: u64) -> String {
    let start = format!("\"{number:010} of room {room}, and so on");
    format!("{start:.<width$}\"", width = LENGTH - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_by_all_of_its_bytes() {
        let room = Dialect::Rooms.room(7, false);
        let of = |room, number| {
            let data = message(room, number);
            format!("{{\"room\":\"r{room}\",\"pos\":\"e1:2\",\"from\":\"c3\",\"data\":{data}}}")
        };
        let number = |text: &str| Dialect::Rooms.delivered(&room, text.as_bytes());
        assert_eq!(message(7, 12).len(), LENGTH);
        assert_eq!(number(&of(7, 12)), Some(12));
        assert_eq!(number(&of(8, 12)), None);
        assert_eq!(number(&of(7, 12).replace("..", ".,")), None);
        assert_eq!(number(&of(7, 12)[..100]), None);
        assert_eq!(number("{\"room\":\"r7\",\"gap\":{}}"), None);
    }

    #[test]
    fn so_it_is_when_it_is_packed() {
        let formats = Dialect::Formats { packed: 50 };
        let room = formats.room(7, true);
        let of = |room, number| {
            let data: Value = serde_json::from_str(&message(room, number)).unwrap();
            [
                &b"\x84\xa4room\xa2r7\xa3pos\xa4e1:2\xa4from\xa2c3\xa4data"[..],
                &packed(&data),
            ]
            .concat()
        };
        assert_eq!(formats.delivered(&room, &of(7, 12)), Some(12));
        assert_eq!(formats.delivered(&room, &of(8, 12)), None);
        let packs = (0..1000).filter(|member| formats.packs(*member)).count();
        assert_eq!(packs, 500);
    }
}
