//! A back end of the user's is asked on connect, join and send: what it decides happens, in order and
//! once, whatever dies or moves meanwhile; and nobody waits for it but those who ask.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::back_end::{self, BackEnd, hook, yes};
use harness::rooms::{Client, SUBPROTOCOL};
use harness::socket::Options;
use harness::temp::TempDir;
use harness::tokens::{token, with_key, with_rights};
use harness::websocket::{Message, WebSocket};
use harness::{Baton, baton, eventually, process, wait};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

fn builder(config: &str) -> baton::Builder {
    Baton::builder().config(config)
}

/// Allows all but what holds "bad"; what holds "mild" becomes something else.
fn moderate(event: &Value) -> Value {
    let text = event["data"].to_string();
    if text.contains("bad") {
        return json!({ "allow": false, "message": "no \"bad\" words" });
    }
    match text.contains("mild") {
        true => json!({ "allow": true, "data": { "text": "***" } }),
        false => json!({ "allow": true }),
    }
}

/// `/rooms` with more header fields.
fn connect_with(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Client {
    let mut all = vec![("Sec-WebSocket-Protocol", SUBPROTOCOL)];
    all.extend(fields);
    let socket = WebSocket::try_connect(to, path, &all, Options::default());
    Client::greet(socket.unwrap_or_else(|error| panic!("{path}: {error}")))
}

#[test]
fn what_is_sent_is_decided() {
    let back_end = BackEnd::start(moderate);
    let baton = builder(&hook(&back_end.url(), "[\"send\"]", "match = \"chat.*\"")).start();
    let mut member = Client::connect(baton.public);
    member.join("chat.a");
    member.join("free");
    let mut client = Client::connect(baton.public);
    client.ok(json!({"send": "chat.a", "data": {"text": "good", "n": 1.50}, "key": "k"}));
    let denied = client.ask(json!({"send": "chat.a", "data": "bad"}));
    let error = json!({"code": "rejected", "message": "no \"bad\" words", "retry": false});
    assert_eq!(denied["error"], error);
    client.ok(json!({"send": "chat.a", "data": "mild"}));
    client.ok(json!({"send": "free", "data": "bad"}));
    let got: Vec<Value> = (0..3).map(|_| member.message()["data"].clone()).collect();
    assert_eq!(
        got,
        [
            json!({"text": "good", "n": 1.5}),
            json!({"text": "***"}),
            json!("bad")
        ]
    );
    member.nothing();
    let asked = back_end.events();
    assert_eq!(
        asked.len(),
        3,
        "what matches nothing is not asked about: {asked:?}"
    );
    let first = &asked[0];
    let expected = json!({"n": 0, "event": "send", "ask": first["ask"], "cid": client.cid(),
        "address": "127.0.0.1", "room": "chat.a", "key": "k", "data": {"text": "good", "n": 1.5}});
    assert_eq!(*first, expected);
    let asks: BTreeSet<_> = asked.iter().map(|event| event["ask"].to_string()).collect();
    assert_eq!(asks.len(), 3, "{asked:?}");
    // What is sent byte for byte is asked byte for byte.
    let body = &back_end.requests()[0].body;
    assert!(
        String::from_utf8_lossy(body).contains("1.5"),
        "{}",
        body.escape_ascii()
    );
}

/// Those behind the one that is asked about wait for it, whether they are asked about or not.
#[test]
fn order_is_kept() {
    let back_end = BackEnd::start(moderate);
    let baton = builder(&hook(&back_end.url(), "[\"send\"]", "match = \"asked\"")).start();
    let mut member = Client::connect(baton.public);
    member.join("asked");
    member.join("free");
    let mut client = Client::connect(baton.public);
    back_end.hold();
    for n in 0..200 {
        let room = if n % 3 == 0 { "asked" } else { "free" };
        let data = if n % 10 == 9 {
            json!(["bad", n])
        } else {
            json!(["good", n])
        };
        client.tell(json!({"id": n, "send": room, "data": data}));
    }
    client.tell(json!({"id": 200, "ping": true}));
    back_end.wait_for("the first", 1, |_| true);
    member.nothing();
    back_end.release();
    for n in 0..=200 {
        let reply = client.reply(&json!(n));
        let is_denied = n % 3 == 0 && n % 10 == 9;
        assert_eq!(reply["error"]["code"] == "rejected", is_denied, "{reply}");
    }
    let expected = (0..200).filter(|n| n % 3 != 0 || n % 10 != 9);
    for n in expected {
        assert_eq!(member.message()["data"][1], json!(n));
    }
    member.nothing();
}

#[test]
fn joins_are_decided() {
    let back_end = BackEnd::start(|event| match event["room"].as_str() {
        Some("vip") => json!({"allow": false}),
        _ => json!({"allow": true}),
    });
    let config = hook(&back_end.url(), "[\"join\"]", "");
    let baton = with_key(builder(&config)).start();
    let mut client = Client::with_token(baton.public, &token("u7"));
    client.join("all");
    let denied = client.ask(json!({"join": "vip"}));
    let error = json!({"code": "forbidden", "message": "this is not allowed", "retry": false});
    assert_eq!(denied["error"], error);
    assert_eq!(client.error(json!({"leave": "vip"})), "not_joined");
    // Sending there is not asked about here.
    client.publish("vip", json!(1));
    client.publish("all", json!(2));
    assert_eq!(client.message()["data"], json!(2));
    client.nothing();
    let asked = back_end.events();
    let whom: Vec<_> = asked.iter().map(|e| (&e["user"], &e["room"])).collect();
    assert_eq!(
        whom,
        [(&json!("u7"), &json!("all")), (&json!("u7"), &json!("vip"))]
    );
    // With a position, too, where the room is not held by this worker yet.
    let mut other = Client::connect(baton.public);
    let reply = other.ok(json!({"join": "all", "since": "e1:0", "last": true}));
    assert!(reply["recovered"].is_boolean(), "{reply}");
    assert_eq!(back_end.events().len(), 3, "once");
}

#[test]
fn a_session_of_the_back_end_says_who_a_connection_is() {
    let back_end = BackEnd::start(|event| match event["headers"]["cookie"].as_str() {
        Some("session=7") => json!({"allow": true, "user": "u7",
            "rooms": {"a.*": ["join", "send"], "b": ["join"]}}),
        Some("session=8") => json!({"allow": true, "user": "u8"}),
        Some("session=9") => json!({"allow": true, "user": "u9", "exp": 1}),
        Some(_) => json!({"allow": false, "message": "log in first"}),
        None => json!({"allow": true}),
    });
    let config = "[auth]\nanonymous = \"none\"\ntimeout = \"1s\"\n".to_owned()
        + &hook(&back_end.url(), "[\"connect\"]", "");
    let baton = with_key(builder(&config)).start();
    let to = baton.public;
    let mut u7 = connect_with(
        to,
        "/rooms?x=y",
        &[("Cookie", "session=7"), ("X-Other", "z")],
    );
    u7.join("a.x");
    assert_eq!(u7.error(json!({"send": "b", "data": 1})), "forbidden");
    assert_eq!(u7.error(json!({"join": "c"})), "forbidden");
    let mut u8 = connect_with(to, "/rooms", &[("Cookie", "session=8")]);
    u8.join("a.x");
    u8.publish("a.x", json!(1));
    assert_eq!(u7.message()["from"], "u8");
    // What is sent to the user reaches the connection, and it stays its user's.
    let to_users = with_rights("u1", json!({"@*": ["send"]}));
    let mut server = Client::with_token(to, &to_users);
    server.publish("@u7", json!("to you"));
    assert_eq!(u7.message()["data"], "to you");
    assert_eq!(u7.error(json!({"auth": token("u8")})), "forbidden");
    u7.ok(json!({"auth": token("u7")}));
    // It may show a token instead; a wrong one is not even asked about.
    let token = token("u5");
    let mut u5 = connect_with(to, &format!("/rooms?token={token}"), &[]);
    u5.join("c");
    let asked = back_end.events().len();
    let mut wrong = connect_with(to, "/rooms?token=x", &[]);
    assert_eq!(
        (wrong.read()["error"]["code"].clone(), wrong.close_code()),
        (json!("unauthorized"), 4000)
    );
    assert_eq!(back_end.events().len(), asked);
    let mut denied = connect_with(to, "/rooms", &[("Cookie", "session=1")]);
    let error = json!({"code": "unauthorized", "message": "log in first", "retry": false});
    assert_eq!(denied.read()["error"], error);
    assert_eq!(denied.close_code(), 4000);
    let mut expired = connect_with(to, "/rooms", &[("Cookie", "session=9")]);
    assert_eq!(expired.close_code(), 4001);
    // Let in, but still nobody.
    let mut nobody = connect_with(to, "/rooms", &[]);
    assert_eq!(nobody.close_code(), 4000);
    let asked = back_end.events();
    let headers = json!({"cookie": "session=7"});
    assert_eq!(
        (&asked[0]["query"], &asked[0]["headers"]),
        (&json!("x=y"), &headers)
    );
    let of_token = asked.iter().find(|event| event["user"] == "u5");
    assert!(of_token.is_some(), "{asked:?}");
    // It lives on, over moves and deaths.
    baton.expect(&["reload"], 0);
    process::kill(baton.status().worker(u8.worker()).pid);
    u8.publish("a.x", json!(2));
    assert_eq!(u7.message()["data"], json!(2));
    assert_eq!(
        back_end.events().len(),
        asked.len(),
        "nobody is asked again"
    );
    drop(denied);
    eventually("it is said why it was closed", || {
        baton
            .log_lines()
            .any(|line| line.ends_with("closed: hook_denied"))
    });
}

/// Nobody answers: those who ask are decided by the hook, in its time; all others are served as ever.
#[test]
fn a_back_end_that_hangs_holds_up_nobody_else() {
    let slow = BackEnd::start(yes);
    slow.hold();
    let more =
        |fail: &str, room: &str| format!("fail = \"{fail}\"\nmatch = \"{room}\"\ntimeout = \"1s\"");
    let config = hook(&slow.url(), "[\"send\"]", &more("open", "open"))
        + &hook(
            &slow.url(),
            "[\"send\", \"join\"]",
            &more("closed", "closed"),
        );
    let baton = builder(&config).workers(1).start();
    let mut member = Client::connect(baton.public);
    member.join("open");
    member.join("free");
    let mut open = Client::connect(baton.public);
    let mut closed = Client::connect(baton.public);
    let mut joins = Client::connect(baton.public);
    open.tell(json!({"id": "x", "send": "open", "data": 1}));
    closed.tell(json!({"id": "x", "send": "closed", "data": 1}));
    joins.tell(json!({"id": "x", "join": "closed"}));
    slow.wait_for("all three", 3, |_| true);
    let begin = std::time::Instant::now();
    let mut other = Client::connect(baton.public);
    for n in 0..100 {
        other.publish("free", json!(n));
        assert_eq!(member.message()["data"], json!(n));
    }
    // All of that while the others still wait. (They may have been asked a while before.)
    let free = begin.elapsed();
    assert!(free < Duration::from_secs(1), "{free:?}");
    assert!(open.reply(&json!("x"))["ok"].is_object());
    for client in [&mut closed, &mut joins] {
        let error = &client.reply(&json!("x"))["error"];
        assert_eq!(
            (&error["code"], &error["retry"]),
            (&json!("unavailable"), &json!(true))
        );
    }
    assert_eq!(member.message()["data"], json!(1));
    member.nothing();
    baton.wait_for_log("worker-1", "it has not answered in time");
}

#[test]
fn a_back_end_that_is_down_and_comes_back() {
    let back_end = BackEnd::start(yes);
    let url = back_end.url();
    let on = "[\"send\", \"connect\"]";
    let baton = builder(&hook(&url, on, "timeout = \"2s\""))
        .workers(1)
        .start();
    let mut client = Client::connect(baton.public);
    client.publish("r", json!(1));
    // Back within its time: nobody has noticed.
    let address = back_end.stop();
    client.tell(json!({"id": "x", "send": "r", "data": 2}));
    let back_end = wait::until("it is tried again", Duration::from_secs(2), || {
        baton
            .log("worker-1")
            .contains("cannot be reached")
            .then(|| BackEnd::at(address, yes))
    });
    assert!(client.reply(&json!("x"))["ok"].is_object());
    client.publish("r", json!(3));
    // Away for good: after its time it is not waited for.
    back_end.stop();
    assert_eq!(client.error(json!({"send": "r", "data": 4})), "unavailable");
    baton.wait_for_log("worker-1", "it is down: ");
    let begin = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(client.error(json!({"send": "r", "data": 4})), "unavailable");
    }
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    let mut refused = Client::connect(baton.public);
    assert_eq!(refused.read()["error"]["code"], "unavailable");
    assert_eq!(refused.close_code(), 4100);
    let _back_end = BackEnd::at(address, yes);
    eventually("it is asked again", || {
        client.ask(json!({"send": "r", "data": 5}))["ok"].is_object()
    });
    baton.wait_for_log("worker-1", "it answers again");
    for n in 0..100 {
        client.publish("r", json!(n));
    }
}

