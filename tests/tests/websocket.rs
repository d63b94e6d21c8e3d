//! WebSocket over real sockets: `/echo`, and what peers do wrong. Autobahn's cases are run beside.

use std::io::Write;
use std::time::{Duration, Instant};

use harness::socket::Options;
use harness::websocket::{Error, Raw, WebSocket, frame, handshake};
use harness::{Baton, http, process};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;

#[test]
fn messages_of_every_size_come_back() {
    let baton = Baton::started();
    let mut socket = Raw::connect(baton.public, "/echo");
    for size in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let message = frame(BINARY, &bytes);
        // All of it is sent before any of it is read.
        socket.send(&message).unwrap();
        let (opcode, echo) = socket.message();
        assert_eq!(opcode, 2);
        assert!(echo == bytes, "{size} bytes were altered");
    }
    let mut socket = WebSocket::connect(baton.public, "/echo");
    socket.text("häß 你好 🎉");
    assert_eq!(socket.receive_text(), "häß 你好 🎉");
    socket.close();
}

#[test]
fn a_message_above_the_limit_is_closed_1009() {
    let baton = Baton::builder()
        .config("[websocket]\necho_max_message = \"1 KiB\"\n")
        .start();
    let mut socket = Raw::connect(baton.public, "/echo");
    // The head of the frame is enough to know.
    socket.send(&frame(BINARY, &[7; 1025])[..8]).unwrap();
    assert_eq!(socket.close_code(), 1009);
    // Also in parts.
    let mut socket = Raw::connect(baton.public, "/echo");
    socket.send(&frame(0x02, &[7; 1000])).unwrap();
    socket.send(&frame(0x80, &[7; 25])).unwrap();
    assert_eq!(socket.close_code(), 1009);
}

#[test]
fn faults_are_closed_with_their_code() {
    let baton = Baton::started();
    let mut unmasked = frame(TEXT, b"hi");
    unmasked[1] &= 0x7f;
    for (what, bytes, code) in [
        ("unmasked", unmasked, 1002),
        ("a reserved bit", frame(0xC1, b"hi"), 1002),
        ("a reserved opcode", frame(0x83, b"hi"), 1002),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), 1002),
        ("a fragmented ping", frame(0x09, b"hi"), 1002),
        ("a continuation of nothing", frame(0x80, b"hi"), 1002),
        (
            "a message inside of another",
            [frame(0x01, b"hi"), frame(TEXT, b"hi")].concat(),
            1002,
        ),
        ("a Close of one byte", frame(0x88, b"x"), 1002),
        (
            "a Close with a code that is not sent",
            frame(0x88, &1006u16.to_be_bytes()),
            1002,
        ),
        ("text that is not UTF-8", frame(TEXT, b"\xff"), 1007),
        // Before the message has ended.
        (
            "text that will not be UTF-8",
            frame(0x01, b"h\xc3\x28"),
            1007,
        ),
        (
            "a reason that is not UTF-8",
            frame(0x88, b"\x03\xe8\xff"),
            1007,
        ),
    ] {
        let mut socket = Raw::connect(baton.public, "/echo");
        socket.send(&bytes).unwrap();
        assert_eq!(socket.close_code(), code, "{what}");
    }
}

#[test]
fn a_close_is_answered_with_its_code() {
    let baton = Baton::started();
    for (payload, code) in [
        (&b""[..], 1005),
        (b"\x03\xe8", 1000),
        (b"\x0f\xa0bye", 4000),
    ] {
        let mut socket = Raw::connect(baton.public, "/echo");
        socket.send(&frame(0x88, payload)).unwrap();
        assert_eq!(socket.close_code(), code);
        assert!(socket.frame().is_err(), "something came behind the Close");
    }
}

#[test]
fn fragments_with_a_ping_between_come_back_whole() {
    let baton = Baton::started();
    let mut socket = Raw::connect(baton.public, "/echo");
    let parts = [
        frame(0x01, b"one "),
        frame(PING, b"inside"),
        frame(0x00, b""),
        frame(0x80, b"two"),
    ];
    for byte in parts.concat() {
        socket.send(&[byte]).unwrap();
    }
    // The parts may come back as parts, the pong wherever between them.
    let (mut text, mut pongs) = (Vec::new(), 0);
    loop {
        let (first, payload) = socket.frame().unwrap();
        if first == 0x8A {
            assert_eq!(payload, b"inside");
            pongs += 1;
            continue;
        }
        text.extend(payload);
        if first & 0x80 != 0 {
            break;
        }
    }
    assert_eq!((text.as_slice(), pongs), (&b"one two"[..], 1));
}

#[test]
fn as_many_fragments_as_allowed_and_no_more() {
    let baton = Baton::builder()
        .config("[websocket]\nmax_fragments = 1000\n")
        .start();
    for (empty, expected) in [(998, None), (1000, Some(1008))] {
        let mut socket = Raw::connect(baton.public, "/echo");
        let mut bytes = frame(0x01, b"x");
        bytes.extend(frame(0x00, b"").repeat(empty));
        bytes.extend(frame(0x80, b"y"));
        let _ = socket.send(&bytes);
        match expected {
            None => assert_eq!(socket.message(), (1, b"xy".to_vec())),
            Some(code) => assert_eq!(socket.close_code(), code),
        }
    }
}

