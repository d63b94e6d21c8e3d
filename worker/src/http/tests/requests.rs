//! Sound requests.

use super::super::state::Phase;
use super::super::*;
use super::*;
use crate::page;

const IDLE: End = End::Waiting(Wait::Idle);

fn page() -> &'static str {
    std::str::from_utf8(include_bytes!("../../page/index.html")).unwrap()
}

#[test]
fn whoami_says_worker_and_pid() {
    let (answer, end) = answer("GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 31\r\nCache-Control: no-store\r\n\r\n\
         handled by worker 2 (pid 4242)\n"
    );
    assert_eq!(end, IDLE);
}

#[test]
fn every_answer_tells_its_length() {
    let one = |method: &str, path: &str, status: &str, content: &str| {
        let stream = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let (answer, end) = answer(&stream);
        let (said, fields, rest) = parts(&answer);
        assert_eq!(
            (said, rest, end),
            (status, content, IDLE),
            "{method} {path}"
        );
        assert_eq!(field(&fields, "Date"), DATE);
        if method != "HEAD" {
            assert_eq!(field(&fields, "Content-Length"), content.len().to_string());
        }
    };
    let not_allowed = "This is not a method for it.\n";
    let upgrade = "Speak WebSocket here.\n";
    one("GET", "/", "200 OK", page());
    one("GET", "/?room=x", "200 OK", page());
    one("HEAD", "/", "200 OK", "");
    one("GET", "/healthz", "200 OK", "ok\n");
    one("HEAD", "/whoami", "200 OK", "");
    one("POST", "/whoami", "405 Method Not Allowed", not_allowed);
    one("DELETE", "/", "405 Method Not Allowed", not_allowed);
    one("POST", "/rooms", "405 Method Not Allowed", not_allowed);
    one("PUT", "/echo", "405 Method Not Allowed", not_allowed);
    one("GET", "/echo", "426 Upgrade Required", upgrade);
    one("GET", "/rooms?token=x", "426 Upgrade Required", upgrade);
    one("HEAD", "/rooms", "426 Upgrade Required", "");
    one("POST", "/echo", "200 OK", "");
    one("OPTIONS", "/whoami", "200 OK", "");
    one("OPTIONS", "*", "200 OK", "");
    one("OPTIONS", "http://a", "200 OK", "");
    one(
        "GET",
        "/nothing",
        "404 Not Found",
        "There is nothing here.\n",
    );
    one(
        "OPTIONS",
        "/nothing",
        "404 Not Found",
        "There is nothing here.\n",
    );
    one("GET", "//", "404 Not Found", "There is nothing here.\n");
    one(
        "BREW",
        "/whoami",
        "501 Not Implemented",
        "Nobody knows this method.\n",
    );
    one(
        "get",
        "/whoami",
        "501 Not Implemented",
        "Nobody knows this method.\n",
    );
    one("GET", "http://a.example:80/healthz?x", "200 OK", "ok\n");
    one("GET", "HTTPS://a/healthz", "200 OK", "ok\n");
    one("GET", "http://[::1]:8000", "200 OK", page());
    one("GET", "http://a?x", "200 OK", page());
}