#[test]
fn answers_that_are_none() {
    for answer in [
        back_end::ok("<html>not what was asked for</html>"),
        back_end::ok("{\"results\":[]}"),
        back_end::ok("{\"results\":[{\"n\":0,\"allow\":true},{\"n\":0,\"allow\":false}]}"),
        back_end::ok("{\"results\":[{\"n\":5,\"allow\":true}]}"),
        back_end::ok(&" ".repeat(1 << 20)),
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
    ] {
        let shown = answer[..answer.len().min(100)].escape_ascii().to_string();
        let back_end = BackEnd::with(move |_| answer.clone());
        let on = "[\"send\"]";
        let config = hook(&back_end.url(), on, "match = \"closed\"")
            + &hook(&back_end.url(), on, "match = \"open\"\nfail = \"open\"");
        let baton = builder(&config).workers(1).start();
        let mut client = Client::connect(baton.public);
        let code = client.error(json!({"send": "closed", "data": 1}));
        assert_eq!(code, "unavailable", "{shown}");
        client.publish("open", json!(1));
        client.nothing();
        baton.wait_for_log("worker-1", "answer");
    }
}

/// Ways to say where an answer ends that others use.
#[test]
fn answers_in_other_forms() {
    let body = |request: &back_end::Request| back_end::decided(request, yes);
    let to_end = BackEnd::with(move |request| {
        format!(
            "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
            body(request).len(),
            body(request)
        )
        .into_bytes()
    });
    let chunked = BackEnd::with(move |request| {
        let body = body(request);
        let (first, second) = body.split_at(5);
        format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            second.len()
        )
        .into_bytes()
    });
    let closes = BackEnd::with(move |request| {
        let body = body(request);
        format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    });
    let config = hook(&to_end.url(), "[\"send\"]", "match = \"a\"")
        + &hook(&chunked.url(), "[\"send\"]", "match = \"b\"")
        + &hook(&closes.url(), "[\"send\"]", "match = \"c\"");
    let baton = builder(&config).workers(1).start();
    let mut client = Client::connect(baton.public);
    for n in 0..20 {
        for room in ["a", "b", "c"] {
            client.publish(room, json!(n));
        }
    }
    assert_eq!(chunked.connections(), 1, "it is kept");
    assert_eq!(closes.connections(), 20);
}

