//! Planned moves: reload and scale take every live connection along, in whatever state it is, and
//! close none; if a move fails, everybody is served on.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::thread;

use harness::http::{self, Client, Who};
use harness::process::{self, Signal};
use harness::socket::{self, Options};
use harness::status::{Status, Worker};
use harness::traffic::Traffic;
use harness::wait::{self, DEADLINE};
use harness::websocket::{Raw, frame, handshake};
use harness::{Baton, eventually, rooms};
use serde_json::json;

/// Idle connections, which ask now and then.
struct Crowd(Vec<Client>);

impl Crowd {
    #[track_caller]
    fn gather(baton: &Baton, size: usize) -> Crowd {
        let connect = |_| Client::connect(baton.public);
        let mut crowd = Crowd((0..size).map(connect).collect());
        crowd.ask();
        crowd
    }

    /// Every one is served; by whom.
    #[track_caller]
    fn ask(&mut self) -> Vec<Who> {
        let ask = |client: &mut Client| http::ask_whoami(client).expect("it is still served");
        self.0.iter_mut().map(ask).collect()
    }

    /// How many each worker serves.
    #[track_caller]
    fn by_worker(&mut self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for who in self.ask() {
            *counts.entry(who.worker).or_default() += 1;
        }
        counts
    }
}

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

fn pids(status: &Status) -> Vec<i32> {
    status.ready().iter().map(|worker| worker.pid).collect()
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

/// A reload that stands still in the middle of its first move.
struct Middle {
    command: Child,
    /// Stopped.
    old: Worker,
    new: Worker,
}

impl Middle {
    /// The old brain is stopped while it gives its connections away, one after the other.
    fn of(baton: &Baton) -> Middle {
        for _ in 0..20 {
            let mut command = baton
                .command(&["reload"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut middle = None;
            wait::until("it is in the middle, or over", DEADLINE, || {
                let status = baton.status();
                let rows = |state: &str| {
                    let mut rows = status.workers.iter();
                    rows.find(|w| w.worker == 1 && w.state == state).cloned()
                };
                if let (Some(old), Some(new)) = (rows("moving"), rows("ready"))
                    && old.connections > 20
                    && new.connections > 0
                {
                    middle = Some((old, new));
                    return Some(());
                }
                command.try_wait().unwrap().map(|_| ())
            });
            let Some((old, new)) = middle else {
                continue;
            };
            process::signal(old.pid, Signal::SIGSTOP);
            eventually("it is stopped, or gone", || {
                process::state(old.pid) == Some('T') || !process::is_alive(old.pid)
            });
            // One may still be on its way.
            let status = baton.status();
            let row = |pid| status.workers.iter().find(|w| w.pid == pid).cloned();
            if let (Some(old), Some(new)) = (row(old.pid), row(new.pid))
                && old.connections > 2
            {
                return Middle { command, old, new };
            }
            process::go_on(old.pid);
            command.wait().unwrap();
        }
        panic!("20 reloads were too fast");
    }

    /// Its exit status, and what it says.
    fn end(self) -> (Option<i32>, String) {
        let output = self.command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }
}

/// One at a time moves, and there are many.
fn slow(timeouts: &str, crowd: usize) -> (Baton, Crowd) {
    let config = format!("[limits]\nwindow = 1\n[timeouts]\n{timeouts}\n");
    let baton = Baton::builder().workers(1).config(&config).start();
    let crowd = Crowd::gather(&baton, crowd);
    (baton, crowd)
}

#[test]
fn a_reload_that_stands_still_goes_on() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    process::go_on(middle.old.pid);
    assert_eq!(middle.end().0, Some(0));
    crowd.ask();
}

/// Guard and brain: what it had taken is lost, which nobody can help. The others stay.
#[test]
fn a_new_worker_that_dies_in_the_middle_fails_the_reload() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    let (old, new) = (middle.old.clone(), middle.new.clone());
    process::stop(new.guard_pid);
    process::kill(new.pid);
    process::kill(new.guard_pid);
    process::go_on(old.pid);
    let (code, said) = middle.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("worker-1 failed"), "{said}");
    let status = baton.status_when("the old one serves", |status| status.ready().len() == 1);
    assert_eq!(pids(&status), [old.pid]);
    let lost = new.connections;
    let served = crowd.0.iter_mut().filter_map(|c| http::ask_whoami(c).ok());
    let served: Vec<Who> = served.collect();
    assert!(served.iter().all(|who| who.pid == old.pid));
    assert!((600 - lost).abs_diff(served.len() as u64) <= 2);
    baton.expect(&["reload"], 0);
}