#[test]
fn head_has_the_fields_of_get() {
    for path in ["/", "/whoami", "/healthz", "/echo", "/nothing"] {
        let of = |method: &str| answer(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")).0;
        let (get, head) = (of("GET"), of("HEAD"));
        let end = get.find("\r\n\r\n").unwrap() + 4;
        assert_eq!(&get[..end], head);
    }
}

#[test]
fn allow_lists_the_methods() {
    for (request, allow) in [
        ("POST /whoami", "GET, HEAD, OPTIONS"),
        ("OPTIONS /rooms", "GET, HEAD, OPTIONS"),
        ("PATCH /echo", "GET, HEAD, POST, OPTIONS"),
        ("OPTIONS *", "GET, HEAD, POST, OPTIONS"),
    ] {
        let (answer, _) = answer(&format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(field(&parts(&answer).1, "Allow"), allow, "{request}");
    }
}

#[test]
fn the_page_is_guarded() {
    let (answer, _) = answer("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (_, fields, _) = parts(&answer);
    assert_eq!(field(&fields, "Content-Type"), "text/html; charset=utf-8");
    let policy = field(&fields, "Content-Security-Policy");
    assert!(
        policy.contains("default-src 'none'; ") && policy.contains("connect-src 'self' ws: wss:")
    );
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[test]
fn a_file_that_is_known_is_not_sent_again() {
    let get = |path: &str, known: &str| {
        answer(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{known}\r\n")).0
    };
    for (number, file) in page::FILES.iter().enumerate() {
        let path = file.path;
        if page::find(path, Role::Public) != Some(number as u8) {
            continue;
        }
        let first = get(path, "");
        let (status, fields, content) = parts(&first);
        assert_eq!(status, "200 OK", "{path}");
        assert!(content.as_bytes() == file.content, "{path}");
        assert_eq!(field(&fields, "Cache-Control"), "no-cache");
        let tag = field(&fields, "ETag");
        for known in [
            format!("If-None-Match: {tag}\r\n"),
            format!("If-None-Match: W/{tag}\r\n"),
            format!("if-none-match: \"x\", {tag}\r\n"),
            format!("If-None-Match: \"x\"\r\nIf-None-Match: {tag}\r\n"),
            "If-None-Match: *\r\n".to_owned(),
        ] {
            let second = get(path, &known);
            let (status, again, content) = parts(&second);
            assert_eq!(
                (status, content),
                ("304 Not Modified", ""),
                "{path}, {known}"
            );
            assert_eq!(again, fields, "{path}, {known}");
        }
        for other in [
            "If-None-Match: \"x\"\r\n",
            "If-None-Match: x*\r\n",
            "If-None-Match: \r\n",
        ] {
            assert_eq!(parts(&get(path, other)).0, "200 OK", "{path}, {other}");
        }
    }
}

#[test]
fn tags_tell_files_apart() {
    let mut tags: Vec<_> = (0..page::FILES.len() as u8).map(page::tag).collect();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), page::FILES.len());
    assert!(tags.len() <= 16 && tags[0].len() == 18, "{tags:?}");
}

#[test]
fn scripts_are_taken_for_scripts() {
    let (answer, _) = answer("GET /baton.js HTTP/1.1\r\nHost: a\r\n\r\n");
    let (_, fields, _) = parts(&answer);
    assert_eq!(
        field(&fields, "Content-Type"),
        "text/javascript; charset=utf-8"
    );
    assert_eq!(field(&fields, "X-Content-Type-Options"), "nosniff");
    // A module from elsewhere is only loaded if this is allowed.
    assert_eq!(field(&fields, "Access-Control-Allow-Origin"), "*");
}

#[test]
fn operators_have_a_page_of_their_own() {
    let settings = Settings::default();
    let cx = Context {
        role: Role::Admin,
        ..context(&settings)
    };
    for (path, status) in [
        ("/", "200 OK"),
        ("/whoami", "200 OK"),
        ("/healthz", "200 OK"),
        ("/echo", "404 Not Found"),
        ("/rooms", "426 Upgrade Required"),
    ] {
        let outcome = play_all(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), &cx);
        let answer = String::from_utf8(outcome.out).unwrap();
        assert_eq!(parts(&answer).0, status, "{path}");
        assert!(!answer.contains(page()));
        assert_eq!(path == "/", answer.contains("<title>baton, for operators"));
    }
}

#[test]
fn bodies_come_back() {
    for (head, body, kind) in [
        ("Content-Length: 5\r\n", "hello", "application/octet-stream"),
        (
            "Content-Length: 5\r\nContent-Type: text/x; y\r\n",
            "hello",
            "text/x; y",
        ),
        ("Content-Length: 0\r\n", "", "application/octet-stream"),
        (
            "content-length: 007\r\n",
            "7 bytes",
            "application/octet-stream",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Type: a/b\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "a/b",
        ),
        (
            "transfer-encoding: , Chunked\r\n",
            "3;a=\"b;c\"\r\nhel\r\n00002 ; x\r\nlo\r\n0;end\r\nX-Sum: 1, 2\r\nY:\r\n\r\n",
            "application/octet-stream",
        ),
    ] {
        let (answer, end) = answer(&format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\n{head}\r\n{body}"
        ));
        let (status, fields, content) = parts(&answer);
        assert_eq!((status, end), ("200 OK", IDLE), "{head}");
        assert_eq!(field(&fields, "Content-Type"), kind);
        let plain = match body {
            "" | "7 bytes" => body,
            _ => "hello",
        };
        assert_eq!(content, plain);
    }
}

#[test]
fn a_type_that_is_long_is_not_kept() {
    let long = "x".repeat(256);
    let (answer, _) = answer(&format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: {long}\r\nContent-Length: 1\r\n\r\n!"
    ));
    let (_, fields, content) = parts(&answer);
    assert_eq!(field(&fields, "Content-Type"), "application/octet-stream");
    assert_eq!(content, "!");
}

#[test]
fn a_body_that_nobody_wants_is_skipped() {
    let (answer, end) = answer(
        "POST /whoami HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
         GET /nothing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\
         GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let statuses: Vec<_> = answer.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 3, "{answer}");
    assert!(answer.ends_with("ok\n"));
    assert_eq!(end, IDLE);
}

