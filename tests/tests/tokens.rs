//! Who may do what: tokens, right and wrong, and what becomes of who has none.

use std::net::SocketAddr;

use harness::rooms::{Client, SUBPROTOCOL};
use harness::socket::Options;
use harness::tokens::{Key, claims, now};
use harness::websocket::WebSocket;
use harness::{Baton, baton, process};
use serde_json::{Value, json};

/// Everybody needs a token, of one of these keys.
fn keys() -> [(&'static str, Key); 3] {
    [
        ("h", Key::secret(1)),
        ("d", Key::ed25519(1)),
        ("e", Key::p256(1)),
    ]
}

fn builder(auth: &str) -> baton::Builder {
    let mut config = format!("[auth]\n{auth}\n");
    let mut builder = Baton::builder();
    for (kid, key) in keys() {
        config += &key.section(kid, kid);
        builder = builder.file(kid, &key.file());
    }
    builder.config(&config)
}

/// A token of the first key.
fn token(claims: &Value) -> String {
    Key::secret(1).token("h", claims)
}

/// One for a user who may do all of this.
fn allowed(user: &str, rooms: Value) -> String {
    let mut claims = claims(user, 60);
    claims["rooms"] = rooms;
    token(&claims)
}

/// The token comes in the query.
#[track_caller]
fn connect_with(to: SocketAddr, token: &str) -> Client {
    let path = format!("/rooms?token={token}");
    let fields = [("Sec-WebSocket-Protocol", SUBPROTOCOL)];
    let socket = WebSocket::try_connect(to, &path, &fields, Options::default());
    Client::greet(socket.unwrap_or_else(|error| panic!("{error}")))
}

/// A new brain of each worker, and then new workers: whatever a test says holds before and after.
fn shake(baton: &Baton) {
    baton.kill_brains(baton.status().brains());
    baton.expect(&["reload"], 0);
}

#[test]
fn tokens_of_each_algorithm_say_who_it_is() {
    let baton = builder("anonymous = \"none\"").start();
    let mut hears = Client::with_token(baton.public, &token(&claims("hears", 60)));
    hears.join("r");
    for (kid, key) in keys() {
        let user = format!("user-{kid}");
        let token = key.token(kid, &claims(&user, 60));
        let mut first = Client::connect(baton.public);
        let shown = first.ok(json!({ "auth": &token }));
        assert_eq!(shown, json!({ "user": &user }));
        first.publish("r", json!(1));
        let mut second = connect_with(baton.public, &token);
        second.publish("r", json!(2));
        for _ in 0..2 {
            assert_eq!(hears.message()["from"], user.as_str());
        }
    }
}

/// Each way to be wrong, the code that is said, and that of the close.
fn wrong_tokens() -> Vec<(&'static str, String, &'static str, u16)> {
    let [(_, secret), (_, ed25519), (_, p256)] = keys();
    let good = claims("u7", 60);
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid});
    let none = |alg: &str| {
        let signed = secret.signed(&header(alg, "h"), &good);
        let (message, _) = signed.rsplit_once('.').unwrap();
        format!("{message}.")
    };
    let mut later = good.clone();
    later["nbf"] = json!(now() + 3600);
    let mut elsewhere = good.clone();
    elsewhere["aud"] = json!("somewhere else");
    let mut long = good.clone();
    long["x"] = json!("x".repeat(4096));
    let mut bad = token(&good);
    bad.pop();
    let bad = bad
        + if token(&good).ends_with('A') {
            "E"
        } else {
            "A"
        };
    let public = Key::Secret(p256.file().into_bytes());
    let all = [
        ("alg none", none("none")),
        ("alg None", none("None")),
        (
            "alg none, signed",
            secret.signed(&header("none", "h"), &good),
        ),
        (
            "the public key as a secret",
            public.signed(&header("HS256", "e"), &good),
        ),
        (
            "another algorithm's key",
            secret.signed(&header("HS256", "d"), &good),
        ),
        (
            "the secret's kid with ES256",
            p256.signed(&header("ES256", "h"), &good),
        ),
        ("not yet valid", token(&later)),
        ("for another audience", token(&elsewhere)),
        ("an unknown key", secret.token("other", &good)),
        (
            "no kid with several keys",
            secret.signed(&json!({"alg": "HS256"}), &good),
        ),
        ("another's signature", Key::secret(2).token("h", &good)),
        ("a bad signature", bad),
        ("another's Ed25519", Key::ed25519(2).token("d", &good)),
        ("another's P-256", Key::p256(2).token("e", &good)),
        ("too long", ed25519.token("d", &long)),
        ("no sub", token(&json!({"exp": now() + 60}))),
        ("no exp", token(&json!({"sub": "u7"}))),
        ("like a connection's", token(&claims("c7", 60))),
        ("garbage", "garbage".to_owned()),
        ("two dots", "..".to_owned()),
    ];
    let unauthorized = all.map(|(what, token)| (what, token, "unauthorized", 4000));
    let expired = token(&json!({"sub": "u7", "exp": now() - 60}));
    let expired = [("expired", expired, "expired", 4001)];
    unauthorized.into_iter().chain(expired).collect()
}

