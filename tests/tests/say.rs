//! What a back end says for a user: the user's mutes, bans, rates and words count, as if it had said it
//! itself; what a back end says for itself is held to nothing of this.

use harness::api::{Answer, Api, with_api, with_api_as};
use harness::faults::Faults;
use harness::rooms::Client;
use harness::tokens::with_key;
use harness::{Baton, Builder, eventually, process};
use serde_json::{Value, json};

const CONFIG: &str = "[auth]\nanonymous = \"full\"\n\
    [[room]]\nmatch = \"slow\"\nslow_mode = \"1h\"\nhistory = 100\n\
    [[room]]\nmatch = \"*\"\nhistory = 100\n\
    [[filter]]\nmatch = \"mask\"\nwords = \"words\"\ndo = \"mask\"\n\
    [[filter]]\nmatch = \"reject\"\nwords = \"words\"\ndo = \"reject\"\n\
    [[filter]]\nmatch = \"hold\"\nwords = \"words\"\ndo = \"hold\"\n";

fn with_files(builder: Builder) -> Builder {
    with_key(builder).file("words", "bad\n")
}

fn baton() -> Baton {
    with_files(with_api(CONFIG)).start()
}

const SAY: &str = "/api/v1/say";

#[track_caller]
fn say(api: &mut Api, room: &str, user: &str, data: Value) -> Answer {
    api.post(SAY, &json!({ "room": room, "user": user, "data": data }))
}

#[test]
fn a_user_is_heard_by_its_name() {
    let baton = baton();
    let mut api = Api::connect(baton.admin);
    let mut member = Client::connect(baton.public);
    let joined = member.join("r");
    let answer = say(&mut api, "r", "u7", json!({ "n": 1.50 }));
    let pos = format!("{}:{}", joined.epoch, joined.offset + 1);
    assert_eq!((answer.status, &answer.json), (200, &json!({ "pos": pos })));
    let message = member.message();
    assert_eq!(
        (&message["from"], &message["pos"]),
        (&json!("u7"), &json!(pos))
    );
    member.nothing();
    for wrong in [
        json!({ "room": "r", "data": 1 }),
        json!({ "user": "u7", "data": 1 }),
        json!({ "room": "r", "user": "u7" }),
        json!({ "room": "r", "user": "", "data": 1 }),
        json!({ "room": "r", "user": "u".repeat(200), "data": 1 }),
        json!({ "room": "r", "user": null, "data": 1 }),
        json!({ "room": "$r", "user": "u7", "data": 1 }),
    ] {
        assert_eq!(api.post(SAY, &wrong).refused(400, "bad_request"), None);
    }
    let much = json!("x".repeat(70_000));
    say(&mut api, "r", "u7", much).refused(413, "too_large");
    api.token = None;
    say(&mut api, "r", "u7", json!(1)).refused(401, "unauthorized");
}

#[test]
fn who_is_muted_or_banned_is_not() {
    let baton = baton();
    let mut api = Api::connect(baton.admin);
    let mut moderator = Client::with_rights(baton.public, "m1", &["moderate"]);
    moderator.ok(json!({ "mute": "u7", "room": "r", "for_ms": 600_000 }));
    moderator.ok(json!({ "ban": "u8", "room": "r" }));
    moderator.ok(json!({ "mute": "u9" }));
    let mut member = Client::connect(baton.public);
    member.join("r");
    for _ in 0..2 {
        let after = say(&mut api, "r", "u7", json!(1)).refused(403, "forbidden");
        assert!(
            after.is_some_and(|ms| (300_000..=600_000).contains(&ms)),
            "{after:?}"
        );
        for who in ["u8", "u9"] {
            let answer = say(&mut api, "r", who, json!(1));
            assert_eq!(answer.refused(403, "forbidden"), None, "for good");
        }
        let master = baton.status().master_brain_pid;
        process::kill(master);
        eventually("the brain is gone", || !process::is_alive(master));
    }
    member.nothing();
    assert_eq!(say(&mut api, "s", "u7", json!(1)).status, 200);
    say(&mut api, "s", "u9", json!(1)).refused(403, "forbidden");
    // A back end that speaks for itself is asked nothing.
    api.ok(
        "/api/v1/publish",
        Some(&json!({ "room": "r", "from": "u7", "data": "own" })),
    );
    assert_eq!(member.message()["data"], "own");
}

