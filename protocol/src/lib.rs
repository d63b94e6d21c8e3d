//! What baton's master and its workers share.
//!
//! Read in this order:
//!
//! 1. [`ids`], [`format`], [`pattern`], [`cidr`], [`address`] and [`settings`]: words; [`close`]: why a
//!    connection ends; [`clock`]: the time.
//! 2. [`message`] and [`channel`]: what master and worker say to each other, and how fds pass.
//! 3. [`memory`], [`journal`], [`arena`]: a process's state in shared memory, and how it changes.
//! 4. [`stream`] and [`record`]: each worker's ring up to the master, the master's log down;
//!    [`names`]: lists of users in them; [`row`] and [`histogram`]: figures in their headers;
//!    [`history`]: what rooms retain, written by the master; [`moderation`]: what is decided about
//!    users, and [`sanctions`]: who is muted and banned; [`words`]: what messages are filtered by;
//!    [`roles`]: what a worker process is born with.
//! 5. [`guard`], [`privileges`], [`scheduling`], [`truth`], [`logging`], [`shown`]: how a process
//!    lives, and lives on.
//! 6. [`api`]: what is asked over HTTP. [`bucket`]: how much of what may be done in a second;
//!    [`share`]: who gets what is said beyond that.
//! 7. [`output`]: where protocols put their bytes.
//! 8. [`random`]: dice. [`fault`]: deaths at a chosen place, for tests.

pub mod address;
pub mod api;
pub mod arena;
pub mod bucket;
pub mod channel;
pub mod cidr;
pub mod clock;
pub mod close;
pub mod fault;
pub mod format;
pub mod guard;
pub mod histogram;
pub mod history;
pub mod ids;
pub mod journal;
pub mod logging;
pub mod memory;
pub mod message;
pub mod moderation;
pub mod names;
pub mod output;
pub mod pattern;
pub mod privileges;
pub mod random;
pub mod record;
pub mod roles;
pub mod row;
pub mod sanctions;
pub mod scheduling;
pub mod settings;
pub mod share;
pub mod shown;
pub mod stream;
pub mod truth;
pub mod words;
