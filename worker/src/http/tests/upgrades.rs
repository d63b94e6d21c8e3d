//! WebSocket handshakes.

use super::*;
use crate::websocket::Window;

/// RFC 6455, 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

fn rooms() -> End {
    speaking(Subprotocol::RoomsJson)
}

fn speaking(subprotocol: Subprotocol) -> End {
    End::Upgraded(Upgrade {
        endpoint: Endpoint::Rooms,
        subprotocol,
        window: None,
    })
}

#[test]
fn a_sound_handshake_is_accepted() {
    let stream = handshake("/echo", "") + "\x01\x02";
    let settings = Settings::default();
    let outcome = play_all(&stream, &context(&settings));
    assert_eq!(
        String::from_utf8(outcome.out).unwrap(),
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nDate: {DATE}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
    );
    let upgrade = Upgrade {
        endpoint: Endpoint::Echo,
        subprotocol: Subprotocol::None,
        window: None,
    };
    assert_eq!(outcome.end, End::Upgraded(upgrade));
    // The frames that came with it are left.
    assert_eq!(outcome.consumed, stream.len() - 2);
}

#[test]
fn it_may_come_behind_other_requests_and_be_written_in_other_ways() {
    let stream = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".to_owned()
        + &handshake("/rooms?token=x", "")
            .replace("Upgrade: websocket", "upgrade: h2c, WebSocket")
            .replace("Connection: Upgrade", "CONNECTION: keep-alive, UPGRADE");
    assert_eq!(answer(&stream).1, rooms());
}

#[test]
fn the_subprotocol_is_the_first_that_we_speak() {
    for (offer, chosen) in [
        ("", None),
        ("Sec-WebSocket-Protocol: \r\n", None),
        (
            "Sec-WebSocket-Protocol: rooms.v1.json\r\n",
            Some("rooms.v1.json"),
        ),
        (
            "Sec-WebSocket-Protocol: chat, rooms.v1.json\r\n",
            Some("rooms.v1.json"),
        ),
        (
            "Sec-WebSocket-Protocol: rooms.v1.msgpack\r\n",
            Some("rooms.v1.msgpack"),
        ),
        (
            "Sec-WebSocket-Protocol: rooms.v2.msgpack, rooms.v1.msgpack, rooms.v1.json\r\n",
            Some("rooms.v1.msgpack"),
        ),
        (
            "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: rooms.v1.json\r\n",
            Some("rooms.v1.json"),
        ),
    ] {
        let (answer, end) = answer(&handshake("/rooms", offer));
        let spoken = match chosen {
            Some("rooms.v1.msgpack") => Subprotocol::RoomsMsgpack,
            _ => Subprotocol::RoomsJson,
        };
        assert_eq!(end, speaking(spoken), "{offer}");
        let (_, fields, _) = parts(&answer);
        let said = fields.iter().find(|(n, _)| *n == "Sec-WebSocket-Protocol");
        assert_eq!(said.map(|(_, v)| *v), chosen, "{offer}");
    }
}

/// A master of the version before knows of JSON only.
#[test]
fn what_the_master_cannot_carry_is_not_spoken() {
    let mut settings = Settings::default();
    settings.rooms.msgpack = false;
    let end = |offer: &str| {
        let offer = format!("Sec-WebSocket-Protocol: {offer}\r\n");
        play_all(&handshake("/rooms", &offer), &context(&settings)).end
    };
    assert_eq!(end("rooms.v1.msgpack, rooms.v1.json"), rooms());
    let refused = End::Closed(CloseReason::NoSubprotocol);
    assert_eq!(end("rooms.v1.msgpack"), refused);
}

#[test]
fn a_bad_handshake_is_refused() {
    use CloseReason::*;
    let replaced = |from: &str, to: &str| handshake("/rooms", "").replace(from, to);
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    for (stream, status, reason) in [
        (replaced("Connection: Upgrade\r\n", ""), 400, BadUpgrade),
        (
            replaced("Connection: Upgrade", "Connection: keep-alive"),
            400,
            BadUpgrade,
        ),
        (replaced(&key, ""), 400, BadUpgrade),
        (replaced(KEY, ""), 400, BadUpgrade),
        (replaced(KEY, "dGhlIHNhbXBsZSBub25jZQ="), 400, BadUpgrade),
        (replaced(KEY, "dGhlIHNhbXBsZSBub25jZQAA"), 400, BadUpgrade),
        (replaced(KEY, "dGhlIHNhbXBsZSBub25j*Q=="), 400, BadUpgrade),
        (
            replaced(KEY, "dGhlIHNhbXBsZSBub25jZQAAAA=="),
            400,
            BadUpgrade,
        ),
        (replaced(&key, &key.repeat(2)), 400, BadUpgrade),
        (replaced(version, ""), 400, BadUpgrade),
        (replaced(version, &version.repeat(2)), 400, BadUpgrade),
        (
            replaced("Version: 13", "Version: 8"),
            426,
            BadWebSocketVersion,
        ),
        (
            replaced("Version: 13", "Version: 013"),
            426,
            BadWebSocketVersion,
        ),
        (
            handshake("/rooms", "Content-Length: 1\r\n"),
            400,
            BadUpgrade,
        ),
        (
            handshake("/echo", "Transfer-Encoding: chunked\r\n"),
            400,
            BadUpgrade,
        ),
        (
            handshake("/rooms", "Sec-WebSocket-Protocol: chat\r\n"),
            400,
            NoSubprotocol,
        ),
        (
            handshake("/rooms", "Sec-WebSocket-Protocol: ROOMS.v1.json\r\n"),
            400,
            NoSubprotocol,
        ),
        (
            handshake("/rooms", "Sec-WebSocket-Protocol: a b\r\n"),
            400,
            BadUpgrade,
        ),
        (
            handshake("/rooms", "Origin: http://b.example\r\n"),
            403,
            BadOrigin,
        ),
    ] {
        let (answer, end) = answer(&stream);
        assert_eq!(end, End::Closed(reason), "{stream}");
        let (said, fields, content) = parts(&answer);
        assert_eq!(said[..3], status.to_string(), "{stream}");
        if status == 426 {
            assert_eq!(field(&fields, "Sec-WebSocket-Version"), "13");
            assert_eq!(field(&fields, "Upgrade"), "websocket");
        }
        if reason == NoSubprotocol {
            assert!(content.contains("rooms.v1.json, rooms.v1.msgpack"));
        }
    }
}

