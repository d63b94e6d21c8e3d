//! Who moderates a room: what it decides counts for everybody, on whichever worker, and goes on to do
//! so, whoever dies, moves or starts anew.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use harness::faults::Faults;
use harness::rooms::{Client, Position};
use harness::socket::Options;
use harness::tokens::{with_key, with_rights};
use harness::websocket::WebSocket;
use harness::{Baton, eventually, http, process};
use serde_json::{Value, json};

const CONFIG: &str = "[auth]\nanonymous = \"full\"\n[[room]]\nmatch = \"*\"\nhistory = 100\n";

fn baton() -> Baton {
    with_key(Baton::builder().config(CONFIG)).start()
}

const MEMBER: [&str; 4] = ["join", "send", "presence", "history"];

/// A user on this worker, who may do everything but moderate.
fn user(baton: &Baton, user: &str, worker: u64) -> Client {
    let token = with_rights(user, json!({ "*": MEMBER }));
    Client::on_worker(baton.public, worker).shown(&token)
}

/// One who may moderate the rooms of this pattern, and do everything else in all.
fn moderator(baton: &Baton, user: &str, rooms: &str) -> Client {
    let mut rights = json!({ "*": MEMBER });
    match rights.get_mut(rooms) {
        Some(all) => all.as_array_mut().unwrap().push("moderate".into()),
        None => rights[rooms] = json!(["moderate"]),
    }
    Client::on_worker(baton.public, 1).shown(&with_rights(user, rights))
}

/// The error's code, and in how many milliseconds to come again.
#[track_caller]
fn refused(client: &mut Client, object: Value) -> (String, Option<u64>) {
    let reply = client.ask(object.clone());
    let error = &reply["error"];
    let code = error["code"].as_str();
    let code = code.unwrap_or_else(|| panic!("{object}: {reply}"));
    (code.to_owned(), error["retry_after_ms"].as_u64())
}

const FOR_GOOD: Option<u64> = None;

fn forbidden(retry_after_ms: Option<u64>) -> (String, Option<u64>) {
    ("forbidden".to_owned(), retry_after_ms)
}

#[test]
fn who_is_muted_is_heard_again_when_it_is_not() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "r");
    let mut u7 = user(&baton, "u7", 2);
    let mut packed = Client::msgpack(baton.public);
    for client in [&mut moderator, &mut u7, &mut packed] {
        client.join("r");
    }
    let ok = moderator.ok(json!({ "mute": "u7", "room": "r", "for_ms": 600_000 }));
    let until = ok["until_ms"].as_u64().expect("it ends");
    for client in [&mut moderator, &mut u7, &mut packed] {
        let told = json!({ "room": "r", "muted": "u7", "until_ms": until });
        assert_eq!(client.event(), told);
    }
    for _ in 0..2 {
        let (code, after) = refused(&mut u7, json!({ "send": "r", "data": 1 }));
        assert_eq!(code, "forbidden");
        assert!(
            after.is_some_and(|ms| (300_000..=600_000).contains(&ms)),
            "{after:?}"
        );
        // Who wants no answer is told as well.
        u7.tell(json!({ "send": "r", "data": 1 }));
        assert_eq!(u7.event()["error"]["code"], "forbidden");
        baton.shake();
    }
    u7.publish("elsewhere", json!(1));
    packed.publish("r", json!("others go on"));
    assert_eq!(moderator.message()["data"], "others go on");
    assert_eq!(
        moderator.ok(json!({ "unmute": "u7", "room": "r" })),
        json!({})
    );
    let told = json!({ "room": "r", "unmuted": "u7" });
    assert_eq!(moderator.event(), told);
    u7.publish("r", json!("here I am"));
    assert_eq!(moderator.message()["data"], "here I am");
    // For good.
    assert_eq!(
        moderator.ok(json!({ "mute": "u7", "room": "r" })),
        json!({})
    );
    let said = json!({ "send": "r", "data": 1 });
    assert_eq!(refused(&mut u7, said), forbidden(FOR_GOOD));
}

