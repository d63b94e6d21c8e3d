//! What a message turns out to be costs no more than a slice a turn.

use super::*;
use crate::websocket::deflate::tests::deflated;

const ONE: Owner = (1, 7);
const OTHER: Owner = (2, 7);
const MOST: usize = 16 << 20;

/// Turns until the message is answered, a millisecond each.
fn turns(
    inflate: &mut Inflate,
    now: &mut u64,
    payload: &[u8],
    window: u8,
) -> (usize, Result<Option<Vec<u8>>, CloseReason>) {
    let window = Window::new(window).unwrap();
    for turn in 1.. {
        *now += 1;
        inflate.begin_turn();
        let echo = inflate.echo(ONE, *now, Kind::Text, payload, window, MOST);
        let answer = match echo {
            Ok(None) => {
                assert!(inflate.spent < SLICE + (100 << 10), "{}", inflate.spent);
                continue;
            }
            Ok(Some(Echo::Same)) => Ok(None),
            Ok(Some(Echo::Plain(plain))) => Ok(Some(plain)),
            Err(reason) => Err(reason),
        };
        return (turn, answer);
    }
    unreachable!()
}

#[test]
fn a_long_message_takes_turns() {
    let (mut inflate, mut now) = (Inflate::default(), 0);
    let text = "ä".repeat(MOST / 2);
    let payload = deflated(text.as_bytes(), 6);
    assert!(payload.len() < 100 << 10);
    let (taken, answer) = turns(&mut inflate, &mut now, &payload, 15);
    assert_eq!(answer, Ok(None));
    assert!(
        (MOST / SLICE / 2..=MOST / SLICE + 1).contains(&taken),
        "{taken}"
    );
    // One byte more is too much, and known before it is all there.
    let bomb = deflated(&[b'a'].repeat(8 * MOST), 6);
    let (taken, answer) = turns(&mut inflate, &mut now, &bomb, 15);
    assert_eq!(answer, Err(CloseReason::MessageTooLarge));
    assert!(taken <= MOST / SLICE + 2, "{taken}");
    // What is left of it is in nobody's way.
    let (taken, answer) = turns(&mut inflate, &mut now, &deflated(b"hi", 6), 15);
    assert_eq!((taken, answer), (1, Ok(None)));
}

#[test]
fn what_refers_back_too_far_is_sent_as_it_is() {
    let (mut inflate, mut now) = (Inflate::default(), 0);
    for (len, window, plain) in [
        (512, 9, false),
        (513, 9, true),
        (3 << 20, 9, true),
        (40_000, 15, false),
    ] {
        let text = vec![b'x'; len];
        let (_, answer) = turns(&mut inflate, &mut now, &deflated(&text, 6), window);
        assert_eq!(answer, Ok(plain.then_some(text)), "{len}");
    }
}

#[test]
fn what_is_no_text_is_none() {
    let (mut inflate, mut now) = (Inflate::default(), 0);
    let cut = ["ä".repeat(PART).as_bytes(), b"\xc3"].concat();
    for bytes in [&b"\xff"[..], &cut] {
        let payload = deflated(bytes, 6);
        let (_, answer) = turns(&mut inflate, &mut now, &payload, 15);
        assert_eq!(answer, Err(CloseReason::BadUtf8));
        inflate.begin_turn();
        let text = inflate.message(Kind::Text, &payload, MOST);
        assert_eq!(text, Err(CloseReason::BadUtf8));
        assert_eq!(inflate.message(Kind::Binary, &payload, MOST), Ok(bytes));
    }
    let (_, answer) = turns(&mut inflate, &mut now, b"noise", 15);
    assert_eq!(answer, Err(CloseReason::BadCompression));
    let noise = inflate.message(Kind::Text, b"noise", MOST);
    assert_eq!(noise, Err(CloseReason::BadCompression));
}

#[test]
fn a_message_is_inflated_up_to_its_limit() {
    let mut inflate = Inflate::default();
    for len in [0, 1, 999, 1000] {
        let text = vec![b'x'; len];
        let inflated = inflate.message(Kind::Text, &deflated(&text, 6), 1000);
        assert_eq!(inflated, Ok(&text[..]));
    }
    for len in [1001, 1002, 100 << 20] {
        let payload = deflated(&vec![b'x'; len], 6);
        let inflated = inflate.message(Kind::Text, &payload, 1000);
        assert_eq!(inflated, Err(CloseReason::MessageTooLarge));
        assert!(inflate.plain.capacity() < 4096);
    }
    inflate.begin_turn();
    inflate
        .message(Kind::Text, &deflated(&vec![b'x'; SLICE], 6), SLICE)
        .unwrap();
    assert!(inflate.is_spent());
}

#[test]
fn one_long_message_at_a_time() {
    let mut inflate = Inflate::default();
    let long = deflated(&vec![b'x'; 4 * SLICE], 6);
    let short = deflated(b"short", 6);
    let go_on = |inflate: &mut Inflate, owner, now, payload: &[u8]| {
        inflate.begin_turn();
        let echo = inflate.echo(owner, now, Kind::Text, payload, Window::LARGEST, MOST);
        echo.unwrap().is_some()
    };
    assert!(!go_on(&mut inflate, ONE, 1, &long));
    assert!(!go_on(&mut inflate, OTHER, 1, &short), "it waits");
    assert_eq!(inflate.spent, 0);
    let mut now = 2;
    while !go_on(&mut inflate, ONE, now, &long) {
        now += PATIENCE_MS / 2;
        assert!(!go_on(&mut inflate, OTHER, now, &short));
    }
    assert!(go_on(&mut inflate, OTHER, now, &short));
    // Who does not go on is not waited for; and begins again.
    assert!(!go_on(&mut inflate, ONE, now, &long));
    assert!(go_on(&mut inflate, OTHER, now + PATIENCE_MS, &short));
    now += PATIENCE_MS;
    while !go_on(&mut inflate, ONE, now, &long) {}
    // Another connection in the same slot does not go on with what is not its own.
    assert!(!go_on(&mut inflate, ONE, now, &long));
    assert!(go_on(&mut inflate, (ONE.0, 8), now + PATIENCE_MS, &short));
}
