//! Who is in a room: lists, and what changes, as those see it who want to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::faults::Faults;
use harness::load::Random;
use harness::presence::{List, Watcher};
use harness::rooms::{Client, Position};
use harness::tokens::{token, with_key, with_rights};
use harness::{Baton, Builder, eventually, process};
use serde_json::{Value, json};

/// Who has no token may do everything.
fn builder(more: &str) -> Builder {
    let builder = Baton::builder().config(more);
    with_key(builder.config("[auth]\nanonymous = \"full\""))
}

/// A connection of this user that is served by this worker.
#[track_caller]
fn user(to: SocketAddr, name: &str, worker: u64) -> Client {
    Client::on_worker(to, worker).shown(&token(name))
}

fn names(value: &Value) -> BTreeSet<&str> {
    let names = value.as_array().expect("a list").iter();
    names.map(|name| name.as_str().expect("a name")).collect()
}

/// What `who` says, once it says so many users.
#[track_caller]
fn who(client: &mut Client, room: &str, distinct: u64) -> Value {
    let mut said = Value::Null;
    eventually("so many are in the room", || {
        said = client.ok(json!({ "who": room }));
        said["distinct"] == distinct
    });
    said
}

#[test]
fn who_is_there_is_said_over_all_workers() {
    let baton = builder("").start();
    let mut clients = [
        user(baton.public, "ann", 1),
        user(baton.public, "ann", 2),
        user(baton.public, "ann", 2),
        user(baton.public, "ben \"b\"", 2),
        Client::on_worker(baton.public, 1),
    ];
    clients.iter_mut().for_each(|client| _ = client.join("r"));
    let cid = clients[4].cid().to_owned();
    let [ann, .., nobody] = &mut clients;
    let said = who(ann, "r", 3);
    assert_eq!((&said["count"], &said["whole"]), (&json!(5), &json!(true)));
    assert_eq!(
        names(&said["users"]),
        BTreeSet::from(["ann", "ben \"b\"", &cid])
    );
    let some = ann.ok(json!({ "who": "r", "limit": 2 }));
    assert_eq!(
        (names(&some["users"]).len(), &some["whole"]),
        (2, &json!(false))
    );
    assert_eq!(some["count"], 5);
    // Who asks need not be in it.
    let empty = json!({ "count": 0, "distinct": 0, "users": [], "whole": true });
    assert_eq!(nobody.ok(json!({ "who": "another" })), empty);
    // One connection of several goes, the user stays; then the last.
    let [ann, second, third, ..] = &mut clients;
    third.ok(json!({ "leave": "r" }));
    second.ok(json!({ "leave": "r" }));
    eventually("three are left", || {
        ann.ok(json!({ "who": "r" }))["count"] == 3
    });
    assert!(names(&who(ann, "r", 3)["users"]).contains("ann"));
    ann.ok(json!({ "leave": "r" }));
    assert_eq!(
        names(&who(ann, "r", 2)["users"]),
        BTreeSet::from(["ben \"b\"", &cid])
    );
}

