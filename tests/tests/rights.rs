//! Who joins a room hears what it may do there, wherever its rights come from, unless they are the
//! usual ones: in either format, from whichever place the answer comes, and whoever dies meanwhile.

use std::net::SocketAddr;

use harness::back_end::{BackEnd, hook};
use harness::faults::Faults;
use harness::rooms::{Client, MSGPACK, SUBPROTOCOL};
use harness::socket::Options;
use harness::tokens::{self, with_key, with_rights};
use harness::websocket::WebSocket;
use harness::{Baton, Builder, eventually, process};
use serde_json::{Value, json};

/// `auth`: of the configuration.
fn with(builder: Builder, auth: &str) -> Builder {
    with_key(builder.config(&format!("[auth]\n{auth}")))
}

fn open(to: SocketAddr, path: &str, fields: &[(&str, &str)], subprotocol: &str) -> Client {
    let mut all = vec![("Sec-WebSocket-Protocol", subprotocol)];
    all.extend(fields);
    let socket = WebSocket::try_connect(to, path, &all, Options::default());
    Client::greet(socket.unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// What it hears, each way in which the answer to a join comes: when the room is opened for it, when
/// this worker has the room, when it is in it, and with what was missed or retained.
#[track_caller]
fn hears(client: &mut Client, room: &str, may: &Value) {
    let first = client.ok(json!({ "join": room }));
    assert_eq!(&first["may"], may, "{room}: {first}");
    let again = client.ok(json!({ "join": room }));
    assert_eq!(&again["may"], may, "{room}, again: {again}");
    for more in [json!({"since": first["pos"]}), json!({"last": true})] {
        client.ok(json!({ "leave": room }));
        let mut join = json!({ "join": room });
        join.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let back = client.ok(join.clone());
        assert_eq!(&back["may"], may, "{join}: {back}");
    }
}

/// Nothing is said.
const USUAL: Value = Value::Null;

#[test]
fn by_a_token() {
    let baton = with(Baton::builder(), "anonymous = \"none\"").start();
    let token = with_rights(
        "u7",
        json!({
            "team/*": ["join", "send"],
            "team/mine": ["moderate"],
            "silent": ["join"],
            "usual": ["join", "send", "presence", "history"],
            "all": ["join", "send", "presence", "history", "moderate"],
        }),
    );
    let expected = [
        ("team/x", json!(["send"])),
        ("team/mine", json!(["send", "moderate"])),
        ("silent", json!([])),
        ("usual", USUAL),
        ("all", json!(["send", "presence", "history", "moderate"])),
    ];
    let shown = format!("/rooms?token={token}");
    let mut clients: Vec<Client> = [SUBPROTOCOL, MSGPACK]
        .into_iter()
        .flat_map(|subprotocol| {
            let mut shows = open(baton.public, "/rooms", &[], subprotocol);
            shows.ok(json!({ "auth": &token }));
            [shows, open(baton.public, &shown, &[], subprotocol)]
        })
        .collect();
    for _ in 0..2 {
        for client in &mut clients {
            for (room, may) in &expected {
                hears(client, room, may);
            }
        }
        for brain in baton.status().brains() {
            process::kill(brain);
            eventually("the brain is gone", || !process::is_alive(brain));
        }
        baton.status_when("all are ready", |status| status.ready().len() == 2);
        baton.expect(&["reload"], 0);
    }
    // Others do as well: it is joined no second time.
    let mut sender = Client::with_token(baton.public, &token);
    for client in &mut clients {
        client.ok(json!({"join": "team/x"}));
    }
    sender.publish("team/x", json!(1));
    for client in &mut clients {
        assert_eq!(client.message()["data"], 1);
        client.nothing();
    }
}

#[test]
fn by_the_configuration() {
    let all = json!(["send", "presence", "history", "moderate"]);
    let usual = "rights = [\"join\", \"send\", \"presence\", \"history\"]";
    let moderators = "rights = [\"join\", \"send\", \"presence\", \"history\", \"moderate\"]";
    // The configuration, what is heard without a token, and what with one that names no rooms.
    let cases = [
        ("", USUAL, USUAL),
        (usual, USUAL, USUAL),
        (moderators, USUAL, all),
        (
            "rights = [\"join\"]\nanonymous = \"full\"",
            USUAL,
            json!([]),
        ),
        (
            "anonymous = \"read\"",
            json!(["presence", "history"]),
            USUAL,
        ),
    ];
    for (auth, nobody, user) in cases {
        let baton = with(Baton::builder(), auth).start();
        for subprotocol in [SUBPROTOCOL, MSGPACK] {
            let mut client = open(baton.public, "/rooms", &[], subprotocol);
            hears(&mut client, "r", &nobody);
            client.ok(json!({"leave": "r"}));
            client.ok(json!({ "auth": tokens::token("u7") }));
            hears(&mut client, "r", &user);
        }
    }
}

/// Of who is nobody, no key is there at all: the answer is as short as it was.
#[test]
fn where_nothing_is_configured_nothing_is_said() {
    let baton = Baton::builder().start();
    let mut client = Client::connect(baton.public);
    for _ in 0..2 {
        let ok = client.ok(json!({"join": "r"}));
        let keys: Vec<&String> = ok.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["count", "pos"], "{ok}");
    }
    // Operators only listen in their room.
    let mut operator = Client::connect(baton.admin);
    let ok = operator.ok(json!({"join": "$baton"}));
    assert_eq!(ok["may"], json!([]), "{ok}");
}

#[test]
fn by_a_back_end() {
    let back_end = BackEnd::start(|event| match event["headers"]["cookie"].as_str() {
        Some("mod") => json!({"allow": true, "user": "m1",
            "rooms": {"r": ["join", "send", "presence", "history", "moderate"]}}),
        Some("guest") => json!({"allow": true, "user": "g1", "rooms": {"r": ["join"]}}),
        _ => json!({"allow": true, "user": "u1"}),
    });
    let config = hook(&back_end.url(), "[\"connect\"]", "");
    let baton = Baton::builder().config(&config).start();
    for subprotocol in [SUBPROTOCOL, MSGPACK] {
        for (cookie, may) in [
            ("mod", json!(["send", "presence", "history", "moderate"])),
            ("guest", json!([])),
            ("other", USUAL),
        ] {
            let mut client = open(baton.public, "/rooms", &[("Cookie", cookie)], subprotocol);
            hears(&mut client, "r", &may);
        }
    }
}

/// Another token: who joins where it is hears what it may now, and nothing else of it.
#[test]
fn by_the_next_token() {
    let baton = with(Baton::builder(), "").start();
    let mut client = Client::with_token(
        baton.public,
        &with_rights("u7", json!({"r": ["join", "send"]})),
    );
    hears(&mut client, "r", &json!(["send"]));
    let next = with_rights("u7", json!({"r": ["join", "moderate"]}));
    client.ok(json!({ "auth": next }));
    assert_eq!(client.ok(json!({"join": "r"}))["may"], json!(["moderate"]));
    client.nothing();
}

/// The answer is out, and its brain dies before it has noted so: what the next one makes of the log is
/// as long as what was sent, or the connection could not go on.
#[test]
fn a_brain_dies_with_the_answer_written() {
    let faults = Faults::new();
    let baton = with(faults.builder().workers(1), "").start();
    let may = json!(["send", "moderate"]);
    let token = with_rights("u7", json!({"*": ["join", "send", "moderate"]}));
    for subprotocol in [SUBPROTOCOL, MSGPACK] {
        let mut client = open(
            baton.public,
            &format!("/rooms?token={token}"),
            &[],
            subprotocol,
        );
        client.ok(json!({"ping": true}));
        for room in ["opened", "opened", "another"] {
            faults.arm("worker:write", 1);
            let ok = client.ok(json!({ "join": format!("{room} {subprotocol}") }));
            assert_eq!(ok["may"], may, "{room}: {ok}");
            faults.wait_for("worker:write");
            client.ok(json!({ "ping": true }));
            client.nothing();
        }
    }
}
