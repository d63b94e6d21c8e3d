//! What baton's master and its workers share.
//!
//! Read in this order: [`ids`] and [`settings`] (words), [`message`] (what is said over the
//! channel), [`record`] (what is written into rings and the log), [`output`] (where protocols put
//! their bytes).

pub mod ids;
pub mod message;
pub mod output;
pub mod record;
pub mod settings;
