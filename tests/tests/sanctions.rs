//! What moderators and back ends can look up and do besides deciding: who is muted and banned, and what
//! was held back.

use harness::api::{Api, with_api};
use harness::rooms::Client;
use harness::tokens::{self, with_key};
use harness::{Baton, eventually};
use serde_json::{Value, json};

const CONFIG: &str = "[auth]\nanonymous = \"full\"\n[[room]]\nmatch = \"*\"\nhistory = 100\n\
    [[filter]]\nmatch = \"hold\"\nwords = \"words\"\ndo = \"hold\"\n";

fn baton() -> Baton {
    with_key(with_api(CONFIG)).file("words", "bad\n").start()
}

/// All pages of what is asked for.
#[track_caller]
fn listed(api: &mut Api, query: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    for _ in 0..100 {
        let page = api.ok(&format!("/api/v1/sanctions?{query}{cursor}"), None);
        found.extend(page["sanctions"].as_array().unwrap().clone());
        match page["next"].as_u64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
    panic!("there is always more");
}

#[test]
fn who_is_muted_and_banned_is_listed() {
    let baton = baton();
    let mut api = Api::connect(baton.admin);
    let mut moderator = Client::with_rights(baton.public, "m1", &["moderate"]);
    let nobody = Client::connect(baton.public);
    assert_eq!(listed(&mut api, ""), Vec::<Value>::new());
    let ok = moderator.ok(json!({ "mute": "u7", "room": "r", "for_ms": 600_000 }));
    let until_ms = ok["until_ms"].clone();
    moderator.ok(json!({ "mute": nobody.cid() }));
    api.ok("/api/v1/ban", Some(&json!({ "user": "u7" })));
    moderator.ok(json!({ "ban": true, "address": "10.0.0.0/8" }));
    moderator.ok(json!({ "mute": "soon", "for_ms": 1 }));
    moderator.ok(json!({ "mute": "not" }));
    moderator.ok(json!({ "unmute": "not" }));
    let expected = [
        json!({ "kind": "mute", "user": "u7", "room": "r", "until_ms": until_ms, "by": "m1" }),
        json!({ "kind": "mute", "user": nobody.cid(), "room": null, "until_ms": null, "by": "m1" }),
        json!({ "kind": "ban", "user": "u7", "room": null, "until_ms": null, "by": "api" }),
        json!({ "kind": "ban", "address": "10.0.0.0/8", "room": null, "until_ms": null, "by": "m1" }),
    ];
    for query in ["", "limit=1", "limit=3"] {
        eventually("what is over is listed no more", || {
            listed(&mut api, query).len() == expected.len()
        });
        let mut found = listed(&mut api, query);
        for sanction in &mut found {
            let at_ms = sanction.as_object_mut().unwrap().remove("at_ms");
            assert!(at_ms.and_then(|at| at.as_u64()) > Some(1_700_000_000_000));
        }
        assert_eq!(found, expected, "{query}");
    }
    let kinds = |found: Vec<Value>| -> Vec<(String, Value)> {
        let kind = |s: &Value| (s["kind"].as_str().unwrap().to_owned(), s["room"].clone());
        found.iter().map(kind).collect()
    };
    let both = [
        ("mute".to_owned(), json!("r")),
        ("ban".to_owned(), json!(null)),
    ];
    assert_eq!(kinds(listed(&mut api, "user=u7&limit=1")), both);
    assert_eq!(kinds(listed(&mut api, "room=r")), both[..1]);
    assert_eq!(listed(&mut api, "room=r&user=u8"), Vec::<Value>::new());
    assert_eq!(listed(&mut api, "user=10.0.0.0%2F8"), Vec::<Value>::new());
    for wrong in [
        "limit=0",
        "cursor=x",
        "cursor=-1",
        "room=",
        "user=",
        "room=r&room=r",
    ] {
        let answer = api.get(&format!("/api/v1/sanctions?{wrong}"));
        answer.refused(400, "bad_request");
    }
    assert_eq!(api.post("/api/v1/sanctions", &json!({})).status, 405);
}

/// What was held back, as `client` is shown it.
#[track_caller]
fn held(client: &mut Client) -> Value {
    let told = client.event();
    assert!(told["held"].is_object(), "{told}");
    told["held"].clone()
}

fn released(held: &Value) -> Value {
    json!({ "send": "hold", "as": held["from"], "key": held["key"], "data": held["data"] })
}

#[test]
fn what_is_held_back_is_released_under_its_authors_name() {
    let baton = baton();
    let rights = ["join", "send", "history", "moderate"];
    let mut m1 = Client::with_rights(baton.public, "m1", &rights);
    let token = tokens::with_rights("m2", json!({ "*": rights }));
    let mut m2 = Client::msgpack(baton.public).shown(&token);
    let mut u7 = Client::with_rights(baton.public, "u7", &["join", "send"]);
    let mut packed = Client::msgpack(baton.public);
    let author = packed.cid().to_owned();
    for client in [&mut m1, &mut m2, &mut u7, &mut packed] {
        client.join("hold");
    }
    for (round, by_u7) in [true, false, true].into_iter().enumerate() {
        let (sender, name) = match by_u7 {
            true => (&mut u7, "u7"),
            false => (&mut packed, author.as_str()),
        };
        let data = json!({ "t": "bad", "n": [round, 1.5, null] });
        let ok = sender.ok(json!({ "send": "hold", "data": data }));
        assert_eq!(ok, json!({ "held": true }));
        let shown = held(&mut m1);
        assert_eq!(held(&mut m2), shown, "in both formats, on every worker");
        assert_eq!((&shown["from"], &shown["data"]), (&json!(name), &data));
        // Nothing of it is anybody's memory but the moderators'.
        baton.shake();
        // Both of them think that it may be said.
        let first = m1.ok(released(&shown));
        assert_eq!(m2.ok(released(&shown)), first);
        for client in [&mut m1, &mut m2, &mut u7, &mut packed] {
            let message = client.message();
            assert_eq!((&message["from"], &message["data"]), (&json!(name), &data));
            assert_eq!(message["pos"], first["pos"]);
            client.nothing();
        }
        let page = m1.ok(json!({ "history": "hold", "limit": 1 }));
        assert_eq!(page["messages"][0]["from"], name);
        let pos = first["pos"].as_str().unwrap();
        let line = format!("m1 says {pos} in \"hold\" as {name}");
        baton.wait_for_log("master", &line);
        let log = baton.log("master");
        assert_eq!(log.matches("in \"hold\" as").count(), round + 1, "{log}");
    }
}

#[test]
fn it_takes_the_right_to_moderate_to_speak_for_others() {
    let baton = baton();
    let mut moderator = Client::with_rights(baton.public, "m1", &["join", "send", "moderate"]);
    let mut cannot_send = Client::with_rights(baton.public, "m2", &["join", "moderate"]);
    let mut user = Client::with_rights(baton.public, "u7", &["join", "send"]);
    let mut nobody = Client::connect(baton.public);
    let said = json!({ "send": "r", "as": "u8", "key": "k", "data": 1 });
    for client in [&mut cannot_send, &mut user, &mut nobody] {
        assert_eq!(client.error(said.clone()), "forbidden");
    }
    for wrong in [json!(7), json!(""), json!("u\n"), json!("u".repeat(201))] {
        let said = json!({ "send": "r", "as": wrong, "data": 1 });
        assert_eq!(moderator.error(said), "bad_request");
    }
    moderator.join("r");
    let first = moderator.ok(said.clone());
    assert_eq!(moderator.message()["from"], "u8");
    // The same key of the user's is another.
    let mut u8 = Client::with_rights(baton.public, "u8", &["send"]);
    let mut own = said.clone();
    own.as_object_mut().unwrap().remove("as");
    assert_ne!(u8.ok(own.clone()), first);
    assert_eq!(moderator.message()["from"], "u8");
    assert_ne!(moderator.ok(own), first);
    assert_eq!(moderator.message()["from"], "m1");
    // Who is muted does not speak in another's name, and who is not may do so for one who is.
    moderator.ok(json!({ "mute": "u8", "room": "r" }));
    moderator.event();
    moderator.ok(json!({ "send": "r", "as": "u8", "data": 2 }));
    assert_eq!(moderator.message()["data"], 2);
    moderator.ok(json!({ "mute": "m1", "room": "r" }));
    assert_eq!(moderator.ok(said), first, "it was said before");
    let said = json!({ "send": "r", "as": "u8", "data": 3 });
    assert_eq!(moderator.error(said), "forbidden");
}
