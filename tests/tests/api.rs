//! The HTTP API: each endpoint with good and with wrong input, through deaths and moves.

use std::collections::BTreeSet;

use harness::api::{Api, TOKEN, with_api, with_api_as};
use harness::faults::Faults;
use harness::rooms::Client;
use harness::{Baton, eventually, http, process};
use serde_json::{Value, json};

fn started() -> Baton {
    with_api("").start()
}

#[test]
fn publishes_to_one_and_to_many() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let mut member = Client::connect(baton.public);
    let joined = member.join("r");
    member.join("s");
    let said = api.ok(
        "/api/v1/publish",
        Some(&json!({"room": "r", "data": {"n": 1.50}})),
    );
    let position = format!("{}:{}", joined.epoch, joined.offset + 1);
    assert_eq!(said, json!({"published": [{"room": "r", "pos": position}]}));
    let message = member.message();
    assert_eq!(message["from"], "api");
    assert_eq!(
        (&message["data"]["n"], &message["pos"]),
        (&json!(1.5), &json!(position))
    );
    let many = json!({"rooms": ["r", "s", "t"], "from": "u9", "data": "all"});
    let said = api.ok("/api/v1/publish", Some(&many));
    let published = said["published"].as_array().unwrap();
    for (entry, room) in published.iter().zip(["r", "s", "t"]) {
        assert!(entry["room"] == room && entry["pos"].is_string(), "{said}");
    }
    assert_eq!(published.len(), 3);
    let got: BTreeSet<String> = (0..2)
        .map(|_| {
            let message = member.message();
            assert_eq!(
                (&message["from"], &message["data"]),
                (&json!("u9"), &json!("all"))
            );
            message["room"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(got, ["r", "s"].map(str::to_owned).into());
    member.nothing();
}

#[test]
fn broadcasts_to_all_or_some() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let mut member = Client::connect(baton.public);
    for room in ["chat.a", "chat.b", "news"] {
        member.join(room);
    }
    let said = api.ok(
        "/api/v1/broadcast",
        Some(&json!({"match": "chat.*", "data": 1})),
    );
    assert_eq!(said, json!({"rooms": 2}));
    let said = api.ok("/api/v1/broadcast", Some(&json!({"data": 2})));
    assert_eq!(said, json!({"rooms": 3}));
    let mut got: Vec<(String, Value)> = (0..5)
        .map(|_| member.message())
        .map(|m| (m["room"].as_str().unwrap().to_owned(), m["data"].clone()))
        .collect();
    got.sort_by_key(|(room, data)| (data.as_u64(), room.clone()));
    let is = |room: &str, n: u64| (room.to_owned(), json!(n));
    assert_eq!(
        got,
        [
            is("chat.a", 1),
            is("chat.b", 1),
            is("chat.a", 2),
            is("chat.b", 2),
            is("news", 2)
        ]
    );
    member.nothing();
    let none = api.ok(
        "/api/v1/broadcast",
        Some(&json!({"match": "nobody.*", "data": 1})),
    );
    assert_eq!(none, json!({"rooms": 0}));
}

#[test]
fn a_retry_is_one_message() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let mut member = Client::connect(baton.public);
    member.join("r");
    let body = json!({"room": "r", "data": "once"});
    let mut ask = |key: &str| {
        let answer = api.post_once(key, "/api/v1/publish", &body);
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json
    };
    let first = ask("k1");
    assert_eq!(ask("k1"), first);
    assert_ne!(ask("k2"), first);
    member.message();
    member.message();
    member.nothing();
    // A client's key is another, though it has the same name and says the same.
    let mut other = Client::connect(baton.public);
    other.ok(json!({"send": "r", "key": "k1", "data": "once"}));
    member.message();
}

