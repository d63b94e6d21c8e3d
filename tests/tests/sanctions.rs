//! What moderators and back ends can look up and do besides deciding: who is muted and banned, and what
//! was held back.

use harness::Baton;
use harness::api::{Api, with_api};
use harness::rooms::Client;
use harness::tokens::{Key, claims};
use serde_json::{Value, json};

const CONFIG: &str = "[auth]\nanonymous = \"full\"\n[[room]]\nmatch = \"*\"\nhistory = 100\n\
    [[auth.key]]\nkid = \"h\"\nalgorithm = \"HS256\"\nfile = \"h\"\n";

fn baton() -> Baton {
    with_api(CONFIG).file("h", &Key::secret(1).file()).start()
}

fn with_rights(baton: &Baton, user: &str, rights: &[&str]) -> Client {
    let mut claims = claims(user, 600);
    claims["rooms"] = json!({ "*": rights });
    Client::with_token(baton.public, &Key::secret(1).token("h", &claims))
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
    let mut moderator = with_rights(&baton, "m1", &["moderate"]);
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
        harness::eventually("what is over is listed no more", || {
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
        assert_eq!(
            (answer.status, &answer.json["error"]["code"]),
            (400, &json!("bad_request"))
        );
    }
    assert_eq!(api.post("/api/v1/sanctions", &json!({})).status, 405);
}
