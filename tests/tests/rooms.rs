//! Rooms: what is said on one worker is heard on all, in one order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::thread;

use harness::rooms::{Client, Position};
use harness::socket::Options;
use harness::websocket::{Message, WebSocket, frame};
use harness::{Baton, eventually, http, process};
use serde_json::{Value, json};

/// FIN and the opcode.
const TEXT: u8 = 0x81;

/// One client on each of the workers 1 and 2.
fn one_on_each(to: SocketAddr) -> (Client, Client) {
    (Client::on_worker(to, 1), Client::on_worker(to, 2))
}

#[test]
fn hello_says_what_a_client_must_know() {
    let baton = Baton::started();
    let client = Client::connect(baton.public);
    assert!(client.cid().starts_with('c'), "{}", client.hello);
    assert!([1, 2].contains(&client.worker()));
    assert_eq!(client.hello["ping"], 25);
    assert_eq!(
        client.hello["max"],
        json!({ "message": 65536, "rooms": 100 })
    );
    let subprotocol = client
        .socket
        .response
        .headers()
        .get("sec-websocket-protocol");
    assert_eq!(subprotocol.unwrap(), "rooms.v1.json");
    // None offered: the same, and none named.
    let plain = Client::greet(WebSocket::connect(baton.public, "/rooms"));
    assert!(
        plain
            .socket
            .response
            .headers()
            .get("sec-websocket-protocol")
            .is_none()
    );
    assert_ne!(plain.cid(), client.cid());
}

/// Wherever the answer comes from: from the log, if nobody on its worker was in the room.
#[test]
fn who_joins_counts_itself() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    for (client, count) in [(&mut one, 1), (&mut two, 2)] {
        assert_eq!(client.ok(json!({ "join": "r" }))["count"], count);
        // Workers are told of others a little later.
        eventually("all are counted", || {
            let mut counted = |verb: &str| client.ok(json!({ verb: "r" }))["count"] == count;
            ["who", "join"].into_iter().all(&mut counted)
        });
    }
}

#[test]
fn a_message_crosses_workers() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    let before = one.join("r");
    assert_eq!(two.join("r"), before);
    let sent = one.publish("r", json!({ "text": "häß 你好 🎉" }));
    assert_eq!(
        sent,
        Position {
            offset: before.offset + 1,
            ..before
        }
    );
    for client in [&mut one, &mut two] {
        let message = client.message();
        assert_eq!(message["room"], "r");
        assert_eq!(message["data"], json!({ "text": "häß 你好 🎉" }));
        assert_eq!(Position::parse(&message["pos"]), sent);
    }
    let cid = one.cid().to_owned();
    two.tell(json!({ "send": "r", "data": null }));
    let message = one.message();
    assert_eq!(message["from"], two.cid());
    assert_ne!(message["from"], cid.as_str());
    assert_eq!(message["data"], Value::Null);
}

/// A burst in two rooms by turns, of which every other message wants an answer; a third client joins
/// one of the rooms in between.
#[test]
fn a_burst_reaches_everyone_in_order() {
    let baton = Baton::started();
    let (mut sender, mut member) = one_on_each(baton.public);
    let mut neighbour = Client::on_worker(baton.public, 1);
    let mut begin = BTreeMap::new();
    for room in ["a", "b"] {
        begin.insert(room, sender.join(room).offset);
        member.join(room);
    }
    neighbour.join("a");
    let mut late = Client::on_worker(baton.public, 1);
    let mut burst = Vec::new();
    let said: Vec<(&str, u64)> = (0..600)
        .map(|n| (if n / 7 % 2 == 0 { "a" } else { "b" }, n))
        .collect();
    for (room, n) in &said {
        let mut message = json!({ "send": room, "data": n });
        if n % 2 == 0 {
            message["id"] = json!(n);
        }
        burst.extend(frame(TEXT, message.to_string().as_bytes()));
    }
    sender.socket.stream().write_all(&burst).unwrap();
    let joined = late.join("a").offset;
    let mut last = begin.clone();
    for (room, n) in &said {
        let offset = last.get_mut(room).unwrap();
        *offset += 1;
        if n % 2 == 0 {
            let answer = sender.read();
            assert_eq!(answer["id"], *n);
            assert_eq!(Position::parse(&answer["ok"]["pos"]).offset, *offset);
        }
        let mut hearers = vec![&mut sender, &mut member];
        if *room == "a" {
            hearers.push(&mut neighbour);
            if *offset > joined {
                hearers.push(&mut late);
            }
        }
        for hearer in hearers {
            let message = hearer.read();
            assert_eq!(message["data"], *n);
            assert_eq!(Position::parse(&message["pos"]).offset, *offset);
        }
    }
}