#[test]
fn rooms_members_and_history() {
    let config = "[[room]]\nmatch = \"r*\"\nhistory = 10\n";
    let baton = with_api(config).start();
    let mut api = Api::connect(baton.admin);
    let mut members: Vec<Client> = (0..3).map(|_| Client::connect(baton.public)).collect();
    members.iter_mut().for_each(|member| _ = member.join("r1"));
    members[0].join("a b/ü");
    members[0].publish("r1", json!({"n": 1}));
    let last = members[0].publish("r1", json!({"n": 2}));
    let position = last.to_string();
    // What workers tell of their rooms comes a moment later, of one room after the other.
    let both = json!([{"room": "r1", "count": 3}, {"room": "a b/ü", "count": 1}]);
    eventually("all are counted", || {
        api.ok("/api/v1/rooms", None)["rooms"] == both
            && api.ok("/api/v1/rooms/r1", None)["distinct"] == 3
    });
    let page = api.ok("/api/v1/rooms?limit=1", None);
    assert_eq!((&page["next"], &page["total"]), (&json!(1), &json!(2)));
    let page = api.ok("/api/v1/rooms?limit=1&from=1", None);
    assert_eq!(page["rooms"], json!([{"room": "a b/ü", "count": 1}]));
    assert_eq!(page["next"], Value::Null);
    let room = api.ok("/api/v1/rooms/r1", None);
    assert_eq!(
        room,
        json!({"room": "r1", "count": 3, "distinct": 3, "pos": position})
    );
    assert_eq!(api.ok("/api/v1/rooms/a%20b%2F%C3%BC", None)["count"], 1);
    let who = api.ok("/api/v1/rooms/r1/members", None);
    assert_eq!((&who["count"], &who["whole"]), (&json!(3), &json!(true)));
    let mut users: Vec<&str> = who["users"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut cids: Vec<&str> = members.iter().map(Client::cid).collect();
    users.sort_unstable();
    cids.sort_unstable();
    assert_eq!(users, cids);
    assert_eq!(
        api.ok("/api/v1/rooms/r1/members?limit=1", None)["whole"],
        false
    );
    let history = api.ok("/api/v1/rooms/r1/history", None);
    let said: Vec<&Value> = history["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["data"])
        .collect();
    assert_eq!(said, [&json!({"n": 1}), &json!({"n": 2})]);
    let before = api.ok(&format!("/api/v1/rooms/r1/history?before={position}"), None);
    assert_eq!(before["messages"].as_array().unwrap().len(), 1);
    for path in [
        "/api/v1/rooms/none",
        "/api/v1/rooms/none/members",
        "/api/v1/rooms/none/history",
    ] {
        api.get(path).refused(404, "not_found");
    }
}

#[test]
fn connections_are_found_on_every_worker() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let mut members: Vec<Client> = (0..20).map(|_| Client::connect(baton.public)).collect();
    members[..6]
        .iter_mut()
        .for_each(|member| _ = member.join("r"));
    let all = |api: &mut Api, query: &str| {
        let mut found = Vec::new();
        let mut path = format!("/api/v1/connections?limit=3{query}");
        for _ in 0..50 {
            let page = api.ok(&path, None);
            let connections = page["connections"].as_array().unwrap().clone();
            assert!(connections.len() <= 3);
            found.extend(connections);
            match page["next"].as_str() {
                Some(next) => path = format!("/api/v1/connections?limit=3&cursor={next}{query}"),
                None => return found,
            }
        }
        panic!("there is always more");
    };
    let found = all(&mut api, "");
    let cids: BTreeSet<&str> = found.iter().filter_map(|c| c["cid"].as_str()).collect();
    assert_eq!(cids.len(), found.len(), "each once");
    assert!(
        members.iter().all(|member| cids.contains(member.cid())),
        "{found:?}"
    );
    assert_eq!(all(&mut api, "&room=r").len(), 6);
    let cid = members[0].cid().to_owned();
    let one = all(&mut api, &format!("&user={cid}"));
    assert_eq!((one.len(), &one[0]["cid"]), (1, &json!(cid)));
    for worker in [1, 2] {
        let there = all(&mut api, &format!("&worker={worker}"));
        assert!(there.len() > 5 && there.iter().all(|c| c["worker"] == worker));
    }
    let one = api.ok(&format!("/api/v1/connections/{cid}"), None);
    assert_eq!(
        (&one["rooms"], &one["protocol"]),
        (&json!(["r"]), &json!("rooms.v1.json"))
    );
    assert_eq!(one["worker"].as_u64(), Some(members[0].worker()));
    assert!(one["received_bytes"].as_u64() > Some(0), "{one}");
    assert_eq!(api.get("/api/v1/connections/c999999").status, 404);
    assert_eq!(api.get("/api/v1/connections/x").status, 404);
    let cluster = api.ok("/api/v1/cluster", None);
    assert_eq!(cluster["workers"].as_array().unwrap().len(), 2);
    assert!(cluster["connections"].as_u64() >= Some(21), "{cluster}");
}

#[test]
fn a_body_above_the_limit_is_an_error_like_any() {
    let baton = with_api("[http]\nmax_body = \"64 KiB\"\n").start();
    let (path, much) = ("/api/v1/publish", "x".repeat(65 << 10));
    let body = json!({"room": "r", "data": much});
    let answer = Api::connect(baton.admin).post(path, &body);
    answer.refused(413, "too_large");
    let mut api = Api::connect(baton.admin);
    let chunked = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{much}\r\n",
        much.len()
    );
    api.client.send(chunked).unwrap();
    api.answer().unwrap().refused(413, "too_large");
}