#[test]
fn wrong_tokens_are_refused() {
    let baton = builder("anonymous = \"none\"").start();
    for shaken in [false, true] {
        for (what, token, code, close) in wrong_tokens() {
            let what = format!("{what}, shaken: {shaken}");
            let mut first = Client::connect(baton.public);
            assert_eq!(first.error(json!({ "auth": &token })), code, "{what}");
            assert_eq!(first.close_code(), close, "{what}");
            let mut second = connect_with(baton.public, &token);
            let said = second.read();
            assert_eq!(said["error"]["code"], code, "{what}: {said}");
            assert_eq!(second.close_code(), close, "{what}");
        }
        if !shaken {
            shake(&baton);
        }
    }
    // No string, or none at all, is a mistake and not a token.
    let mut client = Client::connect(baton.public);
    assert_eq!(client.error(json!({"auth": 7})), "bad_request");
    client.ok(json!({"auth": token(&claims("u7", 60))}));
}

#[test]
fn without_a_token_nothing_is_done() {
    let baton = builder("anonymous = \"none\"\ntimeout = \"1s\"").start();
    for request in [
        json!({"join": "r"}),
        json!({"send": "r", "data": 1}),
        json!({"who": "r"}),
        json!({"leave": "r"}),
    ] {
        let mut client = Client::connect(baton.public);
        client.ok(json!({"ping": true}));
        assert_eq!(client.error(request), "unauthorized");
        assert_eq!(client.close_code(), 4000);
    }
    // Who only waits does not wait for ever; who has shown one may.
    let mut waits = Client::connect(baton.public);
    let mut shows = Client::with_token(baton.public, &token(&claims("u7", 60)));
    assert_eq!(waits.close_code(), 4000);
    shows.nothing();
}