#[test]
fn a_flood_of_pings_is_closed_1008() {
    let baton = Baton::builder()
        .config("[websocket]\nmax_pings = 100\n")
        .start();
    let mut socket = Raw::connect(baton.public, "/echo");
    socket.send(&frame(PING, b"").repeat(100)).unwrap();
    for _ in 0..100 {
        assert_eq!(socket.frame().unwrap().0, 0x8A);
    }
    // Data in between, and all is well again.
    socket.send(&frame(TEXT, b"hi")).unwrap();
    assert_eq!(socket.frame().unwrap(), (TEXT, b"hi".to_vec()));
    let _ = socket.send(&frame(PING, b"").repeat(200));
    assert_eq!(socket.close_code(), 1008);
}

#[test]
fn the_dead_are_found_by_ping() {
    let baton = Baton::builder()
        .config("[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n")
        .start();
    // One that answers, as clients do by themselves when they read, stays.
    let mut alive = WebSocket::connect(baton.public, "/echo");
    let mut dead = Raw::connect(baton.public, "/echo");
    assert_eq!(dead.frame().unwrap().0, PING);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        alive.text("still here");
        assert_eq!(alive.receive_text(), "still here");
    }
    assert_eq!(dead.close_code(), 1001);
    alive.text("and now");
    assert_eq!(alive.receive_text(), "and now");
}

#[test]
fn who_does_not_answer_a_close_is_closed_in_time() {
    let baton = Baton::builder()
        .config("[websocket]\nclose_timeout = \"300ms\"\n")
        .start();
    let mut socket = Raw::connect(baton.public, "/echo");
    socket.send(&frame(0x80, b"out of place")).unwrap();
    assert_eq!(socket.close_code(), 1002);
    // The Close is not answered; the end comes all the same.
    assert!(socket.frame().is_err());
    baton.status_when("the connection is gone", |status| {
        status.workers.iter().all(|worker| worker.connections == 0)
    });
}

#[test]
fn who_reads_nothing_is_bounded_and_closed() {
    let baton = Baton::builder()
        .workers(1)
        .config("[websocket]\nwrite_timeout = \"1s\"\n")
        .start();
    let worker = baton.status().worker(1).pid;
    let before = process::resident(worker);
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut socket = Raw::connect_with(baton.public, "/echo", options);
    socket
        .stream
        .set_write_timeout(Some(harness::DEADLINE))
        .unwrap();
    // What comes after the end has been decided is read and thrown away, for a while.
    let message = frame(BINARY, &vec![7; 1 << 20]);
    let start = Instant::now();
    while socket.send(&message).is_ok() {
        assert!(start.elapsed() < harness::DEADLINE, "everything is taken");
    }
    // A message, its echo, and what the kernel holds.
    let grown = process::resident(worker).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    baton.status_when("the connection is gone", |status| {
        status.worker(1).connections == 0
    });
    baton.wait_for_log("worker-1", "write_timeout");
}

#[test]
fn upgrades_that_are_refused() {
    let baton = Baton::started();
    let refused = |fields: &[(&str, &str)], path: &str| -> u16 {
        match WebSocket::try_connect(baton.public, path, fields, Options::default())
            .map_err(|error| *error)
        {
            Err(Error::Http(response)) => response.status().as_u16(),
            other => panic!("{fields:?}: {other:?}"),
        }
    };
    assert_eq!(refused(&[], "/nowhere"), 404);
    assert_eq!(
        refused(&[("Origin", "http://elsewhere.example")], "/echo"),
        403
    );
    assert_eq!(
        refused(&[("Sec-WebSocket-Protocol", "chat.v9")], "/rooms"),
        400
    );
    for (field, by, status) in [
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Key: short",
            400,
        ),
    ] {
        let mut client = http::Client::connect(baton.public);
        client
            .send(handshake(baton.public, "/echo").replace(field, by))
            .unwrap();
        let response = client.response().unwrap();
        assert_eq!(response.status, status, "{by}");
        if status == 426 {
            assert_eq!(response.field("sec-websocket-version"), Some("13"));
        }
    }
}

#[test]
fn origins_that_are_allowed() {
    let baton = Baton::builder()
        .config("[websocket]\norigins = [\"https://good.example\"]\n")
        .start();
    let open = |origin: &str| {
        WebSocket::try_connect(
            baton.public,
            "/echo",
            &[("Origin", origin)],
            Options::default(),
        )
    };
    assert!(open("https://good.example").is_ok());
    assert!(open("https://bad.example").is_err());
    let own = Baton::started();
    let origin = format!("http://{}", own.public);
    let same = WebSocket::try_connect(
        own.public,
        "/echo",
        &[("Origin", &origin)],
        Options::default(),
    );
    assert!(same.is_ok(), "{same:?}");
}

#[test]
fn frames_behind_the_handshake_are_not_lost() {
    use std::io::Read;
    let baton = Baton::started();
    let mut stream = harness::socket::connect(baton.public).unwrap();
    let mut bytes = handshake(baton.public, "/echo").into_bytes();
    bytes.extend(frame(TEXT, b"early"));
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"early") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
}
