//! Clients that speak `rooms.v1.msgpack`, in rooms with others that speak JSON: all hear the same, in
//! one order, through deaths and moves.

use std::net::SocketAddr;

use harness::Baton;
use harness::faults::Faults;
use harness::rooms::{Client, MSGPACK, Position, SUBPROTOCOL, packed, unpacked};
use harness::socket::Options;
use harness::websocket::{Error, Message, WebSocket};
use serde_json::{Value, json};

const RETAIN: &str = "[[room]]\nmatch = \"chat.*\"\nhistory = 100\n";

fn batched(to: SocketAddr, subprotocol: &str) -> Client {
    Client::open(to, "/rooms?batch=1", subprotocol, Options::default())
}

/// The next message as it came: of a client that speaks JSON its text, of another its bytes.
#[track_caller]
fn raw(client: &mut Client) -> Vec<u8> {
    match client.socket.receive() {
        Ok(Message::Text(text)) => text.as_str().as_bytes().to_vec(),
        Ok(Message::Binary(bytes)) => bytes.to_vec(),
        other => panic!("no message: {other:?}"),
    }
}

/// `{"send":"r","data":…}`, with whatever bytes for data.
fn sending(data: &[u8]) -> Vec<u8> {
    [b"\x82\xa4send\xa1r\xa4data", data].concat()
}

#[track_caller]
fn ends_with(message: &[u8], end: &[u8]) {
    assert!(
        message.ends_with(end),
        "{} / {}",
        message.escape_ascii(),
        end.escape_ascii()
    );
}

#[test]
fn hello_is_said_in_what_was_chosen() {
    let baton = Baton::started();
    let client = Client::msgpack(baton.public);
    let named = client.socket.response.headers();
    assert_eq!(named.get("sec-websocket-protocol").unwrap(), MSGPACK);
    assert_eq!(
        client.hello["max"],
        json!({ "message": 65536, "rooms": 100 })
    );
    // Whoever offers others as well gets the first that is spoken here.
    let offer = "rooms.v9.cbor, rooms.v1.msgpack, rooms.v1.json";
    Client::open(baton.public, "/rooms", offer, Options::default()).nothing();
    let offer = [("Sec-WebSocket-Protocol", "rooms.v9.cbor")];
    let refused = WebSocket::try_connect(baton.public, "/rooms", &offer, Options::default());
    let Err(Error::Http(response)) = refused.map_err(|error| *error) else {
        panic!("it was taken");
    };
    let said = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
    assert_eq!(response.status(), 400);
    assert!(
        said.contains(SUBPROTOCOL) && said.contains(MSGPACK),
        "{said}"
    );
}

#[test]
fn all_members_hear_the_same() {
    let baton = Baton::started();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(baton.public));
        clients.push(Client::msgpack(baton.public));
    }
    let mut last = 0;
    for client in &mut clients {
        last = client.join("r").offset;
    }
    for round in 0..30_u64 {
        let data = json!({ "text": "häß 你好 🎉\n", "list": [round, -1, 0.1, null, true, {}, []] });
        let speaker = round as usize % clients.len();
        let sent = clients[speaker].publish("r", data.clone());
        last += 1;
        assert_eq!(sent.offset, last);
        let from = clients[speaker].cid().to_owned();
        for client in &mut clients {
            let message = client.message();
            assert_eq!(
                message,
                json!({ "room": "r", "pos": message["pos"], "from": from, "data": data })
            );
            assert_eq!(Position::parse(&message["pos"]), sent);
        }
    }
    // The one format and the other is gone from the room.
    for gone in [0, 1] {
        let mut rest = Vec::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            match number % 2 == gone {
                true => drop(client.ok(json!({ "leave": "r" }))),
                false => rest.push(client),
            }
        }
        let mut speaker = Client::msgpack(baton.public);
        speaker.publish("r", json!(gone));
        rest.iter_mut()
            .for_each(|client| assert_eq!(client.message()["data"], gone));
        clients = rest
            .into_iter()
            .map(|mut client| {
                client.nothing();
                client
            })
            .collect();
        let other = match gone {
            0 => Client::connect(baton.public),
            _ => Client::msgpack(baton.public),
        };
        clients.insert(0, other);
        clients[0].join("r");
    }
}