#[test]
fn rights_are_those_of_the_patterns() {
    let baton = builder("anonymous = \"none\"").start();
    let rooms = json!({"team/*": ["join", "send", "presence"], "team/news": ["history"],
        "news": ["join"], "*/box": ["send"], "@u*": ["send"]});
    let token = allowed("u7", rooms);
    let mut before = Client::with_token(baton.public, &token);
    let check = |client: &mut Client, what: &str| {
        let mut is = |request: Value| {
            let reply = client.ask(request.clone());
            let code = reply["error"]["code"].as_str().unwrap_or("ok");
            assert!(matches!(code, "ok" | "forbidden"), "{reply}");
            code == "ok"
        };
        for (request, expected) in [
            (json!({"join": "team/a"}), true),
            (json!({"send": "team/a", "data": 1}), true),
            (json!({"who": "team/a"}), true),
            (json!({"join": "news"}), true),
            (json!({"send": "news", "data": 1}), false),
            (json!({"who": "news"}), false),
            (json!({"send": "a/box", "data": 1}), true),
            (json!({"join": "a/box"}), false),
            (json!({"send": "@u9", "data": 1}), true),
            (json!({"send": "@x9", "data": 1}), false),
            (json!({"join": "other"}), false),
            (json!({"join": "@u7"}), false),
            (json!({"join": "$sys"}), false),
            (json!({"leave": "team/a"}), true),
            (json!({"leave": "news"}), true),
        ] {
            assert_eq!(is(request.clone()), expected, "{what}: {request}");
        }
    };
    check(&mut before, "at first");
    shake(&baton);
    check(&mut before, "after brains and workers");
    let mut after = Client::with_token(baton.public, &token);
    check(&mut after, "who comes then");
    // No rights at all, and those that are configured.
    let mut none = Client::with_token(baton.public, &allowed("u8", json!({})));
    assert_eq!(none.error(json!({"join": "team/a"})), "forbidden");
    let plain = self::token(&claims("u9", 60));
    let mut plain = Client::with_token(baton.public, &plain);
    plain.join("any");
    assert_eq!(plain.error(json!({"send": "@u7", "data": 1})), "forbidden");
}

#[test]
fn a_token_is_renewed() {
    let baton = builder("anonymous = \"none\"\nleeway = \"0s\"\nask_before = \"5s\"").start();
    let mut client = Client::with_token(baton.public, &token(&claims("u7", 8)));
    client.join("r");
    // What is wrong with the next one harms nothing.
    let other = token(&claims("u8", 60));
    assert_eq!(client.error(json!({"auth": other})), "forbidden");
    assert_eq!(client.error(json!({"auth": "x"})), "unauthorized");
    let expired = token(&json!({"sub": "u7", "exp": 7}));
    assert_eq!(client.error(json!({"auth": expired})), "expired");
    let without = allowed("u7", json!({"s": ["join"]}));
    assert_eq!(client.error(json!({"auth": &without})), "forbidden");
    client.publish("r", json!(1));
    assert_eq!(client.message()["data"], 1);
    // It is asked for, and given; the first one's time comes and goes.
    let asked = client.event();
    let in_ms = asked["auth"]["expires_in_ms"].as_u64().unwrap();
    assert!((1..=5_000).contains(&in_ms), "{asked}");
    let renewed = client.ok(json!({"auth": token(&claims("u7", 12))}));
    assert_eq!(renewed["user"], "u7");
    shake(&baton);
    let asked = client.event();
    assert!(asked["auth"].is_object(), "of the second token: {asked}");
    client.publish("r", json!(2));
    assert_eq!(client.message()["from"], "u7");
    // One that allows less is taken once the rooms that it does not allow are left.
    client.ok(json!({"leave": "r"}));
    client.ok(json!({"auth": &without}));
    assert_eq!(client.error(json!({"join": "r"})), "forbidden");
    client.join("s");
    client.nothing();
}