#[test]
fn a_users_rates_count_wherever_it_speaks() {
    let rates = "[rates.user]\nmessages = 1\n";
    let config = format!("{CONFIG}{rates}");
    let baton = with_files(with_api(&config)).start();
    let mut api = Api::connect(baton.admin);
    let mut u7 = Client::with_rights(baton.public, "u7", &["send"]);
    u7.publish("slow", json!(1));
    let after = say(&mut api, "slow", "u7", json!(1)).refused(429, "rate");
    assert!(after > Some(3_000_000), "{after:?}");
    // And the other way round.
    assert_eq!(say(&mut api, "slow", "u8", json!(1)).status, 200);
    let mut u8 = Client::with_rights(baton.public, "u8", &["send"]);
    assert_eq!(u8.error(json!({ "send": "slow", "data": 1 })), "rate");
    // All rooms together.
    let answers: Vec<Answer> = (0..20)
        .map(|n| say(&mut api, &format!("r{n}"), "u9", json!(1)))
        .collect();
    let after = answers.last().unwrap().refused(429, "rate");
    assert!(
        after.is_some_and(|ms| (1..=1_000).contains(&ms)),
        "{after:?}"
    );
    assert_eq!(answers[0].status, 200);
    let own = json!({ "room": "slow", "from": "u7", "data": 1 });
    (0..20).for_each(|_| _ = api.ok("/api/v1/publish", Some(&own)));
}

#[test]
fn its_words_are_filtered() {
    let baton = baton();
    let mut api = Api::connect(baton.admin);
    let mut moderator = Client::with_rights(baton.public, "m1", &["join", "send", "moderate"]);
    let mut member = Client::msgpack(baton.public);
    for room in ["mask", "reject", "hold", "other"] {
        moderator.join(room);
        member.join(room);
    }
    let data = json!({ "t": "a bad word" });
    for (room, expected) in [
        ("mask", json!({ "t": "a *** word" })),
        ("other", data.clone()),
    ] {
        assert_eq!(say(&mut api, room, "u7", data.clone()).status, 200);
        for client in [&mut moderator, &mut member] {
            let message = client.message();
            assert_eq!(
                (&message["from"], &message["data"]),
                (&json!("u7"), &expected)
            );
        }
    }
    let answer = say(&mut api, "reject", "u7", data.clone());
    assert_eq!(answer.refused(422, "rejected"), None);
    assert_eq!(say(&mut api, "reject", "u7", json!("fine")).status, 200);
    for client in [&mut moderator, &mut member] {
        assert_eq!(client.message()["data"], "fine");
    }
    let answer = say(&mut api, "hold", "u7", data.clone());
    assert_eq!((answer.status, answer.json), (200, json!({ "held": true })));
    let held = moderator.event()["held"].clone();
    assert_eq!((&held["from"], &held["data"]), (&json!("u7"), &data));
    member.nothing();
    moderator.ok(json!({ "send": "hold", "as": "u7", "key": held["key"], "data": held["data"] }));
    assert_eq!(member.message()["from"], "u7");
    // Who is muted is not shown to anybody; and a back end that speaks for itself says what it likes.
    moderator.message();
    moderator.ok(json!({ "mute": "u7" }));
    say(&mut api, "hold", "u7", data.clone()).refused(403, "forbidden");
    moderator.nothing();
    api.ok(
        "/api/v1/publish",
        Some(&json!({ "room": "reject", "data": data })),
    );
    assert_eq!(member.message()["data"], data);
}