/// RFC 9110, 7.8: HTTP/1.0 cannot upgrade, and what is not asked for by GET is not upgraded.
#[test]
fn only_get_of_http_1_1_upgrades() {
    let (old, _) = answer(&handshake("/rooms", "").replace("HTTP/1.1", "HTTP/1.0"));
    assert!(old.starts_with("HTTP/1.1 426 "));
    let (post, _) = answer(&handshake("/echo", "").replace("GET", "POST"));
    assert!(post.starts_with("HTTP/1.1 200 "));
    let (other, _) = answer(&handshake("/whoami", ""));
    assert!(other.starts_with("HTTP/1.1 200 "));
}

#[test]
fn origins_are_checked() {
    let own = [
        "http://a.example",
        "https://A.example",
        "http://a.example:80",
        "https://a.example:443",
    ];
    let foreign = [
        "http://b.example",
        "http://a.example:8080",
        "https://a.example:80",
        "http://a.example.b",
        "ftp://a.example",
        "null",
        "",
        "http://",
        "a.example",
    ];
    let check = |allowed: &[&str], origin: &str| {
        let mut settings = Settings::default();
        settings.websocket.origins = allowed.iter().map(|&o| o.to_owned()).collect();
        let stream = handshake("/rooms", &format!("Origin: {origin}\r\n"));
        match play_all(&stream, &context(&settings)).end {
            End::Upgraded(_) => true,
            End::Closed(CloseReason::BadOrigin) => false,
            end => panic!("{origin}: {end:?}"),
        }
    };
    for origin in own {
        assert!(check(&[], origin), "{origin}");
        assert!(check(&["*"], origin));
        assert!(!check(&["https://c.example"], origin));
    }
    for origin in foreign {
        assert!(!check(&[], origin), "{origin}");
        assert!(check(&["*"], origin));
    }
    assert!(check(
        &["https://c.example", "http://B.example"],
        "http://b.example"
    ));

    let own_port = handshake("/rooms", "Origin: http://a.example:8000\r\n")
        .replace("Host: a.example", "Host: a.example:8000");
    assert_eq!(answer(&own_port).1, rooms());
    let absolute = handshake("http://b.example/rooms", "Origin: http://b.example\r\n");
    assert_eq!(answer(&absolute).1, rooms());
    let twice = handshake(
        "/rooms",
        "Origin: http://a.example\r\nOrigin: http://a.example\r\n",
    );
    assert_eq!(answer(&twice).1, End::Closed(CloseReason::BadUpgrade));
}

#[test]
fn compression_is_agreed_on_where_it_is_allowed() {
    let offer = "Sec-WebSocket-Extensions: foo\r\nSec-WebSocket-Extensions: permessage-deflate; \
                 server_max_window_bits=10\r\n";
    let mut settings = Settings::default();
    for path in ["/echo", "/rooms"] {
        for (allowed, window) in [(true, Window::new(10)), (false, None)] {
            settings.websocket.compression = allowed;
            let outcome = play_all(&handshake(path, offer), &context(&settings));
            let answer = String::from_utf8(outcome.out).unwrap();
            let said = "\r\nSec-WebSocket-Extensions: permessage-deflate; \
                        server_no_context_takeover; client_no_context_takeover; \
                        server_max_window_bits=10\r\n";
            assert_eq!(answer.contains(said), allowed, "{answer}");
            assert_eq!(answer.contains("Extensions"), allowed, "{answer}");
            let End::Upgraded(upgrade) = outcome.end else {
                panic!("{:?}", outcome.end);
            };
            assert_eq!(upgrade.window, window);
        }
    }
    let (_, end) = answer(&handshake("/echo", "Sec-WebSocket-Extensions: a=b\r\n"));
    assert_eq!(end, End::Closed(CloseReason::BadUpgrade));
}