#[test]
fn who_is_banned_from_a_room_leaves_it_and_does_not_come_in() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "r");
    let mut others = [1, 2].map(|worker| user(&baton, "u8", worker));
    let mut connections = [1, 2, 2].map(|worker| user(&baton, "u7", worker));
    let token = with_rights("u7", json!({ "*": MEMBER }));
    let mut packed = Client::msgpack(baton.public).shown(&token);
    for client in connections.iter_mut().chain(&mut others) {
        client.join("r");
        client.join("s");
    }
    packed.join("r");
    moderator.ok(json!({ "ban": "u7", "room": "r" }));
    let told = json!({ "room": "r", "banned": "u7" });
    for client in connections.iter_mut().chain([&mut packed]) {
        assert_eq!(client.event(), told);
    }
    // Who has been told has left.
    let last = moderator.publish("r", json!("behind it"));
    for client in connections.iter_mut().chain([&mut packed]) {
        client.nothing();
        assert_eq!(client.error(json!({ "leave": "r" })), "not_joined");
    }
    for client in &mut others {
        assert_eq!(client.event(), told);
        assert_eq!(client.message()["data"], "behind it");
    }
    let [first, ..] = &mut connections;
    for _ in 0..2 {
        for asked in [
            json!({ "join": "r" }),
            json!({ "join": "r", "since": last.to_string() }),
            json!({ "send": "r", "data": 1 }),
            json!({ "who": "r" }),
            json!({ "history": "r" }),
        ] {
            assert_eq!(refused(first, asked), forbidden(FOR_GOOD));
        }
        first.publish("s", json!("still here"));
        assert_eq!(others[1].message()["data"], "still here");
        assert_eq!(first.message()["data"], "still here");
        baton.shake();
    }
    moderator.ok(json!({ "unban": "u7", "room": "r" }));
    assert_eq!(others[0].message()["data"], "still here");
    assert_eq!(others[0].message()["data"], "still here");
    assert_eq!(others[0].event(), json!({ "room": "r", "unbanned": "u7" }));
    first.join("r");
    first.publish("r", json!("back"));
    assert_eq!(others[0].message()["data"], "back");
}

#[test]
fn who_is_banned_everywhere_is_closed_and_comes_back_to_that() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    let mut connections = [1, 2].map(|worker| user(&baton, "u7", worker));
    let mut bystander = user(&baton, "u8", 2);
    bystander.join("r");
    connections[0].join("r");
    moderator.ok(json!({ "ban": "u7" }));
    for client in &mut connections {
        assert_eq!(client.close_code(), 4004);
    }
    for _ in 0..2 {
        let mut again = Client::connect(baton.public);
        again.tell(json!({ "id": 1, "auth": with_rights("u7", json!({ "*": MEMBER })) }));
        assert_eq!(again.close_code(), 4004);
        baton.shake();
    }
    bystander.nothing();
    moderator.ok(json!({ "unban": "u7" }));
    user(&baton, "u7", 1).join("r");
}

#[test]
fn who_is_kicked_may_come_back() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    let mut u7 = user(&baton, "u7", 2);
    let mut nobody = Client::on_worker(baton.public, 2);
    let cid = nobody.cid().to_owned();
    for client in [&mut moderator, &mut u7, &mut nobody] {
        client.join("r");
    }
    moderator.ok(json!({ "kick": "u7", "room": "r" }));
    let told = json!({ "room": "r", "kicked": "u7" });
    for client in [&mut moderator, &mut u7, &mut nobody] {
        assert_eq!(client.event(), told);
    }
    assert_eq!(u7.error(json!({ "leave": "r" })), "not_joined");
    u7.join("r");
    moderator.ok(json!({ "kick": cid, "room": "r" }));
    assert_eq!(nobody.event(), json!({ "room": "r", "kicked": cid }));
    nobody.join("r");
    moderator.ok(json!({ "kick": cid }));
    assert_eq!(nobody.close_code(), 4003);
    let mut second = user(&baton, "u7", 1);
    second.nothing();
    moderator.ok(json!({ "kick": "u7" }));
    assert_eq!((u7.close_code(), second.close_code()), (4003, 4003));
    user(&baton, "u7", 1).join("r");
}

