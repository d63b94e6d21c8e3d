//! In which form a connection hears what it is told.
//!
//! A frame of a room is made once for each encoding that its members want, whatever their number:
//! [`rooms`](crate::rooms) count their members by encoding, [`owed`](crate::owed) keeps the frames of
//! each one behind the other. What is compressed is made of the plain frames, by
//! [`Deflater::put_frames`](crate::websocket::Deflater::put_frames). Another encoding is a variant
//! here, its flag in [`Meta::encoding`](crate::slots::Meta::encoding), and its arm where
//! [`ToClient::put_frame`](crate::client::ToClient::put_frame) makes the bytes.

use std::ops::{Index, IndexMut};

use protocol::format::Format;

use crate::websocket::Kind;

/// How many there are.
const COUNT: usize = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// `rooms.v1.json`
    #[default]
    Json,
    /// `rooms.v1.msgpack`
    Msgpack,
    /// As these, and compressed where that is worth it.
    JsonDeflated,
    MsgpackDeflated,
}

impl Encoding {
    /// What others are made of comes before them.
    pub const ALL: [Encoding; COUNT] = [
        Encoding::Json,
        Encoding::Msgpack,
        Encoding::JsonDeflated,
        Encoding::MsgpackDeflated,
    ];

    /// What is compressed, if it is.
    #[must_use]
    pub fn inflated(self) -> Option<Encoding> {
        match self {
            Encoding::Json | Encoding::Msgpack => None,
            Encoding::JsonDeflated => Some(Encoding::Json),
            Encoding::MsgpackDeflated => Some(Encoding::Msgpack),
        }
    }

    /// Of what it says, and hears.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Encoding::Json | Encoding::JsonDeflated => Format::Json,
            Encoding::Msgpack | Encoding::MsgpackDeflated => Format::Msgpack,
        }
    }

    /// Of the frames that carry it, both ways.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self.format() {
            Format::Json => Kind::Text,
            Format::Msgpack => Kind::Binary,
        }
    }
}

/// One for each encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Each<T>([T; COUNT]);

impl<T> Each<T> {
    #[must_use]
    pub fn new(of: impl FnMut(Encoding) -> T) -> Each<T> {
        Each(Encoding::ALL.map(of))
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

impl<T> Index<Encoding> for Each<T> {
    type Output = T;

    fn index(&self, encoding: Encoding) -> &T {
        &self.0[encoding as usize]
    }
}

impl<T> IndexMut<Encoding> for Each<T> {
    fn index_mut(&mut self, encoding: Encoding) -> &mut T {
        &mut self.0[encoding as usize]
    }
}