#[test]
fn a_list_comes_first_and_then_what_changes() {
    let baton = builder("").start();
    let mut ann = user(baton.public, "ann", 1);
    ann.join("r");
    who(&mut ann, "r", 1);
    let mut watchers = [1, 2].map(|worker| {
        let client = user(baton.public, &format!("w{worker}"), worker);
        Watcher::with(client, "r")
    });
    let hear = |watchers: &mut [Watcher], users: &[&str], count: u64| {
        for watcher in watchers {
            watcher.hear_of(users.iter().copied());
            watcher.hear_until(|list| list.count == count);
        }
    };
    assert!(watchers[0].list.users.as_ref().unwrap().contains("ann"));
    hear(&mut watchers, &["ann", "w1", "w2"], 3);
    let mut ben = user(baton.public, "ben", 2);
    ben.join("r");
    hear(&mut watchers, &["ann", "ben", "w1", "w2"], 4);
    // A second connection is counted, and is nobody who comes.
    let mut again = user(baton.public, "ann", 2);
    again.join("r");
    hear(&mut watchers, &["ann", "ben", "w1", "w2"], 5);
    assert_eq!(watchers[0].events.last().unwrap()["in"], json!([]));
    ann.ok(json!({ "leave": "r" }));
    hear(&mut watchers, &["ann", "ben", "w1", "w2"], 4);
    drop(again);
    hear(&mut watchers, &["ben", "w1", "w2"], 3);
    // Who shows a token is another from then on.
    let mut nobody = Client::on_worker(baton.public, 1);
    nobody.join("r");
    let cid = nobody.cid().to_owned();
    hear(&mut watchers, &["ben", &cid, "w1", "w2"], 4);
    nobody.ok(json!({ "auth": token("cem") }));
    hear(&mut watchers, &["ben", "cem", "w1", "w2"], 4);
    // Who does not want to hear of it any more does not; who never did has not.
    let [first, second] = &mut watchers;
    second.client.ok(json!({ "join": "r", "presence": false }));
    ben.ok(json!({ "leave": "r" }));
    first.hear_of(["cem", "w1", "w2"]);
    second.client.nothing();
    ben.nothing();
    // And begins again with a list.
    let [_first, second] = watchers;
    let mut second = Watcher::with(second.client, "r");
    second.hear_of(["cem", "w1", "w2"]);
    assert!(second.named().0.is_empty());
}

/// Whatever is done to the processes, nobody comes and nobody goes by it, and what does come is told.
#[test]
fn who_is_moved_or_recovered_neither_leaves_nor_joins() {
    let baton = builder("").start();
    let mut members: Vec<Client> = (0..8)
        .map(|n| user(baton.public, &format!("u{n}"), 1 + n % 2))
        .collect();
    members.iter_mut().for_each(|client| _ = client.join("r"));
    let mut watchers: Vec<Watcher> = (1..=2)
        .map(|worker| Watcher::with(user(baton.public, &format!("w{worker}"), worker), "r"))
        .collect();
    let everybody: Vec<String> = (0..8)
        .map(|n| format!("u{n}"))
        .chain(["w1", "w2"].map(str::to_owned))
        .collect();
    for watcher in &mut watchers {
        watcher.hear_of(everybody.iter().map(String::as_str));
        watcher.hear_until(|list| list.count == 10);
        watcher.events.clear();
    }
    let kill_workers = || {
        baton.kill_brains(baton.status().brains());
    };
    let kill_master = || {
        let brain = baton.status().master_brain_pid;
        process::kill(brain);
        eventually("the brain is gone", || !process::is_alive(brain));
        baton.status();
    };
    let command = |args: &[&str]| _ = baton.expect(args, 0);
    let deeds: [(&str, &dyn Fn()); 7] = [
        ("workers", &kill_workers),
        ("reload", &|| command(&["reload"])),
        ("master", &kill_master),
        ("up", &|| command(&["scale", "4"])),
        ("down", &|| command(&["scale", "2"])),
        ("reload and master", &|| {
            command(&["reload"]);
            kill_master();
        }),
        ("all", &|| {
            kill_workers();
            kill_master();
        }),
    ];
    for (number, (deed, shake)) in deeds.into_iter().enumerate() {
        shake();
        // One who really comes is told, and nothing besides.
        let name = format!("after {number}");
        let mut late = Client::with_token(baton.public, &token(&name));
        late.join("r");
        for watcher in &mut watchers {
            watcher.hear_until(|list| list.count == 11);
            assert_eq!(watcher.named().0, BTreeSet::from([name.clone()]), "{deed}");
        }
        drop(late);
        for watcher in &mut watchers {
            watcher.hear_of(everybody.iter().map(String::as_str));
            watcher.hear_until(|list| list.count == 10);
            assert_eq!(watcher.named().1, BTreeSet::from([name.clone()]), "{deed}");
            assert!(watcher.events.iter().all(|event| event["users"].is_null()));
            watcher.events.clear();
        }
    }
}

