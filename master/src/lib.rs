//! The master of baton: it accepts every connection and hands it to a worker, puts what is
//! published in order, and sees to it that there are workers. It never reads a client's bytes.
//!
//! Read in this order:
//!
//! 1. [`cli`] and [`verbs`]: what an operator can say. [`config`]: what the file can say.
//! 2. [`serve`]: how a master comes up, with [`run_dir`], [`pid_file`], [`listener`] and
//!    [`readiness`]. [`control`]: how it is spoken to from then on.
//! 3. [`brain`]: the loop that serves, and what it does when something happens.
//! 4. [`schedule`], [`moves`], [`supervise`], [`reload`]: what is decided, without a socket, a
//!    process or a clock.
//! 5. [`connections`] and [`pasts`], and [`link`], [`spawn`], [`pidfd`]: connections and workers as
//!    the master holds them.
//! 6. [`sequencer`], [`rooms`], [`history`], [`keys`], [`lru`], [`ring_set`]: messages on their way from the rings
//!    to the log. [`pace`]: who may say how much there, and who hears it. [`present`]: who is in the rooms.
//!    [`sanctions`]: who is muted and banned; [`kept`]: the file that says so to the next start.
//! 7. [`figures`] and [`metrics`]: what is counted, and how it is said.
//! 8. [`state`]: where all of it is kept for the next brain. [`poison`]: what killed the last one.

// Nobody but baton uses this crate: its docs are for those who work on it.
#![allow(rustdoc::private_intra_doc_links)]

pub mod brain;
pub mod cli;
pub mod config;
pub mod connections;
pub mod control;
pub mod figures;
pub mod history;
pub mod kept;
pub mod keys;
pub mod link;
pub mod listener;
pub mod lru;
pub mod metrics;
pub mod moves;
pub mod pace;
pub mod pasts;
pub mod pid_file;
pub mod pidfd;
pub mod poison;
pub mod present;
pub mod program;
pub mod readiness;
pub mod reload;
pub mod ring_set;
pub mod rooms;
pub mod run_dir;
pub mod sanctions;
pub mod schedule;
pub mod sequencer;
pub mod serve;
pub mod spawn;
pub mod state;
pub mod supervise;
pub mod trial;
pub mod verbs;
