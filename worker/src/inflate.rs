//! Messages that came compressed, inflated for the steps that take them.
//!
//! A few bytes can say megabytes, so what is inflated counts as if it had been read: a connection gets
//! [`SLICE`] of it in a turn, then the others come first. A message at `/rooms` is short, and inflated at
//! once. One at `/echo` may be long: it is inflated a slice a turn, to be checked, and one such message of
//! the whole worker at a time, whichever connections send them. So neither time nor memory grow with
//! what a message turns out to be.
//!
//! All of this is a brain's own. The message itself stays compressed in its connection's slot until the
//! step that takes it is committed, and the next brain inflates it from its start.

use crate::close::CloseReason;
use crate::websocket::utf8::Utf8;
use crate::websocket::{Inflated, Inflater, Kind, Window};

/// Bytes, in and out, for a connection in a turn.
pub const SLICE: usize = 256 << 10;

/// Bytes that are checked at a time.
const PART: usize = 32 << 10;

/// Whoever does not go on with its long message for so long, since it does not read what it is sent,
/// begins again when the others are done.
const PATIENCE_MS: u64 = 100;

/// A connection of this brain: its slot, and which of those that were in it.
pub type Owner = (u32, u16);

/// What a message at `/echo` is answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Echo {
    /// What it came as: it is good for whoever sent it.
    Same,
    /// This, as it is: it might refer back further than the client's window.
    Plain(Vec<u8>),
}

/// A worker's inflaters, made when they are first needed.
#[derive(Debug, Default)]
pub struct Inflate {
    spent: usize,
    /// For messages that are inflated at once, and what became of the last.
    short: Option<Inflater>,
    plain: Vec<u8>,
    long: Option<Box<Inflater>>,
    begun: Option<Begun>,
}

/// A message at `/echo` that has been inflated in part.
#[derive(Debug)]
struct Begun {
    owner: Owner,
    at: u64,
    len: usize,
    text: Utf8,
    /// All of it so far, where it may have to be sent.
    plain: Vec<u8>,
}

impl Inflate {
    /// A connection's turn begins.
    pub fn begin_turn(&mut self) {
        self.spent = 0;
    }

    /// Something that took about as long as inflating so many bytes.
    pub fn spend(&mut self, bytes: usize) {
        self.spent += bytes;
    }

    /// The slot is another connection's from now on, or nobody's.
    pub fn forget(&mut self, slot: u32) {
        self.begun.take_if(|begun| begun.owner.0 == slot);
    }

    /// Has the connection had its slice of this turn?
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.spent >= SLICE
    }

    /// A whole message of up to `most` bytes.
    ///
    /// # Errors
    /// Why its connection is closed.
    pub fn message(
        &mut self,
        kind: Kind,
        payload: &[u8],
        most: usize,
    ) -> Result<&[u8], CloseReason> {
        let inflater = self.short.get_or_insert_default();
        inflater.begin();
        // One more, to see that it is too much.
        self.plain.resize(most + 1, 0);
        let mut len = 0;
        loop {
            let inflated = inflater.go_on(payload, &mut self.plain[len..]);
            let (Inflated::Part(n) | Inflated::Whole(n)) = inflated?;
            len += n;
            if len > most {
                return Err(CloseReason::MessageTooLarge);
            }
            if let Ok(Inflated::Whole(_)) = inflated {
                break;
            }
        }
        self.spent += payload.len() + len;
        let plain = &self.plain[..len];
        if kind == Kind::Text && std::str::from_utf8(plain).is_err() {
            return Err(CloseReason::BadUtf8);
        }
        Ok(plain)
    }

    /// Goes on with a message at `/echo`. `None`: its turn comes again.
    ///
    /// # Errors
    /// Why its connection is closed.
    pub fn echo(
        &mut self,
        owner: Owner,
        now: u64,
        kind: Kind,
        payload: &[u8],
        window: Window,
        most: usize,
    ) -> Result<Option<Echo>, CloseReason> {
        let inflater = self.long.get_or_insert_default();
        if self.spent >= SLICE {
            return Ok(None);
        }
        let mut begun = match self.begun.take() {
            Some(begun) if begun.owner == owner => begun,
            Some(other) if now.saturating_sub(other.at) < PATIENCE_MS => {
                self.begun = Some(other);
                return Ok(None);
            }
            _ => {
                inflater.begin();
                Begun {
                    owner,
                    at: now,
                    len: 0,
                    text: Utf8::default(),
                    plain: Vec::new(),
                }
            }
        };
        let mut part = [0; PART];
        loop {
            let before = inflater.read();
            let inflated = inflater.go_on(payload, &mut part)?;
            let (Inflated::Part(n) | Inflated::Whole(n)) = inflated;
            self.spent += n + inflater.read() - before;
            begun.len += n;
            if begun.len > most {
                return Err(CloseReason::MessageTooLarge);
            }
            if kind == Kind::Text && begun.text.push(&part[..n]).is_err() {
                return Err(CloseReason::BadUtf8);
            }
            if window != Window::LARGEST {
                begun.plain.extend_from_slice(&part[..n]);
            }
            match inflated {
                Inflated::Whole(_) => break,
                Inflated::Part(_) if self.spent >= SLICE => {
                    begun.at = now;
                    self.begun = Some(begun);
                    return Ok(None);
                }
                Inflated::Part(_) => {}
            }
        }
        if !begun.text.is_whole() {
            return Err(CloseReason::BadUtf8);
        }
        if window.allows(begun.len) {
            return Ok(Some(Echo::Same));
        }
        Ok(Some(Echo::Plain(begun.plain)))
    }
}

#[cfg(test)]
#[path = "inflate_tests.rs"]
mod tests;