#[test]
fn a_worker_that_is_lost_altogether_takes_its_users_along() {
    let baton = builder("").start();
    let mut ann = user(baton.public, "ann", 1);
    let mut twice = [1, 2].map(|worker| user(baton.public, "ben", worker));
    ann.join("r");
    twice.iter_mut().for_each(|client| _ = client.join("r"));
    let mut watcher = Watcher::with(user(baton.public, "w", 2), "r");
    watcher.hear_of(["ann", "ben", "w"]);
    let status = baton.status();
    let worker = status.worker(1);
    process::stop(worker.guard_pid);
    process::kill(worker.pid);
    process::kill(worker.guard_pid);
    // Who is still somewhere else stays.
    watcher.hear_of(["ben", "w"]);
    watcher.hear_until(|list| list.count == 2);
    assert_eq!(watcher.named().1, BTreeSet::from(["ann".to_owned()]));
}

#[test]
fn rights_are_kept_to() {
    let baton = builder("").start();
    let mut client = Client::with_rights(baton.public, "u", &["join", "send"]);
    let watch = json!({ "join": "r", "presence": true });
    assert_eq!(client.error(watch.clone()), "forbidden");
    assert_eq!(client.error(json!({ "who": "r" })), "forbidden");
    client.join("r");
    assert_eq!(client.error(watch.clone()), "forbidden");
    client.ok(json!({ "auth": with_rights("u", json!({ "*": ["join", "presence"] })) }));
    let mut watcher = Watcher::with(client, "r");
    // A right in use cannot be taken away, but that it is given up before.
    let less = json!({ "auth": with_rights("u", json!({ "*": ["join"] })) });
    assert_eq!(watcher.client.error(less.clone()), "forbidden");
    watcher.client.ok(json!({ "join": "r", "presence": false }));
    watcher.client.ok(less);
    assert_eq!(watcher.client.error(watch), "forbidden");
}

#[test]
fn a_large_room_is_told_in_numbers() {
    let more = "[rooms]\npresence = 4\n[[room]]\nmatch = \"counted\"\npresence = 0";
    let baton = builder(more).start();
    let mut watcher = Watcher::with(user(baton.public, "w", 1), "r");
    watcher.hear_of(["w"]);
    let mut members: Vec<Client> = (0..9)
        .map(|n| user(baton.public, &format!("u{n}"), 1 + n % 2))
        .collect();
    members.iter_mut().for_each(|client| _ = client.join("r"));
    watcher.hear_until(|list| list.count == 10 && list.distinct == Some(10));
    assert_eq!(watcher.list.users, None);
    let said = who(&mut watcher.client, "r", 10);
    assert_eq!(
        (names(&said["users"]).len(), &said["whole"]),
        (10, &json!(true))
    );
    let said = watcher.client.ok(json!({ "who": "r", "limit": 3 }));
    assert_eq!(
        (names(&said["users"]).len(), &said["whole"]),
        (3, &json!(false))
    );
    // Who comes now gets no list, either.
    let another = Watcher::with(user(baton.public, "w2", 2), "r");
    assert_eq!(another.list.users, None);
    drop(another);
    // One fewer than too many is not enough.
    members.truncate(3);
    watcher.hear_until(|list| list.count == 4);
    assert_eq!(watcher.list.users, None);
    members.truncate(2);
    watcher.hear_of(["u0", "u1", "w"]);
    assert!(watcher.events.last().unwrap()["users"].is_array());
    // Where users are not told apart, connections are counted.
    let mut watcher = Watcher::with(user(baton.public, "w", 1), "counted");
    members[1].join("counted");
    watcher.hear_until(|list| list.count == 2);
    assert_eq!((&watcher.list.users, watcher.list.distinct), (&None, None));
    let said = members[0].ok(json!({ "who": "counted" }));
    assert_eq!(said, json!({ "count": 2 }));
}

