//! What clients say and hear on `/rooms`, as `rooms.v1.json` or `rooms.v1.msgpack`: bytes in, a
//! [`Request`] out; a [`ToClient`] in, bytes out. Nothing here remembers anything.
//!
//! Read in this order: [`request`] (what a client may ask; [`deed`]: what a moderator may), [`fields`],
//! [`json`] and [`msgpack`] (how it is read), [`id`] and [`fault`] (what comes back with an answer),
//! [`reply`] (all that a client hears), [`say`] (what is in each of it), [`form`] and [`write`] (how it
//! is written), [`convert`] (`data` in the other format).
//!
//! `data` is never read into values and written again for those who speak the sender's format: the
//! very bytes that came go to them, so that no number loses a digit. It is checked where it comes in,
//! once.

mod convert;
pub mod deed;
pub mod fault;
mod fields;
mod form;
pub mod id;
mod json;
mod msgpack;
pub mod reply;
pub mod request;
mod say;
pub(crate) mod write;

#[cfg(test)]
mod convert_tests;
#[cfg(test)]
mod msgpack_tests;
#[cfg(test)]
mod tests;

pub use convert::as_json;
pub use deed::Deed;
pub use fault::{BadRequest, Code, Fault};
pub use id::Id;
pub(crate) use json::behind_string;
pub use json::check_data;
pub(crate) use msgpack::Token;
pub use reply::{Lost, ToClient};
pub use request::{Request, Verb, Wants, is_name, parse};
