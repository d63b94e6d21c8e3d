//! The worker of baton: it drives the connections that the master hands to it.
//!
//! A worker is a guard, which keeps the fd table, and a brain, which does the work and may die.
//! All that a brain needs to go on is in shared memory ([`state`]): a connection is a slot of words
//! ([`slots`]) and the buffers that they name ([`buffers`]); every step changes them through a
//! journal, so that it has happened wholly or not at all.
//!
//! To follow a connection, read [`birth`] and [`brain`] (how it begins, and the loop), [`take`]
//! (from the master, into a slot), [`connection`] (read), [`steps`] (step, commit; [`local`]: what
//! only this brain knows of it), [`http`] or [`websocket`] (pure protocols), [`owed`] (what it is
//! owed), [`flush`] (how that goes out) and [`lagging`] (when its socket is full; [`heard`]: what is
//! told at once then), [`ending`]; or it is given to another worker while it lives ([`part`], as a
//! [`snapshot`], to the other's [`take`] and [`arrive`]).
//!
//! To follow a message: [`websocket`], [`client`] (its words; [`inflate`]: as they come compressed),
//! [`auth`] and [`authorize`] (who may say what), [`limits`] (how much), [`filter`] (in which words;
//! [`lists`]: how they are made ready), [`hook`] (whom else to ask), [`requests`] (up the ring;
//! [`history`]: what a room retains), the master, [`fan_out`] (down the log, to the members in
//! [`rooms`]), [`frames`] (in each [`encoding`] that is wanted), [`owed`] and [`flush`]; [`windows`]
//! (what waits, to be given together) and [`skipped`] (what is left out); [`moderation`]: who is not
//! let say it.
//!
//! When the log has gone on without us: [`lost`].
//!
//! And when a brain has died: [`recover`], [`checks`], [`poison`]; [`unix`]: where the kernel does not
//! help. What operators and back ends ask: [`api`]. What all of it is counted in: [`figures`].

pub mod api;
pub mod arrive;
pub mod auth;
pub mod authorize;
pub mod birth;
pub mod brain;
pub mod buffers;
pub mod checks;
pub mod client;
pub mod clock;
pub mod connection;
pub mod encoding;
pub mod ending;
pub mod fan_out;
pub mod figures;
pub mod filter;
pub mod flush;
pub mod frames;
pub mod heard;
pub mod history;
pub mod hook;
pub mod http;
pub mod inflate;
pub mod lagging;
pub mod limits;
pub mod lists;
pub mod local;
pub mod logs;
pub mod lost;
pub mod moderation;
pub mod owed;
pub mod page;
pub mod part;
pub mod passes;
pub mod poison;
pub mod proxy;
pub mod recover;
pub mod requests;
pub mod rooms;
pub mod skipped;
pub mod slots;
pub mod snapshot;
pub mod state;
pub mod steps;
pub mod take;
pub mod tell;
pub mod timers;
pub mod unix;
pub mod users;
pub mod websocket;
pub mod windows;

pub use protocol::close;