/// A back end that asks again until it is answered has said it once, whoever dies meanwhile.
#[test]
fn it_is_said_once_while_brains_die() {
    for point in [
        "master:told",
        "worker:api-answer",
        "worker:api-answered",
        "worker:publish",
    ] {
        let faults = Faults::new();
        let baton = with_files(with_api_as(faults.builder(), CONFIG)).start();
        let mut api = Api::connect(baton.admin);
        let mut member = Client::connect(baton.public);
        member.join("r");
        let mut moderator = Client::with_rights(baton.public, "m1", &["join", "moderate"]);
        moderator.join("hold");
        faults.arm(point, 1);
        let answer = say(&mut api, "r", "u7", json!(point));
        assert!(answer.json["pos"].is_string(), "{point}: {answer:?}");
        faults.wait_for(point);
        assert_eq!(member.message()["data"], point);
        member.nothing();
        faults.arm(point, 1);
        let data = json!(["bad", point]);
        let said = json!({ "room": "hold", "user": "u7", "data": data });
        let answer = api.post_once("held", SAY, &said);
        assert_eq!(answer.json, json!({ "held": true }), "{point}");
        faults.wait_for(point);
        assert_eq!(moderator.event()["held"]["data"], data);
        // The next brain knows that, too.
        let again = api.post_once("held", SAY, &said);
        assert_eq!(again.json, json!({ "held": true }), "{point}");
        moderator.nothing();
    }
}

#[test]
fn a_retry_is_one_message() {
    let baton = baton();
    let mut api = Api::connect(baton.admin);
    let mut member = Client::connect(baton.public);
    member.join("r");
    let said = json!({ "room": "r", "user": "u7", "data": "once" });
    let mut ask = |key: &str| {
        let answer = api.post_once(key, SAY, &said);
        answer.json["pos"].as_str().unwrap().to_owned()
    };
    let first = ask("k1");
    assert_eq!(ask("k1"), first);
    assert_ne!(ask("k2"), first);
    member.message();
    member.message();
    member.nothing();
}

/// What is held back has no position, and is held back once all the same: whoever moderates is shown it
/// once. Under the same key something else can be said elsewhere, by others, or in the back end's own word.
#[test]
fn a_retry_of_what_is_held_back_is_held_back_once() {
    let baton = baton();
    let mut api = Api::connect(baton.admin);
    let mut moderator = Client::with_rights(baton.public, "m1", &["join", "send", "moderate"]);
    moderator.join("hold");
    let held = json!({ "held": true });
    let said = |user: &str| json!({ "room": "hold", "user": user, "data": "bad" });
    for _ in 0..3 {
        assert_eq!(api.post_once("k1", SAY, &said("u7")).json, held);
    }
    let shown = moderator.event()["held"].clone();
    assert_eq!(shown["from"], "u7");
    moderator.nothing();
    // Whatever a retry says, and whatever has become of it meanwhile, it is answered as it was.
    let fine = json!({ "room": "hold", "user": "u7", "data": "fine" });
    assert_eq!(api.post_once("k1", SAY, &fine).json, held);
    moderator.ok(json!({ "send": "hold", "as": "u7", "key": shown["key"], "data": shown["data"] }));
    assert_eq!(moderator.message()["data"], "bad");
    assert_eq!(api.post_once("k1", SAY, &said("u7")).json, held);
    moderator.nothing();
    for (key, user) in [("k2", "u7"), ("k1", "u8")] {
        assert_eq!(api.post_once(key, SAY, &said(user)).json, held);
        assert_eq!(moderator.event()["held"]["from"], user);
    }
    let own = json!({ "room": "hold", "from": "u7", "data": "own" });
    let answer = api.post_once("k1", "/api/v1/publish", &own);
    assert!(answer.json["published"][0]["pos"].is_string(), "{answer:?}");
    assert_eq!(moderator.message()["data"], "own");
    // Without a key, each is another.
    assert_eq!(api.post(SAY, &said("u7")).json, held);
    assert_eq!(moderator.event()["held"]["from"], "u7");
    moderator.nothing();
}
