//! All that a client hears. How each of it is said is in [`say`](super::say).

use protocol::format::{Data, Format};
use protocol::history::{Copied, Kept};
use protocol::ids::{Cid, Position, Seat};
use protocol::moderation::Act;
use protocol::names::Names;
use protocol::output::{Full, Output};
use protocol::record::Who;
use protocol::settings::Rights;

use super::form::{Json, Msgpack};
use super::write::{Count, Fill, Sink};
use super::{BadRequest, Code, Id};
use crate::encoding::Encoding;
use crate::websocket::Head;

/// One message to a client. An `id` is the request's as JSON ([`Id::text`]), or empty if it had
/// none; names are UTF-8, `data` is one value: all this was checked where it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToClient<'a> {
    /// The first.
    Hello {
        cid: Cid,
        worker: Seat,
        /// At least so often the client is pinged, if it says nothing itself.
        ping_ms: u64,
        /// Bytes of `data`.
        max_data: usize,
        max_rooms: u32,
    },
    Joined {
        id: &'a [u8],
        /// Every message behind it comes.
        position: Position,
        count: u32,
        /// What it had missed came before; `None`: it did not ask.
        recovered: Option<bool>,
        /// What it may do in the room besides; `None`: all but moderate.
        may: Option<Rights>,
    },
    Left {
        id: &'a [u8],
    },
    /// The token that was shown counts from here on, for this user.
    Authorized {
        id: &'a [u8],
        user: &'a [u8],
    },
    /// The token that counts does so for this long, and then the connection is closed.
    Expires {
        in_ms: u64,
    },
    /// The message is in the master's log.
    Sent {
        id: &'a [u8],
        position: Position,
    },
    Present {
        id: &'a [u8],
        who: Who<'a>,
    },
    /// Who is in the room: from here on it is told what changes.
    List {
        room: &'a [u8],
        who: Who<'a>,
    },
    /// Who has come into the room and who has gone; without names, only how many are there.
    Changes {
        room: &'a [u8],
        total: u32,
        distinct: Option<u32>,
        names: Option<[Names<'a>; 2]>,
    },
    /// What a room retains.
    History {
        id: &'a [u8],
        room: &'a [u8],
        epoch: u64,
        messages: &'a Copied,
    },
    Pong {
        id: &'a [u8],
        worker: Seat,
        pid: u32,
        life: u32,
    },
    /// Nothing in it is about its recipient: one rendering serves all.
    Message {
        room: &'a [u8],
        position: Position,
        from: &'a [u8],
        data: Data<'a>,
    },
    /// These messages, both ends included, are lost for this client.
    Gap {
        room: &'a [u8],
        from: Position,
        to: Position,
        why: Lost,
    },
    /// What a moderator has asked for is done.
    Done {
        id: &'a [u8],
        act: Act<'a>,
    },
    /// What was decided, for all who are in the room (`None`: for whom it is about, everywhere).
    Decided {
        room: Option<&'a [u8]>,
        act: Act<'a>,
    },
    /// The message is shown to those only who moderate the room.
    Withheld {
        id: &'a [u8],
    },
    /// And this is how it is shown to them.
    Held {
        /// Where it is in the log, by which they can tell it from others.
        at: u64,
        room: &'a [u8],
        from: &'a [u8],
        data: Data<'a>,
    },
    Error {
        id: &'a [u8],
        code: Code,
        message: &'a str,
        retry_after_ms: Option<u64>,
    },
    /// The connection is about to be closed; come back after this time.
    Bye {
        retry_after_ms: u64,
    },
}

/// Why messages are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The client reads too slowly.
    Slow,
    /// The log was overwritten before the worker came to them.
    Overrun,
    /// Delivering them has failed, again and again.
    Internal,
    /// More was said in the room than each member is to get.
    Sampled,
}

impl Lost {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Lost::Slow => "slow",
            Lost::Overrun => "overrun",
            Lost::Internal => "internal",
            Lost::Sampled => "sampled",
        }
    }
}

impl<'a> From<&'a BadRequest<'_>> for ToClient<'a> {
    fn from(bad: &'a BadRequest<'_>) -> ToClient<'a> {
        ToClient::Error {
            id: bad.id.as_ref().map_or(b"", Id::text),
            code: bad.fault.code(),
            message: bad.fault.message(),
            retry_after_ms: None,
        }
    }
}

impl ToClient<'_> {
    /// Bytes of it, without the frame.
    #[must_use]
    pub fn len(&self, encoding: Encoding) -> usize {
        let mut count = Count(0);
        self.write(&mut count, encoding);
        count.0
    }

    /// Adds it without a frame; nothing of it if there is no room.
    pub fn put(&self, out: &mut impl Output, encoding: Encoding) -> Result<(), Full> {
        let room = out.space(self.len(encoding))?;
        self.write(&mut Fill(room), encoding);
        Ok(())
    }

    /// Adds it as a WebSocket frame, which may be compressed later; nothing of it if there is no room.
    pub fn put_frame(&self, out: &mut impl Output, encoding: Encoding) -> Result<(), Full> {
        if self.is_converted(encoding.format()) {
            let mut bytes = Vec::new();
            self.write(&mut bytes, encoding);
            let head = Head::message(encoding.kind(), bytes.len());
            let mut room = Fill(out.space(head.as_bytes().len() + bytes.len())?);
            room.add(head.as_bytes());
            room.add(&bytes);
            return Ok(());
        }
        let len = self.len(encoding);
        let head = Head::message(encoding.kind(), len);
        let mut room = Fill(out.space(head.as_bytes().len() + len)?);
        room.add(head.as_bytes());
        self.write(&mut room, encoding);
        Ok(())
    }

    /// As JSON, without a frame.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, Encoding::Json);
        bytes
    }

    /// Is it said with data that came in another format? That is not to be made twice.
    fn is_converted(&self, format: Format) -> bool {
        match self {
            ToClient::Message { data, .. } | ToClient::Held { data, .. } => data.format != format,
            ToClient::History { messages, .. } => messages
                .iter()
                .any(|kept| matches!(kept, Kept::Message(m) if m.data.format != format)),
            _ => false,
        }
    }

    fn write(&self, to: &mut impl Sink, encoding: Encoding) {
        match encoding {
            Encoding::Json | Encoding::JsonDeflated => self.say(&mut Json::new(to)),
            Encoding::Msgpack | Encoding::MsgpackDeflated => self.say(&mut Msgpack(to)),
        }
    }
}
