//! What is fuzzed: one function a target, in a module of its own.
//!
//! `fuzz_targets/NAME.rs` hands such a function to libFuzzer, `tests/replay.rs` calls it with each
//! file of `corpus/NAME`. To fuzz (`RUSTC_BOOTSTRAP=1` stands in for a nightly compiler):
//!
//! ```sh
//! cargo install cargo-fuzz
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --features libfuzzer NAME -- -max_total_time=60
//! ```

mod channel_message;
mod client_message;
mod deflate;
mod filter;
mod hook_answer;
mod http_head;
mod msgpack;
mod ring_record;
mod token;
mod websocket;

pub use channel_message::channel_message;
pub use client_message::client_message;
pub use deflate::deflate;
pub use filter::filter;
pub use hook_answer::hook_answer;
pub use http_head::http_head;
pub use msgpack::msgpack;
pub use ring_record::ring_record;
pub use token::token;
pub use websocket::websocket;

/// What a target does with one input: it panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("channel_message", channel_message),
    ("client_message", client_message),
    ("deflate", deflate),
    ("filter", filter),
    ("hook_answer", hook_answer),
    ("http_head", http_head),
    ("msgpack", msgpack),
    ("ring_record", ring_record),
    ("token", token),
    ("websocket", websocket),
];
