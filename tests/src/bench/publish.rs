//! Clients that publish as fast as they are read.

use std::io;
use std::net::SocketAddr;

use super::plain::{Plain, TEXT, offset};
use crate::websocket::frame;

/// Messages for one room, made once.
pub struct Batch {
    frames: Vec<u8>,
    messages: u64,
    /// How each reply begins; none: no reply is wanted.
    replies: Vec<Vec<u8>>,
}

impl Batch {
    /// `data` is JSON.
    #[must_use]
    pub fn new(room: &str, data: &str, messages: u64, with_ids: bool) -> Batch {
        let mut batch = Batch {
            frames: Vec::new(),
            messages,
            replies: Vec::new(),
        };
        for id in 1..=messages {
            let mut message = String::from("{");
            if with_ids {
                message += &format!(r#""id":{id},"#);
                let reply = format!(r#"{{"id":{id},"ok":{{"pos":""#);
                batch.replies.push(reply.into_bytes());
            }
            message += &format!(r#""send":"{room}","data":{data}}}"#);
            batch.frames.extend(frame(TEXT, message.as_bytes()));
        }
        batch
    }

    /// Any messages to which there is no reply.
    #[must_use]
    pub fn of(messages: impl Iterator<Item = String>) -> Batch {
        let mut batch = Batch {
            frames: Vec::new(),
            messages: 0,
            replies: Vec::new(),
        };
        for message in messages {
            batch.frames.extend(frame(TEXT, message.as_bytes()));
            batch.messages += 1;
        }
        batch
    }
}

/// One client.
pub struct Publisher {
    socket: Plain,
    /// What it has published.
    pub published: u64,
    /// Replies that are still due.
    due: usize,
    /// The offset in the last reply.
    last: u64,
}

impl Publisher {
    pub fn connect(to: SocketAddr) -> io::Result<Publisher> {
        let (socket, _) = Plain::greeted(to)?;
        Ok(Publisher {
            socket,
            published: 0,
            due: 0,
            last: 0,
        })
    }

    /// Publishes all of it, and hears the replies to the one before, which was the same.
    pub fn publish(&mut self, batch: &Batch) -> io::Result<()> {
        self.socket.say(&batch.frames)?;
        self.published += batch.messages;
        self.hear(batch)?;
        self.due = batch.replies.len();
        Ok(())
    }

    /// Hears all that is due.
    pub fn hear(&mut self, batch: &Batch) -> io::Result<()> {
        let due = std::mem::take(&mut self.due);
        for wanted in &batch.replies[..due] {
            let reply = self.socket.hear()?;
            let wrong = || io::Error::other(format!("got {}", String::from_utf8_lossy(reply)));
            if !reply.starts_with(wanted) {
                return Err(wrong());
            }
            let offset = offset(reply).ok_or_else(wrong)?;
            // One order for all: its own messages come one behind the other.
            if offset <= self.last {
                return Err(wrong());
            }
            self.last = offset;
        }
        Ok(())
    }

    /// Publishes one message with an id; the offset that it got.
    pub fn ask(&mut self, one: &Batch) -> io::Result<u64> {
        self.publish(one)?;
        self.hear(one)?;
        Ok(self.last)
    }
}
