//! Nothing grows without bound.

use super::*;

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.http.max_line = 64;
    settings.http.max_head = 256;
    settings.http.max_fields = 4;
    settings.http.max_body = 100;
    settings
}

#[track_caller]
fn ends(stream: &str, expected: End) {
    let settings = settings();
    let outcome = play_all(stream, &context(&settings));
    let shown = String::from_utf8_lossy(&outcome.out);
    assert_eq!(outcome.end, expected, "{stream:?} {shown}");
}

#[test]
fn the_line_is_bounded() {
    let line = |n: usize| format!("GET /{} HTTP/1.1", "x".repeat(n - 14));
    let rest = "\r\nHost: a\r\n\r\n";
    ends(&(line(64) + rest), End::Waiting(Wait::Idle));
    ends(&(line(65) + rest), End::Closed(CloseReason::LineTooLong));
    // Without an end.
    ends(&"x".repeat(66), End::Waiting(Wait::Head));
    ends(&"x".repeat(67), End::Closed(CloseReason::LineTooLong));
}

#[test]
fn the_head_is_bounded() {
    let head = |n: usize| {
        let start = "GET /healthz HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(n - start.len() - 4))
    };
    ends(&head(256), End::Waiting(Wait::Idle));
    ends(&head(257), End::Closed(CloseReason::HeadTooLarge));
    ends(&head(256)[..256 - 3], End::Waiting(Wait::Head));
    let (answer, _) = answer(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}",
        "x".repeat(40_000)
    ));
    assert!(answer.starts_with("HTTP/1.1 431 "));
}

#[test]
fn the_fields_are_counted() {
    let head = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X:y\r\n".repeat(n - 1)
        )
    };
    ends(&head(4), End::Waiting(Wait::Idle));
    ends(&head(5), End::Closed(CloseReason::HeadTooLarge));
    // However much is allowed.
    let mut settings = Settings::default();
    settings.http.max_fields = usize::MAX;
    let end = |n| play_all(&head(n), &context(&settings)).end;
    for n in [47, 48, 49, 50, MAX_FIELDS] {
        assert_eq!(end(n), End::Waiting(Wait::Idle));
    }
    assert_eq!(end(MAX_FIELDS + 1), End::Closed(CloseReason::HeadTooLarge));
}

#[test]
fn the_body_is_bounded() {
    let sized = |n: usize| {
        let body = "x".repeat(n);
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n{body}")
    };
    ends(&sized(100), End::Waiting(Wait::Idle));
    ends(&sized(101), End::Closed(CloseReason::BodyTooLarge));
    let huge = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
                Content-Length: 99999999999999999999999\r\n\r\n";
    let (answer, end) = answer(huge);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(end, End::Closed(CloseReason::BodyTooLarge));
}

#[test]
fn chunks_are_bounded() {
    let chunked = |chunks: &str| {
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
    };
    let too_large = End::Closed(CloseReason::BodyTooLarge);
    let x = |n: usize| "x".repeat(n);
    ends(
        &chunked(&format!("64\r\n{}\r\n0\r\n\r\n", x(100))),
        End::Waiting(Wait::Idle),
    );
    ends(&chunked("65\r\n"), too_large);
    ends(
        &chunked(&format!("63\r\n{}\r\n1\r\ny\r\n0\r\n\r\n", x(99))),
        End::Waiting(Wait::Idle),
    );
    ends(&chunked(&format!("63\r\n{}\r\n2\r\n", x(99))), too_large);
    ends(&chunked("ffffffffffffffffffffff\r\n"), too_large);

    let beside = End::Closed(CloseReason::HeadTooLarge);
    ends(&chunked(&"0".repeat(300)), beside);
    ends(&chunked(&format!("1;{}", x(300))), beside);
    ends(&chunked(&"1;aaaa\r\nx\r\n".repeat(80)), beside);
    ends(&chunked(&format!("1{}", " ".repeat(300))), beside);
    ends(
        &chunked(&format!("0\r\n{}", "a: b\r\n".repeat(100))),
        beside,
    );
    ends(&chunked(&format!("0\r\na: {}", x(300))), beside);
}

/// A head that comes byte by byte is scanned once.
#[test]
fn a_drip_does_not_cost_the_square() {
    let mut settings = Settings::default();
    settings.http.max_head = 1 << 20;
    let cx = context(&settings);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1 << 18));
    let (mut state, mut body, mut out) = (State::default(), Vec::new(), Vec::new());
    // The square would be 3 * 10^10 looks at a byte.
    for seen in 1..head.len() {
        let input = &head.as_bytes()[..seen];
        step(&mut state, input, &mut body, &mut out, &cx).unwrap();
    }
    assert_eq!(state.waiting(), Wait::Head);
}
