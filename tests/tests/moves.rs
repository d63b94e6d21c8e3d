//! Planned moves: reload and scale take every live connection along, in whatever state it is, and
//! close none. (What becomes of a move that fails half way is `half_moves`.)

use std::thread;

use harness::crowd::Crowd;
use harness::http::Client;
use harness::process::{self, Signal};
use harness::socket::{self, Options};
use harness::traffic::Traffic;
use harness::wait::{self, DEADLINE};
use harness::websocket::{Raw, frame, handshake};
use harness::{Baton, rooms};
use serde_json::json;

/// A connection in some state, and what must come of it after the move.
struct Case {
    what: &'static str,
    then: Box<dyn FnOnce()>,
}

fn case(what: &'static str, then: impl FnOnce() + 'static) -> Case {
    Case {
        what,
        then: Box::new(then),
    }
}

/// One connection in each state that a move can meet.
fn cases(baton: &Baton) -> Vec<Case> {
    let to = baton.public;
    let payload: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let mut cases = Vec::new();

    for cut in [1, 3, 9, 11, 70_000] {
        let mut raw = Raw::connect(to, "/echo");
        let bytes = frame(0x82, &payload);
        raw.send(&bytes[..cut]).unwrap();
        let payload = payload.clone();
        cases.push(case("an echo in the middle of a frame", move || {
            raw.send(&bytes[cut..]).unwrap();
            assert!(raw.message() == (2, payload));
        }));
    }

    let mut raw = Raw::connect(to, "/echo");
    // The first of the two bytes of é, at the end of a fragment.
    raw.send(&frame(0x01, b"caf\xc3")).unwrap();
    cases.push(case("a text in the middle of a character", move || {
        raw.send(&frame(0x80, b"\xa9")).unwrap();
        assert_eq!(raw.message(), (1, "café".into()));
    }));

    let mut raw = Raw::connect(to, "/echo");
    raw.send(&[0x81, 0x00]).unwrap();
    cases.push(case("a WebSocket that is being closed", move || {
        assert_eq!(raw.close_code(), 1002);
    }));

    let mut client = Client::connect(to);
    let shake = handshake(to, "/echo");
    let (now, later) = shake.split_at(40);
    let later = later.to_owned();
    client.send(now).unwrap();
    cases.push(case("a handshake half read", move || {
        client.send(later).unwrap();
        assert_eq!(client.head_response().unwrap().status, 101);
    }));

    let mut client = Client::connect(to);
    client.get("/whoami");
    cases.push(case("an HTTP connection between requests", move || {
        assert_eq!(client.get("/whoami").status, 200);
    }));

    let mut client = Client::connect(to);
    client
        .send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello")
        .unwrap();
    cases.push(case("a request in mid-body", move || {
        client
            .send("worldGET /whoami HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
        assert_eq!(client.response().unwrap().text(), "helloworld");
        assert_eq!(client.response().unwrap().status, 200);
    }));

    let mut client = Client::connect(to);
    client
        .send(
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n5\r\nwo",
        )
        .unwrap();
    cases.push(case("a request in the middle of a chunk", move || {
        client.send("rld\r\n0\r\n\r\n").unwrap();
        assert_eq!(client.response().unwrap().text(), "helloworld");
    }));

    // The answers are more than the sockets hold, and nobody reads them yet.
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let mut client = Client::over(socket::connect_with(to, options).unwrap());
    let body = "x".repeat(1 << 20);
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut writer = client.stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        for _ in 0..8 {
            std::io::Write::write_all(&mut writer, request.as_bytes()).unwrap();
        }
    });
    cases.push(case("an answer half written", move || {
        for _ in 0..8 {
            assert!(client.response().unwrap().text() == body);
        }
        writing.join().unwrap();
    }));

    let mut admin = Client::connect(baton.admin);
    assert_eq!(admin.get("/whoami").status, 200);
    cases.push(case("an operator's connection", move || {
        assert_eq!(admin.get("/whoami").status, 200);
    }));

    let mut member = rooms::Client::connect(to);
    let mut sender = rooms::Client::connect(to);
    let joined = member.join("cases");
    for number in 0..50 {
        sender.tell(json!({ "send": "cases", "data": number }));
    }
    cases.push(case("a member and a sender of a room", move || {
        for number in 50..100 {
            sender.tell(json!({ "send": "cases", "data": number }));
        }
        for number in 0..100 {
            let message = member.message();
            assert_eq!(message["data"], number);
            let position = rooms::Position::parse(&message["pos"]);
            assert_eq!(position.offset, joined.offset + 1 + number);
        }
        let who = member.ok(json!({ "who": "cases" }));
        assert_eq!(who["count"], 1);
    }));
    cases
}

