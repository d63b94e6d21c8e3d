//! Requests as bytes, answers as bytes.

mod limits;
mod malformed;
mod requests;
mod splits;
mod upgrades;

use protocol::ids::Role;
use protocol::settings::Settings;

use super::*;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn context(settings: &Settings) -> Context<'_> {
    Context {
        settings,
        role: Role::Public,
        whoami: "handled by worker 2 (pid 4242)\n",
        date: DATE,
        refuse: false,
        banned: false,
    }
}

/// What has become of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    out: Vec<u8>,
    end: End,
    /// Bytes dealt with.
    consumed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Waiting(Wait),
    Upgraded(Upgrade),
    Closed(CloseReason),
}

/// Plays a connection whose input arrives in these pieces.
fn play<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, cx: &Context) -> Outcome {
    let mut state = State::default();
    let (mut input, mut body, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let mut consumed = 0;
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            // What a new brain would make of it.
            let (mut again, mut body_again, mut out_again) = (state, body.clone(), out.clone());
            let repeated = step(&mut again, &input, &mut body_again, &mut out_again, cx);

            let done = step(&mut state, &input, &mut body, &mut out, cx).unwrap();
            assert_eq!(repeated, Ok(done));
            assert_eq!((again, body_again, &out_again), (state, body.clone(), &out));
            assert_eq!(State::unpack(state.pack()), Some(state));
            consumed += done.consumed;
            input.drain(..done.consumed);
            let end = match done.next {
                Next::NeedInput => break,
                Next::Again => {
                    assert!(body.is_empty() && done.consumed > 0);
                    continue;
                }
                Next::Upgrade(upgrade) => End::Upgraded(upgrade),
                Next::Ask(_) => unreachable!("nobody here asks for it"),
                Next::Close(reason) => End::Closed(reason),
            };
            assert!(body.is_empty());
            return Outcome { out, end, consumed };
        }
    }
    let end = End::Waiting(state.waiting());
    Outcome { out, end, consumed }
}

fn play_all(stream: &str, cx: &Context) -> Outcome {
    play([stream.as_bytes()], cx)
}

/// With default settings, as text.
fn answer(stream: &str) -> (String, End) {
    let settings = Settings::default();
    let outcome = play_all(stream, &context(&settings));
    (String::from_utf8(outcome.out).unwrap(), outcome.end)
}

/// The answer, where one is expected, taken apart: status line, fields, content.
fn parts(answer: &str) -> (&str, Vec<(&str, &str)>, &str) {
    let (head, content) = answer.split_once("\r\n\r\n").expect("a complete head");
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
    let fields = lines.map(|line| line.split_once(": ").unwrap()).collect();
    (status, fields, content)
}

/// The value of a field that must be there once.
#[track_caller]
fn field<'a>(fields: &[(&str, &'a str)], name: &str) -> &'a str {
    let mut found = fields.iter().filter(|(n, _)| *n == name);
    let value = found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {fields:?}"));
    assert_eq!(found.next(), None);
    value.1
}
