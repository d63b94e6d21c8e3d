//! How the rooms of each server are spoken to: bytes, without a socket.
//!
//! A message is the same for all: [`LENGTH`] bytes of JSON, a string that holds the room, the number
//! of the message and filling. What a server puts around it is its own affair, but it must be there.

use std::net::SocketAddr;

use crate::websocket::{frame, handshake};

/// Bytes of a message.
pub const LENGTH: usize = 100;
/// Where its number is.
const NUMBER: std::ops::Range<usize> = 1..11;

const TEXT: u8 = 0x81;
const PING: u8 = 0x9;
const PONG: u8 = 0x8a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `rooms.v1.json`.
    Rooms,
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
    /// How a member gets into its room, the last first.
    pub fn openings(self, to: SocketAddr, room: usize) -> Vec<Opening> {
        let path = match self {
            Dialect::Rooms => "/rooms".to_owned(),
            Dialect::Plain | Dialect::Bare => format!("/room/{room}"),
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
        };
        let open = Opening {
            says: handshake(to, &path).into_bytes(),
            until: Until::Head(ACCEPT),
        };
        let say = |text: String, until| Opening {
            says: frame(TEXT, text.as_bytes()),
            until: Until::Text(until),
        };
        match self {
            Dialect::Rooms => {
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
    pub fn publish(self, room: usize, number: u64, out: &mut Vec<u8>) {
        let data = message(room, number);
        let text = match self {
            Dialect::Rooms => format!("{{\"send\":\"r{room}\",\"data\":{data}}}"),
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
        if between.is_empty() == room.has_between
            || data[..NUMBER.start] != room.message[..NUMBER.start]
            || data[NUMBER.end..] != room.message[NUMBER.end..]
        {
            return None;
        }
        data[NUMBER].iter().try_fold(0, |number, digit| {
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
    pub fn room(self, room: usize) -> Room {
        let (before, after) = match self {
            Dialect::Rooms | Dialect::Bare => (format!("{{\"room\":\"r{room}\",\"pos\":\""), "}"),
            Dialect::Plain => (String::new(), ""),
            Dialect::SocketIo => ("42[\"said\",".to_owned(), "]"),
        };
        Room {
            has_between: matches!(self, Dialect::Rooms | Dialect::Bare),
            before: before.into_bytes(),
            message: message(room, 0).into_bytes(),
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
        let room = Dialect::Rooms.room(7);
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
}
