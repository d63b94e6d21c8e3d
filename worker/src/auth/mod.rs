//! Who may do what: a token in, a [`Grant`] out, or why not. No socket, no clock, no memory.
//!
//! Read in this order: [`token`] (what is checked, and in which order), [`grant`] (what a token
//! allows, in which rooms), `provider` (the cryptography).

pub mod grant;
mod provider;
pub mod token;

#[cfg(test)]
mod tests;

pub use grant::Grant;
pub use token::{Keys, MAX_TOKEN, Refused};
