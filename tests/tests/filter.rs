//! Words that are not to be said: refused, masked or held back, in both formats, by lists that a reload
//! reads anew.

use std::collections::BTreeSet;

use harness::Baton;
use harness::rooms::{Client, MSGPACK, SUBPROTOCOL};
use harness::socket::unread;
use harness::tokens::with_key;
use serde_json::{Value, json};

const CONFIG: &str = "[auth]\nanonymous = \"full\"\n\
    [[room]]\nmatch = \"*\"\nhistory = 10\n\
    [[filter]]\nmatch = \"mask*\"\nwords = \"words\"\ndo = \"mask\"\n\
    [[filter]]\nmatch = \"whole\"\nwords = \"words\"\ndo = \"mask\"\nwhole_words = true\n\
    [[filter]]\nmatch = \"reject\"\nwords = \"words\"\ndo = \"reject\"\n\
    [[filter]]\nmatch = \"hold\"\nwords = \"words\"\ndo = \"hold\"\n";

fn baton(words: &str) -> Baton {
    with_config(CONFIG, words)
}

fn with_config(config: &str, words: &str) -> Baton {
    let builder = Baton::builder().config(config).file("words", words);
    with_key(builder).start()
}

/// One that speaks each format, on each worker, in the room.
fn all_kinds(baton: &Baton, room: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for subprotocol in [SUBPROTOCOL, MSGPACK] {
        for worker in [1, 2] {
            let mut client = Client::opened_on(worker, || {
                Client::open(baton.public, "/rooms", subprotocol, Default::default())
            });
            client.join(room);
            clients.push(client);
        }
    }
    clients
}

/// What the others hear when each of them says this.
#[track_caller]
fn heard(clients: &mut [Client], room: &str, data: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for i in 0..clients.len() {
        clients[i].publish(room, data.clone());
        all.extend(
            clients
                .iter_mut()
                .map(|client| client.message()["data"].clone()),
        );
    }
    all
}

