//! How a message to a client is written: as JSON, or as MessagePack. What is said is the same.

use std::io;

use protocol::format::{Data, Format};
use protocol::ids::{Cid, Position};
use rmp::encode;

use super::convert;
use super::write::Sink;

/// Values are written one behind the other; an object or an array says first how many follow in it.
pub(super) trait Form {
    fn object(&mut self, fields: usize);
    fn end_object(&mut self);
    fn array(&mut self, items: usize);
    fn end_array(&mut self);
    /// In an object: its value follows.
    fn key(&mut self, key: &'static str);
    fn number(&mut self, n: u64);
    fn bool(&mut self, b: bool);
    /// A string, of UTF-8.
    fn string(&mut self, s: &[u8]);
    /// A string of these parts, in which nothing has to be escaped.
    fn word(&mut self, parts: &[&[u8]]);
    /// A request's, which is JSON.
    fn id(&mut self, id: &[u8]);
    /// What was published.
    fn data(&mut self, data: Data<'_>);

    /// `"e3:1051"`
    fn position(&mut self, position: Position) {
        let (mut epoch, mut offset) = (itoa::Buffer::new(), itoa::Buffer::new());
        let epoch = epoch.format(position.epoch).as_bytes();
        let offset = offset.format(position.offset).as_bytes();
        self.word(&[b"e", epoch, b":", offset]);
    }

    /// `"c7"`
    fn cid(&mut self, cid: Cid) {
        self.word(&[b"c", itoa::Buffer::new().format(cid.0).as_bytes()]);
    }
}

/// `rooms.v1.json`
pub(super) struct Json<'a, S> {
    to: &'a mut S,
    /// Something stands before what comes next, on the same level.
    behind: bool,
}

impl<'a, S: Sink> Json<'a, S> {
    pub fn new(to: &'a mut S) -> Self {
        Json { to, behind: false }
    }

    fn begin(&mut self) {
        if self.behind {
            self.to.add(b",");
        }
        self.behind = true;
    }
}

impl<S: Sink> Form for Json<'_, S> {
    fn object(&mut self, _fields: usize) {
        self.begin();
        self.to.add(b"{");
        self.behind = false;
    }

    fn end_object(&mut self) {
        self.to.add(b"}");
        self.behind = true;
    }

    fn array(&mut self, _items: usize) {
        self.begin();
        self.to.add(b"[");
        self.behind = false;
    }

    fn end_array(&mut self) {
        self.to.add(b"]");
        self.behind = true;
    }

    fn key(&mut self, key: &'static str) {
        self.begin();
        self.to.add(b"\"");
        self.to.add(key.as_bytes());
        self.to.add(b"\":");
        self.behind = false;
    }

    fn number(&mut self, n: u64) {
        self.begin();
        self.to.number(n);
    }

    fn bool(&mut self, b: bool) {
        self.begin();
        self.to.add(if b { b"true" } else { b"false" });
    }

    fn string(&mut self, s: &[u8]) {
        self.begin();
        self.to.string(s);
    }

    fn word(&mut self, parts: &[&[u8]]) {
        self.begin();
        self.to.add(b"\"");
        parts.iter().for_each(|part| self.to.add(part));
        self.to.add(b"\"");
    }

    fn id(&mut self, id: &[u8]) {
        self.begin();
        self.to.add(id);
    }

    fn data(&mut self, data: Data<'_>) {
        self.begin();
        match data.format {
            Format::Json => self.to.add(data.bytes),
            Format::Msgpack => convert::to_json(data.bytes, self.to),
        }
    }
}

/// `rooms.v1.msgpack`
pub(super) struct Msgpack<'a, S>(pub &'a mut S);

/// So that `rmp` can write to it. It cannot fail.
impl<S: Sink> io::Write for Msgpack<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Sink> Form for Msgpack<'_, S> {
    fn object(&mut self, fields: usize) {
        let _ = encode::write_map_len(self, fields as u32);
    }

    fn end_object(&mut self) {}

    fn array(&mut self, items: usize) {
        let _ = encode::write_array_len(self, items as u32);
    }

    fn end_array(&mut self) {}

    fn key(&mut self, key: &'static str) {
        self.string(key.as_bytes());
    }

    fn number(&mut self, n: u64) {
        let _ = encode::write_uint(self, n);
    }

    fn bool(&mut self, b: bool) {
        let _ = encode::write_bool(self, b);
    }

    fn string(&mut self, s: &[u8]) {
        self.word(&[s]);
    }

    fn word(&mut self, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let _ = encode::write_str_len(self, len as u32);
        parts.iter().for_each(|part| self.0.add(part));
    }

    fn id(&mut self, id: &[u8]) {
        convert::to_msgpack(id, self.0);
    }

    fn data(&mut self, data: Data<'_>) {
        match data.format {
            Format::Json => convert::to_msgpack(data.bytes, self.0),
            Format::Msgpack => self.0.add(data.bytes),
        }
    }
}
