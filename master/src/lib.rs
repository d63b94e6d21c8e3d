//! The master of baton.
//!
//! Read in this order: [`cli`] and [`verbs`] (what an operator can say), [`config`] (what the
//! file can say), [`serve`] (how a master comes up: [`run_dir`], [`pid_file`], [`listener`],
//! [`readiness`]), then [`brain`], which serves, and [`control`], how it is spoken to meanwhile.

pub mod brain;
pub mod cli;
pub mod config;
pub mod connections;
pub mod control;
pub mod link;
pub mod listener;
pub mod lru;
pub mod pid_file;
pub mod pidfd;
pub mod readiness;
pub mod reload;
pub mod rooms;
pub mod run_dir;
pub mod schedule;
pub mod sequencer;
pub mod serve;
pub mod spawn;
pub mod state;
pub mod supervise;
pub mod verbs;
