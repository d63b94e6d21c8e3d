//! What cannot be understood, or in two ways.

use super::*;

/// Each with a request behind it that must not be answered.
#[test]
fn every_malformed_request_is_refused() {
    use CloseReason::*;
    let get = |fields: &str| format!("GET /healthz HTTP/1.1\r\n{fields}\r\n");
    let post =
        |fields: &str, body: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    for (stream, status, reason) in [
        // Request lines.
        (line("GET /"), 400, BadRequestLine),
        ("GET /\r\n".to_owned(), 400, BadRequestLine),
        (line("GET"), 400, BadRequestLine),
        (line("GET  / HTTP/1.1"), 400, BadRequestLine),
        (line("GET /  HTTP/1.1"), 400, BadRequestLine),
        (line("GET / HTTP/1.1 "), 400, BadRequestLine),
        (line("GET /\tHTTP/1.1"), 400, BadRequestLine),
        (line(" GET / HTTP/1.1"), 400, BadRequestLine),
        (line("GET / x HTTP/1.1"), 400, BadRequestLine),
        (line("GET / http/1.1"), 400, BadRequestLine),
        (line("GET / HTTP/1"), 400, BadRequestLine),
        (line("GET / HTTP/1.10"), 400, BadRequestLine),
        (line("GET / HTTP/11.1"), 400, BadRequestLine),
        (line("GET / HTTPS/1.1"), 400, BadRequestLine),
        (line("G@T / HTTP/1.1"), 400, BadRequestLine),
        (line("G\0T / HTTP/1.1"), 400, BadRequestLine),
        (line("GET /\0 HTTP/1.1"), 400, BadRequestLine),
        (line("GET /\x7f HTTP/1.1"), 400, BadRequestLine),
        (line("GET /\r HTTP/1.1"), 400, BadRequestLine),
        ("\x16\x03\x01\x02".to_owned(), 400, BadRequestLine),
        ("\0".to_owned(), 400, BadRequestLine),
        ("\n".to_owned(), 400, BadRequestLine),
        ("\rG".to_owned(), 400, BadRequestLine),
        (line("GET / HTTP/2.0"), 505, BadHttpVersion),
        (line("GET / HTTP/0.9"), 505, BadHttpVersion),
        (line("GET / HTTP/1.2"), 505, BadHttpVersion),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            505,
            BadHttpVersion,
        ),
        // Targets.
        (line("GET * HTTP/1.1"), 400, BadTarget),
        (line("GET whoami HTTP/1.1"), 400, BadTarget),
        (line("GET a:80 HTTP/1.1"), 400, BadTarget),
        (line("GET ftp://a/ HTTP/1.1"), 400, BadTarget),
        (line("GET http:/// HTTP/1.1"), 400, BadTarget),
        (line("GET http://u@a/ HTTP/1.1"), 400, BadTarget),
        (line("GET http://a:x/ HTTP/1.1"), 400, BadTarget),
        (line("GET /#x HTTP/1.1"), 400, BadTarget),
        (line("GET /ä HTTP/1.1"), 400, BadTarget),
        (line("CONNECT / HTTP/1.1"), 400, BadTarget),
        (line("CONNECT a HTTP/1.1"), 400, BadTarget),
        (line("CONNECT a:443 HTTP/1.1"), 501, NoTunnel),
        // Line ends.
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400, BareLineFeed),
        (get("Host: a\n"), 400, BareLineFeed),
        (get("Host: a\r\nX: b\nY: c\r\n"), 400, BareLineFeed),
        (get("Host: a\r\n\n"), 400, BareLineFeed),
        (get("Host: a\rX: b\r\n"), 400, BadField),
        (get("Host: a\r\nX: b\r\r\n"), 400, BadField),
        // Fields.
        (get("Host: a\r\nX: b\0\r\n"), 400, BadField),
        (get("Host: a\r\nX: b\x01\r\n"), 400, BadField),
        (get("Host: a\r\nX\0: b\r\n"), 400, BadField),
        (get("Host: a\r\nX: b\r\n c\r\n"), 400, BadField),
        (get("Host: a\r\nX: b\r\n\tc\r\n"), 400, BadField),
        (get(" Host: a\r\n"), 400, BadField),
        (get("Host : a\r\n"), 400, BadField),
        (get("Host: a\r\nX\r\n"), 400, BadField),
        (get("Host: a\r\n: b\r\n"), 400, BadField),
        (get("Host: a\r\nÄ: b\r\n"), 400, BadField),
        // Host.
        (get(""), 400, BadHost),
        (get("Host:\r\n"), 400, BadHost),
        (get("Host: a\r\nHost: a\r\n"), 400, BadHost),
        (get("Host: a\r\nhost: b\r\n"), 400, BadHost),
        (get("Host: a, b\r\n"), 400, BadHost),
        (get("Host: a b\r\n"), 400, BadHost),
        (get("Host: u@a\r\n"), 400, BadHost),
        (get("Host: a/\r\n"), 400, BadHost),
        (get("Host: a:b\r\n"), 400, BadHost),
        (get("Host: a:+1\r\n"), 400, BadHost),
        (get("Host: a:65536\r\n"), 400, BadHost),
        (get("Host: :80\r\n"), 400, BadHost),
        (get("Host: ::1\r\n"), 400, BadHost),
        (get("Host: [::1\r\n"), 400, BadHost),
        (get("Host: [x]\r\n"), 400, BadHost),
        (get("Host: [::1]x\r\n"), 400, BadHost),
        (get("Host: %4\r\n"), 400, BadHost),
        (get("Host: ä\r\n"), 400, BadHost),
        ("GET http://a/ HTTP/1.1\r\n\r\n".to_owned(), 400, BadHost),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
            400,
            BadHost,
        ),
        // Lengths.
        (
            post("Content-Length: 1\r\nContent-Length: 1\r\n", "x"),
            400,
            BadContentLength,
        ),
        (
            post("Content-Length: 1\r\nContent-Length: 2\r\n", "x"),
            400,
            BadContentLength,
        ),
        (post("Content-Length: 1, 1\r\n", "x"), 400, BadContentLength),
        (post("Content-Length:\r\n", "x"), 400, BadContentLength),
        (post("Content-Length: +1\r\n", "x"), 400, BadContentLength),
        (post("Content-Length: -1\r\n", "x"), 400, BadContentLength),
        (post("Content-Length: 0x1\r\n", "x"), 400, BadContentLength),
        (post("Content-Length: 1 1\r\n", "x"), 400, BadContentLength),
        (
            post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "x"),
            400,
            AmbiguousLength,
        ),
        (
            post("Transfer-Encoding: gzip\r\nContent-Length: 1\r\n", "x"),
            400,
            AmbiguousLength,
        ),
        (
            "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            400,
            AmbiguousLength,
        ),
        (
            post("Transfer-Encoding: gzip\r\n", ""),
            400,
            BadTransferCoding,
        ),
        (
            post("Transfer-Encoding: identity\r\n", ""),
            400,
            BadTransferCoding,
        ),
        (post("Transfer-Encoding:\r\n", ""), 400, BadTransferCoding),
        (
            post("Transfer-Encoding: chunked;q=1\r\n", ""),
            400,
            BadTransferCoding,
        ),
        (
            post("Transfer-Encoding: xchunked\r\n", ""),
            400,
            BadTransferCoding,
        ),
        (
            post("Transfer-Encoding: chunked, gzip\r\n", ""),
            400,
            BadTransferCoding,
        ),
        (
            post("Transfer-Encoding: chunked, chunked\r\n", ""),
            400,
            BadTransferCoding,
        ),
        (
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "",
            ),
            400,
            BadTransferCoding,
        ),
        (
            post("Transfer-Encoding: gzip, chunked\r\n", ""),
            501,
            UnknownTransferCoding,
        ),
        (
            post("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", ""),
            501,
            UnknownTransferCoding,
        ),
        // Chunks.
        (chunked("\r\n"), 400, BadChunk),
        (chunked(";x\r\n"), 400, BadChunk),
        (chunked("g\r\n"), 400, BadChunk),
        (chunked("0x1\r\n"), 400, BadChunk),
        (chunked("-1\r\n"), 400, BadChunk),
        (chunked(" 1\r\n"), 400, BadChunk),
        (chunked("1 \r\n"), 400, BadChunk),
        (chunked("1 1\r\n"), 400, BadChunk),
        (chunked("1\n"), 400, BadChunk),
        (chunked("1\rx"), 400, BadChunk),
        (chunked("1;a\nb"), 400, BadChunk),
        (chunked("1;\0\r\n"), 400, BadChunk),
        (chunked("1\r\nxx"), 400, BadChunk),
        (chunked("1\r\nx\n"), 400, BadChunk),
        (chunked("1\r\nx\rx"), 400, BadChunk),
        (chunked("0\r\n\rx"), 400, BadChunk),
        (chunked("0\r\n\n"), 400, BadField),
        (chunked("0\r\n x: y\r\n\r\n"), 400, BadField),
        (chunked("0\r\nx\r\n\r\n"), 400, BadField),
        (chunked("0\r\nx : y\r\n\r\n"), 400, BadField),
        (chunked("0\r\nx: y\n\r\n"), 400, BadField),
        (chunked("0\r\nx: \0\r\n\r\n"), 400, BadField),
        (chunked("0\r\nx: y\r\n z\r\n\r\n"), 400, BadField),
        // Expectations.
        (
            post("Content-Length: 1\r\nExpect: 200-ok\r\n", "x"),
            417,
            BadExpectation,
        ),
        (get("Host: a\r\nExpect: x\r\n"), 417, BadExpectation),
        (
            get("Host: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n"),
            417,
            BadExpectation,
        ),
    ] {
        let (answer, end) = answer(&format!("{stream}GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(end, End::Closed(reason), "{stream:?}");
        assert!(!answer.contains("handled by"), "{stream:?}");
        let (said, fields, content) = parts(&answer);
        assert_eq!(said[..3], status.to_string(), "{stream:?}");
        assert_eq!(field(&fields, "Connection"), "close");
        assert_eq!(field(&fields, "Content-Length"), content.len().to_string());
        assert!(
            !said.starts_with('5') || !content.contains("our fault"),
            "{stream:?}"
        );
    }
}

#[test]
fn what_is_sound_but_rare_is_served() {
    for fields in [
        "Host: a.example:8000\r\n",
        "Host: a:\r\n",
        "Host: [::1]\r\n",
        "Host: [2001:db8::1]:65535\r\n",
        "Host: 127.0.0.1\r\n",
        "Host: x_y-z.%41~!$&'()*+;=\r\n",
        "HOST:a\r\n",
        "Host: \t a \t \r\n",
        "Host: a\r\nX:\r\n",
        "Host: a\r\n!#$%&'*+-.^_`|~: x\r\n",
        "Host: a\r\nX: \tä\"\\\r\n",
        "Host: a\r\nContent-Length: 0\r\n",
        "Host: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
        "Host: a\r\nExpect: 100-continue\r\n",
    ] {
        let (answer, end) = answer(&format!("GET /healthz HTTP/1.1\r\n{fields}\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{fields}: {answer}"
        );
        assert_eq!(end, End::Waiting(Wait::Idle), "{fields}");
    }
}

#[test]
fn a_refusal_of_head_has_no_content() {
    for stream in [
        "HEAD / HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
    ] {
        let (answer, end) = answer(stream);
        assert!(matches!(end, End::Closed(_)));
        let (_, fields, content) = parts(&answer);
        assert_eq!(content, "");
        assert_ne!(field(&fields, "Content-Length"), "0");
    }
}
