//! Compression of messages (permessage-deflate, RFC 7692), where nothing is remembered from one
//! message to the next, in either direction: what a message is compressed to depends on it and on
//! the level alone, and a message is inflated from its start.
//!
//! So one [`Deflater`] serves all connections of a worker, a frame that is compressed once is good
//! for everybody, and a brain makes the very bytes that the one before it made. None of this is
//! state: nothing is lost with it.
//!
//! A client may ask for a [`Window`]: that what it gets refers back no further than so many bytes.
//! A message that is no longer than that cannot; others it gets as they are.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use protocol::settings;
use rustc_hash::FxHashMap;

use super::{Head, Kind, frame};
use crate::close::CloseReason;

/// How far back compressed messages may refer, 2^8 to 2^15 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(u8);

impl Window {
    pub const LARGEST: Window = Window(15);

    /// `bits`: 8 to 15.
    #[must_use]
    pub fn new(bits: u8) -> Option<Window> {
        (8..=15).contains(&bits).then_some(Window(bits))
    }

    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// May a message of so many bytes be compressed by whoever knows nothing of this window?
    #[must_use]
    pub fn allows(self, len: usize) -> bool {
        self == Window::LARGEST || len <= 1 << self.0
    }
}

impl Default for Window {
    fn default() -> Window {
        Window::LARGEST
    }
}

/// What ends a compressed message and is not sent (7.2.1): an empty block.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// What is put behind a message to inflate it: its tail, and a last block, by which it is known that
/// nothing is missing.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// Bytes that are looked at before the caller is asked again, though nothing may come of them: whole
/// megabytes can be made to say nothing.
const STRIDE: usize = 64 << 10;

/// What is being inflated is no compressed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for CloseReason {
    fn from(Malformed: Malformed) -> CloseReason {
        CloseReason::BadCompression
    }
}

/// How far [`Inflater::go_on`] got: bytes that were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inflated {
    /// There may be more.
    Part(usize),
    /// That was all of the message.
    Whole(usize),
}

/// Inflates one message after the other. It takes 47 KiB.
pub struct Inflater {
    zlib: Decompress,
    /// Bytes of the message and the [`END`] behind it that were dealt with.
    read: usize,
    /// Everything is put that the message says without its end.
    drained: bool,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater")
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater {
            zlib: Decompress::new(false),
            read: 0,
            drained: false,
        }
    }
}

impl Inflater {
    /// Another message comes.
    pub fn begin(&mut self) {
        self.zlib.reset(false);
        (self.read, self.drained) = (0, false);
    }

    /// Bytes of the message that were read, and of what is put behind it.
    #[must_use]
    pub fn read(&self) -> usize {
        self.read
    }

    /// Goes on with the message, whose payload is the same each time, until `out`, which is not
    /// empty, is full, or for some 64 KiB of the payload.
    ///
    /// # Errors
    /// It is none, or a part of it is missing.
    pub fn go_on(&mut self, payload: &[u8], out: &mut [u8]) -> Result<Inflated, Malformed> {
        if payload.is_empty() {
            // "A sender MAY" say nothing by an empty block (7.2.3.6); some say nothing by nothing.
            return Ok(Inflated::Whole(0));
        }
        let until = self.read + STRIDE;
        let mut put = 0;
        loop {
            let rest = match payload.get(self.read..) {
                Some(rest) if !self.drained => &rest[..rest.len().min(STRIDE)],
                _ => END.get(self.read - payload.len()..).ok_or(Malformed)?,
            };
            let before = (self.zlib.total_in(), self.zlib.total_out());
            let status = self
                .zlib
                .decompress(rest, &mut out[put..], FlushDecompress::Sync);
            let read = (self.zlib.total_in() - before.0) as usize;
            let made = (self.zlib.total_out() - before.1) as usize;
            self.read += read;
            put += made;
            if self.drained && made > 0 {
                // A part of a code was missing.
                return Err(Malformed);
            }
            match status.map_err(|_| Malformed)? {
                Status::StreamEnd if self.read < payload.len() => {
                    // 7.2.3.4: a block with "BFINAL", after which others follow.
                    self.zlib.reset(false);
                }
                // Of our own last block; or of theirs, by those who do not say that another follows.
                Status::StreamEnd => {
                    let ends = [payload.len(), payload.len() + END.len()];
                    return match ends.contains(&self.read) {
                        true => Ok(Inflated::Whole(put)),
                        false => Err(Malformed),
                    };
                }
                _ if put == out.len() => return Ok(Inflated::Part(put)),
                _ if self.read == payload.len() && !self.drained => self.drained = true,
                _ if read == 0 && made == 0 => return Err(Malformed),
                Status::Ok | Status::BufError => {}
            }
            if self.read >= until {
                return Ok(Inflated::Part(put));
            }
        }
    }
}