#[test]
fn changes_are_drawn_together() {
    let baton = builder("").start();
    let mut watcher = Watcher::with(user(baton.public, "w", 1), "r");
    watcher.hear_of(["w"]);
    watcher.events.clear();
    let mut members = [1, 2].map(|worker| user(baton.public, &format!("u{worker}"), worker));
    let begin = Instant::now();
    let mut turns = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        for client in &mut members {
            client.join("r");
            client.ok(json!({ "leave": "r" }));
        }
        turns += 1;
    }
    members[0].join("r");
    watcher.hear_of(["u1", "w"]);
    watcher.hear_until(|list| list.count == 2);
    let seconds = begin.elapsed().as_secs_f64();
    let events = watcher.events.len();
    assert!(
        turns > 20 && events as f64 <= seconds + 2.0,
        "{events} in {seconds}: {turns}"
    );
    // Who came and went at once was never there.
    let mut brief = user(baton.public, "brief", 2);
    let mut last = user(baton.public, "last", 2);
    brief.join("r");
    brief.ok(json!({ "leave": "r" }));
    last.join("r");
    watcher.hear_of(["u1", "last", "w"]);
    assert!(!watcher.named().0.contains("brief"));
}

/// The process that dies is at a step of telling, or of being told.
#[test]
fn a_change_is_told_once_whoever_dies() {
    let faults = Faults::new();
    let baton = faults.builder().start();
    let mut watchers =
        [1, 2].map(|worker| Watcher::with(Client::on_worker(baton.public, worker), "r"));
    let cids: Vec<String> = watchers
        .iter()
        .map(|watcher| watcher.client.cid().to_owned())
        .collect();
    let hear = |watchers: &mut [Watcher], more: Option<&str>| {
        for watcher in watchers {
            watcher.hear_of(cids.iter().map(String::as_str).chain(more));
            assert!(watcher.events.iter().all(|event| event["users"].is_null()));
        }
    };
    hear(&mut watchers, None);
    for point in [
        "master:presence",
        "master:presence-told",
        "master:append",
        "worker:members",
        "worker:fan-out",
        "worker:write",
        "worker:written",
    ] {
        for passes in [1, 2] {
            let mut late = Client::connect(baton.public);
            let cid = late.cid().to_owned();
            faults.arm(point, passes);
            late.join("r");
            hear(&mut watchers, Some(&cid));
            drop(late);
            hear(&mut watchers, None);
            faults.disarm(point);
        }
    }
}

/// The master's brain dies when it has given connections to a new worker, and the next one gives them
/// again: both come before the worker has told who they are.
#[test]
fn who_is_given_twice_neither_leaves_nor_joins() {
    let faults = Faults::new();
    let baton = faults.builder().workers(1).start();
    let mut watcher = Watcher::join(baton.public, "r");
    watcher.hear_of([watcher.client.cid().to_owned().as_str()]);
    let mut late = Client::connect(baton.public);
    late.join("r");

    faults.arm_as("worker:receive", "1 stop");
    let reload = baton.command(&["reload"]).spawn().expect("it can be run");
    faults.wait_for("worker:receive");
    let receiver = baton.stopped();
    process::kill(baton.status().master_brain_pid);
    baton.wait_for_log("master", "taking over");
    // It has come round, and so given what its predecessor gave.
    baton.status();
    // Once the worker has said that it has them, they are given up where they were.
    faults.arm_as("worker:ack", "1 stop");
    process::go_on(receiver);
    faults.wait_for("worker:ack");
    eventually("the old one has left", || {
        // Whoever asks wakes the master.
        let status = baton.status();
        status.workers.iter().all(|worker| worker.state != "moving")
    });
    process::go_on(receiver);
    let reloaded = reload.wait_with_output().expect("a child of ours");
    assert!(reloaded.status.success());

    let cids = [&watcher.client, &late].map(|client| client.cid().to_owned());
    let mut next = Watcher::join(baton.public, "r");
    let last = next.client.cid().to_owned();
    for watcher in [&mut watcher, &mut next] {
        watcher.hear_of(cids.iter().chain([&last]).map(String::as_str));
        assert!(watcher.named().1.is_empty(), "{:?}", watcher.events);
    }
}

