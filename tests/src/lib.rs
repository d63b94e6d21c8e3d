//! Runs the real processes, talks to them over real sockets and waits for conditions.
//!
//! 1. [`baton`]: a daemon of the test's own, in a run directory of its own, on ports that the
//!    kernel chose. When it is dropped, every process of it must be gone ([`orphans`]:
//!    after a panic, too).
//! 2. [`status`] and [`process`]: what it says of itself, and what `/proc` says.
//! 3. [`http`], [`websocket`] ([`deflate`]: compressed), [`rooms`]: clients, each with a deadline on
//!    every read; [`tokens`], that they show; [`presence`]: what they know of who is in a room;
//!    [`back_end`], that baton asks; [`api`]: one that asks baton.
//! 4. [`socket`]: connections that misbehave, or that come from an address of their own.
//! 5. [`traffic`]: many clients that check every byte, while [`faults`] and others do their worst;
//!    [`crowd`]: many that are idle.
//! 6. [`wait`]: the only way to wait. Nothing here sleeps in place of a condition.
//! 7. [`load`]: thousands of clients in one thread. [`chaos`]: what they do while baton is killed.
//!    [`bench`]: what they feel of it, and other figures, beside the servers of `tests/peers`.
//!    [`evening`]: viewers of live comments, and what they see of deploys and a crash.
//!
//! The tests themselves are in `tests/tests`, one file for each area. `src/bin/with-baton.rs` runs
//! the clients of `tests/clients`, which are written in other languages, against a daemon;
//! `src/bin/chaos.rs`, `src/bin/bench.rs` and `src/bin/evening.rs` are what `scripts/chaos`, `scripts/bench`
//! and `scripts/evening` run.

pub mod api;
pub mod back_end;
pub mod baton;
pub mod bench;
pub mod chaos;
pub mod crowd;
pub mod deflate;
pub mod evening;
pub mod faults;
pub mod http;
pub mod load;
pub mod orphans;
pub mod presence;
pub mod process;
pub mod programs;
pub mod rooms;
pub mod socket;
pub mod status;
pub mod temp;
pub mod tokens;
pub mod traffic;
pub mod wait;
pub mod websocket;

pub use baton::{Baton, Builder};
pub use wait::{DEADLINE, eventually};
