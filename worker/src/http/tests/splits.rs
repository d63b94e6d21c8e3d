//! How a stream is cut into reads makes no difference.

use super::*;

const STREAMS: &[&str] = &[
    "GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n\r\nHEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET",
    "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhelloOPTIONS * HTTP/1.0\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n\
     3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\nPUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore",
    "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000000000\r\n",
    "GET /rooms HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\x01\x05",
    // Two faults each: the first counts.
    "GET /\r\nHost: a\n\r\n",
    "GET /# HTTP/1.1\r\nX : y\r\nHost: a\n\r\n",
    "GET / HTTP/2.0\r\nX : y\r\n\r\n",
    "GET / HTTP/1.1\r\nX : y\r\nHost: a\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    "\r\n\r\n",
    "\r\r",
    "\x16\x03\x01\n\n",
    "GET / HTTP/1.9\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.9\r\nHost: a\r\nY\r\n\r\n",
];

#[test]
fn every_cut_gives_the_same() {
    let settings = Settings::default();
    let mut small = Settings::default();
    small.http.max_line = 20;
    small.http.max_head = 60;
    small.http.max_fields = 2;
    small.http.max_body = 4;
    for settings in [settings, small] {
        let cx = context(&settings);
        for stream in STREAMS {
            let stream = stream.as_bytes();
            let whole = play([stream], &cx);
            // A closed session swallows what came with the last request: not the same amount.
            let same = |outcome: Outcome, how: &str| {
                let shown = String::from_utf8_lossy(stream);
                assert_eq!(outcome.out, whole.out, "{how}: {shown:?}");
                assert_eq!(outcome.end, whole.end, "{how}: {shown:?}");
                if !matches!(whole.end, End::Closed(_)) {
                    assert_eq!(outcome.consumed, whole.consumed, "{how}: {shown:?}");
                }
            };
            same(play(stream.chunks(1), &cx), "byte by byte");
            for first in 0..stream.len() {
                let (a, rest) = stream.split_at(first);
                same(play([a, rest], &cx), "in two");
                for second in (0..rest.len()).step_by(13) {
                    let (b, c) = rest.split_at(second);
                    same(play([a, b, c], &cx), "in three");
                }
            }
        }
    }
}