/// In the turn in which a worker is given the first member of a room, another one of its connections
/// wants to watch that room: the master has not been told yet that it is there.
#[test]
fn who_watches_a_room_that_has_just_moved_here() {
    let baton = builder("").start();
    let mut moves = Client::on_worker(baton.public, 2);
    moves.join("r");
    let mut stays = Client::on_worker(baton.public, 1);
    let brain = baton.status().worker(1).pid;
    process::stop(brain);
    let scale = baton
        .command(&["scale", "1"])
        .spawn()
        .expect("it can be run");
    baton.status_when("it has been given", |status| {
        status
            .workers
            .iter()
            .any(|row| row.worker == 2 && row.state == "moving" && row.connections == 0)
    });
    // Behind what the master has sent.
    stays.tell(json!({ "id": 1, "join": "r", "presence": true }));
    process::go_on(brain);
    assert!(
        scale
            .wait_with_output()
            .expect("a child of ours")
            .status
            .success()
    );
    assert_eq!(stays.reply(&json!(1))["ok"]["count"], 2);
    let both = [stays.cid().to_owned(), moves.cid().to_owned()];
    let mut list = List::default();
    while list.users.as_ref().map(BTreeSet::len) != Some(2) {
        list.apply(&stays.event())
            .expect("a list, and what changes");
    }
    assert_eq!(list.users, Some(both.into_iter().collect()));
    // Whoever waits for a list cannot move.
    baton.expect(&["reload"], 0);
    assert_eq!(moves.ok(json!({ "who": "r" }))["count"], 2);
}

/// It takes nothing for some seconds, while others come and go and much is said: what it is told then
/// is no more than what is so.
#[test]
fn who_reads_slowly_is_told_of_several_changes_as_one() {
    let baton = builder("").start();
    let mut slow = Watcher::with(user(baton.public, "slow", 1), "r");
    let mut fast = Watcher::with(user(baton.public, "fast", 1), "r");
    slow.hear_of(["slow", "fast"]);
    fast.hear_of(["slow", "fast"]);
    let mut speaker = Client::on_worker(baton.public, 2);
    slow.client.join("loud");
    let data = ".".repeat(60_000);
    for _ in 0..200 {
        speaker.publish("loud", json!(data));
    }
    slow.events.clear();
    fast.events.clear();
    for turn in 0..4 {
        let name = format!("u{turn}");
        let mut passing = user(baton.public, &name, 2);
        passing.join("r");
        fast.hear_of(["slow", "fast", &name]);
        drop(passing);
        fast.hear_of(["slow", "fast"]);
    }
    let mut last = user(baton.public, "last", 2);
    last.join("r");
    fast.hear_of(["slow", "fast", "last"]);
    fast.hear_until(|list| list.count == 3);
    let mut events = 0;
    loop {
        let event = slow.client.event();
        if event["room"] != "r" {
            continue;
        }
        events += 1;
        slow.list.apply(&event).unwrap();
        if slow.list == fast.list {
            break;
        }
    }
    assert!(
        events < fast.events.len() / 2,
        "{events} of {}",
        fast.events.len()
    );
}