#[test]
fn who_is_muted_everywhere_is_told() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    let mut connections = [1, 2].map(|worker| user(&baton, "u7", worker));
    moderator.ok(json!({ "mute": "u7" }));
    for client in &mut connections {
        assert_eq!(client.event(), json!({ "muted": "u7" }));
        let said = json!({ "send": "any", "data": 1 });
        assert_eq!(refused(client, said), forbidden(FOR_GOOD));
    }
    moderator.nothing();
    moderator.ok(json!({ "unmute": "u7" }));
    assert_eq!(connections[0].event(), json!({ "unmuted": "u7" }));
    connections[0].publish("any", json!(1));
}

#[test]
fn an_address_is_banned() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    let from = |address: &str| Options {
        from: Some(address.parse().unwrap()),
        ..Options::default()
    };
    let mut inside = Client::connect_with(baton.public, from("127.0.5.9"));
    let mut outside = Client::connect_with(baton.public, from("127.0.6.9"));
    let ban = json!({ "ban": true, "address": "127.0.5.0/24" });
    moderator.ok(ban);
    assert_eq!(inside.close_code(), 4004);
    outside.nothing();
    let to = baton.public;
    let open = |path: &str, address| WebSocket::try_connect(to, path, &[], from(address));
    let come = |address| open("/rooms", address).expect("a handshake").close_code();
    assert_eq!(come("127.0.5.200"), 4004);
    baton.shake();
    assert_eq!(come("127.0.5.1"), 4004);
    outside.nothing();
    // Nothing else is for them either.
    let ask = |address| {
        let mut client = http::Client::connect_with(to, from(address));
        client.send(format!("{GET}{GET}")).unwrap();
        let first = client.response().unwrap().status;
        (first, client.response().map(|second| second.status).ok())
    };
    assert_eq!(ask("127.0.5.7"), (403, None));
    assert_eq!(ask("127.0.6.7"), (200, Some(200)));
    assert!(open("/echo", "127.0.5.7").is_err());
    assert!(open("/echo", "127.0.6.7").is_ok());
    // One that is there already, and was let in.
    let mut kept = http::Client::connect_with(to, from("127.0.8.7"));
    assert_eq!(kept.get("/healthz").status, 200);
    moderator.ok(json!({ "ban": true, "address": "127.0.8.0/24" }));
    assert_eq!(kept.get("/healthz").status, 403);
    // Operators are not locked out.
    let mut operator = Client::connect_with(baton.admin, from("127.0.5.9"));
    operator.nothing();
    let mut operator = http::Client::connect_with(baton.admin, from("127.0.5.9"));
    assert_eq!(operator.get("/healthz").status, 200);
    moderator.ok(json!({ "unban": true, "address": "127.0.5.0/24" }));
    Client::connect_with(to, from("127.0.5.1")).nothing();
    assert_eq!(ask("127.0.5.7"), (200, Some(200)));
}

const GET: &str = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn it_takes_the_right_to_moderate() {
    let baton = baton();
    let mut in_r = moderator(&baton, "m1", "r");
    let mut u7 = user(&baton, "u7", 2);
    let mut nobody = Client::connect(baton.public);
    let first = u7.publish("r", json!(1));
    let all = [
        json!({ "mute": "u8", "room": "r" }),
        json!({ "unmute": "u8", "room": "r" }),
        json!({ "ban": "u8", "room": "r" }),
        json!({ "unban": "u8", "room": "r" }),
        json!({ "kick": "u8", "room": "r" }),
        json!({ "delete": first.to_string(), "room": "r" }),
        json!({ "clear": "r" }),
    ];
    for object in &all {
        assert_eq!(u7.error(object.clone()), "forbidden");
        assert_eq!(nobody.error(object.clone()), "forbidden");
        in_r.ok(object.clone());
        let mut elsewhere = object.clone();
        let place = if object.get("clear").is_some() {
            "clear"
        } else {
            "room"
        };
        elsewhere[place] = json!("s");
        assert_eq!(in_r.error(elsewhere), "forbidden");
    }
    for verb in ["mute", "unmute", "ban", "unban", "kick"] {
        assert_eq!(in_r.error(json!({ verb: "u8" })), "forbidden");
    }
    let address = json!({ "ban": true, "address": "10.0.0.1" });
    assert_eq!(in_r.error(address), "forbidden");
    for wrong in [
        json!({ "mute": 7, "room": "r" }),
        json!({ "mute": "u8", "room": "r", "for_ms": -1 }),
        json!({ "ban": true, "address": "nowhere" }),
        json!({ "delete": first.to_string() }),
        json!({ "delete": "e1:1", "room": "r" }),
        json!({ "delete": format!("{}:99", first.epoch), "room": "r" }),
    ] {
        assert_eq!(in_r.error(wrong), "bad_request");
    }
}