#[test]
fn what_is_wrong_is_said() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let publish = "/api/v1/publish";
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    let names: Vec<String> = (0..101).map(|n| format!("r{n}")).collect();
    for (body, status, code) in [
        (json!({"room": "r"}), 400, "bad_request"),
        (json!({"data": 1}), 400, "bad_request"),
        (
            json!({"room": "r", "rooms": ["s"], "data": 1}),
            400,
            "bad_request",
        ),
        (json!({"rooms": [], "data": 1}), 400, "bad_request"),
        (json!({"rooms": names, "data": 1}), 400, "bad_request"),
        (json!({"rooms": ["r", "r"], "data": 1}), 400, "bad_request"),
        (json!({"room": "$baton", "data": 1}), 400, "bad_request"),
        (json!({"room": "", "data": 1}), 400, "bad_request"),
        (json!({"room": "a\nb", "data": 1}), 400, "bad_request"),
        (
            json!({"room": "r", "from": "", "data": 1}),
            400,
            "bad_request",
        ),
        (json!({"room": "r", "data": deep}), 413, "too_large"),
        (
            json!({"room": "r", "data": "x".repeat(65 << 10)}),
            413,
            "too_large",
        ),
        (json!([1]), 400, "bad_request"),
    ] {
        api.post(publish, &body).refused(status, code);
    }
    for (method, path, status) in [
        ("GET", "/api/v1/publish", 405),
        ("DELETE", "/api/v1/rooms", 405),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v2/rooms", 404),
        ("GET", "/api/v1/rooms?limit=0", 400),
        ("GET", "/api/v1/rooms?limit=x", 400),
        ("GET", "/api/v1/rooms?limit=1&limit=2", 400),
        ("GET", "/api/v1/rooms/%zz", 400),
        ("GET", "/api/v1/rooms/r/history?before=e1", 400),
        ("GET", "/api/v1/connections?cursor=x", 400),
        ("POST", "/api/v1/publish", 415),
    ] {
        let answer = api.try_ask(method, path, "", None).unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.json);
        assert!(answer.json["error"]["message"].is_string());
    }
    let body = json!({"room": "r", "data": 1});
    let long = "k".repeat(65);
    assert_eq!(api.post_once(&long, publish, &body).status, 400);
    // The same connection served all of it, and goes on.
    assert_eq!(api.post(publish, &body).status, 200);
}

#[test]
fn who_may_do_what() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let body = json!({"room": "r", "data": 1});
    for (token, read, write) in [
        (Some(TOKEN), 200, 200),
        (None, 200, 401),
        (Some("another"), 401, 401),
    ] {
        api.token = token.map(str::to_owned);
        assert_eq!(api.get("/api/v1/cluster").status, read);
        assert_eq!(api.post("/api/v1/publish", &body).status, write);
    }
    // Without a token in the configuration the API only tells.
    let plain = Baton::started();
    let mut api = Api::connect(plain.admin);
    api.token = None;
    assert_eq!(api.get("/api/v1/cluster").status, 200);
    assert_eq!(api.post("/api/v1/publish", &body).status, 403);
    assert_eq!(http::get(plain.public, "/api/v1/cluster").status, 404);
}

#[test]
fn another_page_may_ask_if_it_is_listed() {
    let baton = with_api("origins = [\"https://ops.example\"]").start();
    let mut api = Api::connect(baton.admin);
    let mut ask = |method: &str, origin: &str| {
        let fields = format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n");
        api.send(method, "/api/v1/cluster", &fields, None).unwrap();
        api.client.response().unwrap()
    };
    for (method, status) in [("OPTIONS", 204), ("GET", 200)] {
        let good = ask(method, "https://ops.example");
        assert_eq!(good.status, status);
        assert_eq!(
            good.field("access-control-allow-origin"),
            Some("https://ops.example")
        );
        let other = ask(method, "https://other.example");
        assert_eq!(other.field("access-control-allow-origin"), None);
        assert_eq!(other.field("vary"), Some("Origin"));
    }
    let good = ask("OPTIONS", "https://ops.example");
    assert!(
        good.field("access-control-allow-headers")
            .unwrap()
            .contains("Authorization")
    );
}