/// Who speaks the sender's format gets what it wrote, and not something that means the same.
#[test]
fn the_same_format_is_not_touched() {
    let baton = Baton::started();
    let (mut json, mut msgpack) = (Client::connect(baton.public), Client::msgpack(baton.public));
    json.join("r");
    msgpack.join("r");
    for (data, as_json) in [
        // One, in four ways.
        (&b"\x01"[..], "1"),
        (b"\xcf\0\0\0\0\0\0\0\x01", "1"),
        (b"\xca\x3f\x80\0\0", "1.0"),
        (b"\xcb\x3f\xf0\0\0\0\0\0\0", "1.0"),
        (
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            "18446744073709551615",
        ),
        (b"\xdb\0\0\0\x02\"\n", "\"\\\"\\n\""),
        (b"\xdc\0\x01\x80", "[{}]"),
        (b"\x82\xa1a\x01\xa1a\x02", "{\"a\":1,\"a\":2}"),
        (b"\xc4\x03\0\xff\x7f", "{\"$bin\":\"AP9/\"}"),
        (b"\x91\xc6\0\0\0\0", "[{\"$bin\":\"\"}]"),
    ] {
        msgpack.socket.binary(sending(data));
        ends_with(&raw(&mut msgpack), &[b"\xa4data", data].concat());
        ends_with(&raw(&mut json), format!(",\"data\":{as_json}}}").as_bytes());
    }
    for (data, as_msgpack) in [
        ("1", &b"\x01"[..]),
        (" [1 , 2]", b"\x92\x01\x02"),
        ("1.50", b"\xcb\x3f\xf8\0\0\0\0\0\0"),
        (
            "123456789012345678901234567890",
            b"\xcb\x45\xf8\xee\x90\xff\x6c\x37\x3e",
        ),
        ("\"\\u00e4\"", "\u{a2}ä".as_bytes().split_at(1).1),
        ("{\"$bin\":\"AP9/\"}", b"\xc4\x03\0\xff\x7f"),
        ("{\"$bin\":\"no base64\"}", b"\x81\xa4$bin\xa9no base64"),
    ] {
        json.socket
            .text(&format!("{{\"send\":\"r\",\"data\":{data}}}"));
        ends_with(
            &raw(&mut json),
            format!(",\"data\":{}}}", data.trim()).as_bytes(),
        );
        ends_with(&raw(&mut msgpack), as_msgpack);
    }
}

#[test]
fn everything_that_can_be_asked() {
    let baton = Baton::builder().config(RETAIN).start();
    for (mut sender, mut other) in [
        (Client::connect(baton.public), Client::msgpack(baton.public)),
        (Client::msgpack(baton.public), Client::connect(baton.public)),
    ] {
        let room = format!("chat.{}", sender.cid());
        let first = sender.publish(&room, json!({ "n": 0.5 }));
        for n in 1..10 {
            sender.publish(&room, json!({ "n": n }));
        }
        // A retry is known, whoever asks.
        let retry = json!({ "send": room, "key": "k", "data": "once" });
        assert_eq!(sender.ok(retry.clone()), sender.ok(retry));
        let since = first.to_string();
        other.tell(json!({ "id": "弾\"", "join": room, "since": since }));
        for n in 1..10 {
            assert_eq!(other.read()["data"], json!({ "n": n }));
        }
        assert_eq!(other.read()["data"], "once");
        let joined = other.read();
        assert_eq!(
            (&joined["id"], &joined["ok"]["recovered"]),
            (&json!("弾\""), &json!(true))
        );
        assert!(other.ok(json!({ "who": room }))["count"].is_u64());
        let page = other.ok(json!({ "history": room, "limit": 3 }))["messages"].clone();
        let data: Vec<&Value> = page
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["data"])
            .collect();
        assert_eq!(
            data,
            [&json!({ "n": 8 }), &json!({ "n": 9 }), &json!("once")]
        );
        let before = format!("{}:{}", first.epoch, first.offset + 1);
        let page = other.ok(json!({ "history": room, "before": before }))["messages"].clone();
        assert_eq!(page[0]["data"], json!({ "n": 0.5 }));
        let mut last = Client::msgpack(baton.public);
        last.tell(json!({ "id": 1, "join": room, "last": true }));
        assert_eq!(last.read()["data"], "once");
        assert_eq!(last.read()["id"], 1);
        assert!(other.ok(json!({ "ping": true }))["pid"].is_u64());
        other.ok(json!({ "leave": room }));
        assert_eq!(other.error(json!({ "leave": room })), "not_joined");
    }
}