#[test]
fn what_ends_by_itself_ends() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    let mut u7 = user(&baton, "u7", 2);
    u7.join("r");
    moderator.ok(json!({ "ban": "u7", "room": "r", "for_ms": 400 }));
    moderator.ok(json!({ "mute": "u7", "room": "s", "for_ms": 400 }));
    assert_eq!(u7.event()["banned"], "u7");
    let (code, after) = refused(&mut u7, json!({ "join": "r" }));
    assert_eq!(code, "forbidden");
    assert!(after.is_some_and(|ms| (1..=400).contains(&ms)));
    eventually("the ban is over", || {
        u7.ask(json!({ "join": "r" }))["ok"].is_object()
    });
    eventually("so is the mute", || {
        u7.ask(json!({ "send": "s", "data": 1 }))["ok"].is_object()
    });
}

/// Seen: what had been asked while there was no brain of the master was decided before the next one knew
/// what time it was, and was over at once.
#[test]
fn what_is_asked_while_the_master_is_away_lasts_as_long_as_it_says() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "r");
    let mut u7 = user(&baton, "u7", 2);
    let brain = baton.status().master_brain_pid;
    process::stop(brain);
    let asked = unix_ms();
    moderator.tell(json!({ "id": "mute", "mute": "u7", "room": "r", "for_ms": 600_000 }));
    // That it has been read: nobody waits for the master to say this.
    moderator.ok(json!({ "ping": true }));
    process::kill(brain);
    let reply = moderator.reply(&json!("mute"));
    let until = reply["ok"]["until_ms"].as_u64();
    assert!(until >= Some(asked + 600_000), "{reply}");
    let (code, _) = refused(&mut u7, json!({ "send": "r", "data": 1 }));
    assert_eq!(code, "forbidden");
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is later than 1970").as_millis() as u64
}

#[test]
fn a_full_table_is_said() {
    let builder = Baton::builder().config(CONFIG);
    let baton = with_key(builder.config("[limits]\nsanctions = 2\n")).start();
    let mut moderator = moderator(&baton, "m1", "*");
    for who in ["a", "b", "a"] {
        moderator.ok(json!({ "mute": who }));
    }
    assert_eq!(moderator.error(json!({ "mute": "c" })), "limit");
    moderator.ok(json!({ "unmute": "a" }));
    moderator.ok(json!({ "mute": "c" }));
}

/// What a client is given when it comes back: an offset, and whether there is a message still.
fn recovered(client: &mut Client, since: &str) -> (Vec<(u64, bool)>, Value) {
    client.tell(json!({ "id": "join", "join": "r", "since": since }));
    let mut before = Vec::new();
    loop {
        let said = client.read();
        if said["id"] == "join" {
            return (before, said["ok"].clone());
        }
        before.push(place(&said));
    }
}

fn place(said: &Value) -> (u64, bool) {
    match said.get("deleted") {
        Some(position) => {
            assert!(said.get("data").is_none() && said.get("from").is_none());
            (Position::parse(position).offset, false)
        }
        None => (Position::parse(&said["pos"]).offset, true),
    }
}