/// Many that come together share requests, and no more of these are made at once than is said.
#[test]
fn many_questions_share_a_request() {
    let back_end = BackEnd::start(yes);
    let more = "in_flight = 1\nbatch = 50\ntimeout = \"20s\"";
    let baton = builder(&hook(&back_end.url(), "[\"send\"]", more))
        .workers(1)
        .start();
    let mut clients: Vec<_> = (0..100).map(|_| Client::connect(baton.public)).collect();
    back_end.hold();
    clients[0].tell(json!({"id": "x", "send": "r", "data": 0}));
    back_end.wait_for("the first", 1, |_| true);
    for client in &mut clients[1..] {
        client.tell(json!({"id": "x", "send": "r", "data": 1}));
    }
    // All of them are read by now: a worker reads in the order in which it is told.
    for _ in 0..3 {
        let mut last = Client::connect(baton.public);
        last.ok(json!({"ping": true}));
    }
    back_end.release();
    for client in &mut clients {
        assert!(client.reply(&json!("x"))["ok"].is_object());
    }
    let sizes: Vec<_> = back_end
        .requests()
        .iter()
        .map(|r| r.events().len())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert!(sizes.iter().all(|size| *size <= 50), "{sizes:?}");
    assert!(sizes.len() <= 6, "{sizes:?}");
    assert_eq!(back_end.connections(), 1);
}