/// An array of messages, in the format of each; alone each comes as it is.
#[test]
fn messages_that_come_together_come_in_one_frame() {
    let baton = Baton::builder().workers(1).config(RETAIN).start();
    let mut sender = Client::connect(baton.public);
    let first = sender.publish("chat.r", json!(0));
    for n in 1..40 {
        sender.publish("chat.r", json!(n));
    }
    let since = first.to_string();
    for subprotocol in [SUBPROTOCOL, MSGPACK] {
        let mut client = batched(baton.public, subprotocol);
        client.tell(json!({ "id": 1, "join": "chat.r", "since": since }));
        let batch = client.read();
        let data: Vec<&Value> = batch
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["data"])
            .collect();
        let missed: Vec<Value> = (1..40).map(Value::from).collect();
        assert_eq!(data, missed.iter().collect::<Vec<_>>());
        assert_eq!(client.read()["id"], 1);
        client.ok(json!({ "join": "r" }));
        sender.publish("r", json!("alone"));
        assert_eq!(client.read()["data"], "alone");
    }
}

#[test]
fn what_cannot_be_said_is_refused_and_answered() {
    let baton = Baton::started();
    let mut client = Client::msgpack(baton.public);
    let mut other = Client::connect(baton.public);
    other.join("r");
    for (data, word) in [
        (&b"\xd4\x05a"[..], "extension"),
        (b"\xcb\x7f\xf8\0\0\0\0\0\0", "finite"),
        (b"\x81\x01\x02", "key"),
        (b"\xa1\xff", "UTF-8"),
    ] {
        // More often than what closes a connection.
        for _ in 0..12 {
            client
                .socket
                .binary([b"\x83\xa2id\x07\xa4send\xa1r\xa4data", data].concat());
            let answer = client.read();
            assert_eq!(
                (&answer["id"], &answer["error"]["code"]),
                (&json!(7), &json!("bad_request"))
            );
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(word), "{message}");
        }
    }
    let controls = [&b"\xda\xff\0"[..], &[1; 0xff00]].concat();
    client.socket.binary(sending(&controls));
    assert_eq!(client.read()["error"]["code"], "too_large");
    other.nothing();
    client.nothing();

    for (subprotocol, garbage) in [(MSGPACK, &b"\xc1"[..]), (MSGPACK, b"\xdd\xff\xff\xff\xff")] {
        let mut client = Client::open(baton.public, "/rooms", subprotocol, Options::default());
        for _ in 0..10 {
            client.socket.binary(garbage.to_vec());
            let error = client.read()["error"].clone();
            assert_eq!(
                (&error["code"], &error["message"]),
                (&json!("bad_request"), &json!("not MessagePack"))
            );
        }
        assert_eq!(client.close_code(), 1008);
    }
    let mut client = Client::msgpack(baton.public);
    client.socket.text("{\"id\":1,\"ping\":true}");
    assert_eq!(client.close_code(), 1003);
    let mut client = Client::connect(baton.public);
    client
        .socket
        .binary(packed(&json!({ "id": 1, "ping": true })));
    assert_eq!(client.close_code(), 1003);
}

