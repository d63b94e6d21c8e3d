//! Compressed messages (permessage-deflate): agreed on, sent and taken, beside others, through deaths
//! and moves; and those that say far more than they are long. Traffic of other tests is compressed in
//! part, too.

use std::io::Write;
use std::time::{Duration, Instant};

use harness::back_end::BackEnd;
use harness::deflate::{deflate, frames};
use harness::faults::Faults;
use harness::rooms::{self, Position};
use harness::socket::Options;
use harness::traffic::{Random, Traffic};
use harness::websocket::{Raw, WebSocket, frame, handshake};
use harness::{Baton, process};
use serde_json::{Value, json};

/// FIN, RSV1 and a text.
const TEXT: u8 = 0xc1;

const OFFER: &str = "permessage-deflate; client_max_window_bits";

fn echo(baton: &Baton) -> WebSocket {
    WebSocket::deflated(baton.public, "/echo", &[], Options::default())
}

/// Text in which some words come again, `len` bytes of it.
fn prose(random: &mut Random, len: usize) -> String {
    let words: Vec<String> = (0..40)
        .map(|_| format!("{:x} ", random.below(1 << 30)))
        .collect();
    let mut text = String::new();
    while text.len() < len {
        text += &words[random.below(40)];
    }
    text.truncate(len);
    text
}

/// 60 KB that become half as long.
fn digits(random: &mut Random) -> String {
    let digits = (0..3750).map(|_| format!("{:016x}", random.below(usize::MAX)));
    digits.collect()
}

#[test]
fn messages_of_every_size_come_back() {
    let baton = Baton::started();
    let mut socket = echo(&baton);
    let mut random = Random::new(5);
    let mut sent = 0;
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20] {
        let text = prose(&mut random, size);
        let noise: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
        socket.text(&text);
        assert!(socket.receive_text() == text, "{size} bytes of text");
        socket.binary(noise.clone());
        let echoed = socket.receive().expect("an echo").into_data();
        assert!(echoed == noise, "{size} bytes");
        sent += 2;
    }
    assert_eq!(socket.compressed(), sent, "they come as they went");
    socket.close();
}

#[test]
fn what_is_offered_is_taken_where_it_can_be() {
    let baton = Baton::started();
    let none = "x-unknown, permessage-deflate; unknown=1";
    for (offer, window) in [
        ("permessage-deflate", 15),
        ("permessage-deflate; server_no_context_takeover", 15),
        (
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=15",
            15,
        ),
        ("permessage-deflate; server_max_window_bits=9", 9),
        (
            "x-unknown, permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10",
            10,
        ),
    ] {
        let mut random = Random::new(6);
        let connect = |path: &str| {
            let options = Options::default();
            WebSocket::deflated_as(baton.public, path, &[], options, offer, window)
        };
        let mut socket = connect("/echo");
        // The client inflates with the window that it has asked for.
        for size in [100, 512, 513, 1024, 5000, 70_000] {
            let text = prose(&mut random, size);
            socket.text(&text);
            assert_eq!(socket.receive_text(), text, "{offer}: {size}");
        }
        let most = 1 << window;
        let compressed = [100, 512, 513, 1024, 5000, 70_000]
            .iter()
            .filter(|n| **n <= most || window == 15);
        assert_eq!(socket.compressed(), compressed.count(), "{offer}");
        let mut member = rooms::Client::greet(connect("/rooms"));
        let mut other = rooms::Client::connect(baton.public);
        member.join(offer);
        for size in [100, 400, 5000] {
            let data = json!(prose(&mut random, size));
            other.publish(offer, data.clone());
            assert_eq!(member.message()["data"], data);
        }
    }
    let refused = |offer: &str, status: &str| {
        let request = handshake(baton.public, "/echo");
        let fields = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
        let mut stream = harness::socket::connect(baton.public).unwrap();
        stream
            .write_all(request.replacen("\r\n\r\n", &fields, 1).as_bytes())
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with(status), "{head}");
        assert!(!head.contains("Extensions"), "{head}");
    };
    refused(none, "HTTP/1.1 101 ");
    refused("permessage-deflate; =", "HTTP/1.1 400 ");
    let baton = Baton::builder()
        .config("websocket.compression = false\n")
        .start();
    let plain = WebSocket::try_connect(
        baton.public,
        "/echo",
        &[("Sec-WebSocket-Extensions", OFFER)],
        Options::default(),
    );
    let response = plain.expect("it is opened").response;
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
}