/// How a message begins, of which there may be only a part, for people to read: up to `most` bytes, or
/// the message itself if nothing can be made of it.
#[must_use]
pub fn beginning(payload: &[u8], most: usize) -> Vec<u8> {
    let mut plain = vec![0; most];
    let mut zlib = Decompress::new(false);
    let inflated = zlib.decompress(payload, &mut plain, FlushDecompress::Sync);
    plain.truncate(zlib.total_out() as usize);
    match inflated {
        Ok(_) if !plain.is_empty() => plain,
        _ => payload.to_vec(),
    }
}

/// How messages are compressed: it must be the same for all brains of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// 1 (fast) to 9 (small).
    pub level: u32,
    /// Shorter messages are sent as they are.
    pub from: usize,
}

impl Level {
    #[must_use]
    pub fn of(settings: &settings::WebSocket) -> Level {
        Level {
            level: settings.compress_level,
            from: settings.compress_from,
        }
    }
}

/// Bytes of messages that are remembered, with what they became: those who lag come to one after the
/// other, and what is said in a room must not be compressed again for each of them.
const RECENT: usize = 1 << 20;

/// Compresses one message after the other. Once it has been used it takes 372 KiB, what the longest
/// message takes and what is remembered, 1 MiB.
pub struct Deflater {
    zlib: Option<Compress>,
    level: Level,
    out: Vec<u8>,
    /// What messages became, if they became shorter.
    recent: FxHashMap<Box<[u8]>, Option<Box<[u8]>>>,
    remembered: usize,
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Deflater {
    #[must_use]
    pub fn new(level: Level) -> Deflater {
        Deflater {
            zlib: None,
            level,
            out: Vec::new(),
            recent: FxHashMap::default(),
            remembered: 0,
        }
    }

    /// May anything of so many bytes become shorter?
    #[must_use]
    pub fn is_worth(&self, bytes: usize) -> bool {
        bytes >= self.level.from
    }

    /// The message as the payload of a compressed frame, if that is shorter.
    fn deflate(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if payload.len() < self.level.from {
            return None;
        }
        if payload.len() > RECENT / 8 {
            return self.deflate_anew(payload);
        }
        if !self.recent.contains_key(payload) {
            let short: Option<Box<[u8]>> = self.deflate_anew(payload).map(Box::from);
            let bytes = payload.len() + short.as_ref().map_or(0, |short| short.len());
            if self.remembered + bytes > RECENT {
                self.recent.clear();
                self.remembered = 0;
            }
            self.remembered += bytes;
            self.recent.insert(payload.into(), short);
        }
        self.recent.get(payload)?.as_deref()
    }

    fn deflate_anew(&mut self, payload: &[u8]) -> Option<&[u8]> {
        let level = Compression::new(self.level.level);
        let zlib = (self.zlib).get_or_insert_with(|| Compress::new(level, false));
        zlib.reset();
        // Room for what does not become shorter, too: a call that is not brought to its end leaves
        // something behind that a reset does not take away, and that the next messages would pay for.
        let room = payload.len() + payload.len() / 8 + 64;
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        let status = zlib.compress(payload, &mut self.out[..room], FlushCompress::Sync);
        let len = zlib.total_out() as usize;
        let all = matches!(status, Ok(Status::Ok)) && zlib.total_in() == payload.len() as u64;
        if !all || len == room {
            self.zlib = None;
            return None;
        }
        (self.out[..len].strip_suffix(&TAIL)).filter(|short| short.len() < payload.len())
    }

    /// Adds a server's frames to `into`, and compresses those whose messages are long enough and
    /// become shorter by it. A frame is a whole message or a control frame.
    pub fn put_frames(&mut self, mut frames: &[u8], window: Window, into: &mut Vec<u8>) {
        while let Some((opcode, head, len)) = frame::parse(frames) {
            let (frame, behind) = frames.split_at(head + len);
            frames = behind;
            let kind = match opcode {
                1 => Some(Kind::Text),
                2 => Some(Kind::Binary),
                _ => None,
            };
            let short = match kind {
                Some(kind) if window.allows(len) => {
                    self.deflate(&frame[head..]).map(|short| (kind, short))
                }
                _ => None,
            };
            match short {
                Some((kind, short)) => {
                    into.extend_from_slice(Head::compressed(kind, short.len()).as_bytes());
                    into.extend_from_slice(short);
                }
                None => into.extend_from_slice(frame),
            }
        }
        into.extend_from_slice(frames);
    }
}

#[cfg(test)]
#[path = "deflate_tests.rs"]
pub(crate) mod tests;