#[test]
fn a_deleted_message_is_shown_to_nobody_any_more() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "r");
    let mut u7 = user(&baton, "u7", 2);
    let mut packed = Client::msgpack(baton.public);
    for client in [&mut moderator, &mut u7, &mut packed] {
        client.join("r");
    }
    let positions: Vec<_> = (0..6).map(|n| u7.publish("r", json!(n))).collect();
    for client in [&mut moderator, &mut u7, &mut packed] {
        (0..6).for_each(|_| _ = client.message());
    }
    for n in [2, 5, 2] {
        let deleted = positions[n].to_string();
        let ok = moderator.ok(json!({ "delete": &deleted, "room": "r" }));
        assert_eq!(ok, json!({ "pos": &deleted }));
        for client in [&mut moderator, &mut u7, &mut packed] {
            assert_eq!(client.event(), json!({ "room": "r", "deleted": &deleted }));
        }
    }
    let expected = vec![(2, true), (3, false), (4, true), (5, true), (6, false)];
    for _ in 0..2 {
        for mut client in [Client::connect(baton.public), Client::msgpack(baton.public)] {
            let page = client.ok(json!({ "history": "r", "before": positions[4].to_string() }));
            let page = page["messages"].as_array().unwrap();
            let page: Vec<_> = page.iter().map(place).collect();
            assert_eq!(page, [(1, true), (2, true), (3, false), (4, true)]);
            let (missed, ok) = recovered(&mut client, &positions[0].to_string());
            assert_eq!((&missed, &ok["recovered"]), (&expected, &json!(true)));
            client.ok(json!({ "leave": "r" }));
            // The last value is none.
            client.tell(json!({ "id": "last", "join": "r", "last": true }));
            assert_eq!(place(&client.read()), (6, false));
            client.reply(&json!("last"));
        }
        baton.shake();
    }
}

#[test]
fn a_cleared_room_is_told_up_to_where() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "r");
    let mut packed = Client::msgpack(baton.public);
    packed.join("r");
    let positions: Vec<_> = (0..3).map(|n| moderator.publish("r", json!(n))).collect();
    (0..3).for_each(|_| _ = packed.message());
    let last = positions[2].to_string();
    assert_eq!(
        moderator.ok(json!({ "clear": "r" })),
        json!({ "pos": &last })
    );
    assert_eq!(packed.event(), json!({ "room": "r", "cleared": &last }));
    let page = packed.ok(json!({ "history": "r" }));
    assert_eq!(page, json!({ "messages": [] }));
    let (missed, ok) = recovered(&mut moderator, &positions[0].to_string());
    assert_eq!((missed.len(), &ok["recovered"]), (0, &json!(false)));
    assert_eq!(moderator.publish("r", json!(3)).offset, 4);
    assert_eq!(packed.message()["data"], 3);
    assert_eq!(moderator.error(json!({ "clear": "nowhere" })), "forbidden");
}

/// While many come back again and again, messages are deleted: each of them finds every place, with
/// its message or as one that was deleted.
#[test]
fn who_comes_back_while_messages_are_deleted_finds_every_place() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "r");
    let mut sender = user(&baton, "u7", 2);
    let first = sender.publish("r", json!(0));
    let to = baton.public;
    let back: Vec<_> = (0..4)
        .map(|i| {
            let since = first.to_string();
            thread::spawn(move || {
                let mut holes = 0;
                for round in 0..30 {
                    let mut client = match (i + round) % 2 {
                        0 => Client::connect(to),
                        _ => Client::msgpack(to),
                    };
                    let (missed, ok) = recovered(&mut client, &since);
                    assert_eq!(ok["recovered"], true);
                    let upto = Position::parse(&ok["pos"]).offset;
                    let offsets: Vec<_> = missed.iter().map(|(offset, _)| *offset).collect();
                    assert_eq!(offsets, (2..=upto).collect::<Vec<_>>());
                    holes += missed.iter().filter(|(_, is_there)| !is_there).count();
                }
                holes
            })
        })
        .collect();
    let mut positions = Vec::new();
    for n in 0..80 {
        positions.push(sender.publish("r", json!(n)));
        if n % 3 == 2 {
            let deleted = positions[n - 1].to_string();
            moderator.ok(json!({ "delete": deleted, "room": "r" }));
        }
    }
    let holes: usize = back.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(holes > 0, "some came back behind a deletion");
}

