//! Where a protocol puts its bytes, so that it needs to know no socket and no arena.

/// There is no room for more: the caller drops the step that it was making, and tries again later
/// or closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Bytes are only ever added at the end; what a step adds counts once the step is committed.
pub trait Output {
    /// Adds `n` bytes (their content is unspecified) and returns them to be filled in.
    fn space(&mut self, n: usize) -> Result<&mut [u8], Full>;

    /// Adds `bytes`.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.space(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}

/// A message that is being put together: an [`Output`] that can be read back and emptied.
pub trait Buffer: Output {
    /// All that has been put since the last [`clear`](Buffer::clear).
    fn bytes(&self) -> &[u8];

    /// Empties it.
    fn clear(&mut self);
}

impl Output for Vec<u8> {
    fn space(&mut self, n: usize) -> Result<&mut [u8], Full> {
        let start = self.len();
        self.resize(start + n, 0);
        Ok(&mut self[start..])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Buffer for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn clear(&mut self) {
        Vec::clear(self);
    }
}