#[test]
fn pipelined_requests_are_answered_in_order_one_a_step() {
    let settings = Settings::default();
    let cx = context(&settings);
    let stream = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let mut input = stream.as_bytes();
    let (mut state, mut body, mut out) = (State::default(), Vec::new(), Vec::new());
    for left in (0..1000).rev() {
        out.clear();
        let done = step(&mut state, input, &mut body, &mut out, &cx).unwrap();
        let next = if left > 0 {
            Next::Again
        } else {
            Next::NeedInput
        };
        assert_eq!(done.next, next);
        assert_eq!(out.windows(5).filter(|w| w == b"HTTP/").count(), 1);
        input = &input[done.consumed..];
    }
    assert!(input.is_empty());
}

#[test]
fn the_connection_lasts_as_agreed() {
    let closed = End::Closed(CloseReason::Done);
    for (line, fields, said, end) in [
        ("HTTP/1.1", "", None, IDLE),
        ("HTTP/1.1", "Connection: keep-alive\r\n", None, IDLE),
        (
            "HTTP/1.1",
            "Connection: x, Close\r\n",
            Some("close"),
            closed,
        ),
        (
            "HTTP/1.1",
            "Connection: keep-alive\r\nconnection: close\r\n",
            Some("close"),
            closed,
        ),
        ("HTTP/1.0", "", Some("close"), closed),
        (
            "HTTP/1.0",
            "Connection: Keep-Alive\r\n",
            Some("keep-alive"),
            IDLE,
        ),
        (
            "HTTP/1.0",
            "Connection: keep-alive, close\r\n",
            Some("close"),
            closed,
        ),
    ] {
        let stream = format!("GET /healthz {line}\r\nHost: a\r\n{fields}\r\n");
        let (answer, ended) = answer(&stream);
        let (status, seen, content) = parts(&answer);
        assert_eq!(
            (status, content, ended),
            ("200 OK", "ok\n", end),
            "{stream}"
        );
        let connection = seen
            .iter()
            .find(|(n, _)| *n == "Connection")
            .map(|(_, v)| *v);
        assert_eq!(connection, said, "{stream}");
    }
}

#[test]
fn nothing_is_answered_behind_the_last_answer() {
    let settings = Settings::default();
    let stream = "GET /healthz HTTP/1.0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let outcome = play_all(stream, &context(&settings));
    assert_eq!(outcome.consumed, stream.len());
    assert_eq!(outcome.out.windows(5).filter(|w| w == b"HTTP/").count(), 1);
}