#[test]
fn the_ok_of_a_send_comes_before_the_message_itself() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    client.join("r");
    for number in 0..100 {
        client.tell(json!({ "id": "x", "send": "r", "data": number }));
        assert_eq!(client.read()["id"], "x");
        assert_eq!(client.read()["data"], number);
    }
}

#[test]
fn sending_needs_no_join() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    two.join("r");
    one.publish("r", json!(1));
    assert_eq!(two.message()["data"], 1);
    one.nothing();
}

#[test]
fn all_see_one_order_with_consecutive_positions() {
    const CLIENTS: usize = 8;
    const EACH: usize = 500;
    let baton = Baton::builder().workers(4).start();
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(baton.public))
        .collect();
    let workers: BTreeSet<u64> = clients.iter().map(Client::worker).collect();
    assert_eq!(workers.len(), 4);
    let start = clients
        .iter_mut()
        .map(|client| client.join("order"))
        .last()
        .unwrap();
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(who, mut client)| {
            thread::spawn(move || {
                for number in 0..EACH {
                    client.tell(json!({ "send": "order", "data": [who, number] }));
                }
                (0..CLIENTS * EACH)
                    .map(|_| client.message())
                    .map(|message| (Position::parse(&message["pos"]), message["data"].clone()))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let seen: Vec<Vec<(Position, Value)>> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    for (number, (position, _)) in seen[0].iter().enumerate() {
        assert_eq!(position.epoch, start.epoch);
        assert_eq!(position.offset, start.offset + 1 + number as u64);
    }
    for other in &seen[1..] {
        assert!(*other == seen[0], "not the same order");
    }
    // Each sender's own messages are in the order of sending.
    let mut next = [0; CLIENTS];
    for (_, data) in &seen[0] {
        let who = data[0].as_u64().unwrap() as usize;
        assert_eq!(data[1], next[who]);
        next[who] += 1;
    }
}

#[test]
fn rooms_do_not_mix() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    one.join("a");
    two.join("b");
    for client in [&mut one, &mut two] {
        client.publish("a", json!("for a"));
        client.publish("b", json!("for b"));
    }
    for _ in 0..2 {
        assert_eq!(one.message()["data"], "for a");
        assert_eq!(two.message()["data"], "for b");
    }
    one.nothing();
    two.nothing();
}

#[test]
fn joining_again_gives_no_second_copy_and_leaving_ends_it() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    one.join("r");
    one.join("r");
    two.publish("r", json!(1));
    assert_eq!(one.message()["data"], 1);
    one.nothing();
    one.ok(json!({ "leave": "r" }));
    two.publish("r", json!(2));
    one.nothing();
    assert_eq!(one.error(json!({ "leave": "r" })), "not_joined");
    assert_eq!(one.error(json!({ "leave": "never" })), "not_joined");
    // Back again: behind the position that it is told.
    let position = one.join("r");
    let next = two.publish("r", json!(3));
    assert_eq!(next.offset, position.offset + 1);
    assert_eq!(one.message()["data"], 3);
}

#[test]
fn who_counts_connections_on_all_workers() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    let count = |client: &mut Client| client.ok(json!({ "who": "r" }))["count"].as_u64().unwrap();
    assert_eq!(count(&mut one), 0);
    one.join("r");
    harness::eventually("one is counted by the other", || count(&mut two) == 1);
    two.join("r");
    harness::eventually("two are counted", || count(&mut one) == 2);
    drop(two);
    harness::eventually("one is gone", || count(&mut one) == 1);
    one.ok(json!({ "leave": "r" }));
    harness::eventually("all are gone", || count(&mut one) == 0);
}

#[test]
fn ping_tells_who_serves() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let pong = client.ok(json!({ "ping": true }));
    let status = baton.status();
    let worker = status.worker(client.worker());
    assert_eq!(pong["worker"], worker.worker);
    assert_eq!(pong["pid"], worker.pid);
    assert_eq!(pong["life"], worker.life);
}