#[test]
fn too_many_questions_are_decided_at_once() {
    let back_end = BackEnd::start(yes);
    let more = "in_flight = 1\nbatch = 1\nqueue = 5\ntimeout = \"20s\"";
    let baton = builder(&hook(&back_end.url(), "[\"send\"]", more))
        .workers(1)
        .start();
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(baton.public)).collect();
    back_end.hold();
    for client in &mut clients {
        client.tell(json!({"id": "x", "send": "r", "data": 0}));
    }
    baton.wait_for_log("worker-1", "too many questions wait for it");
    back_end.wait_for("the first", 1, |_| true);
    back_end.release();
    let replies: Vec<_> = clients.iter_mut().map(|c| c.reply(&json!("x"))).collect();
    let refused = replies
        .iter()
        .filter(|r| r["error"]["code"] == "unavailable");
    let refused = refused.count();
    assert!((1..=15).contains(&refused), "{refused}: {replies:?}");
    let done = replies
        .iter()
        .filter(|reply| reply["ok"].is_object())
        .count();
    assert_eq!(done + refused, 20);
}

/// A brain dies while a question is in flight: the next one asks again, and it happens once.
/// A brain dies at the place where it has just asked, or is about to go on with the answer.
/// It moves while it waits: the new worker asks, and it happens once.
/// While everything happens, each message that was allowed is there once, and in order.
/// A client that is gone, or another one in its place, hears nothing of the answer.
/// Their data is asked about as JSON, and what the back end says in its place reaches both.
#[test]
fn who_speaks_messagepack_is_asked_about_as_well() {
    let back_end = BackEnd::start(moderate);
    let baton = builder(&hook(&back_end.url(), "[\"send\"]", "")).start();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let fields = [("Sec-WebSocket-Protocol", "rooms.v1.msgpack")];
    let socket = WebSocket::try_connect(baton.public, "/rooms", &fields, Options::default());
    let mut socket = socket.expect("it is spoken");
    let send = |data: &[u8]| [b"\x83\xa2id\x01\xa4send\xa1r\xa4data", data].concat();
    let hear = |socket: &mut WebSocket| match socket.receive() {
        Ok(Message::Binary(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("no message: {other:?}"),
    };
    assert!(hear(&mut socket).contains("hello"));
    socket.binary(send(b"\x81\xa1b\xc4\x02hi"));
    let bin = json!({"b": {"$bin": "aGk="}});
    assert_eq!(member.message()["data"], bin);
    assert_eq!(back_end.events()[0]["data"], bin);
    socket.binary(send(b"\xa4mild"));
    assert_eq!(member.message()["data"], json!({"text": "***"}));
    socket.binary(send(b"\xa3bad"));
    // Behind what came before.
    while !hear(&mut socket).contains("rejected") {}
    member.nothing();
}

/// Seen: what was read again was paid for again.
#[test]
fn what_is_asked_about_is_paid_for_once() {
    let back_end = BackEnd::start(yes);
    let rates = "[rates]\nburst = \"20s\"\n[rates.connection]\nmessages = 1\n";
    let baton = builder(&(rates.to_owned() + &hook(&back_end.url(), "[\"send\"]", ""))).start();
    let mut client = Client::connect(baton.public);
    for n in 0..20 {
        client.publish("r", json!(n));
    }
    let refused =
        (0..20).any(|n| client.ask(json!({"send": "r", "data": n}))["error"]["code"] == "rate");
    assert!(refused, "it is paid for");
}

/// A brain that reads it again does not know that it has been paid for.
/// Nothing of a connection is read while it waits: that it says nothing is no fault of its own.
#[test]
fn who_waits_for_long_is_not_taken_for_dead() {
    let back_end = BackEnd::start(yes);
    back_end.hold();
    let times = "[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n\
        [http]\nhead_timeout = \"1s\"\nidle_timeout = \"1s\"\n";
    let more = "timeout = \"4s\"\nfail = \"open\"";
    let config = times.to_owned() + &hook(&back_end.url(), "[\"connect\", \"send\"]", more);
    let baton = builder(&config).start();
    let mut client = Client::connect(baton.public);
    client.publish("r", json!(1));
    client.publish("r", json!(2));
}

#[test]
fn the_configuration_is_reloaded() {
    let first = BackEnd::start(yes);
    let second = BackEnd::start(|_| json!({"allow": false}));
    let baton = builder(&hook(&first.url(), "[\"send\"]", "")).start();
    let mut client = Client::connect(baton.public);
    client.publish("r", json!(1));
    baton.write_config(&hook(&second.url(), "[\"send\"]", ""));
    baton.expect(&["reload"], 0);
    assert_eq!(client.error(json!({"send": "r", "data": 2})), "rejected");
    let wrong = hook("http://no.such.host.invalid:80/", "[\"send\"]", "");
    for (config, error) in [
        (
            wrong,
            "hook.url: no.such.host.invalid:80 cannot be looked up",
        ),
        (
            hook("ftp://x", "[\"send\"]", ""),
            "baton.toml:2: hook.url: must be such as",
        ),
        (
            hook("unix:/x", "[\"leave\"]", ""),
            "baton.toml:3: hook.on: must hold",
        ),
        (
            hook("unix:/x", "[\"join\"]", "timeout = \"1h\""),
            "baton.toml:4: hook.timeout: must be",
        ),
    ] {
        baton.write_config(&config);
        let said = baton.expect(&["reload"], 2);
        assert!(said.contains(error), "{said}");
        assert_eq!(client.error(json!({"send": "r", "data": 2})), "rejected");
    }
    baton.write_config("");
    baton.expect(&["reload"], 0);
    client.publish("r", json!(3));
    assert_eq!(first.events().len(), 1);
}

#[test]
fn requests_are_signed_and_carry_what_is_configured() {
    let back_end = BackEnd::start(yes);
    let secret = "s".repeat(40);
    let more = "secret = \"hook.key\"\nheaders = [\"Authorization: Bearer x\", \"X-Y: z\"]";
    let config = hook(&back_end.url(), "[\"send\"]", more);
    let baton = builder(&config)
        .file("hook.key", &format!("{secret}\n"))
        .start();
    Client::connect(baton.public).publish("r", json!("ü"));
    let request = &back_end.requests()[0];
    assert!(
        request.head.starts_with("POST /hook HTTP/1.1\r\n"),
        "{}",
        request.head
    );
    assert_eq!(request.field("authorization"), Some("Bearer x"));
    assert_eq!(request.field("x-y"), Some("z"));
    assert_eq!(request.field("content-type"), Some("application/json"));
    assert_eq!(
        request.field("host"),
        Some(back_end.address.to_string().as_str())
    );
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    let digest = mac.chain_update(&request.body).finalize().into_bytes();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        request.field("baton-signature"),
        Some(format!("sha256={digest}").as_str())
    );
    let log = baton.log_lines().collect::<String>();
    assert!(!log.contains("Bearer") && !log.contains(&secret), "{log}");
}

/// A back end that is a program of its own, on this port.
struct Program {
    child: Child,
    port: u16,
}

impl Program {
    fn start(program: &str, args: impl FnOnce(u16) -> Vec<String>) -> Program {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let child = Command::new(program)
            .args(args(port))
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Program { child, port }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn back_ends_in_other_languages() {
    let root = env!("CARGO_MANIFEST_DIR");
    let file = format!("{root}/clients/back_end.py");
    let python = Program::start("python3", |port| vec![file, port.to_string()]);
    // What the README shows is what runs.
    let readme = std::fs::read_to_string(format!("{root}/../README.md")).expect("the README");
    let (_, section) = readme
        .split_once("### A back end that decides")
        .expect("it");
    let (_, script) = section.split_once("```js\n").expect("its script");
    let (script, _) = script.split_once("```").expect("its end");
    let temp = TempDir::new();
    let node = Program::start("node", |port| {
        let file = temp.file("back-end.mjs", &script.replace("9000", &port.to_string()));
        vec![file.display().to_string()]
    });
    for program in [&python, &node] {
        let url = format!("http://127.0.0.1:{}/", program.port);
        eventually("it listens", || {
            std::net::TcpStream::connect(("127.0.0.1", program.port)).is_ok()
        });
        let baton = builder(&hook(&url, "[\"connect\", \"send\"]", "timeout = \"20s\"")).start();
        let mut denied = connect_with(baton.public, "/rooms", &[]);
        assert_eq!(denied.read()["error"]["message"], "who are you?");
        assert_eq!(denied.close_code(), 4000);
        let mut ada = connect_with(baton.public, "/rooms", &[("Cookie", "user=ada")]);
        ada.join("r");
        for n in 0..200 {
            ada.tell(json!({"send": "r", "data": {"text": "hello", "n": n}}));
        }
        for n in 0..200 {
            let message = ada.message();
            assert_eq!(
                (&message["from"], &message["data"]["n"]),
                (&json!("ada"), &json!(n))
            );
        }
        let reply = ada.ask(json!({"send": "r", "data": {"text": "buy spam now"}}));
        assert_eq!(reply["error"]["code"], "rejected", "{reply}");
    }
}