#[test]
fn old_clients_need_no_host() {
    let (answer, _) = answer("GET /healthz HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    let get = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let (answered, end) = answer(&format!("\r\n{get}\r\n{get}"));
    assert_eq!(answered.matches("200 OK").count(), 2);
    assert_eq!(end, IDLE);
    let (_, end) = answer(&format!("\r\n\r\n{get}"));
    assert_eq!(end, End::Closed(CloseReason::BadRequestLine));
    assert_eq!(answer("\r\n").1, IDLE);
}

#[test]
fn who_expects_to_continue_is_told_to() {
    let expect =
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n";
    let (before, end) = answer(expect);
    assert_eq!(before, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(end, End::Waiting(Wait::Body));
    let (all, end) = answer(&format!("{expect}hi"));
    assert!(all.starts_with(&before) && all.ends_with("\r\n\r\nhi"));
    assert_eq!(end, IDLE);
    // RFC 9110, 10.1.1: ignored in HTTP/1.0, and nothing to wait for without a body.
    let (answer_10, _) = answer(&expect.replace("1.1", "1.0"));
    assert_eq!(answer_10, "");
    let (empty, _) = answer(&expect.replace("Length: 2", "Length: 0"));
    assert!(empty.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_body_that_is_not_wanted_is_not_asked_for() {
    let (answer, end) = answer(
        "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    );
    let (status, fields, _) = parts(&answer);
    assert_eq!(status, "404 Not Found");
    assert_eq!(field(&fields, "Connection"), "close");
    assert_eq!(end, End::Closed(CloseReason::BodyUnwanted));
}

#[test]
fn who_is_banned_is_told_so_and_hears_it_in_words_of_rooms_there() {
    let settings = Settings::default();
    let cx = Context {
        banned: true,
        ..context(&settings)
    };
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (target, fields, status) in [
        ("/whoami", "", "403 Forbidden"),
        ("/nothing", "", "403 Forbidden"),
        ("/echo", upgrade, "403 Forbidden"),
        ("/rooms", upgrade, "101 Switching Protocols"),
    ] {
        let stream = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let outcome = play_all(&stream, &cx);
        let answer = String::from_utf8(outcome.out).unwrap();
        assert_eq!(parts(&answer).0, status, "{target}");
        let ends = outcome.end == End::Closed(CloseReason::Banned);
        assert_eq!(ends, status == "403 Forbidden", "{target}");
    }
}

#[test]
fn what_is_wrong_with_a_request_for_the_api_is_said_as_the_api_does() {
    let mut settings = Settings::default();
    settings.http.max_body = 9;
    let api = Context {
        role: Role::Admin,
        ..context(&settings)
    };
    let sized = "Content-Length: 10\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n";
    for fields in [sized, chunked] {
        for (path, cx, is_json) in [
            ("/api/v1/publish?x", api, true),
            ("/healthz", api, false),
            ("/api/v1/publish", context(&settings), false),
        ] {
            let stream = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}");
            let outcome = play_all(&stream, &cx);
            let answer = String::from_utf8(outcome.out).unwrap();
            let (status, fields, body) = parts(&answer);
            assert_eq!(status, "413 Content Too Large", "{path}");
            let kind = match is_json {
                true => "application/json",
                false => "text/plain; charset=utf-8",
            };
            assert_eq!(field(&fields, "Content-Type"), kind, "{path}");
            assert_eq!(
                body.starts_with("{\"error\":{\"code\":\"too_large\""),
                is_json
            );
            assert_eq!(outcome.end, End::Closed(CloseReason::BodyTooLarge));
        }
    }
}

#[test]
fn a_refused_connection_is_told_when_to_return() {
    let settings = Settings::default();
    let cx = Context {
        refuse: true,
        ..context(&settings)
    };
    for stream in [
        "GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n",
        "BREW /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    ] {
        let outcome = play_all(stream, &cx);
        let answer = String::from_utf8(outcome.out).unwrap();
        let (status, fields, _) = parts(&answer);
        assert_eq!(status, "503 Service Unavailable");
        assert_eq!(field(&fields, "Retry-After"), "5");
        assert_eq!(field(&fields, "Connection"), "close");
        assert_eq!(outcome.end, End::Closed(CloseReason::Refused));
    }
    assert_eq!(play_all("GET /who", &cx).end, End::Waiting(Wait::Head));
}

#[test]
fn without_room_nothing_has_happened() {
    struct Never;
    impl Output for Never {
        fn space(&mut self, _: usize) -> Result<&mut [u8], Full> {
            Err(Full)
        }
    }
    let settings = Settings::default();
    let cx = context(&settings);
    for stream in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\0"] {
        let mut state = State::default();
        let step = step(
            &mut state,
            stream.as_bytes(),
            &mut Vec::new(),
            &mut Never,
            &cx,
        );
        assert_eq!((step, state), (Err(Full), State::default()));
    }
    let late = State(Phase::Head(scanned_once()));
    assert_eq!(timed_out(late, &mut Never, &cx), CloseReason::HeadTimeout);
}

fn scanned_once() -> scan::Scan {
    let mut scan = scan::Scan::default();
    scan.advance(b"G", &Settings::default().http).unwrap();
    scan
}

#[test]
fn a_deadline_is_answered_in_the_middle_of_a_request_only() {
    let settings = Settings::default();
    let cx = context(&settings);
    for (stream, reason, status) in [
        ("", CloseReason::IdleTimeout, None),
        ("\r\n", CloseReason::IdleTimeout, None),
        ("GET", CloseReason::HeadTimeout, Some("408 Request Timeout")),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n!",
            CloseReason::BodyTimeout,
            Some("408 Request Timeout"),
        ),
    ] {
        let (mut state, mut body, mut out) = (State::default(), Vec::new(), Vec::new());
        let mut input = stream.as_bytes();
        loop {
            let done = step(&mut state, input, &mut body, &mut out, &cx).unwrap();
            input = &input[done.consumed..];
            if done.next == Next::NeedInput {
                break;
            }
        }
        assert_eq!(timed_out(state, &mut out, &cx), reason);
        let answer = String::from_utf8(out).unwrap();
        assert_eq!((!answer.is_empty()).then(|| parts(&answer).0), status);
    }
}

#[test]
fn words_that_were_never_packed_are_no_session() {
    assert_eq!(State::unpack([0, 0]), Some(State::default()));
    for words in [
        [3, 0],
        [255, 0],
        [u64::MAX, u64::MAX],
        // A line that starts behind what was scanned.
        [0, 1],
        // An answer that there is not.
        [1 | 0xff << 8, 0],
        [1 | 0x0f << 8, 0],
        // A place in a chunk that there is not.
        [2, 200 << 56],
        // A sized body has no second word.
        [1, 1],
    ] {
        assert_eq!(State::unpack(words), None, "{words:x?}");
    }
}