#[test]
fn faults_are_closed_with_their_code() {
    let baton = Baton::builder()
        .config("websocket.echo_max_message = \"1 MiB\"\nrooms.max_data = \"4 KiB\"\n")
        .start();
    let hello = deflate(b"hello", 6);
    let large = |len| frame(TEXT, &deflate(&vec![b'x'; len], 6));
    let cases: &[(&str, Vec<u8>, u16)] = &[
        ("RSV1 on a ping", frame(0xc9, b""), 1002),
        ("RSV1 on a Close", frame(0xc8, b""), 1002),
        (
            "RSV1 on a continuation",
            [frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])].concat(),
            1002,
        ),
        (
            "RSV1 on the continuation of a plain message",
            [frame(0x01, b"hel"), frame(0xc0, b"lo")].concat(),
            1002,
        ),
        ("RSV2", frame(0xa1, b"hello"), 1002),
        ("what is no deflate", frame(TEXT, b"\xff\xff\xff"), 1007),
        ("what is cut", frame(TEXT, &hello[..4]), 1007),
        (
            "what is no UTF-8",
            frame(TEXT, &deflate(b"\xc3\x28", 6)),
            1007,
        ),
        (
            "what ends in a character",
            frame(TEXT, &deflate(b"x\xc3", 6)),
            1007,
        ),
        (
            "what is too long when it is inflated",
            large((1 << 20) + 1),
            1009,
        ),
        ("what is far too long", large(32 << 20), 1009),
        (
            "what is too long as it comes",
            frame(TEXT, &vec![0; (1 << 20) + (1 << 17) + 65]),
            1009,
        ),
    ];
    for path in ["/echo", "/rooms"] {
        for (what, bytes, code) in cases {
            let mut raw = Raw::deflated(baton.public, path);
            raw.send(bytes).unwrap_or_default();
            assert_eq!(raw.close_code(), *code, "{path}: {what}");
        }
    }
    // What it was not agreed on.
    let mut raw = Raw::connect(baton.public, "/echo");
    raw.send(&frame(TEXT, &hello)).unwrap();
    assert_eq!(raw.close_code(), 1002);
    // And what is good: nothing, and as much as may be.
    let mut raw = Raw::deflated(baton.public, "/echo");
    for text in [&b""[..], &vec![b'x'; 1 << 20]] {
        raw.send(&frame(TEXT, &deflate(text, 6))).unwrap();
        assert!(raw.inflated() == text);
    }
}

/// Some kilobytes say megabytes, many times, from many: others are served meanwhile, and no memory is
/// taken for it.
#[test]
fn bombs_hold_up_nobody() {
    let baton = Baton::builder().workers(1).start();
    let brain = baton.status().workers[0].pid;
    let before = process::resident(brain);
    // 16 MiB are just allowed at /echo; a few KiB more than that are not.
    let payload = deflate(&vec![b'x'; 16 << 20], 9);
    let long = frame(TEXT, &payload);
    let too_long = frame(TEXT, &deflate(&vec![b'x'; (16 << 20) + 4096], 9));
    let in_rooms = frame(
        TEXT,
        &deflate(
            format!("{{\"ping\":true,\"x\":\"{}\"}}", "x".repeat(60_000)).as_bytes(),
            9,
        ),
    );
    let (mut bombers, mut floods) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut raw = Raw::deflated(baton.public, "/echo");
        raw.send(&long.repeat(8)).unwrap();
        raw.send(&too_long).unwrap();
        bombers.push(raw);
        let mut raw = Raw::deflated(baton.public, "/rooms");
        raw.send(&in_rooms.repeat(1000)).unwrap();
        floods.push(raw);
    }
    let mut plain = WebSocket::connect(baton.public, "/echo");
    let mut member = rooms::Client::deflated(baton.public);
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let begin = Instant::now();
        plain.text("still there?");
        assert_eq!(plain.receive_text(), "still there?");
        member.ok(json!({ "ping": true }));
        longest = longest.max(begin.elapsed());
    }
    // Without a bound it takes seconds: these programs are not optimised.
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    for mut raw in bombers {
        for _ in 0..8 {
            // As it came.
            assert!(raw.frame().unwrap() == (TEXT, payload.clone()));
        }
        assert_eq!(raw.close_code(), 1009);
    }
    let status = baton.status();
    assert_eq!(status.workers[0].pid, brain);
    let more = process::resident(brain).saturating_sub(before);
    assert!(more < 24 << 20, "{more} bytes more");
}