/// Brains die at the very places where a decision is made and carried out.
#[test]
fn brains_die_in_the_middle_of_a_decision() {
    let faults = Faults::new();
    let baton = with_key(faults.builder().config(CONFIG)).start();
    let mut moderator = moderator(&baton, "m1", "*");
    let mut watcher = user(&baton, "watcher", 2);
    watcher.join("r");
    let points = [
        "master:append",
        "master:appended",
        "worker:fan-out",
        "worker:materialise",
        "worker:flushed",
        "worker:write",
        "worker:publish",
    ];
    let mut reached = BTreeSet::new();
    for (round, point) in points.iter().cycle().take(14).enumerate() {
        let name = format!("u{round}");
        let mut room_only = user(&baton, &name, 2);
        room_only.join("r");
        room_only.join("s");
        let mut gone = user(&baton, &format!("g{round}"), 2);
        gone.join("r");
        faults.arm(point, 1);
        moderator.ok(json!({ "ban": &name, "room": "r" }));
        moderator.ok(json!({ "ban": format!("g{round}") }));
        let told = json!({ "room": "r", "banned": &name });
        assert_eq!(room_only.event(), told, "{point}");
        assert_eq!(watcher.event(), told, "{point}");
        assert_eq!(gone.event(), told, "{point}");
        assert_eq!(gone.close_code(), 4004, "{point}");
        watcher.publish("r", json!(round));
        assert_eq!(watcher.message()["data"], json!(round), "{point}");
        room_only.nothing();
        assert_eq!(room_only.error(json!({ "leave": "r" })), "not_joined");
        room_only.ok(json!({ "leave": "s" }));
        if faults.is_reached(point) {
            reached.insert(*point);
        }
        faults.disarm(point);
    }
    assert_eq!(reached, BTreeSet::from(points), "a brain died at each");
}

/// Connections that are on their way from one worker to another meanwhile leave as well, and are told
/// once.
#[test]
fn who_moves_while_it_is_banned_leaves() {
    let baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    let mut users: Vec<_> = (0..60)
        .map(|n| {
            let mut client = user(&baton, &format!("u{n}"), 1 + n % 2);
            client.join("r");
            client.join(&format!("own{n}"));
            client
        })
        .collect();
    thread::scope(|scope| {
        let reload = scope.spawn(|| {
            for _ in 0..2 {
                baton.expect(&["reload"], 0);
            }
        });
        let mut n = 0;
        while n < users.len() || !reload.is_finished() {
            let name = format!("u{}", n % users.len());
            match n % 3 {
                0 if n < 60 => moderator.ok(json!({ "ban": name })),
                _ if n < 60 => moderator.ok(json!({ "ban": name, "room": "r" })),
                _ => moderator.ok(json!({ "ping": true })),
            };
            n += 1;
        }
    });
    moderator.publish("r", json!("behind it all"));
    for (n, client) in users.iter_mut().enumerate() {
        let mine = format!("u{n}");
        if n % 3 == 0 {
            assert_eq!(client.close_code(), 4004, "{mine}");
            continue;
        }
        let mut told = Vec::new();
        loop {
            let said = client.event();
            assert!(said.get("data").is_none(), "{mine}: {said}");
            told.push(said["banned"].as_str().unwrap().to_owned());
            if *told.last().unwrap() == mine {
                break;
            }
        }
        client.nothing();
        assert_eq!(client.error(json!({ "leave": "r" })), "not_joined");
        client.ok(json!({ "leave": format!("own{n}") }));
    }
}

