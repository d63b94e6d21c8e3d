//! A stream of HTTP, whole and in pieces. The first byte chooses the listener and the limits, the
//! second how the stream is cut.

use protocol::ids::Role;
use protocol::settings::Settings;
use worker::api::{self, access::Access};
use worker::http::{Context, Next, State, head_and_body, step, timed_out};

/// What a stream leads to must depend on nothing but its bytes.
pub fn http_head(data: &[u8]) {
    let [choice, seed, stream @ ..] = data else {
        return;
    };
    let mut settings = Settings::default();
    settings.http.max_body = 1000;
    if choice & 4 != 0 {
        settings.http.max_line = 40;
        settings.http.max_head = 120;
        settings.http.max_fields = 3;
        settings.http.max_body = 9;
    }
    let cx = Context {
        settings: &settings,
        role: if choice & 1 == 0 {
            Role::Public
        } else {
            Role::Admin
        },
        whoami: "handled by worker 2 (pid 4242)\n",
        date: "Sun, 06 Nov 1994 08:49:37 GMT",
        refuse: choice & 2 != 0,
        banned: false,
    };
    let whole = play(stream, &cx, |_| usize::MAX);
    let bytes = play(stream, &cx, |_| 1);
    assert_eq!(bytes, whole, "byte by byte");
    let seed = usize::from(*seed);
    let pieces = play(stream, &cx, |n| (seed + 1) * (n + 7) % 37 + 1);
    assert_eq!(pieces, whole, "in pieces");
}

#[derive(Debug, PartialEq)]
struct Outcome {
    out: String,
    /// The last step that did more than wait.
    end: Option<Next>,
    /// Bytes that are left for what comes behind an upgrade.
    left: usize,
}

/// Plays a connection whose `n`th read brings `size(n)` bytes.
fn play(stream: &[u8], cx: &Context, size: impl Fn(usize) -> usize) -> Outcome {
    let mut state = State::default();
    let (mut body, mut out) = (Vec::new(), Vec::new());
    let (mut at, mut seen, mut reads) = (0, 0, 0);
    let end = 'session: loop {
        seen = stream.len().min(size(reads).saturating_add(seen));
        reads += 1;
        loop {
            let input = &stream[at..seen];
            let before = (state, body.clone(), out.len());
            let done = step(&mut state, input, &mut body, &mut out, cx).expect("a Vec has room");
            assert!(done.consumed <= input.len());
            assert_eq!(State::unpack(state.pack()), Some(state));
            // For the API the head is kept, too.
            let http = &cx.settings.http;
            assert!(body.len() <= http.max_body + http.max_head.max(255) + 4);

            // The step again, as the brain after a crash makes it.
            let (mut again, mut body_again, said) = before;
            let mut out_again = out[..said].to_vec();
            let repeated = step(&mut again, input, &mut body_again, &mut out_again, cx);
            assert_eq!(repeated, Ok(done));
            assert!(again == state && body_again == body && out_again == out);

            at += done.consumed;
            match done.next {
                Next::NeedInput => break,
                Next::Again => assert!(done.consumed > 0 && body.is_empty()),
                // Whatever is asked of the API is understood or refused.
                Next::Ask(_) => {
                    let (head, asked) = head_and_body(&body).expect("as it was put there");
                    let _ = api::request::read(head, asked, cx.settings, Access::All);
                    body.clear();
                }
                Next::Upgrade(_) | Next::Close(_) => break 'session Some(done.next),
            }
        }
        if seen == stream.len() {
            timed_out(state, &mut out, cx);
            break None;
        }
    };
    Outcome {
        out: String::from_utf8_lossy(&out).into_owned(),
        end,
        left: match end {
            Some(Next::Upgrade(_)) => stream.len() - at,
            _ => 0,
        },
    }
}