/// It takes nothing, and is told of hundreds who come and of hundreds who go: the messages that wait for
/// it are not dropped for that.
#[test]
fn changes_are_not_held_against_who_reads_slowly() {
    let baton = builder("[rooms]\nslow_bytes = \"192 KiB\"\n").start();
    let mut fast = Watcher::with(user(baton.public, "fast", 1), "r");
    let mut slow = Watcher::with(user(baton.public, "slow", 1), "r");
    slow.client.join("loud");
    let mut speaker = Client::on_worker(baton.public, 2);
    let data = ".".repeat(20_000);
    for _ in 0..600 {
        speaker.publish("loud", json!(data));
    }
    let names = (0..500).map(|number| format!("{number:0>190}"));
    let mut guests: Vec<Client> = names.map(|name| user(baton.public, &name, 2)).collect();
    for (verb, count) in [("join", 502), ("leave", 2)] {
        for guest in &mut guests {
            guest.ok(json!({ verb: "r" }));
        }
        fast.hear_until(|list| list.count == count);
    }
    let last = speaker.publish("loud", json!("last"));
    let mut behind_the_gap = 0;
    loop {
        let event = slow.client.event();
        if event["gap"].is_object() {
            behind_the_gap = 0;
        } else if event["room"] == "loud" {
            behind_the_gap += 1;
            if Position::parse(&event["pos"]) == last {
                break;
            }
        }
    }
    // Half of what may wait is kept.
    assert!(behind_the_gap > 4, "{behind_the_gap}");
}

/// 10,000 times somebody comes or goes, in one room, while brains of all kinds die and workers are
/// replaced.
#[test]
fn churn_of_ten_thousand() {
    const CONNECTIONS: usize = 150;
    let baton = builder("").start();
    // Two of three are a user's, who has another.
    let user_of = |n: usize| (!n.is_multiple_of(3)).then(|| format!("u{}", n / 6));
    let connect = |n: usize| match user_of(n) {
        Some(user) => Client::with_token(baton.public, &token(&user)),
        None => Client::connect(baton.public),
    };
    let mut clients: Vec<(Client, bool)> = (0..CONNECTIONS).map(|n| (connect(n), false)).collect();
    let mut watchers =
        [1, 2].map(|worker| Watcher::with(user(baton.public, &format!("w{worker}"), worker), "r"));
    let is_over = AtomicBool::new(false);
    let mut random = Random::of(7, 1);
    std::thread::scope(|scope| {
        let shaker = scope.spawn(|| {
            let mut turn = 0;
            while !is_over.load(Ordering::Relaxed) {
                let status = baton.status();
                match turn % 4 {
                    0 | 1 => status.brains().into_iter().for_each(process::kill),
                    2 => process::kill(status.master_brain_pid),
                    _ => _ = baton.run(&["reload"]),
                }
                baton.status_when("all are ready", |status| status.ready().len() == 2);
                turn += 1;
            }
            turn
        });
        for turn in 0..10_000 {
            let n = random.between(0, CONNECTIONS - 1);
            let (client, is_in) = &mut clients[n];
            *is_in = !*is_in;
            match *is_in {
                true => client.tell(json!({ "join": "r" })),
                false if random.percent(2) => *client = connect(n),
                false => client.tell(json!({ "leave": "r" })),
            }
            // As far as it is done before the next.
            if turn % 100 == 0 {
                client.ok(json!({ "ping": true }));
            }
        }
        for (client, _) in &mut clients {
            client.ok(json!({ "ping": true }));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(shaker.join().expect("it does not panic") > 3);
    });
    let in_room = || clients.iter().enumerate().filter(|(_, (_, is_in))| *is_in);
    let mut truth: BTreeSet<String> = in_room()
        .map(|(n, (client, _))| user_of(n).unwrap_or_else(|| client.cid().to_owned()))
        .collect();
    truth.extend(["w1", "w2"].map(str::to_owned));
    let count = in_room().count() as u64 + 2;
    for watcher in &mut watchers {
        watcher.hear_until(|list| list.users.as_ref() == Some(&truth) && list.count == count);
    }
    let mut asks = Client::connect(baton.public);
    let said = asks.ok(json!({ "who": "r", "limit": 1_000 }));
    assert_eq!(
        names(&said["users"]),
        truth.iter().map(String::as_str).collect()
    );
}