#[test]
fn a_token_expires() {
    let auth = "anonymous = \"none\"\nleeway = \"0s\"\nask_before = \"3s\"";
    let baton = builder(auth).start();
    let mut clients: Vec<Client> = (0..4)
        .map(|_| Client::with_token(baton.public, &token(&claims("u7", 7))))
        .collect();
    for client in &mut clients {
        assert!(client.event()["auth"]["expires_in_ms"].is_u64());
    }
    // Whoever serves it then, it is not asked again, and closed in time.
    shake(&baton);
    for client in &mut clients {
        let mut texts = Vec::new();
        let code = loop {
            match client.socket.receive() {
                Ok(harness::websocket::Message::Text(text)) => texts.push(text),
                Ok(harness::websocket::Message::Close(frame)) => break frame.unwrap().code.into(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((code, texts.len()), (4001_u16, 0), "{texts:?}");
    }
    let begin = now();
    let mut soon = Client::with_token(baton.public, &token(&claims("u7", 2)));
    assert!(soon.event()["auth"]["expires_in_ms"].as_u64() <= Some(2_000));
    assert_eq!(soon.close_code(), 4001);
    assert!(now() > begin, "not at once");
}

#[test]
fn keys_are_rotated_by_a_reload() {
    let config = |keys: &[(&str, &Key)]| {
        let sections = keys.iter().map(|(kid, key)| key.section(kid, kid));
        "[auth]\nanonymous = \"none\"\n".to_owned() + &sections.collect::<String>()
    };
    let (old, new) = (Key::secret(1), Key::p256(2));
    let baton = Baton::builder()
        .config(&config(&[("old", &old)]))
        .file("old", &old.file())
        .start();
    let of_old = || old.token("old", &claims("u7", 60));
    let of_new = || new.token("new", &claims("u7", 60));
    let mut stays = Client::with_token(baton.public, &of_old());
    let refused = |token: &str| {
        let mut client = Client::connect(baton.public);
        client.ask(json!({ "auth": token }))["error"]["code"] == "unauthorized"
    };
    assert!(refused(&of_new()));
    // A key that cannot be read fails the reload, and changes nothing.
    baton.write_config(&config(&[("old", &old), ("new", &new)]));
    let said = baton.expect(&["reload"], 2);
    assert!(said.contains("auth.key.file"), "{said}");
    baton.write_file("new", &old.file());
    let said = baton.expect(&["reload"], 2);
    assert!(said.contains("P-256"), "{said}");
    assert!(refused(&of_new()) && !refused(&of_old()));
    // Both, then only the new one.
    baton.write_file("new", &new.file());
    baton.expect(&["reload"], 0);
    assert!(!refused(&of_new()) && !refused(&of_old()));
    baton.write_config(&config(&[("new", &new)]));
    baton.expect(&["reload"], 0);
    assert!(!refused(&of_new()) && refused(&of_old()));
    // Who is in stays until its token expires, or shows another.
    stays.join("r");
    stays.ok(json!({"auth": of_new()}));
    stays.publish("r", json!(1));
    assert_eq!(stays.message()["from"], "u7");
}

#[test]
fn who_has_no_token_may_do_what_is_configured() {
    let baton = builder("anonymous = \"read\"").start();
    let mut reads = Client::connect(baton.public);
    reads.join("r");
    reads.ok(json!({"who": "r"}));
    assert_eq!(reads.error(json!({"send": "r", "data": 1})), "forbidden");
    assert_eq!(reads.error(json!({"send": "@u7", "data": 1})), "forbidden");
    let mut writes = Client::with_token(baton.public, &token(&claims("u7", 60)));
    writes.publish("r", json!(1));
    assert_eq!(reads.message()["from"], "u7");
    // It becomes somebody without a new connection.
    reads.ok(json!({"auth": token(&claims("u8", 60))}));
    reads.publish("r", json!(2));
    assert_eq!(reads.message()["from"], "u8");
    // From a reload on nobody may stay who has none.
    let mut silent = Client::connect(baton.public);
    silent.join("r");
    let mut config = "[auth]\nanonymous = \"none\"\ntimeout = \"1s\"\n".to_owned();
    for (kid, key) in keys() {
        config += &key.section(kid, kid);
    }
    baton.write_config(&config);
    baton.expect(&["reload"], 0);
    assert_eq!(silent.close_code(), 4000);
    reads.publish("r", json!(3));
}

#[test]
fn a_listener_for_all_lets_nobody_in_without_a_token() {
    let public = "[[listen]]\naddress = \"0.0.0.0:0\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
        role = \"admin\"\n";
    for (auth, warns, may_join) in [
        ("", "nobody may use /rooms at 0.0.0.0:0", false),
        ("anonymous = \"full\"", "may join, read and write", true),
        ("anonymous = \"read\"", "may join and read", true),
    ] {
        let mut baton = Baton::builder()
            .config(&format!("{public}[auth]\n{auth}\n"))
            .listeners_from_config()
            .prepare();
        let output = baton.try_start();
        assert!(output.status.success(), "{}", baton.logs());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("WARNING") && said.contains(warns), "{said}");
        baton.wait_for_log("master", warns);
        let to = SocketAddr::from(([127, 0, 0, 1], baton.public.port()));
        let mut client = Client::connect(to);
        match may_join {
            true => _ = client.join("r"),
            false => {
                assert_eq!(client.error(json!({"join": "r"})), "unauthorized");
                assert_eq!(client.close_code(), 4000);
            }
        }
        let mut shows = Client::connect(to);
        let token = token(&claims("u7", 60));
        assert_eq!(shows.error(json!({"auth": token})), "unauthorized");
    }
}

#[test]
fn what_is_sent_to_a_user_reaches_all_its_connections() {
    let baton = builder("anonymous = \"none\"").start();
    let of = |user: &str| token(&claims(user, 60));
    let mut mine: Vec<Client> = [1, 2, 2, 1]
        .iter()
        .map(|worker| {
            let mut client = Client::on_worker(baton.public, *worker);
            client.ok(json!({"auth": of("ann")}));
            client
        })
        .collect();
    let mut other = Client::with_token(baton.public, &of("anna"));
    let sends = allowed("back end", json!({"@*": ["send"]}));
    let mut sends = Client::with_token(baton.public, &sends);
    for round in 0..3 {
        let position = sends.publish("@ann", json!(round));
        assert_eq!(position.offset, round + 1);
        for client in &mut mine {
            let message = client.message();
            assert_eq!(message["room"], "@ann");
            assert_eq!(message["from"], "back end");
            assert_eq!(message["data"], round);
            client.nothing();
        }
        other.nothing();
        sends.nothing();
        shake(&baton);
    }
    // Of itself it may not be sent to, joined, left or looked into.
    for request in [
        json!({"send": "@ann", "data": 1}),
        json!({"join": "@ann"}),
        json!({"leave": "@ann"}),
        json!({"who": "@ann"}),
    ] {
        assert_eq!(mine[0].error(request), "forbidden");
    }
    // It counts for none of the rooms that a connection may be in.
    for room in 0..100 {
        mine[0].join(&format!("room-{room}"));
    }
    assert_eq!(mine[0].error(json!({"join": "one more"})), "limit");
}

/// Each step of it, whoever dies in its middle, happens once.
#[test]
fn tokens_are_shown_and_renewed_while_brains_die() {
    let baton = builder("anonymous = \"none\"\n[limits]\nshort_lives = 1000").start();
    let sends = allowed("back end", json!({"@*": ["send"], "*": ["join"]}));
    std::thread::scope(|scope| {
        let kills = scope.spawn(|| {
            for round in 0..30 {
                let status = baton.status_when("all are ready", |s| s.ready().len() == 2);
                let brains = status.brains();
                process::kill(brains[round % brains.len()]);
            }
        });
        let mut rounds = 0;
        while !kills.is_finished() || rounds == 0 {
            rounds += 1;
            let user = format!("user-{rounds}");
            let mut back_end = connect_with(baton.public, &sends);
            let mut client = Client::with_token(baton.public, &token(&claims(&user, 60)));
            let mut second = connect_with(baton.public, &token(&claims(&user, 60)));
            second.ok(json!({"ping": true}));
            client.join("r");
            for n in 0..5 {
                client.ok(json!({"auth": token(&claims(&user, 60 + n))}));
                back_end.publish(&format!("@{user}"), json!(n));
                for one in [&mut client, &mut second] {
                    let message = one.message();
                    assert_eq!(message["from"], "back end", "{message}");
                    assert_eq!(message["data"], n, "{message}");
                }
                client.publish("r", json!(n));
                let message = client.message();
                assert_eq!(message["from"], user.as_str(), "{message}");
            }
            assert_eq!(client.error(json!({"auth": "x"})), "unauthorized");
            client.nothing();
            second.nothing();
        }
    });
}