/// In one room, each in its own way: all hear the same.
#[test]
fn members_hear_the_same_compressed_or_not() {
    let config = "[[room]]\nmatch = \"*\"\nhistory = 50\n";
    let baton = Baton::builder().workers(2).config(config).start();
    let small = "permessage-deflate; server_max_window_bits=9";
    let connect = |path: &str, offer: &str, window| {
        let options = Options::default();
        rooms::Client::greet(WebSocket::deflated_as(
            baton.public,
            path,
            &[],
            options,
            offer,
            window,
        ))
    };
    let mut members = vec![
        rooms::Client::connect(baton.public),
        rooms::Client::deflated(baton.public),
        rooms::Client::deflated(baton.public),
        connect("/rooms", small, 9),
    ];
    let joined: Vec<_> = members.iter_mut().map(|member| member.join("r")).collect();
    let mut random = Random::new(8);
    let all: Vec<Value> = [0, 10, 100, 200, 300, 1000, 10_000, 60_000]
        .into_iter()
        .map(|len| json!({ "text": prose(&mut random, len), "n": len }))
        .collect();
    for (number, data) in all.iter().enumerate() {
        let sender = number % members.len();
        let sent = members[sender].publish("r", data.clone());
        for member in &mut members {
            let message = member.message();
            assert_eq!((&message["data"], &message["room"]), (data, &json!("r")));
            assert_eq!(Position::parse(&message["pos"]), sent);
        }
    }
    let compressed: Vec<_> = members.iter().map(|m| m.socket.compressed()).collect();
    assert_eq!(compressed, [0, 5, 5, 0], "those of 256 bytes and more");
    // What it retains, in one answer; and what was missed.
    for member in &mut members {
        let page = member.ok(json!({ "history": "r", "limit": 50 }));
        let datas: Vec<_> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["data"])
            .collect();
        assert_eq!(datas, all.iter().collect::<Vec<_>>());
    }
    assert_eq!(members[1].socket.compressed(), 6);
    let mut back = connect("/rooms?batch=1", OFFER, 15);
    let since = format!("{}:{}", joined[0].epoch, joined[0].offset);
    back.tell(json!({ "id": 1, "join": "r", "since": since }));
    let missed = back.read();
    assert_eq!(missed.as_array().map(Vec::len), Some(all.len()));
    assert_eq!(back.socket.compressed(), 1, "all of it as one");
    let mut back = rooms::Client::deflated(baton.public);
    back.tell(json!({ "id": 1, "join": "r", "since": since }));
    for data in &all {
        assert_eq!(back.message()["data"], *data);
    }
    assert_eq!(back.reply(&json!(1))["ok"]["recovered"], true);
    assert_eq!(back.socket.compressed(), 5);
}