/// Members that read little at once, so that frames are cut, while brains die at the steps between
/// writing and noting it: what the next brain makes of the log goes on at the very byte.
#[test]
fn frames_that_are_partly_written_are_made_again() {
    let faults = Faults::new();
    let config = "[rooms]\nslow_bytes = \"16 MiB\"\n[limits]\nshort_lives = 1000\n";
    let baton = faults.builder().workers(1).config(config).start();
    let options = Options {
        receive_buffer: Some(16 << 10),
        ..Options::default()
    };
    let mut members: Vec<Client> = [MSGPACK, SUBPROTOCOL, MSGPACK]
        .map(|subprotocol| Client::open(baton.public, "/rooms", subprotocol, options))
        .into();
    members.iter_mut().for_each(|member| drop(member.join("r")));
    let mut publishers = [Client::connect(baton.public), Client::msgpack(baton.public)];
    let data = |n: u64| json!({ "n": n, "v": (0..3000).map(|i| n as f64 + i as f64 / 8.0).collect::<Vec<_>>() });
    let points = [
        "worker:write-part",
        "worker:cut",
        "worker:catch-up",
        "worker:materialise",
    ];
    let (mut sent, mut heard) = (0, 0);
    for point in points {
        faults.arm(point, 2);
        // More than sockets take.
        for _ in 0..150 {
            publishers[sent as usize % 2].publish("r", data(sent));
            sent += 1;
        }
        while heard < sent {
            for member in &mut members {
                let message = member.message();
                assert_eq!(message["data"]["n"], heard, "{point}");
                assert!(message["data"] == data(heard), "{point}: message {heard}");
            }
            heard += 1;
        }
        assert!(faults.is_reached(point), "{point}");
    }
    members.iter_mut().for_each(Client::nothing);
}

/// The same in the middle of frames, through reloads: bytes that wait go along.
#[test]
fn frames_that_are_partly_written_move() {
    let config = "[rooms]\nslow_bytes = \"16 MiB\"\n";
    let baton = Baton::builder().config(config).start();
    let options = Options {
        receive_buffer: Some(16 << 10),
        ..Options::default()
    };
    let mut member = Client::open(baton.public, "/rooms", MSGPACK, options);
    member.join("r");
    let mut publisher = Client::connect(baton.public);
    let data = |n: u64| json!([n, "x".repeat(30_000), vec![0.5; 1000]]);
    let mut heard = 0;
    for round in 1..4 {
        for n in heard..round * 100 {
            publisher.publish("r", data(n));
        }
        let before = member.ok(json!({ "ping": true }))["pid"].clone();
        baton.expect(&["reload"], 0);
        while heard < round * 100 {
            assert!(member.message()["data"] == data(heard), "message {heard}");
            heard += 1;
        }
        assert_ne!(
            member.ok(json!({ "ping": true }))["pid"].clone(),
            before,
            "it has moved"
        );
    }
    member.nothing();
}

/// What a client that does not read has lost is said, in its own format and in the right place.
#[test]
fn a_slow_reader_is_told_what_it_lost() {
    let config = "[rooms]\nslow_bytes = \"128 KiB\"\n";
    let baton = Baton::builder().workers(1).config(config).start();
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut slow = Client::open(baton.public, "/rooms", MSGPACK, options);
    let mut next = slow.join("r").offset + 1;
    let mut swift = Client::connect(baton.public);
    for _ in 0..400 {
        swift.publish("r", json!("x".repeat(20_000)));
    }
    let last = swift.publish("r", json!("end")).offset;
    baton.kill_brain(1);
    let mut gaps = 0;
    while next <= last {
        let event = slow.event();
        let gap = &event["gap"];
        if gap.is_object() {
            assert_eq!((&event["room"], &gap["why"]), (&json!("r"), &json!("slow")));
            assert_eq!(Position::parse(&gap["from"]).offset, next);
            next = Position::parse(&gap["to"]).offset + 1;
            gaps += 1;
        } else {
            assert_eq!(Position::parse(&event["pos"]).offset, next);
            next += 1;
        }
    }
    assert!(gaps > 0, "everything was kept for it");
    slow.nothing();
}

#[test]
fn goodbye_is_said_in_what_is_spoken() {
    let baton = Baton::started();
    let mut client = Client::msgpack(baton.public);
    let stopping = std::thread::scope(|scope| {
        let stop = scope.spawn(|| baton.run(&["stop"]));
        let said = unpacked(&raw(&mut client));
        assert!(said["bye"]["retry_after_ms"].is_u64(), "{said}");
        assert_eq!(client.close_code(), 1001);
        stop.join().expect("it ends")
    });
    assert!(stopping.status.success());
}