#[test]
fn a_new_worker_that_hangs_in_the_middle_is_helped_and_goes_on() {
    let (baton, mut crowd) = slow("hung = \"1s\"\nmove = \"30s\"", 600);
    let middle = Middle::of(&baton);
    let new = middle.new.clone();
    process::stop(new.pid);
    process::go_on(middle.old.pid);
    assert_eq!(middle.end().0, Some(0));
    assert!(!process::is_alive(new.pid));
    crowd.ask();
}

#[test]
fn a_new_worker_that_hangs_for_too_long_gives_back_what_it_has() {
    let (baton, mut crowd) = slow("hung = \"5s\"\nmove = \"3s\"", 200);
    let middle = Middle::of(&baton);
    let (old, new) = (middle.old.clone(), middle.new.clone());
    process::stop(new.pid);
    process::go_on(old.pid);
    let (code, said) = middle.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not moved"), "{said}");
    let status = baton.status_when("the old one is alone", |status| status.workers.len() == 1);
    assert_eq!(pids(&status), [old.pid]);
    assert!(crowd.ask().iter().all(|who| who.pid == old.pid));
    eventually("the new one is gone", || !process::is_alive(new.guard_pid));
}

#[test]
fn a_masters_brain_that_dies_in_the_middle_is_replaced_and_the_command_says_the_truth() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    let brain = baton.status().master_brain_pid;
    process::kill(brain);
    baton.status_when("the next one is there", |status| {
        status.master_brain_pid != brain
    });
    process::go_on(middle.old.pid);
    let (old, (code, said)) = (middle.old.clone(), middle.end());
    assert_eq!(code, Some(0), "{said}");
    let status = baton.status();
    assert_eq!(status.workers.len(), 1);
    assert_ne!(pids(&status), [old.pid]);
    crowd.ask();
}

#[test]
fn scaling_ends_as_it_says_though_the_masters_brain_dies() {
    let config = "[limits]\nwindow = 1\nrebalance = 100\n";
    let baton = Baton::builder().workers(1).config(config).start();
    let mut crowd = Crowd::gather(&baton, 100);
    for (workers, each) in [("4", 25), ("1", 100)] {
        let brain = baton.status().master_brain_pid;
        let mut command = baton.command(&["scale", workers]).spawn().unwrap();
        wait::until("connections move, or have moved", DEADLINE, || {
            let status = baton.status();
            let counts: Vec<u64> = status.workers.iter().map(|w| w.connections).collect();
            let move_now = counts.len() == 4 && counts.iter().all(|n| (1..100).contains(n));
            let ended = command.try_wait().unwrap().is_some();
            (move_now || ended).then_some(())
        });
        process::kill(brain);
        let status = wait::until("it ends", DEADLINE, || command.try_wait().unwrap());
        assert!(status.success());
        let counts = crowd.by_worker();
        assert_eq!(counts.len().to_string(), workers);
        let is_even = |count: &usize| count.abs_diff(each) * 10 <= each;
        assert!(counts.values().all(is_even), "{counts:?}");
    }
}

#[test]
fn an_old_brain_that_dies_in_the_middle_goes_on() {
    let (baton, mut crowd) = slow("", 600);
    let middle = Middle::of(&baton);
    process::kill(middle.old.pid);
    assert_eq!(middle.end().0, Some(0));
    crowd.ask();
}

#[test]
fn stop_wins_over_a_move() {
    let (baton, crowd) = slow("stop = \"2s\"", 600);
    let middle = Middle::of(&baton);
    process::go_on(middle.old.pid);
    baton.expect(&["stop"], 0);
    assert_eq!(baton.processes(), [] as [i32; 0]);
    middle.end();
    drop(crowd);
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