/// By the level that is set, by the brains to come, too.
#[test]
fn messages_are_compressed_as_configured() {
    let mut random = Random::new(11);
    let text = prose(&mut random, 60_000);
    let [fast, small] = [1, 9].map(|level| {
        let config = format!("websocket.compress_level = {level}\n");
        let baton = Baton::builder().workers(1).config(&config).start();
        let mut raw = Raw::deflated(baton.public, "/rooms");
        raw.send(&frame(0x81, br#"{"id":1,"join":"r"}"#)).unwrap();
        let (_hello, _joined) = (raw.frame().unwrap(), raw.frame().unwrap());
        let mut publisher = rooms::Client::connect(baton.public);
        let mut delivered = || {
            publisher.publish("r", json!(text));
            let mut frames = std::iter::repeat_with(|| raw.frame().expect("a frame").1.len());
            frames
                .find(|len| *len > 1000)
                .expect("there is always another")
        };
        let first = delivered();
        baton.kill_brain(1);
        assert!(
            delivered().abs_diff(first) < 10,
            "the next brain does the same"
        );
        first
    });
    assert!(small < fast * 9 / 10, "{small} beside {fast} bytes");
}

/// A message comes byte by byte, between deaths and reloads, and is inflated from its start.
#[test]
fn a_message_goes_on_wherever_it_was() {
    let config = "limits.short_lives = 1000\n";
    let baton = Baton::builder().workers(1).config(config).start();
    let mut random = Random::new(9);
    let text = prose(&mut random, 4000);
    let payload = deflate(text.as_bytes(), 6);
    let mut raw = Raw::deflated(baton.public, "/echo");
    let mut member = rooms::Client::deflated(baton.public);
    let joined = member.join("r");
    let publish = json!({ "send": "r", "data": text }).to_string();
    let mut client = Raw::deflated(baton.public, "/rooms");
    let published = deflate(publish.as_bytes(), 6);
    for round in 0..8 {
        // In three frames, cut somewhere else each time.
        let echo = frames(TEXT, &payload, 3 * (1 + 100 * round));
        let send = frames(TEXT, &published, 3 * (2 + 90 * round));
        let cut = 1 + random.below(echo.len().min(send.len()) - 1);
        raw.send(&echo[..cut]).unwrap();
        client.send(&send[..cut]).unwrap();
        match round % 3 {
            0 => _ = baton.expect(&["reload"], 0),
            _ => baton.kill_brain(1),
        }
        raw.send(&echo[cut..]).unwrap();
        client.send(&send[cut..]).unwrap();
        assert!(raw.inflated() == text.as_bytes());
        let message = member.message();
        assert_eq!(message["data"], json!(text));
        assert_eq!(
            Position::parse(&message["pos"]).offset,
            joined.offset + 1 + round as u64
        );
    }
}

/// A member whose socket takes little: frames are cut, and their rest is the next brain's to write.
fn dies_while_a_member_reads_slowly(point: &str, passes: &[u64]) {
    let faults = Faults::new();
    let config = "limits.short_lives = 1000\n[rooms]\nslow_bytes = \"16 MiB\"\n";
    let baton = faults.builder().workers(1).config(config).start();
    let options = Options {
        receive_buffer: Some(64 << 10),
        ..Options::default()
    };
    let mut slow = rooms::Client::deflated_with(baton.public, options);
    let mut sender = rooms::Client::deflated(baton.public);
    let mut next = slow.join("r").offset + 1;
    let mut random = Random::new(12);
    let (mut sent, mut said) = (0, Vec::new());
    for passes in passes {
        faults.arm(point, *passes);
        while !faults.is_reached(point) {
            for _ in 0..20 {
                let data = json!({ "n": sent, "text": digits(&mut random) });
                sender.tell(json!({ "send": "r", "data": data }));
                said.push(data);
                sent += 1;
            }
            // When that was more than its socket takes, it reads all, and can be cut again.
            let all = if said.len() > 150 { said.len() } else { 0 };
            for data in said.drain(..all) {
                let message = slow.message();
                assert!(message["data"] == data, "{}", message["data"]["n"]);
                assert_eq!(Position::parse(&message["pos"]).offset, next);
                next += 1;
            }
        }
    }
    for data in said {
        let message = slow.message();
        assert!(message["data"] == data, "{}", message["data"]["n"]);
        assert_eq!(Position::parse(&message["pos"]).offset, next);
        next += 1;
    }
    assert_eq!(slow.socket.compressed(), sent);
}

#[test]
fn worker_wrote_a_part_and_did_not_note_it() {
    dies_while_a_member_reads_slowly("worker:write-part", &[1, 2, 1]);
}

#[test]
fn worker_cut_a_frame_and_did_not_commit_the_rest() {
    dies_while_a_member_reads_slowly("worker:cut", &[1, 2]);
}

#[test]
fn worker_made_bytes_of_what_waits_and_did_not_commit_them() {
    dies_while_a_member_reads_slowly("worker:materialise", &[1, 3, 6]);
}

#[test]
fn worker_wrote_to_one_that_lags_and_did_not_note_it() {
    dies_while_a_member_reads_slowly("worker:catch-up", &[1, 4, 7]);
}

/// Traffic of which a part is compressed, while brains die around each of its steps.
#[test]
fn worker_in_the_middle_of_its_steps() {
    let faults = Faults::new();
    let baton = faults
        .builder()
        .config("limits.short_lives = 1000\n")
        .start();
    let traffic = Traffic::start(baton.public);
    traffic.go_on(2);
    for point in [
        "worker:read",
        "worker:step",
        "worker:commit",
        "worker:write",
        "worker:written",
    ] {
        for passes in [1, 5, 11] {
            faults.arm(point, passes);
            faults.wait_for(point);
            traffic.go_on(2);
        }
    }
    baton.expect(&["reload"], 0);
    traffic.go_on(2);
    traffic.stop();
}

/// Who reads too slowly, and would need far less if all of it were read.
#[test]
fn a_slow_member_is_told_what_it_lost() {
    for (policy, batch) in [("gap", false), ("gap", true), ("close", false)] {
        let config = format!("[rooms]\nslow_bytes = \"128 KiB\"\nslow = \"{policy}\"\n");
        let baton = Baton::builder().workers(1).config(&config).start();
        let options = Options {
            receive_buffer: Some(4096),
            ..Options::default()
        };
        let path = match batch {
            true => "/rooms?batch=1",
            false => "/rooms",
        };
        let socket = WebSocket::deflated(baton.public, path, &[], options);
        let mut slow = rooms::Client::greet(socket);
        let mut swift = rooms::Client::connect(baton.public);
        let mut next = slow.join("r").offset + 1;
        let mut random = Random::new(13);
        // More than a socket takes, also when it is compressed.
        for _ in 0..200 {
            swift.publish("r", json!(digits(&mut random)));
        }
        let last = swift.publish("r", json!("end")).offset;
        if policy == "close" {
            assert_eq!(slow.close_code(), 4101);
            continue;
        }
        let mut gaps = 0;
        while next <= last {
            let read = slow.read();
            let events = match read {
                Value::Array(events) => events,
                event => vec![event],
            };
            for event in events {
                let (from, to) = match event["gap"].is_object() {
                    true => (&event["gap"]["from"], &event["gap"]["to"]),
                    false => (&event["pos"], &event["pos"]),
                };
                gaps += usize::from(event["gap"].is_object());
                assert_eq!(Position::parse(from).offset, next, "{policy} {batch}");
                next = Position::parse(to).offset + 1;
            }
        }
        assert!(gaps > 0, "{policy} {batch}: everything was kept for it");
        assert!(slow.socket.compressed() > 0);
    }
}

/// What is compressed and what is not, in one breath, each of which a back end decides: it is told of
/// each, and of none for another, though the brain dies while it thinks.
#[test]
fn a_back_end_decides_about_each() {
    let back_end = BackEnd::start(|event| {
        let bad = event["data"].to_string().contains("bad");
        json!({ "allow": !bad })
    });
    let config = format!("[[hook]]\nurl = \"{}\"\non = [\"send\"]\n", back_end.url());
    let baton = Baton::builder().workers(1).config(&config).start();
    let mut member = rooms::Client::deflated(baton.public);
    member.join("r");
    let mut raw = Raw::deflated(baton.public, "/rooms");
    back_end.hold();
    let datas = ["one", "bad two", "three", "bad four", "five", "six"];
    let mut bytes = Vec::new();
    for (number, data) in datas.iter().enumerate() {
        let text = json!({ "send": "r", "data": data }).to_string();
        bytes.extend(match number {
            1 | 2 | 5 => frame(0x81, text.as_bytes()),
            _ => frames(TEXT, &deflate(text.as_bytes(), 6), number),
        });
    }
    raw.send(&bytes).unwrap();
    back_end.wait_for("the first is asked about", 1, |event| {
        event["data"] == "one"
    });
    baton.kill_brain(1);
    back_end.release();
    for data in datas.iter().filter(|data| !data.contains("bad")) {
        assert_eq!(member.message()["data"], json!(data));
    }
    member.nothing();
    let asked = back_end.events();
    for data in datas {
        assert!(asked.iter().any(|event| event["data"] == data), "{data}");
    }
}