#[test]
fn ids_come_back_as_they_were() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let long = "x".repeat(64);
    for id in [
        json!(0),
        json!(9_007_199_254_740_991_u64),
        json!("a \"quoted\" ✓"),
        json!(""),
        json!(long),
    ] {
        client.tell(json!({ "id": id, "ping": true }));
        assert_eq!(client.read()["id"], id);
    }
    for id in [
        "-1",
        "1.5",
        "9007199254740992",
        "null",
        "[1]",
        &format!("\"{long}x\""),
    ] {
        client
            .socket
            .text(&format!("{{\"id\":{id},\"ping\":true}}"));
        let reply = client.read();
        assert_eq!(reply["error"]["code"], "bad_request", "{id}");
        assert!(reply.get("id").is_none(), "{reply}");
    }
}

#[test]
fn data_is_passed_on_unaltered() {
    let baton = Baton::started();
    let (mut one, mut two) = one_on_each(baton.public);
    two.join("r");
    // Texts, not values: numbers and escapes must not be written anew.
    for data in [
        "1.0",
        "1e2",
        "-0.0",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        r#""\u0041\/\ud83c\udf89""#,
        r#"{"b":1,"a":[true,false,null,{}],"":""}"#,
        r#"[[[[]]]]"#,
    ] {
        one.socket.text(&format!(r#"{{"send":"r","data":{data}}}"#));
        let message = two.socket.receive_text();
        assert!(
            message.contains(&format!("\"data\":{data}")),
            "{data}: {message}"
        );
    }
}

#[test]
fn requests_that_are_refused() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    let deep = |levels: usize| -> Value {
        serde_json::from_str(&("[".repeat(levels) + &"]".repeat(levels))).unwrap()
    };
    let large = "x".repeat(65_534);
    for (request, code) in [
        (json!({}), "bad_request"),
        (json!({ "dance": "r" }), "bad_request"),
        (json!({ "join": "r", "leave": "r" }), "bad_request"),
        (json!({ "join": "" }), "bad_request"),
        (json!({ "join": 7 }), "bad_request"),
        (json!({ "join": "a\nb" }), "bad_request"),
        (json!({ "join": "x".repeat(201) }), "bad_request"),
        (json!({ "join": "$internal" }), "forbidden"),
        (json!({ "send": "r" }), "bad_request"),
        (json!({ "send": "r", "data": deep(33) }), "too_large"),
        (
            json!({ "send": "r", "data": format!("{large}x") }),
            "too_large",
        ),
    ] {
        assert_eq!(client.error(request.clone()), code, "{request}");
    }
    // At the limits, all is well; unknown fields are nobody's business.
    client.join(&"ü".repeat(100));
    client.publish("r", deep(32));
    client.publish("r", json!(large));
    client.ok(json!({ "ping": true, "colour": "green" }));
    client.socket.text(r#"{"id":1,"id":2,"ping":true}"#);
    assert_eq!(client.read()["error"]["code"], "bad_request");
}

#[test]
fn the_tenth_message_that_is_no_json_closes() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    for _ in 0..9 {
        client.socket.text("hello?");
        let reply = client.read();
        assert_eq!(reply["error"]["code"], "bad_request");
        assert!(reply.get("id").is_none());
    }
    client.ok(json!({ "ping": true }));
    client.socket.text("[");
    assert_eq!(client.close_code(), 1008);
}

#[test]
fn what_no_client_may_send_closes() {
    let baton = Baton::started();
    let mut client = Client::connect(baton.public);
    client.socket.binary(b"{}".to_vec());
    assert_eq!(client.close_code(), 1003);

    let mut client = Client::connect(baton.public);
    // More than data and all that may be around it.
    let huge = format!(r#"{{"send":"r","data":"{}"}}"#, "x".repeat(200_000));
    let _ = client.socket.send(Message::text(huge));
    assert_eq!(client.close_code(), 1009);
}

#[test]
fn hostile_json_costs_its_sender_alone() {
    let baton = Baton::builder().workers(1).start();
    let worker = baton.status().worker(1).clone();
    let before = process::resident(worker.pid);
    let mut other = Client::connect(baton.public);
    for text in [
        "[".repeat(60_000),
        "{\"a\":".repeat(10_000),
        format!(
            r#"{{"id":1,"send":"r","data":{}}}"#,
            "[".repeat(30_000) + &"]".repeat(30_000)
        ),
        format!(r#"{{"id":1,"send":"r","data":1{}}}"#, "0".repeat(60_000)),
        format!(r#"{{{}"ping":true}}"#, r#""k":0,"#.repeat(9_000)),
    ] {
        let mut client = Client::connect(baton.public);
        client.socket.text(&text);
        let _ = client.socket.receive();
        other.ok(json!({ "ping": true }));
    }
    assert_eq!(baton.status().worker(1).pid, worker.pid);
    let grown = process::resident(worker.pid).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
}

#[test]
fn rooms_of_one_client_are_limited() {
    let baton = Baton::builder().config("[rooms]\nmax_rooms = 5\n").start();
    let mut client = Client::connect(baton.public);
    assert_eq!(client.hello["max"]["rooms"], 5);
    for number in 0..5 {
        client.join(&format!("r{number}"));
    }
    assert_eq!(client.error(json!({ "join": "r5" })), "limit");
    client.join("r0");
    client.ok(json!({ "leave": "r0" }));
    client.join("r5");
}

#[test]
fn rooms_in_all_are_limited() {
    let baton = Baton::builder().config("[limits]\nrooms = 20\n").start();
    let mut client = Client::connect(baton.public);
    let mut refused = 0;
    for number in 0..30 {
        let reply = client.ask(json!({ "join": format!("r{number}") }));
        if reply["error"]["code"].is_string() {
            refused += 1;
        }
    }
    assert_eq!(refused, 10);
    // A room that nobody is in makes place.
    client.ok(json!({ "leave": "r0" }));
    harness::eventually("another room has a place", || {
        client.ask(json!({ "join": "another" }))["ok"].is_object()
    });
}

/// A member that does not read, while so much is said that it cannot be kept for it.
fn slow_reader(policy: &str) -> (Baton, Client, u64) {
    let baton = Baton::builder()
        .workers(2)
        .config(&format!(
            "[rooms]\nmax_data = \"4 KiB\"\nslow_bytes = \"64 KiB\"\nslow = \"{policy}\"\n"
        ))
        .start();
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut slow = Client::connect_with(baton.public, options);
    let mut swift = Client::connect(baton.public);
    slow.join("r");
    swift.join("r");
    let filler = "x".repeat(4000);
    let mut last = 0;
    for _ in 0..60 {
        for _ in 0..100 {
            swift.tell(json!({ "send": "r", "data": filler }));
        }
        // It does read, and misses nothing.
        for _ in 0..100 {
            let offset = Position::parse(&swift.message()["pos"]).offset;
            assert!(
                last == 0 || offset == last + 1,
                "{last} is followed by {offset}"
            );
            last = offset;
        }
    }
    (baton, slow, last)
}

#[test]
fn a_slow_reader_is_told_what_it_lost() {
    let (_baton, mut slow, last) = slow_reader("gap");
    let mut next = 1;
    let mut gaps = 0;
    while next <= last {
        let object = slow.event();
        if object["gap"].is_object() {
            let from = Position::parse(&object["gap"]["from"]);
            let to = Position::parse(&object["gap"]["to"]);
            assert_eq!(object["gap"]["why"], "slow", "{object}");
            assert_eq!(from.offset, next, "{object}");
            assert!(to.offset >= from.offset, "{object}");
            next = to.offset + 1;
            gaps += 1;
        } else {
            assert_eq!(Position::parse(&object["pos"]).offset, next);
            next += 1;
        }
    }
    assert!(gaps > 0, "everything was kept for it");
    slow.nothing();
}

#[test]
fn a_slow_reader_is_closed_where_that_is_the_policy() {
    let (_baton, mut slow, _) = slow_reader("close");
    assert_eq!(slow.close_code(), 4101);
}

#[test]
fn a_busy_room_of_many_is_heard_by_all() {
    const MEMBERS: usize = 400;
    let baton = Baton::started();
    let mut members: Vec<Client> = (0..MEMBERS)
        .map(|_| Client::connect(baton.public))
        .collect();
    for member in &mut members {
        member.join("stage");
    }
    for (number, member) in members.iter_mut().take(20).enumerate() {
        member.tell(json!({ "send": "stage", "data": number }));
    }
    let first: Vec<Value> = (0..20).map(|_| members[0].message()).collect();
    for member in &mut members[1..] {
        let seen: Vec<Value> = (0..20).map(|_| member.message()).collect();
        assert_eq!(seen, first);
    }
    let status = baton.status();
    assert!(
        status.workers.iter().all(|worker| worker.rooms == 1),
        "{}",
        status.json
    );
}

#[test]
fn the_page_and_the_rooms_are_one_origin() {
    let baton = Baton::started();
    let origin = format!("http://{}", baton.public);
    assert_eq!(http::get(baton.public, "/").status, 200);
    let socket = WebSocket::try_connect(
        baton.public,
        "/rooms",
        &[("Origin", &origin)],
        Options::default(),
    );
    Client::greet(socket.unwrap()).join("r");
}