/// Its worker has noted what it has been given, and not sent it yet. The next one has read the log already
/// when it comes, and finds there what was decided meanwhile.
#[test]
fn who_is_on_its_way_when_it_is_banned_leaves() {
    let faults = Faults::new();
    let baton = with_key(faults.builder().config(CONFIG)).start();
    let mut rights = json!({ "*": MEMBER });
    rights["*"].as_array_mut().unwrap().push("moderate".into());
    let mut moderator = Client::on_worker(baton.public, 2).shown(&with_rights("m1", rights));
    moderator.join("r");
    let mut users = ["u0", "u1", "u2"].map(|name| user(&baton, name, 1));
    for client in &mut users {
        client.join("r");
        client.join("s");
    }
    faults.arm_as("worker:give", "1 stop");
    let reload = baton.command(&["reload"]).spawn().expect("it can be run");
    faults.wait_for("worker:give");
    let stopped = baton.stopped();
    moderator.ok(json!({ "ban": "u0", "room": "r" }));
    moderator.ok(json!({ "ban": "u1" }));
    moderator.ok(json!({ "kick": "u2", "room": "r" }));
    moderator.publish("r", json!("behind it all"));
    process::go_on(stopped);
    let reloaded = reload.wait_with_output().expect("a child of ours");
    assert!(reloaded.status.success());
    let banned = json!({ "room": "r", "banned": "u0" });
    let kicked = json!({ "room": "r", "kicked": "u2" });
    let [u0, u1, u2] = &mut users;
    assert_eq!(u0.event(), banned);
    assert_eq!(u1.close_code(), 4004);
    assert_eq!([u2.event(), u2.event()], [banned, kicked]);
    for client in [u0, u2] {
        client.nothing();
        assert_eq!(client.error(json!({ "leave": "r" })), "not_joined");
        client.ok(json!({ "leave": "s" }));
    }
}

#[test]
fn what_is_in_force_is_so_after_a_restart() {
    let mut baton = baton();
    let mut moderator = moderator(&baton, "m1", "*");
    moderator.ok(json!({ "mute": "u7", "room": "r" }));
    moderator.ok(json!({ "ban": "u8", "for_ms": 600_000 }));
    moderator.ok(json!({ "ban": "u9", "room": "弾幕" }));
    moderator.ok(json!({ "mute": "over", "for_ms": 1 }));
    moderator.ok(json!({ "ban": true, "address": "127.0.7.0/24" }));
    moderator.ok(json!({ "mute": "not", "room": "r" }));
    moderator.ok(json!({ "unmute": "not", "room": "r" }));
    for _ in 0..2 {
        baton.expect(&["stop"], 0);
        baton.start();
        let mut u7 = user(&baton, "u7", 1);
        let said = json!({ "send": "r", "data": 1 });
        assert_eq!(refused(&mut u7, said), forbidden(FOR_GOOD));
        u7.publish("s", json!(1));
        let mut u9 = user(&baton, "u9", 2);
        let asked = json!({ "join": "弾幕" });
        assert_eq!(refused(&mut u9, asked), forbidden(FOR_GOOD));
        let mut u8 = Client::connect(baton.public);
        u8.tell(json!({ "auth": with_rights("u8", json!({ "*": MEMBER })) }));
        assert_eq!(u8.close_code(), 4004);
        for name in ["over", "not"] {
            user(&baton, name, 1).publish("r", json!(1));
        }
    }
}

#[test]
fn guard_and_brain_of_the_master_die_at_once_and_what_was_decided_is_known() {
    let mut baton = baton();
    let mut m1 = moderator(&baton, "m1", "*");
    m1.ok(json!({ "mute": "u7", "room": "r" }));
    let file = baton.run_dir().join("moderation.json");
    eventually("the file says so", || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("u7"))
    });
    let status = baton.status();
    process::kill(status.master_pid);
    process::kill(status.master_brain_pid);
    eventually("all are gone", || baton.processes().is_empty());
    baton.start();
    let said = json!({ "send": "r", "data": 1 });
    let mut u7 = user(&baton, "u7", 1);
    assert_eq!(refused(&mut u7, said), forbidden(FOR_GOOD));
}

#[test]
fn a_file_that_says_nothing_is_refused_and_left() {
    let mut baton = with_key(Baton::builder().config(CONFIG)).prepare();
    fs::create_dir_all(baton.run_dir()).unwrap();
    let file = baton.run_dir().join("moderation.json");
    let half = r#"{"version":1,"sanctions":[{"kind":"ban","who":"u7"},{"ki"#;
    fs::write(&file, half).unwrap();
    let output = baton.try_start();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("moderation.json"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(
        line.contains("move it away") && line.contains("line 1"),
        "{line}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), half);
    fs::rename(&file, file.with_extension("aside")).unwrap();
    baton.start();
}