#[test]
fn reload_and_scale_answer_when_they_are_done() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let before = baton.status();
    assert_eq!(api.ok("/api/v1/reload", Some(&json!({})))["ok"], true);
    let after = baton.status();
    let pids = |status: &harness::status::Status| -> Vec<i32> {
        status
            .workers
            .iter()
            .map(|worker| worker.guard_pid)
            .collect()
    };
    assert!(pids(&before).iter().all(|pid| !pids(&after).contains(pid)));
    // The connection itself has moved, and goes on.
    let said = api.ok("/api/v1/scale", Some(&json!({"workers": 3})));
    assert_eq!(said, json!({"ok": true, "workers": 3}));
    assert_eq!(baton.status().workers.len(), 3);
    assert_eq!(
        api.ok("/api/v1/scale", Some(&json!({"workers": 1})))["workers"],
        1
    );
    assert_eq!(baton.status().workers.len(), 1);
    for body in [
        json!({}),
        json!({"workers": 0}),
        json!({"workers": 65}),
        json!({"workers": "2"}),
    ] {
        assert_eq!(api.post("/api/v1/scale", &body).status, 400, "{body}");
    }
    baton.write_config("[api]\ntokens = [\"missing\"]\n");
    let failed = api.post("/api/v1/reload", &json!({}));
    failed.refused(409, "failed");
    assert!(
        failed.json["error"]["message"]
            .as_str()
            .unwrap()
            .contains("missing")
    );
    // And it serves on.
    assert_eq!(api.ok("/api/v1/cluster", None)["reload"]["running"], false);
}

#[test]
fn a_reload_is_answered_though_the_masters_brain_dies() {
    let baton = started();
    let mut api = Api::connect(baton.admin);
    let before = baton.status();
    api.send("POST", "/api/v1/reload", "", Some(&json!({})))
        .unwrap();
    baton.status_when("the reload is under way", |status| {
        status.json["reload"]["running"] == true
    });
    process::kill(before.master_brain_pid);
    let answer = api.answer().unwrap();
    assert_eq!(
        (answer.status, &answer.json["ok"]),
        (200, &json!(true)),
        "{}",
        answer.json
    );
    let old: Vec<i32> = before
        .workers
        .iter()
        .map(|worker| worker.guard_pid)
        .collect();
    let after = baton.status();
    assert!(
        after
            .workers
            .iter()
            .all(|worker| !old.contains(&worker.guard_pid))
    );
}

/// What was answered is there once, and what was not is there at most once, whoever dies.
#[test]
fn publishes_through_kills_and_reloads() {
    let baton = started();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let publisher = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut api = Api::connect(baton.admin);
            let mut answered = Vec::new();
            for n in 0..300 {
                let body = json!({"rooms": ["r", "s", "t"], "data": n});
                let said = api.ok("/api/v1/publish", Some(&body));
                answered.push(said["published"][0]["pos"].as_str().unwrap().to_owned());
            }
            answered
        });
        let mut round = 0;
        while !writer.is_finished() {
            round += 1;
            let status = baton.status();
            match round % 4 {
                0 => process::kill(status.master_brain_pid),
                2 => _ = baton.expect(&["reload"], 0),
                _ => status
                    .workers
                    .iter()
                    .for_each(|worker| process::kill(worker.pid)),
            }
        }
        writer.join().unwrap()
    });
    for (n, position) in publisher.iter().enumerate() {
        let message = member.message();
        assert_eq!(message["data"], n);
        assert_eq!(message["pos"], **position);
    }
    member.nothing();
}

/// A brain dies at a place in the middle of a request, again and again: it is answered all the same,
/// and each room has the message once.
#[test]
fn publishes_though_a_brain_dies_in_the_middle() {
    for point in [
        "master:api-publish",
        "master:api-published",
        "master:told",
        "worker:api-answer",
        "worker:api-answered",
    ] {
        let faults = Faults::new();
        let baton = with_api_as(faults.builder(), "").start();
        let mut api = Api::connect(baton.admin);
        let rooms = ["r", "s", "t"];
        let mut members = rooms.map(|room| {
            let mut member = Client::connect(baton.public);
            member.join(room);
            member
        });
        for (n, passes) in [1, 1].into_iter().enumerate() {
            faults.arm(
                point,
                passes + n as u64 * u64::from(point.contains("publish")),
            );
            let said = api.ok("/api/v1/publish", Some(&json!({"rooms": rooms, "data": n})));
            faults.wait_for(point);
            for (i, member) in members.iter_mut().enumerate() {
                let message = member.message();
                assert_eq!(message["data"], n, "{point}");
                assert_eq!(message["pos"], said["published"][i]["pos"], "{point}");
            }
        }
        faults.arm(point, 1);
        let broadcast = api.ok("/api/v1/broadcast", Some(&json!({"data": "all"})));
        assert_eq!(broadcast, json!({"rooms": 3}), "{point}");
        for member in &mut members {
            assert_eq!(member.message()["data"], "all", "{point}");
            member.nothing();
        }
    }
}

