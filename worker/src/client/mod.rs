//! What clients say and hear on `/rooms`, as `rooms.v1.json`: text in, a [`Request`] out; a
//! [`ToClient`] in, text out. Nothing here remembers anything.
//!
//! Read in this order: [`request`] (what a client may ask, and how it is read), [`id`] and
//! [`fault`] (what comes back with an answer), [`reply`] (all that a client hears), [`write`]
//! (how JSON is written).
//!
//! `data` is never read into values and written again: the very bytes that came go to every
//! subscriber, so that no number loses a digit. It is checked where it comes in, once.

mod convert;
pub mod fault;
mod form;
pub mod id;
pub mod reply;
pub mod request;
mod write;

#[cfg(test)]
mod tests;

pub use fault::{BadRequest, Code, Fault};
pub use id::Id;
pub use reply::{Lost, ToClient};
pub use request::{Request, Verb, Wants, is_name, parse};
