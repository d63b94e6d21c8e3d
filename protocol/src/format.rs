//! What was published, as it came.

/// In which format it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    #[default]
    Json,
    Msgpack,
}

/// The `data` of a message: one value, the very bytes that the sender's connection brought. They are
/// what limits count, and what who speaks the same format is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    pub format: Format,
    pub bytes: &'a [u8],
}

impl<'a> Data<'a> {
    #[must_use]
    pub fn json(bytes: &'a [u8]) -> Data<'a> {
        let format = Format::Json;
        Data { format, bytes }
    }

    #[must_use]
    pub fn msgpack(bytes: &'a [u8]) -> Data<'a> {
        let format = Format::Msgpack;
        Data { format, bytes }
    }
}