/// Connections of all kinds live through it, each going on at the byte.
fn all_live_through(baton: &Baton, what: impl FnOnce(&Baton)) {
    let cases = cases(baton);
    what(baton);
    for case in cases {
        println!("{}", case.what);
        (case.then)();
    }
}

#[test]
fn every_kind_of_connection_lives_through_a_reload() {
    let baton = Baton::started();
    let before = baton.status();
    all_live_through(&baton, |baton| {
        baton.expect(&["reload"], 0);
    });
    let after = baton.status();
    assert!(before.serving().is_disjoint(&after.serving()));
}

#[test]
fn every_kind_of_connection_lives_through_hup() {
    let baton = Baton::started();
    let before = baton.status();
    all_live_through(&baton, |baton| {
        process::signal(before.master_pid, Signal::SIGHUP);
        baton.status_when("all workers are new", |status| {
            status.workers.len() == 2 && status.serving().is_disjoint(&before.serving())
        });
    });
}

#[test]
fn every_kind_of_connection_lives_through_fewer_workers() {
    let baton = Baton::builder().workers(3).start();
    all_live_through(&baton, |baton| {
        baton.expect(&["scale", "1"], 0);
        assert_eq!(baton.status().workers.len(), 1);
    });
}

#[test]
fn every_kind_of_connection_lives_through_more_workers() {
    let baton = Baton::builder().workers(1).start();
    all_live_through(&baton, |baton| {
        baton.expect(&["scale", "4"], 0);
    });
}

#[test]
fn every_kind_of_connection_lives_through_ttin_and_ttou() {
    let baton = Baton::builder().workers(1).start();
    let master = baton.status().master_pid;
    all_live_through(&baton, |baton| {
        for (signal, workers) in [(Signal::SIGTTIN, 2), (Signal::SIGTTOU, 1)] {
            process::signal(master, signal);
            baton.status_when("so many workers", |status| {
                status.workers.len() == workers && status.ready().len() == workers
            });
        }
    });
}

#[test]
fn no_client_notices_one_reload_after_the_other() {
    let baton = Baton::started();
    let traffic = Traffic::start(baton.public);
    for _ in 0..10 {
        traffic.go_on(1);
        baton.expect(&["reload"], 0);
    }
    traffic.go_on(2);
    traffic.stop();
    baton.status_when("no connection is counted any more", |status| {
        status.workers.iter().all(|worker| worker.connections == 0)
    });
}

#[test]
fn no_client_notices_workers_that_come_and_go() {
    let baton = Baton::builder().workers(1).start();
    let traffic = Traffic::start(baton.public);
    for workers in ["3", "2", "4", "1", "2"] {
        traffic.go_on(1);
        baton.expect(&["scale", workers], 0);
    }
    traffic.go_on(2);
    traffic.stop();
}

#[test]
fn more_workers_get_their_share_of_the_connections() {
    for policy in ["round-robin", "least-connections", "two-choices"] {
        let config = format!("policy = \"{policy}\"\n");
        let baton = Baton::builder().workers(1).config(&config).start();
        let mut crowd = Crowd::gather(&baton, 200);
        baton.expect(&["scale", "4"], 0);
        let counts = crowd.by_worker();
        assert_eq!(counts.len(), 4, "{policy}");
        assert!(
            counts.values().all(|count| (45..=55).contains(count)),
            "{policy}: {counts:?}"
        );
        let moved = |baton: &Baton| baton.status().json["moved"].as_u64().expect("a number");
        assert_eq!(moved(&baton), 200 - counts[&1] as u64);
        let before = moved(&baton);
        baton.expect(&["scale", "2"], 0);
        let gone = (counts[&3] + counts[&4]) as u64;
        let counts = crowd.by_worker();
        assert!(counts.values().all(|count| *count == 100), "{counts:?}");
        assert_eq!(moved(&baton), before + gone);
    }
}