#[test]
fn decides_about_users_and_what_they_said() {
    let config = "[[room]]\nmatch = \"*\"\nhistory = 10\n";
    let baton = with_api(config).start();
    let mut api = Api::connect(baton.admin);
    let mut member = Client::connect(baton.public);
    let mut other = Client::connect(baton.public);
    member.join("r");
    other.join("r");
    let cid = member.cid().to_owned();
    let first = member.publish("r", json!("one"));
    assert_eq!(other.message()["data"], "one");
    member.message();

    let said = api.ok(
        "/api/v1/mute",
        Some(&json!({"user": cid, "room": "r", "for_ms": 60_000})),
    );
    assert!(
        said["until_ms"].as_u64() > Some(1_700_000_000_000),
        "{said}"
    );
    assert_eq!(other.event()["muted"], json!(cid));
    assert_eq!(member.error(json!({"send": "r", "data": 1})), "forbidden");
    assert_eq!(
        api.ok("/api/v1/unmute", Some(&json!({"user": cid, "room": "r"}))),
        json!({"ok": true})
    );
    assert_eq!(other.event()["unmuted"], json!(cid));

    let position = first.to_string();
    let said = api.ok(
        "/api/v1/delete",
        Some(&json!({"room": "r", "pos": position})),
    );
    assert_eq!(said, json!({"ok": true, "pos": position}));
    assert_eq!(other.event(), json!({"room": "r", "deleted": position}));
    let history = api.ok("/api/v1/rooms/r/history", None);
    assert_eq!(
        history["messages"],
        json!([{"room": "r", "deleted": position}])
    );
    assert_eq!(
        api.ok("/api/v1/clear", Some(&json!({"room": "r"})))["pos"],
        json!(position)
    );
    assert_eq!(other.event(), json!({"room": "r", "cleared": position}));
    for (path, body) in [
        ("/api/v1/delete", json!({"room": "r", "pos": "e1:1"})),
        ("/api/v1/clear", json!({"room": "none"})),
    ] {
        assert_eq!(api.post(path, &body).status, 404, "{path}");
    }
    for (path, body) in [
        ("/api/v1/delete", json!({"room": "r"})),
        ("/api/v1/mute", json!({"room": "r"})),
        ("/api/v1/mute", json!({"address": "10.0.0.1"})),
        ("/api/v1/ban", json!({"address": "10.0.0.1", "room": "r"})),
        ("/api/v1/ban", json!({"address": "nowhere"})),
        ("/api/v1/kick", json!({"user": ""})),
        // A variable that was empty decides nothing for all rooms.
        ("/api/v1/ban", json!({"user": "u7", "room": null})),
    ] {
        assert_eq!(api.post(path, &body).status, 400, "{path} {body}");
    }

    api.ok("/api/v1/ban", Some(&json!({"user": cid, "room": "r"})));
    assert_eq!(other.event()["banned"], json!(cid));
    assert_eq!(member.error(json!({"join": "r"})), "forbidden");
    api.ok("/api/v1/unban", Some(&json!({"user": cid, "room": "r"})));
    assert_eq!(other.event()["unbanned"], json!(cid));
    member.join("r");
    api.ok("/api/v1/kick", Some(&json!({"user": cid})));
    assert_eq!(member.close_code(), 4003);
}

/// What the README shows is what runs.
#[test]
fn the_examples_publish() {
    let root = env!("CARGO_MANIFEST_DIR");
    let readme = std::fs::read_to_string(format!("{root}/../README.md")).expect("the README");
    let (_, section) = readme
        .split_once("### A back end that publishes")
        .expect("it is there");
    let example = |language: &str| {
        let (_, rest) = section
            .split_once(&format!("```{language}\n"))
            .expect("an example");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    let baton = started();
    let mut member = Client::connect(baton.public);
    member.join("r");
    let directory = baton.config_file().parent().unwrap().to_owned();
    for (language, program, name) in [
        ("sh", "sh", "x.sh"),
        ("python", "python3", "x.py"),
        ("js", "node", "x.mjs"),
    ] {
        let text = example(language).replace("127.0.0.1:8001", &baton.admin.to_string());
        // The token is there already.
        let lines = text.lines().filter(|line| !line.starts_with("openssl"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(directory.join(name), text).unwrap();
        let output = std::process::Command::new(program)
            .arg(name)
            .current_dir(&directory)
            .env("no_proxy", "*")
            .env("NO_PROXY", "*")
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(member.message()["data"]["text"], "hello", "{program}");
    }
}
