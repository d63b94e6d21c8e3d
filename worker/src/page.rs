//! The page at `/`, which is one file.

/// What `GET /` shows.
pub const INDEX: &[u8] = include_bytes!("page/index.html");