#[test]
fn with_ip_hash_only_those_move_that_a_new_worker_wins() {
    let baton = Baton::builder()
        .workers(2)
        .config("policy = \"ip-hash\"\n")
        .start();
    let connect = |number| {
        let options = Options {
            from: Some(socket::loopback(number)),
            ..Options::default()
        };
        Client::over(socket::connect_with(baton.public, options).unwrap())
    };
    let mut crowd = Crowd((0..120).map(connect).collect());
    let before = crowd.ask();
    baton.expect(&["scale", "3"], 0);
    let after = crowd.ask();
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
    let moved: Vec<_> = moved.collect();
    assert!((20..60).contains(&moved.len()), "{}", moved.len());
    assert!(moved.iter().all(|(_, after)| after.worker == 3));
    baton.expect(&["scale", "2"], 0);
    assert_eq!(crowd.ask(), before);
}

#[test]
fn who_has_no_place_to_go_is_not_scaled_away() {
    let baton = Baton::builder()
        .config("[limits]\nper_worker = 10\nwindow = 10\n")
        .start();
    let mut crowd = Crowd::gather(&baton, 16);
    let before = crowd.ask();
    let said = baton.expect(&["scale", "1"], 1);
    assert!(said.contains("no room"), "{said}");
    assert_eq!(crowd.ask(), before);
    assert_eq!(baton.status().ready().len(), 2);
    let mut crowd = Crowd(crowd.0.into_iter().take(8).collect());
    baton.status_when("the others are gone", |status| {
        status.workers.iter().map(|w| w.connections).sum::<u64>() == 8
    });
    baton.expect(&["scale", "1"], 0);
    crowd.ask();
}

/// Kills the brain of a worker, again and again, until it gives up.
fn wear_out(baton: &Baton, worker: u64) {
    let guard = baton.status().worker(worker).guard_pid;
    let mut last = 0;
    wait::until("its brains are worn out", DEADLINE, || {
        // One that has just been killed may be seen once more.
        let brain = process::children(guard)
            .into_iter()
            .find(|pid| *pid != last);
        if let Some(brain) = brain {
            last = brain;
            process::kill(brain);
        }
        let log = baton.log(&format!("worker-{worker}"));
        log.contains("giving all connections away").then_some(())
    });
    baton.wait_for_log("master", "its brains died, one after the other");
}

#[test]
fn a_worker_whose_brains_all_die_is_given_up_and_its_connections_go_on_elsewhere() {
    let baton = Baton::builder()
        .config("[limits]\nshort_lives = 3\n")
        .start();
    let mut crowd = Crowd::gather(&baton, 100);
    assert_eq!(crowd.by_worker().len(), 2);
    all_live_through(&baton, |baton| wear_out(baton, 1));
    baton.wait_for_log("master", "worker-1 is given up");
    let status = baton.status_when("it is given up", |status| {
        status.workers.len() == 2 && status.workers[0].state == "given-up"
    });
    assert_eq!(status.workers[0].pid, 0);
    assert_eq!(
        crowd.by_worker().into_iter().collect::<Vec<_>>(),
        [(2, 100)]
    );
    // A new brain of the master does not change that, a reload does.
    process::kill(status.master_brain_pid);
    baton.status_when("the next one is there", |next| {
        next.master_brain_pid != status.master_brain_pid && next.workers[0].state == "given-up"
    });
    baton.expect(&["reload"], 0);
    assert_eq!(baton.status().ready().len(), 2);
    crowd.ask();
}

#[test]
fn the_only_worker_whose_brains_all_die_is_replaced() {
    let baton = Baton::builder()
        .workers(1)
        .config("[limits]\nshort_lives = 3\n")
        .start();
    let mut crowd = Crowd::gather(&baton, 50);
    let before = baton.status().worker(1).guard_pid;
    wear_out(&baton, 1);
    let status = baton.status_when("another serves", |status| {
        status.workers.len() == 1 && status.ready().len() == 1
    });
    assert_ne!(status.worker(1).guard_pid, before);
    let pid = status.worker(1).pid;
    assert!(crowd.ask().iter().all(|who| who.pid == pid));
}