#[test]
fn words_are_masked_in_both_formats() {
    let baton = baton("bad\nü弾\n");
    for (room, said, expected) in [
        (
            "mask",
            json!({ "bad": "bad BAD madbad", "list": ["x", { "k": "Ü弾" }], "n": 7 }),
            json!({ "bad": "*** *** mad***", "list": ["x", { "k": "**" }], "n": 7 }),
        ),
        ("whole", json!("bad badly"), json!("*** badly")),
        ("other", json!("bad"), json!("bad")),
    ] {
        let mut clients = all_kinds(&baton, room);
        let heard = heard(&mut clients, room, &said);
        assert_eq!(heard.len(), 16);
        assert!(heard.iter().all(|data| *data == expected), "{heard:?}");
        let page = clients[0].ok(json!({ "history": room, "limit": 1 }));
        assert_eq!(page["messages"][0]["data"], expected);
    }
    // With its escapes, and what is around it as it came.
    let mut client = Client::connect(baton.public);
    client.join("mask");
    client
        .socket
        .text(r#"{"send":"mask","data":{ "a" : "\u0062ad\t\"bad\"", "b":1.0 }}"#);
    let text = client.socket.receive().unwrap().to_string();
    assert!(
        text.ends_with(r#""data":{ "a" : "***\t\"***\"", "b":1.0 }}"#),
        "{text}"
    );
}

#[test]
fn a_message_is_refused() {
    let baton = baton("bad\n");
    let mut clients = all_kinds(&baton, "reject");
    for client in &mut clients {
        let said = json!({ "send": "reject", "data": ["fine", "Bad"] });
        assert_eq!(client.error(said), "rejected");
    }
    let heard = heard(&mut clients, "reject", &json!("good"));
    assert!(heard.iter().all(|data| data == "good"));
    clients.iter_mut().for_each(Client::nothing);
}

#[test]
fn who_moderates_sees_what_is_held_back() {
    let baton = baton("bad\n");
    let mut clients = all_kinds(&baton, "hold");
    let mut moderator = Client::with_rights(baton.public, "m1", &["join", "send", "moderate"]);
    let mut user = Client::with_rights(baton.public, "u7", &["join", "send"]);
    moderator.join("hold");
    user.join("hold");
    let mut keys = BTreeSet::new();
    for client in &mut clients {
        let ok = client.ok(json!({ "send": "hold", "data": { "t": "bad" } }));
        assert_eq!(ok, json!({ "held": true }));
        let mut told = moderator.event();
        let key = told["held"].as_object_mut().unwrap().remove("key");
        assert!(keys.insert(key.unwrap().to_string()), "each has its own");
        let held = json!({ "from": client.cid(), "data": { "t": "bad" } });
        assert_eq!(told, json!({ "room": "hold", "held": held }));
    }
    user.nothing();
    clients.iter_mut().for_each(Client::nothing);
    // It has no place, and who moderates may say it.
    let first = moderator.publish("hold", json!("bad, says u7"));
    assert_eq!(first.offset, 1);
    for client in clients.iter_mut().chain([&mut user]) {
        assert_eq!(client.message()["data"], "bad, says u7");
    }
    let page = user_history(&baton);
    assert_eq!(page.as_array().unwrap().len(), 1);
    // Who is muted is not shown to anybody.
    moderator.ok(json!({ "mute": "u7", "room": "hold" }));
    assert_eq!(user.event()["muted"], "u7");
    let said = json!({ "send": "hold", "data": "bad" });
    assert_eq!(user.error(said), "forbidden");
}

fn user_history(baton: &Baton) -> Value {
    let mut client = Client::connect(baton.public);
    client.ok(json!({ "history": "hold" }))["messages"].clone()
}

#[test]
fn a_reload_reads_the_list_anew() {
    let baton = baton("one\n");
    let mut clients = all_kinds(&baton, "mask");
    let check = |clients: &mut [Client], expected: &str| {
        let heard = heard(clients, "mask", &json!("one two three"));
        assert!(heard.iter().all(|data| data == expected), "{heard:?}");
    };
    check(&mut clients, "*** two three");
    for (words, expected) in [
        ("two\n", "one *** three"),
        ("two\nthree\n", "one *** *****"),
        ("\n", "one two three"),
        ("one", "*** two three"),
    ] {
        baton.write_file("words", words);
        baton.expect(&["reload"], 0);
        check(&mut clients, expected);
        // New brains of all go on with it.
        baton.kill_all_brains();
        check(&mut clients, expected);
    }
    // A list that cannot be read changes nothing.
    baton.write_file("words", "\u{0}");
    std::fs::write(baton.config_file().with_file_name("words"), b"two\n\xff\n").unwrap();
    let said = baton.expect(&["reload"], 2);
    assert!(
        said.contains("filter.words") && said.contains("line 2"),
        "{said}"
    );
    check(&mut clients, "*** two three");
}

/// So many words.
fn list(count: u32) -> String {
    let word = |n: u32| format!("w{:08x}\n", n.wrapping_mul(2_654_435_761));
    (0..count).map(word).collect()
}

/// With one list, which masks.
fn masking(words: &str) -> Baton {
    let others = CONFIG.find("[[filter]]\nmatch = \"whole\"").unwrap();
    with_config(&CONFIG[..others], words)
}

#[test]
fn a_long_list_is_looked_for_in_one_pass() {
    let words = list(100_000);
    let baton = masking(&words);
    let mut clients = all_kinds(&baton, "mask");
    let last = words.lines().last().unwrap();
    let said = json!(format!("{last} and w{:08x}", 2_654_435_761u32));
    let masked = "********* and *********";
    let all = heard(&mut clients, "mask", &said);
    assert!(all.iter().all(|data| data == masked), "{all:?}");
    baton.expect(&["reload"], 0);
    clients[0].publish("mask", said);
    assert_eq!(clients[3].message()["data"], masked);
    baton.write_file("words", &list(100_001));
    let refused = baton.expect(&["reload"], 2);
    assert!(refused.contains("100000 words"), "{refused}");
}

/// After a crash a worker makes its list ready anew. What is said in rooms with a filter waits for it, in
/// order and never unfiltered; all else goes on.
#[test]
fn a_long_list_holds_up_nobody_else_after_a_crash() {
    let baton = masking(&list(100_000));
    let mut filtered = Client::on_worker(baton.public, 1);
    let mut free = Client::on_worker(baton.public, 1);
    let mut member = Client::on_worker(baton.public, 2);
    member.join("mask");
    let mut overtaken = 0;
    for round in 0..3 {
        baton.kill_brain(1);
        for n in 0..3 {
            let data = json!([round, n, format!("w{:08x}", 2_654_435_761u32)]);
            filtered.tell(json!({ "id": n, "send": "mask", "data": data }));
        }
        for _ in 0..5 {
            free.publish("other", json!(round));
        }
        overtaken += u32::from(unread(filtered.socket.stream()) == 0);
        for n in 0..3 {
            assert_eq!(filtered.read()["id"], n);
            assert_eq!(member.message()["data"], json!([round, n, "*********"]));
        }
    }
    assert!(overtaken > 0, "others wait for it");
    member.nothing();
}
