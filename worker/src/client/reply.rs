//! All that a client hears.

use protocol::history::Copied;
use protocol::ids::{Cid, Position, Seat};
use protocol::output::{Full, Output};

use super::write::{Count, Fill, Sink};
use super::{BadRequest, Code, Id};
use crate::websocket::{Head, Kind};

/// One message to a client. An `id` is the request's as JSON ([`Id::text`]), or empty if it had
/// none; names are UTF-8, `data` is one JSON value: all this was checked where it came in.
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
        count: u32,
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
        data: &'a [u8],
    },
    /// These messages, both ends included, are lost for this client.
    Gap {
        room: &'a [u8],
        from: Position,
        to: Position,
        why: Lost,
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
}

impl Lost {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Lost::Slow => "slow",
            Lost::Overrun => "overrun",
            Lost::Internal => "internal",
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
    /// Bytes of its text.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no message is empty")]
    pub fn len(&self) -> usize {
        let mut count = Count(0);
        self.write(&mut count);
        count.0
    }

    /// Adds its text; nothing of it if there is no room.
    pub fn put(&self, out: &mut impl Output) -> Result<(), Full> {
        let room = out.space(self.len())?;
        self.write(&mut Fill(room));
        Ok(())
    }

    /// Adds it as a WebSocket frame; nothing of it if there is no room.
    pub fn put_frame(&self, out: &mut impl Output) -> Result<(), Full> {
        let len = self.len();
        let head = Head::message(Kind::Text, len);
        let mut room = Fill(out.space(head.as_bytes().len() + len)?);
        room.add(head.as_bytes());
        self.write(&mut room);
        Ok(())
    }

    fn write(&self, to: &mut impl Sink) {
        match *self {
            ToClient::Hello {
                cid,
                worker,
                ping_ms,
                max_data,
                max_rooms,
            } => {
                to.add(b"{\"hello\":{\"cid\":\"c");
                to.number(cid.0);
                to.add(b"\",\"worker\":");
                to.number(worker.0.into());
                to.add(b",\"ping\":");
                to.number(ping_ms.div_ceil(1000));
                to.add(b",\"max\":{\"message\":");
                to.number(max_data as u64);
                to.add(b",\"rooms\":");
                to.number(max_rooms.into());
                to.add(b"}}}");
            }
            ToClient::Joined {
                id,
                position,
                count,
                recovered,
            } => {
                open(to, id);
                to.add(b"\"ok\":{\"pos\":");
                to.position(position);
                to.add(b",\"count\":");
                to.number(count.into());
                if let Some(recovered) = recovered {
                    to.add(b",\"recovered\":");
                    to.bool(recovered);
                }
                to.add(b"}}");
            }
            ToClient::History {
                id,
                room,
                epoch,
                messages,
            } => {
                open(to, id);
                to.add(b"\"ok\":{\"messages\":[");
                let mut between: &[u8] = b"";
                for message in messages.iter() {
                    to.add(between);
                    between = b",";
                    let offset = message.offset;
                    ToClient::Message {
                        room,
                        position: Position { epoch, offset },
                        from: message.from,
                        data: message.data,
                    }
                    .write(to);
                }
                to.add(b"]}}");
            }
            ToClient::Left { id } => {
                open(to, id);
                to.add(b"\"ok\":{}}");
            }
            ToClient::Authorized { id, user } => {
                open(to, id);
                to.add(b"\"ok\":{\"user\":");
                to.string(user);
                to.add(b"}}");
            }
            ToClient::Expires { in_ms } => {
                to.add(b"{\"auth\":{\"expires_in_ms\":");
                to.number(in_ms);
                to.add(b"}}");
            }
            ToClient::Sent { id, position } => {
                open(to, id);
                to.add(b"\"ok\":{\"pos\":");
                to.position(position);
                to.add(b"}}");
            }
            ToClient::Present { id, count } => {
                open(to, id);
                to.add(b"\"ok\":{\"count\":");
                to.number(count.into());
                to.add(b"}}");
            }
            ToClient::Pong {
                id,
                worker,
                pid,
                life,
            } => {
                open(to, id);
                to.add(b"\"ok\":{\"worker\":");
                to.number(worker.0.into());
                to.add(b",\"pid\":");
                to.number(pid.into());
                to.add(b",\"life\":");
                to.number(life.into());
                to.add(b"}}");
            }
            ToClient::Message {
                room,
                position,
                from,
                data,
            } => {
                to.add(b"{\"room\":");
                to.string(room);
                to.add(b",\"pos\":");
                to.position(position);
                to.add(b",\"from\":");
                to.string(from);
                to.add(b",\"data\":");
                to.add(data);
                to.add(b"}");
            }
            ToClient::Gap {
                room,
                from,
                to: last,
                why,
            } => {
                to.add(b"{\"room\":");
                to.string(room);
                to.add(b",\"gap\":{\"from\":");
                to.position(from);
                to.add(b",\"to\":");
                to.position(last);
                to.add(b",\"why\":");
                to.string(why.as_str().as_bytes());
                to.add(b"}}");
            }
            ToClient::Error {
                id,
                code,
                message,
                retry_after_ms,
            } => {
                open(to, id);
                to.add(b"\"error\":{\"code\":");
                to.string(code.as_str().as_bytes());
                to.add(b",\"message\":");
                to.string(message.as_bytes());
                to.add(b",\"retry\":");
                to.bool(code.retry());
                if let Some(ms) = retry_after_ms {
                    to.add(b",\"retry_after_ms\":");
                    to.number(ms);
                }
                to.add(b"}}");
            }
            ToClient::Bye { retry_after_ms } => {
                to.add(b"{\"bye\":{\"retry_after_ms\":");
                to.number(retry_after_ms);
                to.add(b"}}");
            }
        }
    }
}

/// The begin of an answer, and which request it is for.
fn open(to: &mut impl Sink, id: &[u8]) {
    to.add(b"{");
    if !id.is_empty() {
        to.add(b"\"id\":");
        to.add(id);
        to.add(b",");
    }
}
